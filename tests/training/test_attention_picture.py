"""Pictures of attention: labels one can read, any script, any length that is reasonable."""

import struct
import sys

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.text.field import TextField
from gpuprop.text.tokenize import CharTokenizer, WordTokenizer, create_tokenizer
from gpuprop.training.attention_picture import LONGEST_LABEL, MOST, Attention, labels
from gpuprop.training.curves import PlotError


def size_of(path):
    """(width, height) in pixels, from the header of a PNG."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


def attention(source, target):
    weights = np.random.default_rng(0).dirichlet(np.ones(len(source)), len(target))
    return Attention(list(source), list(target), weights)


def test_the_picture_grows_with_the_texts(tmp_path):
    pytest.importorskip("matplotlib")
    attention("ab", "xyz").draw(tmp_path / "small.png")
    attention(["word"] * 60, ["Wort"] * 50).draw(tmp_path / "large.png", "a title, $5 and $6")
    small, large = size_of(tmp_path / "small.png"), size_of(tmp_path / "large.png")
    assert large[0] > 10 * small[0]
    assert large[1] > 8 * small[1]


@pytest.mark.parametrize("token", ["$x$", "日本", "\\frac", "�", "a" * 30, "{", "​"])
def test_no_token_is_misread(tmp_path, token):
    """Neither mathematics, nor a warning about letters that no font has."""
    pytest.importorskip("matplotlib")
    attention([token, "b"], [token]).draw(tmp_path / "a.png", token)
    assert size_of(tmp_path / "a.png")[0] > 50


def test_what_cannot_be_drawn_says_why(tmp_path, monkeypatch):
    with pytest.raises(gp.DataError, match=rf"{MOST + 1} tokens are too many to draw, the most are {MOST}"):
        attention(["a"] * (MOST + 1), ["b"]).draw(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlotError, match=r'no picture of attention: .*pip install "gpuprop\[plots\]"'):
        attention("a", "b").draw(tmp_path / "a.png")


def test_labels_are_readable():
    letters = TextField.build(["a b"], CharTokenizer())
    assert labels(letters, ["a", " ", "\t"]) == ["a", "␣", "\\x09"]
    words = TextField.build(["a b"], WordTokenizer())
    shown = labels(words, ["word", "x" * 40, "</s>"])
    assert (shown[0], shown[2]) == ("word", "</s>")
    assert len(shown[1]) == LONGEST_LABEL


def test_labels_of_bpe_are_letters_and_show_what_goes_on_with_a_word():
    pytest.importorskip("tokenizers")
    tokenizer = create_tokenizer("bpe", ["the größe of the house"] * 3, 275)
    field = TextField.build(["the house"], tokenizer)
    tokens = tokenizer.encode("the größe, the houses")
    shown = labels(field, [*tokens, "</s>"])
    assert shown[0].startswith("the"[:1])
    assert shown[-1] == "</s>"
    joined = "".join(shown[:-1]).replace("·", "")
    assert joined.replace("Ã", "").startswith("thegr")
    assert "Ġ" not in "".join(shown)
    assert any(label.startswith("·") for label in shown)
    assert not any(label.startswith("·") for label in labels(field, tokenizer.encode("the")[:1]))
