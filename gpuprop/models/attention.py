"""Attention of a decoder over the encoder's positions; what does not depend on the query is done once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..backend.arrays import Array
from ..nn.attention import AdditiveAttention, DotProductAttention
from ..nn.linear import Linear
from ..nn.module import Module
from ..tensors import Tensor

ATTENTIONS = ("dot", "additive")


@dataclass(frozen=True)
class Memory:
    """What a decoder attends to: values (B, S, M), projected keys (B, S, H), mask (B, S)."""

    values: Tensor
    keys: Tensor
    mask: Array

    def rows(self, index: Array) -> Memory:
        """The chosen rows, without the tape."""
        return Memory(Tensor(self.values.data[index]), Tensor(self.keys.data[index]), self.mask[index])


class GlobalAttention(Module):
    """Attention of every query over all positions of a memory (Luong et al. 2015, section 3.1).

    "dot" is Luong's "general", hᵀ W s / √hidden_size; "additive" is Bahdanau's, vᵀ tanh(W h + U s).
    `remember` projects the keys, once a sentence; then query (B, T, hidden_size) -> context
    (B, T, memory_size) and weights (B, T, S).
    """

    def __init__(self, hidden_size: int, memory_size: int, kind: str) -> None:
        if kind not in ATTENTIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, not {kind!r}")
        self.kind = kind
        if kind == "dot":
            self.project = Linear(memory_size, hidden_size, bias=False)
            self.dot = DotProductAttention()
        else:
            self.additive = AdditiveAttention(hidden_size, memory_size, hidden_size)

    def remember(self, values: Tensor, mask: Array) -> Memory:
        """The memory of encoder outputs (B, S, memory_size), mask (B, S)."""
        keys = self.project(values) if self.kind == "dot" else self.additive.project(values)
        return Memory(values, keys, mask)

    def forward(self, query: Any, memory: Memory) -> tuple[Tensor, Tensor]:
        if self.kind == "dot":
            return self.dot(query, memory.keys, memory.values, memory.mask)
        return self.additive(query, memory.values, memory.mask, projected=memory.keys)
