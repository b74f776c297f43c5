"""Dropout: the bits of numpy.random.Philox, the same on every device and for every split of a batch."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops
from gpuprop.backend import random

SEED = 1234567890123456789


@pytest.fixture(autouse=True)
def fresh_state():
    before = random.state.seed
    gp.manual_seed(SEED)
    yield
    gp.manual_seed(before)


def expected_mask(shape, p, stream, call=0, step=0, first=0):
    """Straight from NumPy's own generator."""
    n = int(np.prod(shape))
    philox = np.random.Philox(
        key=np.array([SEED, stream], np.uint64), counter=np.array([0, call, step, 0], np.uint64)
    )
    words = philox.random_raw((first + n) // 4 + 1)
    lanes = np.stack([(words >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4)], -1).reshape(-1)
    return (lanes[first : first + n] < round((1 - p) * 65536)).reshape(shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(1,), (7,), (16,), (3, 17), (5, 4, 33), (300, 40)])
def test_the_mask_is_numpys_stream_on_each_device(device, shape, dtype):
    x = np.random.default_rng(0).uniform(1, 2, shape).astype(dtype)
    t = gp.tensor(x, requires_grad=True)
    y = ops.dropout(t, 0.3, stream=5)
    mask = expected_mask(shape, 0.3, 5)
    tolerance = {2: 2e-3, 4: 1e-6, 8: 1e-15}[x.dtype.itemsize]
    np.testing.assert_allclose(y.numpy(), mask * x / 0.7, rtol=tolerance)
    y.sum().backward()
    np.testing.assert_allclose(gp.Tensor(t.grad).numpy(), mask / np.float64(0.7), rtol=tolerance)


def test_calls_steps_and_streams_draw_anew(device):
    x = gp.tensor(np.ones((4, 64), np.float32))
    seen = [ops.dropout(x, 0.5, stream=1), ops.dropout(x, 0.5, stream=1), ops.dropout(x, 0.5, stream=2)]
    random.advance_step()
    seen.append(ops.dropout(x, 0.5, stream=1))
    masks = [y.numpy() > 0 for y in seen]
    for mask, (call, step, stream) in zip(masks, [(0, 0, 1), (1, 0, 1), (0, 0, 2), (0, 1, 1)], strict=True):
        np.testing.assert_array_equal(mask, expected_mask((4, 64), 0.5, stream, call, step))


@pytest.mark.parametrize("width", [1, 5, 16, 37])
def test_a_split_batch_draws_the_masks_of_the_whole(device, width):
    x = np.ones((12, width), np.float32)
    whole = ops.dropout(gp.tensor(x), 0.4, stream=3).numpy()
    parts = []
    for start, stop in [(0, 5), (5, 6), (6, 12)]:
        with random.rows_from(start):
            parts.append(ops.dropout(gp.tensor(x[start:stop]), 0.4, stream=3).numpy())
    np.testing.assert_array_equal(np.concatenate(parts), whole)


MASK = np.array([[True, True, True, False], [True, False, False, False], [True, True, True, True]])


@pytest.mark.parametrize("width", [1, 5, 16, 37])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_packed_rows_drop_what_the_padded_batch_drops(device, width, dtype):
    x = np.random.default_rng(0).uniform(1, 2, (3, 4, width)).astype(dtype)
    with random.rows_from(2):
        padded = ops.dropout(gp.tensor(x), 0.4, stream=3).numpy()
    rows = gp.tensor(x[MASK], requires_grad=True)
    with random.rows_from(2):
        packed = ops.dropout(rows, 0.4, stream=3, mask=MASK)
    np.testing.assert_array_equal(packed.numpy(), padded[MASK])
    packed.backward(rows.data)
    np.testing.assert_array_equal(gp.Tensor(rows.grad).numpy(), padded[MASK])


def test_many_packed_rows_are_drawn_in_blocks():
    mask = np.random.default_rng(0).uniform(size=(300, 40)) < 0.7
    x = np.ones((300, 40, 24), np.float32)
    packed = ops.dropout(gp.tensor(x[mask]), 0.3, stream=1, mask=mask).numpy()
    gp.manual_seed(SEED)
    np.testing.assert_array_equal(packed, ops.dropout(gp.tensor(x), 0.3, stream=1).numpy()[mask])


def test_packed_rows_must_be_those_of_the_mask():
    with pytest.raises(gp.ShapeError, match=r"packed rows \(7, 5\) for a mask with 8 real tokens"):
        ops.dropout(gp.tensor(np.ones((7, 5), np.float32)), 0.4, mask=MASK)


def test_the_share_of_zeros_is_p():
    y = ops.dropout(gp.tensor(np.ones(200_000, np.float32)), 0.2).numpy()
    assert abs((y == 0).mean() - 0.2) < 0.004  # four and a half standard deviations
    assert abs(y.mean() - 1) < 0.006


def test_the_layer_drops_in_training_only():
    layer = nn.Dropout(0.5)
    x = gp.tensor(np.ones((8, 8), np.float32))
    assert (layer(x).numpy() == 0).any()
    assert layer.eval()(x) is x
    assert nn.Dropout(0.0)(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_wrong_probability_is_refused(p):
    with pytest.raises(ValueError, match="probability"):
        nn.Dropout(p)
    with pytest.raises(ValueError, match="probability"):
        ops.dropout(gp.tensor([1.0]), p)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "1"])
def test_a_wrong_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        gp.manual_seed(seed)


@pytest.mark.parametrize(
    "place", [(100, 0, 3, 1, 2, 7), (33, 37, 1 << 33, 0, 0, 2**64 - 1), (5, 16, 0, 9, 1, 0)]
)
def test_a_generator_that_is_used_again_gives_the_bits_of_a_new_one(place):
    n, first, stream, call, step, seed = place
    key, counter = np.array([seed, stream], np.uint64), np.array([first // 16, call, step, 0], np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw(n).astype("<u8").view("<u2")
    for _ in range(2):
        np.testing.assert_array_equal(random.bits16(*place), raw[first % 16 :][:n])
