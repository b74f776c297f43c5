"""What is special to the recurrent encoder-decoder: its states and input feeding."""

import numpy as np
import pytest
from families import build, pairs
from model_checks import as_float64, widen

import gpuprop as gp

FEEDING = ["gru-dot-feeding", "lstm-additive-feeding"]
RECURRENT = ["gru-dot", "lstm-dot", *FEEDING]


@pytest.mark.parametrize("family", RECURRENT)
def test_the_decoder_starts_from_the_encoders_final_states(family, device):
    model = as_float64(build(family, layers=2)).eval()
    source, mask, *_ = pairs([5, 2], [1, 1])
    memory, states = model.encode(source, mask)
    assert memory.values.shape == (2, 5, 2 * 4)
    kinds = 2 if family.startswith("lstm") else 1
    fed = [(1, 2, 4)] if family in FEEDING else []
    assert [s.shape for s in states] == [(2, 2, 4)] * kinds + fed
    if fed:
        assert not states[-1].numpy().any()  # nothing was attended yet
    _, wide = model.encode(*widen(source, mask, 3))
    for state, same in zip(states, wide, strict=True):
        np.testing.assert_allclose(same.numpy(), state.numpy(), rtol=1e-10)


@pytest.mark.parametrize("family", FEEDING)
def test_with_input_feeding_the_next_token_depends_on_what_was_attended(family, device):
    model = build(family).eval()
    source, mask, target_in, _ = pairs([5, 2], [3, 3])
    memory, states = model.encode(source, mask)
    before = model.decoder(target_in, states, memory)[0].numpy()
    fed = gp.tensor(np.ones(states[-1].shape, np.float32))
    after = model.decoder(target_in, (*states[:-1], fed), memory)[0].numpy()
    assert (before[:, 0] != after[:, 0]).all()
