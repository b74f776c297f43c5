"""Reading a file of weights or a checkpoint never takes more memory than twice the file and an allowance."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from resident import NOISE, needs_peak, peak

import gpuprop as gp
from gpuprop.training import checkpoint
from gpuprop.training.safetensors_file import ALLOWANCE, cost_of
from gpuprop.training.state_file import FORMAT, digest, read_state, write_state


def raw(path: Path, header: str | dict, content: bytes = b"") -> Path:
    """A file in the format with any header."""
    text = header if isinstance(header, str) else json.dumps(header)
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + content)
    return path


def forged(path: Path, text: str, arrays: dict) -> Path:
    """A checkpoint whose checksum is right and whose content somebody else chose."""
    checkpoint.save(arrays, path, {"format": FORMAT, "state": text, "sha256": digest(text, arrays)})
    return path


EMPTY = '"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
HEADERS = {
    "empty tensors": ("{", EMPTY, "}"),
    "lists": ('{"a":[', "[]", "]}"),
    "lists of one": ('{"a":[', "[1]", "]}"),
    "dictionaries": ('{"a":[', '{"":0}', "]}"),
    "numbers": ('{"a":[', "257", "]}"),
    "fractions": ('{"a":[', "1e9", "]}"),
    "texts": ('{"a":[', '"ab"', "]}"),
    "texts of wide letters": ('{"a":[', '"\\ud83d\\ude00"', "]}"),
    "metadata": ('{"__metadata__":{', '"%x":"ab"', "}}"),
}


def header(kind: str, count: int) -> str:
    start, item, end = HEADERS[kind]
    items = (item % i for i in range(count)) if "%x" in item else [item] * count
    return start + ",".join(items) + end


def largest_accepted(kind: str) -> int:
    """How many items the largest header has that is still parsed."""
    some = header(kind, 60_000).encode()
    return int(0.99 * 60_000 * ALLOWANCE / (cost_of(some) - len(some)))


@needs_peak
@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_header_is_refused_or_stays_in_bounds(tmp_path, kind):
    count = largest_accepted(kind)
    files = [raw(tmp_path / f"{n}", header(kind, n)) for n in (count, int(1.1 * count))]
    for path in files:
        with peak() as grown:
            try:
                loaded = gp.load(path)
            except gp.CheckpointError as error:
                assert str(path) in str(error)
            else:
                del loaded
        assert grown[0] < 2 * path.stat().st_size + ALLOWANCE


@needs_peak
def test_ordinary_weights_are_held_once(tmp_path):
    path = tmp_path / "w.safetensors"
    gp.save({f"w{i}": np.ones((1024, 1024), np.float32) for i in range(12)}, path)
    with peak() as grown:
        arrays = gp.load(path)
    assert len(arrays) == 12
    assert grown[0] < 1.1 * path.stat().st_size + NOISE


@needs_peak
def test_a_checkpoint_is_held_once(tmp_path):
    path = tmp_path / "c.safetensors"
    write_state(path, {"model": {f"w{i}": np.ones((1024, 1024), np.float32) for i in range(12)}})
    with peak() as grown:
        state = read_state(path)
    assert len(state["model"]) == 12
    assert grown[0] < 1.1 * path.stat().st_size + NOISE


@pytest.mark.parametrize("kind", ["spelled", "deep places", "many places"])
def test_a_hostile_state_is_refused(tmp_path, kind):
    """JSON in the header's JSON whose brackets are not spelled as such, and arrays in many dictionaries."""
    nothing = np.zeros(0, np.float32)
    if kind == "spelled":
        text, arrays = "[" + "[]," * 900_000 + "[]]", {}
        texts = {"format": FORMAT, "state": text, "sha256": digest(text, arrays)}
        spelled = json.dumps({"__metadata__": texts}).replace("[", "\\u005b").replace("]", "\\u005d")
        path = raw(tmp_path / "f", spelled.replace(",\\u005b", "\\u002c\\u005b"))
    elif kind == "deep places":
        path = forged(tmp_path / "f", "{}", {"a/" * 400_000 + "a": nothing})
    else:
        path = forged(tmp_path / "f", "{}", {f"{i:x}": nothing for i in range(40_000)})
    tracemalloc.start()
    with pytest.raises(gp.CheckpointError, match="bytes of memory"):
        read_state(path)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 2 * path.stat().st_size + ALLOWANCE


def test_the_history_of_a_long_training_is_no_hostile_state(tmp_path):
    record = {"epoch": 10_000, "step": 100_000, "train_loss": 1 / 3, "valid_accuracy": 2 / 3, "lr": 0.001}
    record |= {"seconds": 12.345, "tokens_per_second": 12345.6, "device": "cpu", "best": False}
    write_state(tmp_path / "s", {"history": [record] * 10_000})
    assert len(read_state(tmp_path / "s")["history"]) == 10_000


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
            "of type 'F8_E4M3', which is none of F64",
        ),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, r"of shape \[2\] and type F32 has 4 bytes"),
        ({"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}, "no whole numbers"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "no whole numbers"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "no whole numbers"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}, "too many values"),
        ({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "do not lie one after another"),
        ({"dtype": "I16", "shape": [1], "data_offsets": [2, 4]}, "do not lie one after another"),
        ({"dtype": "F32", "shape": [1 << 70], "data_offsets": [0, 1 << 72]}, "do not lie one after another"),
        ({"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [0, 0]}, "do not lie one after another"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "x": 1}, "does not say where 'w' is"),
        ({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}, "unhashable"),
        ([1], "does not say where 'w' is"),
        (None, "does not say where 'w' is"),
    ],
)
def test_an_entry_that_is_wrong_is_refused(tmp_path, entry, message):
    path = raw(tmp_path / "w.safetensors", {"w": entry}, b"\0\0\0\0")
    with pytest.raises(gp.CheckpointError, match=rf"w\.safetensors: damaged.*{message}"):
        gp.load(path)


@pytest.mark.parametrize(
    "text",
    ["[]", "3", '{"__metadata__": 3}', '{"__metadata__": {"a": 1}}', '{"a":' + "[" * 100_000, "\ud800"],
)
def test_a_header_that_is_no_dictionary_is_refused(tmp_path, text):
    content = text.encode("utf-8", "surrogatepass")
    (tmp_path / "w").write_bytes(len(content).to_bytes(8, "little") + content)
    with pytest.raises(gp.CheckpointError, match="w: damaged"):
        gp.load(tmp_path / "w")


def test_arrays_that_overlap_are_refused(tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    with pytest.raises(gp.CheckpointError, match="do not lie one after another"):
        gp.load(raw(tmp_path / "w", {"a": entry, "b": entry}, b"\0\0\0\0"))


def test_arrays_can_be_changed_and_let_go_of_one_by_one(tmp_path):
    gp.save({"a": np.ones(3, np.float32), "b": np.ones(4)}, tmp_path / "w")
    arrays = gp.load(tmp_path / "w")
    arrays["a"][0] = 2
    assert not np.shares_memory(arrays["a"], arrays["b"])
