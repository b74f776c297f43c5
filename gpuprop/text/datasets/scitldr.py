"""Abstracts of papers and a one-sentence summary (Cachola et al. 2020), abstract-only edition."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gpuprop.errors import DataError
from gpuprop.text.datasets.base import PAIRS, Dataset, DatasetInfo, PairData, text_lines
from gpuprop.text.datasets.download import DataFile, content
from gpuprop.text.datasets.origins import Url

_FOLDER = "https://raw.githubusercontent.com/allenai/scitldr/master/SciTLDR-Data/SciTLDR-A"


def _file(part: str, stored: str, unpacked: str) -> DataFile:
    return DataFile(f"scitldr/{part}.jsonl.gz", stored, unpacked, Url(f"{_FOLDER}/{part}.jsonl"))


_FILES = {
    "train": _file(
        "train",
        "20b67f0c09a05b2a8dcc40a955780ea1960e50fe77b71e2f6ee0e3d6b367f1c6",
        "b222771d387be585cfdf5ae957b36757138415a352e0a3e3b23f73f87c3b1119",
    ),
    "dev": _file(
        "dev",
        "5d6e77ca71c3e80a684e02d06250723d0cea7468ef94a41051efd999f94d38b7",
        "3191fa98ccc09521332b7a1cd63b1930be4e8df125a235ccd31e40329709525e",
    ),
    "test": _file(
        "test",
        "55724a1cbda3b189d76f094f48a6907f45d529f4ff23b0835745a2cd1536917f",
        "fb42dd6cd4f4a1928ae8a01a189456fbfe994a07e938bd49f68653933f6503c9",
    ),
}


def _read(split: str, options: Mapping[str, str]) -> PairData:
    sources, targets = [], []
    for number, line in enumerate(text_lines(content(_FILES[split])), start=1):
        try:
            row = json.loads(line)
            source, target = " ".join(row["source"]), row["target"][0]
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(f"not a row of SciTLDR: {error}", _FILES[split].path, number) from error
        sources.append(" ".join(source.split()))
        targets.append(" ".join(target.split()))
    return PairData(sources, targets)


DATASETS = [
    Dataset(
        DatasetInfo(
            name="scitldr",
            task=PAIRS,
            description="Summaries: the abstract of a paper to one sentence (the first where there are "
            "several).",
            rows={"train": 1992, "dev": 619, "test": 618},
            licence="Apache 2.0",
            source="https://github.com/allenai/scitldr, SciTLDR-Data/SciTLDR-A",
            citation="Cachola et al. 2020, TLDR: Extreme Summarization of Scientific Documents, Findings "
            "of EMNLP",
        ),
        lambda options: list(_FILES.values()),
        _read,
    )
]
