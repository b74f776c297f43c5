"""Configurations: a round trip, and what a damaged or hostile one does."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop import models

GOOD = {
    "feedforward": models.FeedForwardClassifier(20, 3, embedding_dim=5, hidden=(4, 6), dropout=0.25),
    "cnn": models.TextCNN(20, 2, embedding_dim=5, widths=(2, 3), filters=3, max_norm=3),
    "gru": models.Seq2Seq(20, 9, embedding_dim=4, hidden_size=3, num_layers=2, attention="additive"),
    "lstm": models.Seq2Seq(20, 9, embedding_dim=4, hidden_size=3, cell="lstm", dropout=0.1),
    "transformer": models.Transformer(9, 9, 4, 2, 6, 2, norm="post", positions="learned", tied="all"),
    "conv": models.ConvSeq2Seq(9, 9, 4, 6, 2, kernel_size=2, positions="learned", tied="all"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_model_is_rebuilt_from_its_configuration(name):
    model = GOOD[name]
    config = json.loads(json.dumps(model.config()))
    again = models.build(name, config)
    assert type(again) is type(model)
    assert again.config() == model.config()
    again.load_state_dict(model.state_dict())


def test_a_seq2seq_takes_its_cell_from_the_name():
    config = {"source_vocabulary_size": 8, "target_vocabulary_size": 8, "embedding_dim": 2, "hidden_size": 2}
    assert models.build("lstm", config).config()["cell"] == "lstm"
    assert models.build("gru", config).config()["cell"] == "gru"
    with pytest.raises(gp.CheckpointError, match="'gru' model cannot have the cell 'lstm'"):
        models.build("gru", {**config, "cell": "lstm"})


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(gp.DataError, match=r"'resnet'.*feedforward, cnn, gru, lstm"):
        models.build("resnet", {})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cnn", {"widths": "345"}, "widths must be a list"),
        ("cnn", {"widths": [3, 0]}, "each of widths .* from 1"),
        ("cnn", {"widths": [10**9]}, "each of widths"),
        ("cnn", {"widths": []}, "widths"),
        ("cnn", {"filters": True}, "filters .* not True"),
        ("cnn", {"dropout": 1.0}, "dropout .* below 1"),
        ("cnn", {"dropout": math.nan}, "dropout .* not nan"),
        ("cnn", {"max_norm": -1}, "max_norm"),
        ("cnn", {"max_norm": math.inf}, "max_norm"),
        ("cnn", {"vocabulary_size": 10**12}, "vocabulary_size"),
        ("cnn", {"vocabulary_size": 1 << 24, "embedding_dim": 1 << 16}, "embedding of"),
        ("cnn", {"embedding_dim": "300"}, "embedding_dim .* '300'"),
        ("cnn", {"colour": "red"}, "unknown: colour"),
        ("cnn", {"__class__": "os.system"}, "unknown: __class__"),
        ("feedforward", {"hidden": [4] * 1000}, "hidden must be a list of at most"),
        ("feedforward", {"hidden": 4}, "hidden must be a list"),
        ("feedforward", {"padding_idx": 20}, "padding_idx .* from 0 to 19"),
        ("feedforward", {"num_classes": 0}, "num_classes"),
        ("feedforward", {"word_dropout": "0.1"}, "word_dropout"),
        ("gru", {"num_layers": 10**6}, "num_layers"),
        ("gru", {"attention": "soft"}, "attention must be one of dot, additive"),
        ("gru", {"eos_idx": 9}, "eos_idx .* from 0 to 8"),
        ("gru", {"hidden_size": 2.5}, "hidden_size"),
        ("gru", {"dropout": None}, "dropout"),
        ("gru", {"tied": "both"}, "tied must be one of none, target, all"),
        ("gru", {"tied": "target"}, r"embedding_dim \(4\) must be hidden_size \(3\)"),
        ("transformer", {"num_heads": 3}, "not a multiple of num_heads 3"),
        ("transformer", {"norm": "none"}, "norm must be one of pre, post"),
        ("transformer", {"feedforward": 0}, "feedforward"),
        ("transformer", {"max_positions": -1}, "max_positions"),
        ("transformer", {"target_vocabulary_size": 8}, "one vocabulary for both sides"),
        ("conv", {"kernel_size": 0}, "kernel_size"),
        ("conv", {"channels": "4"}, "channels .* '4'"),
        ("conv", {"channels": 1 << 16, "kernel_size": 1 << 16}, "a convolution of"),
        ("conv", {"positions": "none"}, "positions must be one of sinusoidal, learned"),
    ],
)
def test_a_damaged_configuration_is_refused(name, change, message):
    with pytest.raises(gp.CheckpointError, match=message):
        models.build(name, {**GOOD[name].config(), **change})


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_entry_is_named(name):
    config = GOOD[name].config()
    first = next(iter(config))
    del config[first]
    with pytest.raises(gp.CheckpointError, match=f"missing: {first}"):
        models.build(name, config)


@pytest.mark.parametrize("config", [None, [], "cnn", 3])
@pytest.mark.parametrize("name", GOOD)
def test_something_else_than_a_dictionary_is_refused(name, config):
    with pytest.raises(gp.CheckpointError, match="dictionary"):
        models.build(name, config)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(name=st.sampled_from(sorted(GOOD)), data=st.data())
def test_any_json_builds_a_model_or_says_why_not(name, data):
    config = GOOD[name].config()
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=3)):
        config[key] = data.draw(JSON)
    try:
        model = models.build(name, config)
    except gp.CheckpointError:
        return
    json.dumps(model.config(), allow_nan=False)
