"""Tasks, their splits and their data: `Task`, `Split`, `TaskData`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from winning_tickets.config.profiles import Profile, tuned_rate
from winning_tickets.data.readers import fingerprint

Kind = Literal["classification", "regression", "multilabel", "tokens", "span", "mlm", "clm"]
"""What is predicted: a class, a score, any number of classes, a class for each word, an answer in a text, or tokens."""
METRICS_OF: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "macro_f1", "micro_f1", "matthews"),
    "regression": ("pearson", "spearman"),
    "multilabel": ("micro_f1", "macro_f1", "exact_match"),
    "tokens": ("f1", "macro_f1", "accuracy"),
    "span": ("f1", "exact_match"),
    "mlm": ("accuracy", "mlm_loss"),
    "clm": ("accuracy", "clm_loss"),
}
METRICS = (*METRICS_OF["classification"], *METRICS_OF["regression"])
Source = Literal["hub", "folder", "files", "built in"]


@dataclass(frozen=True)
class Task:
    """A task; its hyperparameters are those of TAMT (Table 1) if the paper lists it."""

    name: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]  # names of the classes in the hub's order; empty for regression and spans
    metrics: tuple[str, ...]  # from `METRICS_OF[kind]`; the first one is primary
    kind: Kind = "classification"
    label_column: str = "label"
    hub: tuple[str, str | None] | None = None  # data set and configuration on the Hugging Face hub
    folder: str | None = None  # name of its folder in a GLUE download, or in its own release
    validation_splits: tuple[str, ...] = ("validation",)
    learning_rate: float | None = None  # peak rate of AdamW; None takes that of the profile, see `peak_rate`
    paper_rate: float = 2e-5  # the peak rate of TAMT
    batch_size: int = 32
    max_length: int = 128  # tokens an example is cut to
    epochs: int = 3
    eval_steps: int = 50  # steps between evaluations
    doc_stride: int | None = None  # for spans: tokens from the start of one window to that of the next
    citation: str = ""
    licence: str = ""
    head_dropout: float | None = None  # dropout before the head; None leaves it as the model has it
    train_size: str | None = None  # `N` examples or `P%` of the training set; None means all
    weight: float = 1.0  # weight of its loss when several tasks are trained together

    @property
    def fixed_rate(self) -> float:
        """The peak learning rate of the task for every model: its own, or that of TAMT."""
        return self.paper_rate if self.learning_rate is None else self.learning_rate

    def peak_rate(self, profile: Profile, width: int, steps: int, sparsity: float = 0.0) -> float:
        """Return the peak learning rate for a model with this hidden size, where the user gives none.

        `sparsity` is that of a ticket of single weights, and 0 for any other model.
        """
        if self.learning_rate is None and profile == "tuned":
            return max(self.paper_rate, tuned_rate(width, steps, sparsity))
        return self.fixed_rate

    def may_lack(self, split: str) -> bool:
        """Return whether the data may lack this split, any dev set but the first; its metrics are then None."""
        return split in self.validation_splits[1:]

    @property
    def is_regression(self) -> bool:
        """True where the label is a number and not a class."""
        return self.kind == "regression"


class Answers(NamedTuple):
    """The answers to a question, as pieces of its context with their start characters; training uses the first one."""

    texts: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Split:
    """Examples of one split."""

    texts: tuple[list[Any], ...]  # by text column: strings, or lists of words where each word has a label
    labels: list[Any]  # by kind: class indices; scores; 0.0 or 1.0 by class; lists of indices; `Answers`; masked ids

    def __len__(self) -> int:
        return len(self.labels)

    def order_by_content(self, seed: int) -> list[int]:
        """Return the places of the examples in an order that depends on their texts and the seed, not on the places."""
        keys = [fingerprint([str(seed), *_words(row)]) for row in zip(*self.texts, strict=True)]
        return sorted(range(len(self)), key=keys.__getitem__)

    def take(self, order: list[int]) -> Split:
        texts = tuple([column[index] for index in order] for column in self.texts)
        return Split(texts, [self.labels[index] for index in order])


@dataclass(frozen=True)
class TaskData:
    """A task and its examples."""

    task: Task
    train: Split
    validation: dict[str, Split]
    fingerprint: str  # xxh3-128 of all texts and labels; the same data from hub and folder have the same one
    source: Source
    unlabelled: dict[str, int] = field(default_factory=dict)  # rows without a label, left out, by name of the split
    remarks: tuple[str, ...] = ()  # sentences on data that look like a mistake

    @classmethod
    def of(
        cls,
        task: Task,
        train: Split,
        validation: dict[str, Split],
        source: Source,
        *,
        unlabelled: dict[str, int] | None = None,
        remarks: tuple[str, ...] = (),
    ) -> TaskData:
        parts = _contents(task, {"train": train, **validation})
        return cls(task, train, validation, fingerprint(parts), source, unlabelled or {}, remarks)


def _contents(task: Task, splits: dict[str, Split]) -> Iterator[str]:
    yield from task.labels
    for name, split in splits.items():
        yield f"{name} {len(split)}"
        for column in split.texts:
            yield from _words(column)
        yield from map(repr, split.labels)


def _words(texts: Iterable[Any]) -> Iterator[str]:
    """Yield the strings in texts; a text of separate words begins with their number."""
    for text in texts:
        if isinstance(text, str):
            yield text
        else:
            yield f"{len(text)} words"
            yield from text
