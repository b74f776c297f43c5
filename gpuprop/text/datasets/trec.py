"""Question types (Li and Roth 2002): 6 coarse or 50 fine classes."""

from __future__ import annotations

from collections.abc import Mapping

from gpuprop.text.datasets.base import (
    CLASSIFICATION,
    Data,
    Dataset,
    DatasetInfo,
    LabelledData,
    part,
    text_lines,
)
from gpuprop.text.datasets.download import DataFile, content
from gpuprop.text.datasets.origins import Url

_FOLDER = "https://cogcomp.seas.upenn.edu/Data/QA/QC"
_FILES = {
    "train": DataFile(
        "trec/TREC.train.gz",
        "e66d18cf5e6be7fc67a15ec7675d56801d9bc1ad7f7c7d0bef3f5c50840da9da",
        "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3",
        Url(f"{_FOLDER}/train_5500.label"),
    ),
    "test": DataFile(
        "trec/TREC.test.gz",
        "c2935194eaf115d2e3d1fb748293c05f2fc8f6ddf288aa32947cb0fdde548e2f",
        "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e",
        Url(f"{_FOLDER}/TREC_10.label"),
    ),
}


def _read(split: str, options: Mapping[str, str]) -> Data:
    lines = text_lines(content(_FILES["test" if split == "test" else "train"]), "latin-1")
    rows = [line.strip().partition(" ") for line in lines]
    labels = [label if options["labels"] == "fine" else label.partition(":")[0] for label, _, _ in rows]
    return part(LabelledData([text for _, _, text in rows], labels), split)


DATASETS = [
    Dataset(
        DatasetInfo(
            name="trec",
            task=CLASSIFICATION,
            description="Types of questions, 6 classes (or 50 with labels=fine); tokenised. dev is a tenth of"
            " the training rows, by the MD5 of the question.",
            rows={"train": 4912, "dev": 540, "test": 500},
            licence="no explicit licence; research use",
            source=_FOLDER,
            citation="Li and Roth 2002, Learning Question Classifiers, COLING",
            options={"labels": ("coarse", "fine")},
            tokenizer="whitespace",
        ),
        lambda options: list(_FILES.values()),
        _read,
    )
]
