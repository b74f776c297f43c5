"""Every element is visited exactly once, whatever the sizes: by twins of the kernels' index maps in NumPy.

Where a map is a function of its own, the twin is compared with it, run by the emulator. Huge sizes are
arithmetic alone.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import index_maps as maps
import numpy as np
import pytest

from gpuprop.backend import kernels
from gpuprop.backend.device import use_device
from gpuprop.backend.instantiations import ACTIVATIONS, ROW_ELEMENTS, TEAMS
from gpuprop.ops import (
    activation_kernels,
    conv1d_depthwise,
    conv1d_kernels,
    embedding_kernels,
    layer_norm_kernels,
    persistent_sizes,
)
from gpuprop.ops import softmax_cross_entropy_kernels as cross_entropy
from gpuprop.optim import norm
from gpuprop.testing import unavailable

REASON = unavailable("emulated")
needs_emulator = pytest.mark.skipif(REASON is not None, reason=f"emulated: {REASON}")
PACKS = (1, 2, 4, 8)  # elements of 16 bytes
HUGE = 2**31 + 12345  # beyond an int
FLOAT = np.dtype(np.float32)


def once(visited, n):
    """Whether 0..n-1 are visited, each once, and nothing else."""
    visited = np.asarray(visited, np.int64).reshape(-1)
    return len(visited) == n and bool((np.sort(visited) == np.arange(n)).all())


def around(*edges):
    """Each edge, one less and one more; 0 and 1."""
    return sorted({0, 1, *(n for edge in edges for n in (edge - 1, edge, edge + 1))})


@pytest.mark.parametrize("size", PACKS)
@pytest.mark.parametrize("start", [0, 1, 7, 16])
def test_packs_of_a_flat_block(start, size):
    """adam and gradient_norm, which begin and end inside a pack; grids as launched, and fewer blocks."""
    itemsize = SimpleNamespace(itemsize=16 // size)
    for n in around(size, 256 * size, 512 * size):
        for grid in {norm.blocks(n, itemsize, 1024), 1}:
            visited = maps.packs(start, start + n, size, grid, norm.THREADS)
            assert once(visited - start, n), (n, grid)


@pytest.mark.parametrize("first", [0, 1, 15, 16, 2**33 + 5])
def test_dropout_draws_each_element_once(first):
    for n in around(16, 16 * 256):
        assert once(maps.philox_blocks(n, first, maps.up(maps.up(n, 16) + 1, 256), 256), n), n


@pytest.mark.parametrize("width", [1, 15, 16, 17, 300])
def test_dropout_of_packed_rows(width):
    chunks = maps.up(width, 16) + 1
    for rows, first in itertools.product(([], [0], [0, 1, 4, 9], [2**33 // width]), (0, 5)):
        grid = maps.up(len(rows) * chunks, 256)
        visited = maps.philox_blocks_of_rows(rows, width, chunks, first, grid, 256)
        assert once(visited, len(rows) * width), (rows, first)


@pytest.mark.parametrize("pack", [1, 4, 8])
def test_activation_tiles(pack):
    for rows, width in itertools.product(around(32, 70), (1, 31, 32, 33, 96)):
        width *= pack
        parts = activation_kernels.parts_of(rows, width, pack)
        grid = maps.up(width, 32 * pack) * parts
        visited = []
        for block, thread in itertools.product(range(grid), range(0, 256, 32)):
            lanes = thread + np.arange(32)
            column, first, last = maps.activation_place(block, lanes, rows, width, parts, pack)
            own = maps.strided(first[:1], activation_kernels.THREADS // 32, last)
            columns = (column[column < width, None] + np.arange(pack)).reshape(-1)
            visited.append((own[:, None] * width + columns).reshape(-1))
        assert once(np.concatenate(visited) if visited else [], rows * width), (rows, width)


def jobs_of(total):
    """All, or of very many the first, the last, and some at the edges of types."""
    if total < 10_000:
        return np.arange(total)
    edges = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, total // 2, total - 1]
    return np.array([n for n in edges if n < total], np.int64)


@pytest.mark.parametrize("tile", [32, 64])
def test_attention_jobs_cover_every_matrix(tile):
    for matrices, rows, columns in itertools.product((0, 1, 3), around(tile, 2 * tile), around(64, 128)):
        visited = [np.empty(0, np.int64)]
        for job in range(maps.attention_jobs(matrices, rows, columns, tile)):
            matrix, row0, column0 = maps.attention_job(job, rows, columns, tile)
            row = np.arange(row0, min(row0 + tile, rows))[:, None]
            column = np.arange(column0, min(column0 + maps.COLUMNS, columns))
            visited.append(((matrix * rows + row) * columns + column).reshape(-1))
        assert once(np.concatenate(visited), matrices * rows * columns), (matrices, rows, columns)


@pytest.mark.parametrize(
    ("matrices", "rows", "columns"), [(HUGE, 33, 65), (3, HUGE // 4, 64), (HUGE, 1, HUGE // 2)]
)
def test_attention_jobs_of_huge_arrays(matrices, rows, columns):
    """Back from what a job computes to its number."""
    chunks, tiles = maps.up(columns, 64), maps.up(rows, 32)
    total = matrices * tiles * chunks
    for job in (0, 1, 2**31, 2**32, total // 2, total - 1):
        matrix, row0, column0 = maps.attention_job(min(job, total - 1), rows, columns, 32)
        assert 0 <= matrix < matrices
        assert 0 <= row0 < rows
        assert 0 <= column0 < columns
        assert (matrix * tiles + row0 // 32) * chunks + column0 // 64 == min(job, total - 1)


def test_conv1d_tiles_cover_every_output():
    side = conv1d_kernels.TILE
    for rows, columns, groups in itertools.product(around(side, 2 * side), around(side), (1, 3)):
        column_tiles, visited = maps.up(columns, side), [np.empty(0, np.int64)]
        for tile in range(conv1d_kernels._tiles(rows, columns, groups)):
            row0, column0, group = maps.conv1d_tile(tile, column_tiles, groups, side)
            row = np.arange(row0, min(row0 + side, rows))[:, None]
            column = np.arange(column0, min(column0 + side, columns))
            visited.append(((row * groups + group) * columns + column).reshape(-1))
        assert once(np.concatenate(visited), rows * groups * columns), (rows, columns, groups)


def test_conv1d_tiles_of_huge_arrays():
    rows, columns, groups, side = HUGE * 64 + 1, 65, 3, conv1d_kernels.TILE
    column_tiles, total = maps.up(columns, side), conv1d_kernels._tiles(rows, columns, groups)
    for tile in jobs_of(total).tolist():
        row0, column0, group = maps.conv1d_tile(tile, column_tiles, groups, side)
        assert 0 <= row0 < rows
        assert 0 <= column0 < columns
        assert 0 <= group < groups
        assert (row0 // side * groups + group) * column_tiles + column0 // side == tile


@pytest.mark.parametrize("pairs", [1, 63, 64, 65, 1000, 10**6])
def test_conv1d_weight_tiles_and_runs(pairs):
    """Each weight of each group once a split; each pair of the batch in one split."""
    side = conv1d_kernels.TILE
    for rows, columns, groups, wanted in itertools.product(
        (1, side + 1), (1, side, side + 1), (1, 2), (0, 1, 5, 512)
    ):
        splits, run = conv1d_kernels._runs(pairs, wanted)
        assert (splits - 1) * run < pairs <= splits * run
        row_tiles, column_tiles = maps.up(rows, side), maps.up(columns, side)
        tile = np.arange(row_tiles * column_tiles * groups * splits)
        found = maps.conv1d_weight_tile(tile, row_tiles, column_tiles, groups, side)
        row0, column0, group, split = found
        back = ((split * groups + group) * row_tiles + row0 // side) * column_tiles + column0 // side
        assert (back == tile).all()
        assert row0.max() < rows
        assert column0.max() < columns
        assert (group.max(), split.max()) == (groups - 1, splits - 1)


def test_texts_laid_end_to_end():
    """conv1d_pad: every row of x once, and zeros elsewhere."""
    for batch, length, front, before, behind, after in itertools.product(
        (0, 1, 3), (1, 5), (0, 2), (0, 1), (0, 2), (0, 7)
    ):
        each = before + length + behind
        rows = front + batch * each + after
        copied = maps.padded_row(np.arange(rows), front, each, before, batch, length)
        assert once(copied[copied >= 0], batch * length)


WIDTHS = (((3, 1),), ((3, 64), (1, 65)), ((2, 5), (9, 130), (4, 64), (1, 1)))


@pytest.mark.parametrize("widths", WIDTHS)
def test_widths_of_convolutions_with_a_maximum(widths):
    """conv1d_relu_max_forward: every window of every text meets every filter of its width once."""
    side, channels = 64, 3
    filter_tiles = [maps.up(filters, side) for _, filters in widths]
    for batch, span, windows in itertools.product((1, 3, 5), (16, 32, 64), (1, 15, 64, 65)):
        texts, visited = side // span, [[] for _ in widths]
        for tile in range(maps.up(batch, texts) * sum(filter_tiles)):
            first_text = tile // sum(filter_tiles) * texts
            index, _, own, _ = maps.width_of(
                tile % sum(filter_tiles), widths, channels, lambda _, filters: maps.up(filters, side)
            )
            filters, line = widths[index][1], np.arange(side)
            f = np.arange(own * side, min(own * side + side, filters))
            for t0 in range(0, windows, span):
                text, t = first_text + line // span, t0 + line % span
                real = (text < batch) & (t < windows)
                visited[index].append(((text * windows + t)[real, None] * filters + f).reshape(-1))
        for (_, filters), found in zip(widths, visited, strict=True):
            assert once(np.concatenate(found), batch * windows * filters), (batch, span, windows)


def test_places_of_recurrent_states():
    """The kernels of each time write y once, all times together."""
    for batch, size, length in itertools.product((1, 3), (1, 255, 257), (1, 4)):
        i = maps.strided(maps.threads(1, 256), 256, batch * size)
        outputs = [maps.recurrent_place(i, size, length, t)[3] for t in range(length)]
        assert once(np.concatenate(outputs), batch * length * size)
        tokens = [maps.recurrent_place(np.arange(batch) * size, size, length, t)[2] for t in range(length)]
        assert once(np.concatenate(tokens), batch * length)
    row, column, _, output = maps.recurrent_place(HUGE * 7 + 3, 7, 1000, 999)
    assert (row, column, output) == (HUGE, 3, (HUGE * 1000 + 999) * 7 + 3)


@pytest.mark.parametrize("itemsize", [2, 4])
def test_walks_of_depthwise_convolutions(itemsize):
    """Every output of every channel once, however texts are cut into residues, runs and parts."""
    size = 16 // itemsize
    for batch, total, dilation, packs in itertools.product(
        (1, 3), (1, 7, 31, 64, 65, 200), (1, 2, 5), (1, 3, 33)
    ):
        cut = conv1d_depthwise.cut_of((batch, total, packs * size), itemsize, total, dilation, 7)
        walks, block_size = batch * cut.pieces * dilation, conv1d_depthwise.THREADS
        times = [[] for _ in range(walks)]
        for w in range(walks):
            text, residue, first, last = maps.depthwise_walk(w, total, dilation, cut.pieces, cut.run)
            times[w] = text * total + residue + np.arange(first, last) * dilation
        assert once(np.concatenate(times), batch * total), (batch, total, dilation)
        visited = []
        for block, thread in itertools.product(range(cut.blocks), range(block_size)):
            column, first, last, step = maps.depthwise_share(
                block, thread, block_size, packs * size, size, cut.across, cut.parts, walks
            )
            if column < packs * size:
                visited += [w * packs + column // size for w in range(first, last, step)]
        assert once(visited, walks * packs), (batch, total, dilation, packs)


@pytest.mark.parametrize(("rows", "directions"), [(1, 1), (1, 2), (4, 1), (4, 2)])
def test_places_of_recurrent_sequences(rows, directions):
    for batch, length, size in itertools.product((1, 3, 4, 5), (1, 3), (1, 32, 33)):
        visited = [
            maps.sequence_place(block, direction, directions, rows, batch, length, size, thread).reshape(-1)
            for block, direction in itertools.product(range(maps.up(batch, rows)), range(directions))
            for thread in range(maps.up(size, 32) * 32)
        ]
        assert once(np.concatenate(visited), batch * length * directions * size), (batch, length, size)


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_slices_of_recurrent_weights(itemsize):
    """Each row of the matrix meets each pack of columns once, from shared memory or beyond it."""
    pack = 16 // itemsize
    for size, gates, way in itertools.product((1, 30, 64, 160, 512), (3, 4), (True, False)):
        how = persistent_sizes.sizes(8, gates, size, itemsize, way, persistent_sizes.LEAST_SHARED)
        if how is None:
            continue
        inner, columns = (how.padded, gates * how.padded) if way else (gates * how.padded, how.padded)
        packs, visited = columns // pack, []
        assert columns % pack == 0
        for task in range(packs * how.slices):
            c, held, rest = maps.sequence_rows(task, packs, inner, how.held, how.slices)
            assert len(rest) == 0 or rest.max() < inner
            visited.append(np.concatenate([held, rest]) * packs + c)
        assert once(np.concatenate(visited), inner * packs), (size, gates, way)


@pytest.mark.parametrize("pack", [1, 4])
def test_columns_of_pooling(pack):
    """max_over_time and mean_over_time: a block a text and 32 packs of columns, its warps the positions."""
    for batch, length, packs in itertools.product((1, 3), (1, 7, 8, 9), (1, 31, 32, 33)):
        channels, tiles = packs * pack, maps.up(packs, 32)
        item, warp, lane = np.ix_(np.arange(batch * tiles), np.arange(8), np.arange(32))
        b, column = item // tiles, (item % tiles * 32 + lane) * pack
        visited = []
        for turn in range(maps.up(length, 8)):
            t = warp + turn * 8
            place = (b * length + t) * channels + column
            visited.append(place[np.broadcast_to((t < length) & (column < channels), place.shape)])
        elements = (np.concatenate(visited)[:, None] + np.arange(pack)).reshape(-1)
        assert once(elements, batch * length * channels), (batch, length, channels)


def logits(rows, classes, dtype=FLOAT):
    """What `plan` asks of them."""
    return SimpleNamespace(shape=(rows, classes), dtype=np.dtype(dtype))


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("classes", [1, 2, 7, 63, 64])
def test_slabs_of_few_classes(classes, size):
    for rows in around(128, 256):
        grid = min(maps.up(rows, cross_entropy.SLAB_THREADS), cross_entropy.MOST_BLOCKS)
        if not grid:
            continue
        for blocks in {grid, 1}:
            elements, own = maps.slab(rows, classes, size, blocks, cross_entropy.SLAB_THREADS)
            assert once(elements, rows * classes), rows
            assert once(own, rows), rows


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_of_teams_wherever_they_begin(dtype):
    """Whatever `plan` gives a row to holds all of it, also where it begins inside a pack."""
    size = 16 // np.dtype(dtype).itemsize
    edges = [team * held for team in TEAMS for held in ROW_ELEMENTS]
    seen = set()
    for classes in {c + d for c in edges for d in range(-size - 1, size + 2)}:
        name = cross_entropy.plan(logits(100, classes, dtype))[0]
        seen.add(name)
        for row in (*range(size + 1), HUGE):
            if name == "online":
                visited = maps.row_of_block(row, classes, size, cross_entropy.THREADS)
            else:
                team, held = map(int, name.split()[1:])
                visited = maps.row_of_team(row, classes, size, team, held)
            assert once(visited - row * classes, classes), (classes, row, name)
    assert seen == {*(f"team {t} {e}" for t in TEAMS for e in ROW_ELEMENTS), "online"}


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_rows_of_layer_norm_in_a_warp(itemsize):
    size = 16 // itemsize
    edges = (32 * k * size + more for k in (1, 2, 4, 8) for more in (-size, 0, size))
    for width in set(around(*edges)) - {0}:
        held = layer_norm_kernels.packs_of(width, itemsize)
        assert (held is None) == (width % size != 0 or width > 32 * size * (4 if itemsize == 2 else 8))
        if held is not None:
            assert once(maps.row_of_warp(width, size, held), width), width
    for rows, grid in itertools.product(around(8, 64), (1, 3)):
        warps = np.unique(maps.threads(grid, 256) // 32)
        assert once(maps.strided(warps, len(warps), rows), rows)


@pytest.mark.parametrize("n", around(32, 1024, 2048, 33_000))
def test_runs_of_the_sort(n):
    first, last = maps.sort_runs(n)
    assert once(np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)]), n)


def test_chunks_of_the_gradient_of_a_table():
    chunk, warps = embedding_kernels.CHUNK, embedding_kernels.THREADS // 32
    for n, columns, pack in itertools.product(around(chunk, 8 * chunk)[1:], (8, 40, 256, 264), (1, 8)):
        chunks, tiles = maps.up(n, chunk), maps.up(columns, 32 * pack)
        grid = math.ceil(chunks * tiles / warps)
        warp, lane = np.arange(grid * warps)[:, None], np.arange(32)
        number, column = maps.embedding_chunk(warp, tiles, lane, pack)
        number, column = (
            a[(number * chunk < n) & (column < columns)] for a in np.broadcast_arrays(number, column)
        )
        assert once(number * (columns // pack) + column // pack, chunks * (columns // pack))


@pytest.mark.parametrize("n", around(32, 64, 300)[1:])
def test_each_place_is_added_to_its_row_once(n):
    """Runs of equal ids within a chunk, over its end, and over several; ids that belong to no row."""
    rng = np.random.default_rng(n)
    for stop in (1, 2, 5, 40, 1000):
        keys = np.sort(rng.integers(0, stop, n))
        rows = max(1, stop - 1)
        added = maps.embedding_sums(keys.tolist(), rows)
        assert all(len(times) == 1 for times in added.values())  # one owner, so no atomics
        places = [place for times in added.values() for place in times[0]]
        assert once(places, int((keys < rows).sum()))
        assert all((keys[times[0]] == key).all() for key, times in added.items())


# The kernels' own functions, against the twins.


def run(source, out, *arrays, items=None):
    """Launch the kernel `run` of the source, a thread an item of `out`, or so many; returns `out`."""
    with use_device("emulated"):
        kernel = kernels.load(source, names=["run"])["run"]
        n = len(out) if items is None else items
        kernel(maps.up(n, 64), 64, (*arrays, out, n))
    return out


@needs_emulator
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


@needs_emulator
def test_activation_place_is_the_kernels():
    source = """#include "activation.cu"
    extern "C" __global__ void run(const long long* rows, long long* out, int n) {
      const Place at = place<4>(rows[0], 1000, 3);
      const int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i >= n) return;
      out[4 * i] = at.column, out[4 * i + 1] = at.first, out[4 * i + 2] = at.last, out[4 * i + 3] = at.part;
    }"""
    for rows in (0, 5, 100, HUGE):
        found = run(source, np.zeros((24 * 64, 4), np.int64), np.array([rows]))
        i = np.arange(24 * 64)
        column, first, last = maps.activation_place(i // 64, i % 64, rows, 1000, 3, 4)
        np.testing.assert_array_equal(found[:, :3], np.stack([column, first, last], 1))
    assert ACTIVATIONS["identity"] == 0


@needs_emulator
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
    numbers = np.array([*range(639), HUGE * 6], np.int64)  # ten blocks of 64 threads: all parts of all tiles
    found = run(source, np.zeros((2 * len(numbers), 4), np.int64), numbers, items=len(numbers))
    walks = [maps.depthwise_walk(int(w), 70, 3, 2, 12) for w in numbers]
    np.testing.assert_array_equal(found[: len(numbers)], walks)
    thread = np.arange(len(numbers))
    shares = maps.depthwise_share(thread // 64, thread % 64, 128, 260, 4, 32, 5, 1000)
    np.testing.assert_array_equal(found[len(numbers) :], np.stack(np.broadcast_arrays(*shares), 1))


@needs_emulator
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
    for widths in WIDTHS:
        total = sum(maps.up(filters, 64) for _, filters in widths)
        given = np.array([len(widths), *itertools.chain(*widths)], np.int32)
        found = run(source, np.zeros((total, 4), np.int64), given)
        twins = [maps.width_of(i, widths, 3, lambda _, filters: maps.up(filters, 64)) for i in range(total)]
        assert found.tolist() == [list(twin) for twin in twins]


@needs_emulator
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


@needs_emulator
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
