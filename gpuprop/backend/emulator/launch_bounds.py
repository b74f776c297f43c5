"""Makes the compiler say what `__launch_bounds__` and `__cluster_dims__` a kernel has: it knows constants and
template arguments.

Beside each kernel that has them, under the same template head, goes a function that returns them:
`template <int N> constexpr unsigned gpe_bounds_scale() { return (N); }`.
"""

from __future__ import annotations

import re

PREFIX, CLUSTER_PREFIX = "gpe_bounds_", "gpe_cluster_"

_GROUP = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", flags=re.M)
_BOUNDS = re.compile(rf"\b__launch_bounds__\s*({_GROUP})")
_CLUSTER = re.compile(rf"\b__cluster_dims__\s*({_GROUP})")
_NAME = re.compile(
    rf"(?:\s|\b__\w+__\s*{_GROUP}|\b(?:__global__|void|static|inline)\b)*(\w+)\s*{_GROUP}\s*\{{"
)


def add_bounds(text: str, clean: str) -> tuple[str, set[str]]:
    """The text with such functions for bounds, on the kernels' own lines, and the names of the kernels that
    have one.

    clean: the text without comments, position by position. A kernel that is defined more than once (in #if
    and #else) gets none.
    """
    found = [
        (start, f"{head} constexpr unsigned {PREFIX}{name}() {{ return ({_first(inside)}); }} ", name)
        for start, _, head, name, inside in _attributes(_BOUNDS, clean)
    ]
    for start, line, _ in reversed(found):
        text = text[:start] + line + text[start:]
    return text, {name for _, _, name in found}


def add_cluster_dims(text: str, clean: str) -> tuple[str, set[str]]:
    """As add_bounds, for the size of a cluster; the attribute itself is taken out of the text."""
    clustered = set()
    for start, (low, high), head, name, inside in reversed(_attributes(_CLUSTER, clean)):
        line = f"{head} constexpr gpe::ClusterDims {CLUSTER_PREFIX}{name}() {{ return {{{inside}}}; }} "
        rest = re.sub(r"[^\n]", " ", text[low:high])
        text = text[:start] + line + text[start:low] + rest + text[high:]
        clustered.add(name)
    return text, clustered


def _attributes(pattern: re.Pattern[str], clean: str) -> list[tuple[int, tuple[int, int], str, str, str]]:
    """Of kernels with such an attribute: where the declaration begins, where the attribute lies, the template
    head, the name, and what is in the attribute's parentheses."""
    clean = _DIRECTIVE.sub(lambda directive: re.sub(r"[^\n]", " ", directive[0]), clean)
    found = []
    for match in pattern.finditer(clean):
        start = max(clean.rfind(mark, 0, match.start()) for mark in ";{}") + 1
        start = match.start() - len(clean[start : match.start()].lstrip())
        name = _NAME.match(clean, match.end())
        if name is None or "__global__" not in clean[start : name.end()]:
            continue
        if len(re.findall(rf"\b{name[1]}\s*{_GROUP}\s*\{{", clean)) != 1:
            continue
        head = _template_head(clean[start : match.start()]).replace("\n", " ")
        inside = " ".join(match[1][1:-1].split())
        found.append((start, match.span(), head, name[1], inside))
    return found


def bounds_of(expression: str, bounded: set[str]) -> str:
    """C++ for the most threads of kernel `ns::scale<4>`: `ns::gpe_bounds_scale<4>()`, or 0 without bounds."""
    return _call(PREFIX, expression, bounded) or "0"


def cluster_of(expression: str, clustered: set[str]) -> str:
    """C++ for the size of the clusters of kernel `ns::scale<4>`, 1 x 1 x 1 without __cluster_dims__."""
    return _call(CLUSTER_PREFIX, expression, clustered) or "{}"


def _call(prefix: str, expression: str, known: set[str]) -> str:
    function, bracket, rest = expression.partition("<")
    space, colons, name = function.strip().rpartition("::")
    return f"{space}{colons}{prefix}{name}{bracket}{rest}()" if name in known else ""


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
