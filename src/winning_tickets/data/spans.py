"""Answers as pieces of a text: the best span over all windows, and the official metrics of SQuAD v1.1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from winning_tickets.data.encode import Array, EncodedSplit

MAX_ANSWER_TOKENS = 30
N_BEST = 20
"""Starts and ends that are looked at in each window, those with the highest logits."""


class Answer(NamedTuple):
    """A predicted answer.

    Attributes:
        text: a piece of the context; empty where no span is possible.
        start: its first character in the context; None for an empty answer.
        score: logit of its start plus logit of its end; None for an empty answer.
    """

    text: str
    start: int | None
    score: float | None


def best_answers(outputs: Sequence[Array], encoded: EncodedSplit, contexts: Sequence[str]) -> list[Answer]:
    """The best answer to each question: the span with the highest sum of logits in any of its windows.

    Args:
        outputs: for each window the logits `(tokens, 2)` of start and end.
        encoded: the windows.
        contexts: the texts, one for each question.
    """
    assert encoded.owners is not None
    assert encoded.places is not None
    best: dict[int, tuple[float, int, int]] = {}
    for logits, owner, offsets in zip(outputs, encoded.owners, encoded.places, strict=True):
        span = best_span(logits, offsets[:, 0] >= 0)
        if span is not None and (owner not in best or span[0] > best[owner][0]):
            score, first, last = span
            best[owner] = score, int(offsets[first, 0]), int(offsets[last, 1])
    return [_cut(context, best.get(index)) for index, context in enumerate(contexts)]


def best_span(logits: Array, allowed: Array) -> tuple[float, int, int] | None:
    """The span of one window with the highest sum of logits; of equal ones the one whose start, then end, ranks first.

    Args:
        logits: `(tokens, 2)` of start and end.
        allowed: `(tokens,)`, true for tokens of the context.

    Returns:
        Score, first and last token; None where no span of at most `MAX_ANSWER_TOKENS` joins the `N_BEST` starts and
        ends.
    """
    inside = np.flatnonzero(allowed)
    values = logits.astype(np.float64)
    firsts, lasts = (inside[np.argsort(-values[inside, side], kind="stable")[:N_BEST]] for side in (0, 1))
    length = lasts[None, :] - firsts[:, None] + 1
    valid = (length >= 1) & (length <= MAX_ANSWER_TOKENS)
    if not valid.any():
        return None
    scores = np.where(valid, values[firsts, 0][:, None] + values[lasts, 1][None, :], -np.inf)
    row, column = np.unravel_index(np.argmax(scores), scores.shape)
    return float(scores[row, column]), int(firsts[row]), int(lasts[column])


def _cut(context: str, span: tuple[float, int, int] | None) -> Answer:
    """The text of a span; some tokenizers count the blank before a word to it."""
    if span is None:
        return Answer("", None, None)
    score, start, stop = span
    piece = context[start:stop]
    return Answer(piece.strip(), start + len(piece) - len(piece.lstrip()), score)


def normalise(text: str) -> str:
    """What the official script compares: lower case, without ASCII punctuation, articles and superfluous blanks."""
    kept = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


_PUNCTUATION = frozenset(string.punctuation)


def token_f1(prediction: str, truth: str) -> float:
    """F1 of the words that two answers have in common; 0 where there are none, as in the official script for v1.1."""
    found, expected = normalise(prediction).split(), normalise(truth).split()
    common = sum((Counter(found) & Counter(expected)).values())
    return 2 * common / (len(found) + len(expected)) if common else 0.0


def squad_metrics(predictions: Sequence[str], truths: Sequence[Sequence[str]]) -> dict[str, Any]:
    """`f1` and `exact_match` as fractions: for each question the best over its true answers, then the mean.

    Args:
        predictions: one answer a question.
        truths: one or more right answers to each.
    """
    pairs = list(zip(predictions, truths, strict=True))
    exact = [max(float(normalise(found) == normalise(truth)) for truth in right) for found, right in pairs]
    f1 = [max(token_f1(found, truth) for truth in right) for found, right in pairs]
    return {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact))}
