"""linear_cross_entropy: the two operations that it stands for, finite differences, and its memory."""

import tracemalloc

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops
from gpuprop.backend.arrays import to_host
from gpuprop.errors import DataError, ShapeError
from gpuprop.testing import gradcheck

OPTIONS = [
    {},
    {"reduction": "sum"},
    {"weight": np.arange(1.0, 8.0), "label_smoothing": 0.1},
    {"z_loss": 0.1, "soft_cap": 3.0, "ignore_index": 2},
]


def draw(rows=11, width=5, classes=7, dtype="float64", lead=()):
    rng = np.random.default_rng(0)
    sizes = ((*lead, rows, width), (classes, width), (classes,))
    arrays = [rng.standard_normal(size).astype(dtype) for size in sizes]
    targets = rng.integers(0, classes, (*lead, rows))
    targets[..., 3] = -100
    return arrays, targets


def separately(x, linear_weight, targets, linear_bias=None, chunk_rows=None, **options):
    return ops.softmax_cross_entropy(ops.linear(x, linear_weight, linear_bias), targets, **options)


def run(fn, arrays, targets, upstream=3.0, **options):
    """The loss, and the gradients of `upstream` times it."""
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    bias = leaves[2] if len(leaves) > 2 else None
    loss = fn(*leaves[:2], targets, linear_bias=bias, **options)
    (loss * upstream).backward()
    return [to_host(loss.data), *(to_host(leaf.grad) for leaf in leaves)]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
@pytest.mark.parametrize("chunk_rows", [1, 4, 11, None])
def test_rows_in_chunks_are_a_linear_layer_and_its_loss(device, chunk_rows, options):
    arrays, targets = draw(lead=(2,))
    if options.get("ignore_index") == 2:
        targets[..., 3] = 2
    wanted = run(separately, arrays, targets, **options)
    found = run(ops.linear_cross_entropy, arrays, targets, chunk_rows=chunk_rows, **options)
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_gradients(device, options):
    arrays, targets = draw(rows=5, width=3)
    targets[3] = 2 if options.get("ignore_index") == 2 else -100

    def loss(x, weight, bias):
        return ops.linear_cross_entropy(x, weight, targets, linear_bias=bias, chunk_rows=2, **options)

    gradcheck(loss, arrays)


@pytest.mark.parametrize("wanted", range(2))
def test_gradients_only_where_they_are_wanted_and_without_a_bias(device, wanted):
    arrays, targets = draw(rows=5, width=3)

    def loss(leaf):
        tensors = [gp.tensor(a) for a in arrays[:2]]
        tensors[wanted] = leaf
        return ops.linear_cross_entropy(*tensors, targets, chunk_rows=2)

    gradcheck(loss, [arrays[wanted]])
    with gp.no_grad():
        assert ops.linear_cross_entropy(*arrays[:2], targets, chunk_rows=2).item() > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_with_a_loss_scale(device, dtype):
    """dW is added up in float32: the sum of a chunk would be infinite in float16, and its mean is not."""
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    rows, scale = 4096, 2.0**10
    x = np.full((rows, 8), 64.0).astype(dtype)
    weight, targets = np.zeros((3, 8)).astype(dtype), np.zeros(rows, np.int64)
    loss, dx, dw = run(ops.linear_cross_entropy, [x, weight], targets, upstream=scale, chunk_rows=2048)
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)
    np.testing.assert_allclose(
        dw.astype(np.float64) / scale, np.array([[-2 / 3], [1 / 3], [1 / 3]]) * 64 + 0 * dw, rtol=5e-3
    )
    assert dx.dtype == dtype
    assert not dx.any()


def test_the_bias_and_parameters_of_the_layer(device):
    gp.manual_seed(0)
    arrays, targets = draw(dtype="float32")
    loss = nn.LinearCrossEntropyLoss(5, 7, bias=True, label_smoothing=0.1, chunk_rows=4).to(gp.get_device())
    assert [name for name, _ in loss.named_parameters()] == ["linear.weight", "linear.bias"]
    x = gp.tensor(arrays[0], requires_grad=True)
    value = loss(x, targets)
    assert value.dtype == np.float32
    value.backward()
    found = [to_host(g) for g in (x.grad, loss.linear.weight.grad, loss.linear.bias.grad)]
    values = [arrays[0], loss.linear.weight.numpy(), loss.linear.bias.numpy()]
    wanted = run(separately, values, targets, upstream=1.0, label_smoothing=0.1)[1:]
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [0, 6])
def test_no_row_that_counts_gives_zero(device, rows):
    arrays, _ = draw(rows=rows + 4)
    found = run(ops.linear_cross_entropy, [arrays[0][:rows], *arrays[1:]], np.full(rows, -100), chunk_rows=4)
    assert all(not a.any() for a in found)


def test_a_target_out_of_range_raises_with_its_row_among_all(device):
    arrays, targets = draw()
    targets[9] = 7
    with pytest.raises(DataError, match=r"target 7 at row 9 is outside 0\.\.6"):
        ops.linear_cross_entropy(*(gp.tensor(a) for a in arrays[:2]), targets, chunk_rows=4).item()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"reduction": "none"}, DataError, 'one of mean, sum, not "none"'),
        ({"chunk_rows": 0}, DataError, "chunk_rows is at least 1, not 0"),
        ({"linear_bias": np.ones(5)}, ShapeError, r"\(C,\) but got \(11, 5\), \(7, 5\) and \(5,\)"),
        ({"linear_weight": np.ones((7, 4))}, ShapeError, r"but got \(11, 5\), \(7, 4\) and None"),
        ({"targets": np.zeros(4, int)}, ShapeError, r"expects targets \(11,\)"),
    ],
)
def test_errors_name_what_was_expected(change, error, words):
    (x, weight, _), targets = draw()
    given = {"x": gp.tensor(x), "linear_weight": gp.tensor(weight), "targets": targets} | change
    with pytest.raises(error, match=words):
        ops.linear_cross_entropy(**given)


def test_memory_of_a_few_chunks_and_no_logits():
    rows, width, classes, chunk = 2048, 16, 3000, 128
    arrays, targets = draw(rows, width, classes, "float32")
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays[:2]]

    def peak(fn):
        tracemalloc.start()
        fn(*leaves, targets, chunk_rows=chunk).backward()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    of_chunks, weights = 4 * chunk * classes, 4 * width * classes
    assert peak(ops.linear_cross_entropy) < 3 * of_chunks + 3 * weights + 4 * arrays[0].nbytes
    assert peak(separately) > 4 * rows * classes  # all logits


def test_memory_on_a_gpu(fake_gpu, monkeypatch):
    rows, width, classes, chunk = 1024, 16, 600, 128
    arrays, targets = draw(rows, width, classes, "float32")
    leaves, most = [gp.tensor(a, requires_grad=True) for a in arrays], []
    targets, allocate = gp.tensor(targets), fake_gpu.allocate

    def watched(size):
        memory = allocate(size)
        most.append(fake_gpu.default_pool.used)
        return memory

    monkeypatch.setattr(fake_gpu, "allocate", watched)
    before = fake_gpu.default_pool.used
    loss = ops.linear_cross_entropy(*leaves[:2], targets, linear_bias=leaves[2], chunk_rows=chunk)
    loss.backward()
    of_chunk, weights = 4 * chunk * classes, 4 * width * classes
    assert max(most) - before < 2 * of_chunk + 3 * weights + 2 * arrays[0].nbytes + (1 << 16)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_in_a_captured_step(fake_gpu, dtype):
    arrays, targets = draw(width=8, classes=16, dtype=dtype)
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]

    def step(labels):
        for leaf in leaves:
            leaf.grad = None
        x, weight, bias = leaves
        loss = ops.linear_cross_entropy(x, weight, labels, linear_bias=bias, chunk_rows=4)
        loss.backward()
        return loss, *(leaf.grad for leaf in leaves)

    wanted = run(separately, arrays, targets, upstream=1.0)
    captured = gp.capture(step)
    for _ in range(3):
        found = captured(targets)
    assert (captured.captured, captured.replayed) == (1, 1)
    for got, want in zip(found, wanted, strict=True):
        got, tolerance = got.data if isinstance(got, gp.Tensor) else got, {"float32": 1e-5, "float16": 4e-3}
        np.testing.assert_allclose(to_host(got), want, rtol=tolerance[dtype], atol=tolerance[dtype])


@pytest.mark.parametrize("options", OPTIONS[:2], ids=["mean", "sum"])
def test_pytorch_agrees(options):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn.functional, "linear_cross_entropy", None)
    if theirs is None:
        pytest.skip("this PyTorch has no linear_cross_entropy")
    arrays, targets = draw()
    peers = [torch.from_numpy(a).requires_grad_() for a in arrays]
    x, weight, bias = peers
    loss = theirs(x, weight, torch.from_numpy(targets), linear_bias=bias, **options)
    loss.backward()
    found = run(ops.linear_cross_entropy, arrays, targets, upstream=1.0, chunk_rows=3, **options)
    for got, want in zip(found, (loss.detach(), *(p.grad for p in peers)), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-10, atol=1e-12)
