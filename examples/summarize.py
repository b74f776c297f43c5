"""One line for a paragraph: from a software package's description to its synopsis, by a GRU with attention.

pip install ".[text]"     # ROUGE is rouge-score's
python examples/summarize.py --device auto --limit 0 --epochs 10
"""

import argparse

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

import gpuprop as gp
from gpuprop import nn, text
from gpuprop.text import datasets

LONGEST = 60  # words of a paragraph that are read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, default=5_000, help="train on N pairs only (0: on all)")
    args = parser.parse_args()

    gp.set_device(args.device)
    gp.manual_seed(1)

    # The data, in no order of the alphabet. Both sides are English: one vocabulary, and one table of vectors
    # for what is read, what was written and what is written next.
    data, dev, test = (datasets.load("debian_descriptions", split) for split in ("train", "dev", "test"))
    chosen = np.random.default_rng(1).permutation(len(data))[: args.limit or None]
    paragraphs, lines = [data.sources[i] for i in chosen], [data.targets[i] for i in chosen]
    words = text.TextField.build(
        [*paragraphs, *lines], text.WordTokenizer(), min_frequency=2, max_size=8_000, max_length=LONGEST
    )

    model = gp.models.Seq2Seq(
        len(words.vocabulary), len(words.vocabulary),
        embedding_dim=128, hidden_size=128, attention="additive", dropout=0.2, tied="all",
    )  # fmt: skip
    print(model)
    loss_of = nn.SequenceCrossEntropyLoss()
    optimizer = gp.optim.Adam(model.parameters(), lr=2e-3)

    batches = text.pair_batches(words.encode(paragraphs), words.encode(lines), batch_size=32, seed=1)
    schedule = gp.optim.CosineLR(optimizer, args.epochs * len(batches))
    for epoch in range(args.epochs):
        losses = []
        for batch in batches:
            logits = model(batch.source, batch.source_mask, batch.target_in)
            loss = loss_of(logits, batch.target_out)
            optimizer.zero_grad()
            loss.backward()
            gp.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, ROUGE-1 {rouge(model, words, dev, 200):.1f}")
    print(f"ROUGE-1 on the test paragraphs: {rouge(model, words, test, 500, beam_size=5):.1f}")

    for paragraph, line in zip(test.sources[:3], summarize(model, words, test.sources[:3], 5), strict=True):
        print(f"\n{paragraph[:200]}\n-> {line}")


def summarize(
    model: gp.models.Seq2Seq, words: text.TextField, paragraphs: list[str], beam_size: int = 1
) -> list[str]:
    """The likeliest line for each paragraph."""
    batch = text.collate_text(words.encode(paragraphs))
    found = model.beam(batch.ids, batch.mask, beam_size, max_length=20, length_penalty=1.0)
    return [words.decode(best[0].tokens) for best in found]


def rouge(
    model: gp.models.Seq2Seq, words: text.TextField, data: datasets.PairData, rows: int, beam_size: int = 1
) -> float:
    """Mean ROUGE-1 F1, in points, of the first rows of `data`."""
    scorer, scores = RougeScorer(["rouge1"]), []
    for start in range(0, min(rows, len(data)), 100):
        part = slice(start, min(start + 100, rows))
        guesses = summarize(model, words, data.sources[part], beam_size)
        pairs = zip(data.targets[part], guesses, strict=True)
        scores += [scorer.score(line, guess)["rouge1"].fmeasure for line, guess in pairs]
    return 100 * float(np.mean(scores))


if __name__ == "__main__":
    main()
