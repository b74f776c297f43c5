"""Scores of written texts by name: BLEU and chrF of sacrebleu, ROUGE of rouge-score, and error rates.

    bleu, chrf               corpus scores in points (Papineni et al. 2002; Popović 2015), with a signature
                             that says how they were computed (Post 2018)
    rouge1, rouge2, rougeL   the mean F1 of a text in points (Lin 2004), without stemming; the package reads
                             Latin letters and digits only, in small letters
    wer                      the share of sources whose output is none of its references
    per                      edit distances to the closest references, divided by the tokens of these

Of several references ROUGE counts the best, `wer` and `per` the closest; BLEU and chrF use all.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import DataError
from .metrics import best_references, exact_match, token_error_rate

METRICS = ("bleu", "chrf", "rouge", "wer", "per")
ALWAYS = ("loss", "perplexity", "exact_match", "token_error_rate")  # scored without being asked for
GROUPING = ("wer", "per")  # of sources, not of rows
POINTS = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")
ROUGE = POINTS[2:]
_PACKAGES = {"bleu": "sacrebleu", "chrf": "sacrebleu", "rouge": "rouge_score"}

Texts = Sequence[str]
Tokens = Sequence[Sequence[str]]


def metric_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """The metrics behind "bleu,wer" or a list, in the order of METRICS; "rougeL" is "rouge", and what is
    always scored is left out. Raises DataError for an unknown name, or for one whose package is missing."""
    asked = {name.strip() for name in (names.split(",") if isinstance(names, str) else names)}
    unknown = asked - {*METRICS, *ROUGE, *ALWAYS}
    if unknown:
        known = ", ".join((*METRICS, *ALWAYS))
        raise DataError(f"unknown metric {min(unknown)!r}; known are {known}, separated by commas")
    wanted = {"rouge" if name in ROUGE else name for name in asked}
    found = tuple(name for name in METRICS if name in wanted)
    for name in found:
        if name in _PACKAGES:
            _package(_PACKAGES[name])
    return found


def perplexity(loss: float) -> float:
    """e^loss of a mean cross-entropy a token; the largest float where that is beyond it."""
    return math.exp(loss) if loss < math.log(sys.float_info.max) else sys.float_info.max


def written_scores(
    names: Iterable[str],
    texts: Texts,
    references: Sequence[Texts],
    tokens: Tokens,
    reference_tokens: Sequence[Tokens],
    lowercase: bool = False,
) -> dict[str, Any]:
    """The scores of N outputs: `texts` and their `tokens`, each against several references.

    lowercase: BLEU and chrF do not tell Word from word. Keys are those of the table above, and
    `bleu_signature` and `chrf_signature`.
    """
    scores: dict[str, Any] = {}
    for name in names:
        if name in GROUPING:
            closest = best_references(tokens, reference_tokens)
            wrong = 1.0 - exact_match(tokens, closest)
            scores[name] = wrong if name == "wer" else token_error_rate(tokens, closest)
        elif name == "rouge":
            scores |= rouge(texts, references)
        else:
            scores |= _CORPUS[name](texts, references, lowercase)
    return scores


def bleu(texts: Texts, references: Sequence[Texts], lowercase: bool = False) -> dict[str, Any]:
    """BLEU in points, by sacrebleu's default tokenizer, and its signature."""
    return _corpus_score("bleu", _package("sacrebleu").metrics.BLEU, texts, references, lowercase, force=True)


def chrf(texts: Texts, references: Sequence[Texts], lowercase: bool = False) -> dict[str, Any]:
    """chrF2 in points, and its signature."""
    return _corpus_score("chrf", _package("sacrebleu").metrics.CHRF, texts, references, lowercase)


def rouge(texts: Texts, references: Sequence[Texts]) -> dict[str, float]:
    """rouge1, rouge2, rougeL: the mean F1 in points; of several references the best counts."""
    scorer = _package("rouge_score.rouge_scorer").RougeScorer(list(ROUGE), use_stemmer=False)
    totals = dict.fromkeys(ROUGE, 0.0)
    for text, several in zip(texts, references, strict=True):
        for name, score in scorer.score_multi(list(several), text).items():
            totals[name] += score.fmeasure
    return {name: 100.0 * total / len(texts) for name, total in totals.items()}


_CORPUS: dict[str, Callable[[Texts, Sequence[Texts], bool], dict[str, Any]]] = {"bleu": bleu, "chrf": chrf}


def _corpus_score(
    name: str, kind: Any, texts: Texts, references: Sequence[Texts], lowercase: bool, **options: Any
) -> dict[str, Any]:
    metric = kind(lowercase=lowercase, **options)
    # sacrebleu takes the first references of all texts, then the second ones, None where there is none
    streams = [
        [several[i] if i < len(several) else None for several in references]
        for i in range(max(map(len, references)))
    ]
    score = metric.corpus_score(list(texts), streams).score
    return {name: float(score), f"{name}_signature": str(metric.get_signature())}


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0].replace("_", "-")
        raise DataError(f'this metric needs the {package} package: pip install "gpuprop[text]"') from error
