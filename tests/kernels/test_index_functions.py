"""Where an index map of a kernel is a function of its own, its twin in NumPy gives what it gives."""

from __future__ import annotations

import itertools

import index_maps as maps
import numpy as np
import pytest

from gpuprop.backend import kernels
from gpuprop.backend.device import use_device
from gpuprop.testing import unavailable

REASON = unavailable("emulated")
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"emulated: {REASON}")


def run(source, out, *arrays, items=None):
    """Launch the kernel `run` of the source, a thread an item of `out`, or so many; returns `out`."""
    with use_device("emulated"):
        kernel = kernels.load(source, names=["run"])["run"]
        n = len(out) if items is None else items
        kernel(maps.up(n, 64), 64, (*arrays, out, n))
    return out


def test_attention_job_is_the_kernels():
    source = """#include "attention.cuh"
    extern "C" __global__ void run(const long long* sizes, long long* out, int n) {
      const int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i >= n) return;
      const Job job = Job::of<32>(sizes[3 * i], (int)sizes[3 * i + 1], (int)sizes[3 * i + 2]);
      out[4 * i] = job.matrix, out[4 * i + 1] = job.row0, out[4 * i + 2] = job.column0;
      out[4 * i + 3] = Job::count<32>(sizes[3 * i], (int)sizes[3 * i + 1], (int)sizes[3 * i + 2]);
    }"""
    edges = [
        (j, r, c) for j in (0, 5, 2**31, 2**33 + 7) for r in (1, 32, 33, 70_000) for c in (1, 64, 65, 130)
    ]
    sizes = np.array(edges, np.int64)
    found = run(source, np.zeros((len(edges), 4), np.int64), sizes)
    for (job, rows, columns), own in zip(edges, found.tolist(), strict=True):
        twin = maps.attention_job(job, rows, columns, 32)
        assert own == [*twin, maps.attention_jobs(job, rows, columns, 32)], (job, rows, columns)


def test_activation_place_is_the_kernels():
    source = """#include "activation.cu"
    extern "C" __global__ void run(const long long* rows, long long* out, int n) {
      const Place at = place<4>(rows[0], 1000, 3);
      const int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i >= n) return;
      out[4 * i] = at.column, out[4 * i + 1] = at.first, out[4 * i + 2] = at.last, out[4 * i + 3] = at.part;
    }"""
    for rows in (0, 5, 100, maps.HUGE):
        found = run(source, np.zeros((24 * 64, 4), np.int64), np.array([rows]))
        i = np.arange(24 * 64)
        column, first, last = maps.activation_place(i // 64, i % 64, rows, 1000, 3, 4)
        np.testing.assert_array_equal(found[:, :3], np.stack([column, first, last], 1))


def test_depthwise_walks_are_the_kernels():
    source = """#include "conv1d_depthwise.cu"
    extern "C" __global__ void run(const long long* numbers, long long* out, int n) {
      const int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i >= n) return;
      const Walk at = walk(numbers[i], 70, 3, 2, 12);
      out[4 * i] = at.text, out[4 * i + 1] = at.residue, out[4 * i + 2] = at.first, out[4 * i + 3] = at.last;
      const Share of = share<4>(260, 32, 5, 1000);
      out[4 * (n + i)] = of.column, out[4 * (n + i) + 1] = of.first;
      out[4 * (n + i) + 2] = of.last, out[4 * (n + i) + 3] = of.step;
    }"""
    numbers = np.array(
        [*range(639), maps.HUGE * 6], np.int64
    )  # ten blocks of 64 threads: all parts of all tiles
    found = run(source, np.zeros((2 * len(numbers), 4), np.int64), numbers, items=len(numbers))
    walks = [maps.depthwise_walk(int(w), 70, 3, 2, 12) for w in numbers]
    np.testing.assert_array_equal(found[: len(numbers)], walks)
    thread = np.arange(len(numbers))
    shares = maps.depthwise_share(thread // 64, thread % 64, 128, 260, 4, 32, 5, 1000)
    np.testing.assert_array_equal(found[len(numbers) :], np.stack(np.broadcast_arrays(*shares), 1))


def test_widths_are_the_kernels():
    source = """#include "conv1d_relu_max.cuh"
    struct Tiles { __device__ int operator()(int, int filters) const { return (filters + 63) / 64; } };
    extern "C" __global__ void run(const int* widths, long long* out, int n) {
      const int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i >= n) return;
      Widths all = {};
      all.count = widths[0];
      for (int k = 0; k < all.count; ++k)
        all.kernel[k] = widths[2 * k + 1], all.filters[k] = widths[2 * k + 2];
      const Width w = width_of(all, 3, i, Tiles());
      out[4 * i] = w.index, out[4 * i + 1] = w.feature, out[4 * i + 2] = w.tile, out[4 * i + 3] = w.start;
    }"""
    for widths in maps.WIDTHS:
        total = sum(maps.up(filters, 64) for _, filters in widths)
        given = np.array([len(widths), *itertools.chain(*widths)], np.int32)
        found = run(source, np.zeros((total, 4), np.int64), given)
        twins = [maps.width_of(i, widths, 3, lambda _, filters: maps.up(filters, 64)) for i in range(total)]
        assert found.tolist() == [list(twin) for twin in twins]


def test_places_of_recurrent_states_are_the_kernels():
    source = """#include "recurrent.cu"
    extern "C" __global__ void run(const long long* numbers, long long* out, int n) {
      const int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i >= n) return;
      const Place at = place_of(numbers[i], 90, 1000, 999);
      out[4 * i] = at.row, out[4 * i + 1] = at.column, out[4 * i + 2] = at.token, out[4 * i + 3] = at.output;
    }"""
    numbers = np.array([0, 89, 90, 91, 2**31, 2**32 + 1, 2**40], np.int64)
    found = run(source, np.zeros((len(numbers), 4), np.int64), numbers)
    np.testing.assert_array_equal(found, np.stack(maps.recurrent_place(numbers, 90, 1000, 999), 1))


def test_quotients_are_the_kernels():
    """32-bit division where it is enough, 64-bit above: the same."""
    source = """#include "common.cuh"
    extern "C" __global__ void run(const long long* n_and_d, long long* out, int n) {
      const int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i < n) out[i] = quotient(n_and_d[2 * i], (int)n_and_d[2 * i + 1]);
    }"""
    numbers = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**62]
    pairs = np.array(list(itertools.product(numbers, (1, 2, 3, 7, 64, 2**31 - 1))), np.int64)
    found = run(source, np.zeros(len(pairs), np.int64), pairs)
    np.testing.assert_array_equal(found, pairs[:, 0] // pairs[:, 1])
