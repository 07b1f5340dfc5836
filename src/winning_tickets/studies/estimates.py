"""The time and the bytes of a plan, estimated from what the runs in its store took."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from winning_tickets.config import Settings
from winning_tickets.report.costs import (
    CPU,
    DEVICES,
    RESULT_BYTES,
    STATE_BYTES,
    WEIGHT_BYTES,
    Cost,
    Speed,
    cost_of,
    flops_of,
    size_of,
)
from winning_tickets.runs.errors import TicketsError
from winning_tickets.runs.store.records import Record
from winning_tickets.studies.plan import Plan
from winning_tickets.studies.verbs import VERBS

_INSIDE = re.compile(r"(?:^@|/runs/)([^/]+)")


class Estimator:
    """Estimates the seconds and bytes of the remaining runs.

    Args:
        speed: that of runs without similar ones in the store.
        gpus: GPUs of such a run.
        as_measured: whether similar runs in the store say how long a run takes; otherwise all runs have `speed`.
    """

    def __init__(
        self,
        plan: Plan,
        records: Mapping[str, Record],
        speed: Speed = CPU,
        gpus: float = 0,
        *,
        as_measured: bool = True,
    ) -> None:
        self._plan = plan
        self._records = records
        self._speed, self._gpus = speed, gpus or 1.0
        measured: dict[tuple[str, ...], list[float]] = {}
        for record in records.values() if as_measured else ():
            # The seconds of a resumed run are those of its last attempt, which may have done hardly anything.
            whole = record.status == "done" and record.seconds is not None and not record.resumed
            settings = _settings_of(record) if whole else None
            if settings is not None:
                config = _flat(record.config)
                size = size_of(self._model(config))
                seconds = float(record.seconds or 0.0) / (flops_of(cost_of(settings, size), size) or 1.0)
                measured.setdefault(self._kind(record.verb, config), []).append(seconds)
        self._typical = {kind: statistics.median(seconds) for kind, seconds in measured.items()}

    def estimate(self, left: Iterable[str], workers: int) -> dict[str, Any]:
        """Return the costs of the remaining runs.

        `seconds` until all are done; `hours` of one device of each kind that is known; `on`, the devices of `seconds`;
        `flops`; `tokens` trained on, where tokens of a forward pass alone count a third; `trainings`; `bytes` that
        stay in the store; `scratch_bytes` of checkpoints while runs are at work; `runs`, the number of runs; and
        `measured_runs`, the number of those that have similar runs in the store.
        """
        seconds, total, kept, scratch, measured, count, flops = 0.0, Cost(), 0.0, 0.0, 0, 0, 0.0
        count_at_once = self._gpus * max(1, workers)
        speeds = {name: Speed(name, self._speed.bf16) for name in DEVICES}
        hours = dict.fromkeys(speeds, 0.0)
        for run in (self._plan.runs[run] for run in left):
            config = _flat(dict(run.settings))
            size = size_of(self._model(config))
            cost = cost_of(run.settings, size)
            operations = flops_of(cost, size)
            known = self._typical.get(self._kind(run.verb, config))
            seconds += self._speed.seconds(cost, size) / self._gpus if known is None else known * (operations or 1.0)
            for name, speed in speeds.items():
                hours[name] += speed.seconds(cost, size) / 3600
            total, flops = total.plus(cost), flops + operations
            kept += RESULT_BYTES + (WEIGHT_BYTES * size.parameters if run.verb == "export" else 0)
            scratch = max(scratch, 2 * STATE_BYTES * size.parameters if cost.trainings else 0.0)
            measured += known is not None
            count += 1
        return {
            "seconds": seconds / max(1, workers),
            "hours": {name: float(f"{one:.4g}") for name, one in hours.items()},
            "on": self._speed.words + (f", {count_at_once:g} of them at once" if count_at_once > 1 else ""),
            "flops": flops,
            "tokens": total.tokens,
            "trainings": round(total.trainings),
            "bytes": round(kept + total.bytes),
            "scratch_bytes": round(scratch * max(1, workers)),
            "runs": count,
            "measured_runs": measured,
        }

    def _kind(self, verb: str, config: Mapping[str, Any]) -> tuple[str, ...]:
        return (verb, self._model(config), str(config.get("method")))

    def _model(self, config: Mapping[str, Any]) -> str:
        """Return the model that a run starts from; references to other runs are followed."""
        config = _flat(config)
        name = config.get("model") or config.get("target")
        inside = _INSIDE.search(str(name))
        if inside is None:
            return str(name)
        run = self._plan.runs.get(inside.group(1))
        if run is not None:
            return self._model(run.config)
        record = self._records.get(inside.group(1))
        return str(name) if record is None else self._model(record.config)


def _settings_of(record: Record) -> Settings | None:
    """Return the settings of a stored run; None if they are not valid settings of a verb."""
    try:
        return VERBS[record.verb].settings.of(**record.config)
    except (KeyError, TicketsError, TypeError):
        return None


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the nested `fine_tuning` settings of a super ticket merged in."""
    return {**config, **dict(config.get("fine_tuning") or {})}
