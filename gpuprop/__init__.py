"""gpuprop: train text models by backpropagation, with NumPy on a CPU and CuPy on a GPU.

import gpuprop as gp
from gpuprop import nn

gp.set_device("auto")
model = nn.Sequential(nn.Linear(100, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = gp.optim.AdamW(model.parameters(), lr=1e-3)
loss = nn.CrossEntropyLoss()(model(gp.tensor(x)), y)
loss.backward()
optimizer.step()
"""

from __future__ import annotations

from . import interrupt as interrupt  # first: the others take time

# isort: split
import importlib
from typing import TYPE_CHECKING, Any

from . import nn, ops, optim
from .backend import kernels
from .backend.arrays import get_xp
from .backend.determinism import are_deterministic_algorithms_enabled, use_deterministic_algorithms
from .backend.device import Device, available_devices, get_device, set_device, use_device
from .backend.gemm import get_matmul_precision, set_matmul_precision
from .backend.random import manual_seed
from .backend.threads import num_threads, set_num_threads
from .backprop import Context, is_grad_enabled, no_grad
from .capture import capture
from .errors import (
    BuildError,
    CaptureError,
    CheckpointError,
    DataError,
    DeviceError,
    GpupropError,
    KernelError,
    ShapeError,
    TrainingError,
    TrainingWarning,
)
from .op import Op
from .ops import concatenate, stack
from .row_gradient import RowGradient
from .tensors import Parameter, Tensor, tensor
from .version import __version__

if TYPE_CHECKING:
    from . import interop, models, parallel, testing, text, training
    from .costs import cost
    from .explanation import explain
    from .testing import gradcheck
    from .training import Trainer, load, save

__all__ = [
    "BuildError",
    "CaptureError",
    "CheckpointError",
    "Context",
    "DataError",
    "Device",
    "DeviceError",
    "GpupropError",
    "KernelError",
    "Op",
    "Parameter",
    "RowGradient",
    "ShapeError",
    "Tensor",
    "Trainer",
    "TrainingError",
    "TrainingWarning",
    "__version__",
    "are_deterministic_algorithms_enabled",
    "available_devices",
    "capture",
    "concatenate",
    "cost",
    "explain",
    "get_device",
    "get_matmul_precision",
    "get_xp",
    "gradcheck",
    "interop",
    "is_grad_enabled",
    "kernels",
    "load",
    "manual_seed",
    "models",
    "nn",
    "no_grad",
    "num_threads",
    "ops",
    "optim",
    "parallel",
    "save",
    "set_device",
    "set_matmul_precision",
    "set_num_threads",
    "stack",
    "tensor",
    "testing",
    "text",
    "training",
    "use_deterministic_algorithms",
    "use_device",
]

# Loaded when first used, so that importing gpuprop stays quick.
_LAZY = {
    "interop": ("gpuprop.interop", None),
    "models": ("gpuprop.models", None),
    "parallel": ("gpuprop.parallel", None),
    "testing": ("gpuprop.testing", None),
    "text": ("gpuprop.text", None),
    "training": ("gpuprop.training", None),
    "cost": ("gpuprop.costs", "cost"),
    "explain": ("gpuprop.explanation", "explain"),
    "gradcheck": ("gpuprop.testing", "gradcheck"),
    "Trainer": ("gpuprop.training", "Trainer"),
    "load": ("gpuprop.training", "load"),
    "save": ("gpuprop.training", "save"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'gpuprop' has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
