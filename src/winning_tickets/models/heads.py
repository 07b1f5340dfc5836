"""A model for a task: the right head with the names of its labels, and how long its texts may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from winning_tickets.data.encode import Array, EncodedSplit, encode
from winning_tickets.data.metrics import compute
from winning_tickets.data.records import Answers, Kind, Split, Task
from winning_tickets.data.squad import best_answers, encode_windows, squad_metrics
from winning_tickets.data.token_labels import CUT_OFF, encode_words, word_metrics, word_predictions
from winning_tickets.models.loading import PLM, Head
from winning_tickets.runs.errors import UsageError


def label_set_metrics(task: Task, predictions: Array, labels: Array) -> tuple[dict[str, float], bool]:
    """Metrics over all pairs of a text and a class.

    Args:
        task: which metrics.
        predictions: `(examples, classes)`, 1 where a text is said to be of a class.
        labels: the truth, likewise.

    Returns:
        The metrics by name, and whether all texts got the same classes.
    """
    common = np.sum((predictions == 1) & (labels == 1), axis=0)
    total = np.sum(predictions == 1, axis=0) + np.sum(labels == 1, axis=0)
    known = {
        "micro_f1": 2 * common.sum() / max(total.sum(), 1),
        "macro_f1": np.mean(2 * common / np.maximum(total, 1)),
        "exact_match": np.mean(np.all(predictions == labels, axis=1)),
    }
    return {name: float(known[name]) for name in task.metrics}, len(np.unique(predictions, axis=0)) <= 1


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


def load_for_task(load: Callable[..., PLM], task: Task) -> PLM:
    """The dense base model with a fresh head for the task, which knows the names of the labels and its dropout.

    Args:
        load: loads the model with the `head` and `num_labels` that it is given.
        task: what the head is for.
    """
    kind = KINDS[task.kind]
    plm = load(head=kind.head, num_labels=outputs_of(task.kind, task.labels))
    plm.model.config.problem_type = kind.problem_type
    if task.labels:
        plm.model.config.id2label = dict(enumerate(task.labels))
        plm.model.config.label2id = {label: index for index, label in enumerate(task.labels)}
    if task.head_dropout is not None:
        inside = set(plm.encoder.modules())
        for module in plm.model.modules():
            if isinstance(module, nn.Dropout) and module not in inside:
                module.p = task.head_dropout
    return plm


def with_seed(load: Callable[..., PLM], seed: int) -> Callable[..., PLM]:
    """The same loader, whose fresh heads come from the seed alone, whatever the state of the global generators."""

    def seeded(**options: Any) -> PLM:
        with torch.random.fork_rng(devices=[]):  # a model is made on the CPU
            torch.default_generator.manual_seed(seed)
            return load(**options)

    return seeded


def text_length(asked: int | None, task: Task, plm: PLM) -> int:
    """Tokens that a text is cut to: what was asked for, else the task's number as far as the model reaches.

    Raises:
        UsageError: longer than the model can read, or too short for a single word of each text.
    """
    settings = plm.model.config
    # RoBERTa and MPNet count their positions from behind the padding index of the position embeddings.
    padding = getattr(getattr(plm.encoder.embeddings, "position_embeddings", None), "padding_idx", None)
    offset = 0 if padding is None else padding + 1
    longest = min(settings.max_position_embeddings - offset, plm.tokenizer.model_max_length)
    columns = len(task.text_columns)
    shortest = plm.tokenizer.num_special_tokens_to_add(pair=columns == 2) + columns
    if asked is None:
        return int(min(task.max_length, longest))
    if not shortest <= asked <= longest:
        raise UsageError(f"--max-length {asked} is impossible; {plm.name} reads {shortest} to {longest}.")
    return asked


def window_stride(asked: int | None, task: Task, max_length: int) -> int | None:
    """Tokens from one window to the next: what was asked for, else the task's; None for tasks without windows.

    Raises:
        UsageError: the task has no windows, or a step that is longer than one.
    """
    if asked is None:
        return task.doc_stride
    if task.kind != "span":
        raise UsageError(
            f"--doc-stride goes with answers in texts (--task squad, or JSON of that kind); {task.name} has none."
        )
    if asked >= max_length:
        raise UsageError(
            f"--doc-stride {asked} is impossible: windows of {max_length} tokens would leave gaps; "
            "give fewer, such as 128."
        )
    return asked
