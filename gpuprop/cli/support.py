"""What the commands share: options as a dataclass, messages, exit codes."""

from __future__ import annotations

import functools
import inspect
import math
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import typer
from rich.console import Console

from ..backend.device import set_device
from ..errors import DataError
from ..parallel.current import current
from ..parallel.environment import place_of
from ..parallel.failure import is_to_tell

Options = TypeVar("Options")
EXIT_CODES = """Exit codes:

  0    done
  1    failure: a full disk, a diverged training, a line that was not readable
  2    wrong usage, data, device or run folder
  130  stopped by Ctrl-C (143: by SIGTERM)"""
UNWRAPPED = 1000  # columns
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


def command(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Make a function of one dataclass into a command whose options are the dataclass's fields."""

    def decorate(body: Callable[[Options], None]) -> Callable[..., None]:
        @functools.wraps(body)
        def run(**given: Any) -> None:
            try:
                body(options(**given))
            except KeyboardInterrupt as stop:
                code = getattr(stop, "exit_code", 130)
                if getattr(stop, "common", False) or is_to_tell(stop, code):
                    say("stopped")
                raise typer.Exit(code) from None
            except BrokenPipeError:
                silence_stdout()
                raise typer.Exit(BROKEN_PIPE) from None

        hints = get_type_hints(options, include_extras=True)
        kind = inspect.Parameter.KEYWORD_ONLY
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    f.name,
                    kind,
                    default=inspect.Parameter.empty if f.default is MISSING else f.default,
                    annotation=hints[f.name],
                )
                for f in fields(options)  # type: ignore[arg-type]
            ]
        )
        run.__annotations__ = {f.name: hints[f.name] for f in fields(options)}  # type: ignore[arg-type]
        del run.__wrapped__  # typer would read the signature of the body behind it
        return run

    return decorate


def say(text: str) -> None:
    """A message for the user, on standard error: standard output is for results. Of several ranks the first
    one speaks."""
    if max(current().rank, place_of().rank) == 0:
        print(text, file=sys.stderr, flush=True)


def table_console() -> Console:
    """Standard output for tables: as wide as the terminal; in a file or a pipe no row is wrapped."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else UNWRAPPED)


def silence_stdout() -> None:
    """Nobody reads standard output any more: let what is left go nowhere, also when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def use_device(name: str | None) -> None:
    """Make the device of --device current; without the option GPUPROP_DEVICE, else "auto"."""
    set_device(name or os.environ.get("GPUPROP_DEVICE", "").strip() or "auto")


def check_number(
    option: str, value: float | None, least: float, below: float = math.inf, strict: bool = False
) -> None:
    """Raise DataError unless least <= value < below (strict: least < value); None passes, NaN does not."""
    if value is None:
        return
    if not (math.isfinite(value) and least <= value < below) or (strict and value == least):
        lower = f"above {least:g}" if strict else f"of at least {least:g}"
        upper = "" if below == math.inf else f" and below {below:g}"
        raise DataError(f"{option} must be a finite number {lower}{upper}, not {value}")


WIDEST_BEAM = 1000  # more cost minutes a text and find nothing


def check_beam(beam: int) -> None:
    """Raise DataError for a beam so wide that it would seem to hang."""
    if beam > WIDEST_BEAM:
        raise DataError(f"--beam must be at most {WIDEST_BEAM}, not {beam}: 5 is usual, 10 is wide")


def whole_numbers(option: str, text: str) -> list[int]:
    """The list behind "3,4,5"; "" and "none" are the empty list."""
    parts = [] if text.strip() in ("", "none") else text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() and int(part) > 0 for part in parts):
        raise DataError(f"{option} must be whole numbers above 0, separated by commas, or none, not {text!r}")
    return [int(part) for part in parts]


def plain(options: Any) -> dict[str, Any]:
    """The options as JSON values, for a run's configuration."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(options).items()}
