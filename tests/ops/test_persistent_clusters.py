"""GRU and LSTM over all times by clusters of blocks, against the CPU's operations, under the checker."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.backend.arrays import to_host
from gpuprop.backend.occupancy import occupancy
from gpuprop.ops import cluster_sizes, persistent_sizes
from gpuprop.testing import gradcheck, unavailable

from .test_persistent import CELLS, compare, draw, mask_of, run, sizes_of_launches

REASON = unavailable("emulated")
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"emulated: {REASON}")


# size, with a mask, reverse. Of 8, four blocks of eight own two columns each; of 72, seven ten, the last two.
SIZES = [(8, True, False), (72, True, True), (40, False, True)]


@pytest.fixture
def launched(monkeypatch):
    """Clusters wherever they are possible, and the sizes of each launch, forward and backward."""
    with cluster_sizes.wherever_possible():
        yield sizes_of_launches(monkeypatch)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("size", "masked", "reverse"), SIZES)
def test_the_formulas(launched, cell, size, masked, reverse):
    arrays, mask = draw(cell, size), mask_of(masked)
    expected = run(cell, arrays, mask=mask, reverse=reverse)
    with gp.use_device("emulated"), gp.kernels.check():
        found = run(cell, arrays, mask=mask, reverse=reverse)
    compare(found, expected, 1e-12)
    assert [how.blocks for how in launched] == [8, 8]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("order", ["reverse", "random"])
def test_both_directions(launched, cell, order):
    arrays, mask = draw(cell, 24, directions=2), mask_of(True)
    expected = run(cell, arrays, mask=mask, both=True)
    with gp.use_device("emulated"), gp.kernels.check(order=order):
        found = run(cell, arrays, mask=mask, both=True)
    compare(found, expected, 1e-12)
    assert [how.blocks for how in launched] == [8, 8]


@pytest.mark.parametrize("cell", CELLS)
def test_where_weights_lie_changes_no_bit(launched, monkeypatch, cell):
    """All of a block's share in shared memory, some rows, none."""
    arrays, mask = draw(cell, 40), mask_of(True)
    expected, first = run(cell, arrays, mask=mask), None
    sizes = cluster_sizes.sizes
    for part in (1, 0.6, 0):

        def held_in_part(*args, part=part):
            how = sizes(*args)
            return how._replace(held=int(part * how.held) // 4 * 4)

        monkeypatch.setattr(cluster_sizes, "sizes", held_in_part)
        with gp.use_device("emulated"), gp.kernels.check():
            found = run(cell, arrays, mask=mask)
        compare(found, expected, 1e-12)
        first = first or found
        for y, other in zip(found, first, strict=True):
            np.testing.assert_array_equal(y, other)
    gates = CELLS[cell][1]
    assert {how.held for how in launched} == {40, 24, 0, gates * 40, gates * 24}


@pytest.mark.parametrize("cell", CELLS)
def test_gradients(launched, cell):
    """Finite differences, without first states, of weights that lie in C order."""
    rng, rows = np.random.default_rng(0), CELLS[cell][1] * 4
    arrays = [rng.standard_normal(s) for s in ((2, 2, 1), (rows, 1), (rows, 4), rows, rows)]
    mask = np.array([[True, True], [False, True]])
    with gp.use_device("emulated"), gp.kernels.check():
        gradcheck(lambda *leaves: CELLS[cell][0](*leaves, mask=mask), arrays)
    assert {how.blocks for how in launched} == {8}


@pytest.mark.parametrize("cell", CELLS)
def test_some_gradients_alone(launched, cell):
    """dy of one output; gradients of few inputs."""
    arrays = draw(cell, 4)
    for wanted, used in ((0, 0), (2, 1), (5, 0), (5, 1)):
        found = []
        for device in ("cpu", "emulated"):
            with gp.use_device(device), gp.kernels.check():
                leaves = [gp.tensor(a, requires_grad=i == wanted) for i, a in enumerate(arrays)]
                CELLS[cell][0](*leaves)[used].sum().backward()
                found.append(to_host(leaves[wanted].grad))
        np.testing.assert_allclose(found[1], found[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("sequences", "gates", "size", "itemsize", "clusters"),
    [
        (64, 3, 512, 2, True), (64, 4, 512, 2, True), (64, 3, 256, 4, True), (64, 4, 256, 4, True),
        (8, 3, 512, 4, True), (64, 3, 512, 4, False), (64, 3, 128, 4, False), (128, 3, 256, 2, False),
        (256, 3, 512, 2, False), (64, 3, 520, 2, False), (64, 3, 260, 2, False), (4, 3, 64, 4, False),
    ],
)  # fmt: skip
def test_the_choice_of_sizes(sequences, gates, size, itemsize, clusters):
    """520 columns are too many for eight blocks, 260 halves no whole packs."""
    sizes = (sequences, gates, size, itemsize)
    assert cluster_sizes.suits(2, *sizes, 227 << 10) == clusters
    assert not cluster_sizes.suits(1, *sizes, 227 << 10)
    for kilobytes in (64, 99, 163):  # no GPU with so little has both clusters and room for the weights
        assert not cluster_sizes.suits(2, *sizes, kilobytes << 10)
        alone = persistent_sizes.suits(2, *sizes)
        assert cluster_sizes.one_launch(2, *sizes, kilobytes << 10) == alone


def test_what_a_block_holds_fits():
    """Where clusters are possible their blocks have a thread for each row and column, and for each task."""
    for itemsize in (2, 4, 8):
        for gates in (3, 4):
            for size in range(8, 513, 8):
                for forward in (True, False):
                    how = cluster_sizes.sizes(gates, size, itemsize, forward, cluster_sizes.SHARED)
                    if how is None:
                        assert itemsize == 8
                        assert size > 256
                        continue
                    packs = (gates if forward else 1) * how.width * itemsize // 16
                    assert max(how.rows * how.width, packs * how.slices) <= how.threads
                    assert how.blocks * how.width >= size
                    assert how.shared <= cluster_sizes.SHARED
                    assert occupancy("sm_90", how.threads, 255, how.shared).blocks >= 1
                    assert how.held % 4 == 0
