"""attention: the equations written out, finite differences, masks, blocks, and PyTorch if it is installed."""

import math
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop.backend.arrays import to_host
from gpuprop.backend.random import new_stream
from gpuprop.errors import ShapeError
from gpuprop.ops.attention import additive_attention_weights, attention, attention_weights
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
