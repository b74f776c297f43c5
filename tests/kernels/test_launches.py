"""What an operation launches, and how many bytes its kernels have to move."""

from __future__ import annotations

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import optim
from gpuprop.backend import kernels
from gpuprop.ops import persistent_kernels
from gpuprop.testing import unavailable

REASON = unavailable("emulated")
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"emulated: {REASON}")
SMALL = 1 << 13  # bytes: smaller arrays (scalars, partial sums) do not count
IN_PLACE = {  # arguments that are read and written
    "adam": {"p", "m", "v"},
    "sparse_adam": {"p", "m", "v"},
    "sparse_adam_finish": {"p", "m", "v"},
    "gru_forward": {"gates"},
    "gru_backward": {"gates", "carry"},
    "lstm_forward": {"gates"},
    "lstm_backward": {"gates", "carry", "cell"},
    **{
        f"{cell}_{by}_{way}": {"gates"}
        for cell in ("gru", "lstm")
        for by in ("sequence", "cluster")
        for way in ("forward", "backward")
    },
}


@pytest.fixture
def launches(monkeypatch):
    """Kernel and bytes of each launch."""
    seen: list[tuple[str, int]] = []
    launch = kernels.Kernel.__call__

    def recorded(self, grid, block, args, shared_mem=0):
        name = self.name.partition("<")[0]
        arrays = [
            (parameter.name, a.nbytes)
            for parameter, a in zip(self.parameters, args, strict=True)
            if isinstance(a, np.ndarray) and a.nbytes >= SMALL
        ]
        seen.append((name, sum(n * (1 + (p in IN_PLACE.get(name, ()))) for p, n in arrays)))
        launch(self, grid, block, args, shared_mem)

    monkeypatch.setattr(kernels.Kernel, "__call__", recorded)
    with gp.use_device("emulated"):
        yield seen


@pytest.mark.parametrize("clipped", [False, True])
def test_adam_is_one_launch_of_28_bytes_a_parameter(launches, clipped):
    params = [gp.Parameter(np.ones(n, np.float32)) for n in (9008, 304, 700)]  # whole multiples of 16
    optimizer = optim.AdamW(params)
    for p in params:
        p.grad = np.ones(p.shape, np.float32)
    if clipped:
        optimizer.clip_grad_norm(1.0)
    optimizer.step()
    norm = [("gradient_norm", 4 * 10_012)] if clipped else []
    assert launches == [*norm, ("adam", 28 * 10_012)]


def test_layer_norm_reads_x_and_dy_once(launches):
    """The forward pass moves x and y; the backward pass x, dy and dx. Mean and scale of a row are 8 bytes."""
    rows, width = 4096, 64
    leaves = [
        gp.tensor(np.ones(shape, np.float32), requires_grad=True) for shape in ((rows, width), width, width)
    ]
    gp.ops.layer_norm(*leaves).backward(np.ones((rows, width), np.float32))
    partial = 256 * 2 * width * 4
    assert launches == [
        ("layer_norm_forward_warp", 2 * 4 * rows * width + 8 * rows),
        ("layer_norm_backward_warp", 3 * 4 * rows * width + 8 * rows + partial),
        ("layer_norm_sum_partials", partial),
    ]


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_a_residual_with_dropout_and_its_norm_read_and_write_each_array_once(launches, p):
    """Forward moves x, r, s and y; backward s, ds, dy, dx and, where something is dropped, dr."""
    rows, width = 4096, 64
    shapes = ((rows, width), (rows, width), width, width)
    leaves = [gp.tensor(np.ones(shape, np.float32), requires_grad=True) for shape in shapes]
    y, total = gp.ops.residual_layer_norm(*leaves, dropout=p)
    assert launches == [("residual_layer_norm_forward_warp", 4 * 4 * rows * width + 8 * rows)]
    launches.clear()
    gp.stack([y, total]).backward(np.ones((2, rows, width), np.float32))
    partial = 256 * 2 * width * 4
    assert launches == [
        ("residual_layer_norm_backward_warp", (4 + (p > 0)) * 4 * rows * width + 8 * rows + partial),
        ("layer_norm_sum_partials", partial),
    ]


def test_gelu_and_relu_are_one_pass_each(launches):
    """GELU makes its slope again from x: 2 arrays forward and 3 backward, instead of 3 and 3."""
    x = gp.tensor(np.ones((512, 64), np.float32), requires_grad=True)
    gp.ops.gelu(x).sum().backward()
    assert launches == [("activation_forward", 2 * x.data.nbytes), ("activation_backward", 3 * x.data.nbytes)]


def test_bias_and_relu_of_a_layer(launches):
    """Bias and ReLU in place; the mask of the gradient; the sums of the bias, in parts of 32 rows."""
    shapes = ((512, 16), (64, 16), 64)
    x, weight, bias = (gp.tensor(np.ones(s, np.float32), requires_grad=True) for s in shapes)
    y = gp.ops.linear(x, weight, bias, activation="relu")
    y.backward(np.ones(y.shape, np.float32))
    n = y.data.nbytes
    assert launches == [
        ("activation_forward", 2 * n),
        ("activation_backward", 3 * n),
        ("activation_backward", n),
        ("activation_sum_partials", 0),
    ]


def test_an_embedding_is_two_passes_each_way(launches):
    """Rows are read and written; their gradients are read and added to the table, after a sort of the ids."""
    places, columns, rows = 1024, 64, 64
    table = gp.tensor(np.ones((rows, columns), np.float32), requires_grad=True)
    ids = np.arange(places) % rows
    y = gp.ops.embedding(ids, table)
    y.backward(np.ones(y.shape, np.float32))
    n, sums = y.data.nbytes, 2 * places // 32 * columns * 4
    assert launches == [
        ("embedding_forward", n + table.data.nbytes + ids.nbytes),
        ("rank_ids", ids.nbytes),  # keys and order are small
        ("embedding_backward", n + table.data.nbytes + sums),
        ("embedding_backward_finish", table.data.nbytes + sums),
    ]


def test_adam_of_rows_reads_them_and_their_gradient_alone(launches):
    """Without clipping the gradient is read once, and p, m and v of the rows that occur, here of the whole
    table, are read and written. Nothing of the size of a table is made."""
    places, columns, rows = 1024, 64, 64
    table = gp.Parameter(np.ones((rows, columns), np.float32))
    optimizer = optim.SparseAdam([table])
    y = gp.ops.embedding(np.arange(places) % rows, table, sparse=True)
    y.backward(np.ones(y.shape, np.float32))
    del launches[:]
    optimizer.step()
    n, sums = y.data.nbytes, 2 * places // 32 * columns * 4
    assert launches == [
        ("rank_ids", 8 * places),  # keys and order are small
        ("sparse_adam", n + 6 * table.data.nbytes + sums),
        ("sparse_adam_finish", 6 * table.data.nbytes + sums),
    ]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    ("rows", "classes", "kernel"), [(2048, 8, "slab"), (128, 256, "row"), (2, 8200, "row")]
)
def test_cross_entropy_is_two_passes(launches, rows, classes, kernel, dtype):
    """Logits are read and the gradient is written, both once; targets count what the mean is divided by. The
    last launch reads nothing where the loss is what is differentiated."""
    z = gp.tensor(np.zeros((rows, classes), dtype), requires_grad=True)
    targets = np.zeros(rows, np.int64)
    gp.ops.softmax_cross_entropy(z, targets).backward()
    half = dtype == np.float16
    of_targets, of_rows = (rows * n if rows * n >= SMALL else 0 for n in (8, 4 * half))
    moved = 2 * z.data.nbytes + of_targets + of_rows
    assert launches[:2] == [
        ("softmax_cross_entropy_total", of_targets), (f"softmax_cross_entropy_{kernel}", moved)
    ]  # fmt: skip
    assert [name for name, _ in launches[2:]] == [f"softmax_cross_entropy_{'backward' if half else 'scale'}"]


@pytest.mark.parametrize(("name", "gates", "numbers"), [("gru", 3, (13, 14)), ("lstm", 4, (18, 15))])
def test_a_time_step_is_one_kernel_each_way(launches, monkeypatch, name, gates, numbers):
    """Beside its product. Forward moves W x, W h, the gates, the states and the output, backward the gates,
    their gradients, the states and dy: so many numbers for each of the state; each is moved once."""
    monkeypatch.setattr(persistent_kernels, "fits", lambda *_: False)
    batch, size = 64, 64
    for length in (1, 2):
        launches.clear()
        shapes = ((batch, length, 8), (gates * size, 8), (gates * size, size), gates * size, gates * size)
        leaves = [gp.tensor(np.zeros(s, np.float32), requires_grad=True) for s in shapes]
        output = getattr(gp.ops, name)(*leaves)[0]
        output.backward(np.ones(output.shape, np.float32))
        found = [launch for launch in launches if launch[0].startswith(name)]
        assert [kernel for kernel, _ in found] == [f"{name}_forward"] * length + [f"{name}_backward"] * length
        if length == 1:
            assert [moved // (4 * batch * size) for _, moved in found] == list(numbers)


@pytest.mark.parametrize(("name", "gates", "numbers"), [("gru", 3, (9, 12)), ("lstm", 4, (12, 11))])
@pytest.mark.parametrize(("by", "size"), [("sequence", 32), ("cluster", 144)])
def test_all_times_are_one_kernel_each_way(launches, name, gates, numbers, by, size):
    """So many numbers for each of the state are moved, each once: forward W x, the gates, what is kept and
    the output, backward all that and dy, and the gradients; the states themselves stay on the chip."""
    batch, length = (16, 40) if by == "sequence" else (5, 8)
    shapes = ((batch, length, 8), (gates * size, 8), (gates * size, size), gates * size, gates * size)
    leaves = [gp.tensor(np.zeros(s, np.float32), requires_grad=True) for s in shapes]
    output = getattr(gp.ops, name)(*leaves)[0]
    output.backward(np.ones(output.shape, np.float32))
    found = [launch for launch in launches if launch[0].startswith(name)]
    assert [kernel for kernel, _ in found] == [f"{name}_{by}_forward", f"{name}_{by}_backward"]
    weights = 4 * gates * size * size
    assert [(moved - weights) / (4 * batch * size * length) for _, moved in found] == list(numbers)
