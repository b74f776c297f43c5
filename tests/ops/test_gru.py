"""gru: the equations written out, finite differences, padding, and PyTorch where it is installed."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop.backend.arrays import to_host
from gpuprop.ops.gru import gru
from gpuprop.testing import gradcheck

few = settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
sizes = st.integers(1, 4)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def draw(seed, batch, length, inputs, size):
    rng = np.random.default_rng(seed)
    shapes = [
        (batch, length, inputs), (3 * size, inputs), (3 * size, size), (3 * size,), (3 * size,),
        (batch, size),
    ]  # fmt: skip
    return [rng.standard_normal(shape) for shape in shapes]


def reference(x, w_ih, w_hh, b_ih, b_hh, h0, mask=None, reverse=False):
    """PyTorch's equations, one token of one row at a time."""
    size = w_hh.shape[1]
    output, last = np.zeros((*x.shape[:2], size)), np.array(h0)
    for row in range(x.shape[0]):
        times = range(x.shape[1])
        for t in reversed(times) if reverse else times:
            if mask is not None and not mask[row, t]:
                continue
            h = last[row]
            i_r, i_z, i_n = np.split(w_ih @ x[row, t] + b_ih, 3)
            h_r, h_z, h_n = np.split(w_hh @ h + b_hh, 3)
            r, z = sigmoid(i_r + h_r), sigmoid(i_z + h_z)
            last[row] = (1 - z) * np.tanh(i_n + r * h_n) + z * h
            output[row, t] = last[row]
    return output, last


def run(arrays, dy, dh, **options):
    """Values and gradients on the host."""
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    output, last = gru(*leaves, **options)
    loss = (output * gp.tensor(dy)).sum() + (last * gp.tensor(dh)).sum()
    loss.backward()
    return output.numpy(), last.numpy(), [to_host(leaf.grad) for leaf in leaves]


@few
@given(
    seed=st.integers(0, 99),
    batch=sizes,
    length=sizes,
    size=sizes,
    reverse=st.booleans(),
    masked=st.booleans(),
)
def test_the_equations(device, seed, batch, length, size, reverse, masked):
    arrays = draw(seed, batch, length, 3, size)
    mask = np.random.default_rng(seed).random((batch, length)) < 0.6 if masked else None
    output, last = gru(*[gp.tensor(a) for a in arrays], mask=mask, reverse=reverse)
    expected = reference(*arrays, mask, reverse)
    np.testing.assert_allclose(output.numpy(), expected[0], atol=1e-13)
    np.testing.assert_allclose(last.numpy(), expected[1], atol=1e-13)


@few
@given(
    seed=st.integers(0, 99), batch=st.integers(1, 3), length=sizes, inputs=st.integers(1, 3),
    size=st.integers(1, 3), reverse=st.booleans(), masked=st.booleans(),
)  # fmt: skip
def test_gradients(device, seed, batch, length, inputs, size, reverse, masked):
    arrays = draw(seed, batch, length, inputs, size)
    mask = np.random.default_rng(seed).random((batch, length)) < 0.6 if masked else None
    gradcheck(lambda *leaves: gru(*leaves, mask=mask, reverse=reverse), arrays)


@pytest.mark.parametrize("used", [0, 1])
def test_gradients_when_one_output_is_unused(device, used):
    arrays = draw(5, 2, 3, 2, 2)
    mask = np.array([[True, True, False], [True, True, True]])
    gradcheck(lambda *leaves: gru(*leaves, mask=mask)[used], arrays)


def test_gradients_only_where_they_are_wanted(device):
    x, w_ih, w_hh, b_ih, b_hh, h0 = draw(1, 2, 3, 2, 2)
    gradcheck(
        lambda x, h0: gru(x, gp.tensor(w_ih), gp.tensor(w_hh), gp.tensor(b_ih), gp.tensor(b_hh), h0), [x, h0]
    )
    gradcheck(lambda w_hh: gru(gp.tensor(x), gp.tensor(w_ih), w_hh, gp.tensor(b_ih), gp.tensor(b_hh)), [w_hh])


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_further_changes_nothing(device, reverse):
    arrays = draw(2, 3, 5, 3, 4)
    mask = np.arange(5) < np.array([5, 2, 3])[:, None]
    rng = np.random.default_rng(0)
    dy, dh = rng.standard_normal((3, 5, 4)), rng.standard_normal((3, 4))
    output, last, grads = run(arrays, dy, dh, mask=mask, reverse=reverse)
    assert not output[~mask].any()
    longer = [np.concatenate([arrays[0], rng.standard_normal((3, 4, 3))], 1), *arrays[1:]]
    mask = np.pad(mask, ((0, 0), (0, 4)))
    dy = np.concatenate([dy, rng.standard_normal((3, 4, 4))], 1)
    output2, last2, grads2 = run(longer, dy, dh, mask=mask, reverse=reverse)
    np.testing.assert_allclose(output2[:, :5], output, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(last2, last, rtol=1e-10)
    assert not output2[:, 5:].any()
    assert not grads2[0][:, 5:].any()
    for longer_grad, grad in zip([grads2[0][:, :5], *grads2[1:]], grads, strict=True):
        np.testing.assert_allclose(longer_grad, grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_alone_is_the_row_in_a_batch(device, reverse):
    arrays = draw(3, 3, 4, 2, 3)
    lengths = np.array([4, 2, 1])
    mask = np.arange(4) < lengths[:, None]
    dy, dh = np.ones((3, 4, 3)), np.ones((3, 3))
    output, last, grads = run(arrays, dy, dh, mask=mask, reverse=reverse)
    for row, n in enumerate(lengths):
        alone = [arrays[0][row : row + 1, :n], *arrays[1:5], arrays[5][row : row + 1]]
        one = run(alone, dy[:1, :n], dh[:1], reverse=reverse)
        np.testing.assert_allclose(output[row, :n], one[0][0], rtol=1e-10)
        np.testing.assert_allclose(last[row], one[1][0], rtol=1e-10)
        np.testing.assert_allclose(grads[0][row, :n], one[2][0][0], rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(grads[5][row], one[2][5][0], rtol=1e-10, atol=1e-14)


def test_padding_hands_the_state_on_bit_by_bit(device):
    arrays = [a.astype(np.float32) for a in draw(4, 2, 6, 3, 5)]
    mask = np.zeros((2, 6), bool)
    _, last = gru(*[gp.tensor(a) for a in arrays], mask=mask)
    np.testing.assert_array_equal(last.numpy(), arrays[5])


def test_token_by_token_is_the_whole_sequence(device):
    arrays = draw(6, 2, 4, 3, 3)
    x, *weights, h = [gp.tensor(a) for a in arrays]
    whole, last = gru(x, *weights, h)
    for t in range(4):
        output, h = gru(x[:, t : t + 1], *weights, h)
        np.testing.assert_allclose(output.numpy()[:, 0], whole.numpy()[:, t], rtol=1e-12)
    np.testing.assert_allclose(h.numpy(), last.numpy(), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_is_kept(device, dtype):
    arrays = [a.astype(dtype) for a in draw(7, 2, 3, 2, 3)]
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    output, last = gru(*leaves, mask=np.array([[True, False, False], [True, True, True]]))
    assert output.dtype == last.dtype == dtype
    (output.sum() + last.sum()).backward()
    assert all(leaf.grad.dtype == dtype for leaf in leaves)


def test_large_inputs_stay_finite(device):
    arrays = [1e4 * a.astype(np.float32) for a in draw(8, 2, 3, 2, 3)]
    output, last = gru(*[gp.tensor(a) for a in arrays])
    assert np.isfinite(output.numpy()).all()
    assert np.isfinite(last.numpy()).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_pytorch_agrees(reverse):
    torch = pytest.importorskip("torch")
    arrays = draw(9, 3, 6, 4, 5)
    layer = torch.nn.GRU(4, 5, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), arrays[1:5], strict=True):
            parameter.copy_(torch.from_numpy(value))
    x, h0 = (torch.from_numpy(arrays[i]).requires_grad_() for i in (0, 5))
    expected, expected_last = layer(x.flip(1) if reverse else x, h0[None])
    expected = expected.flip(1) if reverse else expected
    rng = np.random.default_rng(0)
    dy, dh = rng.standard_normal((3, 6, 5)), rng.standard_normal((3, 5))
    ((expected * torch.from_numpy(dy)).sum() + (expected_last[0] * torch.from_numpy(dh)).sum()).backward()
    with gp.use_device("cpu"):
        output, last, grads = run(arrays, dy, dh, reverse=reverse)
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-10)
    np.testing.assert_allclose(last, expected_last[0].detach().numpy(), rtol=1e-10)
    for grad, peer in zip(grads, [x, *layer.parameters(), h0], strict=True):
        np.testing.assert_allclose(grad, peer.grad.numpy(), rtol=1e-9, atol=1e-12)
