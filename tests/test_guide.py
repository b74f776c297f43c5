"""README and guide: their programs run, their commands are parsed, their options and links are there."""

import doctest
import re
import shlex
from pathlib import Path

import pytest
import typer

import gpuprop as gp
from gpuprop.backend import device as devices
from gpuprop.backend import gemm
from gpuprop.backend.emulator import toolchain
from gpuprop.cli.commands import app

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "kernels" / "README.md")
    if path.exists()
]
pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the source archive holds no guide")

# What the programs of a page take as given.
MODEL = """
import numpy as np
import gpuprop as gp
from gpuprop import nn
from gpuprop.text import text_batches
rows, labels = [[4, 5, 6], [5, 4], [6]] * 4, np.array([0, 1, 1] * 4)
words, classes = 10, 2
batches = text_batches(rows, labels, batch_size=4, seed=1)
model, criterion = gp.models.FeedForwardClassifier(words, classes, 8), nn.CrossEntropyLoss()
optimizer = gp.optim.AdamW(model.parameters())
loss = lambda batch: criterion(model(batch.ids, batch.mask), batch.labels)
"""
GIVEN = {
    "devices.md": MODEL + "array, torch = np.ones(3, np.float32), np  # both have from_dlpack",
    "parallel.md": MODEL
    + "sources = targets = [[4, 5], [6]] * 40\n"
    + "loss = lambda batch: criterion(model(batch.source, batch.source_mask), np.ones(batch.size, int))",
    "report.md": MODEL
    + "from gpuprop import ops, optim\n"
    + "x, y, model = np.ones((4, 3), np.float32), np.zeros(4, int), nn.Linear(3, 2)",
    "resume.md": MODEL,
    "training.md": MODEL,
    "your_model.md": "from gpuprop.text import text_batches\n"
    + "batches = text_batches([[4, 5]] * 4, [0, 1] * 2, 2)",
    "your_op.md": "import numpy as np\nblocks, x, y = 1, np.ones(2, np.float32), np.ones(2, np.float32)",
}
FILES = {
    "encoder_decoders.md": "ein Hund\ta dog\neine Katze\ta cat\n",
    "your_data.md": "good\ta film\nbad\ta film\n",
}
NEEDS = {"encoder_decoders.md": ("tokenizers",), "report.md": ("ml_dtypes",)}
ELSEWHERE = {"interop.md"}  # run by test_interop.py


def blocks(page, *languages):
    """The fenced blocks of a page in one of these languages, "" for those without."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [body for language, body in fences if language in languages]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "python") and p.name not in ELSEWHERE], ids=lambda p: p.name
)
def test_programs_run(page, tmp_path, monkeypatch):
    for module, name in ((devices, "_default"), (devices, "_said_cpu"), (gemm, "_float32")):
        monkeypatch.setattr(module, name, getattr(module, name))  # what a program sets ends with it
    for module in NEEDS.get(page.name, ()):
        pytest.importorskip(module)
    if page.name == "emulator.md" and (missing := toolchain.available()):
        pytest.skip(missing)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.tsv").write_text(FILES.get(page.name, "") * 5)
    names = {"__name__": page.stem}
    with gp.use_device("cpu"):
        for number, block in enumerate(blocks(page, "python")):
            exec(GIVEN.get(page.name, ""), names)
            if block.startswith(">>>"):
                example = doctest.DocTestParser().get_doctest(block, names, page.name, None, 0)
                assert doctest.DocTestRunner().run(example).failed == 0
            else:
                code = compile(block.replace('"cuda:1"', '"cpu"'), f"{page.name}, program {number}", "exec")
                exec(code, names)


def commands(page):
    """The words after each `gpuprop` of a page's blocks, fenced or indented."""
    indented = re.findall(r"^ {4,}((?:mpirun .*)?gpuprop .*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    for line in [*"".join(blocks(page, "", "bash")).replace("\\\n", " ").splitlines(), *indented]:
        found = re.match(r"(?:mpirun .*|.*\| *)?gpuprop ([^|<#>]*)", line)
        if found and "..." not in found[1]:
            yield shlex.split(found[1])


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(commands(p))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_commands_are_understood(page):
    for words in commands(page):
        command, name, rest = typer.main.get_command(app), "gpuprop", [*words]
        while hasattr(command, "commands"):
            name = rest.pop(0)
            command = command.commands[name]
        if words[0] == "train":  # a list of several trainings leaves out what they share
            for flag in {"--train", "--out"} - {*words}:
                rest += [flag, "file"]
        command.make_context(name, rest)  # raises for what it does not know


def test_options_exist():
    def flags(command):
        own = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
        return own.union(*map(flags, getattr(command, "commands", {}).values()))

    known = flags(typer.main.get_command(app)) | {"--help"}
    for page in PAGES:
        for span in re.findall(r"`([^`\n]*)`", page.read_text(encoding="utf-8")):
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", span):
                assert flag in known, f"{page.name}: `{span}`"


def test_links_lead_somewhere():
    for page in PAGES:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([\w./:-]+)(?:#[\w-]*)?\)", prose):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"
