"""As test_index_maps.py, of the kernels that walk along texts: convolutions, recurrent layers, pooling."""

from __future__ import annotations

import itertools

import index_maps as maps
import numpy as np
import pytest

from gpuprop.ops import cluster_sizes, conv1d_depthwise, conv1d_kernels, persistent_sizes


def jobs_of(total):
    """All, or of very many the first, the last, and some at the edges of types."""
    if total < 10_000:
        return np.arange(total)
    edges = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, total // 2, total - 1]
    return np.array([n for n in edges if n < total], np.int64)


def test_conv1d_tiles_cover_every_output():
    side = conv1d_kernels.TILE
    for rows, columns, groups in itertools.product(maps.around(side, 2 * side), maps.around(side), (1, 3)):
        column_tiles, visited = maps.up(columns, side), [np.empty(0, np.int64)]
        for tile in range(conv1d_kernels._tiles(rows, columns, groups)):
            row0, column0, group = maps.conv1d_tile(tile, column_tiles, groups, side)
            row = np.arange(row0, min(row0 + side, rows))[:, None]
            column = np.arange(column0, min(column0 + side, columns))
            visited.append(((row * groups + group) * columns + column).reshape(-1))
        assert maps.once(np.concatenate(visited), rows * groups * columns), (rows, columns, groups)


def test_conv1d_tiles_of_huge_arrays():
    rows, columns, groups, side = maps.HUGE * 64 + 1, 65, 3, conv1d_kernels.TILE
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
        assert maps.once(copied[copied >= 0], batch * length)


@pytest.mark.parametrize("widths", maps.WIDTHS)
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
            assert maps.once(np.concatenate(found), batch * windows * filters), (batch, span, windows)


def test_places_of_recurrent_states():
    """The kernels of each time write y once, all times together."""
    for batch, size, length in itertools.product((1, 3), (1, 255, 257), (1, 4)):
        i = maps.strided(maps.threads(1, 256), 256, batch * size)
        outputs = [maps.recurrent_place(i, size, length, t)[3] for t in range(length)]
        assert maps.once(np.concatenate(outputs), batch * length * size)
        tokens = [maps.recurrent_place(np.arange(batch) * size, size, length, t)[2] for t in range(length)]
        assert maps.once(np.concatenate(tokens), batch * length)
    row, column, _, output = maps.recurrent_place(maps.HUGE * 7 + 3, 7, 1000, 999)
    assert (row, column, output) == (maps.HUGE, 3, (maps.HUGE * 1000 + 999) * 7 + 3)


@pytest.mark.parametrize("size", [4, 8])
def test_walks_of_depthwise_convolutions(size):
    """Every output of every channel once, however texts are cut into residues, runs and parts."""
    for batch, total, dilation, packs in itertools.product(
        (1, 3), (1, 7, 31, 64, 65, 200), (1, 2, 5), (1, 3, 33)
    ):
        cut = conv1d_depthwise.cut_of((batch, total, packs * size), size, total, dilation, 7)
        walks, block_size = batch * cut.pieces * dilation, conv1d_depthwise.THREADS
        times = [[] for _ in range(walks)]
        for w in range(walks):
            text, residue, first, last = maps.depthwise_walk(w, total, dilation, cut.pieces, cut.run)
            times[w] = text * total + residue + np.arange(first, last) * dilation
        assert maps.once(np.concatenate(times), batch * total), (batch, total, dilation)
        visited = []
        for block, thread in itertools.product(range(cut.blocks), range(block_size)):
            column, first, last, step = maps.depthwise_share(
                block, thread, block_size, packs * size, size, cut.across, cut.parts, walks
            )
            if column < packs * size:
                visited += [w * packs + column // size for w in range(first, last, step)]
        assert maps.once(visited, walks * packs), (batch, total, dilation, packs)


@pytest.mark.parametrize(("rows", "directions"), [(1, 1), (1, 2), (4, 1), (4, 2)])
def test_places_of_recurrent_sequences(rows, directions):
    for batch, length, size in itertools.product((1, 3, 4, 5), (1, 3), (1, 32, 33)):
        visited = [
            maps.sequence_place(block, direction, directions, rows, batch, length, size, thread).reshape(-1)
            for block, direction in itertools.product(range(maps.up(batch, rows)), range(directions))
            for thread in range(maps.up(size, 32) * 32)
        ]
        assert maps.once(np.concatenate(visited), batch * length * directions * size), (batch, length, size)


@pytest.mark.parametrize("directions", [1, 2])
def test_places_of_recurrent_clusters(directions):
    for batch, length, size in itertools.product((1, 4, 5), (1, 3), (4, 8, 72, 100)):
        width = cluster_sizes.sizes(3, size, 4, True, cluster_sizes.SHARED).width
        visited = [
            maps.cluster_place(block, direction, directions, batch, length, size, width, thread)
            for block, direction in itertools.product(range(maps.up(batch, 4) * 8), range(directions))
            for thread in range(cluster_sizes.THREADS)
        ]
        assert maps.once(np.concatenate(visited), batch * length * directions * size), (batch, length, size)


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_shares_of_recurrent_weights(itemsize):
    """Each number of the matrix meets its vector in one task of a block, from shared memory or beyond it."""
    pack = 16 // itemsize
    for size, gates, way in itertools.product((8, 40, 136, 256), (3, 4), (True, False)):
        how = cluster_sizes.sizes(gates, size, itemsize, way, 64 << 10)
        if how is None:
            continue
        inner, segments = (size, gates) if way else (gates * size, 1)
        packs, visited = segments * how.width // pack, []
        assert how.width % pack == 0
        for rank, task in itertools.product(range(how.blocks), range(packs * how.slices)):
            columns = maps.cluster_columns(rank, task, how.width, segments, size, pack)
            _, held, rest = maps.sequence_rows(task, packs, inner, how.held, how.slices)
            numbers = np.concatenate([held, rest])[:, None] * (segments * size) + columns
            visited.append(numbers.reshape(-1))
        assert maps.once(np.concatenate(visited), inner * segments * size), (size, gates, way)


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
        assert maps.once(np.concatenate(visited), inner * packs), (size, gates, way)


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
        assert maps.once(elements, batch * length * channels), (batch, length, channels)
