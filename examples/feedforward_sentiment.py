"""Is a sentence of a film review positive or negative? A feed-forward network over words and pairs of words.

python examples/feedforward_sentiment.py --device auto --epochs 3
"""

import argparse

import numpy as np

import gpuprop as gp
from gpuprop import nn, text
from gpuprop.text import datasets

SENTENCES = [
    "A warm, funny and surprisingly moving film.",
    "The plot is a mess and the jokes are not funny.",
    "I would gladly watch it again.",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None, help="train on the first N rows only")
    args = parser.parse_args()

    gp.set_device(args.device)
    gp.manual_seed(1)

    # The data: sentences rated by people; what they are called is what we predict.
    train, dev, test = (datasets.load("vader_movie", split) for split in ("train", "dev", "test"))
    names = train.label_names
    texts, labels = train.texts[: args.limit], train.labels[: args.limit]

    # Text to ids: words, then pairs of neighbouring words that occur twice or more.
    field = text.TextField.build(texts, text.WordTokenizer(), ngram=2, min_frequency=2)
    rows, numbers = field.encode(texts), text.label_ids(labels, names)

    # The average of the vectors of a sentence's words and pairs, and one linear layer.
    model = gp.models.FeedForwardClassifier(len(field.vocabulary), len(names), embedding_dim=100, dropout=0.3)
    print(model)
    loss_of = nn.CrossEntropyLoss()
    optimizer = gp.optim.AdamW(model.parameters(), lr=3e-3)

    batches = text.text_batches(rows, numbers, batch_size=50, seed=1)
    for epoch in range(args.epochs):
        losses = []
        for batch in batches:
            loss = loss_of(model(batch.ids, batch.mask), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, accuracy {accuracy(model, field, dev):.3f}")
    print(f"accuracy on the test sentences: {accuracy(model, field, test):.3f}")

    model.eval()
    batch = text.collate_text(field.encode(SENTENCES))
    with gp.no_grad():
        probabilities = model(batch.ids, batch.mask).softmax().numpy()
    for sentence, p in zip(SENTENCES, probabilities, strict=True):
        print(f"{names[p.argmax()]} ({p.max():.2f}): {sentence}")


def accuracy(model: nn.Module, field: text.TextField, data: datasets.LabelledData) -> float:
    """The share of rows whose likeliest label is the right one."""
    model.eval()
    numbers = text.label_ids(data.labels, data.label_names)
    right = 0
    with gp.no_grad():
        for batch in text.text_batches(field.encode(data.texts), numbers, batch_size=200, shuffle=False):
            right += int((model(batch.ids, batch.mask).numpy().argmax(axis=1) == batch.labels).sum())
    model.train()
    return right / len(data)


if __name__ == "__main__":
    main()
