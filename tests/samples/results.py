"""Results as verbs store them, for tests of their readers; the numbers mean nothing."""

from __future__ import annotations

import statistics
from typing import Any


def transfer_result(scores: dict[int, float] | None = None, **changed: Any) -> dict[str, Any]:
    """The result of a transfer with a score for each seed; `changed` are other keys, or None to leave one out."""
    scores = {0: 0.7} if scores is None else scores
    values = list(scores.values())
    mean, std = statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None
    final = {"mean": mean, "std": std, "values": values}
    result = {
        "verb": "transfer",
        "task": "rte",
        "metrics": {"accuracy": {"final": final, "best": final}},
        "primary_metric": "accuracy",
        "seeds": list(scores),
        "failed_seeds": [],
        "ticket_id": None,
        "sparsity": 0.0,
    }
    return {key: value for key, value in (result | changed).items() if value is not None or key == "ticket_id"}
