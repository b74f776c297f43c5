"""Twins in NumPy of how kernels find what they work on: from a block, thread or job to elements of arrays.

Numbers are int64 arrays or Python's, which have no end; `//` is what `quotient` does on a GPU.
"""

from __future__ import annotations

import numpy as np

HUGE = 2**31 + 12345  # beyond an int
# (kernel, filters) of convolutions side by side
WIDTHS = (((3, 1),), ((3, 64), (1, 65)), ((2, 5), (9, 130), (4, 64), (1, 1)))
WARP = 32
COLUMNS = 64  # of attention.cuh


def once(visited, n):
    """Whether 0..n-1 are visited, each once, and nothing else."""
    visited = np.asarray(visited, np.int64).reshape(-1)
    return len(visited) == n and bool((np.sort(visited) == np.arange(n)).all())


def around(*edges):
    """Each edge, one less and one more; 0 and 1."""
    return sorted({0, 1, *(n for edge in edges for n in (edge - 1, edge, edge + 1))})


def up(n, d):
    """n / d, rounded up."""
    return -(-n // d)


def threads(grid, block):
    """The number of every thread of a grid."""
    return np.arange(grid * block, dtype=np.int64)


def strided(first, step, stop):
    """What `for (i = first; i < stop; i += step)` visits, of an array of first ones, together."""
    first = np.asarray(first, np.int64)
    turns = np.arange(max(0, up(int(stop) - int(first.min()), int(step))), dtype=np.int64)
    found = (first[:, None] + turns * step).reshape(-1)
    return found[found < stop]


def packs(start, stop, size, grid, block):
    """adam, gradient_norm, softmax_cross_entropy_scale: elements start..stop-1, in packs of the array."""
    last = up(stop, size)
    k = strided(start // size + threads(grid, block), grid * block, last)
    i = (k[:, None] * size + np.arange(size)).reshape(-1)
    return i[(i >= start) & (i < stop)]


def philox_blocks(n, first, grid, block):
    """dropout: elements of blocks of 16 that are counted from `first`."""
    begin = (first // 16 + threads(grid, block)) * 16 - first
    i = (begin[:, None] + np.arange(16)).reshape(-1)
    return i[(i >= 0) & (i < n)]


def philox_blocks_of_rows(rows, width, chunks, first, grid, block):
    """dropout_rows: elements of packed rows, each drawn where it lies in the padded batch."""
    thread = threads(grid, block)
    row = thread // chunks
    thread, row = thread[row < len(rows)], row[row < len(rows)]
    start = first + np.asarray(rows, np.int64)[row] * width
    begin = (start // 16 + thread - row * chunks) * 16 - start
    i = begin[:, None] + np.arange(16)
    return (row[:, None] * width + i)[(i >= 0) & (i < width)]


def activation_dropout(n, width, words, grid, block):
    """activation_dropout: elements of rows that are whole blocks of 16, and the words of their bits."""
    chunks, thread = width // 16, threads(grid, block)
    thread = thread[thread // chunks < n]
    row, chunk = thread // chunks, thread % chunks
    return (row * width + chunk * 16)[:, None] + np.arange(16), row * words + chunk


def activation_place(block, thread, rows, width, parts, pack):
    """Place of activation.cu: column, first row, end of the rows."""
    tiles = up(width, WARP * pack)
    part = block // tiles
    column = (block % tiles * WARP + thread % WARP) * pack
    return column, rows * part // parts + thread // WARP, rows * (part + 1) // parts


def attention_job(job, rows, columns, tile):
    """Job of attention.cuh: matrix, first row, first column."""
    chunks, tiles = up(columns, COLUMNS), up(rows, tile)
    above = job // chunks
    matrix = above // tiles
    return matrix, (above - matrix * tiles) * tile, (job - above * chunks) * COLUMNS


def attention_jobs(matrices, rows, columns, tile):
    return matrices * up(rows, tile) * up(columns, COLUMNS)


def attention_sums(queries, size, tile):
    """OwnSums of attention.cuh in attention_backward: place of the sum of each row and column, and its
    thread."""
    row, column = np.arange(up(queries, tile) * tile)[:, None], np.arange(up(size, 16) * 16)
    thread = row % 16 * 16 + column % 16
    wide, n = up(size, 16), tile // 16
    return ((row // tile * wide + column // 16) * n + row % tile // 16) * 256 + thread, thread


def rows_on_chip(count, columns, threads):
    """OnChip::load and ::store of attention_tensor_cores.cuh: elements of (count, columns), in packs of 8."""
    i = strided(np.arange(threads), threads, count * columns // 8)
    return (i[:, None] * 8 + np.arange(8)).reshape(-1)


def named_rows(beside):
    """OnChip::place: the row and column, of a 16 x 16 matrix, that each lane names for ldmatrix."""
    lane = np.arange(WARP)
    along, across = lane // 8 % 2 * 8, lane // 16 * 8
    first, second = (across, along) if beside else (along, across)
    return np.stack([lane % 8 + first, second], -1)


def attention_tasks(warps, size, value_size):
    """attention_tensor_cores_backward: first key, first column, and whether of dk, of all warps' tasks."""
    of_k = up(size, 32)
    for warp in range(warps):
        for task in strided([warp], warps, 2 * (of_k + up(value_size, 32))).tolist():
            number = task // 2
            yield task % 2 * 16, (number if number < of_k else number - of_k) * 32, number < of_k


def conv1d_tile(tile, column_tiles, groups, side):
    """conv1d_forward and _backward_input: first row, first column, group."""
    above = tile // column_tiles
    row_tile = above // groups
    return row_tile * side, (tile - above * column_tiles) * side, above - row_tile * groups


def conv1d_weight_tile(tile, row_tiles, column_tiles, groups, side):
    """conv1d_backward_weight: first row, first column, group, split."""
    above = tile // column_tiles
    higher = above // row_tiles
    split = higher // groups
    return (
        (above - higher * row_tiles) * side,
        (tile - above * column_tiles) * side,
        higher - split * groups,
        split,
    )


def width_of(tile, widths, channels, tiles):
    """Width of conv1d_relu_max.cuh: index, first feature, tile, start, for widths of (kernel, filters)."""
    index = feature = start = 0
    while index + 1 < len(widths):
        kernel, filters = widths[index]
        if tile < tiles(kernel, filters):
            break
        tile -= tiles(kernel, filters)
        feature += filters
        start += filters * kernel * channels
        index += 1
    return index, feature, tile, start


def depthwise_share(block, thread, block_size, channels, size, across, parts, walks):
    """share of conv1d_depthwise.cu: first channel, first walk, end of the walks, step from walk to walk."""
    tiles = up(channels // size, across)
    part = block // tiles
    column = (block % tiles * across + thread % across) * size
    return column, walks * part // parts + thread // across, walks * (part + 1) // parts, block_size // across


def depthwise_walk(w, total, dilation, pieces, run):
    """walk of conv1d_depthwise.cu: text, residue, first step, end of the steps; step s is time residue + s
    dilation."""
    above = w // dilation
    text = above // pieces
    residue, first = w - above * dilation, (above - text * pieces) * run
    return text, residue, first, min(first + run, max(0, up(total - residue, dilation)))


def padded_row(row, front, each, before, batch, length):
    """conv1d_pad: the row of x that row `row` of y copies, -1 for zeros."""
    b = (row - front) // each
    position = row - front - b * each - before
    real = (row >= front) & (b < batch) & (position >= 0) & (position < length)
    return np.where(real, b * length + position, -1)


def recurrent_place(i, size, length, t):
    """place_of of the recurrent kernels: row, column, place of the token in mask, and of the number in y."""
    row = i // size
    column = i - row * size
    return row, column, row * length + t, (row * length + t) * size + column


def sequence_place(block, direction, directions, rows, batch, length, size, thread):
    """Walk of recurrent_sequence.cuh: numbers of the state at all times that a thread of a block computes, in
    (batch, length, directions, size)."""
    own = np.arange(block * rows, min(block * rows + rows, batch))[:, None]
    place = (own * length + np.arange(length)) * directions + direction
    return place * size + thread if thread < size else place[:0]


def sequence_rows(task, packs, inner, held, slices, together=4):
    """Product::multiply of recurrent_sequence.cuh: the pack of columns of a task, and the rows of the matrix
    that it multiplies with, those held and the rest."""
    slice_, c = task // packs, task % packs
    first = np.arange(slice_ * together, inner, slices * together)
    rows = (first[:, None] + np.arange(together)).reshape(-1)
    return c, rows[rows < held], rows[rows >= held]


def cluster_place(block, direction, directions, batch, length, size, width, thread, blocks=8, rows=4):
    """Member of recurrent_cluster.cuh: numbers of the state at all times that a thread computes, in
    (batch, length, directions, size)."""
    row = block // blocks * rows + thread // width
    column = block % blocks * width + thread % width
    if thread >= rows * width or row >= batch or column >= size:
        return np.zeros(0, int)
    return ((row * length + np.arange(length)) * directions + direction) * size + column


def cluster_columns(rank, task, width, segments, size, pack):
    """Share::multiply of recurrent_cluster.cuh: columns of a matrix (inner, segments * size) that a task of
    the block of that rank multiplies; none of a pack past the last column of the state."""
    c = task % (segments * width // pack) * pack
    segment, column = c // width, rank * width + c % width
    return segment * size + column + np.arange(pack if column < size else 0)


def slab(rows, classes, size, grid, block):
    """softmax_cross_entropy_slab: elements that are moved, and rows that are computed."""
    elements, own = [], []
    for first in strided(np.arange(grid) * block, grid * block, rows).tolist():
        count = min(rows - first, block) * classes
        i = strided(np.arange(block) * size, block * size, count)
        i = (i[:, None] + np.arange(size)).reshape(-1)
        elements.append(first * classes + i[i < count])
        row = first + np.arange(block)
        own.append(row[row < rows])
    return np.concatenate(elements), np.concatenate(own)


def row_of_team(row, classes, size, team, held):
    """softmax_cross_entropy_row: packs of a row that are copied into shared memory, and elements that a team
    then works on; `held` packs fit."""
    skip = row * classes % size
    stop = skip + classes
    packs, whole = up(stop, size), stop // size
    here, members = min(packs, held), np.arange(team)
    j = strided(members, team, here)
    copied = [j[(j < whole) & ((j > 0) | (skip == 0))]]
    copied.append(np.zeros(int(skip > 0 and here > 0), int))
    copied.append(np.full(int(whole < here and (whole > 0 or skip == 0)), whole))
    last = members + (packs - 1 - members) // team * team  # and down from there
    j = np.concatenate([np.arange(a, -1, -team) for a in last[members < packs]])
    c = (j[:, None] * size - skip + np.arange(size)).reshape(-1)
    return np.concatenate(copied), c[(c >= 0) & (c < classes)]


def row_of_warp(width, size, held):
    """layer_norm's _warp kernels: columns of a row in the registers of a warp, `held` packs a lane."""
    lane, k = np.arange(WARP)[:, None], np.arange(held)
    c = (((WARP * k + lane) * size)[..., None] + np.arange(size)).reshape(-1)
    return c[c < width]


def numbers_of_packs(start, width, size, held):
    """residual_layer_norm's _warp kernels: for a row that begins at number `start`, columns and the random
    numbers that decide on them, -1 for those that no lane draws."""
    lanes, draws, skip = np.arange(WARP), max(1, held * size // 16), start % 16
    blocks = WARP * np.arange(draws)[:, None] + lanes
    drawn = np.where(16 * blocks < skip + width, start // 16 + blocks, -1)
    place = (WARP * np.arange(held)[:, None] + lanes) * size
    at = skip + place
    there = place < width
    block = drawn[at[there] // 16 // WARP, at[there] // 16 % WARP]
    elements = np.arange(size)
    numbers = np.where(block[:, None] < 0, -1, 16 * block[:, None] + at[there][:, None] % 16 + elements)
    return (place[there][:, None] + elements).reshape(-1), numbers.reshape(-1)


def sort_runs(n, warps=32):
    """sort_ids: first and last place of each warp's run."""
    run = up(n, warps * WARP) * WARP
    first = np.minimum(np.arange(warps) * run, n)
    return first, np.minimum(first + run, n)


def embedding_chunk(warp, tiles, lane, pack):
    """embedding_backward: chunk and first column of a lane of warp `warp` of the grid."""
    return warp // tiles, (warp % tiles * WARP + lane) * pack


def embedding_sums(keys, rows, chunk=32):
    """embedding_backward and _finish: for each row of the table the places that are added to it, a list for
    each time that something is added. keys: sorted ids; `rows` and above belong to no row."""
    n, added, partial = len(keys), {}, {}
    for number in range(up(n, chunk)):
        begin, end = number * chunk, min(number * chunk + chunk, n)
        joins, places = begin > 0 and keys[begin - 1] == keys[begin], []
        for i in range(begin, end):
            if keys[i] >= rows:
                break
            places.append(i)
            ends = i + 1 == n or keys[i + 1] != keys[i]
            if not ends and i + 1 < end:
                continue
            if ends and not joins:
                added.setdefault(keys[i], []).append(places)
            else:
                partial[number, 0 if joins else 1] = places
            places, joins = [], False
    return _joined(keys, rows, chunk, added, partial)


def sparse_sums(keys, rows, chunk=32):
    """sparse_adam and _finish: as `embedding_sums`, by a warp a place; those of places at which no piece of a
    run begins do nothing."""
    n, added, partial = len(keys), {}, {}
    for i in range(n):
        joins = i > 0 and keys[i - 1] == keys[i]
        if keys[i] >= rows or (joins and i % chunk != 0):
            continue
        belongs = [k for k in range(i, min(n, i - i % chunk + chunk)) if keys[k] == keys[i]]
        ends = i + len(belongs) == n or keys[i + len(belongs)] != keys[i]
        if ends and not joins:
            added.setdefault(keys[i], []).append(belongs)
        else:
            partial[i // chunk, 0 if joins else 1] = belongs
    return _joined(keys, rows, chunk, added, partial)


def _joined(keys, rows, chunk, added, partial):
    """What chunks left open, added up by the chunk where a run begins."""
    n = len(keys)
    for number in range(up(n, chunk)):
        begin, end = number * chunk, (number + 1) * chunk
        if end >= n or keys[end - 1] >= rows or keys[end] != keys[end - 1]:
            continue
        if begin > 0 and keys[begin - 1] == keys[end - 1]:
            continue
        places, later = list(partial[number, 1]), number + 1
        while later * chunk < n and keys[later * chunk] == keys[end - 1]:
            places += partial[later, 0]
            later += 1
        added.setdefault(keys[end - 1], []).append(places)
    return added


def mma_left(per):
    """tensor_core.cuh: row and k of what each lane holds of the left factor: (lane, register, element, 2).
    per: elements a register. After PTX's "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8" (.tf32)."""
    lane, i, e = np.ogrid[:WARP, :4, :per]
    return _pairs(lane // 4 + 8 * (i % 2), per * (lane % 4 + 4 * (i // 2)) + e)


def mma_right(per):
    """k and column of what each lane holds of the right factor: (lane, register, element, 2)."""
    lane, i, e = np.ogrid[:WARP, :2, :per]
    return _pairs(per * (lane % 4 + 4 * i) + e, lane // 4)


def mma_result():
    """Row and column of what each lane holds of the result: (lane, register, 2)."""
    lane, i = np.ogrid[:WARP, :4]
    return _pairs(lane // 4 + 8 * (i // 2), 2 * (lane % 4) + i % 2)


def loaded(matrices, turned):
    """Row and element, of rows of eight 2-byte elements that lanes name by their number, of what each lane
    receives by ldmatrix: (lane, matrix, 2 elements, 2)."""
    lane, i, e = np.ogrid[:WARP, :matrices, :2]
    along, across = 2 * (lane % 4) + e, lane // 4
    return _pairs(8 * i + along, across) if turned else _pairs(8 * i + across, along)


def _pairs(*parts):
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def tf32(x):
    """float32 with 10 bits behind the point, the nearest; halves away from zero (cvt.rna.tf32)."""
    return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)
