"""Strict reading: what is accepted, and one clear message for everything else."""

from __future__ import annotations

import gzip
import lzma
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuprop.errors import DataError
from gpuprop.text import (
    check_classes,
    hold_out,
    label_ids,
    label_names,
    read_labelled,
    read_lines,
    read_pairs,
)

CELLS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n\ufeff"), min_size=1
).filter(lambda text: bool(text.strip()))


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_reads_labels_and_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "pos\tA film .\nneg \t no \u0085 \u2028 end\n")
    assert read_labelled(path) == (["pos", "neg"], ["A film .", " no \u0085 \u2028 end"])


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", b"\xef\xbb\xbfa\tb\r\nc\td\r\n")
    assert read_pairs(path) == (["a", "c"], ["b", "d"])


def test_last_line_needs_no_end(tmp_path: Path) -> None:
    assert read_lines(write(tmp_path / "a.txt", "a\n\nb")) == ["a", "", "b"]


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_compressed(tmp_path: Path, suffix: str) -> None:
    packed = (gzip if suffix == ".gz" else lzma).compress(b"a\tb\n")
    path = write(tmp_path / f"a.tsv{suffix}", packed)
    assert read_pairs(path) == (["a"], ["b"])
    for damaged in (packed[:-6], b"no archive", packed[:12] + b"\x00" * 8):
        write(path, damaged)
        with pytest.raises(DataError, match="damaged"):
            read_pairs(path)


@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=20), end=st.sampled_from(["\n", "\r\n"]))
def test_pairs_round_trip(
    rows: list[tuple[str, str]], end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("files") / "a.tsv"
    write(path, "".join(f"{source}\t{target}{end}" for source, target in rows))
    sources, targets = read_pairs(path)
    assert list(zip(sources, targets, strict=True)) == rows


def test_very_long_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "pos\t" + "word " * 100_000 + "\n" + "neg\tx\n" * 1000)
    start = time.perf_counter()
    _, texts = read_labelled(path)
    assert time.perf_counter() - start < 20.0
    assert len(texts[0].split()) == 100_000


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", None, "empty"),
        (b"\xef\xbb\xbf", None, "empty"),
        (b"a\tb\nno tab here\n", 2, "no tab.*label<TAB>text"),
        (b"a\tb\n\na\tb\n", 2, "empty line; remove"),
        (b"a\tb\nid\ta\tb\n", 2, "3 columns, expected 2"),
        (b"a\tb\na\t \n", 2, "text is empty"),
        (b"a\tb\n\tb\n", 2, "label is empty"),
        (b"a\tb\na\tcaf\xe9\n", 2, "not UTF-8: byte 0xe9 at position 6.*iconv"),
        (b"\xef\xbb\xbfa\tb\na\tcaf\xe9\n", 2, "not UTF-8: byte 0xe9 at position 6.*iconv"),
        (b"a\tb\na\tb\xc3", 2, "not UTF-8: byte 0xc3"),
        ("a\tb\n".encode("utf-16"), 1, "UTF-16.*iconv"),
    ],
)
def test_faults_name_file_line_and_remedy(
    tmp_path: Path, content: bytes, line: int | None, message: str
) -> None:
    path = write(tmp_path / "train.tsv", content)
    with pytest.raises(DataError, match=message) as caught:
        read_labelled(path)
    assert str(caught.value).startswith(f"{path}: " if line is None else f"{path}, line {line}: ")
    assert caught.value.line == line
    assert caught.value.exit_code == 2


def test_pairs_name_their_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="source<TAB>target"):
        read_pairs(write(tmp_path / "a.tsv", "word\n"))
    with pytest.raises(DataError, match="target is empty"):
        read_pairs(write(tmp_path / "a.tsv", "word\t\n"))


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_labelled(tmp_path / "none.tsv")
    with pytest.raises(DataError, match="is a directory"):
        read_labelled(tmp_path)
    with pytest.raises(DataError, match="cannot be opened"):
        read_labelled(write(tmp_path / "file", "x") / "inside.tsv")


def test_label_names_are_ordered() -> None:
    assert label_names(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert label_names(["b", "a", "10", "9"]) == ["10", "9", "a", "b"]
    assert label_names([]) == []


def test_one_class_only() -> None:
    assert check_classes(["a", "b"]) == ["a", "b"]
    with pytest.raises(DataError, match=r"train\.tsv: only the label 'a'"):
        check_classes(["a", "a"], "train.tsv")
    with pytest.raises(DataError, match="no rows"):
        check_classes([])


def test_label_ids() -> None:
    assert label_ids(["b", "a"], ["a", "b"]).tolist() == [1, 0]
    with pytest.raises(DataError, match=r"test\.tsv, line 2: unknown label 'c'; the model knows: a, b"):
        label_ids(["b", "c"], ["a", "b"], "test.tsv")


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 2**64 - 1))
def test_hold_out_parts_the_rows(rows: int, fraction: float, seed: int) -> None:
    try:
        kept, held = hold_out(rows, fraction, seed)
    except DataError:
        assert round(rows * fraction) >= rows
        return
    assert sorted([*kept, *held]) == list(range(rows))
    assert len(held) == max(1, round(rows * fraction))
    again = hold_out(rows, fraction, seed)
    assert (again[0] == kept).all()
    assert (again[1] == held).all()


@given(st.lists(st.integers(0, 30), min_size=40, max_size=100), st.integers(0, 1000))
def test_hold_out_keeps_groups_together(groups: list[int], seed: int) -> None:
    if len(set(groups)) < 4:
        return
    kept, held = hold_out(len(groups), 0.1, seed, groups)
    assert not {groups[i] for i in kept} & {groups[i] for i in held}
    assert sorted([*kept, *held]) == list(range(len(groups)))


def test_hold_out_refuses() -> None:
    with pytest.raises(DataError, match="too few"):
        hold_out(1)
    with pytest.raises(DataError, match="between 0 and 1"):
        hold_out(10, 1.0)
    with pytest.raises(DataError, match="3 groups for 10 rows"):
        hold_out(10, groups=[1, 2, 3])
    with pytest.raises(DataError, match="seed"):
        hold_out(10, seed=-1)
