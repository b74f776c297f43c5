"""German captions to English: a Transformer reads one sentence and writes another, token by token.

pip install ".[text]"     # BLEU is sacrebleu's
python examples/translate.py --device auto --limit 0 --epochs 14
"""

import argparse

import numpy as np
import sacrebleu

import gpuprop as gp
from gpuprop import nn, text
from gpuprop.text import datasets

SENTENCES = [
    "Ein Mann fährt mit dem Fahrrad durch die Stadt.",
    "Zwei Kinder spielen im Schnee.",
    "Eine Frau liest ein Buch in einem Park.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--limit", type=int, default=5_000, help="train on N pairs only (0: on all)")
    args = parser.parse_args()

    gp.set_device(args.device)
    gp.manual_seed(1)

    # The data: the same picture described in two languages. Words seen once are <unk>.
    data, dev, test = (datasets.load("multi30k", split) for split in ("train", "dev", "test"))
    sources, targets = data.sources[: args.limit or None], data.targets[: args.limit or None]
    german = text.TextField.build(sources, text.WordTokenizer(), min_frequency=2)
    english = text.TextField.build(targets, text.WordTokenizer(), min_frequency=2)

    sizes = {"embedding_dim": 128, "num_heads": 4, "feedforward": 512, "num_layers": 2}
    model = gp.models.Transformer(len(german.vocabulary), len(english.vocabulary), **sizes, tied="target")
    print(model)
    models = model, german, english
    loss_of = nn.SequenceCrossEntropyLoss(label_smoothing=0.1)
    optimizer = gp.optim.Adam(model.parameters(), lr=2e-3)

    # The decoder is given the right words so far and learns the next one (teacher forcing); the learning
    # rate rises for an epoch, since attention starts out uniform, and then falls to zero.
    batches = text.pair_batches(german.encode(sources), english.encode(targets), batch_size=64, seed=1)
    schedule = gp.optim.CosineLR(optimizer, args.epochs * len(batches), warmup_steps=len(batches) // 2)
    for epoch in range(args.epochs):
        losses = []
        for batch in batches:
            loss = loss_of(model(batch.source, batch.source_mask, batch.target_in), batch.target_out)
            optimizer.zero_grad()
            loss.backward()
            gp.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, BLEU {bleu(models, dev, 200):.1f}")
    print(f"BLEU on the test captions: {bleu(models, test, 1000, beam_size=5):.1f}")

    for german_text, english_text in zip(SENTENCES, translate(models, SENTENCES, beam_size=5), strict=True):
        print(f"{german_text} -> {english_text}")


Models = tuple[gp.models.Transformer, text.TextField, text.TextField]  # with the fields of both languages


def translate(models: Models, sentences: list[str], beam_size: int = 1) -> list[str]:
    """The likeliest translation of each sentence."""
    model, german, english = models
    batch = text.collate_text(german.encode(sentences))
    if beam_size == 1:
        return [english.decode(ids) for ids in model.greedy(batch.ids, batch.mask, max_length=40)]
    found = model.beam(batch.ids, batch.mask, beam_size, max_length=40, length_penalty=1.0)
    return [english.decode(best[0].tokens) for best in found]


def bleu(models: Models, data: datasets.PairData, rows: int, beam_size: int = 1) -> float:
    """BLEU of the first rows of `data`, small and capital letters alike."""
    guesses: list[str] = []
    for start in range(0, min(rows, len(data)), 100):
        guesses += translate(models, data.sources[start : min(start + 100, rows)], beam_size)
    references = [data.targets[: len(guesses)]]
    return float(sacrebleu.corpus_bleu(guesses, references, lowercase=True, force=True).score)


if __name__ == "__main__":
    main()
