"""Rules of the tree, read with `ast`: which way imports run, what stays out, what importing costs."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpuprop

ROOT = Path(gpuprop.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Left may not import right: each layer may use the ones named beside it (and itself).
ALLOWED = {
    "errors": set(),
    "interrupt": set(),
    "version": set(),
    "backend": {"errors", "version"},
    "tensor_methods": {"tensors"},  # for the type checker only
    "backprop": {"backend", "errors", "row_gradient"},
    "capture": {"backend", "backprop", "errors"},
    "row_gradient": {"backend", "errors"},
    "tensors": {"backend", "backprop", "errors", "row_gradient", "tensor_methods"},
    "op": {"backprop", "tensors"},
    "ops": {"backend", "backprop", "op", "tensors", "errors", "row_gradient", "tensor_methods"},
    "nn": {"backend", "backprop", "op", "tensors", "errors", "ops", "tensor_methods"},
    "optim": {"backend", "backprop", "op", "tensors", "errors", "row_gradient"},
    "text": {"backend", "errors"},
    "models": {"backend", "backprop", "op", "tensors", "errors", "nn", "ops"},
    "parallel": {"backend", "backprop", "errors", "nn", "optim", "tensors", "text", "version"},
    "training": {
        "backend",
        "backprop",
        "capture",
        "op",
        "tensors",
        "errors",
        "explanation",
        "models",
        "nn",
        "ops",
        "optim",
        "parallel",
        "row_gradient",
        "text",
        "version",
    },
    "costs": {"errors", "backend", "backprop", "flops", "ops", "optim"},
    "flops": {"backprop", "ops"},
    "explanation": {"backend", "backprop", "flops", "nn", "ops", "tensors"},
    "testing": {"backend", "backprop", "op", "tensors", "errors"},
    "interop": {"backend", "tensors", "errors", "nn"},
    "bench": {"errors", "models", "nn", "ops", "optim", "text", "training"},  # the public face
}
TOP = {"__init__", "__main__", "cli"}  # may use everything


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    """The parts of gpuprop a file imports, wherever the import stands."""
    found = set()
    package = ["gpuprop", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "gpuprop" else [module]
        found |= {name.split(".")[1] for name in names if name.startswith("gpuprop.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    layer = layer_of(path)
    if layer in TOP or layer.startswith("cli"):
        return
    assert layer in ALLOWED, f"{layer} is new: say what it may import"
    wrong = imported_layers(path) - ALLOWED[layer] - {layer}
    assert not wrong, f"{layer} may not import {sorted(wrong)}"


PRODUCTS = {"dot", "matmul", "einsum", "tensordot", "vdot", "inner", "outer", "linalg"}
DOOR = {"gemm.py", "gemm_cuda.py"}  # in backend/
PLANTED = [1, 2, 4, 5, 6]
HOST_ONLY = {"backend/diagnose.py", "training/locate.py"}  # a look at CuPy's own product; NumPy arrays


def products_in(source):
    """Lines that multiply matrices otherwise than by the door or NumPy's own functions."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.MatMult):
            lines.append(node.lineno)
        elif isinstance(node, ast.Attribute) and node.attr in PRODUCTS:
            of = node.value.id if isinstance(node.value, ast.Name) else ""
            if of not in ("np", "math", "ops", "gp", "self"):
                lines.append(node.lineno)
    return sorted(lines)


def test_products_go_through_one_door():
    """CuPy's own products are refused while a stream is captured: none stands outside backend/gemm.py."""
    assert (
        products_in("y = a @ b\nxp.einsum(a)\nnp.dot(a, b)\na @= b\nx.dot(x)\nf = xp.linalg.norm") == PLANTED
    )
    found = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if layer_of(path) in ("text", "bench") or name in HOST_ONLY or path.name in DOOR:
            continue
        found += [f"{name}:{line}" for line in products_in(path.read_text(encoding="utf-8"))]
    assert not found, f"products that go around backend/gemm.py: {', '.join(found)}"


CHECKOUT = ROOT.parent if (ROOT.parent / "pyproject.toml").exists() else ROOT  # else an installed package
SCRIPTS = [p for folder in ("examples", ".ci", "tests/gpu") for p in (CHECKOUT / folder).rglob("*.py")]
EVERYWHERE = sorted({*FILES, *SCRIPTS})


def test_nothing_unpickles_or_evaluates():
    for path in EVERYWHERE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", None)
                assert name not in ("eval", "exec", "__import__"), f"{path}:{node.lineno}"
                assert not any(k.arg == "allow_pickle" for k in node.keywords), f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("loads", "__import__") or ast.unparse(node) == "json.loads", (
                    f"{path}:{node.lineno}"
                )
                assert ast.unparse(node) not in ("builtins.eval", "builtins.exec"), f"{path}:{node.lineno}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "dill", "shelve", "marshal"} & set(modules), f"{path}:{node.lineno}"


SLOW_TO_IMPORT = {
    "cupy", "mpi4py", "pynvml", "rich", "typer", "matplotlib", "safetensors", "pooch", "tokenizers", "torch",
    "pytest", "importlib.metadata", "email", "concurrent.futures", "logging", "hashlib", "tempfile", "csv",
}  # fmt: skip


@pytest.mark.alone
def test_importing_is_light_and_touches_no_driver(tmp_path):
    """Only NumPy comes along; the rest is loaded by what needs it. CPU time of compiled files, as in an
    installed package, beside NumPy's own: it is about 0.4 of that."""
    code = (
        "import json, sys, time; t0 = time.process_time()\n"
        "import numpy; t1 = time.process_time(); before = set(sys.modules)\n"
        "import gpuprop; t2 = time.process_time()\n"
        "print(json.dumps([t1 - t0, t2 - t1, sorted(set(sys.modules) - before)]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    command = [sys.executable, "-c", code]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)
        for _ in range(6)
    ][1:]  # the first compiles
    loaded = set(runs[0][2])
    assert "gpuprop.nn" in loaded
    assert not loaded & SLOW_TO_IMPORT
    assert not {name.split(".")[0] for name in loaded} & SLOW_TO_IMPORT
    assert min(run[1] for run in runs) < min(run[0] for run in runs)


def test_the_public_face_is_what_it_lists():
    assert len(set(gpuprop.__all__)) == len(gpuprop.__all__)
    for name in gpuprop.__all__:
        assert getattr(gpuprop, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gpuprop.nothing  # noqa: B018
