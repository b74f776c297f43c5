"""The second quality table: scores as measured, rows that say when nothing was, trainings not repeated."""

import json

import pytest

import gpuprop as gp
from gpuprop.bench import quality_seq2seq as quality
from gpuprop.cli import main
from gpuprop.training.presets import PRESETS
from gpuprop.training.recipes_seq2seq import RECIPES, Seq2SeqRecipe

MACHINE = {
    "cpu": "Some CPU", "cores": 2, "threads": "3", "python": "3.11", "numpy": "2.4",
    "gpuprop": "0.1", "date": "2026-01-01",
}  # fmt: skip


def test_errors_are_in_per_cent_and_other_scores_in_points():
    runs = [
        {"minutes": 12.4, "greedy": {"wer": 0.3, "per": 0.08}, "averaged": {"wer": 0.25, "per": 0.0612}},
    ]
    line = quality.row("g2p_gru", runs)
    assert "| 30.0 % / 8.0 % | **25.0 % / 6.1 %** | ≤ 28.6 % / 7.6 % | ≤ 24.4 % |" in line
    assert line.endswith("| 12 |")
    runs = [{"minutes": 1.0, "greedy": {"bleu": 30.04}, "averaged": {"bleu": 31.0}}]
    assert "| 30.0 | **31.0** | ≥ 28.3 | ≥ 33.0 |" in quality.row("multi30k_gru", runs)


def test_a_row_without_a_training_says_so_and_every_command_is_there():
    text = quality.table({"machine": MACHINE, "runs": {}})
    assert text.count("| not trained |") == len(RECIPES)
    for name in RECIPES:
        assert f"# {name}" in text
    assert "gpuprop train seq2seq --preset g2p " in text
    assert "GPUPROP_THREADS=3, " in text


@pytest.mark.parametrize("change", [{}, {"epochs": 3}, {"seed": 2}, {"dropout": 0.9}])
def test_only_a_complete_training_with_these_options_counts(tmp_path, change):
    recipe = RECIPES["g2p_gru"]
    training = {**PRESETS["g2p"], "seed": 1, **change}
    config = {"format": "gpuprop-run", "version": 1, "training": training}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert not quality.is_trained(recipe, tmp_path, 1)
    (tmp_path / "metrics.jsonl").write_text('{"seconds": 1}\n' * (training["epochs"] - 1))
    assert not quality.is_trained(recipe, tmp_path, 1)
    (tmp_path / "metrics.jsonl").write_text('{"seconds": 1}\n' * training["epochs"])
    assert quality.is_trained(recipe, tmp_path, 1) == (change == {})


def test_recipes_have_bounds_of_scores_that_are_measured():
    for name, recipe in RECIPES.items():
        kinds = {"rouge1", "rouge2", "rougeL"} if recipe.scores == ("rouge",) else set(recipe.scores)
        assert set(recipe.must) <= kinds, name
        assert set(recipe.goal) <= kinds, name
        assert recipe.model in ("gru", "conv", "transformer"), name
        assert all((recipe.goal[s] < bound) == (s in ("wer", "per")) for s, bound in recipe.must.items()
                   if s in recipe.goal), name  # fmt: skip


def test_a_training_is_scored_greedily_and_averaged_again_and_again(tmp_path, monkeypatch, capsys):
    def cli(*arguments):
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(quality, "cli", cli)
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        (tmp_path / name).write_text("ab\ta b\nba\tb a\nbb\tb b\n")
    recipe = Seq2SeqRecipe(
        dataset="mine",
        options={
            "source_tokenizer": "char", "embedding_dim": 4, "hidden": 4, "epochs": 3, "keep_last": 2,
        },
        scores=("wer",), must={}, goal={}, average=2,
    )  # fmt: skip
    data = ["--train", tmp_path / "train.tsv", "--valid", tmp_path / "dev.tsv"]
    run = tmp_path / "run"
    cli("train", "seq2seq", *data, "--out", run, *quality.as_arguments(recipe.options), "--quiet")
    first = quality.score(recipe, run, tmp_path)
    assert first == quality.score(recipe, run, tmp_path)
    assert first["greedy"]["n"] == first["averaged"]["n"] == 3
    weights = [gp.load(folder / "model.safetensors") for folder in (run, tmp_path / "run-averaged")]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])
