"""What blocks keep in shared memory: each place is written once, and what is read there is what was meant. By
twins of the kernels' index maps in NumPy, as in test_index_maps.py."""

from __future__ import annotations

import index_maps as maps
import numpy as np
import pytest

from gpuprop.backend import table_rows
from gpuprop.ops import conv1d_tensor_cores, layer_norm_kernels


def tile_of_x(pack, rows):
    """conv1d_tensor_cores' bring_rows: row and first channel of each pack that a thread brings."""
    thread, i = np.arange(256)[:, None], np.arange(maps.up((128 + 32) * 4, 256))
    row, part = np.broadcast_arrays((thread + i * 256) // 4, thread % 4 * pack)
    return row[row < rows], part[row < rows]


def tile_of_weights(pack, forward):
    """bring_weights: row and first element of each pack."""
    job = np.arange(256)[:, None] + np.arange(128 * 4 // 256) * 256
    across = 128 // pack if forward else 4
    return job // across, job % across * pack


@pytest.mark.parametrize("pack", [4, 8])
def test_tiles_of_a_convolution_on_tensor_cores(pack):
    """Each pack of a step is brought once; no tap of a warp reads another row; banks do not meet."""
    depth, pitch = 4 * pack, 5 * pack
    for reach in (0, 1, 31, conv1d_tensor_cores.REACH):
        row, part = tile_of_x(pack, 128 + reach)
        assert maps.once(row * 4 + part // pack, (128 + reach) * 4)
        warp, lane, i = np.ogrid[:8, :32, :4]
        read = warp // 4 * 64 + lane % 16 + 16 * i + reach
        assert read.max() == 127 + reach
    for forward, rows, columns in ((True, depth, 128), (False, 128, depth)):
        row, part = tile_of_weights(pack, forward)
        assert maps.once(row * columns // pack + part // pack, rows * columns // pack)
    for first in range(128):  # eight rows of 16 bytes that ldmatrix reads at once lie in different banks
        banks = (first + np.arange(8)) * pitch // pack % 8
        assert maps.once(banks, 8)


def test_products_of_a_convolution_on_tensor_cores_are_those_of_ptx():
    """Which row of the weights a lane names, turned or not, is the right operand of two products."""
    lane = np.arange(32)
    ways = {
        True: (lane % 16, lane // 16 * 8),  # rows along channels, so turned
        False: (lane // 16 * 8 + lane % 8, lane // 8 % 2 * 8),
    }
    for turned, at in ways.items():
        row, element = np.moveaxis(maps.loaded(4, turned), -1, 0)
        place = np.stack(at, -1)[row] + np.stack([np.zeros_like(element), element], -1)
        k, column = np.moveaxis(place if turned else place[..., ::-1], -1, 0)
        for half in range(2):
            found = np.stack([k, column - 8 * half], -1)[:, 2 * half : 2 * half + 2]
            np.testing.assert_array_equal(found, maps.mma_right(2))
    g, t, i = np.ogrid[:8, :4, :4]  # of TF32 one by one: channel and column of register i
    channel, column = np.broadcast_arrays(i % 2 * 4 + t, i // 2 * 8 + g)
    right = maps.mma_right(1)[:, :, 0]
    for half in range(2):
        found = np.stack([channel, column - 8 * half], -1).reshape(32, 4, 2)[:, 2 * half : 2 * half + 2]
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize(("packs", "size"), [(8, 4), (4, 8)])
def test_sums_of_columns_of_layer_norm_in_shared_memory(packs, size):
    """Each warp, sum, and column has a place; `finish` reads the one that `add` wrote; a quarter of a warp
    asks each bank once."""
    columns = 32 * packs * size
    warp, of, lane, k, e = np.ogrid[:8, :2, :32, :packs, :size]
    place = warp * 2 * columns + lane * 4 + (k * size + e // 4 * 4) * 32 + of * columns + e % 4
    assert maps.once(place, 8 * 2 * columns)
    assert layer_norm_kernels.memory_of_sums(np.empty(0, np.float32 if size == 4 else np.float16), packs) == (
        4 * place.size
    )
    c = (32 * k + lane) * size + e
    pack = c // size
    element = pack // 32 * size + c % size
    read = warp * 2 * columns + of * columns + element // 4 * 128 + pack % 32 * 4 + element % 4
    np.testing.assert_array_equal(*np.broadcast_arrays(read, place))
    banks = (place[0, 0, :, 0, 0].reshape(4, 8, 1) + np.arange(4)).reshape(4, -1) % 32
    assert all(maps.once(quarter, 32) for quarter in banks)


def ranks(keys):
    """rank_ids: each place's rank, as its lane counts those before it, a warp's turns of 32 at a time."""
    n = len(keys)
    counted = np.zeros((n, n), int)  # how often place i is compared with place j
    rank = np.zeros(n, int)
    for warp in range(table_rows.THREADS // 32):
        for base in range(warp * 32, n, table_rows.THREADS):
            others = np.full(32, 2**31 - 1)
            others[: n - base] = keys[base : base + 32]
            for place in range(n):
                first = place // 32 * 32
                bound = keys[place] + (base < first)
                rank[place] += (others < bound).sum()
                if base == first:
                    rank[place] += (others[: place - first] == keys[place]).sum()
            counted[:, base : base + 32] += 1
    assert (counted == 1).all()
    return rank


@pytest.mark.parametrize("n", maps.around(32, 256, 300)[1:])
def test_ranks_are_places_of_a_stable_sort(n):
    for stop in (1, 3, 1000):
        keys = np.random.default_rng(n).integers(0, stop, n)
        order = np.empty(n, int)
        order[ranks(keys)] = np.arange(n)
        np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))


def bits_of_dropout(number, tile):
    """KeptBits of attention.cuh and Queries of attention_tensor_cores.cuh: of which numbers a row keeps the
    bits, in words of 16, and where each column's bit is among them; the tile's first weight has `number`."""
    words = tile // 16 + 1
    return (number // 16 * 16 + np.arange(16 * words)), number % 16 + np.arange(tile)


@pytest.mark.parametrize("tile", [32, 64])
def test_bits_of_dropout_of_attention(tile):
    """Wherever a row of weights begins, a column's bit is that of its own number, and is kept."""
    for number in (*range(33), 2**33 + 5):
        numbers, at = bits_of_dropout(number, tile)
        np.testing.assert_array_equal(numbers[at], number + np.arange(tile))
