"""All that `gpuprop bench` measures, by name."""

from __future__ import annotations

from .cases import Case, cnn_case, mlp_case, operations
from .seq2seq_cases import seq2seq_cases


def steps() -> list[Case]:
    """Whole training steps: forward, loss, backward, Adam."""
    return [mlp_case(64), mlp_case(512), cnn_case(50), *seq2seq_cases()]


def all_cases() -> dict[str, Case]:
    """Every case by its name, steps first."""
    return {case.name: case for case in (*steps(), *operations())}
