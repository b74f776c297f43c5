"""Trains the models of the README's quality table, through the command line as a user would.

    python -m gpuprop.bench.quality --out runs/quality [--only trec,mr] [--threads 1] [--readme README.md]

For each recipe of `gpuprop.training.recipes` and each of its seeds: `gpuprop train`, then `gpuprop evaluate`.
The development rows choose the epoch; nothing is chosen on the test rows. Results go to results.json; a seed
that is in it is not trained again. --readme writes the table into a file.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpuprop.bench import measure
from gpuprop.bench.readme_table import put
from gpuprop.text import datasets
from gpuprop.training.recipes import RECIPES, Recipe, first_words

HEAD = """| data | model | test score, mean (each seed) | must | goal | others | seconds a training |
| --- | --- | --- | --- | --- | --- | --- |"""


def cli(*arguments: object) -> str:
    """Run one `gpuprop` command; its standard output. Its messages go to our standard error."""
    command = [sys.executable, "-m", "gpuprop", *(str(a) for a in arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def options_of(recipe: Recipe) -> list[str]:
    """The recipe's options as one types them."""
    return [
        part for name, value in recipe.options.items() for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def write_data(recipe: Recipe, folder: Path) -> None:
    """train.tsv, dev.tsv and test.tsv; where a recipe takes fewer words, only those."""
    if not recipe.words:
        cli("data", "get", recipe.dataset, "--out", folder, "--overwrite")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for split, words in recipe.words.items():
        pairs = first_words(datasets.load(recipe.dataset, split), words)
        lines = (f"{s}\t{t}\n" for s, t in zip(pairs.sources, pairs.targets, strict=True))
        (folder / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")


def train(name: str, seed: int, out: Path) -> dict[str, Any]:
    """Train and score one seed: {"seed", "score" (a fraction), "seconds" of training, "report"}."""
    recipe = RECIPES[name]
    data, run = out / "data" / name, out / "runs" / f"{name}-{seed}"
    write_data(recipe, data)
    files = ["--train", data / "train.tsv", "--valid", data / "dev.tsv", "--out", run, "--overwrite"]
    start = time.perf_counter()
    cli("train", recipe.task, *files, *options_of(recipe), "--seed", seed, "--device", "cpu")
    seconds = time.perf_counter() - start
    how = ["--beam", recipe.beam, "--multi-reference"] if recipe.task == "seq2seq" else []
    report = json.loads(cli("evaluate", run, data / "test.tsv", "--json", "--device", "cpu", *how))
    score = 1.0 - report["exact_match"] if recipe.metric == "word_error" else report["accuracy"]
    return {"seed": seed, "score": score, "seconds": round(seconds, 1), "report": report}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    where = measure.machine()
    return {
        "cpu": where["processor"],
        "cores": where["cores"],
        "threads": os.environ.get("GPUPROP_THREADS") or str(os.cpu_count()),
        **measure.versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """One line of the table; a recipe without a result says so."""
    recipe = RECIPES[name]
    error = recipe.metric == "word_error"
    sign, unit = ("≤ ", " % word error") if error else ("", " %")
    score, seconds = "not measured", ""
    if runs:
        scores = [100 * run["score"] for run in runs]
        each = f" ({', '.join(f'{s:.1f}' for s in scores)})" if len(scores) > 1 else ""
        score = f"**{statistics.mean(scores):.1f}{unit}**{each}"
        seconds = f"{statistics.mean(run['seconds'] for run in runs):.0f}"
    targets = f"{sign}{100 * recipe.must:.1f} | {sign}{100 * recipe.goal:.1f}"
    return f"| {name} | {recipe.options['model']} | {score} | {targets} | {recipe.published} | {seconds} |"


def table(results: dict[str, Any]) -> str:
    """The results as Markdown, with the machine and the commands."""
    where = results["machine"]
    lines = [HEAD, *(row(name, results["runs"].get(name, [])) for name in RECIPES), ""]
    lines += [
        f"Measured on {where['date']} with `make quality`: {where['cores']} cores ({where['cpu']}), "
        f"GPUPROP_THREADS={where['threads']}, Python {where['python']}, NumPy {where['numpy']}, gpuprop "
        f"{where['gpuprop']}; seeds 1, 2, 3 (pronunciation: 1). The development rows choose the epoch. The "
        "commands, each with `--train`, `--valid`, `--out` and `--seed`:",
        "",
        "```",
    ]
    for name, recipe in RECIPES.items():
        lines.append(f"gpuprop train {recipe.task} {shlex.join(options_of(recipe))}   # {name}")
    return "\n".join([*lines, "```"])


def put_into(path: Path, marker: str, text: str) -> None:
    """Replace what stands between `<!-- marker: start -->` and `<!-- marker: end -->`."""
    page = path.read_text(encoding="utf-8")
    path.write_text(
        put(page, f"{text}\n", f"<!-- {marker}: start -->", f"<!-- {marker}: end -->"), encoding="utf-8"
    )


def command_line(description: str | None) -> argparse.ArgumentParser:
    """The options that both quality tables take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--only", help="recipes to run, separated by commas (default: all)")
    parser.add_argument("--threads", help="GPUPROP_THREADS of each training (default: all cores)")
    parser.add_argument("--readme", type=Path, help="file whose quality table to renew")
    return parser


def measured(
    options: argparse.Namespace,
    file: str,
    recipes: Mapping[str, Any],
    measure_one: Callable[[str, int], dict[str, Any]],
) -> dict[str, Any]:
    """All results in `file` of --out, those that it lacks measured now: measure_one(recipe's name, seed)
    gives a dictionary with the seed. The file is written after each."""
    if options.threads:
        os.environ["GPUPROP_THREADS"] = options.threads
    path = options.out / file
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": {}}
    results["machine"] = machine()
    wanted = list(recipes) if options.only is None else [n for n in options.only.split(",") if n]
    for name in wanted:
        runs = results["runs"].setdefault(name, [])
        for seed in recipes[name].seeds:
            if any(run["seed"] == seed for run in runs):
                continue
            runs.append(measure_one(name, seed))
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(f"{name}, seed {seed}: {runs[-1]}", flush=True)
    return results


def main() -> None:
    options = command_line(__doc__).parse_args()
    results = measured(options, "results.json", RECIPES, lambda name, seed: train(name, seed, options.out))
    print(table(results))
    if options.readme:
        put_into(options.readme, "quality", table(results))


if __name__ == "__main__":
    main()
