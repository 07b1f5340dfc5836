"""Conditions on runs, such as `task=rte` or `metrics.accuracy.final.mean>0.7`, and lists of runs as text."""

from __future__ import annotations

import csv
import difflib
import io
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

from winning_tickets.runs.errors import UsageError, page, unknown
from winning_tickets.runs.escapes import csv_cell, printable
from winning_tickets.runs.files import is_number, parse_json
from winning_tickets.runs.store.records import ListedRun, Record, Status

_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*([^=<>!\s]+)\s*(==|=|!=|<=|>=|<|>)\s*(.*?)\s*", re.DOTALL)
_FIELDS = tuple(entry.name for entry in fields(Record))
_PLACES = ("labels", "config", "result")  # a key that starts with no field is looked up in these fields, in this order


@dataclass(frozen=True)
class Condition:
    """One condition on a run.

    A key is a dotted path into a record (`config.sparsity`, `result.metrics.f1.final.mean`, `error.kind`), or into its
    labels, configuration or result (`sparsity`): the first of these that has a value. A number in a path is an index
    into a list. `=` on a list tests membership, and `=rte,mrpc` allows several values. `<`, `<=`, `>` and `>=` compare
    numbers with numbers and text with text. A run without the key fulfills no condition on that key, not even `!=`; the
    value `null` counts as present. Studies read conditions on the axes of their plans in the same form.
    """

    key: str
    sign: str
    text: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise UsageError(
                f"--where {text!r} is not a condition; write KEY=VALUE, or with !=, <, <=, > or >= between them, "
                "such as --where task=rte,mrpc --where 'sparsity>=0.6'. " + page("explanation/store.md#find-runs")
            )
        key, sign, value = found.groups()
        return cls(key, "=" if sign == "==" else sign, value)

    def holds(self, record: Record) -> bool:
        value = _find(record, self.key)
        if value is _ABSENT:
            return False
        values = value if isinstance(value, list) else [value]
        if self.sign in _ORDERINGS:
            return any(self._in_order(found) for found in values)
        candidates = [value, *values] if isinstance(value, list) else values
        equal = any(choice._equals(found) for choice in self.choices for found in candidates)
        return equal == (self.sign == "=")

    @property
    def choices(self) -> list[Condition]:
        """The condition itself, and one for each value of a list such as `rte,mrpc`."""
        several = "," in self.text and not self.text.startswith(("[", "{", '"', "'"))
        parts = [part.strip() for part in self.text.split(",")] if several else []
        return [self, *(replace(self, text=part) for part in parts)]

    @staticmethod
    def names(key: str) -> list[list[str]]:
        """Return the paths that a key stands for: the field of a record, then the parts that follow it."""
        parts = key.split(".")
        return [parts] if parts[0] in _FIELDS else [[place, *parts] for place in _PLACES]

    @property
    def value(self) -> Any:
        """The value as JSON, or else the text itself."""
        try:
            return parse_json(self.text)
        except ValueError:
            return self.text

    def _equals(self, found: Any) -> bool:
        if isinstance(found, str):
            return found in (self.text, self.value)
        value = self.value
        if isinstance(found, bool) or isinstance(value, bool):
            return found is value
        return bool(found == value)

    def _in_order(self, found: Any) -> bool:
        compare = _ORDERINGS[self.sign]
        if isinstance(found, str):
            return compare(found, self.text)
        value = self.value
        return is_number(found) and is_number(value) and compare(found, value)


def _find(record: Record, key: str) -> Any:
    """Return the value of a key, or `_ABSENT`."""
    found = [_inside(getattr(record, place), parts) for place, *parts in Condition.names(key)]
    there = [value for value in found if value is not _ABSENT]
    return next((value for value in there if value is not None), None if there else _ABSENT)


def check_known(conditions: Sequence[Condition], records: Sequence[Record]) -> None:
    """Refuse a key that no run has, and name the closest keys."""
    for condition in conditions:
        if records and all(_find(record, condition.key) is _ABSENT for record in records):
            sample = records[:: max(1, len(records) // 100)]
            known = {key for record in sample for key in _keys(record)}
            close = difflib.get_close_matches(condition.key, sorted(known), n=4, cutoff=0.6)
            meant = f" Did you mean {', '.join(close)}?" if close else ""
            raise UsageError(
                f"No run has the key {condition.key!r} of --where.{meant} tickets runs --json shows all keys; they "
                f"begin with {', '.join(_FIELDS)}, or continue after labels., config. or result."
            )


STATUSES: tuple[Status, ...] = get_args(Status)


def check_status(status: str | None) -> None:
    """Refuse a status that does not exist."""
    if status is not None and status not in STATUSES:
        raise unknown("status", status, STATUSES)


def select(records: Sequence[Record], where: Sequence[str], status: str | None) -> list[Record]:
    """Return the records that fulfill all conditions and have the given status; None allows any status."""
    check_status(status)
    conditions = [Condition.parse(text) for text in where]
    check_known(conditions, records)
    return [
        record
        for record in records
        if status in (None, record.status) and all(condition.holds(record) for condition in conditions)
    ]


_ABSENT = object()


def _inside(value: Any, parts: list[str]) -> Any:
    """Return the value at a path, or `_ABSENT`; keys may contain dots, and the longest key that fits wins."""
    if not parts:
        return value
    if isinstance(value, dict):
        for count in range(len(parts), 0, -1):
            key = ".".join(parts[:count])
            if key in value and (found := _inside(value[key], parts[count:])) is not _ABSENT:
                return found
    if isinstance(value, list) and parts[0].isdecimal() and int(parts[0]) < len(value):
        return _inside(value[int(parts[0])], parts[1:])
    return _ABSENT


def _keys(record: Record) -> Iterator[str]:
    for name in _FIELDS:
        for path in _paths(getattr(record, name), name):
            yield path
            if name in _PLACES and path != name:
                yield path.removeprefix(f"{name}.")


def _paths(value: Any, prefix: str) -> Iterator[str]:
    yield prefix
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, f"{prefix}.{key}")


_NESTED = ("labels", "config", "result", "error", "versions", "machine", "source")


def as_json(records: Sequence[Record], store: str) -> dict[str, Any]:
    """Return all records, and the number of runs by status."""
    return {"store": store, "counts": _counts(records), "runs": [asdict(record) for record in records]}


def as_text(records: Sequence[Record | ListedRun], store: str) -> str:
    """Return one line per run (status, verb, id, main number or error), then the counts."""
    width = max((len(printable(record.id)) for record in records), default=0)
    lines = [
        printable(f"{record.status:<10} {record.verb:<9} {printable(record.id):<{width}}  {record.headline}".rstrip())
        for record in records
    ]
    counts = ", ".join(f"{count} {status}" for status, count in _counts(records).items())
    return "\n".join([*lines, printable(f"{store}: {len(records)} runs") + (f" ({counts})" if counts else "")])


_LONG = ("result.classes.", "result.confusion.", "result.labels")  # a column per class: left to result.json


def as_csv(records: Sequence[Record]) -> str:
    """Return CSV: a row per run and a column per value that any run has, such as `config.sparsity`; lists are JSON."""
    rows = [_flat(record) for record in records]
    filled = (column for row in rows for column, value in row.items() if value is not None)
    columns = [column for column in dict.fromkeys(filled) if not column.startswith(_LONG)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue().removesuffix("\n")


def to_frame(records: Sequence[Record]) -> Any:
    """Return one row per run and one column per value, such as `config.sparsity`, as a pandas data frame."""
    import pandas as pd

    return pd.DataFrame([_flat(record) for record in records])


def _counts(records: Sequence[Record | ListedRun]) -> dict[str, int]:
    return dict(sorted(Counter(record.status for record in records).items()))


def _flat(record: Record) -> dict[str, Any]:
    content = asdict(record)
    row = {name: value for name, value in content.items() if name not in _NESTED}
    for name in _NESTED:
        row |= _leaves(content[name] or {}, name)
    return row


def _leaves(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name, inner in value.items() for key, leaf in _leaves(inner, f"{path}.{name}").items()}
    return {path: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value}
