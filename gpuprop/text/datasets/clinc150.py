"""150 intents of a task-driven assistant, and requests outside of them (Larson et al. 2019)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from gpuprop.text.datasets.base import CLASSIFICATION, Dataset, DatasetInfo, LabelledData, read_columns
from gpuprop.text.datasets.download import DataFile, content
from gpuprop.text.datasets.origins import Converted, Url

_URL = "https://raw.githubusercontent.com/clinc/oos-eval/master/data/data_full.json"


def _part(name: str) -> Callable[[bytes], bytes]:
    def convert(raw: bytes) -> bytes:
        return "".join(f"{intent}\t{text}\n" for text, intent in json.loads(raw)[name]).encode()

    return convert


def _file(part: str, stored: str, unpacked: str) -> DataFile:
    return DataFile(f"clinc150/{part}.tsv.gz", stored, unpacked, Converted((Url(_URL),), _part(part)))


_FILES = {
    "train": _file(
        "train",
        "d42ba9775932c8c9eb4714f40cbc44e865cc510c425eaeb270d228fe45acb6ed",
        "6f12011783e726f5e808c9065bf11a73b9e6838750156b808110552b144599f4",
    ),
    "dev": _file(
        "val",
        "f63da95ab39c3bbb144fdf32ee645aa2475da332aad3ee24f9a7d5fbe6d4a4ac",
        "b9bc7761b45e43398cd4df045153ed8b0be0a477f8d9d9ec433efcdf7f1e42cf",
    ),
    "test": _file(
        "test",
        "97d076c816840b79673a40240a60d083e6e105092d4e1a7725702ab612ef1d1e",
        "ae81d0ea8632ed74d0bba4b891acc7ac9595e0690d13c860ef50a8e5feebeedc",
    ),
}
_OUTSIDE = {
    "train": _file(
        "oos_train",
        "ca3ffc417b1f8585224d8db7875366556d8afac4a3b0f7b8df37848bf4984fb3",
        "4ae520344fe75a231016868186b744a7242c157322c47033aefc5f1846aa922a",
    ),
    "dev": _file(
        "oos_val",
        "edacd23b6f80c49f1c980a9911d65c0d753ebfe45976e560e0d62d56bdaa9e3b",
        "a20a929a2299dcb3908fc15d40c82a41d8805aad07a2155ea380c9bc08639857",
    ),
    "test": _file(
        "oos_test",
        "89ed56fe639a6c9feca0541fe8749f095f713ac6b3ed712d3afcf5c9ff3e7066",
        "198268c5afe2d10a9298e0cf353cbfb242796b91fe4f0ea439611f833f2c26c4",
    ),
}


def _read(split: str, options: Mapping[str, str]) -> LabelledData:
    files = [_FILES[split]] + ([_OUTSIDE[split]] if options["oos"] == "yes" else [])
    rows = [row for file in files for row in read_columns(content(file), 2, file.path)]
    return LabelledData([text for _, text in rows], [label for label, _ in rows])


def _files(options: Mapping[str, str]) -> list[DataFile]:
    return [*_FILES.values(), *(_OUTSIDE.values() if options["oos"] == "yes" else ())]


DATASETS = [
    Dataset(
        DatasetInfo(
            name="clinc150",
            task=CLASSIFICATION,
            description="Intents of requests to an assistant, 150 classes; oos=yes adds the class oos, out of"
            " scope.",
            rows={"train": 15000, "dev": 3000, "test": 4500},
            licence="CC BY 3.0",
            source="https://github.com/clinc/oos-eval",
            citation="Larson et al. 2019, An Evaluation Dataset for Intent Classification and Out-of-Scope"
            " Prediction, EMNLP",
            options={"oos": ("no", "yes")},
        ),
        _files,
        _read,
    )
]
