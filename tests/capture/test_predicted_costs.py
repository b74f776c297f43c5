"""`gp.cost` says from shapes what the fake GPU counts when the operation runs, and what `gp.explain` says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops, optim
from gpuprop.backend import gemm
from gpuprop.costs.cost import FORMULAS, np_dtype
from gpuprop.ops import conv1d_products
from gpuprop.ops.conv1d_depthwise import MOST_BLOCKS, cut_of

NUMBERS = 64  # bytes a launch of numbers and flags, which do not count


class Ids(NamedTuple):
    """Whole numbers of this shape, below `stop`."""

    shape: tuple[int, ...]
    stop: int


class Fixed(NamedTuple):
    """An array of this shape that is no tensor, and has no gradient."""

    shape: tuple[int, ...]


class Filters(NamedTuple):
    """(O, K, C), in memory as layers keep them."""

    shape: tuple[int, ...]


def run(op: str, inputs: tuple[Any, ...], options: dict[str, Any], dtype: Any) -> Any:
    """The first result of an operation on inputs of the device."""
    return first(getattr(ops, op)(*(_made(x, dtype) for x in inputs), **options))


def first(y: Any) -> Any:
    return y[0] if isinstance(y, tuple) else y


def _made(x: Any, dtype: Any) -> Any:
    rng = np.random.default_rng(0)
    if isinstance(x, Ids):
        return gp.tensor(rng.integers(0, x.stop, x.shape))
    if isinstance(x, Fixed):
        return gp.tensor(rng.uniform(0.5, 1.0, x.shape).astype(dtype)).data
    if isinstance(x, Filters):
        return gp.Parameter(_made(x.shape, dtype).data, order=(1, 2, 0))
    if isinstance(x, tuple) and all(isinstance(n, int) for n in x):
        return gp.tensor(rng.uniform(0.5, 1.0, x).astype(dtype), requires_grad=True)
    return type(x)(_made(part, dtype) for part in x) if isinstance(x, (list, tuple)) else x


def shapes(inputs: tuple[Any, ...]) -> Iterator[Any]:
    for x in inputs:
        if isinstance(x, (Ids, Fixed, Filters)):
            yield x.shape
        else:
            yield tuple(shapes(x)) if isinstance(x, tuple) else x


N, C = 64, 256
ONE, TWO = ((N, C),), ((N, C), (N, C))
LOGITS = ((N, C), Ids((N,), C))
WIDE = (16, 64, 32)  # texts whose convolutions are products


def weights(gates: int, inputs: int, size: int) -> tuple[tuple[int, ...], ...]:
    return (gates * size, inputs), (gates * size, size), (gates * size,), (gates * size,)


CASES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *[
        (name, ONE, {})
        for name in ("absolute", "exp", "gelu", "log", "relu", "sigmoid", "sqrt", "tanh", "glu")
    ],
    *[(name, TWO, {}) for name in ("add", "subtract", "multiply", "divide")],
    *[(name, ((N, C), (C,)), {}) for name in ("add", "subtract", "multiply", "divide")],
    *[(name, ((8, 1, C), (8, 32, 1)), {}) for name in ("add", "multiply")],
    *[(name, ((N, C), 2.0), {}) for name in ("add", "subtract", "multiply", "divide")],
    *[("power", ((N, C), exponent), {}) for exponent in (2, 3.0)],
    *[(name, ONE, {"axis": axis}) for name in ("sum", "mean", "max") for axis in (None, 0, -1)],
    ("softmax", ONE, {}),
    ("log_softmax", ONE, {}),
    ("reshape", ((N, C), C, N), {}),
    ("transpose", ONE, {}),
    ("swapaxes", ((N, C), 0, 1), {}),
    ("concatenate", ([(N, C), (2, C)],), {}),
    ("stack", ([(N, C), (N, C)],), {"axis": 1}),
    ("split_heads", ((8, 32, 64), 4), {}),
    ("join_heads", ((8, 4, 32, 16),), {}),
    ("gelu", ONE, {"approximate": "none"}),
    ("linear", ((N, C), (96, C)), {}),
    ("linear", ((N, C), (96, C), (96,)), {}),
    ("linear", ((4, 16, C), (96, C), (96,)), {"activation": "relu"}),
    *[
        ("feed_forward", ((4, 16, C), (96, C), (96,), (40, 96), (40,)), form)
        for form in ({}, {"activation": "gelu"}, {"activation": "gelu", "approximate": "none"})
    ],
    ("feed_forward", ((N, 9), (13, 9), None, (130, 13), None, (7, 130), None), {"activation": "gelu"}),
    ("feed_forward", ((N, 9), (13, 9), (13,), (130, 13), (130,), (1, 130), (1,)), {}),
    *[
        ("feed_forward", ((N, C), (width, C), (width,), (40, width), (40,)), {"dropout": 0.1, **form})
        for width in (96, 90)
        for form in ({"stream": 3}, {"stream": 4, "activation": "gelu"})
    ],
    ("matmul", ((N, C), (C, 32)), {}),
    ("matmul", ((8, 32, 64), (8, 64, 16)), {}),
    ("matmul", ((8, 32, 64), (64, 16)), {}),
    ("softmax_cross_entropy", LOGITS, {}),
    ("softmax_cross_entropy", LOGITS, {"reduction": "sum", "label_smoothing": 0.1}),
    ("softmax_cross_entropy", LOGITS, {"reduction": "none"}),
    ("softmax_cross_entropy", ((4000, 5), Ids((4000,), 5)), {}),
    ("softmax_cross_entropy", ((2, 3, 9000), Ids((2, 3), 9000)), {}),
    ("binary_cross_entropy", ((N, C), Fixed((N, C))), {}),
    ("layer_norm", ((N, C), (C,), (C,)), {}),
    ("layer_norm", ((300, 37), (37,), (37,)), {}),
    *[
        ("residual_layer_norm", ((N, width), (N, width), (width,), (width,)), {"dropout": p, "stream": 3})
        for width in (C, 37)
        for p in (0.0, 0.1)
    ],
    ("embedding", (Ids((8, 32), 16), (16, 64)), {}),
    ("embedding", (Ids((8, 32), 16), (16, 45)), {"padding_idx": 0}),
    ("embedding", (Ids((32,), 16), (16, 64)), {}),
    ("embedding", (Ids((32,), 16), (16, 64)), {"sparse": True}),
    ("dropout", ((N, C), 0.5), {}),
    ("scaled_dot_product_attention", ((8, 32, 64), (8, 16, 64), (8, 16, 40)), {}),
    ("scaled_dot_product_attention", ((2, 4, 70, 16),) * 3, {"causal": True}),
    ("attention_weights", ((8, 32, 64), (8, 16, 64)), {}),
    ("attention", ((8, 32, 64), (8, 16, 64), (8, 16, 40)), {}),
    ("attention", ((8, 32, 64), (8, 16, 64), (8, 16, 40)), {"dropout": 0.1, "stream": 3}),
    ("additive_attention_weights", ((8, 32, 64), (8, 16, 64), (64,)), {}),
    ("additive_attention_weights", ((8, 1, 64), (8, 16, 64), (64,)), {}),
    ("max_over_time", ((8, 32, 64),), {}),
    ("mean_over_time", ((8, 32, 64),), {}),
    *[
        (name, ((4, 33, 48), 3), form)
        for name in ("max_pool1d", "avg_pool1d")
        for form in ({}, {"stride": 2, "padding": 1}, {"stride": 40})
    ],
    ("avg_pool1d", ((4, 33, 48), 5, 5, 2), {"count_include_pad": False}),
    *[("getitem", ((8, 32, 64), index), {}) for index in (3, (slice(2, 9, 3), 1), (..., None, slice(9)))],
    ("getitem", ((8, 64), Ids((40,), 8)), {}),
    ("getitem", ((8, 2, 64), (Ids((600,), 8), slice(None), Ids((600,), 64))), {}),
    *[("conv1d", (WIDE, Filters((64, 3, 32)), *bias), {}) for bias in ((), ((64,),))],
    ("conv1d", (WIDE, Filters((64, 5, 32)), (64,)), {"padding": "same"}),
    ("conv1d", (WIDE, Filters((64, 3, 32)), (64,)), {"padding": (1, 0), "stride": 2}),
    ("conv1d", (WIDE, Filters((96, 1, 32)), (96,)), {}),
    ("conv1d", (WIDE, Filters((64, 3, 32)), (64,)), {"dilation": 2}),
    ("conv1d", ((4, 9, 20), Filters((7, 3, 20)), (7,)), {}),
    ("conv1d", ((4, 9, 12), Filters((24, 3, 1)), (24,)), {"groups": 12}),
    *[("conv1d", ((4, 99, 64), Filters((64, 4, 1)), *bias), {"groups": 64}) for bias in ((), ((64,),))],
    ("gru", ((4, 8, 24), *weights(3, 24, 32)), {}),
    ("gru", ((4, 8, 24), *weights(3, 24, 32), (4, 32)), {"reverse": True}),
    ("gru", ((4, 3, 24), *weights(3, 24, 160)), {}),  # by clusters
    ("gru", ((200, 2, 8), *weights(3, 8, 160)), {}),  # by blocks that do not hold all of the weights
    ("lstm", ((4, 8, 24), *weights(4, 24, 32), (4, 32), (4, 32)), {}),
    *[("gru", (shape, *weights(3, 8, size)), {}) for shape, size in (((4, 1, 8), 16), ((2, 3, 8), 513))],
    ("gru", ((4, 1, 8), *weights(3, 8, 16), (4, 16)), {"reverse": True}),
    *[("lstm", (shape, *weights(4, 8, size)), {}) for shape, size in (((4, 1, 8), 16), ((2, 3, 8), 513))],
    ("lstm", ((4, 1, 8), *weights(4, 8, 16), (4, 16), (4, 16)), {}),
    ("bidirectional", (ops.gru, (4, 8, 24), [list(weights(3, 24, 32))] * 2, [[None], [None]]), {}),
    ("bidirectional", (ops.lstm, (4, 8, 24), [list(weights(4, 24, 32))] * 2, [[None, None]] * 2), {}),
    ("bidirectional", (ops.lstm, (3, 2, 8), [list(weights(4, 8, 168))] * 2, [[None, None]] * 2), {}),
]


def name_of(case: Any) -> str:
    return f"{case[0]}-{'-'.join(map(str, case[2].values()))}"


# The others do in float64 what they do in float32.
NORMS, RECURRENT = ("layer_norm", "residual_layer_norm"), ("gru", "lstm", "bidirectional")
OWN_WAY = ("conv1d", "linear", "feed_forward", "scaled_dot_product_attention", *NORMS, *RECURRENT)
TYPED = [
    (case, dtype)
    for dtype in ("float32", "float16", "float64")
    for case in CASES
    if dtype != "float64" or case[0] in OWN_WAY
]


def counted(machine: Any) -> tuple[int, int]:
    """Launches and bytes. The last kernel of cross-entropy reads nothing where dy is 1."""
    moved = sum(c.moved for c in machine.costs if c.name != "softmax_cross_entropy_scale")
    return len(machine.costs), moved


@pytest.mark.parametrize(("case", "dtype"), TYPED, ids=lambda x: x if isinstance(x, str) else name_of(x))
def test_launches_and_bytes_are_those_that_the_fake_gpu_counts(fake_gpu: Any, case: Any, dtype: str) -> None:
    op, inputs, options = case
    found = gp.cost(op, *shapes(inputs), dtype=dtype, **options)
    run(op, inputs, options, dtype)  # what is made once and kept
    made = [_made(x, dtype) for x in inputs]
    fake_gpu.costs.clear()
    y = first(getattr(ops, op)(*made, **options))
    forward = counted(fake_gpu)
    dy = gp.get_xp(y.data).ones(y.shape, y.dtype)
    fake_gpu.costs.clear()
    y.backward(dy)
    for part, (launches, moved) in ((found.forward, forward), (found.backward, counted(fake_gpu))):
        assert part.launches == launches
        assert 0 <= moved - part.bytes <= NUMBERS * launches


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_backward_flops_are_those_of_explain(fake_gpu: Any, case: Any) -> None:
    op, inputs, options = case
    y = run(op, inputs, options, "float32")
    rows = gp.explain(y.sum() if y.ndim else y).rows
    own = rows[1:] if y.ndim else rows  # the first is that of the sum
    moves = {"Reshape", "Transpose"} if op in ("stack",) else set()
    flops = sum(row.flops for row in own if row.operation not in moves)
    assert gp.cost(op, *shapes(inputs), **options).backward.flops == flops


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW])
def test_a_step_of_adam(fake_gpu: Any, kind: Any, clip: bool) -> None:
    """28 bytes a parameter, and 4 more to clip."""
    sizes = (9008, 303, 700)
    parameters = [gp.Parameter(gp.tensor(np.ones(n, np.float32)).data) for n in sizes]
    optimizer = kind(parameters)
    for _ in range(2):  # the first makes what is kept
        fake_gpu.costs.clear()
        for p in parameters:
            p.grad = gp.get_xp(p.data).ones(p.shape, p.dtype)
        fake_gpu.costs.clear()
        if clip:
            optimizer.clip_grad_norm(1.0)
        optimizer.step()
    found = gp.cost(kind, *((n,) for n in sizes), clip=clip).forward
    launches, moved = counted(fake_gpu)
    assert found.launches == launches == 1 + clip
    assert 0 <= moved - found.bytes <= 4 * NUMBERS
    one = gp.cost(kind, (1 << 20,), clip=clip).forward
    assert one.bytes == (28 << 20) + clip * ((4 << 20) + 4096)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("places", [30, 200])
def test_a_step_of_sparse_adam(fake_gpu: Any, clip: bool, places: int) -> None:
    """24 bytes an element of the rows that occur and 4 of their gradient, however large the table is."""
    table = gp.Parameter(gp.tensor(np.ones((5, 64), np.float32)).data)
    optimizer = optim.SparseAdam([table])
    for _ in range(2):
        optimizer.zero_grad()
        ops.embedding(gp.tensor(np.arange(places) % 5), table, sparse=True).sum().backward()
        fake_gpu.costs.clear()
        if clip:
            optimizer.clip_grad_norm(1.0)
        optimizer.step()
    found = gp.cost(optim.SparseAdam, (5, 64), (places,), clip=clip).forward
    launches, moved = counted(fake_gpu)
    assert found.launches == launches == 2 + 2 * clip + (places > 32)
    assert 0 <= moved - found.bytes <= 3 * NUMBERS * launches + clip * 4 * 2 * places // 8
    large = gp.cost(optim.SparseAdam, (1 << 20, 256), (8192,), clip=clip).forward
    assert large == gp.cost(optim.SparseAdam, (1 << 30, 256), (8192,), clip=clip).forward
    assert (28 << 21) < large.bytes < (36 << 21) + clip * (5 << 21)


def test_inputs_that_need_no_gradient_cost_less(fake_gpu: Any) -> None:
    x, weight = gp.tensor(np.ones((8, 16), np.float32)), gp.tensor(np.ones((4, 16), np.float32))
    weight.requires_grad = True
    whole, part = gp.cost(ops.linear, (8, 16), (4, 16)), gp.cost(ops.linear, x, weight)
    assert part.forward == whole.forward
    assert (part.backward.launches, whole.backward.launches) == (1, 2)
    assert 2 * part.backward.flops == whole.backward.flops


def test_huge_shapes_cost_nothing_to_ask_about() -> None:
    """8192 x 131072 logits in bfloat16 are 2 GiB: two passes over them, forward and backward together."""
    pytest.importorskip("ml_dtypes")
    found = gp.cost("softmax_cross_entropy", (8192, 131072), (8192,), dtype="bfloat16")
    assert np_dtype("bfloat16").itemsize == 2
    passes = found.total.bytes / (2 * 8192 * 131072)
    assert passes == pytest.approx(2, rel=1e-3)
    assert "GiB" in repr(found)
    assert [line.split()[0] for line in repr(found).splitlines()[1:]] == ["forward", "backward", "total"]


@pytest.mark.parametrize("shape", [(64, 512, 768), (3072, 200, 64), (8, 4096, 1024), (1, 65536, 256)])
def test_depthwise_convolutions_move_little_more_than_the_floor(shape: tuple[int, int, int]) -> None:
    """x and y once, forward; x, dy and dx once, backward; and partial sums, and rows loaded by two runs."""
    pytest.importorskip("ml_dtypes")
    channels, kernel = shape[2], 4
    inputs = (shape, (channels, kernel, 1), (channels,))
    found = gp.cost(ops.conv1d, *inputs, padding="causal", groups=channels, dtype="bfloat16")
    one = 2 * np.prod(shape)
    assert found.forward.bytes <= 2.001 * one
    assert found.backward.bytes <= 3.2 * one
    cut = cut_of(shape, 2, shape[1], 1, MOST_BLOCKS)
    assert 1 + (cut.pieces - 1) * (kernel - 1) / shape[1] <= 1.1


def test_what_is_not_known_says_what_is() -> None:
    with pytest.raises(
        ValueError, match=r"the cost of flip is not known; of these it is: Adam, AdamW, SparseAdam"
    ):
        gp.cost("flip", (2, 3, 4))
    with pytest.raises(ValueError, match="both directions is known where one kernel takes all times"):
        gp.cost(ops.bidirectional, ops.gru, (4, 1, 24), [list(weights(3, 24, 32))] * 2, [[None], [None]])


@pytest.mark.parametrize(
    ("inputs", "options", "why"),
    [
        (((64, 300),), {}, "missing 1 required positional argument: 'weight'"),
        ((64, 300), {}, "not \\(64, 300\\) and"),
        (([64, 300], [100, 300]), {"activaton": "relu"}, "unexpected keyword argument 'activaton'"),
        (((64, 300), (100, 300)), {"dtype": "bf16"}, "data type 'bf16' not understood"),
    ],
)
def test_what_an_operation_does_not_take(inputs: Any, options: Any, why: str) -> None:
    with pytest.raises(TypeError, match=f"gp.cost of linear takes a shape, such as .*{why}"):
        gp.cost("linear", *inputs, **options)
    assert gp.cost("linear", [64, 300], [100, 300]) == gp.cost("linear", (64, 300), (100, 300))


OWN_TESTS = {
    "cast", "conv1d_relu_max", "linear_cross_entropy", "pack", "pack_labels", "packing_of", "unpack",
}  # fmt: skip


def test_every_public_operation_is_known() -> None:
    public = {name for name in ops.__all__ if name[0].islower()}
    assert public <= set(FORMULAS)
    assert set(FORMULAS) - public == {"Adam", "AdamW", "SparseAdam"}
    assert public & set(FORMULAS) - {op for op, *_ in CASES} == OWN_TESTS


@pytest.mark.parametrize("tensor_cores", [False, True])
def test_a_maximum_over_time_of_convolutions(
    fake_gpu: Any, tensor_cores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights lie in memory as a layer keeps them. Five widths are two groups. For tensor cores forward is a
    copy with padding, some products and a walk a width."""
    if tensor_cores:
        monkeypatch.setattr(gemm, "_float32", "high")
        monkeypatch.setattr(conv1d_products, "LEAST", 1)
    widths = [(24, 3), (32, 4), (40, 5), (16, 1), (16, 2)]
    layers = [gp.nn.Conv1d(32, f, k, padding=k - 1) for f, k in widths]
    x = _made((16, 64, 32), "float32")
    mask = gp.tensor(np.arange(64) < np.arange(16)[:, None] * 4).data
    pairs, paddings = [(c.weight, c.bias) for c in layers], [c.padding for c in layers]
    for count, launches in ((3, 2), (5, 4)):
        for leaf in (x, *(p for pair in pairs for p in pair)):
            leaf.grad = None
        inputs = x, pairs[:count], mask
        ops.conv1d_relu_max(*inputs, paddings=paddings[:count])
        fake_gpu.costs.clear()
        y = ops.conv1d_relu_max(*inputs, paddings=paddings[:count])
        forward = counted(fake_gpu)
        dy = gp.get_xp(y.data).ones(y.shape, y.dtype)
        fake_gpu.costs.clear()
        y.backward(dy)
        found = gp.cost(ops.conv1d_relu_max, *inputs, paddings=paddings[:count])
        for part, (n, moved) in ((found.forward, forward), (found.backward, counted(fake_gpu))):
            assert part.launches == n
            assert 0 <= moved - part.bytes <= NUMBERS * n
        again = ops.conv1d_relu_max(*inputs, paddings=paddings[:count]).sum()
        assert found.backward.launches == launches
        assert (found.forward.launches == launches) is not tensor_cores
        (row,) = [row for row in gp.explain(again).rows if row.operation == "ConvReluMax"]
        assert found.backward.flops == row.flops
        windows = sum(16 * (64 + k - 1) * f * (2 * k * 32) for f, k in widths[:count])
        assert found.forward.flops == windows + y.size


def test_a_cast(fake_gpu: Any) -> None:
    x = _made((N, C), "float32")
    fake_gpu.costs.clear()
    y = ops.cast(x, "float16")
    assert counted(fake_gpu) == (1, 6 * N * C)
    fake_gpu.costs.clear()
    y.backward(gp.get_xp(y.data).ones(y.shape, y.dtype))
    found = gp.cost(ops.cast, (N, C), "float16")
    assert (found.backward.launches, found.backward.bytes) == (1, 6 * N * C)
    assert found.forward == found.backward
