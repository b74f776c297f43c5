"""What gpuprop calls of CuPy, and what its stand-in offers, against what was recorded of the real one."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import fake_array
import fake_cupy
import fake_machine
import fake_memory
import fake_nccl
import numpy as np
import pytest
import real_cupy

import gpuprop
from gpuprop.parallel import nccl

SOURCES = Path(gpuprop.__file__).parent
MODULES = ("xp", "cupy", "_cupy")  # what a variable or field is called that holds CuPy
STAND_INS = {
    "": fake_cupy.FakeCupy, "ndarray": fake_array.ndarray, "cuda.Stream": fake_machine.Stream,
    "cuda.Event": fake_machine.Event, "cuda.Graph": fake_machine.Graph, "cuda.Device": fake_machine.Device,
    "cuda.MemoryPool": fake_memory.MemoryPool, "cuda.nccl.NcclCommunicator": fake_nccl.NcclCommunicator,
}  # fmt: skip
# What stand-ins have for themselves and for tests.
OWN = {"view_of", "works", "clock", "names", "take_back"}


def calls() -> list[tuple[str, str, ast.Call | None]]:
    """(place, name, call) of each name that gpuprop asks CuPy for."""
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            name = name_of(node)
            if name:
                place = f"{path.relative_to(SOURCES)}:{node.lineno}"  # type: ignore[attr-defined]
                found.append((place, name, called.get(id(node))))
    return found


def name_of(node: ast.AST) -> str:
    """ "cuda.Stream" of `xp.cuda.Stream` and `self.cupy.cuda.Stream`; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and node.attr not in MODULES:
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Call):
        maker = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        holds = maker in ("import_cupy", "get_xp", "current_cupy")
    else:
        holds = isinstance(node, ast.Attribute) or (isinstance(node, ast.Name) and node.id in MODULES)
    return ".".join(reversed(parts)) if holds else ""


def test_gpuprop_asks_cupy_for_nothing_that_it_lacks() -> None:
    found, problems = calls(), []
    for place, name, call in found:
        starred = call is not None and any(isinstance(a, ast.Starred) for a in call.args)
        keywords = [] if call is None else [k.arg for k in call.keywords]
        try:
            if call is None or starred or None in keywords:
                known(name)
            else:
                real_cupy.check(name, [None] * len(call.args), keywords)
        except (AttributeError, TypeError) as error:
            problems.append(f"{place}: {error}")
    assert len(found) > 100
    assert not problems, "\n".join(problems)


def known(name: str) -> None:
    if hasattr(np, name) and not callable(getattr(np, name)):
        return  # a number, such as pi
    real_cupy.signature(name)


def test_the_stand_in_offers_nothing_that_cupy_lacks() -> None:
    problems = []
    for place, kind in STAND_INS.items():
        for name, thing in vars(kind).items():
            name = "" if name == "__init__" and place else name
            if name.startswith("_") or name in OWN:
                continue
            full = f"{place}.{name}".strip(".")
            try:
                real = real_cupy.signature(full)
            except AttributeError as error:
                problems.append(str(error))
                continue
            if real is not None and inspect.isfunction(thing):
                problems += [f"{full}: {p}" for p in differences(inspect.signature(thing), real)]
    assert not problems, "\n".join(problems)


def differences(ours: inspect.Signature, real: inspect.Signature) -> list[str]:
    """Why a call that ours takes might not be one that the real one takes."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # checked at each call
    own = [p for p in ours.parameters.values() if p.name != "self" and p.kind not in several]
    own = [p for p in own if not p.name.startswith("_")]
    theirs = list(real.parameters.values())
    if theirs and theirs[0].kind is theirs[0].VAR_POSITIONAL and theirs[-1].kind is theirs[-1].VAR_KEYWORD:
        return []  # of arrays and graphs, which gpuprop does not make so
    problems = []
    for i, p in enumerate(own):
        other = real.parameters.get(p.name)
        if other is None:
            problems.append(f"{p} is not in {real}")
        elif p.kind is p.POSITIONAL_OR_KEYWORD and (i >= len(theirs) or theirs[i].name != p.name):
            problems.append(f"{p} is number {i + 1}, but not in {real}")
    return problems


def test_the_attributes_of_a_device() -> None:
    asked = {
        node.slice.value
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "attributes"
        and isinstance(node.slice, ast.Constant)
    }
    assert asked
    assert asked | set(fake_machine.Device.attributes) <= set(real_cupy.RECORDED["attributes"])


def test_the_numbers_of_nccl() -> None:
    for name, number in fake_nccl.CODES.items():
        assert real_cupy.SIGNATURES[f"cuda.nccl.{name}"] == number
    assert real_cupy.SIGNATURES["cuda.nccl.NCCL_BFLOAT16"] == nccl.BFLOAT16


def test_the_stand_in_refuses_what_cupy_refuses(fake_gpu: Any) -> None:
    x = fake_cupy.asarray(np.ones(3))
    cupy: Any = gpuprop.get_xp(x)
    for wrong in (
        lambda: x.sum(initial=0.0), lambda: cupy.add(x, x, where=x > 0), lambda: cupy.take(x, x, mode="clip"),
        lambda: x.item(0), lambda: cupy.pad(x), lambda: x.fill(x),
        lambda: x.__setitem__(..., np.ones(3)),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            wrong()
    with pytest.raises(AttributeError, match="CuPy 14"):
        _ = cupy.busday_count


def test_the_record_is_that_of_the_cupy_that_is_installed() -> None:
    cupy = pytest.importorskip("cupy")
    if cupy.__version__ != real_cupy.RECORDED["cupy"]:
        pytest.skip(f"CuPy {cupy.__version__} is not {real_cupy.RECORDED['cupy']}")
    record = importlib.import_module("record_cupy")
    assert record.collect(cupy) == real_cupy.SIGNATURES
    assert record.attributes(cupy) == real_cupy.RECORDED["attributes"]
