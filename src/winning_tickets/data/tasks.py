"""TASKS: one record a fine-tuning task, and the data of a task as plain lists."""

from __future__ import annotations

from winning_tickets.data.records import Task
from winning_tickets.runs.errors import unknown

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
