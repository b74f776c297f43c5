"""The data sets: rows, labels, splits and licences, on copies of the real files."""

from __future__ import annotations

import functools
import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from gpuprop.errors import DataError
from gpuprop.text import datasets, read_labelled, read_pairs
from gpuprop.text.datasets.registry import _DATASETS
from gpuprop.text.datasets.sst import nodes

NAMES = [about.name for about in datasets.list_datasets()]
FOLDER = os.environ.get("GPUPROP_DATA", "")


def need(name: str, **options: str) -> None:
    """Skips unless all files are in `GPUPROP_DATA` or in the cache (tests never fetch data sets)."""
    chosen = {option: values[0] for option, values in datasets.info(name).options.items()} | options
    for file in _DATASETS[name].files(chosen):
        cached = datasets.cache_directory() / "data" / file.cached_name
        if not (FOLDER and Path(FOLDER, file.path).is_file()) and not cached.is_file():
            pytest.skip(f"no copy of {file.path}: set GPUPROP_DATA or run `gpuprop data get {name}`")


@functools.cache
def _load(name: str, split: str, options: tuple[tuple[str, str], ...]) -> Any:
    return datasets.load(name, split, **dict(options))


def load(name: str, split: str, **options: str) -> Any:
    """`datasets.load`, kept for the next test."""
    need(name, **options)
    return _load(name, split, tuple(options.items()))


@pytest.mark.parametrize("name", NAMES)
def test_rows(name: str) -> None:
    about = datasets.info(name)
    for split in about.splits:
        data = load(name, split)
        assert len(data) == about.rows[split]
        if about.task == "classification":
            assert isinstance(data, datasets.LabelledData)
            columns = data.labels, data.texts
        else:
            assert isinstance(data, datasets.PairData)
            columns = data.sources, data.targets
        for column in columns:
            assert len(column) == len(data)
            assert all(cell.strip() and "\t" not in cell and "\n" not in cell for cell in column)


@pytest.mark.parametrize(
    ("name", "options", "labels"),
    [
        ("vader_movie", {}, 2),
        ("mr", {}, 2),
        ("sst2", {}, 2),
        ("sst5", {}, 5),
        ("trec", {}, 6),
        ("trec", {"labels": "fine"}, 50),
        ("reuters_r8", {}, 8),
        ("snips", {}, 7),
        ("clinc150", {}, 150),
        ("clinc150", {"oos": "yes"}, 151),
    ],
)
def test_labels(name: str, options: dict[str, str], labels: int) -> None:
    train = load(name, "train", **options)
    assert len(train.label_names) == labels
    for split in ("dev", "test"):
        assert set(load(name, split, **options).labels) <= set(train.labels)


@pytest.mark.parametrize(
    ("name", "split", "options", "rows"),
    [  # figures of the publishers
        ("vader_movie", "train+dev+test", {}, 10_072),
        ("mr", "train+dev", {}, 7_108),
        ("sst2", "train", {"train_on": "sentences"}, 6_920),
        ("sst5", "train", {"train_on": "phrases"}, 159_274),
        ("trec", "train+dev", {}, 5_452),
        ("reuters_r8", "train+dev", {}, 5_485),
        ("snips", "train+dev", {}, 13_784),
        ("clinc150", "train", {"oos": "yes"}, 15_100),
        ("clinc150", "test", {"oos": "yes"}, 5_500),
        ("cmudict_g2p", "train+dev", {}, 113_438),
        ("tatoeba", "train+dev+test", {}, 178_009),
        pytest.param(
            *("tatoeba", "train+dev+test", {"source": "de", "target": "en"}, 169_813), marks=pytest.mark.full
        ),
        ("multi30k", "test_coco", {"source": "en", "target": "fr"}, 461),
    ],
)
def test_published_rows(name: str, split: str, options: dict[str, str], rows: int) -> None:
    assert sum(len(load(name, part, **options)) for part in split.split("+")) == rows


@pytest.mark.parametrize("name", ["cmudict", "cmudict_g2p", "tatoeba"])
def test_no_source_is_in_two_parts(name: str) -> None:
    parts = [set(load(name, split).sources) for split in ("train", "dev", "test")]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_vader_movie_is_balanced_and_as_published() -> None:
    test = load("vader_movie", "test")
    assert 0.45 < test.labels.count("positive") / len(test) < 0.55
    data = load("vader_movie", "train+dev+test")
    assert len(data) == 10_072
    row = next(i for i, text in enumerate(data.texts) if text.startswith("The Rock is destined"))
    assert data.labels[row] == "positive"


def test_cmudict_is_clean() -> None:
    data = load("cmudict", "dev")
    assert all(word.isalpha() and word.isascii() and word.islower() for word in data.sources)
    vowels = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
    consonants = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
    assert {sound for target in data.targets for sound in target.split(" ")} == {
        *f"{vowels} {consonants}".split()
    }


def test_sst_agrees_with_the_sentences_of_others() -> None:
    ours = load("sst5", "test")
    copy = Path(FOLDER, "sst/stsa.fine.test.gz")
    if not (FOLDER and copy.is_file()):
        pytest.skip("no copy of sst/stsa.fine.test.gz in GPUPROP_DATA")
    lines = gzip.decompress(copy.read_bytes()).decode().split("\n")[:-1]
    marks = str.maketrans({"(": None, ")": None, "\\": None})
    theirs = sorted(line.replace("-lrb-", "").replace("-rrb-", "").translate(marks).split() for line in lines)
    mine = [f"{label} {text.lower()}" for label, text in zip(ours.labels, ours.texts, strict=True)]
    assert sorted(line.translate(marks).split() for line in mine) == theirs


def test_tree_nodes() -> None:
    tree = "(3 (2 (2 A) (1 -LRB-)) (4 and\\/or))"
    assert list(nodes(tree)) == [
        (2, ["A"]),
        (1, ["("]),
        (2, ["A", "("]),
        (4, ["and/or"]),
        (3, ["A", "(", "and/or"]),
    ]
    for damaged in ("(3 (2 a)", "(3 a))"):
        with pytest.raises(DataError, match="brackets"):
            list(nodes(damaged))


@pytest.mark.parametrize(("name", "options"), [("trec", {"labels": "fine"}), ("multi30k", {"source": "fr"})])
def test_export(name: str, options: dict[str, str], tmp_path: Path) -> None:
    need(name, **options)
    paths = datasets.export(name, tmp_path / "out", **options)
    about = datasets.info(name)
    assert [path.name for path in paths] == [f"{split}.tsv" for split in about.splits] + ["LICENCE.txt"]
    for split, path in zip(about.splits, paths[:-1], strict=True):
        data = datasets.load(name, split, **options)
        if about.task == "classification":
            assert read_labelled(path) == (data.labels, data.texts)
        else:
            assert read_pairs(path) == (data.sources, data.targets)
    assert about.licence in paths[-1].read_text(encoding="utf-8")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    paths[0].write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        datasets.export(name, tmp_path / "out", **options)
    assert paths[0].read_text() == "mine"
    datasets.export(name, tmp_path / "out", overwrite=True, **options)
    assert paths[0].read_text(encoding="utf-8") != "mine"


def test_fetch_gives_the_files() -> None:
    need("trec")
    assert all(path.is_file() for path in datasets.fetch("trec"))


@pytest.mark.parametrize("about", datasets.list_datasets(), ids=NAMES)
def test_descriptions_are_complete(about: datasets.DatasetInfo) -> None:
    assert about.task in ("classification", "pairs")
    assert about.licence
    assert about.source
    assert about.citation
    assert about.description.endswith(".")
    assert {"train", "dev", "test"} <= set(about.splits)
    assert all(about.rows.values())


def test_wrong_names() -> None:
    with pytest.raises(DataError, match="did you mean vader_movie"):
        datasets.load("vader_movies")
    with pytest.raises(DataError, match="splits train, dev, test, got 'valid'"):
        datasets.load("mr", "valid")
    with pytest.raises(DataError, match="splits"):
        datasets.load("mr", "train+train")
    with pytest.raises(DataError, match="unknown option 'language'"):
        datasets.load("mr", "train", language="en")
    with pytest.raises(DataError, match="labels is one of coarse, fine, got 'all'"):
        datasets.load("trec", "train", labels="all")
    with pytest.raises(DataError, match="both 'en'"):
        datasets.load("multi30k", "train", source="en")
    with pytest.raises(DataError, match="one side is en"):
        datasets.fetch("tatoeba", source="fr", target="de")
    with pytest.raises(DataError, match="unknown data set"):
        datasets.info("x" * 1000)
