"""What the tests of models share: float64 models, random texts, and comparison of two passes."""

import numpy as np

import gpuprop as gp
from gpuprop.backend.arrays import to_host
from gpuprop.tensors import Parameter


def as_float64(model):
    """The same model with float64 parameters, none of them at a value that backward treats as special."""
    rng = np.random.default_rng(1)
    made = {}  # a parameter in two places (tied) stays one
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Parameter):
                if id(value) not in made:
                    stored = to_host(value.data).astype(np.float64)
                    stored += 0.05 * rng.standard_normal(stored.shape) * (stored != 0)
                    made[id(value)] = value, Parameter(stored, value.order)
                setattr(module, name, made[id(value)][1])
    return model.to(gp.get_device())


def random_texts(lengths, vocabulary_size, seed=0, width=None, first=4):
    """ids (B, L) and mask (B, L) of texts of the given lengths, padded with 0 to `width`."""
    rng = np.random.default_rng(seed)
    width = width or max(lengths)
    mask = np.arange(width) < np.array(lengths)[:, None]
    draw = rng.integers(first, vocabulary_size, (len(lengths), max(lengths)))
    ids = np.zeros((len(lengths), width), dtype=np.int64)
    ids[:, : max(lengths)] = draw
    return ids * mask, mask


def widen(ids, mask, extra):
    """The same texts with `extra` more columns of padding."""
    return np.pad(ids, ((0, 0), (0, extra))), np.pad(mask, ((0, 0), (0, extra)))


def gradients(model, loss):
    """Name -> gradient on the host, after a backward pass of `loss` alone."""
    model.zero_grad()
    loss.backward()
    return {name: to_host(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours, theirs, tolerance):
    """Equal to within `tolerance` of the largest value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    scale = max(float(np.abs(theirs).max(initial=0.0)), 1e-30)
    assert float(np.abs(ours - theirs).max(initial=0.0)) <= tolerance * scale
