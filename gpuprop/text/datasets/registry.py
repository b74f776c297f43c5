"""All data sets by name: listing, loading, fetching, exporting."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from gpuprop.errors import DataError
from gpuprop.text.datasets import (
    clinc150,
    cmudict,
    debian_descriptions,
    mr,
    multi30k,
    reuters,
    scitldr,
    snips,
    sst,
    tatoeba,
    trec,
    vader,
)
from gpuprop.text.datasets.base import Data, Dataset, DatasetInfo, LabelledData
from gpuprop.text.datasets.download import locate

_FAMILIES = (
    vader,
    cmudict,
    mr,
    sst,
    trec,
    reuters,
    snips,
    clinc150,
    multi30k,
    tatoeba,
    debian_descriptions,
    scitldr,
)
_DATASETS: dict[str, Dataset] = {dataset.info.name: dataset for f in _FAMILIES for dataset in f.DATASETS}


def list_datasets() -> list[DatasetInfo]:
    """What there is, with rows, licence, source and citation. Reads and fetches nothing."""
    return [dataset.info for dataset in _DATASETS.values()]


def info(name: str) -> DatasetInfo:
    """The description of one data set. Raises `DataError` for an unknown name."""
    return _find(name).info


def load(name: str, split: str = "train", **options: str) -> Any:
    """One part of a data set: `LabelledData` or `PairData`, as `info(name).task` says.

    `split` is one of `info(name).splits`, or several joined by `+` ("train+dev"). Files are looked for in
    `GPUPROP_DATA`, then in the cache, then at their origin, and their SHA-256 is checked. Raises `DataError`
    for an unknown name, split or option, and for a file that cannot be had.
    """
    dataset = _find(name)
    chosen = _options(dataset.info, options)
    parts: list[Any] = [dataset.read(part, chosen) for part in _splits(dataset.info, split)]
    return reduce(add, parts)


def fetch(name: str, **options: str) -> list[Path]:
    """Makes sure that all files of a data set are at hand; returns where they are."""
    dataset = _find(name)
    return [locate(file) for file in dataset.files(_options(dataset.info, options))]


def export(name: str, directory: str | Path, overwrite: bool = False, **options: str) -> list[Path]:
    """Writes `train.tsv`, `dev.tsv`, `test.tsv` (`label<TAB>text` or `source<TAB>target`) and `LICENCE.txt`.

    Returns the paths. Files that exist are kept and a `DataError` raised, unless `overwrite` is given.
    """
    dataset, folder = _find(name), Path(directory)
    chosen = _options(dataset.info, options)
    paths = [folder / f"{split}.tsv" for split in dataset.info.splits] + [folder / "LICENCE.txt"]
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise DataError(
            "exists already; choose another folder (--out), or replace the files with --overwrite",
            existing[0],
        )
    contents = [_tsv(dataset.read(split, chosen)) for split in dataset.info.splits]
    contents.append(_notice(dataset.info))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, contents, strict=True):
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.write_text(text, encoding="utf-8", newline="\n")
            os.replace(partial, path)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", folder) from error
    return paths


def _find(name: str) -> Dataset:
    if name not in _DATASETS:
        close = difflib.get_close_matches(name, _DATASETS, 1)
        meant = f"; did you mean {close[0]}?" if close else "."
        raise DataError(f"unknown data set {name!r}{meant} Known are: {', '.join(_DATASETS)}")
    return _DATASETS[name]


def _options(about: DatasetInfo, given: Mapping[str, str]) -> dict[str, str]:
    chosen = {option: values[0] for option, values in about.options.items()}
    for option, value in given.items():
        if option not in about.options:
            known = ", ".join(about.options) or "none"
            raise DataError(f"data set {about.name}: unknown option {option!r}; its options are: {known}")
        if value not in about.options[option]:
            allowed = ", ".join(about.options[option])
            raise DataError(f"data set {about.name}: {option} is one of {allowed}, got {value!r}")
        chosen[option] = value
    return chosen


def _splits(about: DatasetInfo, split: str) -> list[str]:
    parts = split.split("+")
    for part in parts:
        if part not in about.rows or parts.count(part) > 1:
            raise DataError(f"data set {about.name} has the splits {', '.join(about.rows)}, got {split!r}")
    return parts


def _tsv(data: Data) -> str:
    if isinstance(data, LabelledData):
        columns = zip(data.labels, data.texts, strict=True)
    else:
        columns = zip(data.sources, data.targets, strict=True)
    return "".join(f"{_cell(first)}\t{_cell(second)}\n" for first, second in columns)


def _cell(text: str) -> str:
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")


def _notice(about: DatasetInfo) -> str:
    return (
        f"{about.name}: {about.description}\n\nLicence: {about.licence}\nSource: {about.source}\n"
        f"Citation: {about.citation}\n"
    )
