"""attention: the equations written out, finite differences, masks, blocks, and PyTorch if it is installed."""

import math
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop.backend import random
from gpuprop.backend.arrays import to_device, to_host
from gpuprop.backend.random import new_stream
from gpuprop.errors import ShapeError
from gpuprop.ops.attention import additive_attention_weights, attention, attention_weights
from gpuprop.ops.scaled_dot_product_attention import scaled_dot_product_attention
from gpuprop.testing import gradcheck

few = settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
sizes = st.integers(1, 4)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def softmax_reference(energy, real):
    """One row at a time; a row without keys is 0."""
    weights = np.zeros_like(energy)
    for index in np.ndindex(energy.shape[:-1]):
        keys = np.broadcast_to(real, energy.shape)[index]
        if keys.any():
            e = np.exp(energy[index][keys] - energy[index][keys].max())
            weights[index][keys] = e / e.sum()
    return weights


def masks(seed, batch, queries, keys, kind):
    rng = np.random.default_rng(seed)
    if kind == "none":
        return None
    return rng.random((batch, keys) if kind == "keys" else (batch, queries, keys)) < 0.6


@few
@given(
    seed=st.integers(0, 99), batch=st.integers(1, 3), queries=sizes, keys=sizes, size=sizes, values=sizes,
    kind=st.sampled_from(["none", "keys", "pairs"]), causal=st.booleans(),
)  # fmt: skip
def test_dot_product(device, seed, batch, queries, keys, size, values, kind, causal):
    arrays = draw(seed, (batch, queries, size), (batch, keys, size), (batch, keys, values))
    mask = masks(seed, batch, queries, keys, kind)
    context, weights = attention(*[gp.tensor(a) for a in arrays], mask, causal=causal)
    real = np.ones((1, 1, 1), bool) if mask is None else mask if kind == "pairs" else mask[:, None]
    if causal:
        real = real & (np.arange(keys) <= np.arange(queries)[:, None])
    expected = softmax_reference(arrays[0] @ arrays[1].swapaxes(1, 2) / math.sqrt(size), real)
    np.testing.assert_allclose(weights.numpy(), expected, atol=1e-14)
    np.testing.assert_allclose(context.numpy(), expected @ arrays[2], atol=1e-14)
    gradcheck(lambda q, k, v: attention(q, k, v, mask, causal=causal), arrays)


@few
@given(seed=st.integers(0, 99), heads=st.integers(1, 3), queries=sizes, keys=sizes, masked=st.booleans())
def test_heads(device, seed, heads, queries, keys, masked):
    arrays = draw(seed, (2, heads, queries, 3), (2, heads, keys, 3), (2, heads, keys, 2))
    mask = masks(seed, 2, queries, keys, "keys") if masked else None
    context, _ = attention(*[gp.tensor(a) for a in arrays], mask)
    for head in range(heads):
        alone, _ = attention(*[gp.tensor(a[:, head]) for a in arrays], mask)
        np.testing.assert_allclose(context.numpy()[:, head], alone.numpy(), atol=1e-14)
    gradcheck(lambda q, k, v: attention(q, k, v, mask), arrays)


@few
@given(
    seed=st.integers(0, 99), batch=st.integers(1, 3), queries=sizes, keys=sizes, size=sizes,
    kind=st.sampled_from(["none", "keys", "pairs"]),
)  # fmt: skip
def test_additive(device, seed, batch, queries, keys, size, kind):
    query, key, v = draw(seed, (batch, queries, size), (batch, keys, size), (size,))
    mask = masks(seed, batch, queries, keys, kind)
    real = np.ones((1, 1, 1), bool) if mask is None else mask if kind == "pairs" else mask[:, None]
    energy = np.tanh(query[:, :, None] + key[:, None]) @ v
    weights = additive_attention_weights(gp.tensor(query), gp.tensor(key), gp.tensor(v), mask)
    np.testing.assert_allclose(weights.numpy(), softmax_reference(energy, real), atol=1e-14)
    gradcheck(lambda q, k, v: additive_attention_weights(q, k, v, mask), [query, key, v])


def test_additive_in_blocks(device, monkeypatch):
    module = sys.modules["gpuprop.ops.attention"]  # gpuprop.ops.attention may be the function
    query, key, v = draw(0, (2, 5, 3), (2, 4, 3), (3,))
    gradients = []
    for block in (1, 2 * 4 * 3 * 2, 1 << 20):  # one query, two, all of them at a time
        monkeypatch.setattr(module, "HOST_BLOCK", block)
        monkeypatch.setattr(module, "GPU_BLOCK", block)
        leaves = [gp.tensor(a, requires_grad=True) for a in (query, key, v)]
        (additive_attention_weights(*leaves) * gp.tensor(np.arange(40.0).reshape(2, 5, 4))).sum().backward()
        gradients.append([to_host(leaf.grad) for leaf in leaves])
    for other in gradients[1:]:
        for a, b in zip(other, gradients[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_without_keys_gives_zeros_and_no_nan(device, dtype):
    arrays = [a.astype(dtype) for a in draw(1, (2, 3, 4), (2, 5, 4), (2, 5, 2), (4,))]
    mask = np.array([[False] * 5, [True, True, False, False, False]])
    q, k, v, w = [gp.tensor(a, requires_grad=True) for a in arrays]
    context, weights = attention(q, k, v, mask)
    additive = additive_attention_weights(q, k, w, mask)
    assert context.dtype == weights.dtype == additive.dtype == dtype
    for y in (context, weights, additive):
        assert not y.numpy()[0].any()
    np.testing.assert_allclose(additive.numpy()[1].sum(-1), 1, rtol=1e-6)
    (context.sum() + (additive * additive).sum()).backward()
    for leaf in (q, k, v, w):
        assert leaf.grad.dtype == dtype
        assert np.isfinite(to_host(leaf.grad)).all()
    assert not to_host(k.grad)[0].any()
    assert not to_host(v.grad)[1, 2:].any()


def test_padding_further_changes_nothing(device):
    q, k, v, w = draw(2, (2, 3, 4), (2, 5, 4), (2, 5, 2), (4,))
    mask = np.arange(5) < np.array([[5], [2]])
    results = []
    for extra in (0, 4):
        pad = ((0, 0), (0, extra), (0, 0))
        more = [np.pad(k, pad, constant_values=9.0), np.pad(v, pad, constant_values=-7.0)]
        leaves = [gp.tensor(a, requires_grad=True) for a in (q, *more, w)]
        wider = np.pad(mask, ((0, 0), (0, extra)))
        context, _ = attention(*leaves[:3], wider)
        additive = additive_attention_weights(leaves[0], leaves[1], leaves[3], wider)
        ((context * context).sum() + (additive * additive).sum()).backward()
        grads = [to_host(leaf.grad) for leaf in leaves]
        results.append(
            [context.numpy(), additive.numpy()[..., :5], grads[0], grads[1][:, :5], grads[2][:, :5]]
        )
        assert not any(g[:, 5:].any() for g in grads[1:3])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def test_float16_with_a_mask(device):
    q, k, v = [a.astype(np.float16) for a in draw(3, (1, 2, 4), (1, 3, 4), (1, 3, 2))]
    context, weights = attention(*[gp.tensor(a) for a in (q, k, v)], np.array([[True, False, True]]))
    assert context.dtype == np.float16
    assert not weights.numpy()[..., 1].any()
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, atol=2e-3)


def test_dropout_acts_on_the_weights(device):
    arrays = draw(4, (2, 8, 4), (2, 9, 4))
    value = np.broadcast_to(np.eye(9), (2, 9, 9)).copy()  # the context is the row of used weights
    q, k, v = [gp.tensor(a) for a in (*arrays, value)]
    context, weights = attention(q, k, v, dropout=0.5, stream=new_stream())
    ratio = context.numpy() / weights.numpy()
    kept = ratio != 0
    assert 0.2 < kept.mean() < 0.8
    np.testing.assert_allclose(ratio[kept], 2.0, rtol=1e-12)
    with pytest.raises(ValueError, match="stream"):
        attention(q, k, v, dropout=0.5)


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (2, 2, 5), (2, 3, 4), (5,)])
def test_a_mask_that_does_not_fit(shape):
    q, k, v = [gp.tensor(a) for a in draw(5, (2, 3, 4), (2, 5, 4), (2, 5, 2))]
    with pytest.raises(ShapeError, match=r"weights \(2, 3, 5\).*got a mask"):
        attention(q, k, v, np.ones(shape, bool))


def test_scale(device):
    q, k = draw(6, (1, 2, 4), (1, 3, 4))
    expected = softmax_reference(2.5 * q @ k.swapaxes(1, 2), np.array(True))
    weights = attention_weights(gp.tensor(q), gp.tensor(k), scale=2.5)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_pytorch_agrees(causal):
    torch = pytest.importorskip("torch")
    arrays = draw(7, (2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 2))
    mask = np.arange(6) < np.array([[6], [3]])
    peers = [torch.from_numpy(a).requires_grad_() for a in arrays]
    options = {"is_causal": True} if causal else {"attn_mask": torch.from_numpy(mask)[:, None, None]}
    expected = torch.nn.functional.scaled_dot_product_attention(*peers, **options)
    (expected * expected).sum().backward()
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    context, _ = attention(*leaves, None if causal else mask, causal=causal)
    (context * context).sum().backward()
    np.testing.assert_allclose(context.numpy(), expected.detach().numpy(), rtol=1e-9)
    for leaf, peer in zip(leaves, peers, strict=True):
        np.testing.assert_allclose(leaf.grad, peer.grad.numpy(), rtol=1e-9, atol=1e-13)


def both(arrays, mask, first=0, **options):
    """Context and gradients of the one operation, and of the composition that keeps its weights."""
    results = []
    for function in (scaled_dot_product_attention, lambda *a, **o: attention(*a, **o)[0]):
        gp.manual_seed(5)
        leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
        with random.rows_from(first):
            context = function(*leaves, mask, **options)
        context.backward(np.cos(np.arange(context.size)).reshape(context.shape).astype(context.dtype))
        results.append([context.numpy(), *(to_host(leaf.grad) for leaf in leaves)])
    return results


@pytest.mark.parametrize("kind", ["none", "keys", "pairs", "heads"])
@pytest.mark.parametrize(
    ("queries", "keys", "size", "values"),
    [(3, 4, 5, 2), (4, 1, 3, 3), (1, 7, 2, 4), (5, 3, 1, 1), (35, 33, 4, 3), (2, 131, 3, 66), (34, 5, 70, 2)],
)
@pytest.mark.parametrize("causal", [False, True])
def test_one_operation_is_the_composition(device, queries, keys, size, values, kind, causal):
    arrays = draw(queries, (2, 3, queries, size), (2, 3, keys, size), (2, 3, keys, values))
    mask = masks(1, 2, queries, keys, kind)
    if kind == "heads":
        mask = np.random.default_rng(2).random((2, 3, queries, keys)) < 0.6
    if mask is not None:
        mask[1, ..., 0] = False  # with causal, a query without any key
    for a, b in zip(*both(arrays, mask, causal=causal), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 17), (17, 1), (127, 33), (33, 128), (128, 127), (129, 9), (9, 129)]
)
def test_lengths_around_what_a_block_takes(device, queries, keys):
    """Gradients by one kernel, and by two: those of the composition."""
    arrays = draw(queries, (2, 2, queries, 9), (2, 2, keys, 9), (2, 2, keys, 5))
    mask = masks(1, 2, queries, keys, "keys")
    mask[1, 0] = False  # a query without any key
    for a, b in zip(*both(arrays, mask, causal=True, dropout=0.25, stream=3), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("queries", "keys", "size", "values", "kind", "causal", "dropout"),
    [(3, 4, 2, 1, "keys", False, 0.4), (2, 1, 1, 2, "none", True, 0.0), (3, 2, 2, 2, "pairs", True, 0.4)],
)
def test_gradients_of_one_operation(device, queries, keys, size, values, kind, causal, dropout):
    arrays = draw(1, (2, 2, queries, size), (2, 2, keys, size), (2, 2, keys, values))
    mask = masks(2, 2, queries, keys, kind)

    def function(*inputs):
        gp.manual_seed(0)  # the same weights are dropped in every call
        return scaled_dot_product_attention(*inputs, mask, causal=causal, dropout=dropout, stream=3)

    gradcheck(function, arrays)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.parametrize("keys", [7, 131])
def test_rows_of_heads_beside_each_other(device, dtype, keys):
    """The context lies as `join_heads` wants it, without a copy; wherever dy lies, the gradients are the same
    bits."""
    arrays = [a.astype(dtype) for a in draw(16, (2, 3, 5, 8), (2, 3, keys, 8), (2, 3, keys, 8))]
    dy, results = draw(17, (2, 3, 5, 8))[0].astype(dtype), []
    for laid in (dy, np.ascontiguousarray(dy.swapaxes(1, 2)).swapaxes(1, 2)):
        leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
        context = scaled_dot_product_attention(*leaves, causal=True)
        context.backward(to_device(laid))
        results.append([to_host(leaf.grad) for leaf in leaves])
    assert device == "cpu" or context.data.swapaxes(1, 2).flags.c_contiguous
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)])
def test_only_the_gradients_that_are_needed(device, needed):
    arrays = draw(8, (2, 3, 4), (2, 5, 4), (2, 5, 2))
    inputs = [gp.tensor(a, requires_grad=i in needed) for i, a in enumerate(arrays)]
    gradcheck(lambda *a: scaled_dot_product_attention(*a, causal=True), inputs)


@pytest.mark.parametrize("first", [0, 3])
def test_the_bits_of_dropout_on_the_weights(device, first):
    """The same weights are dropped as by the composition, on every device, in a part of a batch too."""
    arrays = draw(9, (2, 3, 21, 4), (2, 3, 19, 4))
    value = np.broadcast_to(np.eye(19), (2, 3, 19, 19)).copy()  # the context is the row of used weights
    one, composed = both([*arrays, value], None, first, dropout=0.3, stream=11)
    np.testing.assert_array_equal(one[0] == 0, composed[0] == 0)
    assert 0.2 < (one[0] == 0).mean() < 0.4
    bits = random.bits16(one[0].size, first * 3 * 21 * 19, 11, 0, 0, 5)
    np.testing.assert_array_equal(one[0].reshape(-1) != 0, bits < random.keep_threshold(0.3))
    for a, b in zip(one, composed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 3, 0)])
def test_nothing_to_attend_to(device, shape):
    batch, queries, keys = shape
    leaves = [
        gp.tensor(a, requires_grad=True)
        for a in draw(0, (batch, queries, 4), (batch, keys, 4), (batch, keys, 2))
    ]
    context = scaled_dot_product_attention(*leaves, causal=True, dropout=0.5, stream=1)
    assert context.shape == (batch, queries, 2)
    assert not context.numpy().any()
    context.sum().backward()
    assert all(leaf.grad.shape == leaf.shape and not to_host(leaf.grad).any() for leaf in leaves)


def test_large_energies_do_not_overflow(device):
    q, k, v = (100 * a for a in draw(10, (2, 40, 8), (2, 60, 8), (2, 60, 3)))
    one, composed = both([a.astype(np.float32) for a in (q, k, v)], None)
    expected = softmax_reference(q @ k.swapaxes(1, 2) / math.sqrt(8), np.array(True)) @ v
    for context in (one[0], composed[0]):
        np.testing.assert_allclose(context, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_narrow_types_are_summed_in_float(device, name):
    """Values and gradients are those of float64 on the same inputs, up to the rounding of what is stored."""
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)
    arrays = [a.astype(dtype) for a in draw(11, (2, 3, 40, 8), (2, 3, 70, 8), (2, 3, 70, 5))]
    mask = np.arange(70) < np.array([[70], [33]])
    ends = []
    for inputs in (arrays, [a.astype(np.float64) for a in arrays]):
        leaves = [gp.tensor(a, requires_grad=True) for a in inputs]
        context = scaled_dot_product_attention(*leaves, mask)
        dy = np.cos(np.arange(context.size)).reshape(context.shape).astype(dtype).astype(context.dtype)
        context.backward(dy)
        ends.append([context.numpy(), *(to_host(leaf.grad) for leaf in leaves)])
    allowed = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-6}[name]
    for got, wanted in zip(*ends, strict=True):
        assert got.dtype == dtype
        assert np.abs(got.astype(np.float64) - wanted).max() <= allowed * np.abs(wanted).max()


def test_blocks_and_threads_change_nothing(monkeypatch):
    module = sys.modules["gpuprop.ops.scaled_dot_product_attention"]
    arrays = draw(12, (3, 2, 5, 4), (3, 2, 6, 4), (3, 2, 6, 2))
    mask, before = masks(3, 3, 5, 6, "pairs"), gp.num_threads()
    wanted = both(arrays, mask, dropout=0.3, stream=1)[0]
    for block in (1, 60, 70):  # a head, a row of the batch, also a row
        monkeypatch.setattr(module, "BLOCK", block)
        for a, b in zip(both(arrays, mask, dropout=0.3, stream=1)[0], wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
    monkeypatch.undo()
    large = [a.astype(np.float32) for a in draw(13, (4, 2, 128, 4), (4, 2, 128, 4), (4, 2, 128, 4))]
    results = []
    try:
        for threads in (1, 2):
            gp.set_num_threads(threads)
            results.append(both(large, None, causal=True, dropout=0.1, stream=1)[0])
    finally:
        gp.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_weights_are_not_kept_without_gradients():
    arrays = [
        gp.tensor(a.astype(np.float32)) for a in draw(14, (8, 2, 64, 4), (8, 2, 256, 4), (8, 2, 256, 4))
    ]
    tracemalloc.start()
    scaled_dot_product_attention(*arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2 * 64 * 256 * 4  # the bytes of all weights


def test_inputs_that_do_not_fit():
    q, k, v = draw(15, (2, 3, 4), (2, 5, 4), (2, 5, 6))
    for wrong in ((q, k[:1], v), (q, k, v[:, :4]), (q[..., :3], k, v), (q[0], k[0], v[0])):
        with pytest.raises(ShapeError, match=r"expects query \(\.\.\., T, D\), key .* but got"):
            scaled_dot_product_attention(*wrong)
    with pytest.raises(ValueError, match="needs a stream"):
        scaled_dot_product_attention(q, k, v, dropout=0.5)
    with pytest.raises(ValueError, match=r"at least 0 and below 1, not 1\.0"):
        scaled_dot_product_attention(q, k, v, dropout=1.0)
    with pytest.raises(ShapeError, match="got a mask"):
        scaled_dot_product_attention(q, k, v, np.ones((2, 3), bool))
