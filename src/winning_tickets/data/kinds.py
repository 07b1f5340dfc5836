"""KINDS: what each kind of task asks of a model, one record each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from winning_tickets.data.encode import Array, EncodedSplit, encode
from winning_tickets.data.label_sets import label_set_metrics
from winning_tickets.data.metrics import compute
from winning_tickets.data.spans import best_answers, squad_metrics
from winning_tickets.data.squad import Answers, encode_windows
from winning_tickets.data.tasks import Kind, Split, Task
from winning_tickets.data.words import CUT_OFF, encode_words, word_metrics, word_predictions
from winning_tickets.plm import Head

Outputs = Sequence[Array]
"""Logits of each item: `(outputs,)`, or `(tokens, outputs)`."""
Score = Callable[[Task, Outputs, EncodedSplit, Split], tuple[dict[str, float], bool]]
Tell = Callable[[Outputs, EncodedSplit, Split, tuple[str, ...]], list[dict[str, Any]]]


@dataclass(frozen=True)
class TaskKind:
    """One kind of task.

    Attributes:
        head: what `load_plm` puts on the encoder.
        problem_type: what transformers calls it, where it needs to know.
        encode: split, tokenizer, `max_length`, `doc_stride` -> items for the model.
        score: the metrics of a task by name, and whether the predictions say nothing.
        unlabelled: new texts, one list a column, as a split.
        tell: what is predicted for each example, in words.
    """

    head: Head
    problem_type: str | None
    encode: Callable[[Split, Any, int, int], EncodedSplit]
    score: Score
    unlabelled: Callable[[tuple[list[str], ...]], Split]
    tell: Tell


def outputs_of(kind: Kind, labels: Sequence[str]) -> int:
    """How many outputs the head of a kind has; of spans the logits of start and end."""
    return {"regression": 1, "span": 2}.get(kind, len(labels))


def _whole(split: Split, tokenizer: Any, max_length: int, doc_stride: int) -> EncodedSplit:
    return encode(split, tokenizer, max_length)


def _words(split: Split, tokenizer: Any, max_length: int, doc_stride: int) -> EncodedSplit:
    return encode_words(split, tokenizer, max_length)


def _score_classes(task: Task, outputs: Outputs, encoded: EncodedSplit, split: Split) -> tuple[dict[str, float], bool]:
    return compute(task, np.stack(outputs).argmax(-1), np.asarray(split.labels))


def _score_numbers(task: Task, outputs: Outputs, encoded: EncodedSplit, split: Split) -> tuple[dict[str, float], bool]:
    return compute(task, np.stack(outputs)[:, 0], np.asarray(split.labels))


def _score_sets(task: Task, outputs: Outputs, encoded: EncodedSplit, split: Split) -> tuple[dict[str, float], bool]:
    return label_set_metrics(task, np.stack(outputs) > 0, np.asarray(split.labels))


def _score_words(task: Task, outputs: Outputs, encoded: EncodedSplit, split: Split) -> tuple[dict[str, float], bool]:
    return word_metrics(task, word_predictions(outputs, encoded), split.labels)


def _score_spans(task: Task, outputs: Outputs, encoded: EncodedSplit, split: Split) -> tuple[dict[str, float], bool]:
    """All answers empty is what says nothing."""
    found = [answer.text for answer in best_answers(outputs, encoded, split.texts[1])]
    values = squad_metrics(found, [answers.texts for answers in split.labels])
    return {name: values[name] for name in task.metrics}, not any(found)


def _tell_classes(
    outputs: Outputs, encoded: EncodedSplit, split: Split, labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    rows = []
    for logits in outputs:
        odds = np.exp(logits.astype(np.float64) - logits.max())
        scores = (odds / odds.sum()).tolist()
        rows.append({"label": labels[int(logits.argmax())], "scores": dict(zip(labels, scores, strict=True))})
    return rows


def _tell_numbers(
    outputs: Outputs, encoded: EncodedSplit, split: Split, labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    return [{"score": float(logits[0])} for logits in outputs]


def _tell_sets(outputs: Outputs, encoded: EncodedSplit, split: Split, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = []
    for logits in outputs:
        scores = (0.5 * (1 + np.tanh(logits.astype(np.float64) / 2))).tolist()
        chosen = [name for name, value in zip(labels, logits, strict=True) if value > 0]
        rows.append({"labels": chosen, "scores": dict(zip(labels, scores, strict=True))})
    return rows


def _tell_words(outputs: Outputs, encoded: EncodedSplit, split: Split, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """None for words that lie behind `max_length`."""
    return [
        {"words": words, "labels": [None if index == CUT_OFF else labels[index] for index in found]}
        for words, found in zip(split.texts[0], word_predictions(outputs, encoded), strict=True)
    ]


def _tell_spans(outputs: Outputs, encoded: EncodedSplit, split: Split, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    found = best_answers(outputs, encoded, split.texts[1])
    return [{"answer": answer.text, "start": answer.start, "score": answer.score} for answer in found]


def _texts(texts: tuple[list[str], ...]) -> Split:
    return Split(texts, [0] * len(texts[0]))


def _word_lists(texts: tuple[list[str], ...]) -> Split:
    words = [text.split() for text in texts[0]]
    return Split((words,), [[0] * len(row) for row in words])


def _questions(texts: tuple[list[str], ...]) -> Split:
    return Split(texts, [Answers()] * len(texts[0]))


KINDS: dict[Kind, TaskKind] = {
    "classification": TaskKind(
        "classification", "single_label_classification", _whole, _score_classes, _texts, _tell_classes
    ),
    "regression": TaskKind("classification", "regression", _whole, _score_numbers, _texts, _tell_numbers),
    "multilabel": TaskKind("classification", "multi_label_classification", _whole, _score_sets, _texts, _tell_sets),
    "tokens": TaskKind("tokens", None, _words, _score_words, _word_lists, _tell_words),
    "span": TaskKind("span", None, encode_windows, _score_spans, _questions, _tell_spans),
}
