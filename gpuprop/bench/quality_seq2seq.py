"""Trains and scores the encoder-decoders of the README's second quality table, as a user would.

    python -m gpuprop.bench.quality_seq2seq --out runs/quality [--only g2p_gru,headline] [--readme README.md]

For each recipe of `gpuprop.training.recipes_seq2seq` and each seed: `gpuprop train seq2seq`, then `gpuprop
evaluate` (greedily), `gpuprop average` and `gpuprop evaluate --beam 5`. Results go to results_seq2seq.json.
A training whose run folder is complete is not repeated, a seed that was scored is not scored again. --readme
writes the table into a file; a row that was not trained says so.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

from gpuprop.bench.quality import cli, command_line, measured, put_into
from gpuprop.training.presets import PRESETS, as_arguments
from gpuprop.training.recipes_seq2seq import FALLING, RECIPES, Seq2SeqRecipe
from gpuprop.training.run import read_config, read_metrics

HEAD = """| data and scores | model | greedy | beam 5 | must | goal | others | minutes |
| --- | --- | --- | --- | --- | --- | --- | --- |"""
BEAM = 5
RESULTS = "results_seq2seq.json"
TITLES = {
    "wer": "WER", "per": "PER", "bleu": "BLEU", "rouge1": "ROUGE-1", "rouge2": "2", "rougeL": "L",
}  # fmt: skip
Scores = dict[str, float]


def train(name: str, seed: int, out: Path) -> Path:
    """The run folder of a recipe, trained unless it is already."""
    recipe, run = RECIPES[name], out / "runs" / f"{name}-{seed}"
    cli("data", "get", recipe.dataset, "--out", out / "data" / name, "--overwrite")
    if is_trained(recipe, run, seed):
        return run
    data = out / "data" / name
    files = ["--train", data / "train.tsv", "--valid", data / "dev.tsv", "--out", run, "--overwrite"]
    cli("train", "seq2seq", *files, *as_arguments(recipe.options), "--seed", seed)
    return run


def is_trained(recipe: Seq2SeqRecipe, run: Path, seed: int) -> bool:
    """Whether the folder holds all epochs of a training with the recipe's options."""
    if not (run / "metrics.jsonl").exists():
        return False
    given = read_config(run)["training"]
    wanted = {**PRESETS.get(recipe.options.get("preset", ""), {}), **recipe.options, "seed": seed}
    wanted.pop("preset", None)
    same = all(given.get(option) == value for option, value in wanted.items())
    return same and len(read_metrics(run)) == given["epochs"]


def score(recipe: Seq2SeqRecipe, run: Path, data: Path) -> dict[str, Any]:
    """What the model of a run folder reaches on the test rows: {"greedy", "averaged", "minutes" of training,
    "device"}."""
    records = read_metrics(run)
    result: dict[str, Any] = {
        "minutes": sum(record["seconds"] for record in records) / 60,
        "device": records[-1]["device"],
        "greedy": evaluated(recipe, run, data, 1),
    }
    if recipe.average is None:
        return {**result, "averaged": evaluated(recipe, run, data, BEAM)}
    averaged = run.with_name(f"{run.name}-averaged")
    shutil.rmtree(averaged, ignore_errors=True)  # of an earlier training
    cli("average", run, "--last", recipe.average, "--out", averaged)
    return {**result, "averaged": evaluated(recipe, averaged, data, BEAM)}


def evaluated(recipe: Seq2SeqRecipe, run: Path, data: Path, beam: int) -> Scores:
    """The scores of the test rows, decoded with this beam."""
    how = ["--metric", ",".join(recipe.scores), "--beam", beam, *recipe.evaluation, "--json"]
    found: Scores = json.loads(cli("evaluate", run, data / "test.tsv", *how))
    return found


def shown(scores: Scores, names: tuple[str, ...]) -> str:
    """Scores as one reads them: fractions in per cent."""
    return " / ".join(f"{100 * scores[n]:.1f} %" if n in FALLING else f"{scores[n]:.1f}" for n in names)


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """One line of the table."""
    recipe = RECIPES[name]
    names = tuple(recipe.must)
    what = f"{name}: {' / '.join(TITLES[n] for n in names)}"
    sign = "≤ " if names[0] in FALLING else "≥ "
    bounds = [sign + shown(bound, tuple(bound)) for bound in (dict(recipe.must), dict(recipe.goal))]
    cells = ["not trained", "", *bounds, recipe.published, ""]
    if runs:
        greedy, averaged = (
            shown({n: sum(run[kind][n] for run in runs) / len(runs) for n in names}, names)
            for kind in ("greedy", "averaged")
        )
        minutes = f"{sum(run['minutes'] for run in runs) / len(runs):.0f}"
        cells = [greedy, f"**{averaged}**", *bounds, recipe.published, minutes]
    return f"| {what} | {recipe.model} | {' | '.join(cells)} |"


def table(results: dict[str, Any]) -> str:
    """The results as Markdown, with the machine and the commands."""
    where = results["machine"]
    lines = [HEAD, *(row(name, results["runs"].get(name, [])) for name in RECIPES), ""]
    lines += [
        f"Measured on {where['date']} with `make quality-seq2seq`: {where['cores']} cores ({where['cpu']}), "
        f"GPUPROP_THREADS={where['threads']}, Python {where['python']}, NumPy {where['numpy']}, gpuprop "
        f"{where['gpuprop']}; seed 1. Greedy: the best epoch. Beam 5: the last epochs averaged, where the "
        f"recipe keeps them. Minutes are those of training, validation included{results.get('note', '')}. "
        "BLEU is sacrebleu's (13a, lower-cased, on plain text), the tutorial's is torchtext's on its own "
        "tokens. "
        "The commands, each with `--train`, `--valid`, `--out` and `--seed 1`:",
        "",
        "```",
    ]
    for name, recipe in RECIPES.items():
        lines.append(f"gpuprop train seq2seq {shlex.join(as_arguments(recipe.options))}   # {name}")
    return "\n".join([*lines, "```"])


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--note", help="what to say of the minutes, such as 'on a busy machine'")
    options = parser.parse_args()

    def measure_one(name: str, seed: int) -> dict[str, Any]:
        run = train(name, seed, options.out)
        return {"seed": seed, **score(RECIPES[name], run, options.out / "data" / name)}

    results = measured(options, RESULTS, RECIPES, measure_one)
    if options.note:
        results["note"] = f" ({options.note})"
        (options.out / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    if options.readme:
        put_into(options.readme, "quality-seq2seq", table(results))


if __name__ == "__main__":
    main()
