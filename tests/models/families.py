"""Every family of encoder-decoders at small sizes, pairs of texts for them, and a training loop."""

import numpy as np
from model_checks import random_texts

import gpuprop as gp
from gpuprop.models import ConvSeq2Seq, Seq2Seq, Transformer

BOS, EOS = 2, 3
SOURCES, TARGETS = 9, 7  # entries of the vocabularies; one of TARGETS where all tables are one

FAMILIES = {
    "gru-dot": (Seq2Seq, {"cell": "gru", "attention": "dot"}),
    "gru-additive": (Seq2Seq, {"cell": "gru", "attention": "additive"}),
    "gru-dot-feeding": (Seq2Seq, {"cell": "gru", "attention": "dot", "input_feeding": True}),
    "gru-tied": (Seq2Seq, {"cell": "gru", "tied": "target"}),
    "lstm-dot": (Seq2Seq, {"cell": "lstm", "attention": "dot"}),
    "lstm-additive": (Seq2Seq, {"cell": "lstm", "attention": "additive"}),
    "lstm-additive-feeding": (Seq2Seq, {"cell": "lstm", "attention": "additive", "input_feeding": True}),
    "transformer-pre": (Transformer, {"norm": "pre"}),
    "transformer-post": (Transformer, {"norm": "post", "activation": "gelu"}),
    "transformer-learned": (Transformer, {"positions": "learned", "max_positions": 12}),
    "transformer-tied": (Transformer, {"tied": "all"}),
    "conv": (ConvSeq2Seq, {}),
    "conv-learned": (ConvSeq2Seq, {"positions": "learned", "max_positions": 12, "kernel_size": 5}),
    "conv-tied": (ConvSeq2Seq, {"tied": "all", "kernel_size": 4}),
}


def build(family, width=3, layers=1, sizes=(SOURCES, TARGETS), dropout=0.0):
    """An untrained model whose inner sizes are about `width`, and different from each other where they
    may be."""
    kind, options = FAMILIES[family]
    if kind is Seq2Seq:
        inner = {"embedding_dim": width + ("tied" in options), "hidden_size": width + 1}
    elif kind is Transformer:
        width += width % 2
        inner = {"embedding_dim": width, "num_heads": 2, "feedforward": 2 * width + 1}
    else:
        inner = {"embedding_dim": width, "channels": width + 1}
    if options.get("tied") == "all":
        sizes = (min(sizes), min(sizes))
    return kind(*sizes, num_layers=layers, dropout=dropout, **inner, **options)


def pairs(lengths, target_lengths, seed=0):
    """Unrelated texts: source ids, their mask, target ids with `<s>`, and what is to be predicted."""
    source, mask = random_texts(lengths, TARGETS, seed)
    target, _ = random_texts(target_lengths, TARGETS, seed + 1)
    return source, mask, *teacher(target, target_lengths)


def teacher(target, lengths):
    """What the decoder reads, (B, T + 1), and what it is to predict, -100 where that does not count."""
    rows, lengths = len(target), np.asarray(lengths)
    target_in = np.concatenate([np.full((rows, 1), BOS), target], axis=1)
    target_out = np.pad(target, ((0, 0), (0, 1)))
    target_out[np.arange(rows), lengths] = EOS
    kept = np.arange(target_out.shape[1]) <= lengths[:, None]
    return target_in, np.where(kept, target_out, -100)


def loss_of(model, batch):
    """The mean loss a target token."""
    source, mask, target_in, target_out = batch
    return gp.nn.SequenceCrossEntropyLoss()(model(source, mask, target_in), target_out)


def train(model, make_batch, steps, lr=0.02, warmup=0):
    """Adam with a learning rate that rises for `warmup` steps and then falls to 0; the losses."""
    optimizer = gp.optim.Adam(model.parameters(), lr=lr)
    schedule = gp.optim.LinearWarmupLR(optimizer, warmup, total_steps=steps)
    losses = []
    for step in range(steps):
        loss = loss_of(model, make_batch(step))
        optimizer.zero_grad()
        loss.backward()
        gp.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def wanted(target_out):
    """The target tokens of each row, without `</s>`."""
    return [[int(t) for t in row if t not in (EOS, -100)] for row in target_out]
