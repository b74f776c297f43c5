"""The variables of a compiled kernel file, and the gaps between them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

RED_ZONE = 256  # bytes left free after each __shared__ variable, so that running past its end is seen
GUARD = "guard variable"

_COMMON = re.compile(r"(\.comm\s+\"?(_ZZ[^,\s\"]*)\"?,\s*)(\d+)")
_INSIDE = re.compile(r"_ZZ(N12_GLOBAL__N_1.*)E(?:L?\d+)([A-Za-z_]\w*?)(?:_\d+)?(?:_\d+)?")
_OUTSIDE = re.compile(r"_ZN12_GLOBAL__N_1L?\d+(\w+)E")


@dataclass(frozen=True)
class Variable:
    """A variable of a kernel library.

    `function` is the function it is in, GUARD for the compiler's note that a static variable is initialised,
    or empty at file scope; `owner` is the instance of that function. offset and size in bytes.
    """

    name: str
    function: str
    owner: str
    offset: int
    size: int


def add_red_zones(assembly: str) -> tuple[str, set[str]]:
    """Makes each local variable of a function in zeroed memory, i.e. each __shared__ one, a red zone longer.

    Returns the assembly and the symbols that are longer now.
    """
    padded: set[str] = set()

    def longer(match: re.Match[str]) -> str:
        padded.add(match[2])
        return f"{match[1]}{int(match[3]) + RED_ZONE}"

    return _COMMON.sub(longer, assembly), padded


def find_variables(symbols: str, padded: Collection[str]) -> list[Variable]:
    """The user's variables in the output of `nm -S`, with their true sizes."""
    found = []
    for line in symbols.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[2].startswith("_ZGVZ"):
            fields.insert(1, "8")
        if len(fields) != 4 or fields[2] not in "bBdD" or "_GLOBAL__N_1" not in fields[3]:
            continue
        offset, size, symbol = int(fields[0], 16), int(fields[1], 16), fields[3]
        if symbol.startswith("_ZGVZ"):
            found.append(Variable("", GUARD, "", offset, size))
        elif inside := _INSIDE.fullmatch(symbol):
            size -= RED_ZONE if symbol in padded else 0
            found.append(Variable(inside[2], _function(inside[1]), inside[1], offset, size))
        elif outside := _OUTSIDE.fullmatch(symbol):
            found.append(Variable(outside[1], "", "", offset, size))
    return found


def _function(mangled: str) -> str:
    """The last name of a mangled nested name: N12_GLOBAL__N_16kernelIfEE... is `kernel`."""
    at, name = 1, ""
    while match := re.compile(r"L?(\d+)").match(mangled, at):
        at = match.end() + int(match[1])
        name = mangled[match.end() : at]
    return name
