"""Task heads: for each kind of task its head, encoding, metrics and predictions; loading a model for a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from winning_tickets.config.objective import TEXT_NAMES
from winning_tickets.data.encode import Array, EncodedSplit, encode
from winning_tickets.data.metrics import compute_metrics
from winning_tickets.data.records import Answers, Kind, Split, Task
from winning_tickets.data.squad import best_answers, encode_windows, squad_metrics
from winning_tickets.data.token_labels import CUT_OFF, encode_words, word_metrics, word_predictions
from winning_tickets.models.loading import PLM, Head
from winning_tickets.runs.errors import UsageError


def label_set_metrics(task: Task, predictions: Array, labels: Array) -> tuple[dict[str, float], bool]:
    """Compute metrics of label sets, 0 or 1 in `(examples, classes)`, and whether all examples got the same set."""
    common = np.sum((predictions == 1) & (labels == 1), axis=0)
    total = np.sum(predictions == 1, axis=0) + np.sum(labels == 1, axis=0)
    known = {
        "micro_f1": 2 * common.sum() / max(total.sum(), 1),
        "macro_f1": np.mean(2 * common / np.maximum(total, 1)),
        "exact_match": np.mean(np.all(predictions == labels, axis=1)),
    }
    return {name: float(known[name]) for name in task.metrics}, len(np.unique(predictions, axis=0)) <= 1


Outputs = Sequence[Array]  # logits of each item: `(outputs,)`, or `(tokens, outputs)`
Scored = tuple[dict[str, float], bool]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class TaskKind:
    """One kind of task."""

    head: Head
    problem_type: str | None  # name of the kind in transformers, where it has one
    encode: Callable[[Split, Any, int, int], EncodedSplit]
    """Tokenize a split with a tokenizer, `max_length` and `doc_stride`."""
    score: Callable[[Task, Outputs, EncodedSplit, Split], Scored]
    """Return the metrics of a task by name, and whether the predictions are degenerate (all equal)."""
    unlabelled: Callable[[tuple[list[str], ...]], Split]  # make a split of new texts, one list per column
    predict: Callable[[Outputs, EncodedSplit, Split, tuple[str, ...]], Rows]
    """Return the prediction for each example, given the names of the labels."""


def num_outputs(kind: Kind, labels: Sequence[str]) -> int:
    """Return the number of outputs of a head; for spans 2, the logits of start and end."""
    return {"regression": 1, "span": 2}.get(kind, len(labels))


def _score_spans(task: Task, outputs: Outputs, encoded: EncodedSplit, split: Split) -> Scored:
    found = [answer.text for answer in best_answers(outputs, encoded, split.texts[1])]
    values = squad_metrics(found, [answers.texts for answers in split.labels])
    return {name: values[name] for name in task.metrics}, not any(found)  # degenerate: all empty


def _predict_classes(outputs: Outputs, encoded: EncodedSplit, split: Split, labels: tuple[str, ...]) -> Rows:
    rows = []
    for logits in outputs:
        odds = np.exp(logits.astype(np.float64) - logits.max())
        scores = (odds / odds.sum()).tolist()
        rows.append({"label": labels[int(logits.argmax())], "scores": dict(zip(labels, scores, strict=True))})
    return rows


def _predict_sets(outputs: Outputs, encoded: EncodedSplit, split: Split, labels: tuple[str, ...]) -> Rows:
    rows = []
    for logits in outputs:
        scores = (0.5 * (1 + np.tanh(logits.astype(np.float64) / 2))).tolist()
        chosen = [name for name, value in zip(labels, logits, strict=True) if value > 0]
        rows.append({"labels": chosen, "scores": dict(zip(labels, scores, strict=True))})
    return rows


def _predict_words(outputs: Outputs, encoded: EncodedSplit, split: Split, labels: tuple[str, ...]) -> Rows:
    # Words after `max_length` have no label: None.
    return [
        {"words": words, "labels": [None if index == CUT_OFF else labels[index] for index in found]}
        for words, found in zip(split.texts[0], word_predictions(outputs, encoded), strict=True)
    ]


def _predict_spans(outputs: Outputs, encoded: EncodedSplit, split: Split, labels: tuple[str, ...]) -> Rows:
    found = best_answers(outputs, encoded, split.texts[1])
    return [{"answer": answer.text, "start": answer.start, "score": answer.score} for answer in found]


def _new_words(texts: tuple[list[str], ...]) -> Split:
    words = [text.split() for text in texts[0]]
    return Split((words,), [[0] * len(row) for row in words])


_CLASSIFICATION = TaskKind(
    head="classification",
    problem_type="single_label_classification",
    encode=lambda split, tokenizer, max_length, _: encode(split, tokenizer, max_length),
    score=lambda task, outputs, _, split: compute_metrics(task, np.stack(outputs).argmax(-1), np.asarray(split.labels)),
    unlabelled=lambda texts: Split(texts, [0] * len(texts[0])),
    predict=_predict_classes,
)
KINDS: dict[Kind, TaskKind] = {  # tasks with labeled examples; `mlm` and `clm` need text only
    "classification": _CLASSIFICATION,
    "regression": replace(
        _CLASSIFICATION,
        problem_type="regression",
        score=lambda task, outputs, _, split: compute_metrics(task, np.stack(outputs)[:, 0], np.asarray(split.labels)),
        predict=lambda outputs, *_: [{"score": float(logits[0])} for logits in outputs],
    ),
    "multilabel": replace(
        _CLASSIFICATION,
        problem_type="multi_label_classification",
        score=lambda task, outputs, _, split: label_set_metrics(task, np.stack(outputs) > 0, np.asarray(split.labels)),
        predict=_predict_sets,
    ),
    "tokens": TaskKind(
        head="tokens",
        problem_type=None,
        encode=lambda split, tokenizer, max_length, _: encode_words(split, tokenizer, max_length),
        score=lambda task, outputs, encoded, split: word_metrics(
            task, word_predictions(outputs, encoded), split.labels
        ),
        unlabelled=_new_words,
        predict=_predict_words,
    ),
    "span": TaskKind(
        head="span",
        problem_type=None,
        encode=encode_windows,
        score=_score_spans,
        unlabelled=lambda texts: Split(texts, [Answers()] * len(texts[0])),
        predict=_predict_spans,
    ),
}


def head_of(kind: Kind) -> Head:
    """Return the head of a kind of task."""
    return cast(Head, kind) if kind in TEXT_NAMES else KINDS[kind].head


def ensure_padding(plm: PLM) -> None:
    """Let a decoder without a padding token use its end-of-text token; the attention mask tells them apart."""
    if not plm.architecture.causal:
        return
    if plm.tokenizer.pad_token_id is None:
        if plm.tokenizer.eos_token_id is None:
            raise UsageError(
                f"The tokenizer of {plm.name} has neither a padding nor an end-of-text token, so texts of several "
                "lengths cannot be read together; set pad_token in its tokenizer_config.json."
            )
        plm.tokenizer.pad_token = plm.tokenizer.eos_token
    plm.model.config.pad_token_id = plm.tokenizer.pad_token_id  # the head reads the last token that is not padding


def load_for_task(load: Callable[..., PLM], task: Task) -> PLM:
    """Load a model with a fresh head for a task, its label names and its dropout; `load` is a bound `load_plm`."""
    # The head of a language model is not fresh, but pre-trained.
    if task.kind in TEXT_NAMES:
        return load(head=task.kind, require_mlm_head=True)
    kind = KINDS[task.kind]
    plm = load(head=kind.head, num_labels=num_outputs(task.kind, task.labels))
    plm.model.config.problem_type = kind.problem_type
    ensure_padding(plm)
    if task.labels:
        plm.model.config.id2label = dict(enumerate(task.labels))
        plm.model.config.label2id = {label: index for index, label in enumerate(task.labels)}
    if task.head_dropout is not None:
        inside = set(plm.encoder.modules())
        for module in plm.model.modules():
            if isinstance(module, nn.Dropout) and module not in inside:
                module.p = task.head_dropout
    return plm


def seeded_loader(load: Callable[..., PLM], seed: int) -> Callable[..., PLM]:
    """Return a loader whose fresh heads depend on the seed alone, not on the global generators."""

    def seeded(**options: Any) -> PLM:
        with torch.random.fork_rng(devices=[]):  # a model is made on the CPU
            torch.default_generator.manual_seed(seed)
            return load(**options)

    return seeded


def choose_max_length(asked: int | None, task: Task, plm: PLM) -> int:
    """Return the tokens that a text is cut to: the given number, else the task's, but at most the model's maximum."""
    longest = plm.tokenizer.model_max_length
    columns = len(task.text_columns)
    shortest = plm.tokenizer.num_special_tokens_to_add(pair=columns == 2) + columns
    if asked is None:
        return int(min(task.max_length, longest))
    if not shortest <= asked <= longest:
        raise UsageError(f"--max-length {asked} is impossible; {plm.name} reads {shortest} to {longest}.")
    return asked


def choose_doc_stride(asked: int | None, task: Task, max_length: int) -> int | None:
    """Return the number of tokens from one window to the next: the given one, else the task's; None without windows."""
    if asked in (None, task.doc_stride):  # by default, windows that are shorter than that adjoin
        return task.doc_stride
    if task.kind != "span":
        raise UsageError(f"--doc-stride needs answers in texts, such as --task squad; {task.name} has none.")
    if asked >= max_length:
        raise UsageError(f"--doc-stride {asked} is impossible: {max_length} tokens would leave gaps; give fewer.")
    return asked
