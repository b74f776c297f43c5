"""lstm: the equations written out, finite differences, padding, and PyTorch where it is installed."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop.backend.arrays import to_host
from gpuprop.ops import recurrent
from gpuprop.ops.lstm import lstm
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
        (batch, length, inputs), (4 * size, inputs), (4 * size, size), (4 * size,), (4 * size,),
        (batch, size), (batch, size),
    ]  # fmt: skip
    return [rng.standard_normal(shape) for shape in shapes]


def reference(x, w_ih, w_hh, b_ih, b_hh, h0, c0, mask=None, reverse=False):
    """PyTorch's equations, one token of one row at a time."""
    output, hidden, cell = np.zeros((*x.shape[:2], w_hh.shape[1])), np.array(h0), np.array(c0)
    for row in range(x.shape[0]):
        times = range(x.shape[1])
        for t in reversed(times) if reverse else times:
            if mask is not None and not mask[row, t]:
                continue
            i, f, g, o = np.split(w_ih @ x[row, t] + b_ih + w_hh @ hidden[row] + b_hh, 4)
            cell[row] = sigmoid(f) * cell[row] + sigmoid(i) * np.tanh(g)
            hidden[row] = sigmoid(o) * np.tanh(cell[row])
            output[row, t] = hidden[row]
    return output, hidden, cell


def run(arrays, directions, **options):
    """Values and gradients on the host; directions: dL/d(output, h, c)."""
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    outputs = lstm(*leaves, **options)
    loss = sum(((y * gp.tensor(d)).sum() for y, d in zip(outputs, directions, strict=True)), start=0.0)
    loss.backward()
    return [y.numpy() for y in outputs], [to_host(leaf.grad) for leaf in leaves]


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
    outputs = lstm(*[gp.tensor(a) for a in arrays], mask=mask, reverse=reverse)
    for y, expected in zip(outputs, reference(*arrays, mask, reverse), strict=True):
        np.testing.assert_allclose(y.numpy(), expected, atol=1e-13)


@few
@given(
    seed=st.integers(0, 99), batch=st.integers(1, 3), length=sizes, inputs=st.integers(1, 3),
    size=st.integers(1, 3), reverse=st.booleans(), masked=st.booleans(),
)  # fmt: skip
def test_gradients(device, seed, batch, length, inputs, size, reverse, masked):
    arrays = draw(seed, batch, length, inputs, size)
    mask = np.random.default_rng(seed).random((batch, length)) < 0.6 if masked else None
    gradcheck(lambda *leaves: lstm(*leaves, mask=mask, reverse=reverse), arrays)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("gates_first", [False, True])
@pytest.mark.parametrize("copies", [False, True])
def test_blocks_of_rows_and_times(monkeypatch, copies, gates_first, reverse):
    """What is cut into blocks, and how the gates lie in memory, changes nothing."""
    arrays, mask = draw(6, 5, 7, 3, 4), np.random.default_rng(6).random((5, 7)) < 0.8
    directions = [np.random.default_rng(1).standard_normal(s) for s in ((5, 7, 4), (5, 4), (5, 4))]
    with gp.use_device("cpu"):
        whole = run(arrays, directions, mask=mask, reverse=reverse)
        for name, value in {
            "LEAST_BLOCK": 2, "LEAST_ROWS": 6, "CACHED": 8, "COPY_PAYS": 1 if copies else 1000,
            "SMALL_STEP": 0 if gates_first else 1000,
        }.items():  # fmt: skip
            monkeypatch.setattr(recurrent, name, value)
        outputs, grads = run(arrays, directions, mask=mask, reverse=reverse)
    for y, expected in zip(outputs, reference(*arrays, mask, reverse), strict=True):
        np.testing.assert_allclose(y, expected, atol=1e-13)
    for grad, expected in zip(grads, whole[1], strict=True):
        np.testing.assert_allclose(grad, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("used", [0, 1, 2])
def test_gradients_when_two_outputs_are_unused(device, used):
    arrays = draw(5, 2, 3, 2, 2)
    mask = np.array([[True, True, False], [True, True, True]])
    gradcheck(lambda *leaves: lstm(*leaves, mask=mask)[used], arrays)


def test_gradients_without_an_initial_state(device):
    gradcheck(lambda *leaves: lstm(*leaves), draw(1, 2, 3, 2, 2)[:5])


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_further_changes_nothing(device, reverse):
    arrays = draw(2, 3, 5, 3, 4)
    mask = np.arange(5) < np.array([5, 2, 3])[:, None]
    rng = np.random.default_rng(0)
    directions = [rng.standard_normal(s) for s in ((3, 5, 4), (3, 4), (3, 4))]
    outputs, grads = run(arrays, directions, mask=mask, reverse=reverse)
    assert not outputs[0][~mask].any()
    longer = [np.concatenate([arrays[0], rng.standard_normal((3, 4, 3))], 1), *arrays[1:]]
    directions[0] = np.concatenate([directions[0], rng.standard_normal((3, 4, 4))], 1)
    outputs2, grads2 = run(longer, directions, mask=np.pad(mask, ((0, 0), (0, 4))), reverse=reverse)
    assert not outputs2[0][:, 5:].any()
    assert not grads2[0][:, 5:].any()
    for y2, y in zip([outputs2[0][:, :5], *outputs2[1:]], outputs, strict=True):
        np.testing.assert_allclose(y2, y, rtol=1e-10, atol=1e-14)
    for grad2, grad in zip([grads2[0][:, :5], *grads2[1:]], grads, strict=True):
        np.testing.assert_allclose(grad2, grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_alone_is_the_row_in_a_batch(device, reverse):
    arrays = draw(3, 3, 4, 2, 3)
    lengths = np.array([4, 2, 1])
    mask = np.arange(4) < lengths[:, None]
    directions = [np.ones((3, 4, 3)), np.ones((3, 3)), np.ones((3, 3))]
    outputs, grads = run(arrays, directions, mask=mask, reverse=reverse)
    for row, n in enumerate(lengths):
        rows = slice(row, row + 1)
        alone = [arrays[0][rows, :n], *arrays[1:5], arrays[5][rows], arrays[6][rows]]
        one, one_grads = run(
            alone, [directions[0][:1, :n], *[d[:1] for d in directions[1:]]], reverse=reverse
        )
        np.testing.assert_allclose(outputs[0][rows, :n], one[0], rtol=1e-10)
        np.testing.assert_allclose(outputs[2][rows], one[2], rtol=1e-10)
        np.testing.assert_allclose(grads[0][rows, :n], one_grads[0], rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(grads[6][rows], one_grads[6], rtol=1e-10, atol=1e-14)


def test_padding_hands_the_states_on_bit_by_bit(device):
    arrays = [a.astype(np.float32) for a in draw(4, 2, 6, 3, 5)]
    _, h, c = lstm(*[gp.tensor(a) for a in arrays], mask=np.zeros((2, 6), bool))
    np.testing.assert_array_equal(h.numpy(), arrays[5])
    np.testing.assert_array_equal(c.numpy(), arrays[6])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_is_kept(device, dtype):
    arrays = [a.astype(dtype) for a in draw(7, 2, 3, 2, 3)]
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    outputs = lstm(*leaves, mask=np.array([[True, False, False], [True, True, True]]))
    assert {str(y.dtype) for y in outputs} == {np.dtype(dtype).name}
    sum((y.sum() for y in outputs), start=0.0).backward()
    assert all(leaf.grad.dtype == dtype for leaf in leaves)


@pytest.mark.parametrize("reverse", [False, True])
def test_pytorch_agrees(reverse):
    torch = pytest.importorskip("torch")
    arrays = draw(9, 3, 6, 4, 5)
    layer = torch.nn.LSTM(4, 5, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), arrays[1:5], strict=True):
            parameter.copy_(torch.from_numpy(value))
    x, h0, c0 = (torch.from_numpy(arrays[i]).requires_grad_() for i in (0, 5, 6))
    output, (h, c) = layer(x.flip(1) if reverse else x, (h0[None], c0[None]))
    expected = [output.flip(1) if reverse else output, h[0], c[0]]
    rng = np.random.default_rng(0)
    directions = [rng.standard_normal(y.shape) for y in expected]
    sum((y * torch.from_numpy(d)).sum() for y, d in zip(expected, directions, strict=True)).backward()
    with gp.use_device("cpu"):
        outputs, grads = run(arrays, directions, reverse=reverse)
    for y, peer in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(y, peer.detach().numpy(), rtol=1e-10)
    for grad, peer in zip(grads, [x, *layer.parameters(), h0, c0], strict=True):
        np.testing.assert_allclose(grad, peer.grad.numpy(), rtol=1e-9, atol=1e-12)
