"""Where data files come from: copies, cache, web servers, archives and pip."""

from __future__ import annotations

import base64
import functools
import gzip
import http.server
import io
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from gpuprop.errors import DataError
from gpuprop.text.datasets import clinc150, mr, origins, pip_package, reuters, snips
from gpuprop.text.datasets.cmudict import _tidy
from gpuprop.text.datasets.download import DataFile, cache_directory, content, locate
from gpuprop.text.datasets.origins import Converted, Gunzip, Member, Origin, Package, Url
from gpuprop.text.datasets.vader import _ARCHIVE

CONTENT = b"pos\tgood\nneg\tbad\n"


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def data_file(origin: Origin | None, found: bytes = CONTENT) -> DataFile:
    return DataFile(
        "set/train.tsv.gz", digest(gzip.compress(found, mtime=0)), digest(found), origin, "Ask Ann."
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GPUPROP_DATA", raising=False)
    monkeypatch.setenv("GPUPROP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which a local web server shows it."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def test_copy_in_the_data_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copies" / "set" / "train.tsv.gz"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(gzip.compress(CONTENT, mtime=0))
    monkeypatch.setenv("GPUPROP_DATA", str(tmp_path / "copies"))
    assert locate(data_file(None)) == copy
    assert content(data_file(None)) == CONTENT


def test_wrong_copy_is_refused_with_both_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copies" / "set" / "train.tsv.gz"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"something else")
    monkeypatch.setenv("GPUPROP_DATA", str(tmp_path / "copies"))
    with pytest.raises(DataError) as caught:
        locate(data_file(None))
    for part in (str(copy), digest(b"something else"), data_file(None).stored, "unset GPUPROP_DATA"):
        assert part in str(caught.value)


def test_data_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUPROP_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match="GPUPROP_DATA is not a folder"):
        locate(data_file(None))


def test_no_origin_says_what_to_do() -> None:
    with pytest.raises(
        DataError, match=r"Ask Ann\. Set GPUPROP_DATA to a folder that holds set/train\.tsv\.gz"
    ):
        locate(data_file(None))


def test_cache_directory(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_directory() == cache
    monkeypatch.delenv("GPUPROP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_directory() == Path("/x/gpuprop")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert cache_directory() == Path("/home/ann/.cache/gpuprop")


def test_download_is_cached_and_checked(site: tuple[Path, str], cache: Path) -> None:
    folder, address = site
    (folder / "train.gz").write_bytes(gzip.compress(CONTENT))
    file = data_file(Gunzip(Url(f"{address}/train.gz")))
    assert content(file) == CONTENT
    assert locate(file) == cache / "data/set/train.tsv"
    (folder / "train.gz").unlink()
    assert content(file) == CONTENT
    for kept in (cache / "downloads").iterdir():
        kept.unlink()
    locate(file).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"could not be downloaded(.|\n)*save it as(.|\n)*GPUPROP_DATA"):
        content(file)
    (folder / "train.gz").write_bytes(gzip.compress(CONTENT))
    assert content(file) == CONTENT


def test_changed_download_is_refused_and_forgotten(site: tuple[Path, str], cache: Path) -> None:
    folder, address = site
    (folder / "train.tsv").write_bytes(b"changed")
    file = data_file(Url(f"{address}/train.tsv"))
    with pytest.raises(DataError, match=f"{digest(CONTENT)}(.|\n)*{digest(b'changed')}(.|\n)*has changed"):
        content(file)
    assert list((cache / "downloads").iterdir()) == []
    assert not (cache / "data/set/train.tsv").exists()
    (folder / "train.tsv").write_bytes(CONTENT)
    assert content(file) == CONTENT


def test_pinned_download(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = site
    (folder / "a.txt").write_bytes(CONTENT)
    assert Url(f"{address}/a.txt", digest(CONTENT)).read(tmp_path) == CONTENT
    with pytest.raises(DataError, match="could not be downloaded"):
        Url(f"{address}/a.txt", digest(b"x")).read(tmp_path / "other")


def test_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="could not be downloaded"):
        Url("http://127.0.0.1:9/a.txt").read(tmp_path)


def test_file_saved_by_hand_is_taken(tmp_path: Path) -> None:
    url = Url("http://127.0.0.1:9/a.txt")
    with pytest.raises(DataError) as caught:
        url.read(tmp_path)
    place = Path(str(caught.value).split("save it as ")[1].split(", or")[0])
    place.write_bytes(CONTENT)
    assert url.read(tmp_path) == CONTENT


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUPROP_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set GPUPROP_CACHE"):
        locate(data_file(Url("http://127.0.0.1:9/a.txt")))


class _Fixed(Origin):
    """Bytes made by a test."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.forgotten = False

    def read(self, downloads: Path) -> bytes:
        return self.data

    def forget(self, downloads: Path) -> None:
        self.forgotten = True


@pytest.mark.parametrize("pack", [zipped, tarred, functools.partial(tarred, mode="w")])
def test_members(pack: functools.partial[bytes], tmp_path: Path) -> None:
    files = {"a/b.txt": CONTENT, "a/c/b.txt": b"other", "../../evil.txt": b"evil"}
    archive = _Fixed(pack(files))
    assert Member(archive, "a/b.txt").read(tmp_path) == CONTENT
    assert Member(archive, "c/b.txt").read(tmp_path) == b"other"
    with pytest.raises(DataError, match=r"2 files named b\.txt"):
        Member(archive, "b.txt").read(tmp_path)
    with pytest.raises(DataError, match="0 files named none"):
        Member(archive, "none").read(tmp_path)
    assert list(tmp_path.iterdir()) == [] or [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_links_in_archives_are_not_followed(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        link = tarfile.TarInfo("a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    with pytest.raises(DataError, match="0 files"):
        Member(_Fixed(out.getvalue()), "a.txt").read(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04 and no more", b"no archive at all", tarred({"a": CONTENT})[:60]],
    ids=["empty", "zip cut short", "text", "tar cut short"],  # a tar.gz holds the time: no name for a test
)
def test_damaged_archives(data: bytes, tmp_path: Path) -> None:
    archive = _Fixed(data)
    with pytest.raises(DataError, match="damaged"):
        Member(archive, "a").read(tmp_path)
    assert archive.forgotten
    with pytest.raises(DataError, match="damaged"):
        Gunzip(_Fixed(b"no gzip")).read(tmp_path)


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "LARGEST", 1000)
    for origin in (
        Member(_Fixed(zipped({"a": b"0" * 1001})), "a"),
        Member(_Fixed(tarred({"a": b"0" * 1001})), "a"),
        Gunzip(_Fixed(gzip.compress(b"0" * 1001))),
    ):
        with pytest.raises(DataError, match="larger than 1000 bytes"):
            origin.read(tmp_path)


def test_conversions(tmp_path: Path) -> None:
    merged = mr._merge(b"1\n0\n", b"good \n caf\xe9 \x85 .\n")
    assert merged == "1\tgood\n0\tcaf\u00e9 \u2026 .\n".encode()
    assert mr._merge(b"1\n", "\u00e9\n".encode()) == "1\t\u00e9\n".encode()
    table = b"Category\tText\nd\tstring\nclass\t\n\nearn\ta b\nacq\tc\n"
    assert reuters._without_header(table) == b"earn\ta b\nacq\tc\n"
    raw = b'{"train": [["how are you", "greeting"]], "test": []}'
    assert clinc150._part("train")(raw) == b"greeting\thow are you\n"
    utterances = b'[{"data": [{"text": "play "}, {"text": "x", "entity": "e"}, {"text": " "}]}]'
    files = [b'{"%s": %s}' % (intent.encode(), utterances) for intent in snips._INTENTS]
    assert snips._merge(*files).startswith(b"AddToPlaylist\tplay x\nBookRestaurant\tplay x\n")
    assert _tidy(b"ABC\tA  B\nDE  D E\n\n") == b"ABC\tA B\nDE\tD E\n"
    part = _Fixed(b"[]")
    with pytest.raises(DataError, match="unexpected form"):
        Converted((part,), clinc150._part("train")).read(tmp_path)
    assert part.forgotten


def source_distribution(folder: Path, marker: Path) -> str:
    """A package whose setup.py leaves a trace when it is run; returns its SHA-256."""
    trace = f"open({str(marker)!r}, 'w').close()"
    setup = f"{trace}\nimport setuptools\nsetuptools.setup(name='Tell-Tale', version='1.0')\n"
    data = tarred(
        {
            "Tell-Tale-1.0/setup.py": setup.encode(),
            "Tell-Tale-1.0/PKG-INFO": b"Metadata-Version: 1.0\nName: Tell-Tale\nVersion: 1.0\n",
            "Tell-Tale-1.0/data.txt": CONTENT,
        }
    )
    (folder / "Tell-Tale-1.0.tar.gz").write_bytes(data)
    return digest(data)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_source_distribution_is_read_and_not_run(index: Path, tmp_path: Path) -> None:
    marker = tmp_path / "setup.py was run"
    package = Package("Tell-Tale", "1.0", "Tell-Tale-1.0.tar.gz", source_distribution(index, marker))
    assert Member(package, "Tell-Tale-1.0/data.txt").read(tmp_path / "downloads") == CONTENT
    assert not marker.exists()
    (index / "Tell-Tale-1.0.tar.gz").unlink()
    assert Member(package, "data.txt").read(tmp_path / "downloads") == CONTENT  # kept


def test_wheel(index: Path, tmp_path: Path) -> None:
    record = base64.urlsafe_b64encode(sha256(CONTENT).digest()).rstrip(b"=").decode()
    data = zipped(
        {
            "words/data.txt": CONTENT,
            "words-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: words\nVersion: 1.0\n",
            "words-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "words-1.0.dist-info/RECORD": f"words/data.txt,sha256={record},{len(CONTENT)}\n".encode(),
        }
    )
    (index / "words-1.0-py3-none-any.whl").write_bytes(data)
    package = Package("words", "1.0", "words-1.0-py3-none-any.whl", digest(data))
    assert Member(package, "words/data.txt").read(tmp_path / "downloads") == CONTENT


def test_package_with_another_hash_is_refused_before_it_is_opened(index: Path, tmp_path: Path) -> None:
    marker = tmp_path / "setup.py was run"
    source_distribution(index, marker)
    package = Package("Tell-Tale", "1.0", "Tell-Tale-1.0.tar.gz", digest(b"x"))
    with pytest.raises(DataError, match=f"another SHA-256 than {digest(b'x')}"):
        package.read(tmp_path / "downloads")
    assert not marker.exists()
    assert list((tmp_path / "downloads").iterdir()) == []


def test_no_index(index: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _ARCHIVE.read(tmp_path / "downloads")
    message = str(caught.value)
    for part in (
        "vaderSentiment-3.3.2.tar.gz",
        "pip said: ERROR",
        "pypi.org",
        "GPUPROP_DATA",
        "SHA-256 5d7c06",
    ):
        assert part in message


def test_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(pip_package.sys, "executable", str(python))
    with pytest.raises(DataError, match="ensurepip"):
        _ARCHIVE.read(tmp_path)


def test_vader_from_the_index(tmp_path: Path) -> None:
    """The real package by the real pip."""
    try:
        archive = _ARCHIVE.read(tmp_path)
    except DataError as error:
        if "pip said" in str(error):
            pytest.skip(f"pip cannot reach an index: {str(error).splitlines()[0][:200]}")
        raise
    assert digest(archive) == "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
