"""Training: the loop, metrics, checkpoints, run folders, progress and learning curves."""

from __future__ import annotations

from .attention_picture import Attention
from .averaging import average_checkpoints
from .checkpoint import load, save
from .checkpoint_folder import CheckpointFolder
from .classify import Classification
from .curves import draw_curves
from .decoding import Decoding
from .failure import load_failure
from .gradients import GradientLog, GradientRecorder, read_gradients
from .metrics import (
    accuracy,
    classification_report,
    confusion_matrix,
    edit_distance,
    exact_match,
    macro_f1,
    majority_baseline,
    precision_recall_f1,
    token_error_rate,
)
from .monitor import GpuMonitor
from .observer import Observer
from .precision import make_precision
from .progress import Display, PlainDisplay
from .report import write_report
from .resumable import Resumable
from .run import RunFolder, read_metrics
from .seq2seq import SequenceToSequence
from .signals import Interrupted
from .tasks import load_run
from .text_metrics import bleu, chrf, perplexity, rouge
from .trainer import Trainer
from .training_state import EpochProgress, TrainingState

__all__ = [
    "Attention",
    "CheckpointFolder",
    "Classification",
    "Decoding",
    "Display",
    "EpochProgress",
    "GpuMonitor",
    "GradientLog",
    "GradientRecorder",
    "Interrupted",
    "Observer",
    "PlainDisplay",
    "Resumable",
    "RunFolder",
    "SequenceToSequence",
    "Trainer",
    "TrainingState",
    "accuracy",
    "average_checkpoints",
    "bleu",
    "chrf",
    "classification_report",
    "confusion_matrix",
    "draw_curves",
    "edit_distance",
    "exact_match",
    "load",
    "load_failure",
    "load_run",
    "macro_f1",
    "majority_baseline",
    "make_precision",
    "perplexity",
    "precision_recall_f1",
    "read_gradients",
    "read_metrics",
    "rouge",
    "save",
    "token_error_rate",
    "write_report",
]
