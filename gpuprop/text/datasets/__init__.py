"""Public data sets, checked by SHA-256 and cached.

    from gpuprop.text import datasets
    train = datasets.load("vader_movie", "train")       # train.texts, train.labels

Set `GPUPROP_DATA` to a folder with copies to work without a network.
"""

from gpuprop.text.datasets.base import DatasetInfo, LabelledData, PairData
from gpuprop.text.datasets.download import cache_directory
from gpuprop.text.datasets.registry import export, fetch, info, list_datasets, load

__all__ = [
    "DatasetInfo",
    "LabelledData",
    "PairData",
    "cache_directory",
    "export",
    "fetch",
    "info",
    "list_datasets",
    "load",
]
