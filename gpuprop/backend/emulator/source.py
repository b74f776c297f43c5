"""Reads and rewrites a kernel file so that a C++ compiler takes it, keeping every line number.

Rewritten are: dynamic shared memory (a pointer to the launch's buffer); C linkage (dropped); the file as a
whole, which goes into an unnamed namespace, as __shared__ variables of templates would otherwise be merged
between libraries; and quoted includes, which are put in place, so that the cache sees them change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gpuprop.backend.emulator import launch_bounds
from gpuprop.errors import BuildError

TWIN = "keep it behind #ifndef GPUPROP_EMULATOR, with a twin in plain CUDA C++ in the #else"
# Headers of what is not emulated. Including one is an error at that line, unless the line is compiled out.
_UNSUPPORTED = (
    (
        r"cooperative_groups/(?!(?:reduce|scan)\.h$).*",
        "this part of cooperative groups is not emulated: use the _sync shuffles, or",
    ),
    (r"(cub|thrust)/.*", "CUB and Thrust are not emulated: write the reduction or scan with shuffles, or"),
    (
        r"cuda/ptx|cudaTypedefs\.h|cuda/barrier|cuda/pipeline|cuda/semaphore|cuda/(std/)?atomic|cuda/std/barrier|cuda/annotated_ptr",
        "this part of libcu++ (barriers, TMA, atomics) is not emulated: use the plain CUDA functions, or",
    ),
    (r"(cute|cutlass)/.*", "CUTLASS is not emulated:"),
    (r"curand_kernel\.h", "cuRAND's device functions are not emulated:"),
)
_DYNAMIC = re.compile(
    r"extern\s+(?:(?:__align__|alignas)\s*\([^)]*\)\s*)?__shared__\s+"
    r"((?:(?:__align__|alignas|__attribute__)\s*\((?:[^()]|\([^()]*\))*\)+\s*)?)"
    r"([\w:]+(?:\s+[\w:]+)*?(?:\s*<[^;]*?>)?)\s+"
    r"(?:(?:__align__|alignas)\s*\([^)]*\)\s*)?(\w+)\s*\[\s*\]((?:\s*\[[^]]*\])*)\s*;"
)
# What stands between __global__ and the kernel's parameters.
# Words there may be macros; a name is not followed by another word after its parentheses.
_HEAD = re.compile(
    r"\s*(?:\w+(?:\s*\((?:[^()]|\([^()]*\))*\))?\s+)*?(?!__\w+__)(\w+)\s*\((?!(?:[^()]|\([^()]*\))*\)\s*\w)"
)
_TEMPLATE = re.compile(r"template\s*<[^;{}]*>[^;{}<>]*$")
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)')


@dataclass(frozen=True)
class KernelText:
    """A `__global__` function as the file spells it."""

    name: str
    parameters: tuple[str, ...]
    template: bool


@dataclass
class Rewritten:
    """A file ready for the compiler, and what was seen in it."""

    text: str
    kernels: list[KernelText]
    bounded: set[str] = field(
        default_factory=set
    )  # kernels whose __launch_bounds__ the compiler can be asked for
    clustered: set[str] = field(default_factory=set)  # and their __cluster_dims__
    files: list[str] = field(default_factory=list)


def rewrite(source: str, filename: str, include: Iterable[str] = ()) -> Rewritten:
    """The file in an unnamed namespace, its local includes in place."""
    folders = [Path(filename).parent, *(Path(folder) for folder in include)]
    reader = _Reader(folders)
    body = reader.expand(source, filename)
    kernels = find_kernels(body)
    body, bounded = launch_bounds.add_bounds(body, blank_comments(body))
    body, clustered = launch_bounds.add_cluster_dims(body, blank_comments(body))
    # C linkage would clash with the C library (a kernel called `index`); the namespace has none anyway.
    body = re.sub(r'\bextern\s+"C"', 'extern "C++"', body)
    body = re.sub(r"\bstatic(\s+)(?=__shared__\b)", r"\1", body)  # __shared__ is a `static` here
    text = f'namespace {{\n#line 1 "{_quoted(filename)}"\n{body}\n}}\n'
    return Rewritten(text, kernels, bounded, clustered, reader.files)


def find_kernels(source: str) -> list[KernelText]:
    """The kernels a file defines, in its order."""
    text = blank_comments(source)
    found: dict[str, KernelText] = {}
    for match in re.finditer(r"__global__\b", text):
        head = _HEAD.match(text, match.end())
        if head is None or _in_directive(text, match.start()):
            continue
        close = _closing(text, head.end() - 1)
        names = tuple(_parameter_name(part) for part in _split(text[head.end() : close]))
        template = _TEMPLATE.search(text, max(0, match.start() - 400), match.start()) is not None
        found.setdefault(head[1], KernelText(head[1], names, template))
    return list(found.values())


def _in_directive(text: str, at: int) -> bool:
    line = text.rfind("\n", 0, at) + 1
    while text[:line].endswith("\\\n"):
        line = text.rfind("\n", 0, line - 1) + 1
    return text[line:at].lstrip().startswith("#")


def blank_comments(text: str) -> str:
    """The text with comments and the insides of strings replaced by blanks; positions and lines stay."""

    def blank(match: re.Match[str]) -> str:
        found = match[0]
        if found.startswith(("/*", "//")):
            return re.sub(r"[^\n]", " ", found)
        return found[0] + " " * (len(found) - 2) + found[-1] if match[0] != '"C"' else found

    return re.sub(
        r'//(?:\\\n|[^\n])*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text, flags=re.S
    )


class _Reader:
    """Puts quoted includes in place and closes the namespace around those in angle brackets."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders
        self.files: list[str] = []
        self._once: set[Path] = set()

    def expand(self, source: str, filename: str, depth: int = 0) -> str:
        if depth > 50:
            raise BuildError(f"{filename}: includes itself")
        clean = blank_comments(source)
        lines, clean_lines = source.split("\n"), clean.split("\n")
        braces, result = 0, []
        for number, (line, blank) in enumerate(zip(lines, clean_lines, strict=True), start=1):
            include = _INCLUDE.match(line) if "include" in blank else None
            if include is not None:
                result.append(self._include(include, filename, number, braces, depth))
                continue
            braces += blank.count("{") - blank.count("}")
            result.append(line)
        return self._dynamic_shared("\n".join(result), filename)

    def _include(self, include: re.Match[str], filename: str, number: int, braces: int, depth: int) -> str:
        name = include[1] or include[2]
        for pattern, message in _UNSUPPORTED:
            if re.fullmatch(pattern, name):
                return f'#error "{message} {TWIN}"'
        back = f'#line {number + 1} "{_quoted(filename)}"'
        if include[1]:
            path = next(
                (p for folder in [Path(filename).parent, *self.folders] if (p := folder / name).is_file()),
                None,
            )
            if path is not None:
                return f"{self._local(path, depth)}\n{back}"
        if braces:  # inside a function or a class: it stays where it is
            return include[0]
        # Other people's header belongs outside the namespace, and is not device code.
        return "\n".join(
            (
                "}",
                "#include <gpuprop_emulator/host_macros.h>",
                f'#line {number} "{_quoted(filename)}"',
                include[0],
                "#include <gpuprop_emulator/device_macros.h>",
                "namespace {",
                back,
            )
        )

    def _local(self, path: Path, depth: int) -> str:
        real = path.resolve()
        if real in self._once:
            return ""
        text = path.read_text(encoding="utf-8")
        if re.search(r"^\s*#\s*pragma\s+once\b", blank_comments(text), flags=re.M):
            self._once.add(real)
            text = re.sub(r"^(\s*)#(\s*)pragma\s+once\b.*", r"\1", text, flags=re.M)
        self.files.append(str(path))
        return f'#line 1 "{_quoted(str(path))}"\n' + self.expand(text, str(path), depth + 1)

    @staticmethod
    def _dynamic_shared(text: str, filename: str) -> str:
        clean = blank_comments(text)
        parts, at = [], 0
        for match in _DYNAMIC.finditer(clean):
            kind, name, rest = match[2], match[3], match[4]
            if clean.count("{", 0, match.start()) > clean.count("}", 0, match.start()):
                new = f"{kind} (* const {name}){rest} = ({kind} (*){rest})gpe::dynamic_shared();"
            else:
                new = f"static gpe::DynamicShared<{kind}{rest}> {name};"
            parts += [text[at : match.start()], new + "\n" * match[0].count("\n")]
            at = match.end()
        return "".join([*parts, text[at:]])


def _closing(text: str, opening: int) -> int:
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text)


def _split(parameters: str) -> list[str]:
    """At the commas that are not inside brackets."""
    parts, depth, at = [], 0, 0
    for i, c in enumerate(parameters):
        depth += (c in "(<[{") - (c in ")>]}")
        if c == "," and depth == 0:
            parts.append(parameters[at:i])
            at = i + 1
    parts.append(parameters[at:])
    return [part for part in parts if part.strip()]


def _parameter_name(parameter: str) -> str:
    found = re.search(r"(\w+)\s*(?:\[[^]]*\]\s*)*(?:=.*)?$", parameter.strip(), flags=re.S)
    return found[1] if found else ""


def _quoted(path: str) -> str:
    return path.replace("\\", "\\\\").replace('"', '\\"')
