"""Compiled kernels, and launching them on NumPy arrays."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpuprop.backend.emulator import (
    apart,
    arguments,
    build,
    limits,
    report,
    settings,
    source,
    symbols,
    toolchain,
)
from gpuprop.errors import DeviceError, KernelError

_ONE_AT_A_TIME = threading.RLock()  # the runtime's state is one launch's
_ORDER = {order: number for number, order in enumerate(settings.ORDERS)}


class _Range(ctypes.Structure):
    """gpe::Range in runtime/launch.h."""

    _fields_ = (
        ("address", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("space", ctypes.c_uint32),
        ("read_only", ctypes.c_uint32),
    )


class _Entry(ctypes.Structure):
    """gpe::KernelEntry in interface.h."""

    _fields_ = (
        ("run", ctypes.c_void_p),
        ("signature", ctypes.c_char_p),
        ("sizes", ctypes.POINTER(ctypes.c_uint32)),
        ("parameters", ctypes.c_uint32),
        ("most_threads", ctypes.c_uint32),
        ("cluster", ctypes.c_uint32 * 3),
    )


class _Launch(ctypes.Structure):
    """gpe::Launch in runtime/launch.h."""

    _fields_ = (
        ("run", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("sizes", ctypes.POINTER(ctypes.c_uint32)),
        ("parameters", ctypes.c_uint32),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("cluster", ctypes.c_uint32 * 3),
        ("dynamic_bytes", ctypes.c_uint32),
        ("order", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("time_limit", ctypes.c_double),
        ("check", ctypes.c_uint32),
        ("range_count", ctypes.c_uint32),
        ("ranges", ctypes.POINTER(_Range)),
    )


_ARGUMENT, _SHARED, _GLOBAL_VARIABLE, _INTERNAL = range(4)


class _Loaded:
    """A kernel library of one mode in this process."""

    def __init__(
        self, library: build.Library, names: Sequence[str], kernels: Sequence[source.KernelText]
    ) -> None:
        self.library = library
        self.runtime = ctypes.CDLL(str(library.runtime))
        self.handle = ctypes.CDLL(str(library.path))
        self.runtime.gpe_reports.restype = ctypes.POINTER(report.RawReport)
        self.runtime.gpe_output.restype = ctypes.c_void_p
        entries = (_Entry * max(1, len(names)))()
        self.handle.gpe_kernels(entries)
        self.entries = dict(zip(names, entries, strict=False))
        self.signatures = {
            name: arguments.Signature.parse(name, entry.signature.decode(), _parameter_names(name, kernels))
            for name, entry in self.entries.items()
        }
        self._kernels = {kernel.name for kernel in kernels}

    def variables(self, name: str) -> list[symbols.Variable]:
        """The variables that kernel `name` may use: file scope, device functions' and its own."""
        others = self._kernels - {base_name(name)}
        return [variable for variable in self.library.variables if variable.function not in others]

    def static_shared(self, name: str) -> int:
        """Bytes of the kernel's own __shared__ variables; of a template's instances, the smallest."""
        total: dict[str, int] = {}
        for variable in self.library.variables:
            if variable.function == base_name(name):
                total[variable.owner] = total.get(variable.owner, 0) + variable.size
        return min(total.values(), default=0)


class EmulatedModule:
    """The kernels of one file, compiled for the CPU. Each mode's library is compiled at its first use."""

    def __init__(self, text: str, filename: str, names: Sequence[str], options: Sequence[str]) -> None:
        self._tools = toolchain.find()
        self._arch = limits.architecture(options)
        self._flags = _compiler_flags(options)
        folders = [flag[2:] for flag in self._flags if flag.startswith("-I")]
        self._text = source.rewrite(text, filename, folders)
        self._filename = filename
        plain = [kernel.name for kernel in self._text.kernels if not kernel.template]
        self.names: list[str] = list(dict.fromkeys(names or plain))
        if not self.names:
            raise KernelError(
                f"{filename}: name the kernels to load; {build.describe_kernels(self._text.kernels)}"
            )
        self._by_mode: dict[str, _Loaded] = {}
        self._loaded(settings.current().mode)

    def launch(
        self,
        name: str,
        grid: Sequence[int] | int,
        block: Sequence[int] | int,
        args: Sequence[Any],
        shared_mem: int = 0,
        cluster: Sequence[int] | int | None = None,
    ) -> None:
        """Run kernel `name` on NumPy arrays and exact NumPy scalars, to its end.

        cluster: blocks of a cluster, of a kernel without __cluster_dims__.
        KernelError for a wrong launch, EmulatorError (a KernelError) for what the kernel did wrong.
        """
        how = settings.current()
        loaded = self._loaded(how.mode)
        if name not in loaded.entries:
            raise KernelError(f"{self._filename}: {name} was not loaded; loaded are {', '.join(self.names)}")
        grid3, block3 = limits.three(grid, "grid"), limits.three(block, "block")
        static = loaded.static_shared(name)
        limits.check_launch(name, grid3, block3, static, int(shared_mem), self._arch)
        entry = loaded.entries[name]
        limits.check_bounds(name, block3, entry.most_threads)
        cluster3 = limits.cluster_of(name, tuple(entry.cluster), cluster, grid3, self._arch)
        packed = loaded.signatures[name].pack(args)
        apart_or_not = (
            apart.moved_apart(packed) if how.mode == "check" else contextlib.nullcontext(packed.arrays)
        )
        with _ONE_AT_A_TIME, apart_or_not as arrays:
            launch = _describe(loaded, name, packed, arrays, how)
            launch.grid[:], launch.block[:], launch.cluster[:] = grid3, block3, cluster3
            launch.dynamic_bytes = int(shared_mem)
            status = loaded.runtime.gpe_launch(ctypes.byref(launch))
            output = _take_output(loaded)
            reports = _take_reports(loaded, self._tools)
        if output:
            sys.stdout.write(output)
        if status:
            raise KernelError(
                f"{name}: the emulator has no memory for this launch ({block3} threads, {shared_mem} bytes)"
            )
        if reports:
            clusters = f", cluster {cluster3}" if cluster3 != (1, 1, 1) else ""
            text = f"{name}, grid {grid3}, block {block3}{clusters}, emulated in order {how.order}"
            note = "" if how.mode == "check" else '\n  (mode "check" finds more: GPUPROP_EMULATOR=check)'
            raise report.EmulatorError(text, reports, note)

    def _loaded(self, mode: str) -> _Loaded:
        with _ONE_AT_A_TIME:
            if mode not in self._by_mode:
                if mode == "asan":
                    _need_asan(self._tools)
                job = build.Job(
                    self._text, self._filename, tuple(self.names), self._flags, self._arch * 10, mode
                )
                self._by_mode[mode] = _Loaded(build.build(job, self._tools), self.names, self._text.kernels)
            return self._by_mode[mode]


def base_name(name: str) -> str:
    """The function's own name in a name expression: `ns::scale<float, 4>` is `scale`."""
    return name.split("<", 1)[0].rsplit("::", 1)[-1].strip()


def _parameter_names(name: str, kernels: Sequence[source.KernelText]) -> tuple[str, ...]:
    return next((kernel.parameters for kernel in kernels if kernel.name == base_name(name)), ())


def _compiler_flags(options: Sequence[str]) -> tuple[str, ...]:
    """What a C++ compiler takes of NVRTC's options: macros and include folders."""
    flags: list[str] = []
    options = list(options)
    for i, option in enumerate(options):
        if option in ("-I", "-D", "-U") and i + 1 < len(options):
            option += options[i + 1]
        option = (
            option.replace("--include-path=", "-I")
            .replace("--define-macro=", "-D")
            .replace("--undefine-macro=", "-U")
        )
        if option[:2] in ("-I", "-D", "-U") and len(option) > 2:
            flags.append(f"-I{Path(option[2:]).absolute()}" if option.startswith("-I") else option)
    return tuple(flags)


def _describe(
    loaded: _Loaded,
    name: str,
    packed: arguments.Packed,
    arrays: Sequence[arguments.Array],
    how: settings.Settings,
) -> _Launch:
    """The launch without its sizes."""
    variables = loaded.variables(name)
    check = how.mode == "check"
    ranges = (_Range * (len(variables) + len(arrays) + 1))()
    count = 0
    for variable in variables:
        space = _space(variable)
        if check or space == _SHARED:
            what = f"{'shared variable' if space == _SHARED else 'variable'} '{variable.name}'"
            ranges[count] = _Range(variable.offset, variable.size, what.encode(), space, 0)
            count += 1
    for array in arrays if check else ():
        ranges[count] = _Range(
            array.address, array.bytes, array.name.encode(), _ARGUMENT, int(array.read_only)
        )
        count += 1
    entry = loaded.entries[name]
    launch = _Launch(entry.run, packed.pointers, entry.sizes, entry.parameters)
    launch.order, launch.seed, launch.time_limit = _ORDER[how.order], how.seed, how.time_limit
    launch.check, launch.range_count, launch.ranges = int(check), count, ranges
    return launch


def _space(variable: symbols.Variable) -> int:
    if variable.function == symbols.GUARD:
        return _INTERNAL
    return _SHARED if variable.function else _GLOBAL_VARIABLE


def _take_reports(loaded: _Loaded, tools: toolchain.Toolchain) -> list[report.Report]:
    count = ctypes.c_uint32()
    raw = loaded.runtime.gpe_reports(ctypes.byref(count))
    return [report.read(raw[i], loaded.library.path, tools) for i in range(count.value)]


def _take_output(loaded: _Loaded) -> str:
    size = ctypes.c_size_t()
    text = loaded.runtime.gpe_output(ctypes.byref(size))
    return ctypes.string_at(text, size.value).decode(errors="replace") if size.value else ""


def _need_asan(tools: toolchain.Toolchain) -> None:
    """AddressSanitizer must be the first library of the process, or it ends the process."""
    maps = Path("/proc/self/maps").read_text()
    if "libasan" in maps or "libclang_rt.asan" in maps:
        return
    raise DeviceError(
        f'mode "asan" needs AddressSanitizer loaded before Python: run with '
        f"LD_PRELOAD=$({tools.compiler} -print-file-name={tools.asan}) "
        "ASAN_OPTIONS=detect_leaks=0:halt_on_error=0:suppress_equal_pcs=0"
    )
