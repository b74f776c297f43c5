"""The public face with random layers, shapes, types and names: what the formula says, or an error that
explains itself; never another type, never a crash."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop import nn
from gpuprop.backend.device import Device
from gpuprop.models import FeedForwardClassifier, Seq2Seq, TextCNN, Transformer
from gpuprop.text.batches import pair_batches, text_batches

EXPLAINED = (gp.errors.GpupropError, ValueError, TypeError)  # what the docstrings promise for wrong use
FLOATS = ("float16", "float32", "float64")
TOLERANCE = {"float16": 2e-2, "float32": 2e-5, "float64": 1e-12}
quick = settings(max_examples=40)


def typed(module, dtype):
    """The module with its parameters in another type."""
    for p in module.parameters():
        p.data = p.in_memory_order(p.data.astype(dtype))
    return module


def exact(p):
    return p.numpy().astype(np.float64)


def norm_formula(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
    return normal * exact(layer.weight) + exact(layer.bias)


LAYERS = {
    "linear": (
        lambda a, b: nn.Linear(a, b),
        lambda layer, x: x @ exact(layer.weight).T + exact(layer.bias),
    ),
    "relu": (
        lambda a, b: nn.Linear(a, b, activation="relu"),
        lambda layer, x: np.maximum(x @ exact(layer.weight).T + exact(layer.bias), 0),
    ),
    "tanh": (lambda a, b: nn.Tanh(), lambda layer, x: np.tanh(x)),
    "sigmoid": (lambda a, b: nn.Sigmoid(), lambda layer, x: 1 / (1 + np.exp(-x))),
    "norm": (lambda a, b: nn.LayerNorm(a), norm_formula),
    "dropout": (lambda a, b: nn.Dropout(0.5), lambda layer, x: x),
}


@quick
@given(
    names=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 9), min_size=6, max_size=6),
    lead=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    dtype=st.sampled_from(FLOATS),
    wrong=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_stack_of_layers_is_its_formula_in_the_type_of_its_weights(names, sizes, lead, dtype, wrong, seed):
    gp.manual_seed(seed)
    layers, width = [], sizes[0]
    for name, out in zip(names, sizes[1:], strict=False):
        layers.append(LAYERS[name][0](width, out))
        width = out if name in ("linear", "relu") else width
    model = typed(nn.Sequential(*layers), dtype).eval()
    checks_width = any(name in ("linear", "relu", "norm") for name in names)
    x = np.random.default_rng(0).standard_normal((*lead, sizes[0] + wrong)).astype(dtype)
    if wrong and checks_width:
        with pytest.raises(gp.ShapeError, match=str(sizes[0])):
            model(x)
        return
    y = model(gp.tensor(x, requires_grad=True))
    expected = x.astype(np.float64)
    for name, layer in zip(names, layers, strict=True):
        expected = LAYERS[name][1](layer, expected)
    assert y.dtype == dtype
    assert y.shape == expected.shape
    if "norm" not in names or dtype != "float16":  # rounding before a division by a small deviation
        np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=TOLERANCE[dtype] * 10)
    y.sum().backward()
    for p in model.parameters():
        assert p.grad is None or p.grad.shape == p.shape


@quick
@given(
    x_type=st.sampled_from([*FLOATS, "int32", "int64", "uint8", "bool"]),
    weight_type=st.sampled_from(FLOATS),
    layer=st.sampled_from(["linear", "conv", "gru", "lstm"]),
)
def test_features_of_any_type_give_the_type_of_the_weights_or_an_error(x_type, weight_type, layer):
    makers = {
        "linear": lambda: nn.Linear(4, 3),
        "conv": lambda: nn.Conv1d(4, 3, 2),
        "gru": lambda: nn.GRU(4, 3),
        "lstm": lambda: nn.LSTM(4, 3),
    }
    module = typed(makers[layer](), weight_type)
    x = (np.random.default_rng(0).uniform(0, 3, (2, 5, 4))).astype(x_type)
    try:
        y = module(gp.tensor(x))
    except EXPLAINED as error:
        assert layer == "conv"
        assert x_type in str(error)
        return
    y = y[0] if isinstance(y, tuple) else y
    assert y.dtype == weight_type
    expected = typed(module, "float64")(gp.tensor(x.astype("float64")))
    expected = expected[0] if isinstance(expected, tuple) else expected
    tolerance = max(TOLERANCE[weight_type], TOLERANCE.get(x_type, 0))
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=0, atol=tolerance)


@settings(max_examples=150)
@given(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(["auto", "cpu", "cuda", "cuda:0", "cuda:99", "CPU", "cpu ", "cuda:-1", "cuda:1e3"]),
        st.from_regex(r"cuda:\w{1,6}", fullmatch=True),
        st.integers(),
        st.none(),
    )
)
def test_a_device_is_one_that_exists_or_an_error_that_says_which_do(name):
    before = gp.get_device()
    try:
        with gp.use_device(name) as device:
            assert isinstance(device, Device)
            assert str(device) == ("cpu" if name == "auto" and device.type == "cpu" else str(device))
            assert device.type in ("cpu", "cuda", "emulated")
            assert name in ("auto", "cpu", "emulated") or name.startswith("cuda")
    except gp.DeviceError as error:
        assert name != "cpu"
        assert len(str(error)) > 20
    assert gp.get_device() == before


odd = st.one_of(st.integers(-3, 40), st.none(), st.booleans(), st.floats(), st.text(max_size=3))
size = st.one_of(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), odd)
share = st.one_of(st.floats(0, 0.9), st.floats(0, 0.9), odd)
MODELS = {
    FeedForwardClassifier: {
        "vocabulary_size": size, "num_classes": size, "embedding_dim": size,
        "hidden": st.lists(size, max_size=2), "dropout": share, "word_dropout": share,
    },
    TextCNN: {
        "vocabulary_size": size, "num_classes": size, "embedding_dim": size,
        "widths": st.lists(size, min_size=1, max_size=2), "filters": size, "dropout": share,
        "max_norm": share,
    },
    Seq2Seq: {
        "source_vocabulary_size": size, "target_vocabulary_size": size, "embedding_dim": size,
        "hidden_size": size, "num_layers": st.sampled_from([1, 2, 0]), "dropout": share,
        "cell": st.sampled_from(["gru", "lstm", "rnn"]),
        "attention": st.sampled_from(["dot", "additive", ""]),
    },
    Transformer: {
        "source_vocabulary_size": size, "target_vocabulary_size": size, "embedding_dim": size,
        "num_heads": st.sampled_from([1, 2, 3]), "feedforward": size,
        "num_layers": st.sampled_from([1, 2, 0]), "dropout": share,
    },
}  # fmt: skip


@settings(max_examples=40)
@given(st.data())
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_a_model_of_any_sizes_computes_or_says_which_size_is_wrong(kind, data):
    config = {name: data.draw(values, name) for name, values in MODELS[kind].items()}
    try:
        model = kind.from_config(config)
    except gp.CheckpointError as error:
        assert kind.__name__ in str(error)
        return
    assert all(p.dtype == np.float32 for p in model.parameters())
    again = kind.from_config(model.config())
    again.load_state_dict(model.state_dict())
    ids = np.random.default_rng(0).integers(0, config.get("vocabulary_size", 1), (3, 6))
    mask = np.arange(6) < np.array([[6], [1], [3]])
    if kind in (FeedForwardClassifier, TextCNN):
        arguments, classes = (ids, mask), config["num_classes"]
    else:
        arguments, classes = (np.zeros_like(ids), mask, np.zeros_like(ids)), config["target_vocabulary_size"]
    y, other = model.eval()(*arguments), again.eval()(*arguments)
    assert y.dtype == np.float32
    assert y.shape[-1] == classes
    assert np.isfinite(y.numpy()).all()
    np.testing.assert_array_equal(y.numpy(), other.numpy())
    outside = np.full_like(ids, next(v for n, v in config.items() if n.endswith("vocabulary_size")))
    with pytest.raises(gp.DataError, match="outside"):
        model(outside, *arguments[1:])


@quick
@given(
    st.sampled_from(["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"]),
    st.one_of(st.floats(), st.floats(0, 1)),
    st.one_of(st.floats(), st.floats(0, 1)),
    st.sampled_from(FLOATS),
)
def test_an_optimizer_moves_against_the_gradient_or_refuses_its_options(name, lr, decay, dtype):
    model = typed(nn.Linear(3, 2), dtype)
    good = all(math.isfinite(v) and v >= 0 for v in (lr, decay))
    try:
        optimizer = getattr(gp.optim, name)(model.parameters(), lr=lr, weight_decay=decay)
    except ValueError as error:
        assert not good
        assert name in str(error)
        return
    assert good
    if lr > 1 or decay > 1:
        return
    before = exact(model.bias)
    (model(np.ones((4, 3), dtype)).sum() * 0.01).backward()
    optimizer.step()
    assert model.bias.dtype == model.weight.dtype == dtype
    assert model.bias.grad.dtype == dtype
    if decay == 0 and lr > 1e-2:
        assert (exact(model.bias) < before).all()


@quick
@given(
    lengths=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40),
    rows=st.integers(-1, 12),
    tokens=st.integers(-1, 90),
    by_tokens=st.booleans(),
    shuffle=st.booleans(),
    pairs=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)
def test_every_row_comes_once_an_epoch_in_batches_of_the_size(
    lengths, rows, tokens, by_tokens, shuffle, pairs, seed
):
    left, right = ([[5] * n for n in side] for side in zip(*lengths, strict=True))
    order = {"batch_tokens": tokens} if by_tokens else {"batch_size": rows}
    try:
        if pairs:
            batches = pair_batches(left, right, **order, shuffle=shuffle, seed=seed)
        else:
            batches = text_batches(left, **order, shuffle=shuffle, seed=seed)
    except gp.DataError:
        assert (tokens if by_tokens else rows) < 1
        return
    for _ in range(2):
        expected, epoch = len(batches), list(batches)
        assert len(epoch) == expected
        assert sorted(np.concatenate([b.index for b in epoch])) == list(range(len(lengths)))
        for batch in epoch:
            padded = batch.source.shape[1] + batch.target_in.shape[1] if pairs else batch.ids.shape[1]
            assert batch.size <= rows if not by_tokens else batch.size == 1 or batch.size * padded <= tokens
