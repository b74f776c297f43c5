"""A training's options from the configuration that a run folder keeps, and what has changed since."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import CheckpointError, DataError
from ..text.vocabulary import Vocabulary
from ..training.files import sha256, write_error
from ..training.run import RunFolder
from ..training.session import Settings
from .options_classify import ClassifyOptions
from .options_seq2seq import Seq2SeqOptions

KINDS: dict[str, type[ClassifyOptions] | type[Seq2SeqOptions]] = {
    "classify": ClassifyOptions,
    "seq2seq": Seq2SeqOptions,
}
_SETTINGS = {f.name for f in fields(Settings)}


def rebuilt_options(config: Mapping[str, Any], place: str) -> ClassifyOptions | Seq2SeqOptions:
    """The options that a training was started with. CheckpointError, naming `place`, where the configuration
    has none, unknown ones, or values that no option takes."""
    kind: Any = KINDS.get(str(config.get("task")))
    given = config.get("options")
    if kind is None or not isinstance(given, dict):
        raise CheckpointError(f"{place}: does not say how training was started; it cannot go on: train again")
    hints, values = get_type_hints(kind, include_extras=True), {}
    required = {f.name for f in fields(kind) if f.default is MISSING}
    wrong = [*(set(given) - set(hints)), *(required - set(given))]
    if wrong:
        raise CheckpointError(
            f"{place}: its options {', '.join(sorted(wrong))} are unknown or missing in this gpuprop; "
            "use the one that trained it"
        )
    for name, value in given.items():
        if not _fits(value, hints[name]):
            raise CheckpointError(
                f"{place}: its option {name} is {value!r}; the file was changed: train again"
            )
        kinds = get_args(hints[name])[0]
        values[name] = Path(value) if isinstance(value, str) and Path in (kinds, *get_args(kinds)) else value
    options: ClassifyOptions | Seq2SeqOptions = kind(**values)
    try:
        options.check()
    except DataError as error:
        raise CheckpointError(f"{place}: {error}; the file was changed: train again") from error
    return options


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is one of the type that an option has."""
    if get_origin(hint) is Annotated:
        kind, option = get_args(hint)
        least = getattr(option, "min", None)
        return _fits(value, kind) and not (least is not None and value is not None and value < least)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return type(value) is str and value in get_args(hint)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is (str if hint is Path else hint)


def check_data(options: ClassifyOptions | Seq2SeqOptions, config: Mapping[str, Any], place: str) -> None:
    """Raise CheckpointError unless the files are, byte for byte, those that training was started with."""
    described = config.get("data")
    changed = []
    for role in ("train", "valid", "test", "embeddings"):
        path = getattr(options, role)
        before = described.get(role) if isinstance(described, Mapping) else None
        before = before.get("sha256") if isinstance(before, Mapping) else None
        if path is None:
            continue
        try:
            now = sha256(path)
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be read: {error.strerror or error}; it is the --{role} of {place}. Go on "
                f"in the folder where training was started, or give its new place with --{role}"
            ) from error
        if now != before:
            changed.append(f"{path} (--{role}) has SHA-256 {now[:12]}..., it was {str(before)[:12]}...")
    if changed:
        raise CheckpointError(
            f"{place}: cannot go on with other data: {'; '.join(changed)}. Bring the file back or train again"
        )


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], place: str, epochs: bool = False) -> None:
    """Raise CheckpointError, naming what differs, unless two configurations are of one training: model,
    vocabularies, data and settings. epochs: their number may differ."""
    before, after = (dict(identity(config)) for config in (saved, now))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if epochs:
        names = [name for name in names if name != "training.epochs"]
    if names:
        told = [f"{n} was {before.get(n, 'nothing')}, is {after.get(n, 'nothing')}" for n in names[:5]]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise CheckpointError(f"{place}: is of another training: {'; '.join(told)}{more}. Train again")


def check_vocabularies(folder: RunFolder) -> None:
    """Raise CheckpointError, naming the file, where a vocabulary in the run folder is not the one that the
    data give; write those that are missing from a folder that is there."""
    missing = []
    for name, vocabulary in folder.vocabularies.items():
        file = folder.path / name
        if not file.exists():
            missing.append((file, vocabulary))
            continue
        found = Vocabulary.load(file).digest()
        if found != vocabulary.digest():
            raise CheckpointError(
                f"{file}: is not the vocabulary of this run: its SHA-256 is {found[:12]}..., that of the "
                f"data {vocabulary.digest()[:12]}...; copy it again, or delete it: it is then written anew"
            )
    for file, vocabulary in missing if folder.path.is_dir() else ():
        try:
            vocabulary.save(file)
        except OSError as error:
            raise write_error(file, error) from error


def identity(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted name, value as JSON) of what the bits of a training depend on."""
    for part in ("task", "labels", "max_output", "model", "fields", "data", "training"):
        for name, value in _flat(part, config.get(part)):
            inside = name.removeprefix("training.")
            if name.endswith(".path") or (part == "training" and inside.split(".")[0] not in _SETTINGS):
                continue
            yield name, value


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flat(f"{name}.{key}", entry)
    else:
        yield name, json.dumps(value, default=repr)
