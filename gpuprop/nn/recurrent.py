"""GRU and LSTM: stacked, in one or both directions, over padded batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.random import new_stream
from ..errors import DataError, ShapeError
from ..ops.bidirectional import bidirectional
from ..ops.dropout import dropout as drop
from ..ops.gru import gru
from ..ops.lstm import lstm
from ..ops.operands import beside, data_of, is_array
from ..ops.shapes import concatenate
from ..tensors import Parameter, Tensor
from . import init
from .checks import positive, probability, require_text
from .module import Module


class Recurrent(Module):
    """What GRU and LSTM share: the parameters and the walk over layers and directions.

    Parameters, for layer k and with the suffix _reverse for the second direction, uniform in ±1/√H:
    weight_ih_lk (gates·H, input), weight_hh_lk (gates·H, H), bias_ih_lk (gates·H,), bias_hh_lk (gates·H,).
    """

    options_of_graphs = ("training", "dropout")
    gates: int
    cell: Callable[..., tuple[Tensor, ...]]  # one direction of one layer

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        self.input_size = positive(name, "input_size", input_size)
        self.hidden_size = positive(name, "hidden_size", hidden_size)
        self.num_layers = positive(name, "num_layers", num_layers)
        if not isinstance(bidirectional, bool):
            raise ValueError(f"{name}: bidirectional must be True or False, not {bidirectional!r}")
        self.bidirectional = bidirectional
        self.dropout = probability(name, dropout)
        directions = ("", "_reverse") if bidirectional else ("",)
        self._suffixes = tuple(
            tuple(f"_l{k}{direction}" for direction in directions) for k in range(self.num_layers)
        )
        size = self.hidden_size
        rows, bound = self.gates * size, 1.0 / math.sqrt(size)
        for k, layer in enumerate(self._suffixes):
            width = self.input_size if k == 0 else size * len(directions)
            for suffix in layer:
                setattr(self, "weight_ih" + suffix, init.uniform((rows, width), bound, order=(1, 0)))
                setattr(self, "weight_hh" + suffix, init.uniform((rows, size), bound, order=(1, 0)))
                setattr(self, "bias_ih" + suffix, init.uniform((rows,), bound))
                setattr(self, "bias_hh" + suffix, init.uniform((rows,), bound))
        self._stream = new_stream()

    def _weights(self, suffix: str) -> list[Parameter]:
        return [getattr(self, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]

    def _layer(self, x: Any, layer: tuple[str, ...], first: list[tuple[Any, ...]], mask: Any) -> list[Tensor]:
        """One layer, whose directions have these suffixes and first states: its output, and the last states
        (directions, B, H)."""
        weights = [self._weights(suffix) for suffix in layer]
        if len(layer) == 2:
            return list(bidirectional(self.cell, x, weights, first, mask=mask))
        output, *last = self.cell(x, *weights[0], *first[0], mask=mask)
        return [output, *(state.reshape(1, *state.shape) for state in last)]

    def _run(self, x: Any, mask: Any, first: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All layers. first and the returned last states: one tensor (layers·directions, B, H) per state."""
        lasts: list[list[Tensor]] = []
        for k, layer in enumerate(self._suffixes):
            if k and self.training and self.dropout:
                x = drop(x, self.dropout, stream=self._stream)
            places = range(k * len(layer), (k + 1) * len(layer))
            x, *last = self._layer(x, layer, [tuple(s[i] for s in first) for i in places], mask)
            lasts.append(last)
        states = zip(*lasts, strict=True)
        return x, tuple(s[0] if len(s) == 1 else concatenate(s, axis=0) for s in states)

    def _mask(self, x: Any, lengths: Any, mask: Any) -> Array | None:
        """The mask (B, L) that `lengths` or `mask` describe, on x's device; None when there is neither."""
        name, batch, length = type(self).__name__, x.shape[0], x.shape[1]
        if lengths is not None and mask is not None:
            raise ValueError(f"{name} takes lengths or a mask, not both")
        if mask is not None:
            if tuple(mask.shape) != (batch, length):
                raise ShapeError(f"{name} expects a mask {(batch, length)} but got {tuple(mask.shape)}")
            return beside(mask, data_of(x))
        if lengths is None:
            return None
        lengths = data_of(lengths)
        lengths = lengths if is_array(lengths) else np.asarray(lengths)
        if tuple(lengths.shape) != (batch,):
            raise ShapeError(f"{name} expects lengths ({batch},), one a row, but got {tuple(lengths.shape)}")
        if isinstance(lengths, np.ndarray) and batch and not 0 <= lengths.min() <= lengths.max() <= length:
            raise DataError(
                f"{name}: lengths must be from 0 to {length}, the length of the batch; "
                f"got {lengths.min()} to {lengths.max()}"
            )
        return beside(get_xp(lengths).arange(length) < lengths[:, None], data_of(x))

    def _initial(self, name: str, state: Any, x: Any) -> Any:
        """The checked initial state: a tensor (layers·directions, B, H), or that many None."""
        count = self.num_layers * (1 + self.bidirectional)
        if state is None:
            return (None,) * count
        expected = (count, x.shape[0], self.hidden_size)
        if tuple(state.shape) != expected:
            raise ShapeError(
                f"{type(self).__name__} expects {name} (layers · directions, batch, hidden) = {expected} "
                f"but got {tuple(state.shape)}"
            )
        return state if isinstance(state, Tensor) else beside(state, data_of(x))

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f"num_layers={self.num_layers}"] if self.num_layers > 1 else []
        parts += ["bidirectional=True"] if self.bidirectional else []
        parts += [f"dropout={self.dropout:g}"] if self.dropout else []
        return ", ".join(parts)


class GRU(Recurrent):
    """Gated recurrent units (Cho et al. 2014), with PyTorch's equations, gate order (r, z, n) and names.

    x (B, L, input_size) -> output (B, L, directions · hidden_size) and
    h_n (layers · directions, B, hidden_size).
    The states in h_n follow PyTorch's order: layer 0 forward, layer 0 reverse, layer 1 forward, ...

    lengths (B,) or mask (B, L): where the real tokens are. The output is 0 at padding, h_n is the state at
    each row's last real token, and the reverse direction starts there. h0: the initial states, zero if None.
    dropout: between layers, in training only.
    """

    gates = 3
    cell = staticmethod(gru)

    def forward(
        self, x: Any, lengths: Any = None, h0: Any = None, *, mask: Any = None
    ) -> tuple[Tensor, Tensor]:
        require_text("GRU", x, self.input_size)
        output, (h_n,) = self._run(x, self._mask(x, lengths, mask), (self._initial("h0", h0, x),))
        return output, h_n


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000),
    with PyTorch's equations, gate order (i, f, g, o) and names.

    x (B, L, input_size) -> output (B, L, directions · hidden_size), (h_n, c_n), each
    (layers · directions, B, hidden_size). state: the initial (h0, c0), zero if None. The rest as for GRU.
    """

    gates = 4
    cell = staticmethod(lstm)

    def forward(
        self, x: Any, lengths: Any = None, state: Any = None, *, mask: Any = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        require_text("LSTM", x, self.input_size)
        if state is not None and not (isinstance(state, (tuple, list)) and len(state) == 2):
            raise ShapeError(f"LSTM expects its state as a pair (h0, c0) but got {type(state).__name__}")
        h0, c0 = (None, None) if state is None else state
        first = (self._initial("h0", h0, x), self._initial("c0", c0, x))
        output, (h_n, c_n) = self._run(x, self._mask(x, lengths, mask), first)
        return output, (h_n, c_n)
