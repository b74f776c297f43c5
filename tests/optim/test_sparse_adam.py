"""SparseAdam: the rows that occur, as PyTorch's and as the formula; nothing of the others."""

import tracemalloc

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops, optim
from gpuprop.backend.arrays import to_device, to_host
from gpuprop.row_gradient import RowGradient
from gpuprop.testing import gradcheck

ROWS, PADDING = 40, 3


def batches(columns, steps=4, seed=0):
    """Ids, some of them frequent, some of padding, and dy; none at all in the third."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        ids = np.minimum(rng.geometric(0.08, (5, 30)), ROWS - 1) if step != 2 else np.zeros((0, 2), int)
        yield ids, rng.standard_normal((*ids.shape, columns))


def table(columns, dtype=np.float64):
    layer = nn.Embedding(ROWS, columns, PADDING, sparse=True)
    values = np.random.default_rng(9).standard_normal((ROWS, columns)).astype(dtype)
    layer.weight = gp.Parameter(to_device(values))
    return layer


def ours(columns, dtype=np.float64, *, uses=1, max_norm=None, **options):
    layer = table(columns, dtype)
    optimizer = optim.SparseAdam(layer.parameters(), lr=0.1, **options)
    norms = []
    for ids, dy in batches(columns):
        optimizer.zero_grad()
        for _ in range(uses):
            layer(ids).backward(dy.astype(dtype))
        if max_norm is not None:
            norms.append(optimizer.clip_grad_norm(max_norm).item())
        optimizer.step()
    assert optimizer.steps == 4
    moments = (to_host(moment).reshape(ROWS, columns) for moment in optimizer.state[0].values())
    return layer.weight.numpy(), *moments, np.array(norms)


def formula(columns, *, max_norm=None, beta1=0.9, beta2=0.999, eps=1e-8, lr=0.1):
    """Row by row, as Adam is written in the paper, with its second form of ε."""
    p = np.random.default_rng(9).standard_normal((ROWS, columns))
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, (ids, dy) in enumerate(batches(columns), 1):
        g = np.zeros_like(p)
        np.add.at(g, ids.ravel(), dy.reshape(-1, columns))
        g[PADDING] = 0
        norm = np.sqrt((g * g).sum())
        g *= min(1.0, (max_norm or np.inf) / (norm + 1e-6))
        for row in set(ids.ravel().tolist()) - {PADDING}:
            m[row] = beta1 * m[row] + (1 - beta1) * g[row]
            v[row] = beta2 * v[row] + (1 - beta2) * g[row] ** 2
            size = lr * np.sqrt(1 - beta2**t) / (1 - beta1**t)
            p[row] -= size * m[row] / (np.sqrt(v[row]) + eps)
    return p, m / (1 - beta1), v / (1 - beta2)


@pytest.mark.parametrize("columns", [7, 64, 136])
@pytest.mark.parametrize("max_norm", [None, 2.0])
def test_rows_that_occur_are_updated_by_the_formula(device, columns, max_norm):
    """Rows of whole packs and others; runs over several pieces of the kernel; padding; a step without ids."""
    got = ours(columns, max_norm=max_norm)
    for a, b in zip(got, formula(columns, max_norm=max_norm), strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)


def test_as_pytorch(device):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Embedding(ROWS, 12, PADDING, sparse=True, dtype=torch.float64)
    layer.weight.data = torch.tensor(np.random.default_rng(9).standard_normal((ROWS, 12)))
    optimizer = torch.optim.SparseAdam(layer.parameters(), lr=0.1, betas=(0.8, 0.95), eps=1e-3)
    for ids, dy in batches(12):
        optimizer.zero_grad()
        for _ in range(2):
            layer(torch.tensor(ids)).backward(torch.tensor(dy))
        optimizer.step()
    got, *_ = ours(12, uses=2, betas=(0.8, 0.95), eps=1e-3)
    np.testing.assert_allclose(got, layer.weight.detach().numpy(), rtol=1e-12, atol=1e-15)


def test_where_every_row_occurs_in_every_step_it_is_adam(device):
    """But for where ε stands, which is nothing here."""
    found = []
    for sparse, make in ((True, optim.SparseAdam), (False, optim.Adam)):
        layer = nn.Embedding(5, 8, sparse=sparse)
        layer.weight = gp.Parameter(to_device(np.random.default_rng(0).standard_normal((5, 8))))
        optimizer = make(layer.parameters(), lr=0.1, eps=1e-300)
        for step in range(3):
            ids = np.random.default_rng(step).permutation(np.arange(35) % 5)
            optimizer.zero_grad()
            layer(ids).backward(np.random.default_rng(step + 9).standard_normal((35, 8)))
            optimizer.step()
        found.append([layer.weight.numpy(), *(to_host(s) for s in optimizer.state[0].values())])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_float32_is_close_to_float64(device):
    for a, b in zip(ours(64, np.float32, max_norm=2.0), formula(64, max_norm=2.0), strict=False):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_nothing_of_other_rows_is_read_or_written(device):
    layer = table(8)
    optimizer = optim.SparseAdam(layer.parameters(), lr=0.1)
    layer.weight.data[10:] = np.nan
    for moment in optimizer.state[0].values():
        moment.reshape(ROWS, 8)[10:] = np.nan
    layer(np.array([1, 9, PADDING, 1])).backward(np.ones((4, 8)))
    assert optimizer.clip_grad_norm(1e9).item() == pytest.approx(np.sqrt(8 * (4 + 1)))
    optimizer.step()
    for values in (layer.weight.data, *optimizer.state[0].values()):
        whole = to_host(values).reshape(ROWS, 8)
        assert np.isfinite(whole[:10]).all()
        assert np.isnan(whole[10:]).all()


def test_a_skipped_step_changes_and_counts_nothing_and_a_scale_is_taken_out(device):
    plain = ours(8, max_norm=2.0)[0]
    layer = table(8)
    optimizer = optim.SparseAdam(layer.parameters(), lr=0.1)
    for ids, dy in batches(8):
        for skip in (True, False):
            optimizer.zero_grad()
            layer(ids).backward(1024 * dy)
            optimizer.grad_scale = to_device(np.array(1024.0, np.float32))
            optimizer.skip = to_device(np.array(skip))
            before = layer.weight.numpy().copy()
            optimizer.clip_grad_norm(2.0)
            optimizer.step()
            assert np.array_equal(before, layer.weight.numpy()) == (skip or not ids.size)
    assert optimizer.steps == 4
    np.testing.assert_allclose(layer.weight.numpy(), plain, rtol=1e-11)


def mixed(columns=6):
    """A table whose rows are looked up, and a layer behind it."""
    model = net(columns, sparse=True)
    table, *rest = model.parameters()
    groups = [{"params": rest, "sparse": False, "weight_decay": 0.1}, {"params": table}]
    return model, optim.SparseAdam(groups, lr=0.1, eps=1e-300)


def net(columns, sparse):
    """In float64."""
    model = nn.Sequential(nn.Embedding(ROWS, columns, sparse=sparse), nn.Linear(columns, 4))
    rng = np.random.default_rng(2)
    for layer in model.layers:
        for name, p in list(vars(layer).items()):
            if isinstance(p, gp.Parameter):
                setattr(layer, name, gp.Parameter(to_device(rng.standard_normal(p.shape)), p.order))
    return model


def test_one_optimizer_for_tables_and_the_rest(device):
    """The rest is updated as by AdamW; a norm is that of all."""
    model, optimizer = mixed()
    other = net(6, sparse=False)
    table, *rest = other.parameters()
    groups = [{"params": table, "weight_decay": 0.0}, {"params": rest}]
    dense = optim.AdamW(groups, 0.1, eps=1e-300, weight_decay=0.1)
    ids = np.arange(ROWS)
    for _ in range(3):
        for of, update in ((model, optimizer), (other, dense)):
            update.zero_grad()
            (of(ids) * of(ids)).sum().backward()
            update.clip_grad_norm(3.0)
            update.step()
    for p, q in zip(other.parameters(), model.parameters(), strict=True):
        np.testing.assert_allclose(q.numpy(), p.numpy(), rtol=1e-10)


def test_a_state_goes_on_with_the_same_bits(device):
    model, optimizer = mixed()

    def step(of, update, seed):
        ids = np.random.default_rng(seed).integers(0, ROWS, 9)
        update.zero_grad()
        (of(ids) * of(ids)).sum().backward()
        update.step()

    for seed in range(3):
        step(model, optimizer, seed)
    again, other = mixed()
    again.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    assert [g["sparse"] for g in other.param_groups] == [False, True]
    for seed in range(3, 5):
        step(model, optimizer, seed)
        step(again, other, seed)
    assert other.steps == 5
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_a_dense_gradient_is_refused_with_the_fix():
    layer = nn.Embedding(9, 4, sparse=True)
    optimizer = optim.SparseAdam(layer.parameters())
    ops.linear(layer(np.array([1, 2])), layer.weight).sum().backward()  # tied weights
    want = np.zeros((9, 4)) + layer.weight.data[[1, 2]].sum(0)
    want[[1, 2]] += layer.weight.data.sum(0)
    np.testing.assert_allclose(layer.weight.grad, want, rtol=1e-5)
    with pytest.raises(RuntimeError, match=r"table \(9, 4\) is an array.*sparse=True.*\"sparse\": False"):
        optimizer.step()
    optimizer.zero_grad()
    layer(np.array([1, 2])).sum().backward()
    optimizer.step()


def test_a_state_of_another_optimizer_is_refused():
    tables = [gp.Parameter(np.ones((9, 4), np.float32)) for _ in range(2)]
    saved = optim.AdamW(tables[:1], weight_decay=0.1).state_dict()
    with pytest.raises(gp.CheckpointError, match=r"weight_decay of 0\.1 for tables \(group 0\)"):
        optim.SparseAdam(tables[1:]).load_state_dict(saved)


def test_a_refused_step_changes_nothing(device):
    model, optimizer = mixed()
    ids = np.array([1, 2])
    (model(ids).sum() + model.layers[0].weight.sum()).backward()
    before = [p.numpy().copy() for p in model.parameters()]
    with pytest.raises(RuntimeError, match=r"table \(40, 6\) is an array"):
        optimizer.step()
    assert optimizer.steps == 0
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.numpy(), old)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("ids", [[PADDING, PADDING], []])
def test_a_gradient_of_no_row_is_zero(device, dtype, ids):
    layer = table(8, dtype)
    layer(np.array(ids, np.int64)).backward(np.ones((len(ids), 8), dtype))
    grad = layer.weight.grad
    assert grad.coalesce().ids.size == 0
    assert not np.asarray(grad).any()
    assert optim.clip_grad_norm_([layer.weight], 1.0).item() == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([gp.Parameter(np.zeros(5))], r"shape \(5,\) is none.*\"sparse\": False"),
        ([nn.Linear(2, 3).weight], r"shape \(3, 2\) is none"),
        ([gp.Parameter(np.zeros((2, 3), np.float16))], "float32 or float64, not float16"),
        ([{"params": [gp.Parameter(np.zeros((2, 3)))], "weight_decay": 0.1}], "weight_decay of 0.1"),
    ],
)
def test_what_cannot_be_updated_is_refused_before_anything_changes(parameters, message):
    with pytest.raises(ValueError, match=message):
        optim.SparseAdam(parameters)


def test_other_optimizers_and_computed_tables_get_the_whole_gradient(device):
    found = []
    for make in (lambda p: None, optim.Adam):
        layer = table(8)
        make([layer.weight])
        ids, dy = next(batches(8))
        layer(ids).backward(dy)
        (layer.weight * 2.0).sum().backward()  # not of rows
        found.append(to_host(layer.weight.grad))
    np.testing.assert_allclose(*found, rtol=1e-12)
    t = gp.tensor(np.ones((9, 2)), requires_grad=True)
    ops.embedding(np.array([1, 1]), t * 3.0, sparse=True).sum().backward()
    assert to_host(t.grad)[:2].tolist() == [[0, 0], [6, 6]]


def test_gradients_of_rows_add_up_and_are_clipped(device):
    layer = table(8)
    whole = np.zeros((ROWS, 8))
    for ids, dy in batches(8):
        layer(ids).backward(dy)
        ops.embedding(ids, layer.weight, padding_idx=5, sparse=True).backward(dy)
        for skipped in (PADDING, 5):
            keep = ids.ravel() != skipped
            np.add.at(whole, ids.ravel()[keep], dy.reshape(-1, 8)[keep])
    grad = layer.weight.grad
    assert isinstance(grad, RowGradient)
    assert (grad.shape, grad.dtype, grad.size) == ((ROWS, 8), np.float64, 8 * ROWS)
    np.testing.assert_allclose(np.asarray(grad), whole, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(to_host(grad.to_dense()), whole, rtol=1e-12, atol=1e-12)
    found = grad.coalesce()
    assert to_host(found.ids).tolist() == np.flatnonzero(whole.any(1)).tolist()
    norm = np.sqrt((whole**2).sum())
    assert optim.clip_grad_norm_([layer.weight], 1.0).item() == pytest.approx(norm, rel=1e-12)
    np.testing.assert_allclose(np.asarray(layer.weight.grad), whole / (norm + 1e-6), rtol=1e-9, atol=1e-15)
    optim.clip_grad_value_([layer.weight], 1e-2)
    want = np.clip(whole / norm, -1e-2, 1e-2)
    np.testing.assert_allclose(np.asarray(layer.weight.grad), want, rtol=1e-5, atol=1e-12)
    layer.weight.grad = grad
    assert layer.weight.grad is grad
    for scaled in (grad * 0.5, np.float64(0.5) * grad, grad / 2, grad * to_device(np.array([0.5]))):
        assert scaled.dtype == np.float64
        np.testing.assert_allclose(np.asarray(scaled), whole / 2, rtol=1e-12, atol=1e-12)
    with pytest.raises(TypeError, match="RowGradient"):
        grad * to_device(np.ones(2))
    with pytest.raises(gp.ShapeError, match=r"tables \(40, 8\) and \(41, 8\)"):
        grad + RowGradient(grad.ids, grad.values, (41, 8))


def test_the_gradient_of_rows_is_that_of_the_table(device):
    start = np.random.default_rng(0).standard_normal((6, 5))
    ids = np.array([[1, 4, 1], [0, 2, 1]])
    gradcheck(lambda t: ops.embedding(ids, t, sparse=True) * t[0], [start])


def test_ids_may_be_overwritten_after_backward(device):
    layer, ids = table(8), np.array([1, 2])
    layer(ids).backward(np.ones((2, 8)))
    ids[:] = 7
    assert np.flatnonzero(np.asarray(layer.weight.grad).any(1)).tolist() == [1, 2]


def test_a_gradient_of_other_sizes_is_refused():
    with pytest.raises(ValueError, match=r"not \(2,\), \(3, 4\) and \(9, 4\)"):
        RowGradient(np.zeros(2, int), np.zeros((3, 4)), (9, 4))


def test_memory_of_a_step_is_that_of_its_rows():
    """A table of 25 MB; none of what a step makes is of that order, where Adam's gradient is."""
    layer = nn.Embedding(400_000, 16, sparse=True)
    optimizer = optim.SparseAdam(layer.parameters())
    ids = np.random.default_rng(0).integers(0, 400_000, (8, 16))

    def step():
        optimizer.zero_grad()
        layer(ids).sum().backward()
        optimizer.clip_grad_norm(1.0)
        optimizer.step()

    step()
    tracemalloc.start()
    step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400_000
    assert optimizer.arenas[0].grads.size == 0
