"""Tasks from the user's own files: CSV, TSV, JSON Lines, CoNLL, and the JSON of SQuAD."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from winning_tickets.config.settings import LabeledKind
from winning_tickets.data import examples
from winning_tickets.data.examples import LabelReader
from winning_tickets.data.readers import FORMATS, Formats, conll_rows, jsonl_rows, parquet_rows, read_rows
from winning_tickets.data.records import METRICS, METRICS_OF, Kind, Split, Task, TaskData
from winning_tickets.data.rows import Row
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import ContentError, UsageError, page, shown, unknown

WELL_KNOWN: tuple[tuple[str, ...], ...] = (  # text columns that are found without being named
    ("text",),
    ("sentence",),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
WORD_COLUMNS = ("words", "tokens")  # columns of words that are found without being named
KIND_BY_SUFFIX: dict[str, Kind] = {".json": "span", ".conll": "tokens"}
"""Kinds of tasks that the format of a file determines."""
LOCAL = "local"  # name of a task of the user's files, if the user gives none
_MANY_CLASSES = 20  # with more classes, a small file has few examples of each
_NO_VALUES = ("", "nan", "none", "null", "na", "n/a", "nat", "<na>")  # names of classes that look like missing labels
SEPARATOR = "|"  # between the classes of one text, in files without lists


def load_files(
    train_file: str | Path,
    validation_file: str | Path,
    text_columns: Sequence[str] | None,  # one or two, one for words; None looks for `WELL_KNOWN` or `WORD_COLUMNS`
    label_column: str = "label",
    *,
    metric: str | None = None,
    kind: Kind | None = None,
    task_name: str | None = None,
    drop_unlabelled: bool = False,
) -> TaskData:
    """Read a task from two files of the same columns: `.csv` (with quoting), `.tsv` (without) or `.jsonl`."""
    # Words are in `.jsonl` with lists of words and of labels, or in `.conll`; spans in SQuAD's `.json`. Without `kind`,
    # labels are classes (sorted, those of the training file), or scores where they are numbers with a fractional part
    # or the metric is a correlation. The default metric is accuracy, pearson for scores, micro_f1 for sets of classes,
    # and for words entity F1 where the labels are BIO.
    train, validation = Path(train_file), Path(validation_file)
    if kind is not None and kind not in get_args(LabeledKind):
        raise unknown("kind", kind, get_args(LabeledKind))
    if kind is None and metric not in METRICS_OF["regression"]:
        kind = KIND_BY_SUFFIX.get(train.suffix.lower())
    known = METRICS if kind is None else METRICS_OF[kind]
    if metric is not None and metric not in known:
        raise unknown("metric", metric, known)
    if kind == "span":
        if text_columns is not None or label_column != "label":
            raise UsageError(
                "--text-columns and --label-column need rows; the JSON of SQuAD v1.1 has its own names "
                "(question, context, answers)."
            )
        from winning_tickets.data.squad import read_release

        task = replace(TASKS["squad"], name=task_name or LOCAL, hub=None, metrics=_metrics(metric, "span", ()))
        return read_release(task, {"train": train, "validation": validation}, "files")

    formats = _formats(kind, text_columns, label_column)
    rows = {path: _read(path, formats) for path in (train, validation)}
    columns = _text_columns(rows, kind, text_columns, label_column)
    # The labels of the training file, as written, determine the classes, and the kind if none is configured.
    read = {"multilabel": _read_set, "tokens": _read_names}.get(str(kind), _read_name)
    read_written: LabelReader = partial(read, label_column=label_column)
    if drop_unlabelled:
        read_written = _or_none(read_written)
    texts_are: Literal["words", "not blank"] = "words" if kind == "tokens" else "not blank"
    build = partial(examples.build_split, label_column=label_column, texts_are=texts_are)
    written = build(str(train), rows[train], columns[train], read_label=read_written)[0].labels
    if kind is None:
        scores = metric in METRICS_OF["regression"] or (metric is None and _are_fractional(written))
        kind = "regression" if scores else "classification"
        if kind == "classification" and metric is None:
            _refuse_decimal_commas(train, label_column, written)
    classes = _classes(train, written, kind, label_column)
    read_label = _label_reader(kind, classes, read_written)
    if drop_unlabelled:
        read_label = _or_none(read_label)

    splits, dropped = zip(
        *(build(str(path), found, columns[path], read_label=read_label) for path, found in rows.items()), strict=True
    )
    names = columns[train] if kind != "tokens" else tuple(text_columns or WORD_COLUMNS[:1])
    task = Task(task_name or LOCAL, names, classes, _metrics(metric, kind, classes), kind, label_column)
    unlabelled = {"train": dropped[0], "validation": dropped[-1]} if drop_unlabelled else {}
    remarks = _remarks(task, splits[0], splits[-1])
    return TaskData.of(task, splits[0], {"validation": splits[-1]}, "files", unlabelled=unlabelled, remarks=remarks)


def file_arguments(settings: Any, train: str | Path, validation: str | Path) -> dict[str, Any]:
    """Return the arguments of `load_files` for these files, from settings with fields of the same names."""
    fields = ("text_columns", "label_column", "metric", "kind", "drop_unlabelled")
    values = {field: getattr(settings, field) for field in fields}
    return {"train_file": train, "validation_file": validation} | values


def load_texts(file: str | Path, text_columns: Sequence[str] | None = None) -> tuple[list[str], ...]:
    """Read the text columns of `.csv`, `.tsv` or `.jsonl`, without labels; None looks for `WELL_KNOWN` ones."""
    path = Path(file)
    rows = _read(path, FORMATS)
    columns = tuple(text_columns) if text_columns else _infer_columns(path, rows, "label")
    return examples.build_split(str(path), rows, columns, columns[0], read_label=lambda *_: 0)[0].texts


def _remarks(task: Task, train: Split, validation: Split) -> tuple[str, ...]:
    """Return sentences about signs that the files are a mistake."""
    found = []
    if task.kind == "classification" and len(task.labels) > max(_MANY_CLASSES, len(train) / 3):
        found.append(
            f"The column {task.label_column!r} has {len(task.labels)} classes in {len(train)} training examples: is it "
            "the label column?"
        )
    for place, name in enumerate(task.labels):
        if name.casefold() in _NO_VALUES:
            found.append(_missing_class(task, train, place))
    if train.texts == validation.texts:
        found.append(
            "The validation file has the same texts as the training file, so its scores say nothing about new texts."
        )
    return tuple(found)


def _missing_class(task: Task, train: Split, place: int) -> str:
    """Return the remark about a class whose name looks like a missing label."""
    of_kind = {
        "tokens": lambda label: place in label,
        "multilabel": lambda label: label[place] == 1,
    }.get(task.kind, lambda label: label == place)
    count = sum(map(of_kind, train.labels))
    others = [examples.as_number(name) for name in task.labels if name.casefold() not in _NO_VALUES]
    scores = any(value is not None and value % 1 for value in others) and None not in others
    return (
        f"The text {task.labels[place]!r} in the column {task.label_column!r} is a class of its own ({count} training "
        f"examples): is it a missing label?{' The other labels are numbers.' if scores else ''} Empty cells are left "
        "out with --drop-unlabelled."
    )


def _or_none(read: LabelReader) -> LabelReader:
    """Return a reader that gives None for an empty label, so that its row is left out."""

    def read_or_none(found: Any, where: str) -> Any:
        return None if examples.is_missing(found) else read(found, where)

    return read_or_none


def _read(path: Path, formats: Formats) -> list[Row]:
    """Return the rows of a file, or of a split of the hub such as `org/name/config:train`."""
    from winning_tickets.data.hub import HubPart, read_hub_split

    part = HubPart.parse(path.as_posix())
    return read_rows(path, formats) if part is None else read_hub_split(part)


def _metrics(metric: str | None, kind: Kind, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the primary metric, and the other metrics that are reported."""
    names = METRICS_OF[kind]
    if kind == "classification":
        names = ("accuracy",)
    elif kind == "tokens":
        from winning_tickets.data.token_labels import is_bio

        names = ("f1", "accuracy") if is_bio(classes) else ("accuracy", "macro_f1")
        if metric is not None and metric not in names:
            raise UsageError(
                f"--metric {metric} cannot be used with these labels ({', '.join(classes[:6])}); use "
                f"{' or '.join(names)}. F1 of entities (f1) needs BIO labels: B-x and I-x for type x, and O."
            )
    return names if metric is None else (metric, *(name for name in names if name != metric))


def _formats(kind: Kind | None, text_columns: Sequence[str] | None, label_column: str) -> Formats:
    """Return the readers of the files, by suffix; refuse a wrong number of text columns."""
    if kind == "tokens":
        if text_columns is not None and len(text_columns) != 1:
            raise UsageError(f"--kind tokens takes one text column, the words; found {', '.join(text_columns)}.")
        conll = partial(conll_rows, words_column=(text_columns or WORD_COLUMNS)[0], label_column=label_column)
        return {".jsonl": jsonl_rows, ".parquet": parquet_rows, ".conll": conll}
    if text_columns is not None and len(text_columns) not in (1, 2):
        raise UsageError(f"--text-columns takes one or two columns, found {len(text_columns)}.")
    return FORMATS


def _text_columns(
    rows: dict[Path, list[Row]], kind: Kind | None, text_columns: Sequence[str] | None, label_column: str
) -> dict[Path, tuple[str, ...]]:
    """Return the text columns of each file; the first one is the training file."""
    if text_columns is None and kind == "tokens":
        return {
            path: (next((name for name in WORD_COLUMNS if name in found[0][1]), WORD_COLUMNS[0]),)
            for path, found in rows.items()
        }
    train = next(iter(rows))
    return dict.fromkeys(rows, tuple(text_columns or _infer_columns(train, rows[train], label_column)))


def _infer_columns(path: Path, rows: list[Row], label_column: str) -> tuple[str, ...]:
    found = [name for name in rows[0][1] if name != label_column]
    present = [names for names in WELL_KNOWN if set(names) <= set(found)]
    pairs = [names for names in present if len(names) == 2]
    # question + sentence are a pair, though sentence alone is well known too.
    candidates = pairs or present
    if len(candidates) != 1 or not {name for names in present for name in names} <= set(candidates[0]):
        raise UsageError(
            f"Cannot tell the text columns of {path}: found {', '.join(rows[0][1])}. "
            f"Name one or two with --text-columns. {page('how_to/use_your_own_files.md#a-task')}"
        )
    return candidates[0]


def _read_name(found: Any, where: str, label_column: str) -> str:
    """Return a class or a number as written."""
    if isinstance(found, list | dict) or examples.is_missing(found):
        hint = " Repair that line, or leave out all rows without a label with --drop-unlabelled."
        if isinstance(found, list | dict):
            hint = " For lists there are --kind multilabel and --kind tokens." if isinstance(found, list) else ""
        raise ContentError(f"{where}: column {label_column!r} must be a class or a number, found {shown(found)}.{hint}")
    return examples.written(found).strip()


def _read_set(found: Any, where: str, label_column: str) -> set[str]:
    """Return the classes of a text from a list, or from one text with `SEPARATOR` between them."""
    labels = found
    if isinstance(labels, str):
        labels = labels.split(SEPARATOR) if labels.strip() else []
    names = (
        [examples.written(label).strip() for label in labels if isinstance(label, str | int)]
        if type(labels) is list
        else []
    )
    if type(labels) is not list or len(names) < len(labels) or not all(names):
        raise ContentError(
            f"{where}: column {label_column!r} must be a list of classes, or classes with {SEPARATOR!r} between them, "
            f"found {shown(found)}."
        )
    return set(names)


def _read_names(found: Any, where: str, label_column: str) -> list[str]:
    """Return the classes of the words of a sentence."""
    if not isinstance(found, list) or any(
        isinstance(label, list | dict) or (not isinstance(label, str) and examples.is_missing(label)) for label in found
    ):
        raise ContentError(f"{where}: column {label_column!r} must be a list of labels, found {shown(found)}.")
    return [examples.written(label) for label in found]


def _label_reader(kind: Kind, classes: tuple[str, ...], read_written: LabelReader) -> LabelReader:
    """Return a reader of labels as numbers: class indices, scores, or an indicator for each class."""
    read_class = examples.class_reader(classes, "in the training file")

    def read_indicators(found: Any, where: str) -> tuple[float, ...]:
        names = read_written(found, where)
        for name in sorted(names):
            read_class(name, where)
        return tuple(float(name in names) for name in classes)

    readers: dict[Kind, LabelReader] = {
        "classification": lambda found, where: read_class(read_written(found, where), where),
        "regression": lambda found, where: examples.read_score(read_written(found, where), where),
        "tokens": lambda found, where: [read_class(name, where) for name in read_written(found, where)],
        "multilabel": read_indicators,
    }
    return readers[kind]


def _are_fractional(labels: list[Any]) -> bool:
    """Check that all labels are numbers and that one of them has a fractional part."""
    values = [examples.as_number(text) for text in labels]
    return all(value is not None for value in values) and any(value % 1 for value in values if value is not None)


def _refuse_decimal_commas(path: Path, label_column: str, labels: list[str]) -> None:
    """Refuse scores with decimal commas, which would all be classes."""
    commas = [text for text in labels if examples.has_decimal_comma(text)]
    if commas and all(text in commas or examples.as_number(text) is not None for text in set(labels)):
        raise ContentError(
            f"{path}: the column {label_column!r} seems to have numbers with a decimal comma, such as {commas[0]}. "
            "Write a point instead; if they are names of classes, give --kind classification."
        )


def _classes(path: Path, written: list[Any], kind: Kind, label_column: str) -> tuple[str, ...]:
    """Return the sorted classes of the training file; integers are sorted as numbers, except as labels of words."""
    if kind == "regression":
        return ()
    names = set(written) if kind == "classification" else {name for found in written for name in found}
    if kind == "multilabel" and not names:
        raise ContentError(f"{path} has no label in the column {label_column!r}.")
    if kind != "multilabel" and len(names) < 2:
        raise ContentError(f"{path} has one class only ({', '.join(names)}); at least two are needed.")
    numeric = kind != "tokens" and all(re.fullmatch(r"-?\d{1,300}", text) for text in names)
    return tuple(sorted(names, key=(lambda text: (int(text), text)) if numeric else str))
