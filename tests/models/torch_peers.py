"""What the comparisons with PyTorch share: twin models in either type, and one pass of each."""

import numpy as np
import pytest
from model_checks import assert_close

import gpuprop as gp
from gpuprop import interop
from gpuprop.tensors import Parameter

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # the models are tiny

TOLERANCE = {"float64": 1e-11, "float32": 3e-5}  # of the largest value
DTYPES = list(TOLERANCE)


def in_type(model, dtype):
    """The same model with parameters of that type; tied ones stay tied."""
    made = {}
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Parameter):
                if id(value) not in made:
                    made[id(value)] = Parameter(np.asarray(value.data, dtype=dtype), value.order)
                setattr(module, name, made[id(value)])
    return model


def twins(model, peer, dtype, names=None):
    """Both models with the weights of `peer`, none of them 0 or 1; they went to `model` and came back."""
    model, peer = in_type(model, dtype), peer.to(getattr(torch, dtype))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=parameter.dtype))
    state = peer.state_dict()
    assert interop.from_torch(state, model, names) == ([], [])
    back = interop.to_torch(model, names)
    kept = {name for name in state if (names or {}).get(name, "") is not None}
    assert set(back) == kept
    for name, array in back.items():
        assert np.array_equal(array, state[name].numpy())
    left_out = {name: state[name] for name in state if name not in kept}
    peer.load_state_dict({name: torch.from_numpy(array) for name, array in back.items()} | left_out)
    return model, peer


def arrays(dtype, *shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def agree(model, peer, ours, theirs, inputs, names=None, where=None):
    """Compare outputs, and the gradients of inputs and parameters, of ours(model, *inputs) and theirs(peer,
    *inputs), each an output or a tuple of them. where: the places of the first output that count."""
    leaves = [gp.tensor(x, requires_grad=True) for x in inputs]
    peers = [torch.from_numpy(x).requires_grad_() for x in inputs]
    outputs, expected = _tuple(ours(model, *leaves)), _tuple(theirs(peer, *peers))
    dtype = str(outputs[0].dtype)
    weights = arrays(dtype, *(y.shape for y in outputs), seed=9)
    if where is not None:
        weights[0] *= where
    for y, z, w in zip(outputs, expected, weights, strict=True):
        assert_close(y.data * (w != 0), z.detach().numpy() * (w != 0), TOLERANCE[dtype])
    total = (outputs[0] * weights[0]).sum()
    for y, w in zip(outputs[1:], weights[1:], strict=True):
        total = total + (y * w).sum()
    total.backward()
    sum((z * torch.from_numpy(w)).sum() for z, w in zip(expected, weights, strict=True)).backward()
    for leaf, other in zip(leaves, peers, strict=True):
        assert_close(leaf.grad, other.grad.numpy(), TOLERANCE[dtype])
    same_gradients(model, peer, names)


def same_gradients(model, peer, names=None):
    """Every parameter's gradient in both: written over the weights, ours come out under PyTorch's names."""
    dtype = str(next(model.parameters()).dtype)
    for parameter in model.parameters():
        parameter.data[...] = parameter.grad
    ours = interop.to_torch(model, names)
    parameters = list(peer.named_parameters())
    assert len(parameters) == len(list(model.parameters()))
    for name, parameter in parameters:
        assert_close(ours[name], parameter.grad.numpy(), TOLERANCE[dtype])


def _tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)
