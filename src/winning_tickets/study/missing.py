"""What a study needs and is not there: parameters without a value, and paths where there is nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from winning_tickets.data.corpora import HUB_CORPORA, PYDOCS_PARTS
from winning_tickets.study.expressions import is_reference
from winning_tickets.study.jobs import TINY
from winning_tickets.study.plan import Plan, Run

_FOLDERS = ("data_dir", "importance_from")
_FILES = ("task_file", "train_file", "validation_file", "pairs_file")
_MODELS = ("model", "target", "base", "like", "targets", "reference", "paths", "baseline", "dense")
"""Fields of tickets, runs and models; these may be names of the hub."""

Place = tuple[str, str]
"""A field and its value."""


def problems_of(plan: Plan, is_done: Callable[[str], bool]) -> list[str]:
    """All that is missing on this machine for the runs that are not done.

    Args:
        plan: of the study.
        is_done: whether the run of an id is; asked only where something is missing.
    """
    absent = _absent(plan.runs.values())
    if absent:  # data of runs that are done may be gone
        absent = _absent(run for run in plan.runs.values() if not is_done(run.id))
    told = {one for name in plan.study.needs for one in _values(plan, name) if _is_missing(one)}
    lines = (
        f"{_parameter(plan, value) or field}={value}: there is no {what} {value}."
        for (field, value), what in absent.items()
        if value not in told
    )
    return [*unmet_needs(plan), *dict.fromkeys(lines)]


def unmet_needs(plan: Plan) -> list[str]:
    """What is missing of that which a study says it needs; of names that may be a path or not nothing is known here."""
    problems = []
    for name, what in plan.study.needs.items():
        for one in _values(plan, name):
            if one is None:
                problems.append(f"{name} is not set; it has to be {what}: --set {name}=...")
            elif _is_missing(one):
                problems.append(f"{name}: there is no {one}; it has to be {what}: --set {name}=...")
    return problems


def _values(plan: Plan, name: str) -> list[Any]:
    value = plan.parameters.get(name)
    return value if isinstance(value, list) else [value]


def _parameter(plan: Plan, value: str) -> str | None:
    """The parameter that a field has its value from."""
    return next((name for name, one in plan.parameters.items() if one == value), None)


def _is_missing(value: Any) -> bool:
    """Whether a value can only be a path and nothing is there; of names of the hub nothing is known here."""
    if not isinstance(value, str) or is_reference(value) or value.startswith(TINY):
        return False
    certain = value.startswith((".", "~", "/")) or value.count("/") > 1
    return certain and not _there(value)


def _absent(runs: Iterable[Run]) -> dict[Place, str]:
    """The fields of runs that name what is not there, and what it should be."""
    places = dict.fromkeys(place for run in runs for place in _places(run.config))
    return {place: what for place in places if (what := _lacks(*place)) is not None}


def _places(config: Mapping[str, Any]) -> Iterator[Place]:
    """All fields that are strings, or lists of them; also those of the fine-tuning inside."""
    for field, value in config.items():
        if isinstance(value, Mapping):
            yield from _places(value)
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, str) and not is_reference(one) and not one.startswith(TINY):
                    yield field, one


def _lacks(field: str, value: str) -> str | None:
    """What is not there, in words; None where it is, or may be something else than a path."""
    if field in _FOLDERS:
        return None if _there(value, Path.is_dir) else "folder"
    if field in _FILES:
        return None if _there(value, Path.is_file) else "file"
    if field == "corpus":
        named = value in HUB_CORPORA or value in PYDOCS_PARTS or value.startswith("task:")
        return None if named or _there(value) else "corpus, file or folder"
    return "file or folder" if field in _MODELS and _is_missing(value) else None


def _there(value: str, test: Callable[[Path], bool] = Path.exists) -> bool:
    try:
        return test(Path(value).expanduser())
    except (OSError, RuntimeError):  # too long for a name, or the home of nobody
        return False
