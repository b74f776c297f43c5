"""Presets: options as typed, in front of the user's own."""

import dataclasses

import pytest

from gpuprop.cli.options_seq2seq import Seq2SeqOptions
from gpuprop.training.presets import PRESETS, as_arguments, expanded


def test_options_are_written_as_one_types_them():
    assert as_arguments({"batch_size": 64, "joint": True, "lr": 1e-3}) == [
        "--batch-size", "64", "--joint", "--lr", "0.001",
    ]  # fmt: skip


@pytest.mark.parametrize("form", [["--preset", "g2p"], ["--preset=g2p"]])
def test_a_preset_goes_in_front_of_what_was_typed(form):
    typed = ["--epochs", "3", *form, "--train", "x"]
    assert expanded(typed) == [*as_arguments(PRESETS["g2p"]), *typed]


@pytest.mark.parametrize(
    ("preset", "typed", "gone"),
    [
        ("multi30k", ["--batch-tokens", "2000"], {"batch_size"}),
        ("g2p", ["--tokenizer=bpe"], {"source_tokenizer", "target_tokenizer"}),
        ("multi30k", ["--source-tokenizer", "word"], {"joint", "tied"}),
        ("multi30k", ["--model", "gru"], {"hidden", "layers", "heads"}),
        ("multi30k", ["--embedding-dim", "64"], {"hidden", "heads"}),
    ],
)
def test_what_a_typed_option_leaves_no_meaning_is_left_out(preset, typed, gone):
    kept = {name: value for name, value in PRESETS[preset].items() if name not in gone}
    assert expanded(["--preset", preset, *typed]) == [*as_arguments(kept), "--preset", preset, *typed]


def test_the_last_of_several_presets_counts():
    typed = ["--preset", "g2p", "--preset=headline"]
    assert expanded(typed) == [*as_arguments(PRESETS["headline"]), *typed]


@pytest.mark.parametrize("typed", [[], ["--preset"], ["--preset", "none"], ["--preset=", "g2p"], ["g2p"]])
def test_what_names_no_preset_stays_as_it_is(typed):
    assert expanded(typed) == typed


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_options_that_there_are(name):
    assert set(PRESETS[name]) <= {field.name for field in dataclasses.fields(Seq2SeqOptions)}
