"""Intents of requests to a voice assistant (Coucke et al. 2018), 7 classes."""

from __future__ import annotations

import json
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

_FOLDER = "https://raw.githubusercontent.com/sonos/nlu-benchmark/master/2017-06-custom-intent-engines"
_INTENTS = (
    "AddToPlaylist",
    "BookRestaurant",
    "GetWeather",
    "PlayMusic",
    "RateBook",
    "SearchCreativeWork",
    "SearchScreeningEvent",
)


def _merge(*files: bytes) -> bytes:
    """The publisher's JSON, one file an intent, as `intent<TAB>utterance` without the slots."""
    lines = []
    for intent, raw in zip(_INTENTS, files, strict=True):
        try:
            decoded = raw.decode("utf-8")
        except UnicodeDecodeError:
            decoded = raw.decode("windows-1252")
        for utterance in json.loads(decoded)[intent]:
            text = "".join(piece["text"] for piece in utterance["data"])
            lines.append(f"{intent}\t{' '.join(text.split())}\n")
    return "".join(lines).encode()


def _file(part: str, pattern: str, stored: str, unpacked: str) -> DataFile:
    parts = tuple(Url(f"{_FOLDER}/{intent}/{pattern.format(intent)}") for intent in _INTENTS)
    return DataFile(f"snips/{part}.tsv.gz", stored, unpacked, Converted(parts, _merge))


_FILES = {
    "train": _file(
        "train",
        "train_{}_full.json",
        "8b155fc590a21a20237fa0e60de0404edf903b67e5e01473fe6ac0165b78724f",
        "58beb17f7d81dfa06728a1953a168199e61285f17d494264e68cb6ab022c2fa8",
    ),
    "test": _file(
        "valid",
        "validate_{}.json",
        "1eba566dcd1f3669b19a39fe0600cc21df0c25d3fa79d91329300ed6e68d0c55",
        "9c79da3c72cc9e2d544dd656d986a5843d4086b42bf532ad7061b22441d90774",
    ),
}


def _read(split: str, options: Mapping[str, str]) -> Data:
    file = _FILES["test" if split == "test" else "train"]
    rows = read_columns(content(file), 2, file.path)
    return part(LabelledData([text for _, text in rows], [label for label, _ in rows]), split)


DATASETS = [
    Dataset(
        DatasetInfo(
            name="snips",
            task=CLASSIFICATION,
            description="Intents of requests to a voice assistant, 7 classes. test are the publisher's 700 "
            "validation rows, as in most papers; dev is a tenth of the training rows, by the MD5 "
            "of the text.",
            rows={"train": 12391, "dev": 1393, "test": 700},
            licence="CC0 1.0",
            source="https://github.com/sonos/nlu-benchmark, 2017-06-custom-intent-engines",
            citation="Coucke et al. 2018, Snips Voice Platform, arXiv:1805.10190",
        ),
        lambda options: list(_FILES.values()),
        _read,
    )
]
