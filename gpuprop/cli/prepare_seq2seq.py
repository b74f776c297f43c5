"""From the options of `gpuprop train seq2seq` and the user's pairs to a task with encoded rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..backend.arrays import to_device
from ..errors import DataError
from ..models import ConvSeq2Seq, EncoderDecoder, Seq2Seq, Transformer
from ..text.embeddings import Vectors
from ..text.field import TextField
from ..text.files import read_pairs
from ..training.pair_rows import PairRows
from ..training.presets import PRESETS
from ..training.seq2seq import SequenceToSequence
from ..training.session import Settings, freeze
from .options_seq2seq import Seq2SeqOptions
from .prepare import Prepared, build_field, read_vectors, split_rows, watched


def prepare_seq2seq(options: Seq2SeqOptions) -> Prepared:
    """Read and encode pairs of texts and build the encoder-decoder."""
    sources, targets = read_pairs(options.train)
    kept, held = split_rows(len(sources), options, sources)
    source, target = build_fields([sources[i] for i in kept], [targets[i] for i in kept], options)
    vectors = read_vectors(options, source.vocabulary)
    model = build_model(options, len(source.vocabulary), len(target.vocabulary), vectors)
    task = SequenceToSequence(model, source, target, 1, options.label_smoothing)
    task.watch(options.best_by)
    rows = task.encode(sources, targets, options.train)
    train = rows.take(kept)
    valid = rows.take(held) if options.valid is None else task.read(options.valid)
    test = None if options.test is None else task.read(options.test)
    # half as long again as anything seen: enough for a good model, and a bound for one that never ends
    task.max_output = max(map(len, train.targets)) * 3 // 2 + 5
    if model.longest is not None:
        task.max_output = min(task.max_output, model.longest)
    sizes = f"{len(source.vocabulary):,} and {len(target.vocabulary):,}"
    names = f"{source.tokenizer.name} and {target.tokenizer.name}"
    notes = [f"vocabularies of {sizes} entries (tokenizers {names})"]
    if vectors is not None:
        notes.append(start_from(vectors, model, options))
    settings = options.settings(64, 1e-3, 1.0, watched(options.best_by))
    settings = replace(
        settings,
        draw_attention=options.draw_attention,
        warmup_steps=gentle_warmup(options, settings, task, train),
    )
    return Prepared(task, train, valid, test, settings, notes)


def gentle_warmup(
    options: Seq2SeqOptions, settings: Settings, task: SequenceToSequence, train: PairRows
) -> int:
    """The steps of warm-up; those of a preset are at most a fifth of the steps that the data give."""
    if options.warmup_steps != PRESETS.get(options.preset or "", {}).get("warmup_steps"):
        return settings.warmup_steps
    batches = len(task.batches(train, settings.batch_size, settings.seed, settings.batch_tokens))
    steps = -(-batches // settings.accumulate) * settings.epochs
    return min(settings.warmup_steps, steps // 5)


def build_fields(
    sources: Sequence[str], targets: Sequence[str], options: Seq2SeqOptions
) -> tuple[TextField, TextField]:
    """Tokenizers and vocabularies of both sides; with --joint one for both."""
    names = [side or options.tokenizer for side in (options.source_tokenizer, options.target_tokenizer)]
    if not options.joint:
        return build_field(sources, names[0], options), build_field(targets, names[1], options)
    if names[0] != names[1]:
        raise DataError(f"--joint means one tokenizer for both sides, not {names[0]} and {names[1]}")
    field = build_field([*sources, *targets], names[0], options)
    return field, field


def build_model(
    options: Seq2SeqOptions, source_size: int, target_size: int, vectors: Vectors | None
) -> EncoderDecoder:
    """The untrained encoder-decoder that the options describe."""
    if options.tied == "all" and not options.joint:
        raise DataError("--tied all needs one vocabulary for sources and targets: add --joint")
    size = options.embedding_dim if vectors is None else int(vectors.weight.shape[1])
    common: dict[str, Any] = {
        "embedding_dim": size,
        "dropout": options.dropout or 0.0,
        "tied": options.tied,
    }
    make = MAKERS.get(options.model, _recurrent)
    return make(options, (source_size, target_size), common)


def _recurrent(options: Seq2SeqOptions, sizes: tuple[int, int], common: dict[str, Any]) -> EncoderDecoder:
    return Seq2Seq(
        *sizes,
        hidden_size=options.hidden or 256,
        num_layers=options.layers or 1,
        cell=options.model,
        attention=options.attention,
        input_feeding=options.input_feeding,
        **common,
    )


def _transformer(options: Seq2SeqOptions, sizes: tuple[int, int], common: dict[str, Any]) -> EncoderDecoder:
    return Transformer(
        *sizes,
        num_heads=options.heads,
        feedforward=options.hidden or 4 * common["embedding_dim"],
        num_layers=options.layers or 3,
        norm=options.norm,
        activation=options.activation,
        positions=options.positions,
        max_positions=options.max_positions,
        **common,
    )


def _conv(options: Seq2SeqOptions, sizes: tuple[int, int], common: dict[str, Any]) -> EncoderDecoder:
    return ConvSeq2Seq(
        *sizes,
        channels=options.hidden or 256,
        num_layers=options.layers or 4,
        kernel_size=options.kernel_size,
        positions=options.positions,
        max_positions=options.max_positions,
        **common,
    )


MAKERS: dict[str, Callable[[Seq2SeqOptions, tuple[int, int], dict[str, Any]], EncoderDecoder]] = {
    "transformer": _transformer,
    "conv": _conv,
}


def start_from(vectors: Vectors, model: EncoderDecoder, options: Seq2SeqOptions) -> str:
    """Put word vectors into the source's table; what to tell the user."""
    weight = model.source_table.weight
    weight.data[...] = to_device(vectors.weight, weight.device)
    if options.embeddings_mode == "static":
        freeze(weight)
    return f"{options.embeddings}: has vectors for {vectors.coverage:.1%} of the source vocabulary"
