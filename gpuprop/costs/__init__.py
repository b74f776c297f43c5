"""What an operation costs on a GPU, from shapes and types alone: `gp.cost`.

measure.py says what is counted, and the other files what each operation launches, forward and backward.
"""

from __future__ import annotations

from .cost import cost
from .measure import Cost, Pass

__all__ = ["Cost", "Pass", "cost"]
