"""Kernels compiled by CuPy for one GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpuprop.backend import cuda_setup
from gpuprop.backend.device import Device
from gpuprop.backend.nvrtc import remedies
from gpuprop.errors import BuildError, KernelError

_SHARED_WITHOUT_ASKING = 48 * 1024  # bytes of shared memory every GPU gives a block; more must be requested
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">]', re.M)


class CudaModule:
    """A module compiled by CuPy for one GPU. It launches as the emulator's modules do."""

    def __init__(
        self, source: str, filename: str, names: Sequence[str], options: Sequence[str], device: Device
    ) -> None:
        self._cupy = cuda_setup.import_cupy()
        self._device = self._cupy.cuda.Device(device.index)
        self._functions: dict[str, Any] = {}
        self._shared: dict[str, int] = {}  # bytes of dynamic shared memory that a launch can have by now
        # CuPy's cache of compiled code knows the source and the options but not the included files
        stamp = f"-DGPUPROP_INCLUDES=0x{includes_digest(source, options)}"
        extern_c = {name for name in names if _is_extern_c(source, name)}
        expressions = tuple(name for name in names if name not in extern_c)
        with self._device:
            try:
                self._raw = self._cupy.RawModule(
                    code=f'#line 1 "{filename}"\n{source}',
                    options=("-std=c++17", *options, stamp),
                    name_expressions=expressions or None,
                    backend="nvrtc",
                )
                self._raw.compile()
            except self._cupy.cuda.compiler.CompileException as error:
                raise BuildError(f"{filename} does not compile:\n{error}{remedies(str(error))}") from error

    def launch(self, name: str, grid: Any, block: Any, args: list[Any], shared_mem: int = 0) -> None:
        values = tuple([_for_cupy(a) if a is None or isinstance(a, np.void) else a for a in args])
        try:
            with self._device:
                self._function(name, shared_mem)(grid, block, values, shared_mem=shared_mem)
        except (self._cupy.cuda.driver.CUDADriverError, self._cupy.cuda.runtime.CUDARuntimeError) as error:
            where = f"{name}<<<{grid}, {block}, {shared_mem}>>>"
            raise KernelError(f"{where}: {error}") from error

    def _function(self, name: str, shared_mem: int) -> Any:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._raw.get_function(name)
            self._shared[name] = _SHARED_WITHOUT_ASKING - function.shared_size_bytes
        if shared_mem > self._shared[name]:
            function.max_dynamic_shared_size_bytes = self._shared[name] = shared_mem
        return function


def _for_cupy(argument: Any) -> Any:
    """An argument as CuPy launches with it: None is a null pointer, and a struct an array of one element."""
    if argument is None:
        return np.uint64(0)
    return np.array([argument], argument.dtype) if isinstance(argument, np.void) else argument


def included_texts(source: str, options: Sequence[str]) -> dict[str, str]:
    """Every file of the -I folders that `source` includes, however deep: text by name."""
    folders = [Path(option[2:]) for option in options if option.startswith("-I")]
    texts: dict[str, str] = {}
    waiting = [source]
    while waiting:
        for name in _INCLUDE.findall(waiting.pop()):
            path = next((folder / name for folder in folders if (folder / name).is_file()), None)
            if path is not None and name not in texts:
                texts[name] = path.read_text(encoding="utf-8")
                waiting.append(texts[name])
    return texts


def includes_digest(source: str, options: Sequence[str]) -> str:
    """A hash (16 hexadecimal digits) of the files that `source` includes."""
    import hashlib  # here, since it takes long to import

    digest = hashlib.sha256()
    for name, text in included_texts(source, options).items():
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()[:16]


def _is_extern_c(source: str, name: str) -> bool:
    pattern = rf'extern\s+"C"\s[^;{{}}]*__global__[^;{{}}]*?\b{re.escape(name)}\s*\('
    return "<" not in name and re.search(pattern, source) is not None
