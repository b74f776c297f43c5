"""Recipes name data sets that exist and options that the command line takes."""

from pathlib import Path

import pytest

from gpuprop.cli.options_classify import ClassifyOptions
from gpuprop.cli.options_seq2seq import Seq2SeqOptions
from gpuprop.text import datasets
from gpuprop.text.datasets import PairData
from gpuprop.training.recipes import RECIPES, first_words

KINDS = {"classify": ClassifyOptions, "seq2seq": Seq2SeqOptions}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_given_to_the_command_line(name):
    recipe = RECIPES[name]
    info = datasets.info(recipe.dataset)
    assert {"train", "dev", "test"} <= set(info.splits)
    assert set(recipe.words) <= set(info.splits)
    options = KINDS[recipe.task](train=Path("train"), out=Path("out"), **recipe.options)
    options.check()


@pytest.mark.parametrize("name", RECIPES)
def test_a_goal_is_harder_than_what_must_be(name):
    recipe = RECIPES[name]
    assert recipe.reached(recipe.goal, recipe.must)
    assert not recipe.reached(recipe.must, recipe.goal)
    assert recipe.seeds


def test_first_words_take_whole_words_whatever_the_order():
    data = PairData(["a", "b", "a", "c", "d"], ["1", "2", "3", "4", "5"])
    some = first_words(data, 2)
    assert len(set(some.sources)) == 2
    turned = first_words(PairData(data.sources[::-1], data.targets[::-1]), 2)
    assert sorted(zip(turned.sources, turned.targets, strict=True)) == sorted(
        zip(some.sources, some.targets, strict=True)
    )
    assert set(first_words(data, 1).sources) < set(some.sources)
    assert first_words(data, 10) == data
