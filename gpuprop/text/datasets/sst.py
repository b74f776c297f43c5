"""The Stanford Sentiment Treebank (Socher et al. 2013): trees with a label from 0 to 4 at every node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from gpuprop.errors import DataError
from gpuprop.text.datasets.base import CLASSIFICATION, Dataset, DatasetInfo, LabelledData, text_lines
from gpuprop.text.datasets.download import DataFile, content
from gpuprop.text.datasets.origins import Member, Url

_ARCHIVE = Url("https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip")
_PART = re.compile(r"\((\d) |([^() ]+)|(\))")
_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
_NEUTRAL = 2


def _file(part: str, stored: str, unpacked: str) -> DataFile:
    return DataFile(f"sst/trees.{part}.txt.gz", stored, unpacked, Member(_ARCHIVE, f"trees/{part}.txt"))


_FILES = {
    "train": _file(
        "train",
        "7e6aa375a039edd507ac6f2fd59167252fa26c1d4f4eacbb882b67173634b80a",
        "e2f3f41b0b1e6d4dddc0effe3bfc2d27ed8928079aa9a03d652311614fc5feb7",
    ),
    "dev": _file(
        "dev",
        "0803424c31e3d2d3a94b9274aeac0cdf1804e9356a107f204a9becb666beda7b",
        "0e9336aed6e4730e19f58d00a77b3f0297efdb755f7b5e598c98a05e3f97ea40",
    ),
    "test": _file(
        "test",
        "f12828c6b455e19da98558170c796519663bf2cd86821b877065b5e3fdb2ed63",
        "6e54806dee95cf80cd918e7dfb3f6770f6df24bf826f289a4d1f709e1c8f6761",
    ),
}


def nodes(tree: str) -> Iterator[tuple[int, list[str]]]:
    """(label, tokens) of every node of a bracketed tree, the whole sentence last."""
    open_nodes: list[tuple[int, int]] = []
    tokens: list[str] = []
    for match in _PART.finditer(tree):
        label, token, _ = match.groups()
        if label is not None:
            open_nodes.append((int(label), len(tokens)))
        elif token is not None:
            tokens.append(_BRACKETS.get(token, token.replace("\\/", "/").replace("\\*", "*")))
        else:
            if not open_nodes:
                raise DataError("a tree closes more brackets than it opens")
            number, start = open_nodes.pop()
            yield number, tokens[start:]
    if open_nodes:
        raise DataError("a tree opens more brackets than it closes")


def _rows(split: str, phrases: bool) -> Iterator[tuple[int, str]]:
    """(label, text) of the sentences, or of all different phrases (whole sentences among them)."""
    seen: set[str] = set()
    for tree in text_lines(content(_FILES[split])):
        found = [(label, " ".join(tokens)) for label, tokens in nodes(tree)]
        if not phrases:
            yield found[-1]
            continue
        for label, text in found:
            if text not in seen:
                seen.add(text)
                yield label, text


def _read_binary(split: str, options: Mapping[str, str]) -> LabelledData:
    rows = _rows(split, split == "train" and options["train_on"] == "phrases")
    kept = [(label, text) for label, text in rows if label != _NEUTRAL]
    return LabelledData(
        [text for _, text in kept], ["positive" if label > _NEUTRAL else "negative" for label, _ in kept]
    )


def _read_fine(split: str, options: Mapping[str, str]) -> LabelledData:
    rows = list(_rows(split, split == "train" and options["train_on"] == "phrases"))
    return LabelledData([text for _, text in rows], [str(label) for label, _ in rows])


_CITATION = (
    "Socher et al. 2013, Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank, EMNLP"
)
_LICENCE = "no explicit licence; research use"

DATASETS = [
    Dataset(
        DatasetInfo(
            name="sst2",
            task=CLASSIFICATION,
            description="Stanford Sentiment Treebank, positive or negative, neutral left out; tokenised. "
            "Training uses all different phrases of the trees (Kim 2014) or sentences only "
            "(train_on=sentences).",
            rows={"train": 77616, "dev": 872, "test": 1821},
            licence=_LICENCE,
            source=_ARCHIVE.url,
            citation=_CITATION,
            options={"train_on": ("phrases", "sentences")},
            tokenizer="whitespace",
        ),
        lambda options: list(_FILES.values()),
        _read_binary,
    ),
    Dataset(
        DatasetInfo(
            name="sst5",
            task=CLASSIFICATION,
            description="Stanford Sentiment Treebank, five classes from 0 (very negative) to 4 (very "
            "positive); tokenised. Training uses sentences, or all different phrases "
            "(train_on=phrases).",
            rows={"train": 8544, "dev": 1101, "test": 2210},
            licence=_LICENCE,
            source=_ARCHIVE.url,
            citation=_CITATION,
            options={"train_on": ("sentences", "phrases")},
            tokenizer="whitespace",
        ),
        lambda options: list(_FILES.values()),
        _read_fine,
    ),
]
