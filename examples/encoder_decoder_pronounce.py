"""How is a word pronounced? An encoder reads its letters, a decoder with attention writes its phonemes.

python examples/encoder_decoder_pronounce.py --device auto --epochs 10
"""

import argparse

import numpy as np

import gpuprop as gp
from gpuprop import nn, text
from gpuprop.text import datasets

WORDS = ["neural", "gradient", "backpropagation", "shakespeare"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, default=10_000, help="train on N words only (0: on all)")
    args = parser.parse_args()

    gp.set_device(args.device)
    gp.manual_seed(1)

    # The data: words and their phonemes, in no order of the alphabet.
    data, dev, test = (datasets.load("cmudict", split) for split in ("train", "dev", "test"))
    chosen = np.random.default_rng(1).permutation(len(data))[: args.limit or None]
    words, sounds = [data.sources[i] for i in chosen], [data.targets[i] for i in chosen]
    letters = text.TextField.build(words, text.CharTokenizer())
    phonemes = text.TextField.build(sounds, text.SymbolTokenizer())

    model = gp.models.Seq2Seq(
        len(letters.vocabulary), len(phonemes.vocabulary), embedding_dim=64, hidden_size=128, dropout=0.2
    )
    print(model)
    models = model, letters, phonemes
    loss_of = nn.SequenceCrossEntropyLoss()
    optimizer = gp.optim.Adam(model.parameters(), lr=2e-3)

    # The decoder is given the right phonemes so far and learns the next one (teacher forcing).
    batches = text.pair_batches(letters.encode(words), phonemes.encode(sounds), batch_size=64, seed=1)
    schedule = gp.optim.CosineLR(optimizer, args.epochs * len(batches))
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
        wrong = word_error(models, dev)
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, words wrong {wrong:.3f}")
    print(f"test words wrong: {word_error(models, test, words=2000):.3f}")

    for word, sound in zip(WORDS, pronounce(models, WORDS, beam_size=5), strict=True):
        print(f"{word}: {sound}")


Models = tuple[gp.models.Seq2Seq, text.TextField, text.TextField]  # with the fields of letters and phonemes


def pronounce(models: Models, words: list[str], beam_size: int = 1) -> list[str]:
    """The likeliest phonemes of each word."""
    model, letters, phonemes = models
    batch = text.collate_text(letters.encode(words))
    if beam_size == 1:
        return [phonemes.decode(ids) for ids in model.greedy(batch.ids, batch.mask, max_length=30)]
    found = model.beam(batch.ids, batch.mask, beam_size, max_length=30, length_penalty=1.0)
    return [phonemes.decode(best[0].tokens) for best in found]


def word_error(models: Models, data: datasets.PairData, words: int = 500) -> float:
    """The share of so many words whose phonemes are none of those in the dictionary."""
    right: dict[str, set[str]] = {}
    for word, sound in zip(data.sources, data.targets, strict=True):
        right.setdefault(word, set()).add(sound)
    chosen = sorted(right)[:: max(1, len(right) // words)][:words]
    guesses = pronounce(models, chosen)
    return float(np.mean([guess not in right[word] for word, guess in zip(chosen, guesses, strict=True)]))


if __name__ == "__main__":
    main()
