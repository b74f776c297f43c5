"""Adam in one launch: the formula's values on every device, and nothing that waits for the host."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import optim
from gpuprop.backend.arrays import to_device, to_host

SIZES = (5, 3, 70, 2, 1200)


def parameters(dtype=np.float64, sizes=SIZES):
    rng = np.random.default_rng(0)
    return [gp.Parameter(to_device(rng.standard_normal(n).astype(dtype))) for n in sizes]


def set_gradients(params, step, missing=()):
    rng = np.random.default_rng(step + 1)
    for k, p in enumerate(params):
        grad = rng.standard_normal(p.shape).astype(p.dtype)
        p.grad = None if k in missing else to_device(grad)


def run(make, dtype=np.float64, *, missing=(), max_norm=None, groups=False, **options):
    params = parameters(dtype)
    given = [{"params": params[:2], "lr": 0.3}, {"params": params[2:]}] if groups else params
    optimizer = make(given, **options)
    norms = []
    for step in range(3):
        set_gradients(params, step, missing)
        if max_norm is not None:
            norms.append(optimizer.clip_grad_norm(max_norm).item())
        optimizer.step()
    assert optimizer.steps == 3
    return [p.numpy().astype(np.float64) for p in params] + [np.array(norms)]


CASES = {
    "adam": (optim.Adam, {"lr": 0.1}),
    "decay": (optim.Adam, {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.1}),
    "adamw": (optim.AdamW, {"lr": 0.1, "weight_decay": 0.2, "max_norm": 2.0}),
    "groups": (optim.AdamW, {"lr": 0.1, "groups": True, "max_norm": 3.0}),
    "spans": (optim.AdamW, {"lr": 0.1, "missing": (1, 3), "max_norm": 1.0}),
    "small": (optim.Adam, {"lr": 0.1, "max_norm": 1e6}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_gives_the_formula(device, case):
    make, options = CASES[case]
    got = run(make, **options)
    with gp.use_device("cpu"):
        expected = run(make, **options)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_float32_is_close_to_float64(device):
    options = {"lr": 0.1, "weight_decay": 0.2, "max_norm": 2.0}
    got = run(optim.AdamW, np.float32, **options)
    with gp.use_device("cpu"):
        expected = run(optim.AdamW, **options)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_a_skipped_step_changes_and_counts_nothing(device):
    params = parameters()
    optimizer = optim.Adam(params, lr=0.1)
    set_gradients(params, 0)
    optimizer.step()
    before, moments = [p.numpy().copy() for p in params], to_host(optimizer.state[0]["v"]).copy()
    for skip, steps in ((True, 1), (False, 2), (None, 3)):
        optimizer.skip = None if skip is None else to_device(np.array(skip))
        optimizer.step()
        assert optimizer.steps == steps
        same = all(np.array_equal(p.numpy(), old) for p, old in zip(params, before, strict=True))
        assert same == (skip is True)
        assert np.array_equal(to_host(optimizer.state[0]["v"]), moments) == (skip is True)


@pytest.mark.parametrize("make", [optim.Adam, optim.SGD])
def test_a_scale_of_the_gradients_is_taken_out(device, make):
    results = []
    for scale in (None, 1024.0):
        params = parameters()
        optimizer = make(params, lr=0.1)
        set_gradients(params, 0)
        if scale is not None:
            optimizer.grad_scale = to_device(np.array(scale, np.float32))
            for p in params:
                p.leaf.grad *= scale
        norm = optimizer.clip_grad_norm(2.0).item()
        optimizer.step()
        results.append([*(p.numpy() for p in params), norm])
    for plain, scaled in zip(*results, strict=True):
        np.testing.assert_allclose(scaled, plain, rtol=1e-12)


def test_what_changes_from_step_to_step_is_read_on_the_device(device):
    if device == "cpu":
        pytest.skip("no kernels")
    params = parameters()
    optimizer = optim.Adam(params, lr=0.1)
    set_gradients(params, 0)
    optimizer.step()
    options = optimizer.fused().options[0]
    assert to_host(options).tolist() == [0.1, 0.9, 0.999, 1e-8, 0.0]
    options[0] = 0.0  # as a captured step would see it: the host's own number is still 0.1
    before = params[4].numpy().copy()
    optimizer.step()
    np.testing.assert_array_equal(params[4].numpy(), before)
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.refresh()
    assert to_host(options)[0] == 0.2


def test_a_gradient_that_is_not_finite_shows(device):
    params = parameters(np.float32)
    optimizer = optim.Adam(params, lr=0.1)

    def squares():
        return to_host(optim.norm.joint_squares(optimizer.arenas))[0], *to_host(optimizer.gradient_norm())

    set_gradients(params, 0)
    assert all(np.isfinite(squares()))
    params[4].leaf.grad[1199] = np.nan
    assert not any(np.isfinite(squares()))
    assert np.isnan(optimizer.clip_grad_norm(1.0).item())
    params[4].leaf.grad[1199] = 1e30  # its square is infinite
    assert not any(np.isfinite(squares()))


def test_a_state_goes_from_one_device_to_the_other(device):
    params = parameters()
    optimizer = optim.AdamW(params, lr=0.1)
    set_gradients(params, 0)
    optimizer.step()
    saved = optimizer.state_dict()
    assert saved["steps"] == 1
    with gp.use_device("cpu"):
        others = parameters()
        other = optim.AdamW(others, lr=0.1)
        other.load_state_dict(saved)
        for p, q in zip(others, params, strict=True):
            p.data[...] = q.numpy()
        set_gradients(others, 1)
        other.step()
    set_gradients(params, 1)
    optimizer.step()
    for p, q in zip(others, params, strict=True):
        np.testing.assert_allclose(q.numpy(), p.numpy(), rtol=1e-12)
