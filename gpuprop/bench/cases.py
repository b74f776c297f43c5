"""What `gpuprop bench` measures: operations (forward and backward) and whole training steps, each written for
gpuprop and for PyTorch on the same shapes.

A case makes a function without arguments that does the work once. PyTorch comes in as an argument, because it
is only a peer and need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import gpuprop as gp
from gpuprop import nn

Work = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One line of the table. shape: what it works on, in words."""

    name: str
    shape: str
    ours: Callable[[], Work]
    torch: Callable[[Any], Work]


def _normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _ids(high: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, high, shape)


def _ours(layer: Callable[..., Any], *inputs: Any, module: Any = None) -> Work:
    """layer(*inputs) and back; float inputs want a gradient too."""
    tensors = [gp.tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs]
    module = layer if module is None else module
    parameters = list(module.parameters()) if hasattr(module, "parameters") else []
    optimizer = gp.optim.SGD(parameters, lr=0.0) if parameters else None
    ones: list[Any] = []

    def work() -> None:
        for t in tensors:
            if t.requires_grad:
                t.grad = None
        if optimizer is not None:
            optimizer.zero_grad()
        y = layer(*tensors)
        if not ones:
            ones.append(np.ones(y.shape, np.float32))
        y.backward(ones[0])

    return work


def _torch(torch: Any, layer: Any, *inputs: Any) -> Work:
    tensors = [torch.tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs]
    ones: list[Any] = []

    def work() -> None:
        for t in tensors:
            t.grad = None
        if hasattr(layer, "zero_grad"):
            layer.zero_grad()
        y = layer(*tensors)
        if not ones:
            ones.append(torch.ones_like(y))
        y.backward(ones[0])

    return work


def _torch_convolutions(torch: Any) -> Any:
    layers = torch.nn.ModuleList([torch.nn.Conv1d(300, 100, k) for k in (3, 4, 5)])

    class Features(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Any) -> Any:
            x = x.transpose(1, 2)
            return torch.cat([torch.relu(layer(x)).amax(2) for layer in self.layers], 1)

    return Features()


def _first(layer: Any) -> Any:
    return lambda *inputs: layer(*inputs)[0]


def _attention(layer: Any) -> Any:
    return lambda x: layer(x, x, x)


def _step(model: Any, criterion: Any, optimizer: Any, x: Any, y: Any) -> Work:
    """One training step; the two libraries are called alike."""

    def work() -> float:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return work


def _train(model: nn.Module, x: Any, y: Any) -> Work:
    return _step(model, nn.CrossEntropyLoss(), gp.optim.Adam(model.parameters(), lr=1e-12), x, y)


def _train_torch(torch: Any, model: Any, x: Any, y: Any) -> Work:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-12)
    return _step(model, torch.nn.CrossEntropyLoss(), optimizer, torch.tensor(x), torch.tensor(y))


SIZES = (784, 512, 256, 10)


def _mlp() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(a, b, activation="relu") for a, b in pairwise(SIZES[:-1])]
    return nn.Sequential(*layers, nn.Linear(*SIZES[-2:]))


def _torch_mlp(torch: Any) -> Any:
    parts = [part for a, b in pairwise(SIZES) for part in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    return torch.nn.Sequential(*parts[:-1])


def _cnn() -> nn.Module:
    features = nn.ConvMaxOverTime(300, 100, (3, 4, 5))
    return nn.Sequential(
        nn.Embedding(20000, 300, padding_idx=0), features, nn.Dropout(0.5), nn.Linear(300, 2)
    )


def _torch_cnn(torch: Any) -> Any:
    return torch.nn.Sequential(
        torch.nn.Embedding(20000, 300, padding_idx=0), _torch_convolutions(torch), torch.nn.Dropout(0.5),
        torch.nn.Linear(300, 2),
    )  # fmt: skip


def _sentences(count: int) -> np.ndarray[Any, Any]:
    """Texts of 8 to 56 words."""
    ids = 1 + _ids(19999, count, 56)
    ids[np.arange(56) >= np.random.default_rng(2).integers(8, 57, count)[:, None]] = 0
    return ids


def mlp_case(batch: int) -> Case:
    """A step of a classifier of images, a perceptron of three layers."""
    x, y = _normal(batch, SIZES[0]), _ids(SIZES[-1], batch)
    shape = f"{'-'.join(map(str, SIZES))}, batch {batch}"
    return Case(
        f"mlp{batch}", shape, lambda: _train(_mlp(), x, y), lambda t: _train_torch(t, _torch_mlp(t), x, y)
    )


def _adam_case() -> Case:
    def ours() -> Work:
        p = gp.Parameter(_normal(1 << 20))
        optimizer = gp.optim.Adam([p])
        p.grad = _normal(1 << 20)
        return optimizer.step

    def theirs(torch: Any) -> Work:
        p = torch.nn.Parameter(torch.tensor(_normal(1 << 20)))
        p.grad = torch.tensor(_normal(1 << 20))
        return torch.optim.Adam([p]).step

    return Case("adam", "1,048,576 weights", ours, theirs)


def operations() -> list[Case]:
    """Single operations, forward and backward."""
    loss = nn.CrossEntropyLoss()
    table = _ids(20000, 64, 20)
    text, wide, narrow = _normal(64, 20, 256), _normal(1280, 1024), _normal(1280, 256)
    return [
        Case(
            "linear", "1280 x 256 -> 1024, relu",
            lambda: _ours(nn.Linear(256, 1024, activation="relu"), narrow),
            lambda t: _torch(t, t.nn.Sequential(t.nn.Linear(256, 1024), t.nn.ReLU()), narrow),
        ),
        Case(
            "gelu", "1280 x 1024",
            lambda: _ours(nn.GELU(), wide), lambda t: _torch(t, t.nn.GELU("tanh"), wide),
        ),
        Case(
            "dropout", "1280 x 1024, p = 0.1",
            lambda: _ours(nn.Dropout(0.1), wide), lambda t: _torch(t, t.nn.Dropout(0.1), wide),
        ),
        Case(
            "layer_norm", "1280 x 256",
            lambda: _ours(nn.LayerNorm(256), narrow), lambda t: _torch(t, t.nn.LayerNorm(256), narrow),
        ),
        Case(
            "embedding", "64 x 20 ids of 20,000 x 256",
            lambda: _ours(nn.Embedding(20000, 256), table),
            lambda t: _torch(t, t.nn.Embedding(20000, 256), table),
        ),
        Case(
            "cross_entropy", "1280 x 8000",
            lambda: _ours(loss, _normal(1280, 8000), _ids(8000, 1280)),
            lambda t: _torch(t, t.nn.CrossEntropyLoss(), _normal(1280, 8000), _ids(8000, 1280)),
        ),
        Case(
            "conv_max", "50 x 56 x 300, widths 3, 4, 5 x 100",
            lambda: _ours(nn.ConvMaxOverTime(300, 100, (3, 4, 5)), _normal(50, 56, 300)),
            lambda t: _torch(t, _torch_convolutions(t), _normal(50, 56, 300)),
        ),
        Case(
            "gru", "64 x 20 x 256 -> 256",
            lambda: _ours(_first(layer := nn.GRU(256, 256)), text, module=layer),
            lambda t: _torch(t, _first(t.nn.GRU(256, 256, batch_first=True)), text),
        ),
        Case(
            "attention", "64 x 20 x 256, 4 heads",
            lambda: _ours(_attention(layer := nn.MultiHeadAttention(256, 4)), text, module=layer),
            lambda t: _torch(t, _first(_attention(t.nn.MultiheadAttention(256, 4, batch_first=True))), text),
        ),
        _adam_case(),
    ]  # fmt: skip


def cnn_case(texts: int) -> Case:
    """A step of the convolutional classifier of texts."""
    x, y = _sentences(texts), _ids(2, texts)
    return Case(
        "cnn", f"Kim 2014: 20,000 x 300, {texts} texts of 56, widths 3, 4, 5 x 100",
        lambda: _train(_cnn(), x, y), lambda t: _train_torch(t, _torch_cnn(t), x, y),
    )  # fmt: skip
