"""What every data set is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import md5

from gpuprop.errors import DataError
from gpuprop.text.datasets.download import DataFile
from gpuprop.text.labels import label_names

CLASSIFICATION, PAIRS = "classification", "pairs"


@dataclass(frozen=True)
class LabelledData:
    """Texts and their labels, row by row."""

    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def label_names(self) -> list[str]:
        """The different labels, in a fixed order."""
        return label_names(self.labels)

    def __add__(self, other: LabelledData) -> LabelledData:
        return LabelledData(self.texts + other.texts, self.labels + other.labels)


@dataclass(frozen=True)
class PairData:
    """Sources and targets, row by row."""

    sources: list[str]
    targets: list[str]

    def __len__(self) -> int:
        return len(self.sources)

    def __add__(self, other: PairData) -> PairData:
        return PairData(self.sources + other.sources, self.targets + other.targets)


Data = LabelledData | PairData


@dataclass(frozen=True)
class DatasetInfo:
    """What a user should know of a data set before using it. `rows` are those of the default options."""

    name: str
    task: str  # "classification" or "pairs"
    description: str
    rows: Mapping[str, int]
    licence: str
    source: str
    citation: str
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # allowed values, the default first
    tokenizer: str = "word"  # the one that fits the texts
    target_tokenizer: str = "word"

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that `load` knows."""
        return tuple(self.rows)


@dataclass(frozen=True)
class Dataset:
    """A data set: its description, the files it needs, and how a split is read from them."""

    info: DatasetInfo
    files: Callable[[Mapping[str, str]], Sequence[DataFile]]
    read: Callable[[str, Mapping[str, str]], Data]


def text_lines(content: bytes, encoding: str = "utf-8") -> list[str]:
    """Lines that end with `\\n` or `\\r\\n` (and nothing else), the ends removed."""
    lines = content.decode(encoding).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def bucket(key: str, buckets: int) -> int:
    """MD5 of `key` modulo `buckets`: a split that depends on nothing but the row itself."""
    return int(md5(key.encode("utf-8"), usedforsecurity=False).hexdigest(), 16) % buckets


def held_out(split: str, keys: Sequence[str], buckets: int = 10) -> list[int]:
    """For sets without a development part: the rows of `split` ("train" or "dev") of the training file.

    `dev` is every row whose key falls into bucket 0 of `buckets`.
    """
    return [i for i, key in enumerate(keys) if (bucket(key, buckets) == 0) == (split == "dev")]


def choose(data: Data, rows: Sequence[int]) -> Data:
    """The given rows of `data`."""
    if isinstance(data, LabelledData):
        return LabelledData([data.texts[i] for i in rows], [data.labels[i] for i in rows])
    return PairData([data.sources[i] for i in rows], [data.targets[i] for i in rows])


def part(data: LabelledData, split: str) -> Data:
    """What `split` is of the rows of its file: all of the test file, of the training file train or dev."""
    return data if split == "test" else choose(data, held_out(split, data.texts))


def read_columns(content: bytes, columns: int, path: str, separator: str = "\t") -> list[list[str]]:
    """The columns of every line, each line checked for their number."""
    rows = [line.split(separator, columns - 1) for line in text_lines(content)]
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise DataError(f"{len(row)} columns, expected {columns}", path, number)
    return rows
