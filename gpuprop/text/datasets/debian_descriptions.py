"""Package descriptions of Debian 13: the first paragraph and the one-line synopsis written for it."""

from __future__ import annotations

from collections.abc import Mapping

from gpuprop.text.datasets.base import PAIRS, Dataset, DatasetInfo, PairData, read_columns
from gpuprop.text.datasets.download import DataFile, content

_BY_HAND = "it was selected from Translation-en of Debian 13 (trixie) main, which mirrors keep changing."
_FILES = {
    "train": DataFile(
        "debian_descriptions/train.tsv.gz",
        "d9c0bf8c1f7f411ed0b49c57874b3433f16dbf982d5d889cbba0ae00c494c359",
        "b013106ae87dd148a0a0cf336fbedb52984f8a3152f9a631e5e52cc655e0fed2",
        None,
        _BY_HAND,
    ),
    "dev": DataFile(
        "debian_descriptions/dev.tsv.gz",
        "c823a5125f27609b35608430203a4be0c90e1c33d0faa2e3404768eac3ab4894",
        "bda7fb826920fbfc37c0af77520f94f42979c0bebc48218825cc2ece34176122",
        None,
        _BY_HAND,
    ),
    "test": DataFile(
        "debian_descriptions/test.tsv.gz",
        "d6a2a3c10d8c58ac47851858e7bebfbbf28685a9b9dc42e82f838abfd956274f",
        "73a0dde501e30b16616d7f6f9522c4532eeb67faf9f6ff2a658475f565df4673",
        None,
        _BY_HAND,
    ),
}


def _read(split: str, options: Mapping[str, str]) -> PairData:
    file = _FILES[split]
    rows = read_columns(content(file), 3, file.path)
    return PairData([paragraph for _, _, paragraph in rows], [synopsis for _, synopsis, _ in rows])


DATASETS = [
    Dataset(
        DatasetInfo(
            name="debian_descriptions",
            task=PAIRS,
            description="Summaries: the first paragraph of a package description (12 to 120 words) to its "
            "synopsis.",
            rows={"train": 31296, "dev": 1751, "test": 1656},
            licence="each description is under its package's own free licence",
            source="Debian 13 (trixie) main, i18n/Translation-en",
            citation="The Debian Project, https://www.debian.org",
        ),
        lambda options: list(_FILES.values()),
        _read,
    )
]
