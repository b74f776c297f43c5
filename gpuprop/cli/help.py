"""Help pages that read like a manual: headings, whole sentences, options grouped by what they are about."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..training.presets import expanded

WIDEST = 100
COLUMN = 26  # where the explanation of an option starts
# Of `gpuprop --help`, in the order in which one comes to need them.
COMMANDS = (
    "demo",
    "train",
    "resume",
    "evaluate",
    "predict",
    "report",
    "average",
    "data",
    "devices",
    "doctor",
)
PANELS = ("Arguments", "Data", "Model", "Text", "Training", "Run", "Encoder-decoders", "Options")


class ManualCommand(TyperCommand):
    """A command whose --help is a manual page, and whose --preset, where it has one, stands for options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        presets = any(param.name == "preset" for param in self.params)
        return list(super().parse_args(ctx, expanded(args) if presets else args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write("\n".join(page(self, ctx)) + "\n")


class ManualGroup(TyperGroup):
    """The same for a command that has commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write("\n".join(page(self, ctx)) + "\n")


def use_manual_pages(app: typer.Typer) -> None:
    """Give every command and group of an application, at any depth, this form of help."""
    app.info.cls = ManualGroup
    for command in app.registered_commands:
        command.cls = ManualCommand
    for group in app.registered_groups:
        group.cls = ManualGroup
        if group.typer_instance is not None:
            use_manual_pages(group.typer_instance)


def page(command: Any, ctx: Any) -> Iterator[str]:
    """The lines of a help page."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    yield from textwrap.wrap(f"Usage: {usage}", width, subsequent_indent=" " * 7)
    yield ""
    yield from paragraphs(inspect.cleandoc(command.help or ""), width)
    if isinstance(command, TyperGroup):
        yield from ("", "Commands:")
        order = {name: i for i, name in enumerate(COMMANDS)}
        for name in sorted(command.list_commands(ctx), key=lambda name: order.get(name, len(order))):
            yield from entry(name, _summary(command.get_command(ctx, name)), width)
    for title, params in panels(command.get_params(ctx)).items():
        yield from ("", f"{title}:")
        for param in params:
            yield from entry(_flags(param), _explanation(param), width)
    if command.epilog:
        yield ""
        yield from paragraphs(command.epilog.strip("\n"), width)


def paragraphs(text: str, width: int) -> Iterator[str]:
    """Paragraphs filled to the width; lines that start with a space stay as they are."""
    for i, paragraph in enumerate(text.split("\n\n")):
        if i:
            yield ""
        if any(line.startswith(" ") for line in paragraph.splitlines()):
            yield from paragraph.splitlines()
        else:
            yield from textwrap.wrap(" ".join(paragraph.split()), width)


def entry(name: str, text: str, width: int) -> Iterator[str]:
    """A name in the left column and its explanation in the right one."""
    lines = textwrap.wrap(text, width - COLUMN, break_on_hyphens=False) or [""]
    if len(name) + 4 > COLUMN:
        yield f"  {name}"
    else:
        yield f"  {name}".ljust(COLUMN) + lines.pop(0)
    for line in lines:
        yield " " * COLUMN + line


def panels(params: list[Any]) -> dict[str, list[Any]]:
    """Arguments and options by the heading they stand under."""
    found: dict[str, list[Any]] = {}
    for param in params:
        if getattr(param, "hidden", False):
            continue
        default = "Options" if param.param_type_name == "option" else "Arguments"
        found.setdefault(getattr(param, "rich_help_panel", None) or default, []).append(param)
    order = {name: i for i, name in enumerate(PANELS)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], 0)))


def _flags(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    flags = ", ".join(sorted(param.opts, key=lambda flag: flag.startswith("--")) + param.secondary_opts)
    return flags if _is_flag(param) else f"{flags} {param.metavar or _kind(param)}"


def _explanation(param: Any) -> str:
    text = param.help or ("Show this page." if "--help" in param.opts else "")
    choices = _choices(param)
    notes = [f"one of {', '.join(choices)}"] if choices else []
    if param.required and param.param_type_name == "option":
        notes.append("required")
    elif (
        isinstance(param.default, (str, int, float))
        and not isinstance(param.default, bool)
        and param.default != ""
    ):
        notes.append(
            f"default {param.default:g}" if isinstance(param.default, float) else f"default {param.default}"
        )
    return f"{text} ({'; '.join(notes)})" if notes else text


def _choices(param: Any) -> list[str]:
    """The allowed values; typer keeps them in its own descriptor, older versions in click's type."""
    descriptor = getattr(param, "type_descriptor", None)
    choices = getattr(descriptor, "choices", None) or getattr(getattr(param, "type", None), "choices", None)
    return [str(getattr(choice, "value", choice)) for choice in choices or ()]


def _is_flag(param: Any) -> bool:
    return bool(getattr(param, "is_flag", False)) or "--help" in param.opts


def _kind(param: Any) -> str:
    return "NAME" if _choices(param) else str(param.name).upper()


def _summary(command: Any) -> str:
    """The first sentence of a command's help."""
    first = inspect.cleandoc(command.help or "").split("\n\n")[0]
    return " ".join(first.split())
