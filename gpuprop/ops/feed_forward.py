"""Affine maps with an activation between them, in one operation: the products of the backward pass then hold
what stands behind each activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend import kernels, random
from ..backend.arrays import Array, get_xp
from ..backend.gemm import activated, affine, behind, beside, rows
from ..backend.gemm import matmul as product
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from . import activation_kernels
from .cast import as_weight
from .dropout import check_probability, numbering
from .dropout import dropout as drop
from .gelu import check_form, gelu
from .linear import affine_rows, linear, misfit, weight_and_bias_gradients, weight_gradient
from .operands import data_of

ACTIVATIONS = ("relu", "gelu")
EPILOGUES = {"relu": "relu", "gelu_tanh": "gelu"}  # which cublasLt has, of those of activation.cu


class FeedForward(Op):
    """y = h_{n-1} W_nᵀ + b_n,   h_i = f(z_i),   z_i = h_{i-1} W_iᵀ + b_i,   h_0 = x

    x (..., I)   W_i (O_i, O_{i-1})   b_i (O_i,) or None   f max(·, 0) or GELU. With dz_n = dy:
    dz_i = (dz_{i+1} W_{i+1}) f'(z_i)        dW_i = dz_iᵀ h_{i-1}        db_i = dz_i, summed over rows
    dx = dz_1 W_1. Each dz_i and its sums are one product on a GPU where cublasLt can, for the exact GELU and
    float64 a product and a kernel. Kept are h_i, and beside z_i or, for ReLU, the bits of where h_i > 0. With
    dropout m_i of probability p, h_i = m_i f(z_i) / (1 - p), and m_i / (1 - p) is a factor of dz_i: it stands
    in what is kept, where the derivative is then 0, and before the product.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, *parameters: Array | None, name: str,
        drops: Sequence[tuple[Any, ...]] | None = None, of_rows: Array | None = None,
    ) -> Array:  # fmt: skip
        """parameters: W_1, b_1, W_2, b_2, ...; name: of the activation, as in activation.cu. drops: p, first,
        stream and call of `Dropout` for each h_i; of_rows: its rows."""
        weights, biases = parameters[::2], parameters[1::2]
        inputs, kept = [rows(x)], []
        for i, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            if drops is None:
                h, aside = _hidden(inputs[-1], weight, bias, name, any(ctx.needs_grad))
            else:
                z = affine_rows(inputs[-1], weight, bias, relu=name == "relu")
                place = (*drops[i], random.step_beside(z), random.state.seed)
                bits = beside(z, "relu") if name == "relu" else None
                h, aside = activation_kernels.dropped(name, z, bits, place, of_rows)
            inputs.append(h)
            kept.append(aside)
        y = affine_rows(inputs[-1], weights[-1], biases[-1])
        scale = 1.0 if drops is None else 1.0 / (1.0 - drops[0][0])
        ctx.save(name, scale, x.shape, *inputs, *kept, *weights)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        (name, scale, shape, *arrays), layers = ctx.saved, len(ctx.needs_grad) // 2
        inputs, kept, weights = arrays[:layers], arrays[layers : 2 * layers - 1], arrays[2 * layers - 1 :]
        found: list[Array | None] = [None] * len(ctx.needs_grad)
        dz = rows(dy)
        for i in reversed(range(layers)):
            place = 2 * i + 1  # of W_i among the inputs of the operation
            if found[place + 1] is not None:  # summed in the product before
                found[place] = weight_gradient(ctx, place, inputs[i], dz) if ctx.needs_grad[place] else None
            else:
                both = weight_and_bias_gradients(ctx, inputs[i], dz, place, place + 1)
                found[place : place + 2] = both
            if not any(ctx.needs_grad[:place]):
                break
            if i:
                form = name, scale, inputs[i], kept[i - 1]
                dz, found[place - 1] = _behind(ctx, dz, weights[i], *form, place - 1)
            else:
                found[0] = product(dz, weights[0]).reshape(shape)
        return tuple(found)


def _hidden(
    x: Array, weight: Array, bias: Array | None, name: str, training: bool
) -> tuple[Array, Array | None]:
    """f(x Wᵀ + b), and what is kept for the backward pass: see `gemm.activated`."""
    epilogue = EPILOGUES.get(name)
    if epilogue is not None:
        if training and (both := activated(x, weight.T, bias, epilogue)) is not None:
            return both
        if not training and (h := affine(x, weight.T, bias, epilogue)) is not None:
            return h, None
    if name == "relu":
        return affine_rows(x, weight, bias, relu=True), None
    z = affine_rows(x, weight, bias)
    return activation_kernels.forward(name, z), z


def _behind(
    ctx: Context, dz: Array, weight: Array, name: str, scale: float, h: Array, kept: Array | None, bias: int
) -> tuple[Array, Array | None]:
    """dz of the layer before, and its sums over rows, None where they are not made yet; bias: which input of
    the operation they are the gradient of. scale: of dropout."""
    sums = ctx.destination(bias) if ctx.needs_grad[bias] else None
    if ctx.needs_grad[bias] and sums is None:
        sums = get_xp(dz).empty(weight.shape[1], dz.dtype)
    sums = None if sums is None or sums.dtype != dz.dtype else sums
    if kept is not None and name in EPILOGUES:
        done = behind(dz, weight, kept, EPILOGUES[name], scale, sums)
        if done is not None:
            return done, sums
    z = h if name == "relu" or kept is None else kept[:, : h.shape[1]]
    dz = activation_kernels.backward(name, product(dz, weight), z)
    return dz if scale == 1.0 else dz * scale, None


def feed_forward(
    x: Any, *parameters: Any, activation: str = "relu", approximate: str = "tanh", dropout: float = 0.0,
    stream: int = random.SHUFFLE_STREAM + 1, mask: Any = None,
) -> Tensor:  # fmt: skip
    """f(x W₁ᵀ + b₁) W₂ᵀ + b₂, or of more such layers, the last without an activation.

    x (..., in); parameters: W₁ (hidden, in), b₁ (hidden,) or None, W₂ (out, hidden), b₂ (out,) or None, and
    so on -> (..., out). activation: f, "relu" or "gelu", with `approximate` as `ops.gelu` has it. dropout:
    the probability to drop of what each f gives; stream and mask: as `ops.dropout` has them. The same as
    `linear`, `relu` or `gelu`, and `dropout` one after another, on a GPU with fewer launches. Raises
    ShapeError for sizes that do not fit each other.
    """
    relu = activation == "relu"
    if len(parameters) < 4 or len(parameters) % 2 or not (relu or activation == "gelu"):
        raise _refused(parameters, activation)
    check_form("feed_forward", approximate)
    inputs = x.shape[-1]
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        outputs, wanted = weight.shape
        if inputs != wanted or (bias is not None and bias.shape != (outputs,)):
            raise misfit("feed_forward", inputs, weight, bias)
        inputs = outputs
    if _fits(x, parameters):
        name = "relu" if relu else "gelu_tanh" if approximate == "tanh" else "gelu"
        drops = None if dropout == 0.0 else _drops(x, parameters, name, dropout, stream, mask)
        if dropout == 0.0 or drops is not None:
            return FeedForward.apply(as_weight(x, parameters[0]), *parameters, name=name, **(drops or {}))
    for i in range(0, len(parameters) - 2, 2):
        x = linear(x, parameters[i], parameters[i + 1], activation="relu" if relu else None)
        x = x if relu else gelu(x, approximate)
        x = x if dropout == 0.0 else drop(x, dropout, stream=stream, mask=mask)
    return linear(x, parameters[-2], parameters[-1])


def _fits(x: Any, parameters: tuple[Any, ...]) -> bool:
    """Whether the kernels take these: else the operations are one after another."""
    if not kernels.usable(data_of(x)):
        return False
    return x.size > 0 and activation_kernels.usable(*map(data_of, parameters))


def _drops(
    x: Any, parameters: tuple[Any, ...], name: str, p: float, stream: int, mask: Any
) -> dict[str, Any] | None:
    """Dropout for `FeedForward`; None where no kernel takes it together with the activation."""
    check_probability(p)
    widths = [weight.shape[0] for weight in parameters[:-2:2]]
    first, of_rows = numbering("feed_forward", x, mask)
    firsts = [first // x.shape[-1] * width for width in widths]
    if name not in EPILOGUES or not activation_kernels.draws_whole_blocks(*firsts, *widths):
        return None
    return {"drops": [(p, n, stream, random.next_call(stream)) for n in firsts], "of_rows": of_rows}


def _refused(parameters: tuple[Any, ...], activation: str) -> Exception:
    if activation not in ACTIVATIONS:
        return ValueError(f"feed_forward: activation is one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    return TypeError(
        f"feed_forward takes a weight and a bias (or None) for each of two or more layers, not "
        f"{len(parameters)} parameters"
    )
