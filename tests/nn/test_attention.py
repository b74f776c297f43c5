"""Attention layers: what they compute, masks, heads, dropout, messages."""

import math

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.backend.arrays import to_host
from gpuprop.errors import ShapeError
from gpuprop.testing import gradcheck

MASK = np.array([[True] * 5, [True, True, False, False, False]])


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def in_float64(module):
    for parameter in module.parameters():
        parameter.data = parameter.data.astype(np.float64)
    return module


def softmax(energy, mask):
    e = np.exp(energy) * mask
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("scale", [None, 1.0])
def test_dot_product_attention(device, scale):
    q, k, v = draw(0, (2, 3, 4), (2, 5, 4), (2, 5, 6))
    context, weights = nn.DotProductAttention(scale)(*[gp.tensor(a) for a in (q, k, v)], MASK)
    expected = softmax(q @ k.swapaxes(1, 2) * (scale or 1 / math.sqrt(4)), MASK[:, None])
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(context.numpy(), expected @ v, rtol=1e-12)


def test_additive_attention(device):
    layer = in_float64(nn.AdditiveAttention(4, 6, 3))
    assert {n: p.shape for n, p in layer.named_parameters()} == {
        "query.weight": (3, 4), "key.weight": (3, 6), "score.weight": (1, 3),
    }  # fmt: skip
    q, k = draw(1, (2, 3, 4), (2, 5, 6))
    query, keys = gp.tensor(q), gp.tensor(k)
    context, weights = layer(query, keys, MASK)
    w_q, w_k, v = (p.numpy() for p in layer.parameters())
    u = np.tanh((q @ w_q.T)[:, :, None] + (k @ w_k.T)[:, None])
    expected = softmax((u @ v.T)[..., 0], MASK[:, None])
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(context.numpy(), expected @ k, rtol=1e-12)
    projected = layer.project(keys)
    for t in range(3):  # one query at a time, the keys projected once
        step, _ = layer(query[:, t : t + 1], keys, MASK, projected=projected)
        np.testing.assert_allclose(step.numpy()[:, 0], context.numpy()[:, t], rtol=1e-12)
    gradcheck(lambda q, k, *_: layer(q, k, MASK), [gp.tensor(a, requires_grad=True) for a in (q, k)])
    gradcheck(lambda *_: layer(query, keys, MASK), list(layer.parameters()))


def multi_head_reference(layer, q, k, v, real):
    """Head by head."""
    size, heads = layer.embed_dim, layer.num_heads
    weight, bias = layer.in_proj_weight.numpy(), layer.in_proj_bias.numpy()
    q, k, v = (
        x @ weight[i * size : (i + 1) * size].T + bias[i * size : (i + 1) * size]
        for i, x in enumerate((q, k, v))
    )
    width, contexts = size // heads, []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        weights = softmax(q[..., part] @ k[..., part].swapaxes(1, 2) / math.sqrt(width), real)
        contexts.append(weights @ v[..., part])
    return np.concatenate(contexts, -1) @ layer.out_proj.weight.numpy().T + layer.out_proj.bias.numpy()


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_multi_head_attention(device, heads, causal):
    layer = in_float64(nn.MultiHeadAttention(6, heads))
    for parameter in layer.parameters():  # biases that are not 0
        parameter.data += 0.1
    x, memory = draw(2, (2, 5, 6), (2, 5, 6))
    seen = np.tri(5, dtype=bool) if causal else np.ones((5, 5), bool)
    leaf, other = gp.tensor(x), gp.tensor(memory)
    expected = multi_head_reference(layer, x, x, x, MASK[:, None] & seen)
    np.testing.assert_allclose(layer(leaf, leaf, leaf, MASK, causal).numpy(), expected, rtol=1e-10)
    expected = multi_head_reference(layer, x, memory, memory, MASK[:, None] & seen)
    np.testing.assert_allclose(layer(leaf, other, other, MASK, causal).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("shared", [False, True])
def test_multi_head_gradients(device, shared):
    layer = in_float64(nn.MultiHeadAttention(4, 2))
    q, k, v = draw(3, (2, 3, 4), (2, 5, 4), (2, 5, 4))
    if shared:
        gradcheck(lambda x, *_: layer(x, x, x, MASK), [gp.tensor(k, requires_grad=True), *layer.parameters()])
        return
    leaves = [gp.tensor(a, requires_grad=True) for a in (q, k, v)]
    gradcheck(lambda q, k, v, *_: layer(q, k, v, MASK), [*leaves, *layer.parameters()])


def test_multi_head_padding(device):
    layer = in_float64(nn.MultiHeadAttention(4, 2))
    x = draw(4, (2, 5, 4))[0]
    results = []
    for extra in (0, 3):
        leaf = gp.tensor(np.pad(x, ((0, 0), (0, extra), (0, 0)), constant_values=5.0), requires_grad=True)
        mask = np.pad(MASK, ((0, 0), (0, extra)))
        layer.zero_grad()
        y = layer(leaf, leaf, leaf, mask) * gp.tensor(mask[..., None].astype(float))
        (y * y).sum().backward()
        results.append(
            [y.numpy()[:, :5], to_host(leaf.grad)[:, :5], *(to_host(p.grad) for p in layer.parameters())]
        )
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


def test_multi_head_initial_weights_and_names():
    layer = nn.MultiHeadAttention(8, 2)
    assert [name for name, _ in layer.named_parameters()] == [
        "in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias",
    ]  # fmt: skip
    bound = math.sqrt(6 / (3 * 8 + 8))
    assert 0.9 * bound < np.abs(layer.in_proj_weight.numpy()).max() <= bound
    assert not layer.in_proj_bias.numpy().any()
    assert not layer.out_proj.bias.numpy().any()


def test_multi_head_dropout_in_training_only(device):
    layer = nn.MultiHeadAttention(8, 2, dropout=0.5)
    x = gp.tensor(draw(5, (2, 5, 8))[0].astype(np.float32))
    assert not np.allclose(layer(x, x, x).numpy(), layer(x, x, x).numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x, x, x).numpy(), layer(x, x, x).numpy())
    assert layer(x, x, x).dtype == np.float32


def test_keys_projected_once(device):
    """`attend` is `forward`; word by word with joined keys it is the causal forward."""
    layer = in_float64(nn.MultiHeadAttention(6, 3))
    query, memory = (gp.tensor(a) for a in draw(8, (2, 4, 6), (2, 5, 6)))
    k, v = layer.project_keys(memory, MASK)
    assert k.shape == v.shape == (2, 3, 5, 2)
    expected = layer(query, memory, memory, MASK).numpy()
    np.testing.assert_allclose(layer.attend(query, k, v, MASK).numpy(), expected, rtol=1e-12)
    rows = gp.ops.pack(memory, MASK)
    packed = layer.attend(gp.ops.pack(memory, MASK), *layer.project_keys(rows, MASK), MASK, query_mask=MASK)
    np.testing.assert_allclose(packed.numpy(), layer(memory, memory, memory, MASK).numpy()[MASK], rtol=1e-12)

    whole = layer(query, query, query, causal=True).numpy()
    np.testing.assert_allclose(
        layer.attend(query, *layer.project_keys(query), causal=True).numpy(), whole, rtol=1e-12
    )
    seen = None
    for t in range(4):
        step = layer.project_keys(query[:, t : t + 1])
        seen = (
            step if seen is None else [gp.concatenate(pair, axis=2) for pair in zip(seen, step, strict=True)]
        )
        context = layer.attend(query[:, t : t + 1], *seen)
        np.testing.assert_allclose(context.numpy()[:, 0], whole[:, t], rtol=1e-12)


def test_gradients_through_projected_keys(device):
    layer = in_float64(nn.MultiHeadAttention(4, 2))
    leaves = [gp.tensor(a, requires_grad=True) for a in draw(9, (2, 3, 4), (2, 5, 4))]
    gradcheck(lambda q, m, *_: layer.attend(q, *layer.project_keys(m), MASK), [*leaves, *layer.parameters()])


@pytest.mark.parametrize("causal", [False, True])
def test_weights_to_look_at(device, causal):
    layer = in_float64(nn.MultiHeadAttention(6, 3))
    query, key = draw(10, (2, 4, 6), (2, 5, 6))
    weights = layer.weights(gp.tensor(query), gp.tensor(key), MASK, causal).numpy()
    seen = np.tri(4, 5, dtype=bool) if causal else np.ones((4, 5), bool)
    w = layer.in_proj_weight.numpy()
    q, k = (
        (x @ w[i * 6 : i * 6 + 6].T).reshape(2, -1, 3, 2).swapaxes(1, 2) for i, x in enumerate((query, key))
    )
    expected = softmax(q @ k.swapaxes(2, 3) / math.sqrt(2), (MASK[:, None] & seen)[:, None]).mean(1)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_messages():
    dot, additive, multi = (
        nn.DotProductAttention(),
        nn.AdditiveAttention(4, 6, 3),
        nn.MultiHeadAttention(4, 2),
    )
    q, k, v = [a.astype(np.float32) for a in draw(6, (2, 3, 4), (2, 5, 4), (2, 5, 6))]
    with pytest.raises(
        ShapeError, match=r"DotProductAttention \(keys\) expects \(batch, length, 4\) but got"
    ):
        dot(q, v, v)
    with pytest.raises(ShapeError, match=r"one value a key, \(2, 5, size\), but got \(2, 3, 4\)"):
        dot(q, k, q)
    with pytest.raises(ShapeError, match="got 2 rows of queries but 1 rows of keys"):
        dot(q, k[:1], v[:1])
    with pytest.raises(
        ShapeError, match=r"AdditiveAttention \(query\) expects \(batch, length, 4\) but got \(2, 4\)"
    ):
        additive(q[:, 0], v)
    with pytest.raises(ShapeError, match=r"MultiHeadAttention \(value\) expects \(batch, length, 4\)"):
        multi(q, k, v)
    with pytest.raises(ShapeError, match=r"attend expects k and v \(2, 2, S, 2\) .* got \(2, 5, 4\)"):
        multi.attend(q, k, k)
    with pytest.raises(ShapeError, match=r"MultiHeadAttention \(keys\) expects \(batch, length, 4\)"):
        multi.project_keys(v)
    with pytest.raises(ShapeError, match="got a mask"):
        multi(q, k, k, np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="embed_dim 5 is not a multiple of num_heads 2"):
        nn.MultiHeadAttention(5, 2)
    with pytest.raises(ValueError, match="hidden_size must be an integer of at least 1"):
        nn.AdditiveAttention(4, 6, 0)
    with pytest.raises(ValueError, match="scale must be above 0"):
        nn.DotProductAttention(0.0)


@pytest.mark.parametrize("causal", [False, True])
def test_pytorch_agrees(causal):
    torch = pytest.importorskip("torch")
    layer = in_float64(nn.MultiHeadAttention(6, 3))
    peer = torch.nn.MultiheadAttention(6, 3, batch_first=True, dtype=torch.float64)
    peer.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    q, k, v = draw(7, (2, 5, 6), (2, 5, 6), (2, 5, 6))
    peers = [torch.from_numpy(a).requires_grad_() for a in (q, k, v)]
    hidden = torch.from_numpy(~np.tri(5, dtype=bool)) if causal else None
    expected, _ = peer(*peers, key_padding_mask=torch.from_numpy(~MASK), attn_mask=hidden)
    (expected * expected).sum().backward()
    leaves = [gp.tensor(a, requires_grad=True) for a in (q, k, v)]
    y = layer(*leaves, MASK, causal)
    (y * y).sum().backward()
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-9)
    grads = dict(peer.named_parameters())
    for a, b in [*zip(leaves, peers, strict=True), *((p, grads[n]) for n, p in layer.named_parameters())]:
        np.testing.assert_allclose(to_host(a.grad), b.grad.numpy(), rtol=1e-8, atol=1e-12)
