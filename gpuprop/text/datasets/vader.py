"""The sentences of VADER (Hutto and Gilbert 2014), each rated from -4 to 4 by about 20 people."""

from __future__ import annotations

from collections.abc import Mapping

from gpuprop.text.datasets.base import (
    CLASSIFICATION,
    Dataset,
    DatasetInfo,
    LabelledData,
    bucket,
    read_columns,
)
from gpuprop.text.datasets.download import DataFile, content
from gpuprop.text.datasets.origins import Member, Package

_ARCHIVE = Member(
    Package(
        "vaderSentiment",
        "3.3.2",
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    ),
    "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
)
_NEUTRAL = 0.5  # ratings nearer to zero than this are left out


def _file(name: str, stored: str, unpacked: str) -> DataFile:
    member = f"{name}_GroundTruth.txt"
    return DataFile(f"vader/{member}.gz", stored, unpacked, Member(_ARCHIVE, f"hutto_ICWSM_2014/{member}"))


def _dataset(name: str, what: str, rows: Mapping[str, int], file: DataFile) -> Dataset:
    def read(split: str, options: Mapping[str, str]) -> LabelledData:
        texts, labels = [], []
        for key, rating, text in read_columns(content(file), 3, file.path):
            part = {0: "test", 1: "dev"}.get(bucket(key, 10), "train")
            if part == split and abs(float(rating)) >= _NEUTRAL:
                texts.append(text.strip())
                labels.append("positive" if float(rating) > 0 else "negative")
        return LabelledData(texts, labels)

    info = DatasetInfo(
        name=name,
        task=CLASSIFICATION,
        description=f"Sentiment of {what}: the sign of the mean rating where it is at least 0.5 in size. "
        "Split by the MD5 of the sentence's id modulo 10: 0 is test, 1 is dev.",
        rows=rows,
        licence="MIT",
        source="PyPI vaderSentiment 3.3.2, additional_resources/hutto_ICWSM_2014.tar.gz",
        citation="Hutto and Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment "
        "Analysis of Social Media Text, ICWSM",
    )
    return Dataset(info, lambda options: [file], read)


DATASETS = [
    _dataset(
        "vader_movie",
        "sentences from film reviews",
        {"train": 7962, "dev": 1055, "test": 1055},
        _file(
            "movieReviewSnippets",
            "37611f57b61de5d323e2be66fb813b9d7dc7117aa1cc6817ad3c73619ee2e4b5",
            "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        ),
    ),
    _dataset(
        "vader_tweets",
        "tweets",
        {"train": 2704, "dev": 364, "test": 364},
        _file(
            "tweets",
            "83cab29400830cb5016514a255fe44820dd93eeb8f8c0ea33cd378bd7a61724d",
            "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
        ),
    ),
    _dataset(
        "vader_products",
        "sentences from product reviews",
        {"train": 2384, "dev": 307, "test": 294},
        _file(
            "amazonReviewSnippets",
            "8708699dfabf5bfdde695608c0ce7a5d3f404c1063304d6e995a9db22fde6770",
            "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
        ),
    ),
    _dataset(
        "vader_news",
        "sentences from newspaper editorials",
        {"train": 2369, "dev": 307, "test": 294},
        _file(
            "nytEditorialSnippets",
            "9c99b967ca69f0fd71a8ab287f8a22feb17bf0b605853689fdc5d481f524f7ce",
            "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
        ),
    ),
]
