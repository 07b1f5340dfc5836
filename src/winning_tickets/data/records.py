"""Tasks, their splits and their data: `Task`, `Split`, `TaskData`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from winning_tickets.data.readers import fingerprint

Kind = Literal["classification", "regression", "multilabel", "tokens", "span"]
"""One class, a score, any number of classes, a class for each word, or an answer in a text."""
METRICS_OF: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
    "multilabel": ("micro_f1", "macro_f1", "exact_match"),
    "tokens": ("f1", "macro_f1", "accuracy"),
    "span": ("f1", "exact_match"),
}
METRICS = (*METRICS_OF["classification"], *METRICS_OF["regression"])
Source = Literal["hub", "folder", "files", "built in"]
Distance = Literal["kl", "symmetric-kl", "mse"]
"""Distance from other outputs or from soft labels: Kullback-Leibler, both ways, or squared error."""


@dataclass(frozen=True)
class Task:
    """A task; its numbers are those of TAMT (Table 1) where the paper lists it.

    Attributes:
        labels: names of the classes in the hub's order; empty for regression and spans.
        metrics: from `METRICS_OF` its kind; the first one is primary.
        hub: data set and configuration on the Hugging Face hub.
        folder: name of its folder in a GLUE download, or in its own release.
        learning_rate: peak rate of AdamW.
        max_length: tokens an example is cut to.
        eval_steps: steps between evaluations.
        doc_stride: for spans: tokens from the start of one window over a long text to that of the next.
        head_dropout: dropout before the head; None leaves it as the model has it.
        train_size: `N` examples or `P%` of the training set; None means all.
        soft_loss: distance from soft labels, where training examples have some.
        soft_form: whether soft labels are probabilities or logits; those of a regression are scores.
        adversarial_loss: distance from the outputs of the unchanged text, in SMART; None takes that of the kind.
        weight: weight of its loss, where several tasks are trained together.
    """

    name: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    kind: Kind = "classification"
    label_column: str = "label"
    hub: tuple[str, str | None] | None = None
    folder: str | None = None
    validation_splits: tuple[str, ...] = ("validation",)
    learning_rate: float = 2e-5
    batch_size: int = 32
    max_length: int = 128
    epochs: int = 3
    eval_steps: int = 50
    doc_stride: int | None = None
    citation: str = ""
    licence: str = ""
    head_dropout: float | None = None
    train_size: str | None = None
    soft_loss: Distance | None = None
    soft_form: Literal["probabilities", "logits"] = "probabilities"
    adversarial_loss: Distance | None = None
    weight: float = 1.0

    @property
    def is_regression(self) -> bool:
        """True where the label is a number and not a class."""
        return self.kind == "regression"


class Answers(NamedTuple):
    """The answers to a question, pieces of the context, and their first characters; the first answer is trained on."""

    texts: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Split:
    """Examples of one split.

    Attributes:
        texts: one list for each text column: strings, or lists of words where each word has a label.
        labels: by kind: class indices; scores; 0.0 or 1.0 for each class; lists of class indices; `Answers`.
        soft: soft labels of each example, one number per class or one score; None where there are none.
    """

    texts: tuple[list[Any], ...]
    labels: list[Any]
    soft: list[tuple[float, ...]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, order: list[int]) -> Split:
        """Return the examples at these indices, in this order."""
        texts = tuple([column[index] for index in order] for column in self.texts)
        soft = None if self.soft is None else [self.soft[index] for index in order]
        return Split(texts, [self.labels[index] for index in order], soft)


@dataclass(frozen=True)
class TaskData:
    """A task and its examples.

    Attributes:
        fingerprint: xxh3-128 of all texts and labels; the same data from hub and folder have the same one.
        unlabelled: number of rows that were left out because they have no label, by name of the split.
    """

    task: Task
    train: Split
    validation: dict[str, Split]
    fingerprint: str
    source: Source
    unlabelled: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        task: Task,
        train: Split,
        validation: dict[str, Split],
        source: Source,
        unlabelled: dict[str, int] | None = None,
    ) -> TaskData:
        """Put examples together and compute their fingerprint."""
        parts = _contents(task, {"train": train, **validation})
        return cls(task, train, validation, fingerprint(parts), source, unlabelled or {})


def _contents(task: Task, splits: dict[str, Split]) -> Iterator[str]:
    yield from task.labels
    for name, split in splits.items():
        yield f"{name} {len(split)}"
        for column in split.texts:
            for text in column:
                if isinstance(text, str):
                    yield text
                else:
                    yield f"{len(text)} words"
                    yield from text
        yield from map(repr, split.labels)
        yield from map(repr, split.soft or [])
