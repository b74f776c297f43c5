"""Which types our kernels are launched with: the compile gate and the loader read this table."""

from __future__ import annotations

# NumPy type -> C++ types of the stored values and of the arithmetic on them
C_TYPES: dict[str, tuple[str, str]] = {
    "float32": ("float", "float"),
    "float16": ("__half", "float"),
    "bfloat16": ("__nv_bfloat16", "float"),
    "float64": ("double", "double"),
}
_BYTES = {"float": 4, "__half": 2, "__nv_bfloat16": 2, "double": 8}
LABEL_TYPES: dict[str, str] = {"int64": "long long", "int32": "int"}
PACK = 16  # bytes that a thread moves at a time
LAYER_NORM_PACKS = {
    2: (1, 2, 4),
    4: (1, 2, 4, 8),
    8: (1, 2, 4, 8),
}  # by the bytes of an element: packs a lane
ACTIVATIONS = {"identity": 0, "relu": 1, "gelu_tanh": 2, "gelu": 3}  # as in activation.cu
DROPPED_ACTIVATIONS = ("relu", "gelu_tanh")  # which have a kernel together with dropout
ATTENTION_WIDTHS = (64, 128)  # columns that a warp on tensor cores sums in registers
DEPTHWISE_TAPS = (3, 4, 5, 7)  # of filters whose window a thread holds in registers
SEQUENCE_ROWS = (1, 4)  # of the batch that a block of recurrent_sequence.cu owns
TEAMS = (32, 256)  # threads that share a row of the softmax: a warp, or a block
ROW_TEAMS = (*TEAMS, 1024)  # the same, of the kernels that keep a row in shared memory


def _conv1d(value: str, acc: str) -> list[str]:
    names = ("forward", "backward_input", "backward_weight", "backward_bias", "sum_partials")
    narrow = ("forward_narrow", "backward_input_narrow", "backward_weight_narrow")
    pad = [f"conv1d_pad<{value}, {n}>" for n in (PACK // _BYTES[value], 1)]
    return [*(f"conv1d_{name}<{value}, {acc}>" for name in names + narrow), *pad]


def _conv1d_relu_max(value: str, acc: str) -> list[str]:
    names = ("forward", "backward_weight", "backward_input")
    each = [f"conv1d_relu_max_{name}<{value}, {acc}>" for name in names]
    return [f"conv1d_relu_max_join<{value}>", *each]


def depthwise_channels(itemsize: int, taps: int) -> int:
    """Neighbouring channels that a thread of conv1d_depthwise.cu owns: half as many where its sums, in
    float32, would take all registers."""
    return (PACK // 2 if itemsize == 2 and taps >= 5 else PACK) // itemsize


def _conv1d_depthwise(value: str, acc: str) -> list[str]:
    ways = [f"{way}<{value}, {acc}, {taps}>" for way in ("forward", "backward") for taps in DEPTHWISE_TAPS]
    return [f"conv1d_depthwise_{name}" for name in (*ways, f"sum<{value}, {acc}>")]


def _conv1d_relu_max_products(value: str, acc: str) -> list[str]:
    return [f"conv1d_relu_max_largest<{value}, {acc}, {n}>" for n in (PACK // _BYTES[value], 1)]


def _conv1d_tensor_cores(value: str) -> list[str]:
    return [f"conv1d_tensor_cores<{value}, {forward}>" for forward in ("true", "false")]


def _softmax_cross_entropy(value: str, acc: str) -> list[str]:
    forward = [f"forward<{value}, {acc}, {team}>" for team in TEAMS]
    names = (*forward, f"backward<{value}, {acc}>", f"reduce<{acc}>")
    return [f"softmax_cross_entropy_{name}" for name in names]


def _softmax_cross_entropy_fused(value: str, acc: str) -> list[str]:
    names = [f"{name}<{value}, {acc}>" for name in ("scale", "slab")]
    rows = [f"row<{value}, {acc}, {team}>" for team in ROW_TEAMS]
    return [f"softmax_cross_entropy_{name}" for name in (f"total<{acc}>", *names, *rows)]


def _attention(value: str, acc: str) -> list[str]:
    tiles = attention_tiles(value, acc)
    each = [("forward", tile) for tile in tiles]
    each += [("backward", tile) for tile in tiles if value == acc]
    each += [(f"backward_{of}", tiles[-1]) for of in ("query", "key")]
    return [f"attention_{name}<{value}, {acc}, {tile}>" for name, tile in each]


def attention_tiles(value: str, acc: str) -> tuple[int, ...]:
    """The sides of the tiles that the attention kernels are made for; doubles of the larger do not fit, and
    half types have tensor cores as a rule."""
    return (32,) if acc == "double" else (32, 64) if value == acc else (64,)


def _attention_tensor_cores(value: str) -> list[str]:
    names = [f"attention_tensor_cores_{way}" for way in ("forward", "backward")]
    return [f"{name}<{value}, {width}>" for name in names for width in ATTENTION_WIDTHS]


def _layer_norm(value: str, acc: str) -> list[str]:
    names = ("forward", "backward_input", "backward_weight")
    packs = LAYER_NORM_PACKS[_BYTES[value]]
    warp = [f"{name}_warp<{value}, {acc}, {k}>" for name in ("forward", "backward") for k in packs]
    plain = [f"{name}<{value}, {acc}>" for name in names]
    return [f"layer_norm_{name}" for name in (*plain, *warp, f"sum_partials<{acc}>")]


def _residual_layer_norm(value: str, acc: str) -> list[str]:
    packs = LAYER_NORM_PACKS[_BYTES[value]]
    warp = [f"{name}_warp<{value}, {acc}, {k}>" for name in ("forward", "backward") for k in packs]
    plain = [f"{name}<{value}, {acc}>" for name in ("forward", "backward_input")]
    return [f"residual_layer_norm_{name}" for name in (*plain, *warp)]


def _activation(value: str, acc: str) -> list[str]:
    packs = (PACK // _BYTES[value], 1)
    each = [f"{value}, {acc}, {n}, {f}" for n in packs for f in ACTIVATIONS.values()]
    names = [f"activation_{name}<{types}>" for name in ("forward", "backward") for types in each]
    dropped = [f"activation_dropout<{value}, {acc}, {ACTIVATIONS[name]}>" for name in DROPPED_ACTIVATIONS]
    return [*names, *dropped, f"activation_sum_partials<{value}, {acc}>"]


def _embedding(value: str, acc: str) -> list[str]:
    packs, labels = (PACK // _BYTES[value], 1), LABEL_TYPES.values()
    forward = [f"embedding_forward<{value}, {label}, {n}>" for label in labels for n in packs]
    names = ("embedding_backward", "embedding_backward_finish")
    backward = [f"{name}<{value}, {acc}, {n}>" for name in names for n in packs]
    # Half types are added up in float32, which atomics on the table could not do.
    atomic = [f"embedding_backward_atomic<{value}, {label}>" for label in labels] if value == acc else []
    sort = [f"{name}<{label}>" for name in ("rank_ids", "sort_ids") for label in labels]
    return [*forward, *backward, f"add_sorted_rows<{value}>", *atomic, *sort]


def _pooling(value: str, acc: str) -> list[str]:
    names = [f"{name}_over_time_{way}" for name in ("max", "mean") for way in ("forward", "backward")]
    return [f"{name}<{value}, {acc}, {n}>" for name in names for n in (PACK // _BYTES[value], 1)]


def _recurrent(value: str, acc: str) -> list[str]:
    names = ("gru_forward", "gru_backward", "lstm_forward", "lstm_backward")
    return [f"{name}<{value}, {acc}>" for name in names]


def _recurrent_sequence(value: str, acc: str) -> list[str]:
    names = [f"{cell}_sequence_{way}" for cell in ("gru", "lstm") for way in ("forward", "backward")]
    return [f"{name}<{value}, {acc}, {rows}>" for name in names for rows in SEQUENCE_ROWS]


def _recurrent_cluster(value: str, acc: str) -> list[str]:
    names = [f"{cell}_cluster_{way}" for cell in ("gru", "lstm") for way in ("forward", "backward")]
    return [f"{name}<{value}, {acc}>" for name in names]


def _sparse_adam(value: str, acc: str) -> list[str]:
    names = [f"sparse_{name}" for name in ("adam", "adam_finish", "norm", "norm_finish")]
    each = [f"{name}<{value}, {n}>" for name in names for n in (PACK // _BYTES[value], 1)]
    return [f"sparse_adam_simple<{value}>", *each]


def _each(*names: str) -> dict[str, list[str]]:
    return {dtype: [f"{name}<{value}>" for name in names] for dtype, (value, _) in C_TYPES.items()}


# file -> NumPy type -> the expressions compiled together for it
INSTANTIATIONS: dict[str, dict[str, list[str]]] = {
    "activation.cu": {dtype: _activation(*types) for dtype, types in C_TYPES.items()},
    "adam.cu": {
        dtype: [f"{name}<{', '.join(types)}>" for name in ("adam", "gradient_norm")]
        for dtype, types in C_TYPES.items()
    },
    "attention.cu": {dtype: _attention(*types) for dtype, types in C_TYPES.items()},
    "attention_tensor_cores.cu": {
        dtype: _attention_tensor_cores(value) for dtype, (value, acc) in C_TYPES.items() if value != acc
    },
    "conv1d.cu": {dtype: _conv1d(*types) for dtype, types in C_TYPES.items()},
    "conv1d_relu_max.cu": {dtype: _conv1d_relu_max(*types) for dtype, types in C_TYPES.items()},
    "conv1d_relu_max_products.cu": {
        dtype: _conv1d_relu_max_products(*types) for dtype, types in C_TYPES.items()
    },
    "conv1d_depthwise.cu": {dtype: _conv1d_depthwise(*types) for dtype, types in C_TYPES.items()},
    "conv1d_tensor_cores.cu": {
        dtype: _conv1d_tensor_cores(value) for dtype, (value, acc) in C_TYPES.items() if acc == "float"
    },
    "dropout.cu": _each("dropout", "dropout_rows"),
    "embedding.cu": {dtype: _embedding(*types) for dtype, types in C_TYPES.items()},
    "layer_norm.cu": {dtype: _layer_norm(*types) for dtype, types in C_TYPES.items()},
    "pooling.cu": {dtype: _pooling(*types) for dtype, types in C_TYPES.items()},
    "recurrent.cu": {dtype: _recurrent(*types) for dtype, types in C_TYPES.items()},
    "recurrent_cluster.cu": {dtype: _recurrent_cluster(*types) for dtype, types in C_TYPES.items()},
    "recurrent_sequence.cu": {dtype: _recurrent_sequence(*types) for dtype, types in C_TYPES.items()},
    "residual_layer_norm.cu": {dtype: _residual_layer_norm(*types) for dtype, types in C_TYPES.items()},
    "softmax_cross_entropy.cu": {dtype: _softmax_cross_entropy(*types) for dtype, types in C_TYPES.items()},
    "softmax_cross_entropy_fused.cu": {
        dtype: _softmax_cross_entropy_fused(*types) for dtype, types in C_TYPES.items()
    },
    "sparse_adam.cu": {
        dtype: _sparse_adam(*types) for dtype, types in C_TYPES.items() if types[0] == types[1]
    },
    "step.cu": {
        dtype: [*(f"judge_step<{loss}, {acc}>" for loss in ("float", "double")), f"loss_scale<{acc}>"]
        for dtype, (value, acc) in C_TYPES.items()
        if value == acc
    },
}
