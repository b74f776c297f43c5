"""Attention of half types on tensor cores: float64 on the same inputs, the kernels without them, PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.backend import tensor_cores
from gpuprop.backend.arrays import to_host
from gpuprop.ops import attention_sizes, scaled_dot_product_attention
from gpuprop.testing import unavailable

ml_dtypes = pytest.importorskip("ml_dtypes")
REASON = unavailable("emulated")
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"emulated: {REASON}")
TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
ALLOWED = {
    "float16": 1e-3,
    "bfloat16": 8e-3,
}  # of the largest of a result: a rounding or two of what is stored


def draw(dtype, queries, keys, size, values):
    rng = np.random.default_rng(queries + keys)
    shapes = ((2, 2, queries, size), (2, 2, keys, size), (2, 2, keys, values), (2, 2, queries, values))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def attend(arrays, mask=None, device="emulated", dtype=None, **options):
    """Context and gradients, in the order of the inputs."""
    *inputs, dy = arrays if dtype is None else [a.astype(dtype) for a in arrays]
    with gp.use_device(device):
        gp.manual_seed(5)
        leaves = [gp.tensor(a, requires_grad=True) for a in inputs]
        y = scaled_dot_product_attention(*leaves, mask, stream=3, **options)
        y.backward(dy)
        return [to_host(y.data), *(to_host(leaf.grad) for leaf in leaves)]


def assert_near(found, expected, name):
    for got, want in zip(found, expected, strict=True):
        error = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
        assert error <= ALLOWED[name] * max(0.1, np.abs(want.astype(np.float64)).max())


@pytest.fixture
def without(monkeypatch):
    """Switches tensor cores off."""

    def switch():
        monkeypatch.setattr(tensor_cores, "there", lambda _: False)

    return switch


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(
    ("queries", "keys", "size", "values", "causal", "dropout"),
    [
        (1, 17, 16, 16, False, 0.0),
        (17, 3, 8, 24, True, 0.25),
        (33, 127, 64, 64, False, 0.25),
        (127, 33, 5, 40, True, 0.0),
        (128, 128, 32, 32, True, 0.25),
        (129, 20, 16, 3, False, 0.25),
        (20, 129, 72, 128, True, 0.0),
    ],
)  # fmt: skip
def test_values_and_gradients(name, queries, keys, size, values, causal, dropout):
    arrays = draw(TYPES[name], queries, keys, size, values)
    mask = np.random.default_rng(1).random((2, 1, 1, keys)) < 0.6
    mask[1, ..., 0] = False  # with causal a query without any key
    options = {"causal": causal, "dropout": dropout}
    found = attend(arrays, mask, **options)
    assert_near(found, attend(arrays, mask, "cpu", np.float64, **options), name)
    if causal:
        assert not found[0][1, :, 0].any()


@pytest.mark.parametrize("shape", [(2, 1, 40, 35), (2, 2, 40, 35), (1, 1, 1, 35)])
def test_masks(shape):
    arrays = draw(TYPES["float16"], 40, 35, 16, 16)
    mask = np.random.default_rng(2).random(shape) < 0.6
    mask[0, :, -1] = False
    assert_near(attend(arrays, mask), attend(arrays, mask, "cpu", np.float64), "float16")


def test_the_kernels_without_tensor_cores_agree_and_drop_the_same_weights(without):
    """The context is the row of used weights."""
    query, key, _, _ = draw(TYPES["float16"], 37, 43, 16, 1)
    value = np.broadcast_to(np.eye(43), (2, 2, 43, 43)).astype(np.float16)
    dy = np.random.default_rng(3).standard_normal((2, 2, 37, 43)).astype(np.float16)
    arrays = (query, key, value, dy)
    found = attend(arrays, dropout=0.3)
    without()
    simple = attend(arrays, dropout=0.3)
    np.testing.assert_array_equal(found[0] == 0, simple[0] == 0)
    assert 0.2 < (found[0] == 0).mean() < 0.4
    assert_near(found, simple, "float16")


def test_rows_that_begin_anywhere():
    """Arrays that do not begin at 16 bytes are read an element at a time: the same bits."""
    arrays = draw(TYPES["float16"], 20, 33, 16, 8)
    shifted = []
    for a in arrays:
        block = np.zeros(a.size + 1, a.dtype)
        block[1:] = a.reshape(-1)
        shifted.append(block[1:].reshape(a.shape))
    for a, b in zip(attend(arrays), attend(shifted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_large_energies_do_not_overflow():
    arrays = [60 * a if i < 2 else a for i, a in enumerate(draw(TYPES["float16"], 20, 40, 16, 16))]
    assert_near(attend(arrays)[:1], attend(arrays, None, "cpu", np.float64)[:1], "float16")


@pytest.mark.parametrize("name", TYPES)
def test_no_further_from_float64_than_pytorch(name):
    """PyTorch's attention of the same half type, whose kernel on a GPU rounds the weights as this one does:
    its errors, and half a rounding."""
    torch = pytest.importorskip("torch")
    arrays = draw(TYPES[name], 50, 60, 32, 32)
    exact = attend(arrays, None, "cpu", np.float64)
    own = attend(arrays)
    kind = getattr(torch, name)
    *leaves, dy = [torch.from_numpy(a.astype(np.float32)).to(kind).requires_grad_() for a in arrays]
    y = torch.nn.functional.scaled_dot_product_attention(*leaves)
    y.backward(dy.detach())
    peers = [t.detach().to(torch.float32).numpy() for t in (y, *(leaf.grad for leaf in leaves))]
    for ours, theirs, want in zip(own, peers, exact, strict=True):
        errors = [np.abs(x.astype(np.float64) - want).max() / np.abs(want).max() for x in (ours, theirs)]
        assert errors[0] <= errors[1] + ALLOWED[name] / 2


def test_which_kernels_there_are():
    """Half types of up to 128 columns; one launch backward where the shared memory of the GPU allows."""
    bf16, short, wide = TYPES["bfloat16"], (2, 128, 64), (2, 128, 136)
    forward = attention_sizes.forward(short, short, bf16, True)
    assert (forward.file, forward.threads, forward.blocks(2, 128, 64)) == ("attention_tensor_cores", 256, 2)
    assert attention_sizes.forward(short, short, bf16, False).file == "attention"
    assert attention_sizes.forward(wide, wide, bf16, True).file == "attention"
    for size, kilobytes, fits in ((64, 99, True), (128, 99, False), (128, 163, True)):
        found = attention_sizes.backward((128, size), (128, size), bf16, True, kilobytes << 10)
        assert (found is not None) == fits
    assert attention_sizes.backward((129, 8), (8, 8), bf16, True, 227 << 10) is None
    assert attention_sizes.backward(short, short, np.dtype("f4"), True, 64 << 10).file == "attention"
