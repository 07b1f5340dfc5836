"""Task files: definitions of tasks in YAML, in the form of MT-DNN's task definitions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError, field_validator

from winning_tickets.config.settings import Settings, parse_yaml
from winning_tickets.data.readers import read_utf8
from winning_tickets.data.records import METRICS_OF, Distance, LabeledKind, Task
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import UsageError, shown, unknown

FileKind = Literal["classification", "regression", "tokens", "span"]  # kinds of tasks that a file can define

TASK_TYPES: dict[str, FileKind] = {
    "Classification": "classification",
    "Regression": "regression",
    "SequenceLabeling": "tokens",
    "SeqenceLabeling": "tokens",  # MT-DNN's own spelling
    "SpanClassification": "span",
    "Span": "span",
}
_TEXTS: tuple[FileKind, ...] = ("classification", "regression")
DATA_FORMATS: dict[FileKind, tuple[str, ...]] = {
    "classification": ("PremiseOnly", "PremiseAndOneHypothesis"),
    "regression": ("PremiseOnly", "PremiseAndOneHypothesis"),
    "tokens": ("Sequence", "Seqence"),
    "span": ("MRC", "CLUE_SPAN"),
}
LOSSES: dict[FileKind, tuple[str, ...]] = {
    "classification": ("CeCriterion",),
    "regression": ("MseCriterion",),
    "tokens": ("SeqCeCriterion", "CeCriterion"),
    "span": ("SpanCeCriterion",),
}
DISTANCES: dict[str, Distance] = {"KlCriterion": "kl", "SymKlCriterion": "symmetric-kl", "MseCriterion": "mse"}
"""Values of `kd_loss` and `adv_loss`."""
METRIC_NAMES: dict[FileKind, dict[str, tuple[str, ...]]] = {  # MT-DNN's names of metrics, and ours
    "classification": {"ACC": ("accuracy",), "F1": ("f1",), "MCC": ("matthews",)},
    "regression": {"Pearson": ("pearson",), "Spearman": ("spearman",)},
    "tokens": {"SeqEval": ("f1", "accuracy"), "NERACC": ("f1", "accuracy"), "ACC": ("accuracy",), "F1": ("f1",)},
    "span": {"EmF1": ("f1", "exact_match"), "EmF12": ("f1", "exact_match")},
}
UNSUPPORTED = ("enable_san", "actf", "encoder_type")
"""Keys of MT-DNN that choose a head or an encoder; heads are linear here, and a model is named where it is used."""
MARKERS = ("X", "CLS", "SEP")
"""Labels that MT-DNN gives to further pieces of words and to special tokens; they are no classes here."""
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SIZE = re.compile(r"\d+|\d+(\.\d+)?%")
_OF_FILES = {"train_file", "validation_file"}  # keys that distinguish a task of the user's own files from one of MT-DNN


class CommonKeys(Settings):
    """Keys of every task of a task file; docs/how_to/task_files.md describes them."""

    name: str
    dropout_p: float | None = None
    train_size: str | None = None
    weight: float = 1.0
    ticket: str | None = None
    learning_rate: float | None = None

    def problems(self) -> list[str]:
        """List impossible or unsupported values, one line each."""
        checks = {
            f"the name {self.name!r} may hold letters, digits, dots, dashes and underscores only.": TASK_NAME.fullmatch(
                self.name
            ),
            f"dropout_p {self.dropout_p} is outside [0, 1).": self.dropout_p is None or 0 <= self.dropout_p < 1,
            f"weight {self.weight} is impossible; it must be above 0.": self.weight > 0,
            f"learning_rate {self.learning_rate} is impossible; it must be above 0.": self.learning_rate is None
            or self.learning_rate > 0,
            f"train_size {self.train_size} is not a size; use a number of examples such as 1000, or a percentage such "
            "as 10%.": self.train_size is None or _SIZE.fullmatch(self.train_size),
        }
        return [text for text, holds in checks.items() if not holds]


class FilesDefinition(CommonKeys):
    """A task of the user's own files; its keys are named like the options of `tickets transfer`."""

    train_file: str
    validation_file: str
    text_columns: tuple[str, ...] | None = None
    label_column: str = "label"
    metric: str | None = None
    kind: LabeledKind | None = None
    drop_unlabelled: bool = False

    @field_validator("text_columns", mode="before")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


class TaskDefinition(CommonKeys):
    """One task of a task file in the form of MT-DNN."""

    task_type: str
    data_format: str | None = None
    n_class: int | None = None
    labels: tuple[str, ...] = ()
    metric_meta: tuple[str, ...] = ()
    loss: str | None = None
    kd_loss: str | None = None
    adv_loss: str | None = None
    split_names: tuple[str, ...] = ("train", "dev", "test")
    soft_labels: Literal["probabilities", "logits"] = "probabilities"
    data: str | dict[str, str] | None = None

    @property
    def kind(self) -> FileKind:
        return TASK_TYPES[self.task_type]

    @property
    def train_split(self) -> str:
        return next(name for name in self.split_names if "train" in name.lower())

    @property
    def validation_splits(self) -> dict[str, str]:
        """Our names of the validation splits with their names in the file, such as `validation` with `dev`."""
        found = [name for name in self.split_names if "dev" in name.lower()]
        words = {name: re.sub("dev", "", name, flags=re.IGNORECASE).strip("_-.") for name in found}
        return {f"validation_{word}" if word else "validation": name for name, word in words.items()}

    def problems(self) -> list[str]:
        """List impossible or unsupported values, one line each."""
        found = _choice("task_type", self.task_type, TASK_TYPES)
        if self.task_type in TASK_TYPES:
            found += self._problems_of_kind() + self._problems_of_classes()
        return found + self._problems_of_splits() + super().problems()

    def _problems_of_kind(self) -> list[str]:
        kind, found = self.kind, []
        formats = DATA_FORMATS[kind]
        if self.data_format is not None:
            found += _choice("data_format", self.data_format, formats)
        elif kind in _TEXTS:
            found.append(f"data_format is missing; {self.task_type} takes {' or '.join(formats)}.")
        if self.loss is not None:
            found += _choice("loss", self.loss, LOSSES[kind])
        for field in ("kd_loss", "adv_loss"):
            if (value := getattr(self, field)) is not None and kind in _TEXTS:
                found += _choice(field, value, ("MseCriterion",) if kind == "regression" else DISTANCES)
            elif value is not None:
                found.append(f"{field} needs one class or score per text, not {self.task_type}; remove it.")
        for name in self.metric_meta:
            found += _choice("metric_meta", name, METRIC_NAMES[kind])
        return found

    def _problems_of_classes(self) -> list[str]:
        found = []
        if doubled := {label for label in self.labels if self.labels.count(label) > 1}:
            found.append(f"labels: {', '.join(sorted(doubled))} comes twice.")
        if self.kind == "regression":
            if self.n_class not in (None, 1):
                found.append(
                    f"n_class {self.n_class} cannot be used with Regression, which has one score; leave it out."
                )
            if self.labels:
                found.append("labels cannot be used with Regression, whose labels are numbers.")
        elif self.kind != "span":
            number = len(self.labels) if self.n_class is None else self.n_class
            if number < 2:
                given = "n_class and labels are missing" if self.n_class is None else f"n_class {number} is impossible"
                found.append(f"{given}; {self.task_type} needs at least two classes.")
            elif self.labels and number != len(self.labels):
                found.append(f"n_class {number} contradicts the {len(self.labels)} labels.")
            elif self.kind == "tokens" and not self.labels:
                found.append("labels are missing; labels of words need names.")
        return found

    def _problems_of_splits(self) -> list[str]:
        train = [name for name in self.split_names if "train" in name.lower()]
        found = []
        if len(train) != 1 or not self.validation_splits:
            found.append(
                f"split_names {', '.join(self.split_names) or 'is empty'}: expected one with 'train' in its name and "
                "one or more with 'dev'."
            )
        if len(set(self.split_names)) < len(self.split_names):
            found.append(f"split_names {', '.join(self.split_names)}: a name comes twice.")
        if isinstance(self.data, Mapping):
            needed = {*train, *self.validation_splits.values()}
            if missing := sorted(needed - set(self.data)):
                found.append(f"data lacks a file for {', '.join(missing)}.")
            found += [
                str(unknown("split in data", name, self.split_names)) for name in self.data.keys() - {*self.split_names}
            ]
        return found


def _choice(key: str, value: str, supported: Iterable[str]) -> list[str]:
    names = list(supported)
    return [] if value in names else [str(unknown(key, value, names))]


Definition = TaskDefinition | FilesDefinition


def load_definitions(path: Path | str, names: Sequence[str] | None = None) -> tuple[Definition, ...]:
    """Read the tasks with these names from a YAML file, in this order, or all tasks; its keys are the names."""
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
        raise UsageError(*(f"{path}, {line}" for line in problems))
    return tuple(definitions)


def _parse(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the tasks of a file, and a problem for each key that comes twice; YAML itself would take the last one."""
    text = read_utf8(path)
    try:
        root, content = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"The task file {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise UsageError(f"The task file {path} must map tasks to definitions; see docs/how_to/task_files.md.")
    problems = []
    for task, key, first, second in _repeats(root, None):
        what = f"two tasks are named {key}" if task is None else f"task {task}: the key {key} comes twice"
        problems.append(f"lines {first} and {second}: {what}; keep one.")
    return {str(name): value for name, value in content.items()}, problems


def _repeats(node: Any, task: str | None) -> Iterator[tuple[str | None, str, int, int]]:
    """Yield the task, the key and both lines of each key that comes twice."""
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            yield task, key.value, seen[key.value], line
        seen.setdefault(key.value, line)
        if isinstance(value, yaml.MappingNode):
            yield from _repeats(value, task or key.value)


def _definition(name: str, fields: Any) -> tuple[Definition | None, list[str]]:
    """Return a task's definition, or None if values have wrong types, and its problems."""
    if not isinstance(fields, dict):
        return None, [f"expected keys and values such as task_type: Classification, found {shown(fields)}."]
    values = dict(fields)
    problems: list[str] = []
    # YAML reads names such as 1 or yes as numbers or truth values.
    if isinstance(labels := values.get("labels"), list):
        problems += [
            f"labels: YAML reads {'yes, on or true' if label else 'no, off or false'} as a truth value; put it in "
            "quotes."
            for label in labels
            if isinstance(label, bool)
        ]
        if None in labels:
            problems.append("labels: YAML reads null, ~ or an empty entry as no value; put it in quotes, or remove it.")
        values["labels"] = [str(label) for label in labels]
    if isinstance(values.get("train_size"), int) and not isinstance(values["train_size"], bool):
        values["train_size"] = str(values["train_size"])
    # Unknown keys are refused by name.
    kind: type[Definition] = FilesDefinition if _OF_FILES & values.keys() else TaskDefinition
    known = [field for field in kind.model_fields if field != "name"]
    for key in [key for key in values if key not in known]:
        del values[key]
        if key in UNSUPPORTED:
            problems.append(f"the key {key} of MT-DNN is not supported; remove it.")
        else:
            problems.append(str(unknown("key", str(key), known)))
    try:
        definition = kind(name=name, **values)
    except ValidationError as error:
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"])
            text = f"{place}: {item['msg'][0].lower()}{item['msg'][1:]} (found {shown(item['input'])})."
            problems.append(f"the key {place} is missing." if item["type"] == "missing" else text)
        return None, problems
    return definition, [*problems, *definition.problems()]


def task_of(definition: TaskDefinition) -> Task:
    """Return the `Task` of a definition; hyperparameters that it lacks are those of `Task`, or of SQuAD."""
    kind = definition.kind
    metrics = [ours for name in definition.metric_meta for ours in METRIC_NAMES[kind][name]]
    usual = ("accuracy",) if kind in ("classification", "tokens") else METRICS_OF[kind]
    columns = ("premise", "hypothesis") if definition.data_format == "PremiseAndOneHypothesis" else ("premise",)
    # Names of the classes; without names they are numbers.
    labels = definition.labels or tuple(map(str, range(definition.n_class or 0)))
    if kind == "tokens":
        columns, labels = ("words",), tuple(label for label in labels if label not in MARKERS)
    if kind in ("regression", "span"):
        labels = ()
    # Only tasks with one class or one score per text have these distances.
    soft: Distance | None = None
    adversarial: Distance | None = None
    if kind in _TEXTS:
        soft, adversarial = ("mse", "mse") if kind == "regression" else ("kl", "symmetric-kl")
        soft = DISTANCES[definition.kd_loss] if definition.kd_loss is not None else soft
        adversarial = DISTANCES[definition.adv_loss] if definition.adv_loss is not None else adversarial
    task = Task(
        name=definition.name,
        text_columns=("question", "context") if kind == "span" else columns,
        labels=labels,
        metrics=tuple(dict.fromkeys(metrics)) or usual,
        kind=kind,
        validation_splits=tuple(definition.validation_splits),
        head_dropout=definition.dropout_p,
        train_size=definition.train_size,
        soft_loss=soft,
        soft_form=definition.soft_labels,
        adversarial_loss=adversarial,
        weight=definition.weight,
    )
    if kind == "span":
        numbers = ("paper_rate", "batch_size", "max_length", "epochs", "eval_steps", "doc_stride")
        task = dataclasses.replace(task, **{field: getattr(TASKS["squad"], field) for field in numbers})
    if definition.learning_rate is not None:
        task = dataclasses.replace(task, learning_rate=definition.learning_rate)
    return task
