"""What to do about a command line that click refuses: the name an option has here, where a file belongs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Names that other programs give to options, by the name they have here.
OTHER_NAMES = {
    "--attention-heads": "--heads",
    "--beam-size": "--beam",
    "--beam-width": "--beam",
    "--clip": "--clip-norm",
    "--dev": "--valid",
    "--embed-dim": "--embedding-dim",
    "--emb-dim": "--embedding-dim",
    "--eval": "--valid",
    "--grad-clip": "--clip-norm",
    "--gradient-accumulation": "--accumulate",
    "--hidden-dim": "--hidden",
    "--hidden-size": "--hidden",
    "--learning-rate": "--lr",
    "--max-epochs": "--epochs",
    "--max-len": "--max-length",
    "--metrics": "--metric",
    "--nbest": "--n-best",
    "--num-beams": "--beam",
    "--num-epochs": "--epochs",
    "--num-heads": "--heads",
    "--num-layers": "--layers",
    "--output": "--out",
    "--output-dir": "--out",
    "--outdir": "--out",
    "--patience": "--early-stop",
    "--scheduler": "--schedule",
    "--val": "--valid",
    "--validation": "--valid",
    "--warmup": "--warmup-steps",
    "-o": "--out",
}


def remedy(error: Any) -> str:
    """What to write instead of what `error` is about; "" where click's own words have to do."""
    context, given = getattr(error, "ctx", None), getattr(error, "option_name", None)
    if context is None:
        return ""
    if given is not None:
        return _of_option(context, given)
    if context.info_name == "predict" and "unexpected extra argument" in str(error.format_message()):
        return f"texts come from standard input: {context.command_path} RUN < lines.txt"
    return ""


def _of_option(context: Any, given: str) -> str:
    name = OTHER_NAMES.get(given.replace("_", "-"), given.replace("_", "-"))
    if name != given and name in _flags(context.command):
        return f"it is {name}"
    commands = " or ".join(
        f"{path} {given} ..." for path in with_flag(context.command, context.command_path, given)
    )
    return f"it belongs to a command: {commands}" if commands else ""


def with_flag(group: Any, path: str, flag: str) -> Iterator[str]:
    """The commands of a group, at any depth, that have this option."""
    for name, command in getattr(group, "commands", {}).items():
        if flag in _flags(command):
            yield f"{path} {name}"
        yield from with_flag(command, f"{path} {name}", flag)


def _flags(command: Any) -> set[str]:
    return {flag for param in command.params for flag in param.opts}
