"""The quality table: scores as measured, nothing where nothing was, and only between the markers."""

import pytest

import gpuprop as gp
from gpuprop.bench import quality
from gpuprop.training.recipes import RECIPES

MACHINE = {
    "cpu": "Some CPU", "cores": 2, "threads": "1", "python": "3.11", "numpy": "2.4",
    "gpuprop": "0.1", "date": "2026-01-01",
}  # fmt: skip


def test_the_table_shows_the_mean_and_each_seed_and_says_what_was_not_measured():
    runs = [{"seed": i, "score": s, "seconds": 10.0 * i} for i, s in [(1, 0.9), (2, 0.92), (3, 0.91)]]
    text = quality.table({"machine": MACHINE, "runs": {"trec": runs}})
    trec = next(line for line in text.splitlines() if line.startswith("| trec "))
    assert "**91.0 %** (90.0, 92.0, 91.0)" in trec
    assert trec.endswith("| 20 |")
    assert text.count("not measured") == len(RECIPES) - 1
    for recipe in RECIPES.values():
        assert f"gpuprop train {recipe.task} --model {recipe.options['model']}" in text


def test_a_word_error_is_better_when_lower():
    text = quality.row("cmudict_g2p", [{"seed": 1, "score": 0.37, "seconds": 1.0}])
    assert "**37.0 % word error**" in text
    assert "≤ 40.0 | ≤ 34.0" in text


def test_only_what_stands_between_the_markers_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- quality: start -->\nold\n<!-- quality: end -->\nb\n")
    quality.put_into(page, "quality", "new")
    assert page.read_text() == "a\n<!-- quality: start -->\nnew\n<!-- quality: end -->\nb\n"
    with pytest.raises(gp.DataError, match="needs the lines <!-- other: start -->"):
        quality.put_into(page, "other", "new")
