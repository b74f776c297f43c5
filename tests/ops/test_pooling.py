"""Pooling: the definitions, finite differences, masks, ties, and PyTorch where it is installed."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop.backend.arrays import to_host
from gpuprop.errors import ShapeError
from gpuprop.ops.pooling import avg_pool1d, max_over_time, max_pool1d, mean_over_time
from gpuprop.testing import gradcheck

few = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def draw(seed, *shape):
    """All different, so that finite differences never cross a tie."""
    count = int(np.prod(shape))
    return np.random.default_rng(seed).permutation(count).reshape(shape) / 7.0 - count / 14


def windows(x, kernel, stride, padding):
    """For each window the places inside x, as lists of times."""
    for start in range(-padding, x.shape[1] + padding - kernel + 1, stride):
        yield [t for t in range(start, start + kernel) if 0 <= t < x.shape[1]]


geometry = {
    "seed": st.integers(0, 99), "batch": st.integers(1, 2), "length": st.integers(1, 8),
    "channels": st.integers(1, 3),
    "kernel": st.integers(1, 4), "stride": st.integers(1, 4), "padding": st.integers(0, 2),
}  # fmt: skip


@few
@given(**geometry)
def test_max_pool1d(device, seed, batch, length, channels, kernel, stride, padding):
    assume(padding <= kernel // 2 and length + 2 * padding >= kernel)
    x = draw(seed, batch, length, channels)
    y = max_pool1d(gp.tensor(x), kernel, stride, padding)
    expected = np.stack([x[:, times].max(1) for times in windows(x, kernel, stride, padding)], 1)
    np.testing.assert_array_equal(y.numpy(), expected)
    gradcheck(lambda x: max_pool1d(x, kernel, stride, padding), [x])


@few
@given(**geometry, include=st.booleans())
def test_avg_pool1d(device, seed, batch, length, channels, kernel, stride, padding, include):
    assume(padding <= kernel // 2 and length + 2 * padding >= kernel)
    x = draw(seed, batch, length, channels)
    y = avg_pool1d(gp.tensor(x), kernel, stride, padding, count_include_pad=include)
    expected = np.stack(
        [x[:, t].sum(1) / (kernel if include else len(t)) for t in windows(x, kernel, stride, padding)], 1
    )
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-13)
    gradcheck(lambda x: avg_pool1d(x, kernel, stride, padding, count_include_pad=include), [x])


@few
@given(
    seed=st.integers(0, 99), batch=st.integers(1, 3), length=st.integers(1, 6), channels=st.integers(1, 4),
    masked=st.booleans(),
)  # fmt: skip
def test_over_time(device, seed, batch, length, channels, masked):
    x = draw(seed, batch, length, channels)
    mask = np.random.default_rng(seed).random((batch, length)) < 0.6 if masked else None
    real = np.ones((batch, length), bool) if mask is None else mask
    highest, mean = (np.zeros((batch, channels)) for _ in range(2))
    for row in range(batch):
        if real[row].any():
            highest[row], mean[row] = x[row, real[row]].max(0), x[row, real[row]].mean(0)
    np.testing.assert_array_equal(max_over_time(gp.tensor(x), mask).numpy(), highest)
    np.testing.assert_allclose(mean_over_time(gp.tensor(x), mask).numpy(), mean, rtol=1e-12, atol=1e-13)
    gradcheck(lambda x: max_over_time(x, mask), [x])
    gradcheck(lambda x: mean_over_time(x, mask), [x])


def gradient(fn, x):
    leaf = gp.tensor(x, requires_grad=True)
    fn(leaf).sum().backward()
    return to_host(leaf.grad)


def test_the_first_of_equal_maxima_takes_the_gradient(device):
    x = np.array([[1.0, 5, 5, 5], [2, 2, 2, 2]], np.float32)[..., None]
    np.testing.assert_array_equal(gradient(max_over_time, x)[..., 0], [[0, 1, 0, 0], [1, 0, 0, 0]])
    mask = np.array([[True, False, True, True], [False, False, True, True]])
    masked = gradient(lambda x: max_over_time(x, mask), x)[..., 0]
    np.testing.assert_array_equal(masked, [[0, 0, 1, 0], [0, 0, 1, 0]])
    pooled = gradient(lambda x: max_pool1d(x, 2), x)[..., 0]
    np.testing.assert_array_equal(pooled, [[0, 1, 1, 0], [1, 0, 1, 0]])


def test_masked_positions_never_win_and_a_row_without_tokens_is_zero(device):
    x = np.array([[[-3.0], [-2.0], [9.0]], [[4.0], [5.0], [6.0]]], np.float32)
    mask = np.array([[True, True, False], [False, False, False]])
    np.testing.assert_array_equal(max_over_time(gp.tensor(x), mask).numpy(), [[-2], [0]])
    np.testing.assert_array_equal(mean_over_time(gp.tensor(x), mask).numpy(), [[-2.5], [0]])
    np.testing.assert_array_equal(
        gradient(lambda x: max_over_time(x, mask), x)[..., 0], [[0, 1, 0], [0, 0, 0]]
    )
    np.testing.assert_array_equal(
        gradient(lambda x: mean_over_time(x, mask), x)[..., 0], [[0.5, 0.5, 0], [0, 0, 0]]
    )


def test_padding_never_wins(device):
    x = np.full((1, 3, 1), -7.0, np.float32)
    np.testing.assert_array_equal(max_pool1d(gp.tensor(x), 2, 1, 1).numpy(), np.full((1, 4, 1), -7.0))
    np.testing.assert_array_equal(gradient(lambda x: max_pool1d(x, 2, 1, 1), x)[0, :, 0], [2, 1, 1])


def test_minus_infinity_keeps_its_gradient_inside_the_text(device):
    x = np.full((1, 3, 1), -np.inf, np.float32)
    assert gradient(lambda x: max_pool1d(x, 2, 1, 1), x).sum() == 4


@pytest.mark.parametrize("over", [max_over_time, mean_over_time])
def test_padding_further_changes_nothing(device, over):
    x = draw(1, 3, 5, 4)
    mask = np.arange(5) < np.array([[5], [2], [1]])
    longer = np.pad(x, ((0, 0), (0, 6), (0, 0)), constant_values=1e3)
    wider = np.pad(mask, ((0, 0), (0, 6)))
    np.testing.assert_allclose(
        over(gp.tensor(longer), wider).numpy(), over(gp.tensor(x), mask).numpy(), rtol=1e-10
    )
    dlonger, dx = gradient(lambda x: over(x, wider), longer), gradient(lambda x: over(x, mask), x)
    np.testing.assert_allclose(dlonger[:, :5], dx, rtol=1e-10)
    assert not dlonger[:, 5:].any()
    for row, n in enumerate((5, 2, 1)):  # a row alone is the row in the batch
        alone = over(gp.tensor(x[row : row + 1, :n]))
        np.testing.assert_allclose(alone.numpy()[0], over(gp.tensor(x), mask).numpy()[row], rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_type_is_kept(device, dtype):
    x = draw(2, 2, 4, 3).astype(dtype)
    mask = np.array([[True, True, False, False], [True, True, True, True]])
    for fn in (
        lambda x: max_pool1d(x, 2),
        lambda x: avg_pool1d(x, 2),
        lambda x: max_over_time(x, mask),
        lambda x: mean_over_time(x, mask),
        max_over_time,
        mean_over_time,
    ):
        assert fn(gp.tensor(x)).dtype == dtype
        assert gradient(fn, x).dtype == dtype


def test_what_does_not_fit():
    x = gp.tensor(np.zeros((2, 3, 4), np.float32))
    with pytest.raises(ShapeError, match="window of 5 does not fit"):
        max_pool1d(x, 5)
    with pytest.raises(ShapeError, match=r"\(batch, length, channels\) but got \(2, 3\)"):
        avg_pool1d(gp.tensor(np.zeros((2, 3))), 2)
    with pytest.raises(ValueError, match="half the kernel size"):
        max_pool1d(x, 2, 1, 2)
    with pytest.raises(ShapeError, match=r"a mask \(2, 3\) for \(2, 3, 4\) but got \(2, 4\)"):
        max_over_time(x, np.ones((2, 4), bool))
    with pytest.raises(ShapeError, match="length of at least 1"):
        mean_over_time(gp.tensor(np.zeros((2, 0, 4))))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 1, 1), (3, 2, 1), (4, 3, 2)])
def test_pytorch_agrees(kernel, stride, padding):
    torch = pytest.importorskip("torch")
    x = draw(3, 2, 9, 3)
    f = torch.nn.functional
    for peer_fn, fn in (
        (f.max_pool1d, max_pool1d),
        (f.avg_pool1d, avg_pool1d),
        (lambda x, *a: f.avg_pool1d(x, *a, count_include_pad=False),
         lambda x, *a: avg_pool1d(x, *a, count_include_pad=False)),
    ):  # fmt: skip
        peer = torch.from_numpy(x).swapaxes(1, 2).clone().requires_grad_()
        expected = peer_fn(peer, kernel, stride, padding)
        (expected * expected).sum().backward()
        leaf = gp.tensor(x, requires_grad=True)
        y = fn(leaf, kernel, stride, padding)
        (y * y).sum().backward()
        np.testing.assert_allclose(y.numpy(), expected.detach().numpy().swapaxes(1, 2), rtol=1e-12)
        np.testing.assert_allclose(leaf.grad, peer.grad.numpy().swapaxes(1, 2), rtol=1e-12)


@pytest.mark.parametrize("length", [3, 40])
def test_gradients_of_the_mean_over_short_and_long_texts(length):
    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal((3, length, 2)), np.arange(length) < np.array([[1], [length], [0]])
    gradcheck(lambda x: mean_over_time(x, mask), [x])
    gradcheck(mean_over_time, [x])
