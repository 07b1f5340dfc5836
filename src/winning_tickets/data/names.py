"""Find unknown names and absent files in settings, without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from winning_tickets.config import EvaluateConfig, SearchConfig, Settings
from winning_tickets.config.builtin_models import BUILTIN, builtin
from winning_tickets.config.objective import EVALUATION_NAMES
from winning_tickets.data.corpora import check_corpus_name
from winning_tickets.data.hub import HubPart
from winning_tickets.data.records import METRICS, METRICS_OF
from winning_tickets.data.tasks import TASKS, TEXT_TASKS
from winning_tickets.runs.directory import absent_model
from winning_tickets.runs.errors import problems_of, unknown

_FILES = ("train_file", "validation_file", "task_file", "pairs_file")
_MODELS = ("model", "target", "base")
_OWN = "For data of your own, use --train-file and --validation-file."


def misnamed(settings: Settings, *, with_files: bool = True, with_corpus: bool = True) -> list[str]:
    """Return a line for each unknown method, term, scope, model, task, metric or corpus.

    `with_files` adds models, files and folders that are not on this machine.
    """
    found = []
    if isinstance(settings, SearchConfig):
        found += settings.misnamed()
    if isinstance(settings, EvaluateConfig):
        given = [name for name in settings.objectives if name not in EVALUATION_NAMES]
        found += [str(unknown("objective", name, EVALUATION_NAMES)) for name in given]
    for one in (settings, getattr(settings, "fine_tuning", None)):
        if isinstance(one, Settings):
            found += [*_of_models(one), *_of_data(one, with_files=with_files, with_corpus=with_corpus)]
            found += _absent(one) if with_files else []
    return list(dict.fromkeys(found))


def _of_models(settings: Settings) -> list[str]:
    """Return a line for each unknown name of a built-in model; other models are checked when they are loaded."""
    names = (getattr(settings, field, None) for field in _MODELS)
    return problems_of(
        *(partial(builtin, name) for name in names if isinstance(name, str) and name.startswith(BUILTIN))
    )


def _of_data(settings: Settings, *, with_files: bool, with_corpus: bool) -> list[str]:
    values = {field: getattr(settings, field, None) for field in ("task", "tasks", "metric", *_FILES)}
    # Training and validation files beside a task are refused elsewhere, whether they exist or not.
    files = {field: values[field] for field in _FILES if values["task"] is None or field not in _FILES[:2]}
    paths = [one for value in files.values() for one in (value.values() if isinstance(value, Mapping) else (value,))]
    found = [f"There is no file {path}." for path in paths if with_files and path is not None and not _is_file(path)]
    if with_corpus and (corpus := getattr(settings, "corpus", None)) is not None:
        found += problems_of(partial(check_corpus_name, corpus, is_here=with_files))
    own = values["train_file"] or {}
    if values["task_file"] is None:
        names = [name for name in (values["task"], *(values["tasks"] or ())) if name is not None]
        known = (*TASKS, *TEXT_TASKS) if hasattr(settings, "corpus") else tuple(TASKS)
        mine = {*known, *(own if isinstance(own, Mapping) else {})}
        others = [name for name in names if name not in mine and HubPart.splits_of(name) is None]
        found += [str(unknown("task", name, known, _OWN)) for name in others]
    metrics = values["metric"].values() if isinstance(values["metric"], Mapping) else (values["metric"],)
    kind: Any = getattr(settings, "kind", None)
    scores = METRICS_OF.get(kind, METRICS)
    return found + [str(unknown("metric", name, scores)) for name in metrics if name is not None and name not in scores]


def _absent(settings: Settings) -> list[str]:
    """Return a line for each model and each folder of task data that is not on this machine."""
    from winning_tickets.data.loading import check_task_files

    names = (getattr(settings, field, None) for field in _MODELS)
    found = [absent_model(name) for name in names if isinstance(name, str) and not name.startswith(BUILTIN)]
    folder, tasks = getattr(settings, "data_dir", None), getattr(settings, "tasks", None) or ()
    if folder is not None:
        tasks = [name for name in (getattr(settings, "task", None), *tasks) if name is not None]
        found += problems_of(*(partial(check_task_files, name, folder) for name in tasks))
    return [line for line in found if line is not None]


def _is_file(path: str) -> bool:
    try:
        return HubPart.parse(path) is not None or Path(path).exists()
    except (OSError, ValueError):
        return True  # not a possible file name, which is reported by the reader of the file
