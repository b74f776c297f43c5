"""Sentence polarity of film reviews (Pang and Lee 2005) in the fixed split of Tang et al. 2015."""

from __future__ import annotations

from collections.abc import Mapping

from gpuprop.text.datasets.base import (
    CLASSIFICATION,
    Data,
    Dataset,
    DatasetInfo,
    LabelledData,
    part,
    read_columns,
)
from gpuprop.text.datasets.download import DataFile, content
from gpuprop.text.datasets.origins import Converted, Url

_FOLDER = "https://raw.githubusercontent.com/yao8839836/text_gcn/master/data/mr"


def _merge(labels: bytes, texts: bytes) -> bytes:
    """The two files of the split, one with labels and one with texts, as `label<TAB>text`."""
    try:
        decoded = texts.decode("utf-8")
    except UnicodeDecodeError:
        decoded = texts.decode("windows-1252")
    names, lines = labels.decode("ascii").split(), decoded.rstrip("\n").split("\n")
    pairs = zip(names, lines, strict=True)
    return "".join(f"{name}\t{line.strip()}\n" for name, line in pairs).encode()


def _file(part: str, stored: str, unpacked: str) -> DataFile:
    origin = Converted((Url(f"{_FOLDER}/label_{part}.txt"), Url(f"{_FOLDER}/text_{part}.txt")), _merge)
    return DataFile(f"mr/tang2015.{part}.tsv.gz", stored, unpacked, origin)


_FILES = {
    "train": _file(
        "train",
        "a94f483a31db7c9cf24546e14043ee608d8ee71a17c32f25f2d4d8cb2ee888c9",
        "cdb694705bee3d045c26fa3bb459cca4e66697643e8d68eeb252959e676383b3",
    ),
    "test": _file(
        "test",
        "25189431f60417f9fad7441b1febd6b81eb8f59d491404e3296e6289e4c743db",
        "1c758a6ab506d84e6144c7e3b5df4cebeb2284a4cd43f98f951ce9639517c4ba",
    ),
}


def _read(split: str, options: Mapping[str, str]) -> Data:
    file = _FILES["test" if split == "test" else "train"]
    rows = read_columns(content(file), 2, file.path)
    names = {"0": "negative", "1": "positive"}
    return part(LabelledData([text for _, text in rows], [names[label] for label, _ in rows]), split)


DATASETS = [
    Dataset(
        DatasetInfo(
            name="mr",
            task=CLASSIFICATION,
            description="Polarity of one-sentence film reviews, lower-cased and tokenised, split of Tang et "
            "al. 2015. dev is a tenth of the training rows, by the MD5 of the text.",
            rows={"train": 6382, "dev": 726, "test": 3554},
            licence="no explicit licence; research use",
            source="https://www.cs.cornell.edu/people/pabo/movie-review-data/ (split: " + _FOLDER + ")",
            citation="Pang and Lee 2005, Seeing Stars, ACL; Tang, Qu and Mei 2015, PTE, KDD",
            tokenizer="whitespace",
        ),
        lambda options: list(_FILES.values()),
        _read,
    )
]
