"""Operations: one file each, with its equation, its forward, its backward and its kernel launch.

The functions here take tensors, arrays or numbers and return tensors.
"""

from ..tensor_methods import table as _methods
from .attention import additive_attention_weights, attention, attention_weights
from .bidirectional import bidirectional
from .binary_cross_entropy import binary_cross_entropy
from .cast import cast
from .conv1d import conv1d
from .conv1d_relu_max import conv1d_relu_max
from .dropout import dropout
from .elementwise import (
    absolute,
    add,
    divide,
    exp,
    log,
    multiply,
    power,
    relu,
    sigmoid,
    sqrt,
    subtract,
    tanh,
)
from .embedding import embedding
from .feed_forward import feed_forward
from .gelu import gelu
from .glu import glu
from .gru import gru
from .layer_norm import layer_norm
from .linear import linear, matmul
from .linear_cross_entropy import linear_cross_entropy
from .lstm import lstm
from .packing import Packing, join_heads, pack, pack_labels, packing_of, split_heads, unpack
from .pooling import avg_pool1d, max_over_time, max_pool1d, mean_over_time
from .reductions import max, mean, sum
from .residual_layer_norm import residual_layer_norm
from .scaled_dot_product_attention import scaled_dot_product_attention
from .shapes import concatenate, getitem, reshape, stack, swapaxes, transpose
from .softmax import log_softmax, softmax
from .softmax_cross_entropy import softmax_cross_entropy

__all__ = [
    "Packing",
    "absolute",
    "add",
    "additive_attention_weights",
    "attention",
    "attention_weights",
    "avg_pool1d",
    "bidirectional",
    "binary_cross_entropy",
    "cast",
    "concatenate",
    "conv1d",
    "conv1d_relu_max",
    "divide",
    "dropout",
    "embedding",
    "exp",
    "feed_forward",
    "gelu",
    "getitem",
    "glu",
    "gru",
    "join_heads",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "log",
    "log_softmax",
    "lstm",
    "matmul",
    "max",
    "max_over_time",
    "max_pool1d",
    "mean",
    "mean_over_time",
    "multiply",
    "pack",
    "pack_labels",
    "packing_of",
    "power",
    "relu",
    "reshape",
    "residual_layer_norm",
    "scaled_dot_product_attention",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "split_heads",
    "sqrt",
    "stack",
    "subtract",
    "sum",
    "swapaxes",
    "tanh",
    "transpose",
    "unpack",
]

_methods.update(
    add=add,
    subtract=subtract,
    multiply=multiply,
    divide=divide,
    power=power,
    matmul=matmul,
    getitem=getitem,
    exp=exp,
    log=log,
    sqrt=sqrt,
    abs=absolute,
    tanh=tanh,
    sigmoid=sigmoid,
    relu=relu,
    gelu=gelu,
    glu=glu,
    sum=sum,
    mean=mean,
    max=max,
    softmax=softmax,
    log_softmax=log_softmax,
    reshape=reshape,
    transpose=transpose,
    swapaxes=swapaxes,
)
