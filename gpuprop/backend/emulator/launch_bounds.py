"""Makes the compiler say what `__launch_bounds__` a kernel has: it knows constants and template arguments.

Beside each kernel that has bounds, under the same template head, goes a function that returns them:
`template <int N> constexpr unsigned gpe_bounds_scale() { return (N); }`.
"""

from __future__ import annotations

import re

PREFIX = "gpe_bounds_"

_GROUP = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", flags=re.M)
_BOUNDS = re.compile(rf"\b__launch_bounds__\s*({_GROUP})")
_NAME = re.compile(
    rf"(?:\s|\b__\w+__\s*{_GROUP}|\b(?:__global__|void|static|inline)\b)*(\w+)\s*{_GROUP}\s*\{{"
)


def add_bounds(text: str, clean: str) -> tuple[str, set[str]]:
    """The text with such functions, on the kernels' own lines, and the names of the kernels that have one.

    clean: the text without comments, position by position. A kernel that is defined more than once (in #if
    and #else) gets none.
    """
    clean = _DIRECTIVE.sub(lambda directive: re.sub(r"[^\n]", " ", directive[0]), clean)
    added: list[tuple[int, str, str]] = []
    for match in _BOUNDS.finditer(clean):
        start = max(clean.rfind(mark, 0, match.start()) for mark in ";{}") + 1
        start = match.start() - len(clean[start : match.start()].lstrip())
        name = _NAME.match(clean, match.end())
        if name is None or "__global__" not in clean[start : name.end()]:
            continue
        if len(re.findall(rf"\b{name[1]}\s*{_GROUP}\s*\{{", clean)) != 1:
            continue
        head, most = _template_head(clean[start : match.start()]), _first(match[1][1:-1])
        line = f"{head} constexpr unsigned {PREFIX}{name[1]}() {{ return ({most}); }} ".replace("\n", " ")
        added.append((start, line, name[1]))
    for start, line, _ in reversed(added):
        text = text[:start] + line + text[start:]
    return text, {name for _, _, name in added}


def bounds_of(expression: str, bounded: set[str]) -> str:
    """C++ for the most threads of kernel `ns::scale<4>`: `ns::gpe_bounds_scale<4>()`, or 0 without bounds."""
    function, bracket, rest = expression.partition("<")
    space, colons, name = function.strip().rpartition("::")
    return f"{space}{colons}{PREFIX}{name}{bracket}{rest}()" if name in bounded else "0"


def _template_head(declaration: str) -> str:
    """`template <...>` where a declaration begins so. A > inside parentheses closes nothing."""
    if not declaration.startswith("template"):
        return ""
    depth = parentheses = 0
    for i, letter in enumerate(declaration):
        parentheses += (letter == "(") - (letter == ")")
        if letter in "<>" and not parentheses:
            depth += 1 if letter == "<" else -1
            if depth == 0:
                return declaration[: i + 1]
    return ""


def _first(arguments: str) -> str:
    depth = 0
    for i, letter in enumerate(arguments):
        depth += (letter in "(<[{") - (letter in ")>]}")
        if letter == "," and depth == 0:
            return arguments[:i].strip()
    return arguments.strip()
