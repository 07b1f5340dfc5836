"""Records as text for people, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from winning_tickets.stats import is_score
from winning_tickets.store.index import Record

_NESTED = ("labels", "config", "result", "error", "versions", "machine", "source")


def as_json(records: Sequence[Record], store: str) -> dict[str, Any]:
    """All that is known of the runs, and how many there are of each status."""
    return {"store": store, "counts": _counts(records), "runs": [asdict(record) for record in records]}


def as_text(records: Sequence[Record], store: str) -> str:
    """A line a run: status, verb, id, its main number or its error; then the counts."""
    width = max((len(record.id) for record in records), default=0)
    lines = [
        f"{record.status:<10} {record.verb:<9} {record.id:<{width}}  {_headline(record)}".rstrip() for record in records
    ]
    counts = ", ".join(f"{count} {status}" for status, count in _counts(records).items())
    return "\n".join([*lines, f"{store}: {len(records)} runs" + (f" ({counts})" if counts else "")])


def as_csv(records: Sequence[Record]) -> str:
    """A row a run and a column a value, as `config.sparsity`; lists are JSON, and what is not known stays empty."""
    rows = [_flat(record) for record in records]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().removesuffix("\n")


def _counts(records: Sequence[Record]) -> dict[str, int]:
    return dict(sorted(Counter(record.status for record in records).items()))


def _headline(record: Record) -> str:
    if record.error is not None:
        return str(record.error.get("message", "")).partition("\n")[0][:100]
    result = record.result or {}
    seconds = "" if record.seconds is None else f"{record.seconds:,.1f} s"
    return ", ".join(part for part in (*_scores(result), seconds) if part)


def _scores(result: dict[str, Any]) -> list[str]:
    """The task's primary metric x100, or the losses and the sparsity that the result has."""
    primary, metrics = result.get("primary_metric"), result.get("metrics")
    scores = metrics.get(primary) if isinstance(metrics, dict) and isinstance(primary, str) else None
    final = scores.get("final") if isinstance(scores, dict) else None
    if isinstance(final, dict):
        deviation = f" ± {100 * final['std']:.1f}" if is_score(final.get("std")) else ""
        return [f"{primary} {100 * final['mean']:.1f}{deviation}"] if is_score(final.get("mean")) else []
    names = ("kd_loss", "mlm_loss", "similarity_spearman", "sparsity")
    return [f"{name} {result[name]:.4f}" for name in names if isinstance(result.get(name), float)]


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
