"""Every element is visited exactly once, whatever the sizes: by twins of the kernels' index maps in NumPy.
Huge sizes are arithmetic alone."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import index_maps as maps
import numpy as np
import pytest

from gpuprop.backend.cublaslt import aux_ld
from gpuprop.backend.instantiations import ROW_TEAMS
from gpuprop.ops import activation_kernels, attention_sizes, embedding_kernels, layer_norm_kernels
from gpuprop.ops import softmax_cross_entropy_kernels as cross_entropy
from gpuprop.ops.residual_layer_norm import packs_of as residual_packs_of
from gpuprop.optim import norm, sparse_kernels

PACKS = (1, 2, 4, 8)  # elements of 16 bytes
FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("size", PACKS)
@pytest.mark.parametrize("start", [0, 1, 7, 16])
def test_packs_of_a_flat_block(start, size):
    """adam and gradient_norm, which begin and end inside a pack; grids as launched, and fewer blocks."""
    itemsize = SimpleNamespace(itemsize=16 // size)
    for n in maps.around(size, 256 * size, 512 * size):
        for grid in {norm.blocks(n, itemsize, 1024), 1}:
            visited = maps.packs(start, start + n, size, grid, norm.THREADS)
            assert maps.once(visited - start, n), (n, grid)


@pytest.mark.parametrize("first", [0, 1, 15, 16, 2**33 + 5])
def test_dropout_draws_each_element_once(first):
    for n in maps.around(16, 16 * 256):
        assert maps.once(maps.philox_blocks(n, first, maps.up(maps.up(n, 16) + 1, 256), 256), n), n


@pytest.mark.parametrize("width", [1, 15, 16, 17, 300])
def test_dropout_of_packed_rows(width):
    chunks = maps.up(width, 16) + 1
    for rows, first in itertools.product(([], [0], [0, 1, 4, 9], [2**33 // width]), (0, 5)):
        grid = maps.up(len(rows) * chunks, 256)
        visited = maps.philox_blocks_of_rows(rows, width, chunks, first, grid, 256)
        assert maps.once(visited, len(rows) * width), (rows, first)


@pytest.mark.parametrize("width", [16, 112, 128, 144, 4096])
def test_dropout_with_an_activation_takes_each_element_and_word_once(width):
    words = aux_ld("relu", width) // 16
    for n in (1, 2, 17):
        grid = maps.up(n * (width // 16), 256)
        elements, written = maps.activation_dropout(n, width, words, grid, 256)
        assert maps.once(elements, n * width), n
        # bit c of row i of cublasLt's mask: at i ld + c, 16 bits a word
        assert (
            written[:, None] * 16 + np.arange(16) == elements // width * words * 16 + elements % width
        ).all()


@pytest.mark.parametrize("pack", [1, 4, 8])
def test_activation_tiles(pack):
    for rows, width in itertools.product(maps.around(32, 70), (1, 31, 32, 33, 96)):
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
        assert maps.once(np.concatenate(visited) if visited else [], rows * width), (rows, width)


@pytest.mark.parametrize("tile", [32, 64])
def test_attention_jobs_cover_every_matrix(tile):
    for matrices, rows, columns in itertools.product(
        (0, 1, 3), maps.around(tile, 2 * tile), maps.around(64, 128)
    ):
        visited = [np.empty(0, np.int64)]
        for job in range(maps.attention_jobs(matrices, rows, columns, tile)):
            matrix, row0, column0 = maps.attention_job(job, rows, columns, tile)
            row = np.arange(row0, min(row0 + tile, rows))[:, None]
            column = np.arange(column0, min(column0 + maps.COLUMNS, columns))
            visited.append(((matrix * rows + row) * columns + column).reshape(-1))
        assert maps.once(np.concatenate(visited), matrices * rows * columns), (matrices, rows, columns)


@pytest.mark.parametrize(
    ("matrices", "rows", "columns"),
    [(maps.HUGE, 33, 65), (3, maps.HUGE // 4, 64), (maps.HUGE, 1, maps.HUGE // 2)],
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


@pytest.mark.parametrize("tile", [32, 64])
def test_sums_of_attention_have_a_place_and_a_thread_each(tile):
    """Those of all rows and columns fill the memory that a launch asks for."""
    for queries, size in itertools.product((1, 17, 64, 127, 128), (1, 16, 17, 64)):
        places, threads = maps.attention_sums(queries, size, tile)
        assert maps.once(places, places.size)
        assert (places % 256 == threads).all()
        how = attention_sizes.backward((queries, size), (1, 1), FLOAT, False, 64 << 10)
        assert how.name.endswith(f" {tile}>") == (tile == (32 if queries <= 32 else 64))
        if how.name.endswith(f" {tile}>"):
            assert how.shared == 4 * places.size


@pytest.mark.parametrize("warps", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [1, 8, 16, 40, 64, 72, 128])
def test_rows_of_attention_on_tensor_cores(warps, size):
    """All rows and columns are loaded, filled up to whole operands; a warp stores each pack once."""
    padded = maps.up(size, 16) * 16
    rows = warps * 16
    visited = maps.rows_on_chip(rows, padded, warps * 32)
    assert maps.once(visited, rows * padded)
    for columns, first in ((padded, 0), (32, 32)):
        stored = maps.rows_on_chip(16, columns, 32)
        column = first + stored % columns
        there = column < size
        assert maps.once(stored // columns * columns + stored % columns, 16 * columns)
        assert there.sum() == 16 * max(0, min(size - first, columns))


@pytest.mark.parametrize("turned", [False, True])
def test_operands_of_attention_are_those_of_ptx(turned):
    """Which row a lane names, and what ldmatrix then hands out: the layouts of mma."""
    at = maps.named_rows(beside=turned)  # left_turned, right
    row, element = np.moveaxis(maps.loaded(4, turned), -1, 0)
    place = at[row] + np.stack([np.zeros_like(element), element], -1)
    left = maps.mma_left(2)
    np.testing.assert_array_equal(place[..., ::-1] if turned else place, left)
    at = maps.named_rows(beside=not turned)  # right_turned, right
    row, element = np.moveaxis(maps.loaded(4, turned), -1, 0)
    place = at[row] + np.stack([np.zeros_like(element), element], -1)
    k, column = (place[..., 0], place[..., 1]) if turned else (place[..., 1], place[..., 0])
    for half in range(2):  # eight columns each
        found = np.stack([k, column - 8 * half], -1)[:, 2 * half : 2 * half + 2]
        np.testing.assert_array_equal(found, maps.mma_right(2))


def test_weights_of_attention_are_the_next_left_operand():
    """What a lane holds of two results beside each other, in pairs, is what it must hold of the operand."""
    result, left = maps.mma_result(), maps.mma_left(2)
    for i, e in itertools.product(range(4), range(2)):
        held = result[:, i % 2 * 2 + e] + np.array([0, 8 * (i // 2)])
        np.testing.assert_array_equal(held, left[:, i, e])


def test_tasks_of_attention_cover_both_gradients():
    for warps, size, value_size in itertools.product((1, 3, 8), (1, 16, 40, 64, 128), (8, 33, 128)):
        visited = []
        for key, column, of_k in maps.attention_tasks(warps, size, value_size):
            wide, start = (size, 0) if of_k else (value_size, 32 * size)
            columns = np.arange(column, min(column + 32, wide))
            visited.append((start + (key + np.arange(16)[:, None]) * wide + columns).reshape(-1))
        assert maps.once(np.concatenate(visited), 32 * (size + value_size))


def logits(rows, classes, dtype=FLOAT):
    """What `plan` asks of them."""
    return SimpleNamespace(shape=(rows, classes), dtype=np.dtype(dtype))


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("classes", [1, 2, 7, 63, 64])
def test_slabs_of_few_classes(classes, size):
    for rows in maps.around(128, 256):
        grid = min(maps.up(rows, cross_entropy.SLAB_THREADS), cross_entropy.MOST_BLOCKS)
        if not grid:
            continue
        for blocks in {grid, 1}:
            elements, own = maps.slab(rows, classes, size, blocks, cross_entropy.SLAB_THREADS)
            assert maps.once(elements, rows * classes), rows
            assert maps.once(own, rows), rows


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_of_teams_wherever_they_begin(dtype):
    """Each pack is copied once, as far as there is room, and each element worked on once, also in rows that
    begin inside a pack."""
    size = 16 // np.dtype(dtype).itemsize
    edges = [65, *(cross_entropy.PACKS * team * size for team in ROW_TEAMS)]
    seen = set()
    for classes in {c + d for c in edges for d in range(-size - 1, size + 2)}:
        name, block, _, shared = cross_entropy.plan(logits(100, classes, dtype))
        if name == "slab":
            continue
        seen.add(name)
        team = int(name.split()[1])
        held = shared // 16 * team // block
        for row, room in itertools.product((*range(size + 1), maps.HUGE), (held, held // 3, 0)):
            copied, visited = maps.row_of_team(row, classes, size, team, room)
            packs = maps.up(row * classes % size + classes, size)
            assert packs <= held, (classes, row)
            assert maps.once(copied, min(packs, room)), (classes, row, name)
            assert maps.once(visited, classes), (classes, row, name)
    assert seen == {f"row {team}" for team in ROW_TEAMS}


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_random_numbers_of_packs_wherever_a_row_begins(itemsize):
    """Each element is decided on by its own number, whatever a row's number among others: widths that are
    whole packs, of which rows begin at multiples."""
    size = 16 // itemsize
    edges = {32 * k * size + more * size for k in (1, 2, 4, 8) for more in (-5, -4, -1, 0, 1)}
    for width in sorted({size, 3 * size, *edges}):
        held = residual_packs_of(width, itemsize)
        if held is None:
            continue
        for row in (0, 1, 2, 3, 7, maps.HUGE):
            columns, numbers = maps.numbers_of_packs(row * width, width, size, held)
            assert maps.once(columns, width), width
            assert (numbers == row * width + columns).all(), (width, row)


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_rows_of_layer_norm_in_a_warp(itemsize):
    size = 16 // itemsize
    edges = (32 * k * size + more for k in (1, 2, 4, 8) for more in (-size, 0, size))
    for width in set(maps.around(*edges)) - {0}:
        held = layer_norm_kernels.packs_of(width, itemsize)
        assert (held is None) == (width % size != 0 or width > 32 * size * (4 if itemsize == 2 else 8))
        if held is not None:
            assert maps.once(maps.row_of_warp(width, size, held), width), width
    for rows, grid in itertools.product(maps.around(8, 64), (1, 3)):
        warps = np.unique(maps.threads(grid, 256) // 32)
        assert maps.once(maps.strided(warps, len(warps), rows), rows)


@pytest.mark.parametrize("n", maps.around(32, 1024, 2048, 33_000))
def test_runs_of_the_sort(n):
    first, last = maps.sort_runs(n)
    assert maps.once(np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)]), n)


def test_warps_of_places_and_chunks_cover_each_pack_once():
    """The grids of sparse_kernels.py, and of sparse_adam.cu the columns of a lane."""
    for n, columns, pack in itertools.product(maps.around(32, 256)[1:], (8, 40, 256, 264), (1, 4)):
        tiles = maps.up(columns, 32 * pack)
        for blocks, many in zip(sparse_kernels.grids(n, columns, pack), (n, maps.up(n, 32)), strict=True):
            warp, lane = np.arange(blocks * 8)[:, None], np.arange(32)
            place, column = np.broadcast_arrays(*maps.embedding_chunk(warp, tiles, lane, pack))
            kept = (place < many) & (column < columns)
            assert maps.once(place[kept] * (columns // pack) + column[kept] // pack, many * (columns // pack))


def test_chunks_of_the_gradient_of_a_table():
    chunk, warps = embedding_kernels.CHUNK, embedding_kernels.THREADS // 32
    for n, columns, pack in itertools.product(maps.around(chunk, 8 * chunk)[1:], (8, 40, 256, 264), (1, 8)):
        chunks, tiles = maps.up(n, chunk), maps.up(columns, 32 * pack)
        grid = math.ceil(chunks * tiles / warps)
        warp, lane = np.arange(grid * warps)[:, None], np.arange(32)
        number, column = maps.embedding_chunk(warp, tiles, lane, pack)
        number, column = (
            a[(number * chunk < n) & (column < columns)] for a in np.broadcast_arrays(number, column)
        )
        assert maps.once(number * (columns // pack) + column // pack, chunks * (columns // pack))


@pytest.mark.parametrize("n", maps.around(32, 64, 300)[1:])
def test_each_place_is_added_to_its_row_once(n):
    """Runs of equal ids within a chunk, over its end, and over several; ids that belong to no row."""
    rng = np.random.default_rng(n)
    for stop in (1, 2, 5, 40, 1000):
        keys = np.sort(rng.integers(0, stop, n))
        rows = max(1, stop - 1)
        added = maps.embedding_sums(keys.tolist(), rows)
        assert maps.sparse_sums(keys.tolist(), rows) == added  # the same pieces, in the same order
        assert all(len(times) == 1 for times in added.values())  # one owner, so no atomics
        places = [place for times in added.values() for place in times[0]]
        assert maps.once(places, int((keys < rows).sum()))
        assert all((keys[times[0]] == key).all() for key, times in added.items())
