"""The fine-tuning tasks: GLUE, SNLI, SciTail, SQuAD and the built-in pydocs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from winning_tickets.data.records import Task
from winning_tickets.runs.errors import unknown

_PYDOCS = """
asyncio decimal difflib doctest email http importlib inspect io ipaddress logging multiprocessing statistics threading
turtle typing unittest urllib wsgiref xml
"""
PYDOCS_LABELS = tuple(_PYDOCS.split())
"""The modules of the standard library with the most documentation; the task asks which one a passage documents."""
_PAIR = ("sentence1", "sentence2")
_NLI = ("entailment", "neutral", "contradiction")


def _glue(
    name: str, folder: str, texts: tuple[str, ...], labels: tuple[str, ...], *, citation: str, licence: str, **more: Any
) -> Task:
    """Return a task of GLUE; its metric is accuracy unless another one is given."""
    values = {"metrics": ("accuracy",), "hub": ("nyu-mll/glue", name)} | more
    return Task(name, texts, labels, folder=folder, citation=citation, licence=licence, **values)


_TASKS = (
    _glue(
        "cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"),
        citation="Warstadt et al. 2019", licence="research use",
        metrics=("matthews",),
    ),
    _glue(
        "sst2", "SST-2", ("sentence",), ("negative", "positive"),
        citation="Socher et al. 2013", licence="see the source",
    ),
    _glue(
        "mrpc", "MRPC", _PAIR, ("not_equivalent", "equivalent"),
        citation="Dolan and Brockett 2005", licence="see the source",
        metrics=("accuracy", "f1"),
    ),
    _glue(
        "stsb", "STS-B", _PAIR, (), citation="Cer et al. 2017", licence="CC BY-SA 4.0",
        metrics=("pearson", "spearman"), kind="regression",
    ),
    _glue(
        "qqp", "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"),
        citation="Iyer et al. 2017", licence="see the source",
        metrics=("accuracy", "f1"),
    ),
    _glue(
        "mnli", "MNLI", ("premise", "hypothesis"), _NLI,
        citation="Williams et al. 2018", licence="OANC and others, see the source",
        validation_splits=("validation_matched", "validation_mismatched"), eval_steps=500,
    ),
    _glue(
        "qnli", "QNLI", ("question", "sentence"), ("entailment", "not_entailment"),
        citation="Rajpurkar et al. 2016; Wang et al. 2019", licence="CC BY-SA 4.0",
    ),
    _glue(
        "rte", "RTE", _PAIR, ("entailment", "not_entailment"),
        citation="PASCAL RTE 1-3 and 5", licence="see the source",
    ),
    _glue(
        "wnli", "WNLI", _PAIR, ("not_entailment", "entailment"),
        citation="Levesque et al. 2012", licence="CC BY 4.0",
    ),
    Task(
        "snli", ("premise", "hypothesis"), _NLI, ("accuracy",), hub=("stanfordnlp/snli", None), folder="snli_1.0",
        eval_steps=500, citation="Bowman et al. 2015", licence="CC BY-SA 4.0",
    ),
    Task(
        "scitail", ("premise", "hypothesis"), ("entails", "neutral"), ("accuracy",),
        hub=("allenai/scitail", "tsv_format"), folder="tsv_format", citation="Khot et al. 2018",
        licence="see the source",
    ),
    Task(
        "squad", ("question", "context"), (), ("f1", "exact_match"), kind="span", label_column="answers",
        hub=("rajpurkar/squad", None), folder="squad", paper_rate=3e-5, batch_size=16, max_length=384, epochs=2,
        eval_steps=1000, doc_stride=128, citation="Rajpurkar et al. 2016", licence="CC BY-SA 4.0",
    ),
    Task(
        "pydocs", ("text",), PYDOCS_LABELS, ("accuracy",), learning_rate=1e-4, batch_size=16, max_length=64,
        citation="documentation of Python's standard library", licence="PSF-2.0",
    ),
)  # fmt: skip
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}

MLM = Task(
    "mlm", ("text",), (), ("accuracy", "mlm_loss"), kind="mlm", learning_rate=5e-5, batch_size=16, max_length=512,
    epochs=1, eval_steps=1000, citation="Devlin et al. 2019",
)  # fmt: skip
CLM = replace(MLM, name="clm", metrics=("accuracy", "clm_loss"), kind="clm", citation="Radford et al. 2019")
TEXT_TASKS: dict[str, Task] = {"mlm": MLM, "clm": CLM}
"""Language modeling of a corpus as a task: masked tokens, with the values of TAMT (Table 1), or the next token."""

_TITLES = {"snli": "SNLI", "scitail": "SciTail", "squad": "SQuAD"} | {
    name: task.folder for name, task in TASKS.items() if task.hub is not None and task.hub[0] == "nyu-mll/glue"
}


def task_title(name: str) -> str:
    """Return the name of a task as people write it, such as `CoLA`."""
    return _TITLES.get(name) or name


def get_task(name: str) -> Task:
    """Return a task by its name."""
    if name not in TASKS:
        raise unknown("task", name, TASKS, "For data of your own, use --train-file and --validation-file.")
    return TASKS[name]
