"""GRU and LSTM over all times in one kernel, against the CPU's operations, under the checker."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend.arrays import to_host
from gpuprop.ops import persistent_kernels, persistent_sizes
from gpuprop.testing import gradcheck, unavailable

REASON = unavailable("emulated")
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"emulated: {REASON}")
CELLS = {"gru": (ops.gru, 3, 1), "lstm": (ops.lstm, 4, 2)}
BATCH, LENGTH, INPUTS = 5, 3, 6


def draw(cell, size, directions=1, dtype=np.float64):
    """x, the weights of each direction, their first states; a direction's arguments follow one another."""
    _, gates, states = CELLS[cell]
    rng = np.random.default_rng(size)
    shapes = [(gates * size, INPUTS), (gates * size, size), (gates * size,), (gates * size,)]
    shapes += [(BATCH, size)] * states
    x = rng.standard_normal((BATCH, LENGTH, INPUTS))
    rest = [[rng.standard_normal(s) / np.sqrt(s[-1]) for s in shapes] for _ in range(directions)]
    return [a.astype(dtype) for a in (x, *(a for direction in rest for a in direction))]


def mask_of(masked):
    rng = np.random.default_rng(1)
    return rng.random((BATCH, LENGTH)) < 0.6 if masked else None


def run(cell, arrays, **options):
    """Outputs, and gradients of a sum with fixed factors."""
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    per = (len(leaves) - 1) // (2 if "both" in options else 1)
    operation = CELLS[cell][0]
    if options.pop("both", False):
        parts = [leaves[1 : 1 + per], leaves[1 + per :]]
        outputs = ops.bidirectional(
            operation, leaves[0], [p[:4] for p in parts], [p[4:] for p in parts], **options
        )
    else:
        outputs = operation(*leaves, **options)
    rng = np.random.default_rng(2)
    factors = [rng.standard_normal(y.shape).astype(y.dtype) for y in outputs]
    sum(((y * f).sum() for y, f in zip(outputs, factors, strict=True)), start=0.0).backward()
    return [y.numpy() for y in outputs] + [to_host(leaf.grad) for leaf in leaves]


def sizes_of_launches(monkeypatch):
    """A list to which the sizes of each launch, forward and backward, are added."""
    seen = []
    sizes = persistent_kernels._sizes
    monkeypatch.setattr(persistent_kernels, "_sizes", lambda *a, **k: seen.append(sizes(*a, **k)) or seen[-1])
    return seen


@pytest.fixture
def launched(monkeypatch):
    return sizes_of_launches(monkeypatch)


def compare(found, expected, tolerance):
    for y, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(y, want, rtol=tolerance, atol=tolerance)


# size: 6 is padded to 8; of 32, slices of the threads share the matrix
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("size", "masked", "reverse"), [(6, True, False), (8, False, True), (8, True, True), (32, True, False)]
)
@pytest.mark.parametrize("rows", [1, 4])
def test_the_formulas(launched, monkeypatch, cell, size, masked, reverse, rows):
    monkeypatch.setattr(persistent_sizes, "PROCESSORS", 128 if rows == 1 else 1)
    arrays, mask = draw(cell, size), mask_of(masked)
    expected = run(cell, arrays, mask=mask, reverse=reverse)
    with gp.use_device("emulated"), gp.kernels.check():
        found = run(cell, arrays, mask=mask, reverse=reverse)
    compare(found, expected, 1e-12)
    assert [how.rows for how in launched] == [rows, rows]
    assert max(how.slices for how in launched) > 1 or size < 32


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("order", ["reverse", "random"])
def test_both_directions(launched, cell, order):
    arrays, mask = draw(cell, 8, directions=2), mask_of(True)
    expected = run(cell, arrays, mask=mask, both=True)
    with gp.use_device("emulated"), gp.kernels.check(order=order):
        found = run(cell, arrays, mask=mask, both=True)
    compare(found, expected, 1e-12)
    assert len(launched) == 2


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_weights_lie_changes_no_bit(launched, monkeypatch, cell, dtype):
    """All of them in shared memory, some rows, none; one row of the batch a block, or four."""
    arrays, mask = draw(cell, 32, dtype=dtype), mask_of(True)
    expected = run(cell, arrays, mask=mask)
    monkeypatch.setattr(persistent_kernels, "fits", lambda *_: True)
    first = None
    for kilobytes, rows in ((227, 4), (227, 1), (20, 4), (8, 1), (3, 1)):
        monkeypatch.setattr(persistent_sizes, "PROCESSORS", 128 if rows == 1 else 1)
        monkeypatch.setattr(persistent_kernels, "shared_memory", lambda _, k=kilobytes: k << 10)
        with gp.use_device("emulated"), gp.kernels.check():
            found = run(cell, arrays, mask=mask)
        compare(found, expected, 1e-12 if dtype == np.float64 else 2e-5)
        first = first or found
        for y, other in zip(found, first, strict=True):
            np.testing.assert_array_equal(y, other)
    held = {how.held for how in launched}
    assert max(held) == CELLS[cell][1] * 32
    assert len(held) > 3


@pytest.mark.parametrize("cell", CELLS)
def test_gradients(cell):
    """Finite differences, without first states, of weights that lie in C order."""
    arrays = draw(cell, 2)[:5]
    with gp.use_device("emulated"):
        gradcheck(lambda *leaves: CELLS[cell][0](*leaves, mask=mask_of(True)), arrays)


@pytest.mark.parametrize("cell", CELLS)
def test_some_gradients_alone(cell):
    """dy of one output; gradients of few inputs."""
    arrays = draw(cell, 4)
    for wanted in (0, 2, 4, 5):
        for used in (0, 1):
            found = []
            for device in ("cpu", "emulated"):
                with gp.use_device(device):
                    leaves = [gp.tensor(a, requires_grad=i == wanted) for i, a in enumerate(arrays)]
                    CELLS[cell][0](*leaves)[used].sum().backward()
                    found.append(to_host(leaves[wanted].grad))
            np.testing.assert_allclose(found[1], found[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_first_states_of_another_type(cell):
    arrays = draw(cell, 8, dtype=np.float32)
    arrays[5:] = [a.astype(np.float64)[:, ::-1] for a in arrays[5:]]
    expected = run(cell, arrays)
    with gp.use_device("emulated"):
        found = run(cell, arrays)
    compare(found, expected, 2e-5)
    assert [y.dtype for y in found] == [y.dtype for y in expected]


def test_a_layer_in_both_directions_is_one_launch_each_way(launched):
    gp.manual_seed(0)
    layer = gp.nn.LSTM(6, 8, num_layers=2, bidirectional=True)
    x = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
    lengths = np.array([4, 2, 3])
    found = []
    for device in ("cpu", "emulated"):
        with gp.use_device(device):
            output, (h, c) = layer(gp.tensor(x), lengths)
            layer.zero_grad()
            (output.sum() + (h * c).sum()).backward()
            found.append([output.numpy(), h.numpy(), c.numpy(), *(p.grad.copy() for p in layer.parameters())])
    compare(found[1], found[0], 2e-5)
    assert found[0][1].shape == (4, 3, 8)
    assert len(launched) == 4


def test_one_step_and_large_sizes_go_another_way():
    weights = [np.zeros(s, np.float32) for s in ((24, 6), (24, 8), 24, 24)]
    wide = [np.zeros(s, np.float32) for s in ((3072, 6), (3072, 1024), 3072, 3072)]
    x = np.zeros((5, 3, 6), np.float32)
    with gp.use_device("emulated"):
        assert persistent_kernels.fits(x, [weights])
        assert not persistent_kernels.fits(x[:, :1], [weights])
        assert not persistent_kernels.fits(x, [wide])
    assert not persistent_kernels.fits(x, [weights])


@pytest.mark.parametrize(
    ("sequences", "gates", "size", "itemsize", "here"),
    [
        (64, 3, 128, 4, True), (128, 3, 256, 2, True), (64, 3, 256, 4, True), (64, 3, 512, 4, False),
        (128, 4, 256, 2, True), (4096, 3, 256, 2, False), (4096, 3, 32, 4, True), (64, 4, 512, 2, False),
    ],
)  # fmt: skip
def test_the_choice_of_sizes(sequences, gates, size, itemsize, here):
    assert persistent_sizes.pays(sequences, gates, size, itemsize) == here


def test_what_a_block_holds_fits_every_gpu():
    """Wherever the kernel is chosen, 64 KB of shared memory are enough, or the size is no whole pack."""
    for itemsize in (2, 4):
        for gates in (3, 4):
            for size in range(1, 450):
                for sequences in (8, 1024):
                    if not persistent_sizes.pays(sequences, gates, size, itemsize):
                        continue
                    whole = persistent_sizes.padded_size(size, itemsize) == size
                    for forward in (True, False):
                        for kilobytes in (64, 99, 163, 227):
                            how = persistent_sizes.sizes(
                                sequences, gates, size, itemsize, forward, kilobytes << 10
                            )
                            assert how is not None or not whole
                            assert how is None or size <= how.threads <= persistent_sizes.THREADS
                            assert how is None or how.shared <= kilobytes << 10
