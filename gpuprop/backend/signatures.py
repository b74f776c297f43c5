"""Read the kernels' parameter lists out of CUDA source, and fit launch arguments to them.

CuPy hands a Python int over as a long long and a Python float as a double, whatever the kernel takes, and
every parameter behind it then reads the wrong bytes. Here each number becomes exactly the parameter's type,
and arrays are checked before anything runs.
"""

from __future__ import annotations

import functools
import math
import operator
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuprop.errors import KernelError

_C_TO_NUMPY = {
    "float": "float32", "double": "float64", "bool": "bool",
    "__half": "float16", "half": "float16", "__nv_bfloat16": "bfloat16", "nv_bfloat16": "bfloat16",
    "char": "int8", "signed char": "int8", "unsigned char": "uint8",
    "short": "int16", "unsigned short": "uint16", "int": "int32", "unsigned int": "uint32",
    "long": "int64", "unsigned long": "uint64", "long long": "int64", "unsigned long long": "uint64",
    "size_t": "uint64", "ptrdiff_t": "int64",
    **{f"{prefix}{kind}{bits}_t": f"{kind}{bits}"
       for prefix in ("", "cuda::std::", "std::") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_QUALIFIERS = re.compile(r"\b(?:const|volatile|__restrict__|__restrict|__grid_constant__|typename|struct)\b")
# Words before the name may be macros; a name is not followed by another word after its parentheses.
_KERNEL = re.compile(
    r"__global__\s+(?:\w+(?:\s*\((?:[^()]|\([^()]*\))*\))?\s+)*?"
    r"(?!__\w+__)(\w+)\s*\((?!(?:[^()]|\([^()]*\))*\)\s*\w)"
)
_TEMPLATE = re.compile(r"template\s*<((?:[^<>;{}]|<[^<>]*>)*)>[^;{}<>]*$")
_ALIAS = re.compile(r"\busing\s+(\w+)\s*=\s*([^;]+);|\btypedef\s+([^;(){}]+?)\s+(\w+)\s*;")


@dataclass(frozen=True)
class Parameter:
    """One parameter. `dtype` is the NumPy name of the (pointed-to) type, None where it is not a plain one."""

    name: str
    type: str
    pointer: bool
    const: bool
    dtype: str | None

    def __str__(self) -> str:
        const, star = ("const " if self.const and self.pointer else ""), ("*" if self.pointer else "")
        return f"{const}{self.type}{star} {self.name}".strip()

    @functools.cached_property
    def number(self) -> tuple[Any, float, float]:
        """(the NumPy type of a number passed by value, the least and the largest), or (None, 1, 0) where
        Python's numbers are not simply turned into it."""
        if self.pointer or self.dtype in (None, "bfloat16"):
            return None, 1, 0
        kind = np.dtype(self.dtype)
        if kind.kind in "fb":
            return kind.type, *((-math.inf, math.inf) if kind.kind == "f" else (0, 1))
        limits = np.iinfo(kind)
        return kind.type, int(limits.min), int(limits.max)


@dataclass(frozen=True)
class KernelSource:
    """A kernel as the source declares it, before template parameters are bound."""

    name: str
    template: tuple[tuple[str, str | None], ...]  # (name, default) of each template parameter
    parameters: tuple[tuple[str, str, bool, bool], ...]  # (name, type, pointer, const)
    aliases: tuple[tuple[str, str], ...]

    def bind(self, expression: str) -> tuple[Parameter, ...]:
        """The parameters of `expression`, such as "scale<float, 4>"."""
        given = split_arguments(expression.partition("<")[2].rpartition(">")[0])
        types = dict(self.aliases)
        for (name, default), value in zip(self.template, given + [None] * len(self.template), strict=False):
            if value is not None or default is not None:
                types[name] = str(value if value is not None else default)
        bound = []
        for name, declared, pointer, const in self.parameters:
            full = _resolve(declared, types)
            pointer = pointer or full.endswith("*")
            full = full.rstrip("* ")
            bound.append(Parameter(name, full, pointer, const, _C_TO_NUMPY.get(_canonical(full))))
        return tuple(bound)


def parse_kernels(source: str) -> dict[str, KernelSource]:
    """Every `__global__` function of a CUDA source, by name. Kernels made by macros are not seen."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", source, flags=re.S)
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", "", text, flags=re.M)
    aliases = tuple((m[1] or m[4], (m[2] or m[3]).strip()) for m in _ALIAS.finditer(text))
    found: dict[str, KernelSource] = {}
    for match in _KERNEL.finditer(text):
        template = _TEMPLATE.search(text, max(0, match.start() - 2000), match.start())
        declared = split_arguments(_until_closing(text, match.end()))
        parameters = tuple(_parameter(p) for p in declared if p != "void")
        names = tuple(_template_parameter(p) for p in split_arguments(template[1])) if template else ()
        found.setdefault(match[1], KernelSource(match[1], names, parameters, aliases))
    return found


def split_arguments(text: str) -> list[str]:
    """Split at the commas that stand outside every bracket."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "<([{") - (letter in ">)]}")
        if letter == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [part for part in [*parts, text[start:].strip()] if part]


def _until_closing(text: str, start: int) -> str:
    depth = 1
    for end in range(start, len(text)):
        depth += (text[end] == "(") - (text[end] == ")")
        if depth == 0:
            return text[start:end]
    return text[start:]


def _parameter(text: str) -> tuple[str, str, bool, bool]:
    text = text.partition("=")[0].strip()
    const = bool(re.search(r"\bconst\b", text.partition("*")[0]))
    pointer = "*" in text or text.endswith("]")
    plain = _QUALIFIERS.sub(" ", re.sub(r"\[[^\]]*\]", "", text)).replace("*", " * ")
    words = " ".join(plain.split())
    match = re.fullmatch(r"(.*?[\s*>])(\w+)", words)
    declared, name = (match[1], match[2]) if match and words not in _C_TO_NUMPY else (words, "")
    if (
        text.count("*") + ("[" in text) > 1 and "(" not in text
    ):  # a table of pointers: its elements are addresses
        const, declared = bool(re.search(r"\*\s*const\b.*[*\[]", text)), "unsigned long long"
    return name, declared.replace("*", "").strip(), pointer, const


def _template_parameter(text: str) -> tuple[str, str | None]:
    declaration, _, default = (part.strip() for part in text.partition("="))
    return declaration.split()[-1], default or None


def _resolve(name: str, types: dict[str, str]) -> str:
    for _ in range(8):  # an alias of an alias; a cycle cannot hang
        name = _canonical(name)
        if name not in types:
            break
        name = types[name]
    return name


def _canonical(name: str) -> str:
    name = " ".join(_QUALIFIERS.sub(" ", name).split())
    words = name.split()
    if words and all(word in ("unsigned", "signed", "long", "short", "int", "char") for word in words):
        sign = (
            ["unsigned"]
            if "unsigned" in words
            else ["signed"]
            if "signed" in words and "char" in words
            else []
        )
        size = [word for word in words if word in ("long", "short", "char")] or ["int"]
        return " ".join(sign + size)
    return name


def fit_arguments(kernel: str, parameters: Sequence[Parameter] | None, args: Sequence[Any]) -> list[Any]:
    """`args` as they are launched: C-contiguous arrays, NumPy scalars of the exact type, None for null.

    `parameters` is None for a kernel whose declaration could not be read; then Python numbers are refused.
    Raises KernelError with the argument's position and name.
    """
    if parameters is None:
        return [_fit(f"{kernel}: argument {i}", None, arg) for i, arg in enumerate(args)]
    if len(args) != len(parameters):
        takes = ", ".join(map(str, parameters))
        raise KernelError(f"{kernel} takes {len(parameters)} arguments ({takes}), got {len(args)}")
    fitted = list(args)
    for i, parameter in enumerate(parameters):  # one loop: this is what every launch pays
        arg = args[i]
        if parameter.pointer:
            flags = getattr(arg, "flags", None)
            if arg is None or (
                flags is not None
                and hasattr(arg, "ndim")
                and not isinstance(arg, np.generic)
                and flags.c_contiguous
                and (parameter.dtype is None or _name_of(arg.dtype) == parameter.dtype)
                and (parameter.const or not isinstance(arg, np.ndarray) or flags.writeable)
            ):
                continue
        else:
            scalar, least, most = parameter.number
            kind = type(arg)
            if kind is scalar:
                continue
            if (kind in (int, bool) and least <= arg <= most) or (kind is float and most == math.inf):
                fitted[i] = scalar(arg)
                continue
        fitted[i] = _fit(f"{kernel}: argument {i} ({parameter})", parameter, arg)  # or words why not
    return fitted


_name_of = functools.cache(operator.attrgetter("name"))  # of a dtype: NumPy puts it together each time


def _fit(where: str, parameter: Parameter | None, arg: Any) -> Any:
    if arg is None:
        if parameter is not None and not parameter.pointer:
            raise KernelError(f"{where} takes a number, got None")
        return None
    if hasattr(arg, "flags") and hasattr(arg, "ndim") and not isinstance(arg, np.generic):
        return _fit_array(where, parameter, arg)
    if parameter is not None and parameter.pointer:
        raise KernelError(f"{where} takes an array, got {type(arg).__name__} {reprlib.repr(arg)}")
    if parameter is None or parameter.dtype is None:
        if isinstance(arg, (np.generic, np.void)):
            return arg
        raise KernelError(
            f"{where} has a type unknown here, got {arg!r}: pass a NumPy scalar of exactly that type"
        )
    return _fit_number(where, parameter.dtype, arg)


def _fit_array(where: str, parameter: Parameter | None, array: Any) -> Any:
    if parameter is not None:
        if not parameter.pointer:
            raise KernelError(f"{where} takes a number, got an array of shape {array.shape}")
        if parameter.dtype is not None and array.dtype.name != parameter.dtype:
            raise KernelError(f"{where} takes {parameter.dtype}, got an array of {array.dtype.name}")
        if not parameter.const and isinstance(array, np.ndarray) and not array.flags.writeable:
            raise KernelError(f"{where} is written to, but the array is read-only")
    if not array.flags.c_contiguous:
        raise KernelError(
            f"{where} is not C-contiguous: shape {array.shape}, strides {array.strides}; copy it first"
        )
    return array


def _fit_number(where: str, dtype: str, number: Any) -> np.generic:
    if isinstance(number, np.generic):
        if number.dtype.name == dtype:
            return number
        number = number.item()
    if not isinstance(number, (bool, int, float)):
        raise KernelError(f"{where} takes a number of type {dtype}, got {type(number).__name__}")
    kind = np.dtype(dtype if dtype != "bfloat16" else "float32")
    if kind.kind in "iu":
        if isinstance(number, float):
            raise KernelError(f"{where} takes {dtype}, got the float {number!r}")
        limits = np.iinfo(kind)
        if not limits.min <= number <= limits.max:
            raise KernelError(f"{where} takes {dtype}, and {number} is outside {limits.min}..{limits.max}")
    if dtype == "bfloat16":
        raise KernelError(
            f"{where} takes a bfloat16 by value: pass an ml_dtypes.bfloat16 scalar, or better a float"
        )
    if kind.kind == "b" and number not in (0, 1):
        raise KernelError(f"{where} takes a bool, got {number!r}")
    return kind.type(number)
