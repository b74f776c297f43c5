"""Find, compile, cache and launch CUDA kernels: ours from `kernels/`, or a user's own.

    module = load("scale.cu", names=["scale<float>"])
    module["scale<float>"](grid, block, (x, y, n, 2.0))

The arrays decide where a launch runs: CuPy arrays on their GPU, NumPy arrays on the emulator while
"emulated" is the current device. Up to the last call both take the same way: the same checks, the same grid,
block, shared memory and arguments.
"""

from __future__ import annotations

import functools
import importlib
import operator
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpuprop.backend.arrays import cupy_array
from gpuprop.backend.cuda_module import CudaModule, included_texts
from gpuprop.backend.device import Device, get_device
from gpuprop.backend.instantiations import C_TYPES, INSTANTIATIONS
from gpuprop.backend.launch import (
    INVALID,
    MAX_BLOCK,
    MAX_GRID,
    MAX_THREADS,
    device_of_launch,
    dimensions,
)
from gpuprop.backend.signatures import KernelSource, Parameter, fit_arguments, parse_kernels
from gpuprop.errors import KernelError

_MACRO = re.compile(r"^[ \t]*#[ \t]*define\b(?:[^\n]*\\\n)*[^\n]*__global__", re.M)


def usable(*arrays: Any) -> bool:
    """True when kernels can run on the arrays: they are on a GPU, or "emulated" is the current device."""
    of_cupy = cupy_array()
    for a in arrays:
        if isinstance(a, of_cupy):
            return True
    return get_device().type == "emulated"


def check(
    *, mode: str = "check", order: str = "forward", seed: int = 1, time_limit: float = 60.0
) -> AbstractContextManager[Any]:
    """Inside this `with` block, kernels on the device "emulated" run so.

    mode: "check" watches every access, "fast" none, "asan" and "ubsan" are the compiler's sanitizers. order:
    of the threads, "forward", "reverse" or "random" (with `seed`). time_limit: of a launch, in seconds.
    GPUPROP_EMULATOR=check does the same for a whole process.
    """
    emulator = importlib.import_module("gpuprop.backend.emulator")
    settings: AbstractContextManager[Any] = emulator.options(
        mode=mode, order=order, seed=seed, time_limit=time_limit
    )
    return settings


def c_type(dtype: Any) -> str:
    """The C++ type of an array's elements: float32 -> "float"."""
    return c_types(dtype)[0]


@functools.cache
def c_types(dtype: Any) -> tuple[str, str]:
    """The C++ types of an array's elements and of the arithmetic on them: float16 -> ("__half", "float")."""
    try:
        return C_TYPES[np.dtype(dtype).name]
    except KeyError:
        raise KernelError(f"kernels take {', '.join(C_TYPES)}, not {np.dtype(dtype).name}") from None


def folder() -> Path:
    """Our .cu files: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "_cuda", package.parent / "kernels"):
        if path.is_dir():
            return path
    places = f"{package / '_cuda'} and {package.parent / 'kernels'} do not exist"
    raise KernelError(f"gpuprop's kernels are missing: {places}")


@dataclass(frozen=True)
class KernelFile:
    """One of our .cu files: the kernels it declares, and by type the expressions it is launched with."""

    path: Path
    kernels: list[str]
    instantiations: dict[str, list[str]]


def kernel_files() -> list[KernelFile]:
    """Our .cu files, by name."""
    return [
        KernelFile(
            path, list(parse_kernels(path.read_text(encoding="utf-8"))), INSTANTIATIONS.get(path.name, {})
        )
        for path in sorted(folder().glob("*.cu"))
    ]


def load(path_or_source: str | Path, names: Sequence[str] = (), options: Sequence[str] = ()) -> Module:
    """The kernels of a .cu file, or of CUDA source text.

    names: those to compile, templates with their arguments ("scale<float>"); without any, all but templates.
    options: flags such as "-DTILE=32" or "-Ifolder"; includes are also searched beside the file and in ours.
    Compiles at once when the current device runs kernels, else at the first launch. Raises BuildError with
    the compiler's lines, KernelError for a missing file or name.
    """
    path, source = _read(path_or_source)
    if isinstance(names, str):
        raise KernelError(f"names is a list of kernels, got the string {names!r}: write [{names!r}]")
    module = Module(source, path.name if path else "kernel.cu", names, options, path.parent if path else None)
    if get_device().type != "cpu":
        module.build(get_device())
    return module


@functools.cache
def project(file: str, expression: str) -> Kernel:
    """Our kernel `expression`, such as "conv1d_forward<float, float>", of kernels/<file>.cu.

    It is compiled once a device, with the other expressions of its type (see instantiations.py).
    """
    path = folder() / f"{file.removesuffix('.cu')}.cu"
    groups = INSTANTIATIONS.get(path.name, {})
    group = next((tuple(names) for names in groups.values() if expression in names), (expression,))
    return _project_module(path, group)[expression]


@functools.cache
def _project_module(path: Path, names: tuple[str, ...]) -> Module:
    return Module(_read(path)[1], path.name, names, (), path.parent)


class Module:
    """Compiled kernels by name. `names` lists them; a device's code is built when it is first needed."""

    def __init__(
        self,
        source: str,
        filename: str,
        names: Sequence[str],
        options: Sequence[str],
        where: Path | None = None,
    ) -> None:
        self.source, self.filename = source, filename
        self._declared = parse_kernels(source)
        self.names = list(names) or [k.name for k in self._declared.values() if not k.template]
        includes = [path for path in (where, folder()) if path is not None]
        self.options = [*options, *dict.fromkeys(f"-I{path}" for path in includes)]
        self._check_names()
        self._kernels = {name: Kernel(self, name, self._declared.get(_base(name))) for name in self.names}
        self._built: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Kernel:
        try:
            return self._kernels[name]
        except KeyError:
            raise KernelError(
                f"{self.filename} was not loaded with a kernel {name!r}: it has {_listing(self.names)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._kernels)

    def __contains__(self, name: object) -> bool:
        return name in self._kernels

    def __repr__(self) -> str:
        return f"Module({self.filename!r}, names={self.names})"

    def build(self, device: Device) -> Any:
        """This module's code for `device`, compiled once."""
        key = device.type, device.index
        built = self._built.get(key)
        if built is None:
            with self._lock:
                if key not in self._built:
                    self._built[key] = self._compile(device)
                built = self._built[key]
        return built

    def _compile(self, device: Device) -> Any:
        if device.type == "cuda":
            return CudaModule(self.source, self.filename, self.names, self.options, device)
        emulator = importlib.import_module("gpuprop.backend.emulator")
        return emulator.load(self.source, self.filename, self.names, self.options)

    def _check_names(self) -> None:
        if not self.names:
            if not self._declared:
                raise KernelError(
                    f"{self.filename} defines no __global__ function: name those that its headers define"
                )
            template = next(iter(self._declared))
            raise KernelError(
                f"{self.filename} defines templates alone: names (of a driver: NAMES) gives them arguments, "
                f'such as "{template}<float>"'
            )
        for name in self.names:
            kernel = self._declared.get(_base(name))
            if self._declared and kernel is None and not self._may_be_elsewhere(_base(name)):
                raise KernelError(
                    f"{self.filename} has no kernel {name!r}: it has {_listing(list(self._declared))}"
                )
            if kernel is not None and kernel.template and "<" not in name:
                wanted = ", ".join(parameter for parameter, _ in kernel.template)
                raise KernelError(
                    f"{self.filename}: {name!r} is a template: give its arguments, {name}<{wanted}>"
                )

    def _may_be_elsewhere(self, kernel: str) -> bool:
        """Whether a macro may define the kernel, or a file that is included: then the compiler has to say."""
        word = re.compile(rf"\b{re.escape(kernel)}\b")
        included = included_texts(self.source, self.options).values()
        return _MACRO.search(self.source) is not None or any(
            "__global__" in text and word.search(text) for text in included
        )


class Kernel:
    """One kernel. Call it with (grid, block, args, shared_mem=0, cluster=None)."""

    def __init__(self, module: Module, name: str, declared: KernelSource | None) -> None:
        self.module, self.name = module, name
        self.parameters: tuple[Parameter, ...] | None = declared.bind(name) if declared else None

    def __repr__(self) -> str:
        return f"Kernel({self.name}({', '.join(map(str, self.parameters or ()))}))"

    def __call__(
        self, grid: Any, block: Any, args: Sequence[Any], shared_mem: int = 0, cluster: Any = None
    ) -> None:
        """Launch. grid and block: one to three numbers; shared_mem: bytes of dynamic shared memory a block.

        args: arrays (C-contiguous, of the kernel's type), None for a null pointer, and numbers, which become
        exactly the parameter's type. cluster: blocks of a cluster, one to three numbers, of a kernel without
        __cluster_dims__; only on the device "emulated", as CuPy launches none. Raises KernelError before
        anything runs when something does not fit. Returns at once on a GPU.
        """
        grid, block = (
            dimensions(self.name, "grid", grid, MAX_GRID),
            dimensions(self.name, "block", block, MAX_BLOCK),
        )
        threads = block[0] * block[1] * block[2]
        if threads > MAX_THREADS:
            raise KernelError(
                f"{self.name}: {INVALID}: block {block} is {threads} threads: over {MAX_THREADS}"
            )
        shared_mem = operator.index(shared_mem)
        if shared_mem < 0:
            raise KernelError(f"{self.name}: shared_mem {shared_mem} is negative")
        fitted = fit_arguments(self.name, self.parameters, args)
        device = device_of_launch(self.name, fitted)
        more = {} if cluster is None else {"cluster": cluster}
        if more and device.type == "cuda":
            raise KernelError(
                f"{self.name}: cluster={cluster!r}: CuPy launches no clusters of a size given at launch; "
                "write __cluster_dims__ at the kernel"
            )
        self.module.build(device).launch(self.name, grid, block, fitted, shared_mem=shared_mem, **more)


def _read(path_or_source: str | Path) -> tuple[Path | None, str]:
    if isinstance(path_or_source, str) and ("__global__" in path_or_source or "\n" in path_or_source):
        return None, path_or_source
    path = Path(path_or_source).resolve()
    try:
        return path, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KernelError(f"cannot read the kernels in {path}: {error}") from error


def _base(expression: str) -> str:
    return expression.partition("<")[0].rpartition("::")[2].strip()


def _listing(names: list[str]) -> str:
    return ", ".join(names) or "none"
