"""The Gaussian error linear unit."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.buffers import empty
from ..backend.gemm import rows
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from . import activation_kernels
from .blockwise import blockwise, computed, in_blocks, kept_type
from .exponential import exponential

APPROXIMATE = ("tanh", "none")
SLOPE = math.sqrt(2 / math.pi)
CUBIC = 0.044715

# Φ(x) ≈ (1 + tanh(x Σ_k ODD[k] x^2k)) / 2: the polynomial was fitted for the least largest error of x Φ(x),
# 7e-8, on 0 <= x <= 6.5 by weighted least squares (Lawson's iteration); past that tanh is 1 in float32.
ODD = (
    0.7978842683954315, 0.036334149158850304, -3.302673247575872e-05, -5.5273377352771213e-05,
    3.974069468703817e-06, -1.337831185933655e-07, 1.813925455698474e-09,
)  # fmt: skip

# erfc(z) = t e^(-z² + Σ_k ERFC[k] T_k(2t - 1)), t = 2 / (2 + z), z >= 0, with Chebyshev polynomials T_k
# (Press et al. 2007, Numerical recipes, section 6.2.2); coefficients computed with 60 digits.
ERFC = (
    -0.6513268598908547, 0.6419697923564902, 0.019476473204185836, -0.009561514786808632,
    -0.0009465953444820369, 0.00036683949785276145, 4.252332480690777e-05, -2.0278578112534242e-05,
    -1.6242900046470256e-06, 1.3036558355805232e-06, 1.5626441722066142e-08, -8.523809591492654e-08,
    6.5290544390988515e-09, 5.059343495551469e-09, -9.91364156493033e-10, -2.273651222931836e-10,
    9.646791102015527e-11, 2.3940380830391146e-12, -6.886027526497553e-12, 8.944879273090725e-13,
    3.130921399342958e-13, -1.1270822361367252e-13, 3.810905255189232e-16, 7.106097613609237e-15,
    -1.5230282014571041e-15, -9.457494571291254e-17, 1.210237189224273e-16, -2.816663087746774e-17,
)  # fmt: skip


class GELU(Op):
    """y = x Φ(x)        dx = (Φ(x) + x Φ'(x)) dy        (Hendrycks and Gimpel 2016)

    Φ(x) = (1 + erf(x / √2)) / 2, or with approximate "tanh" (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.
    The factor of dy is computed in forward, while x is in cache; kernels compute it again from x.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, approximate: str) -> Array:
        name = "gelu_tanh" if approximate == "tanh" else "gelu"
        if hasattr(x, "dtype") and activation_kernels.usable(x):
            ctx.save(name, x)
            return activation_kernels.forward(name, rows(x)).reshape(x.shape)
        z = computed(x)
        xp, f = get_xp(z), _tanh_form if approximate == "tanh" else _exact
        y = empty(xp, z.shape, z.dtype)
        factor = empty(xp, z.shape, z.dtype) if ctx.needs_grad[0] else None
        in_blocks(f, *(a for a in (z, y, factor) if a is not None))
        ctx.save(None, None if factor is None else kept_type(factor, x))
        return kept_type(y, x)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        name, array = ctx.saved
        if name is not None:
            d = rows(dy).astype(array.dtype, copy=False)
            return activation_kernels.backward(name, d, rows(array)).reshape(dy.shape)
        return blockwise(get_xp(dy).multiply, dy, array)


def _tanh_form(x: Array, y: Array, factor: Array | None = None) -> None:
    """x Φ(x) into y and Φ(x) + x Φ'(x) into factor; with s = √(2/π), c = 0.044715 and u = x²
    Φ = (1 + tanh(x (s + s c u))) / 2        Φ' = 2 Φ (1 - Φ) (s + 3 s c u)
    """
    xp = get_xp(x)
    u = xp.multiply(x, x, empty(xp, x.shape, x.dtype))
    xp.multiply(u, SLOPE * CUBIC, y)
    y += SLOPE
    y *= x
    xp.tanh(y, y)
    y *= 0.5
    y += 0.5
    if factor is not None:
        u *= 6 * SLOPE * CUBIC
        u += 2 * SLOPE
        u *= x
        xp.subtract(1.0, y, factor)
        factor *= y
        factor *= u
        factor += y
    y *= x


def _exact(x: Array, y: Array, factor: Array | None = None) -> None:
    """x Φ(x) into y and Φ(x) + x Φ'(x) into factor, Φ' = e^(-x²/2) / √(2π)."""
    xp = get_xp(x)
    normal_cdf(x, y)
    if factor is not None:
        with np.errstate(over="ignore"):
            xp.multiply(x, x, factor)
            exponential(factor, factor, -0.5)
        factor *= x
        factor *= 1 / math.sqrt(2 * math.pi)
        factor += y
    y *= x


def normal_cdf(x: Array, out: Array) -> None:
    """Φ(x) = (1 + erf(x / √2)) / 2 into `out`: to 1.5e-7 in float32, to 1e-15 in float64."""
    if not isinstance(x, np.ndarray):
        erf = importlib.import_module("cupyx.scipy.special").erf
        out[...] = 0.5 * (1.0 + erf(x * math.sqrt(0.5)))
    elif x.dtype == np.float64:
        out[...] = 0.5 * _erfc(x * -math.sqrt(0.5))
    else:
        with np.errstate(over="ignore"):  # of powers of x where tanh is 1
            _cdf_by_tanh(x, out)


def _cdf_by_tanh(x: Array, out: Array) -> None:
    u = np.multiply(x, x, empty(np, x.shape, x.dtype))
    np.multiply(u, ODD[-1], out)
    for coefficient in ODD[-2:0:-1]:
        out += coefficient
        out *= u
    out += ODD[0]
    out *= x
    np.tanh(out, out)
    out *= 0.5
    out += 0.5


def _erfc(z: Array) -> Array:
    """1 - erf(z) in float64; 2 - erfc(-z) for negative z."""
    size = abs(z)
    t = 2.0 / (2.0 + size)
    with np.errstate(over="ignore"):
        y = t * np.exp(np.polynomial.chebyshev.chebval(2.0 * t - 1.0, ERFC) - size * size)
    return np.where(z < 0, 2.0 - y, y)


def gelu(x: Any, approximate: str = "tanh") -> Tensor:
    """Gaussian error linear unit x Φ(x) (Hendrycks and Gimpel 2016), of the same shape.

    approximate: "tanh", which differs by less than 0.0005, or "none" (PyTorch's default) for the exact form,
    which takes half as long again on a CPU.
    """
    check_form("gelu", approximate)
    return GELU.apply(x, approximate=approximate)


def check_form(name: str, approximate: str) -> None:
    """Raise ValueError for what is no form of GELU; name: of the operation."""
    if approximate not in APPROXIMATE:
        raise ValueError(f"{name}: approximate is one of {', '.join(APPROXIMATE)}, not {approximate!r}")
