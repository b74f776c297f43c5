"""The task "seq2seq": a text for a text, such as a translation, a summary or a pronunciation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..backprop import no_grad
from ..errors import CheckpointError, DataError
from ..models import SEQ2SEQ, EncoderDecoder, Hypothesis
from ..models.decoding import evaluating
from ..nn.losses import SequenceCrossEntropyLoss
from ..ops import pack_labels
from ..parallel.sharing import all_lists, all_sums, my_rows
from ..tensors import Tensor
from ..text.batches import IGNORE_INDEX, Batches, PairBatch, pair_batches
from ..text.field import TextField
from ..text.files import read_pairs
from ..text.vocabulary import BOS, EOS
from . import run
from .attention_picture import MOST, Attention, labels
from .classify import load_model
from .decoding import Decoding, written
from .metrics import best_references, exact_match, token_error_rate
from .pair_rows import PairRows, Questions
from .rows import check_lengths, length_step
from .text_metrics import GROUPING, metric_names, perplexity, written_scores

EVALUATION_TOKENS = 4096  # in a batch, both sides and padding included
VALIDATION_DECODED = 500  # sources that are decoded each epoch; the loss is of all rows


class SequenceToSequence:
    """An encoder-decoder with its two tokenizers and vocabularies. max_output: the most tokens it may
    write."""

    task = "seq2seq"

    def __init__(
        self,
        model: EncoderDecoder,
        source: TextField,
        target: TextField,
        max_output: int,
        label_smoothing: float = 0.0,
    ) -> None:
        self.model, self.source, self.target, self.max_output = model, source, target, max_output
        self.criterion = SequenceCrossEntropyLoss(label_smoothing=label_smoothing)
        self.summed = SequenceCrossEntropyLoss(reduction="sum")
        self.watched = "loss"
        self.metrics: tuple[str, ...] = ()

    @property
    def fields(self) -> dict[str, TextField]:
        return {"source": self.source, "target": self.target}

    def config(self) -> dict[str, Any]:
        """What a run's configuration says of the task, beside model and fields."""
        return {"task": self.task, "max_output": self.max_output}

    def encode(
        self, sources: Sequence[str], targets: Sequence[str], path: str | Path | None = None
    ) -> PairRows:
        """Rows for training or scoring; DataError names `path` and the line of an endless text."""
        source_rows, target_rows = self.source.encode(sources), self.target.encode(targets)
        check_lengths(source_rows, self.source, path, positions=self.model.longest_source)
        check_lengths(target_rows, self.target, path, positions=self.model.longest_target)
        references = [self.target.tokenizer.encode(text) for text in targets]
        return PairRows(source_rows, target_rows, references, list(sources), list(targets))

    def read(self, path: str | Path) -> PairRows:
        """The encoded rows of a file of source<TAB>target lines."""
        return self.encode(*read_pairs(path), path)

    def batches(
        self, data: PairRows, batch_size: int | None, seed: int, batch_tokens: int | None = None
    ) -> Batches[PairBatch]:
        """Shuffled batches for training, of so many pairs or at most so many tokens of both sides, padding
        included; on a GPU few lengths."""
        step = length_step(self.model)
        return pair_batches(
            data.sources, data.targets, batch_size, batch_tokens=batch_tokens, seed=seed, multiple_of=step
        )

    def loss(self, batch: PairBatch) -> Tensor:
        """The mean loss a target token of a batch."""
        result: Tensor = self.criterion(*self._scored(batch))
        return result

    def _scored(self, batch: PairBatch) -> tuple[Tensor, Any]:
        """Logits (N, V) and targets (N,) of the real target tokens."""
        logits = self.model(batch.source, batch.source_mask, batch.target_in, batch.target_mask)
        return logits, pack_labels(batch.target_out, batch.target_mask, IGNORE_INDEX)

    def count(self, batch: PairBatch) -> float:
        """How much a batch weighs in a mean loss: its target tokens."""
        return batch.tokens

    def mean_loss(self, data: PairRows) -> float:
        """Cross-entropy a target token, `</s>` included, the right tokens before it given."""
        losses, tokens = [], 0
        mine = data.take(my_rows(len(data)))
        with evaluating(self.model), no_grad():
            batches = (
                pair_batches(mine.sources, mine.targets, batch_tokens=EVALUATION_TOKENS, shuffle=False)
                if len(mine) or not len(data)
                else ()
            )
            for batch in batches:
                losses.append(self.summed(*self._scored(batch)))
                tokens += batch.tokens
        total, tokens_of_all = all_sums(float(sum(loss.item() for loss in losses)), tokens)
        return total / tokens_of_all

    def hypotheses(
        self, sources: Sequence[Sequence[int]], how: Decoding, rows: Sequence[int] | None = None
    ) -> list[list[Hypothesis]]:
        """What the model writes for each source, in their order, best first. rows: the numbers of the sources
        in the data (default 0, 1, ...), by which samples are drawn."""
        found: list[list[Hypothesis]] = [[] for _ in sources]
        if not found:
            return found
        empty: list[list[int]] = [[] for _ in sources]
        numbers = np.arange(len(sources)) if rows is None else np.asarray(rows)
        tokens = max(1, EVALUATION_TOKENS // how.rows)
        for batch in pair_batches(sources, empty, batch_tokens=tokens, shuffle=False):
            several = written(self.model, batch, how, self.max_output, numbers[batch.index])
            for row, best in zip(batch.index, several, strict=True):
                found[row] = best
        return found

    def decode(self, sources: Sequence[Sequence[int]], how: Decoding | int = 1) -> list[list[int]]:
        """The best target ids for source ids, in their order. how: a `Decoding`, or the width of a beam."""
        how = how if isinstance(how, Decoding) else Decoding(beam=how)
        mine = my_rows(len(sources))
        found = self.hypotheses([sources[i] for i in mine], how, mine.tolist())
        return all_lists([best[0].tokens for best in found], len(sources))

    def attention(self, text: str, target: Sequence[int], finished: bool = True) -> Attention:
        """What the model attends to while it writes these target ids, and `</s>` where it is `finished`."""
        ids = self.source.ids(text)
        tokens = self.source.tokens(text) or self.source.vocabulary.tokens(ids)
        wanted = [*target, EOS] if finished else list(target)
        weights = self.model.alignment(np.array([ids]), None, np.array([[BOS, *wanted[:-1]]]))[0]
        spelled = self.target.vocabulary.tokens(wanted)
        return Attention(labels(self.source, tokens), labels(self.target, spelled), weights)

    def drawable(self, data: PairRows) -> int:
        """The first row whose attention can be drawn. Raises DataError where all are too long."""
        for i, (source, target) in enumerate(zip(data.sources, data.targets, strict=True)):
            if max(len(source), len(target) + 1) <= MOST:
                return i
        raise DataError(
            f"no pair is short enough to draw its attention (at most {MOST} tokens): leave out "
            "--draw-attention"
        )

    def evaluate(
        self,
        data: PairRows,
        how: Decoding | int = 1,
        group: bool = False,
        metrics: Iterable[str] | None = None,
        lowercase: bool = False,
    ) -> dict[str, Any]:
        """loss, perplexity, exact_match, token_error_rate, the `metrics` (default: those of `watch`), n.

        group: rows of one source are one row with several right answers, of which the closest counts; "wer"
        and "per" always group. how: see `decode`. lowercase: BLEU and chrF do not tell Word from word. See
        `text_metrics`.
        """
        loss = self.mean_loss(data)
        names = self.metrics if metrics is None else metric_names(metrics)
        questions = data.questions(group or bool(set(names) & set(GROUPING)))
        scores = {"loss": loss, "perplexity": perplexity(loss)}
        return scores | self._written(questions, how, names, lowercase) | {"n": len(questions)}

    def _written(
        self, questions: Questions, how: Decoding | int, metrics: Sequence[str], lowercase: bool = False
    ) -> dict[str, Any]:
        """The scores of what the model writes."""
        decoded = self.decode(questions.sources, how)
        guesses = [self.target.decode_tokens(ids) for ids in decoded]
        closest = best_references(guesses, questions.references)
        texts = [self.target.decode(ids) for ids in decoded]
        return {
            "exact_match": exact_match(guesses, closest),
            "token_error_rate": token_error_rate(guesses, closest),
            **written_scores(metrics, texts, questions.texts, guesses, questions.references, lowercase),
        }

    def watch(self, name: str) -> None:
        """Score every epoch by this too: a metric of `text_metrics`, "rougeL" or "perplexity" say."""
        self.watched, self.metrics = name, metric_names([name])

    def validate(self, data: PairRows) -> dict[str, float]:
        """The scores that are recorded each epoch: the loss of all rows, the others of the first few hundred
        sources."""
        questions = data.questions(bool(set(self.metrics) & set(GROUPING))).first(VALIDATION_DECODED)
        loss = self.mean_loss(data)
        scores = {"loss": loss, "perplexity": perplexity(loss), **self._written(questions, 1, self.metrics)}
        recorded = dict.fromkeys(("loss", "exact_match", "token_error_rate", self.watched))
        return {name: scores[name] for name in recorded}

    def predict(self, texts: Sequence[str], how: Decoding | int = 1) -> list[str]:
        """The target text of each source text."""
        return [self.target.decode(ids) for ids in self.decode(self.source.encode(texts), how)]

    @classmethod
    def load(cls, path: str | Path, config: dict[str, Any]) -> SequenceToSequence:
        """The model of a run folder whose config.json is `config`, on the current device."""
        source, target = (run.read_field(path, config, name) for name in ("source", "target"))
        longest = config.get("max_output")
        if type(longest) is not int or not 1 <= longest <= 1_000_000:
            raise CheckpointError(
                f"{Path(path) / run.CONFIG}: max_output is {longest!r}, not a length; train again"
            )
        model = load_model(
            path, config, SEQ2SEQ,
            source_vocabulary_size=len(source.vocabulary), target_vocabulary_size=len(target.vocabulary),
        )  # fmt: skip
        assert isinstance(model, EncoderDecoder)
        return cls(model, source, target, longest)
