"""`tickets demo`: the recipe `demo` in one folder, with its table and its page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from winning_tickets.config import Runtime
from winning_tickets.report import tables
from winning_tickets.report.tables import Table, columns
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import TrainingError
from winning_tickets.runs.files import write_bytes
from winning_tickets.runs.identity import digest
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.engines import InlineEngine
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import Plan, plan_study
from winning_tickets.studies.report import PAGE, report_files
from winning_tickets.studies.report.observations import Observation, StudyRun, gather_runs, observe_value
from winning_tickets.studies.run import ProgressLines, run_study
from winning_tickets.studies.schema import Value

if TYPE_CHECKING:
    from winning_tickets.tickets.ticket import Ticket

REPORT = "report.html"
MASK_TRAINING = "mask training (KD)"


def run_demo(out: Path, runtime: Runtime, scale: str = "small") -> dict[str, Any]:
    """Do the runs of the recipe `demo` in `out/store`, write its page, and return the content of the table.

    An interrupted demo resumes; a finished one returns its stored result.
    """
    from winning_tickets.data.pydocs import pydocs_info
    from winning_tickets.models.loading import resolve_model

    plan = plan_study(load_study("demo"), scale)
    resolve_model(plan.parameters["model"])  # a missing model is the most likely problem, so it is checked first
    info = pydocs_info()
    identity = f"demo-{digest([*plan.runs, info['text_hash']])}"
    with RunDirectory.claim(out, "demo", identity, plan.parameters) as run:
        if run.status == "done":
            return run.result()
        # All runs are done in this process: starting workers would take longer than the small runs.
        start, store = time.monotonic(), Store(out / "store")
        watch = None if runtime.quiet else ProgressLines(plan, store, 1)
        ended = run_study(plan, store, InlineEngine(), runtime, retry_failed=True, watch=watch)
        for name, message in ended["failed"].items():
            raise TrainingError(f"{name}: {message}")
        result = _result(plan, store) | {"seconds": time.monotonic() - start, "pydocs": info}
        write_bytes(out / REPORT, report_files(plan, store, ["html"])[0][PAGE])
        run.finish(result)
        return result


def table(result: dict[str, Any]) -> Table:
    """Return the table of the demo."""
    heads = [
        *columns(name="Method"),
        *columns(tables.percent, sparsity="Sparsity"),
        *columns(tables.decimal, kd_in="KD in", kd_out="KD out"),
        *columns(tables.percent, accuracy="Accuracy", accuracy_best="Best"),
        *columns(tables.seconds, seconds="Search"),
    ]
    return Table(result["rows"], heads, title="Results")


_VALUES = {
    "sparsity": ("transfer", "sparsity", {}),
    "kd_in": ("kd", "kd_loss", {"text": "in domain"}),
    "kd_out": ("kd", "kd_loss", {"text": "out of domain"}),
    "accuracy": ("transfer", "score", {}),
    "accuracy_best": ("transfer", "score.best", {}),
    "majority": ("transfer", "majority", {}),
    "seconds": ("search", "run.seconds", {}),
}
"""Where each value of a row is observed: stage, path and axes other than the method."""


def _result(plan: Plan, store: Store) -> dict[str, Any]:
    """Return the result of the demo, made from the finished runs."""
    from winning_tickets.tickets.ticket import Ticket

    runs, chosen = gather_runs(plan, store), plan.parameters
    methods = list(dict.fromkeys(run.axes["method"] for run in runs if run.stage == "transfer"))
    rows = []
    for method in methods:
        row = {"name": method}
        for key, (stage, path, axes) in _VALUES.items():
            row[key] = next((one.value for one in _observed(runs, stage, path, method=method, **axes)), None)
        rows.append(row)
    accuracies = {name: _observed(runs, "transfer", "log.evaluation.accuracy", method=name) for name in methods}
    folders = {run.axes["method"]: store.folder(run.id) for run in runs if run.stage == "search"}
    trained, magnitude = (Ticket.from_pretrained(folders[name]) for name in (MASK_TRAINING, "magnitude"))
    return {
        "verb": "demo",
        "model": chosen["model"],
        "sparsity": chosen["sparsity"],
        "steps": chosen["search_steps"],
        "transfer_steps": chosen["transfer_steps"],
        "corpus": {
            "search": chosen["search_corpus"],
            "in_domain": f"{chosen['search_corpus']} (held out, packed:128)",
            "out_of_domain": f"{chosen['other_corpus']} (single lines)",
        },
        "rows": rows,
        "majority": rows[0]["majority"],
        "search_log": _steps("kd", _observed(runs, "search", "log.kd", method=MASK_TRAINING)),
        "transfer_logs": {name: _steps("accuracy", found) for name, found in accuracies.items()},
        "by_matrix": trained.sparsity_by_matrix(),
        "changed_by_kind": changed_by_kind(trained, magnitude),
        "versions": versions(),
        "machine": machine(),
    }


def _observed(runs: Sequence[StudyRun], stage: str, path: str, **axes: str) -> list[Observation]:
    return observe_value(runs, Value(stage=stage, value=path, where=(axes,)))


def _steps(name: str, observations: Sequence[Observation]) -> list[dict[str, Any]]:
    return [{"step": one.axes["step"], name: one.value} for one in observations]


_KINDS = ("embeddings", "query", "key", "value", "attention.output", "intermediate", "output")


def changed_by_kind(ticket: Ticket, other: Ticket) -> dict[str, float]:
    """Return the fraction of mask entries that differ between two tickets, by kind of matrix."""
    changed: dict[str, list[int]] = {}
    for name, mask in ticket.masks.items():
        counts = changed.setdefault(next(kind for kind in _KINDS if kind in name), [0, 0])
        counts[0] += int((mask != other.masks[name]).sum())
        counts[1] += mask.numel()
    return {kind: differing / total for kind, (differing, total) in changed.items()}
