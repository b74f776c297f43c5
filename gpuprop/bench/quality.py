"""Trains the models of the README's quality table, through the command line as a user would.

    python -m gpuprop.bench.quality --out runs/quality [--only trec6,mr] [--seeds 1,2,3]

For each recipe `gpuprop data get`, then for each seed `gpuprop train` and `gpuprop evaluate`. The development
rows choose the epoch; nothing is chosen on the test rows. Results go to results.json, finished runs are not
trained again, and the table is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpuprop

G2P_WORDS, G2P_TEST_WORDS = 20_000, 2_000


@dataclass(frozen=True)
class Recipe:
    """One row: a data set, how it is trained, and what it is measured against."""

    name: str
    dataset: str
    model: str
    options: str  # of `gpuprop train`, as one types them
    must: float
    goal: float
    reference: str
    data_options: tuple[str, ...] = ()
    task: str = "classify"
    lower_is_better: bool = False


RECIPES: tuple[Recipe, ...] = ()


def cli(*arguments: object, text: str | None = None) -> str:
    """Run one `gpuprop` command; its standard output. Its messages go to our standard error."""
    command = [sys.executable, "-m", "gpuprop", *(str(a) for a in arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, input=text, text=True)
    return done.stdout


def by_hash(words: Iterable[str], number: int) -> set[str]:
    """`number` of the words, those with the smallest MD5: the same on every machine."""
    ordered = sorted(set(words), key=lambda word: hashlib.md5(word.encode()).digest())
    return set(ordered[:number])


def keep_words(path: Path, number: int) -> None:
    """Cut a file of word<TAB>phonemes to all pronunciations of `number` of its words."""
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = by_hash((line.split("\t")[0] for line in lines), number)
    path.write_text("".join(f"{line}\n" for line in lines if line.split("\t")[0] in kept), encoding="utf-8")


def get_data(recipe: Recipe, folder: Path) -> None:
    """The data set's files, cut to size for pronunciation."""
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".part")
    cli("data", "get", recipe.dataset, "--out", partial, *recipe.data_options)
    if recipe.task == "seq2seq":
        keep_words(partial / "train.tsv", G2P_WORDS)
        keep_words(partial / "test.tsv", G2P_TEST_WORDS)
    partial.rename(folder)


def word_error_rate(run: Path, test: Path) -> float:
    """Percent of words whose decoded pronunciation is none of the reference ones."""
    references: dict[str, set[str]] = {}
    for line in test.read_text(encoding="utf-8").splitlines():
        word, phonemes = line.split("\t")
        references.setdefault(word, set()).add(phonemes)
    words = list(references)
    decoded = cli("predict", run, "--beam", "5", text="".join(f"{w}\n" for w in words)).splitlines()
    wrong = sum(guess not in references[word] for word, guess in zip(words, decoded, strict=True))
    return 100.0 * wrong / len(words)


def train(recipe: Recipe, seed: int, out: Path) -> dict[str, Any]:
    """Train and score one seed: {"seed", "score" in percent, "seconds" of training}."""
    data, run = out / "data" / recipe.name, out / "runs" / f"{recipe.name}-{seed}"
    get_data(recipe, data)
    files = ["--train", data / "train.tsv", "--valid", data / "dev.tsv", "--out", run, "--overwrite"]
    start = time.perf_counter()
    cli("train", recipe.task, *files, *shlex.split(recipe.options), "--seed", seed, "--device", "cpu")
    seconds = time.perf_counter() - start
    if recipe.task == "seq2seq":
        score = word_error_rate(run, data / "test.tsv")
    else:
        score = 100.0 * json.loads(cli("evaluate", run, data / "test.tsv", "--json"))["accuracy"]
    return {"seed": seed, "score": round(score, 2), "seconds": round(seconds, 1)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gpuprop": gpuprop.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table; a recipe without a result says so."""
    head = "| task | model | score (mean of seeds) | must | goal | published or reference | seconds a run |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    for r in RECIPES:
        runs = results["runs"].get(r.name, [])
        scores = [run["score"] for run in runs]
        seconds = f"{statistics.mean(run['seconds'] for run in runs):.0f}" if runs else ""
        unit = "% word error" if r.lower_is_better else "%"
        spread = f" ({', '.join(f'{s:.1f}' for s in scores)})" if len(scores) > 1 else ""
        score = f"**{statistics.mean(scores):.1f} {unit}**{spread}" if scores else "not measured"
        sign = "≤ " if r.lower_is_better else ""
        targets = f"{sign}{r.must:g} | {sign}{r.goal:g}"
        lines.append(f"| {r.name} | {r.model} | {score} | {targets} | {r.reference} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--only", help="recipes to run, separated by commas")
    parser.add_argument(
        "--seeds", default="1,2,3", help="seeds of the classifiers (pronunciation: the first)"
    )
    options = parser.parse_args()
    path = options.out / "results.json"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "data").mkdir(exist_ok=True)
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": {}}
    results["machine"] = machine()
    wanted = options.only.split(",") if options.only else [r.name for r in RECIPES]
    seeds = [int(s) for s in options.seeds.split(",")]
    for recipe in (r for r in RECIPES if r.name in wanted):
        runs = results["runs"].setdefault(recipe.name, [])
        for seed in seeds[:1] if recipe.task == "seq2seq" else seeds:
            if any(run["seed"] == seed for run in runs):
                continue
            runs.append(train(recipe, seed, options.out))
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(f"{recipe.name} seed {seed}: {runs[-1]}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
