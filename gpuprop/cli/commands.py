"""All commands, and what `main` makes of their errors."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any

import typer

from ..errors import GpupropError
from ..interrupt import raise_again
from ..parallel.current import current
from ..parallel.failure import is_to_tell
from ..training.files import write_error
from ..version import __version__
from . import data, parallel, train
from .average import AVERAGE_EXAMPLES, AVERAGE_HELP, average
from .bench import BENCH_HELP, bench
from .demo import DEMO_HELP, demo
from .devices import devices, doctor
from .evaluate import EVALUATE_EXAMPLES, EVALUATE_HELP, evaluate
from .help import use_manual_pages
from .kernels import app as kernels_app
from .mistakes import remedy
from .predict import PREDICT_EXAMPLES, PREDICT_HELP, predict
from .report import REPORT_EXAMPLES, REPORT_HELP, report
from .resume import RESUME_EXAMPLES, RESUME_HELP, resume
from .support import BROKEN_PIPE, EXIT_CODES, say, silence_stdout

HELP = f"""Train text models by backpropagation, on a CPU (NumPy) or a GPU (CuPy and own CUDA kernels).

Your data are UTF-8 text files: label<TAB>text to classify, source<TAB>target to translate, summarize or spell
out. A training makes a run folder, from which `predict` and `evaluate` work.

Results go to standard output, everything else to standard error. The environment: GPUPROP_DEVICE is the
default of --device, GPUPROP_DATA a folder with copies of the data sets, GPUPROP_DEBUG=1 shows tracebacks.

{EXIT_CODES}
"""
EXAMPLES = r"""Examples:

  gpuprop demo
  gpuprop data get vader_movie --out data
  gpuprop train classify --train data/train.tsv --valid data/dev.tsv \
      --test data/test.tsv --out runs/mine
  echo "what a lovely film" | gpuprop predict runs/mine
"""

app = typer.Typer(no_args_is_help=True, add_completion=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gpuprop {__version__}")
        raise typer.Exit


@app.callback(help=HELP, epilog=EXAMPLES)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of all commands."""


app.command("demo", help=DEMO_HELP)(demo)
app.add_typer(train.app, name="train")
app.command("resume", help=RESUME_HELP, epilog=RESUME_EXAMPLES)(resume)
app.command("evaluate", help=EVALUATE_HELP, epilog=EVALUATE_EXAMPLES)(evaluate)
app.command("predict", help=PREDICT_HELP, epilog=PREDICT_EXAMPLES)(predict)
app.command("report", help=REPORT_HELP, epilog=REPORT_EXAMPLES)(report)
app.command("average", help=AVERAGE_HELP, epilog=AVERAGE_EXAMPLES)(average)
app.add_typer(data.app, name="data")
app.command("devices")(devices)
app.command("doctor")(doctor)
app.add_typer(parallel.app, name="parallel")
app.add_typer(kernels_app, name="kernels")
app.command("bench", help=BENCH_HELP)(bench)
use_manual_pages(app)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code. Errors of ours are one message without a traceback."""
    raise_again()
    if os.environ.get("GPUPROP_DEBUG"):
        return _run(arguments)
    try:
        code = _run(arguments)
        current().barrier("the end")
        return code
    except GpupropError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        silence_stdout()
        return BROKEN_PIPE
    except OSError as error:
        return _fail(str(write_error(error.filename or "standard output", error)), 1)
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        return _fail(
            f"not enough memory{reason}: try a smaller --batch-size (with --accumulate a step is as large), "
            "--max-length or --max-vocabulary",
            1,
        )
    except RecursionError:
        return _fail("the input is nested too deeply", 2)


def _run(arguments: list[str] | None) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # a label must not fail in a terminal that cannot spell it
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result: Any = app(args=arguments, prog_name="gpuprop", standalone_mode=False)
    except typer.Abort:
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        return _usage_error(error)
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _usage_error(error: Any) -> int:
    """A wrong or missing option, or a group without a command, which shows its help page."""
    message, instead = str(error.format_message()), remedy(error)
    if instead:
        message = f"{getattr(error, 'message', message)}; {instead}"
    if message.startswith("Usage:"):
        say(message)
    else:
        place = getattr(getattr(error, "ctx", None), "command_path", "gpuprop")
        _fail(f"{message.replace('Value error, ', '')}\nSee: {place} --help", 2)
    return 2


def _fail(message: str, code: int) -> int:
    if is_to_tell(sys.exception() or RuntimeError(message), code):
        say(f"gpuprop: {message}")
    return code
