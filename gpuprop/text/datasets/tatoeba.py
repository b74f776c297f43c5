"""Short sentences translated by volunteers (tatoeba.org), English with French or German."""

from __future__ import annotations

from collections.abc import Mapping

from gpuprop.errors import DataError
from gpuprop.text.datasets.base import PAIRS, Dataset, DatasetInfo, PairData, bucket, text_lines
from gpuprop.text.datasets.download import DataFile, content
from gpuprop.text.datasets.origins import Member, Package, Url

_FILES = {
    "fr": DataFile(
        "tatoeba/eng-fra.txt.xz",
        "481a36b37d8621f90f5b5bf8101d43a247ac71b933c3cf8d8da832f19ddd5971",
        "c7aed0010d2caf1065cb58f64776a7b95540bc445fa5d76177de8fba2d51d282",
        Member(
            Member(
                Package(
                    "nmt",
                    "0.0.6",
                    "nmt-0.0.6.tar.gz",
                    "65db964c0afd5b0dbc4baecdce736f53222f63b791958176b5771db78a005096",
                ),
                "nmt-0.0.6/data/fra-eng.zip",
            ),
            "fra.txt",
        ),
    ),
    "de": DataFile(
        "tatoeba/eng-deu.txt.xz",
        "aa6815002b155d14315ac44d6fdc90a8741e31f57a683febb6e718e0d840b10e",
        "a79c90b3cd3102decffa49cc00fb6f20023974f2ae5c4782515bebe133fcc07b",
        # The publisher's own archive changes every few months; this is a copy of the edition of 2018-05-13.
        Member(
            Url(
                "https://raw.githubusercontent.com/rioyshky/translation/"
                "de48b7027f7318d77010a6e08ed928c10748c23d/deu-eng.zip"
            ),
            "deu.txt",
        ),
    ),
}


def _file(options: Mapping[str, str]) -> DataFile:
    pair = {options["source"], options["target"]}
    if len(pair) != 2 or "en" not in pair:
        raise DataError("tatoeba: one side is en, the other fr or de")
    return _FILES[(pair - {"en"}).pop()]


def _read(split: str, options: Mapping[str, str]) -> PairData:
    """Split by the English sentence, since it occurs on many lines."""
    file = _file(options)
    english, other = [], []
    for number, line in enumerate(text_lines(content(file)), start=1):
        columns = line.split("\t")
        if len(columns) < 2:
            raise DataError("no tab", file.path, number)
        if {0: "test", 1: "test", 2: "dev", 3: "dev"}.get(bucket(columns[0], 100), "train") == split:
            english.append(columns[0].strip())
            other.append(columns[1].strip())
    return PairData(english, other) if options["source"] == "en" else PairData(other, english)


DATASETS = [
    Dataset(
        DatasetInfo(
            name="tatoeba",
            task=PAIRS,
            description="Translation of short sentences between English and French or German (source and "
            "target). Split by the MD5 of the English sentence modulo 100: 0 and 1 are test, 2 "
            "and 3 dev.",
            rows={"train": 170945, "dev": 3600, "test": 3464},
            licence="CC BY 2.0 FR",
            source="https://www.manythings.org/anki/ (en-fr 2020-08-23 from PyPI nmt 0.0.6, en-de "
            "2018-05-13)",
            citation="Tatoeba Project, https://tatoeba.org; sentence pairs selected by "
            "https://www.manythings.org",
            options={"source": ("en", "fr", "de"), "target": ("fr", "de", "en")},
        ),
        lambda options: [_file(options)],
        _read,
    )
]
