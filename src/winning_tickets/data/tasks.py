"""TASKS: one record a fine-tuning task, and the data of a task as plain lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from winning_tickets.data.fingerprint import fingerprint
from winning_tickets.errors import UsageError, unknown

METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman")
"""Of classification and regression."""

Kind = Literal["classification", "regression", "multilabel", "tokens", "span"]
"""What is predicted: one class, a number, any number of classes, a class for each word, a piece of a text."""

METRICS_OF: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
    "multilabel": ("micro_f1", "macro_f1", "exact_match"),
    "tokens": ("f1", "macro_f1", "accuracy"),
    "span": ("f1", "exact_match"),
}
Source = Literal["hub", "folder", "files", "built in"]
Distance = Literal["kl", "symmetric-kl", "mse"]
"""How far outputs are from others, or from soft labels: Kullback-Leibler, both ways, or squared error."""


@dataclass(frozen=True)
class Task:
    """What a task is; its numbers are those of TAMT (Table 1) where the paper lists it.

    Attributes:
        name: name on the command line.
        text_columns: one or two columns, as named on the hub.
        labels: names of the classes in the hub's order; empty for regression and spans.
        metrics: from `METRICS_OF` its kind; the first one is primary.
        kind: what is predicted.
        label_column: the column of the label.
        hub: data set and configuration on the Hugging Face hub.
        folder: name of its folder in a GLUE download, or in its own release.
        validation_splits: names of the splits it is evaluated on.
        learning_rate: peak rate of AdamW.
        batch_size: examples a step.
        max_length: tokens an example is cut to.
        epochs: passes over the training set.
        eval_steps: steps between evaluations.
        doc_stride: of spans: tokens from the start of one window over a long text to that of the next.
        citation: whom to cite.
        licence: terms of the data, in a few words.
        head_dropout: dropout before the head; None leaves it as the model has it.
        train_size: `N` examples or `P%` of the training set; None means all.
        soft_loss: how far from soft labels, where training examples have some.
        soft_form: whether soft labels are probabilities, or logits; of a regression they are scores.
        adversarial_loss: how far from the outputs of the unchanged text, in SMART; None takes that of the kind.
        weight: of its losses, where several tasks are trained together.
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
        """Whether the label is a number and not a class."""
        return self.kind == "regression"


@dataclass(frozen=True)
class Split:
    """Examples of one split.

    Attributes:
        texts: one list for each text column: strings, or lists of words where each word has a label.
        labels: by kind: class indices; scores; 0.0 or 1.0 for each class; lists of class indices; `squad.Answers`.
        soft: what another model says of each example, a number a class or one score; None where there is nothing.
    """

    texts: tuple[list[Any], ...]
    labels: list[Any]
    soft: list[tuple[float, ...]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, order: list[int]) -> Split:
        """The examples at these places, in this order."""
        texts = tuple([column[index] for index in order] for column in self.texts)
        soft = None if self.soft is None else [self.soft[index] for index in order]
        return Split(texts, [self.labels[index] for index in order], soft)


@dataclass(frozen=True)
class TaskData:
    """A task and its examples.

    Attributes:
        task: what it is.
        train: training examples.
        validation: examples to evaluate on, by name of the split.
        fingerprint: xxh3-128 of all texts and labels; the same data from hub and folder have the same one.
        source: where it came from.
        unlabelled: rows that were left out because nobody agreed on a label, by name of the split.
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


_PYDOCS = """
asyncio decimal difflib doctest email http importlib inspect io ipaddress logging multiprocessing statistics threading
turtle typing unittest urllib wsgiref xml
"""
PYDOCS_LABELS = tuple(_PYDOCS.split())
"""The modules of the standard library with the most documentation; the task is which one a passage documents."""

TASKS: dict[str, Task] = {
    "cola": Task(
        "cola",
        ("sentence",),
        ("unacceptable", "acceptable"),
        ("matthews",),
        hub=("nyu-mll/glue", "cola"),
        folder="CoLA",
        citation="Warstadt et al. 2019",
        licence="research use",
    ),
    "sst2": Task(
        "sst2",
        ("sentence",),
        ("negative", "positive"),
        ("accuracy",),
        hub=("nyu-mll/glue", "sst2"),
        folder="SST-2",
        citation="Socher et al. 2013",
        licence="see the source",
    ),
    "mrpc": Task(
        "mrpc",
        ("sentence1", "sentence2"),
        ("not_equivalent", "equivalent"),
        ("accuracy", "f1"),
        hub=("nyu-mll/glue", "mrpc"),
        folder="MRPC",
        citation="Dolan and Brockett 2005",
        licence="see the source",
    ),
    "stsb": Task(
        "stsb",
        ("sentence1", "sentence2"),
        (),
        ("pearson", "spearman"),
        kind="regression",
        hub=("nyu-mll/glue", "stsb"),
        folder="STS-B",
        citation="Cer et al. 2017",
        licence="CC BY-SA 4.0",
    ),
    "qqp": Task(
        "qqp",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
        hub=("nyu-mll/glue", "qqp"),
        folder="QQP",
        citation="Iyer et al. 2017",
        licence="see the source",
    ),
    "mnli": Task(
        "mnli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        hub=("nyu-mll/glue", "mnli"),
        folder="MNLI",
        validation_splits=("validation_matched", "validation_mismatched"),
        eval_steps=500,
        citation="Williams et al. 2018",
        licence="OANC and others, see the source",
    ),
    "qnli": Task(
        "qnli",
        ("question", "sentence"),
        ("entailment", "not_entailment"),
        ("accuracy",),
        hub=("nyu-mll/glue", "qnli"),
        folder="QNLI",
        citation="Rajpurkar et al. 2016; Wang et al. 2019",
        licence="CC BY-SA 4.0",
    ),
    "rte": Task(
        "rte",
        ("sentence1", "sentence2"),
        ("entailment", "not_entailment"),
        ("accuracy",),
        hub=("nyu-mll/glue", "rte"),
        folder="RTE",
        citation="PASCAL RTE 1-3 and 5",
        licence="see the source",
    ),
    "wnli": Task(
        "wnli",
        ("sentence1", "sentence2"),
        ("not_entailment", "entailment"),
        ("accuracy",),
        hub=("nyu-mll/glue", "wnli"),
        folder="WNLI",
        citation="Levesque et al. 2012",
        licence="CC BY 4.0",
    ),
    "snli": Task(
        "snli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        hub=("stanfordnlp/snli", None),
        folder="snli_1.0",
        eval_steps=500,
        citation="Bowman et al. 2015",
        licence="CC BY-SA 4.0",
    ),
    "scitail": Task(
        "scitail",
        ("premise", "hypothesis"),
        ("entails", "neutral"),
        ("accuracy",),
        hub=("allenai/scitail", "tsv_format"),
        folder="tsv_format",
        citation="Khot et al. 2018",
        licence="see the source",
    ),
    "squad": Task(
        "squad",
        ("question", "context"),
        (),
        ("f1", "exact_match"),
        kind="span",
        label_column="answers",
        hub=("rajpurkar/squad", None),
        folder="squad",
        learning_rate=3e-5,
        batch_size=16,
        max_length=384,
        epochs=2,
        eval_steps=1000,
        doc_stride=128,
        citation="Rajpurkar et al. 2016",
        licence="CC BY-SA 4.0",
    ),
    "pydocs": Task(
        "pydocs",
        ("text",),
        PYDOCS_LABELS,
        ("accuracy",),
        learning_rate=1e-4,
        batch_size=16,
        max_length=64,
        citation="documentation of Python's standard library",
        licence="PSF-2.0",
    ),
}


def get_task(name: str) -> Task:
    """The record of a task.

    Raises:
        UsageError: there is no task of that name.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS, "For data of your own, use --train-file and --validation-file.")
    return TASKS[name]


def load_task(name: str, data_dir: str | Path | None = None) -> TaskData:
    """Read a task's training and validation examples; unlabelled rows are left out.

    Args:
        name: a name of `TASKS`.
        data_dir: a copy of the hub's repository (Parquet files), a GLUE download (`CoLA/`, `SST-2/` ...) or the task's
            own release; or the task's own folder in one of them. None reads the hub.

    Raises:
        UsageError: unknown task, missing folder or files, or the hub cannot be reached.
        ContentError: columns or labels are not those of the task.
    """
    task = get_task(name)
    if name == "pydocs":
        from winning_tickets.data.builtin import pydocs_task

        if data_dir is not None:
            raise UsageError("The task pydocs is built in and reads no folder; leave --data-dir out.")
        return pydocs_task()
    from winning_tickets.data.hub import find_parquet, read_hub, read_parquet

    if data_dir is None:
        return read_hub(task)
    if files := find_parquet(task, Path(data_dir)):
        return read_parquet(task, files)
    if task.kind == "span":
        from winning_tickets.data import squad

        return squad.read_folder(task, Path(data_dir))
    from winning_tickets.data.glue import read_folder

    return read_folder(task, Path(data_dir))
