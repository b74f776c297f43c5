"""The GPU experiments at small sizes on a fake GPU: they run, and what they compare agrees."""

from __future__ import annotations

from typing import Any

import scripts


def test_they_run_and_what_they_compute_is_right(fake_gpu: Any) -> None:
    experiments = scripts.load("experiments")
    results = experiments.measure(60.0, small=True)
    assert list(results) == list(experiments.EXPERIMENTS)
    failed = {name: r for name, r in results.items() if isinstance(r, dict) and "failed" in r}
    assert not failed
    graph = results["products_in_a_graph"]
    assert graph["replayed"] == 1
    assert graph["error"] < 1e-6
    assert graph["error_with_bias_and_relu"] < 1e-6
    assert "goes around" in graph["cupys_own"]
    bounds = {"fp16": 1e-3, "tf32": 2e-3, "fp32": 1e-5}
    assert [c["precision"] for c in results["convolution"]] == [*bounds] * 5
    for found in results["convolution"]:
        ways = {"tensor_cores", "products", "kernels"}
        ways -= {"tensor_cores"} if found["precision"] == "fp32" else set()
        ways -= {"products"} if found["dilation"] > 1 else set()
        assert {name for name in found if isinstance(found[name], dict)} == ways | {"copied_windows"}
        assert all(found[way]["error"] < bounds[found["precision"]] for way in ways)
        assert found["chosen"] in ways
    assert all(c["error_gradient"] < 1e-5 for c in results["cross_entropy"])
    assert results["nodes"]["us_a_node"] == 0.0  # the fake's clock stands still
    (row,) = results["recurrence"]
    assert row["chosen"] == "one_kernel"
    assert row["us_a_time_step"].keys() == {"clusters", "one_kernel", "steps"}


def test_no_time_left_and_failures_are_told_of(fake_gpu: Any, monkeypatch: Any) -> None:
    experiments = scripts.load("experiments")
    assert set(map(str, experiments.measure(-1.0).values())) == {"{'left out': 'no time'}"}
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"nodes": lambda small: 1 / 0})
    assert experiments.measure(60.0, small=True)["nodes"]["failed"].startswith("ZeroDivisionError")
