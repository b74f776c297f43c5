"""The encoder-decoders of the bench: the same losses as PyTorch's from the same weights and batches."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.bench import gpuprop_peer, seq2seq_cases, torch_models

SMALL = {"src_vocab": 50, "tgt_vocab": 40, "d": 16, "length": 7, "batch": 6, "lr": 1e-2, "dropout": 0.0}


@pytest.mark.parametrize("name", ["gru_luong", "gru_bahdanau", "transformer"])
def test_losses_are_those_of_pytorch(name):
    torch = pytest.importorskip("torch")
    s = seq2seq_cases.SPECS[name] | SMALL | {"ff": 24, "layers": 2}
    torch.manual_seed(0)
    theirs = (torch_models.gru_seq2seq if s["kind"] == "gru" else torch_models.transformer)(torch, s)
    params = {name: p.detach().numpy().copy() for name, p in theirs.named_parameters()}
    prepare, step = gpuprop_peer.build(s, params, "", gp.num_threads())
    optimizer = torch.optim.Adam(theirs.parameters(), lr=s["lr"])
    for batch in seq2seq_cases.batches(s):
        optimizer.zero_grad()
        loss = theirs(**{k: torch.from_numpy(v) for k, v in batch.items()})
        loss.backward()
        optimizer.step()
        assert step(prepare(batch)) == pytest.approx(loss.item(), rel=2e-5)


def test_batches_have_texts_of_all_lengths_and_shifted_targets():
    s = seq2seq_cases.GRU
    for batch in seq2seq_cases.batches(s):
        src, tgt_in, tgt_out = (batch[k] for k in ("src", "tgt_in", "tgt_out"))
        lengths = (src != 0).sum(axis=1)
        assert (lengths.min() >= 10, lengths.max()) == (True, 20)
        assert ((src == 0) == (np.arange(20) >= lengths[:, None])).all()
        assert (tgt_in[:, 0] == seq2seq_cases.BOS).all()
        real = tgt_in != 0
        assert (real == (tgt_out != 0)).all()
        ends = real.sum(axis=1) - 1
        rows = np.arange(len(ends))
        assert (tgt_out[rows, ends] == seq2seq_cases.EOS).all()
        inner = real[:, 1:]
        assert (tgt_in[:, 1:][inner] == tgt_out[:, :-1][inner]).all()
