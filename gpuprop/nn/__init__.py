"""Layers and losses."""

from . import init
from .activation import GELU, GLU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from .attention import AdditiveAttention, DotProductAttention, MultiHeadAttention
from .conv import Conv1d, ConvMaxOverTime, conv_max_over_time
from .dropout import Dropout
from .embedding import Embedding
from .feed_forward import FeedForward
from .layer_norm import LayerNorm
from .linear import Linear
from .losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    LinearCrossEntropyLoss,
    MSELoss,
    SequenceCrossEntropyLoss,
)
from .module import Module, ModuleList, Sequential
from .pooling import AvgPool1d, MaxOverTime, MaxPool1d, MeanOverTime
from .positions import LearnedPositions, SinusoidalPositions
from .recurrent import GRU, LSTM
from .transformer import TransformerDecoderLayer, TransformerEncoderLayer

__all__ = [
    "GELU",
    "GLU",
    "GRU",
    "LSTM",
    "AdditiveAttention",
    "AvgPool1d",
    "BCEWithLogitsLoss",
    "Conv1d",
    "ConvMaxOverTime",
    "CrossEntropyLoss",
    "DotProductAttention",
    "Dropout",
    "Embedding",
    "FeedForward",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "LinearCrossEntropyLoss",
    "LogSoftmax",
    "MSELoss",
    "MaxOverTime",
    "MaxPool1d",
    "MeanOverTime",
    "Module",
    "ModuleList",
    "MultiHeadAttention",
    "ReLU",
    "SequenceCrossEntropyLoss",
    "Sequential",
    "Sigmoid",
    "SinusoidalPositions",
    "Softmax",
    "Tanh",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "conv_max_over_time",
    "init",
]
