"""The open questions that only a GPU answers, as small measured experiments; one JSON out.

    python tests/gpu/experiments.py --out runs/experiments.json

    products in a graph     are ours legal there, and right; is CuPy's own refused?
    convolution             every way we have (`conv1d_ways.WAYS`), forward and backward, in three precisions,
                            with dilation too; and one product of copied windows
    cross-entropy           right against float64, and its bandwidth against that of a copy
    nodes                   microseconds that one more launch costs a graph
    recurrence              microseconds a time step of a GRU, forward and backward, as one graph: all times
                            in one kernel, a step at a time, and which of these its sizes choose

An experiment that fails says why, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import gpuprop as gp
from gpuprop.backend import gemm
from gpuprop.backend.cuda_setup import import_cupy
from gpuprop.backend.kernel_memory import shared_memory
from gpuprop.ops import cluster_sizes, conv1d_ways, persistent_kernels, persistent_sizes
from gpuprop.ops.windows import Geometry

SAMPLES = 30
# (sequences, length, channels, filters, kernel, dilation) of a text classifier, of one with large batches, of
# a convolutional encoder, narrow and wide, and of one that sees far
CONVOLUTIONS = (
    (50, 40, 300, 100, 3, 1),
    (3072, 64, 128, 384, 3, 1),
    (64, 128, 256, 512, 3, 1),
    (64, 128, 512, 1024, 5, 1),
    (64, 128, 256, 512, 3, 4),
)
# how numbers are stored, and what `gp.set_matmul_precision` is told
PRECISIONS = {"fp16": ("float16", "highest"), "tf32": ("float32", "high"), "fp32": ("float32", "highest")}
LOSSES = ((8192, 32000), (65536, 1024), (1 << 20, 16))
# (sequences, times, hidden)
RECURRENT = ((64, 50, 64), (64, 50, 128), (64, 50, 256), (64, 50, 384), (64, 50, 512), (512, 50, 256))


def seconds(run: Callable[[], Any], samples: int = SAMPLES) -> float:
    """The median of one call by CUDA's clock, each after the one before has ended."""
    cuda = import_cupy().cuda
    for _ in range(min(3, samples)):
        run()
    found = []
    for _ in range(samples):
        start, stop = cuda.Event(), cuda.Event()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        found.append(cuda.get_elapsed_time(start, stop) / 1e3)
    return statistics.median(found)


def random_array(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    return import_cupy().asarray(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def error(found: Any, exact: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    host = np.asarray(found.get(), np.float64)
    return float(np.abs(host - exact).max() / np.abs(exact).max())


def products_in_a_graph(small: bool) -> dict[str, Any]:
    cupy, n = import_cupy(), 64 if small else 1024
    a, b, bias = random_array(n, n), random_array(n, n, seed=1), random_array(n, seed=2)

    def step(a: Any, b: Any, bias: Any) -> Any:
        done = gemm.affine(a, b, bias, "relu")
        return gemm.matmul(a, b), done

    run = gp.capture(step)
    for _ in range(3):
        product, biased = run(a, b, bias)
    host = a.get().astype(np.float64), b.get().astype(np.float64), bias.get().astype(np.float64)
    exact = host[0] @ host[1]
    result: dict[str, Any] = {"replayed": run.replayed, "error": error(product, exact)}
    if biased is not None:
        result["error_with_bias_and_relu"] = error(biased, np.maximum(exact + host[2], 0))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            a @ b
            result["cupys_own"] = "allowed"
        except Exception as refused:
            result["cupys_own"] = f"{type(refused).__name__}: {refused}"[:200]
        try:
            stream.end_capture()
        except Exception as invalid:
            result["cupys_own"] += f"; the capture is invalid: {invalid}"[:200]
    return result


def convolution(small: bool) -> list[dict[str, Any]]:
    found, before = [], gemm.get_matmul_precision()
    for shape in CONVOLUTIONS:
        *sizes, dilation = (min(n, 5 + n % 7) for n in shape) if small else shape
        for precision, (dtype, products) in PRECISIONS.items():
            gemm.set_matmul_precision(products)
            try:
                at = Geometry(1, (1, 1), dilation, 1)
                row = ways_of_convolution(sizes, at, np.dtype(dtype), 1 if small else SAMPLES)
            finally:
                gemm.set_matmul_precision(before)
            found.append({"shape": sizes, "dilation": dilation, "precision": precision, **row})
    return found


def ways_of_convolution(sizes: list[int], at: Geometry, dtype: Any, samples: int) -> dict[str, Any]:
    """Of each way that is possible: the error of its first text, and microseconds forward and backward."""
    batch, length, channels, filters, kernel = sizes
    x = random_array(batch, length, channels, dtype=dtype)
    weight = random_array(kernel, channels, filters, dtype=dtype, seed=1)
    dy = random_array(batch, at.out_length(length, kernel), filters, dtype=dtype, seed=2)
    seen = np.pad(x[0].get().astype(np.float64), ((1, 1), (0, 0)))
    taps = [seen[k * at.dilation : k * at.dilation + dy.shape[1]] for k in range(kernel)]
    exact = sum(tap @ w for tap, w in zip(taps, weight.get().astype(np.float64), strict=True))
    row: dict[str, Any] = {"chosen": conv1d_ways.way_of(x, weight, at).__name__.rpartition("conv1d_")[2]}
    for name, way in conv1d_ways.WAYS.items():
        if not way.possible(x, weight, at):
            continue

        def both(way: Any = way) -> Any:
            return way.backward(dy, x, weight, at, (True, True, False))

        row[name] = {
            "error": error(way.forward(x, weight, None, at)[0], exact),
            "forward_us": seconds(lambda way=way: way.forward(x, weight, None, at), samples) * 1e6,
            "backward_us": seconds(both, samples) * 1e6,
        }

    def copied() -> Any:
        padded = import_cupy().pad(x, ((0, 0), (1, 1), (0, 0)))
        taps = [padded[:, k * at.dilation : k * at.dilation + dy.shape[1]] for k in range(kernel)]
        windows = import_cupy().stack(taps, axis=2).reshape(-1, kernel * channels)
        return gemm.matmul(windows, weight.reshape(-1, filters))

    row["copied_windows"] = {"forward_us": seconds(copied, samples) * 1e6}
    return row


def cross_entropy(small: bool) -> list[dict[str, Any]]:
    found = []
    for rows, classes in LOSSES:
        rows, classes = (64, min(classes, 512)) if small else (rows, classes)
        logits, labels = random_array(rows, classes), np.arange(rows) % classes
        leaf, targets = gp.tensor(logits, requires_grad=True), import_cupy().asarray(labels)

        def both(leaf: Any = leaf, targets: Any = targets) -> Any:
            leaf.grad = None
            loss = gp.ops.softmax_cross_entropy(leaf, targets)
            loss.backward()
            return loss

        loss = both().item()
        z = logits[:64].get().astype(np.float64)
        e = np.exp(z - z.max(axis=1, keepdims=True))
        exact = e / e.sum(axis=1, keepdims=True)
        exact[np.arange(len(z)), labels[: len(z)]] -= 1
        moved = 2 * rows * classes * 4
        taken = seconds(both, samples=10)
        copy = seconds(lambda logits=logits: logits.copy(), samples=10)
        found.append({
            "rows": rows, "classes": classes, "loss": loss,
            "error_gradient": error(leaf.grad[:64] * rows, exact), "us": taken * 1e6,
            "gb_per_s_of_two_passes": moved / taken / 1e9, "copy_gb_per_s": moved / copy / 1e9,
        })  # fmt: skip
    return found


def nodes(small: bool) -> dict[str, Any]:
    x = import_cupy().zeros(1, np.float32)
    times = {}
    for count in (10, 100 if small else 1000):

        def step(x: Any, count: int = count) -> Any:
            y = x.copy()
            for _ in range(count):
                y += 1.0
            return y

        run = gp.capture(step)
        for _ in range(3):
            result = run(x)
        np.testing.assert_array_equal(result.get(), count)
        (graph,) = run._graphs.values()
        times[count] = seconds(graph.graph.launch)
    few, many = sorted(times)
    return {
        "us_a_graph": {str(count): t * 1e6 for count, t in times.items()},
        "us_a_node": (times[many] - times[few]) / (many - few) * 1e6,
    }


def recurrence(small: bool) -> list[dict[str, Any]]:
    found = []
    for batch, times, hidden in ((2, 3, 8),) if small else RECURRENT:
        layer, x = gp.nn.GRU(hidden, hidden), random_array(batch, times, hidden)
        sizes, most = (batch, 3, hidden, 4), shared_memory(x)
        possible = {
            "steps": True,
            "one_kernel": all(persistent_sizes.sizes(*sizes, way, 64 << 10) for way in (True, False)),
            "clusters": most >= cluster_sizes.SHARED
            and cluster_sizes.sizes(*sizes[1:], False, most) is not None,
        }
        alone = persistent_sizes.suits(times, *sizes)
        by_clusters = cluster_sizes.suits(times, *sizes, most)
        found.append({
            "batch": batch, "times": times, "hidden": hidden,
            "chosen": "clusters" if by_clusters else "one_kernel" if alone else "steps",
            "us_a_time_step": {
                way: recurrent_step(layer, x, way) / times * 1e6 for way in possible if possible[way]
            },
        })  # fmt: skip
    return found


def recurrent_step(layer: Any, x: Any, way: str) -> float:
    """Seconds of a captured forward and backward pass: a time at a time, or all in one kernel by blocks or by
    clusters."""

    def step(x: Any) -> Any:
        for p in layer.parameters():
            p.grad = None
        loss = layer(gp.Tensor(x))[0].sum()
        loss.backward()
        return loss

    with (
        mock.patch.object(persistent_kernels, "fits", return_value=way != "steps"),
        mock.patch.object(cluster_sizes, "suits", return_value=way == "clusters"),
    ):
        run = gp.capture(step)
        for _ in range(3):
            run(x)
    (graph,) = run._graphs.values()
    return seconds(graph.graph.launch, samples=10)


EXPERIMENTS: dict[str, Callable[[bool], Any]] = {
    "products_in_a_graph": products_in_a_graph,
    "convolution": convolution,
    "cross_entropy": cross_entropy,
    "nodes": nodes,
    "recurrence": recurrence,
}


def measure(limit: float, small: bool = False) -> dict[str, Any]:
    """All experiments in about `limit` seconds, on the current device. small: only to see that they run."""
    end, results = time.perf_counter() + limit, {}
    for name, run in EXPERIMENTS.items():
        if time.perf_counter() > end:
            results[name] = {"left out": "no time"}
            continue
        try:
            results[name] = run(small)
        except Exception as failed:
            results[name] = {"failed": f"{type(failed).__name__}: {failed}"[:1000]}
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/experiments.json"))
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    gp.set_device("cuda")
    results = measure(options.seconds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    failed = [name for name, result in results.items() if isinstance(result, dict) and "failed" in result]
    print(json.dumps(results, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
