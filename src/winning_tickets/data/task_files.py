"""Task files: a new task from a few lines of YAML, in the form of MT-DNN's task definitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from winning_tickets.config.task_file import DISTANCES, METRIC_NAMES, TaskDefinition
from winning_tickets.config.yaml_text import parse_yaml
from winning_tickets.data.tasks import METRICS_OF, TASKS, Distance, Task
from winning_tickets.data.textfiles import read_utf8
from winning_tickets.errors import UsageError, shown, unknown

MARKERS = ("X", "CLS", "SEP")
"""Labels that MT-DNN gives to further pieces of words and to special tokens; nothing here is labelled so."""


def load_definitions(path: Path | str, names: Sequence[str] | None = None) -> tuple[TaskDefinition, ...]:
    """Read a task file.

    Args:
        path: YAML; each key is a task, its value a mapping of the fields of `TaskDefinition`.
        names: the tasks that are wanted, in this order; others may be of kinds that are not supported. None: all.

    Raises:
        UsageError: no such file, no such task, or impossible definitions; a line for each problem.
        ContentError: it is not UTF-8.
    """
    path = Path(path)
    content, problems = _parse(path)
    if names is not None:
        problems += [str(unknown("task", name, content)) for name in names if name not in content]
    definitions = []
    for name in content if names is None else [name for name in names if name in content]:
        definition, found = _definition(name, content[name])
        problems += [f"task {name}: {line}" for line in found]
        if definition is not None:
            definitions.append(definition)
    if problems:
        raise UsageError("\n".join(f"{path}, {line}" for line in problems))
    return tuple(definitions)


def _parse(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The tasks of a file, and the keys that come twice (of which YAML itself would take the last, without a word)."""
    text = read_utf8(path)
    try:
        root, content = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"The task file {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise UsageError(
            f"The task file {path} must map names of tasks to their definitions; see docs/how_to/task_files.md."
        )
    problems = list(_doubled(root))
    return {str(name): value for name, value in content.items()}, problems


def _doubled(root: Any) -> Iterator[str]:
    """A line for each key that comes twice in the file, or in one task."""
    for task, key, first, second in _repeats(root, None):
        what = f"two tasks are named {key}" if task is None else f"task {task}: the key {key} comes twice"
        yield f"lines {first} and {second}: {what}; keep one."


def _repeats(node: Any, task: str | None) -> Iterator[tuple[str | None, str, int, int]]:
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            yield task, key.value, seen[key.value], line
        seen.setdefault(key.value, line)
        if isinstance(value, yaml.MappingNode):
            yield from _repeats(value, task or key.value)


def _definition(name: str, fields: Any) -> tuple[TaskDefinition | None, list[str]]:
    """A task's definition, where its values are of the right types, and its problems."""
    if not isinstance(fields, dict):
        return None, [f"expected keys and values such as task_type: Classification, found {shown(fields)}."]
    values = dict(fields)
    problems: list[str] = []
    if "labels" in values and isinstance(values["labels"], list):
        values["labels"], problems = _labels(values["labels"])
    if isinstance(values.get("train_size"), int) and not isinstance(values["train_size"], bool):
        values["train_size"] = str(values["train_size"])
    known = [field for field in TaskDefinition.model_fields if field != "name"]
    problems += [str(unknown("key", str(key), known)) for key in values if key not in known]
    values = {key: value for key, value in values.items() if key in known}
    try:
        definition = TaskDefinition(name=name, **values)
    except ValidationError as error:
        return None, [*problems, *(_told(item) for item in error.errors())]
    return definition, [*problems, *definition.problems()]


def _labels(found: list[Any]) -> tuple[list[str], list[str]]:
    """Names of classes as texts; YAML reads yes, no, on and off as truth values."""
    problems = [
        f"labels: YAML reads {'yes, on or true' if label else 'no, off or false'} as a truth value; put it in quotes."
        for label in found
        if isinstance(label, bool)
    ]
    return [str(label) for label in found], problems


def _told(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"the key {place} is missing."
    return f"{place}: {item['msg'][0].lower()}{item['msg'][1:]} (found {shown(item['input'])})."


def task_of(definition: TaskDefinition) -> Task:
    """The record of a task that a file defines; numbers that it does not give are those of `Task`, or of SQuAD."""
    kind = definition.kind
    names = [ours for name in definition.metric_meta for ours in METRIC_NAMES[kind][name]]
    pair = definition.data_format == "PremiseAndOneHypothesis"
    columns = {"tokens": ("words",), "span": ("question", "context")}.get(
        kind, ("premise", "hypothesis") if pair else ("premise",)
    )
    task = Task(
        name=definition.name,
        text_columns=columns,
        labels=_class_names(definition),
        metrics=tuple(dict.fromkeys(names)) or _usual_metrics(kind),
        kind=kind,
        validation_splits=tuple(definition.validation_splits),
        head_dropout=definition.dropout_p,
        train_size=definition.train_size,
        soft_loss=_distance(definition.kd_loss, kind, "kl"),
        soft_form=definition.soft_labels,
        adversarial_loss=_distance(definition.adv_loss, kind, "symmetric-kl"),
        weight=definition.weight,
    )
    if kind == "span":
        numbers = ("learning_rate", "batch_size", "max_length", "epochs", "eval_steps", "doc_stride")
        task = dataclasses.replace(task, **{field: getattr(TASKS["squad"], field) for field in numbers})
    if definition.learning_rate is not None:
        task = dataclasses.replace(task, learning_rate=definition.learning_rate)
    return task


def _usual_metrics(kind: Any) -> tuple[str, ...]:
    return {"classification": ("accuracy",), "tokens": ("accuracy",)}.get(kind, METRICS_OF[kind])


def _class_names(definition: TaskDefinition) -> tuple[str, ...]:
    if definition.kind in ("regression", "span"):
        return ()
    if not definition.labels:
        return tuple(map(str, range(definition.n_class or 0)))
    if definition.kind == "tokens":
        return tuple(label for label in definition.labels if label not in MARKERS)
    return definition.labels


def _distance(name: str | None, kind: str, usual: Distance) -> Distance | None:
    if kind not in ("classification", "regression"):
        return None
    if name is None:
        return "mse" if kind == "regression" else usual
    return DISTANCES[name]
