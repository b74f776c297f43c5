"""kernels/tensor_core.cuh: the layouts that PTX documents, the emulator's twins and those in plain CUDA C++,
and the instructions that the compiler makes of it."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import index_maps as maps
import numpy as np
import pytest
from cubins import QUICK, nvdisasm

from gpuprop.backend import kernels, nvrtc
from gpuprop.backend.device import use_device
from gpuprop.cli.kernel_cases import attention_tensor_cores, conv1d_tensor_cores
from gpuprop.testing import unavailable

ml_dtypes = pytest.importorskip("ml_dtypes")

SOURCE = Path(__file__).with_name("tensor_core.cu")
REASON = unavailable("emulated")
emulated = pytest.mark.skipif(REASON is not None, reason=f"emulated: {REASON}")
TYPES = {
    "__half": np.dtype(np.float16),
    "__nv_bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float": np.dtype("f4"),
}
PRODUCTS = [("__half", "true"), ("__half", "false"), ("__nv_bfloat16", "true"), ("float", "false")]
NAMES = [*(f"multiply<{name}>" for name in TYPES), *(f"product<{t}, {turned}>" for t, turned in PRODUCTS)]


@pytest.fixture(scope="module", params=["emulator", "plain C++"])
def run(request):
    """Launch a kernel for one warp under the checker, in three orders."""
    options = ["-DGPUPROP_NO_PTX"] if request.param == "plain C++" else []
    with use_device("emulated"):
        module = kernels.load(SOURCE, [*NAMES, "load"], options)

    def launch(name, *arguments):
        for order in ("reverse", "random", "forward"):
            copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
            with use_device("emulated"), kernels.check(order=order):
                module[name](1, 32, copies)
        return copies

    launch.source = request.param
    return launch


def registers(matrix, places):
    """What the lanes hold of a matrix, as numbers of 32 bits: places is (lane, register, element, 2)."""
    elements = np.ascontiguousarray(matrix[places[..., 0], places[..., 1]])
    return elements.view(np.uint32)[..., 0]


def operands(dtype, rng, depth):
    """Integers whose products are exact in every type."""
    return (rng.integers(-4, 5, shape).astype(dtype) for shape in ((16, depth), (depth, 8)))


@emulated
@pytest.mark.parametrize("name", TYPES)
def test_a_product_has_the_layouts_of_ptx(run, name):
    dtype = TYPES[name]
    per = 4 // dtype.itemsize
    a, b = operands(dtype, np.random.default_rng(1), 8 * per)
    of_a, of_b = registers(a, maps.mma_left(per)), registers(b, maps.mma_right(per))
    *_, d = run(f"multiply<{name}>", of_a, of_b, np.full((32, 4), 0.5, np.float32))
    rows, columns = np.moveaxis(maps.mma_result(), -1, 0)
    np.testing.assert_array_equal(d, (a.astype("f4") @ b.astype("f4") + 0.5)[rows, columns])


@emulated
def test_loads_have_the_layouts_of_ptx(run):
    x = np.arange(256, dtype=np.uint16).reshape(32, 8)  # rows of 16 bytes
    _, found = run("load", x.view(np.uint32), np.zeros((32, 12), np.uint32))
    expected = [maps.loaded(n, turned) for turned in (False, True) for n in (4, 2)]
    places = np.concatenate(expected, axis=1)
    np.testing.assert_array_equal(found, registers(x, places))


@emulated
@pytest.mark.parametrize(("name", "turned"), PRODUCTS)
@pytest.mark.parametrize("rows", [16, 11])
def test_a_tile_from_memory(run, name, turned, rows):
    dtype = TYPES[name]
    depth = 3 * 8 * 4 // dtype.itemsize
    rng = np.random.default_rng(rows)
    a = rng.standard_normal((rows, depth)).astype(dtype)
    b = rng.standard_normal((depth, 8)).astype(dtype)
    given = b if turned == "true" else np.ascontiguousarray(b.T)
    c = run(f"product<{name}, {turned}>", a, given, np.full((16, 8), np.nan, np.float32), rows, depth)[2]
    exact = [maps.tf32(x).astype(float) if name == "float" else x.astype(float) for x in (a, b)]
    bound = depth * 2.0**-24 * (np.abs(exact[0]) @ np.abs(exact[1]))  # of sums in float32, in any order
    assert (np.abs(c[:rows] - exact[0] @ exact[1]) <= bound).all()
    assert not c[rows:].any()


@emulated
def test_both_twins_give_the_same_bits():
    rng = np.random.default_rng(5)
    with use_device("emulated"):
        twins = [kernels.load(SOURCE, [*NAMES, "load"], options) for options in ((), ("-DGPUPROP_NO_PTX",))]
        for name, dtype in TYPES.items():
            a, b = (
                rng.standard_normal((32, n)).astype(dtype)
                for n in (16 // dtype.itemsize, 8 // dtype.itemsize)
            )
            found = [np.ones((32, 4), np.float32) for _ in twins]
            for module, d in zip(twins, found, strict=True):
                module[f"multiply<{name}>"](1, 32, (a.view(np.uint32), b.view(np.uint32), d))
            np.testing.assert_array_equal(*found, err_msg=name)
            assert (found[0] != 1).any()


INSTRUCTIONS = {
    "multiply<__half>": [r"HMMA\.16816\.F32 "],
    "multiply<__nv_bfloat16>": [r"HMMA\.16816\.F32\.BF16 "],
    "multiply<float>": [r"HMMA\.1688\.F32\.TF32 "],
    "load": [r"LDSM\.16\.M88\.4 ", r"LDSM\.16\.M88\.2 ", r"LDSM\.16\.MT88\.4 ", r"LDSM\.16\.MT88\.2 "],
    "product<__half, true>": [r"HMMA", r"LDSM", r"LDGSTS\.E\.BYPASS\.(LTC128B\.)?128"],
}


@pytest.mark.skipif(not nvrtc.available(), reason=nvrtc.MISSING)
@pytest.mark.parametrize("arch", [*QUICK, "sm_75"])
def test_tensor_cores_are_used_where_there_are_some(arch, tmp_path):
    if nvdisasm() is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    info = nvrtc.compile_cubin(SOURCE.read_text(), arch, NAMES, [f"-I{kernels.folder()}"], SOURCE.name)
    (tmp_path / "cubin").write_bytes(info.cubin)
    command = [nvdisasm(), "-c", tmp_path / "cubin"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^\s*\.section\s+\.text\.([\w$.]+)", listing, flags=re.MULTILINE)
    code = dict(zip(parts[1::2], parts[2::2], strict=True))
    for kernel in info.kernels:
        assert (kernel.stack_bytes, kernel.spill_stores) == (0, 0), kernel
        for instruction in INSTRUCTIONS.get(kernel.name, ["HMMA"]):
            assert bool(re.search(instruction, code[kernel.symbol])) == (arch != "sm_75"), kernel


@emulated
@pytest.mark.full
@pytest.mark.parametrize("case", [conv1d_tensor_cores, attention_tensor_cores])
def test_kernels_without_ptx_give_the_same_bits(monkeypatch, case):
    """The switch reaches whole kernels. Their copies are made at once then, so that one that comes while
    another thread still reads what it overwrites is a race, which the checker sees."""
    project, used = kernels.project, set()

    @functools.cache
    def without(name):
        return kernels.load(kernels.folder() / f"{case.__name__}.cu", [name], ["-DGPUPROP_NO_PTX"])[name]

    def switched(file, name):
        if file != case.__name__:
            return project(file, name)
        used.add(name)
        return without(name)

    found = []
    for take in (project, switched):
        monkeypatch.setattr(kernels, "project", take)
        for order in ("reverse", "forward"):
            with use_device("emulated"), kernels.check(order=order):
                found.append(case(np.dtype(np.float16)))
    assert len(used) == {"conv1d_tensor_cores": 2, "attention_tensor_cores": 4}[case.__name__]
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_inline_ptx_stands_behind_one_switch():
    """In tensor_core.cuh alone, which has twins for -DGPUPROP_NO_PTX."""
    files = {path.name: path.read_text() for path in kernels.folder().glob("*.cu*")}
    assert [name for name, text in files.items() if re.search(r"\basm\b", text)] == ["tensor_core.cuh"]
    text = files["tensor_core.cuh"]
    assert text.index("!defined(GPUPROP_NO_PTX) && __CUDA_ARCH__") < re.search(r"\basm\b", text).start()
    assert re.findall(r"\basm\b", text[text.index("#ifdef GPUPROP_NO_PTX") :]) == []
