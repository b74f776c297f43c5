"""Which parameters of a model are tables whose rows are looked up, and nothing else."""

from __future__ import annotations

from typing import Any

from ..nn.embedding import Embedding
from ..nn.module import Module


def sparse_groups(model: Module, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Groups for `optim.SparseAdam` of the parameters that are trained: the tables of `nn.Embedding`, which
    are told to give gradients of rows, and with the weight decay all others, a table too that another layer
    uses (tied weights)."""
    layers = list(model.modules())
    elsewhere = {
        id(value) for layer in layers if not isinstance(layer, Embedding)
        for _, value in layer.own_parameters()
    }  # fmt: skip
    tables: set[int] = set()
    for layer in layers:
        if isinstance(layer, Embedding) and layer.weight.requires_grad and id(layer.weight) not in elsewhere:
            layer.sparse = True
            tables.add(id(layer.weight))
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) in tables], "sparse": True},
        {
            "params": [p for p in trained if id(p) not in tables],
            "sparse": False,
            "weight_decay": weight_decay,
        },
    ]
    return [group for group in groups if group["params"]]
