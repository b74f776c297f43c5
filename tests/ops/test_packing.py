"""Packed rows: the same numbers as with padding, and gradients at the right places."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops
from gpuprop.testing import gradcheck

rng = np.random.default_rng(0)
MASK = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]], bool)


def test_pack_takes_the_real_rows_and_unpack_puts_them_back():
    x = rng.standard_normal((3, 3, 2))
    rows = ops.pack(x, MASK)
    np.testing.assert_array_equal(rows.data, x[MASK])
    np.testing.assert_array_equal(ops.unpack(rows, MASK).data, x * MASK[..., None])
    gradcheck(lambda x: ops.pack(x, MASK), [x])
    gradcheck(lambda r: ops.unpack(r, MASK), [x[MASK]])


def test_heads_are_split_and_joined():
    x = rng.standard_normal((3, 3, 12))
    q, v = ops.split_heads(x, heads=3, parts=2)
    np.testing.assert_array_equal(q.data, x[..., :6].reshape(3, 3, 3, 2).swapaxes(1, 2))
    np.testing.assert_array_equal(ops.join_heads(v).data, x[..., 6:])
    np.testing.assert_array_equal(ops.join_heads(v, MASK).data, x[MASK][:, 6:])
    gradcheck(lambda x: ops.split_heads(x, 3, 2, MASK), [x[MASK]])
    gradcheck(lambda x: ops.split_heads(x, 3, 2), [x])
    gradcheck(lambda x: ops.join_heads(x, MASK), [rng.standard_normal((3, 2, 3, 2))])
    gradcheck(lambda x: ops.join_heads(x), [rng.standard_normal((3, 2, 3, 2))])


@pytest.mark.parametrize("causal", [False, True])
def test_attention_over_packed_rows_is_attention_over_padded_ones(causal):
    gp.manual_seed(0)
    attend = nn.MultiHeadAttention(8, 2)
    x = rng.standard_normal((3, 3, 8)).astype(np.float32)
    memory = rng.standard_normal((3, 4, 8)).astype(np.float32)
    seen = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], bool)
    for key, key_mask in ((x, MASK), (memory, seen)):
        if causal and key is memory:
            continue
        results = []
        for packed in (False, True):
            attend.zero_grad()
            query = gp.tensor(x, requires_grad=True)
            rows = ops.pack(query, MASK) if packed else query
            keys = rows if key is x else (ops.pack(key, key_mask) if packed else gp.tensor(key))
            y = attend(rows, keys, keys, key_mask, causal=causal, query_mask=MASK if packed else None)
            y = y if packed else ops.pack(y, MASK)
            (y * y).sum().backward()
            results.append([y.data, query.grad, *(p.grad for p in attend.parameters())])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(gp.ShapeError, match=r"pack of .* expects a mask \(3, 3\)"):
        ops.pack(np.ones((3, 3, 2)), MASK[:2])
    with pytest.raises(gp.ShapeError, match="5 rows for a mask with 6 real tokens"):
        ops.unpack(np.ones((5, 2)), MASK)
    rows, attend = gp.tensor(np.ones((5, 4), np.float32)), nn.MultiHeadAttention(4, 2)
    with pytest.raises(gp.ShapeError, match=r"expects rows \(6, 4\)"):
        attend(rows, rows, rows, MASK, query_mask=MASK)
