"""Status of a study from its store: counts by stage, errors, blocked runs, missing inputs, estimated time."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from winning_tickets.config import (
    EvaluateConfig,
    FitHeadConfig,
    SearchConfig,
    Settings,
    ShareConfig,
    SuperConfig,
    TransferConfig,
)
from winning_tickets.data.corpora import HUB_CORPORA, PYDOCS_PARTS
from winning_tickets.runs.store.index import Record
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.expressions import is_reference
from winning_tickets.studies.plan import Plan
from winning_tickets.studies.references import Run
from winning_tickets.studies.worker import TINY

_FOLDERS = ("data_dir", "importance_from")
_FILES = ("task_file", "train_file", "validation_file", "pairs_file")
_MODELS = ("model", "target", "base", "like", "targets", "reference", "paths", "baseline", "dense")
"""Settings that name tickets, runs and models; they may be names of the hub."""

Place = tuple[str, str]  # a setting and its value


def list_problems(plan: Plan, is_done: Callable[[str], bool]) -> list[str]:
    """Return everything that is missing on this machine for the runs that are not done."""
    absent = _absent(plan.runs.values())
    if absent:  # data of finished runs may be gone
        absent = _absent(run for run in plan.runs.values() if not is_done(run.id))
    reported = {one for name in plan.study.needs for one in _values(plan, name) if _is_missing(one)}
    parameters = {value: name for name, value in reversed(plan.parameters.items()) if isinstance(value, str)}
    lines = (
        f"{parameters.get(value, field)}={value}: there is no {what} {value}."
        for (field, value), what in absent.items()
        if value not in reported
    )
    return [*unmet_needs(plan), *dict.fromkeys(lines)]


def unmet_needs(plan: Plan) -> list[str]:
    """Return the missing inputs that a study declares; values that may be names of the hub are not checked."""
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


def _is_missing(value: Any) -> bool:
    """Return whether a value can only be a path, and there is nothing."""
    if not isinstance(value, str) or is_reference(value) or value.startswith(TINY):
        return False
    certain = value.startswith((".", "~", "/")) or value.count("/") > 1
    return certain and not _there(value)


def _absent(runs: Iterable[Run]) -> dict[Place, str]:
    """Return the settings that name missing files or folders, and what they should be."""
    places = dict.fromkeys(place for run in runs for place in _places(run.config))
    return {place: what for place in places if (what := _lacks(*place)) is not None}


def _places(config: Mapping[str, Any]) -> Iterator[Place]:
    """Yield all settings that are strings or lists of strings, also nested ones."""
    for field, value in config.items():
        if isinstance(value, Mapping):
            yield from _places(value)
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, str) and not is_reference(one) and not one.startswith(TINY):
                    yield field, one


def _lacks(field: str, value: str) -> str | None:
    """Return what is missing, in words; None if it is there, or may be no path."""
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
    except (OSError, RuntimeError):  # a name that is too long, or an unknown user
        return False


STEP_SECONDS = 1.05
"""Seconds per fine-tuning step of MiniLM on 16 x 128 tokens on two cores; see docs/results/hold_step."""
_STEP_TOKENS = 16 * 128
_MINILM = 6 * 384**2
_SIZES = {
    "builtin:minilm": (6, 384, 22_713_216),
    "base": (12, 768, 109_482_240),
    "large": (24, 1024, 335_141_888),
    "tiny": (2, 32, 60_000),
}
"""Layers, width and parameters by a part of the model's name; a local folder has them in config.json."""
EXAMPLES = {
    "cola": 8_551,
    "sst2": 67_349,
    "mrpc": 3_668,
    "stsb": 5_749,
    "qqp": 363_846,
    "mnli": 392_702,
    "qnli": 104_743,
    "rte": 2_490,
    "wnli": 635,
    "snli": 549_367,
    "scitail": 23_596,
    "squad": 87_599,
}
"""Training examples by task."""
_BATCH, _LENGTH, _EPOCHS, _EVALUATED_TOKENS = 32, 128, 3.0, 300_000
_FORWARD = 1 / 3  # share of the forward pass in a step
_FIXED_SECONDS = 5.0
_RESULT_BYTES = 30_000
_INSIDE = re.compile(r"(?:^@|/runs/)([^/]+)")


class Estimator:
    """Estimates the seconds and bytes of runs that are left, from similar runs in the store."""

    def __init__(self, plan: Plan, records: Mapping[str, Record]) -> None:
        self._plan = plan
        self._records = records
        measured: dict[tuple[str, ...], list[float]] = {}
        for record in records.values():
            if record.status == "done" and record.seconds is not None:
                config = _flat(record.config)
                kind = self._kind(record.verb, config)
                measured.setdefault(kind, []).append(record.seconds / float(config.get("steps") or 1))
        self._typical = {kind: statistics.median(seconds) for kind, seconds in measured.items()}

    def estimate(self, left: Iterable[str], workers: int) -> dict[str, Any]:
        """Return `seconds`, `bytes`, `runs`, and `measured_runs`, which have similar runs in the store."""
        seconds, size, measured, count = 0.0, 0, 0, 0
        for run in (self._plan.runs[run] for run in left):
            known = self._known(run)
            seconds += self._guess(run) if known is None else known
            size += self._bytes(run)
            measured += known is not None
            count += 1
        return {"seconds": seconds / max(1, workers), "bytes": size, "runs": count, "measured_runs": measured}

    def _known(self, run: Run) -> float | None:
        """Return the median seconds of runs of the same verb, model and method: per step, or of the same task."""
        config = _flat(dict(run.settings))
        found = self._typical.get(self._kind(run.verb, config))
        return None if found is None else found * float(config.get("steps") or 1)

    def _kind(self, verb: str, config: Mapping[str, Any]) -> tuple[str, ...]:
        task = "any" if config.get("steps") else str(config.get("task"))  # without steps the data determine the time
        return (verb, self._model(config), str(config.get("method")), task)

    def _model(self, config: Mapping[str, Any]) -> str:
        """Return the model that a run starts from, through the runs that it refers to."""
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

    def _guess(self, run: Run) -> float:
        layers, width, _ = _size_of(self._model(run.config))
        per_token = STEP_SECONDS / _STEP_TOKENS * layers * width**2 / _MINILM
        return _FIXED_SECONDS + float(tokens_of(run.settings) * per_token)

    def _bytes(self, run: Run) -> int:
        _, _, parameters = _size_of(self._model(run.config))
        settings = run.settings
        if isinstance(settings, SearchConfig):
            tickets = len(settings.rungs) + len(settings.save_at)
            return _RESULT_BYTES + tickets * parameters // 8
        saves = isinstance(settings, FitHeadConfig) or getattr(settings, "save_model", False) or run.verb == "export"
        return _RESULT_BYTES + (4 * parameters if saves else 0)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the nested settings `fine_tuning` of a super ticket."""
    return {**config, **dict(config.get("fine_tuning") or {})}


def tokens_of(settings: Settings) -> float:
    """Return the tokens that a run trains on, with padding; tokens that it only evaluates count a third."""
    if isinstance(settings, SearchConfig):
        trains = settings.needs.mask_training or settings.needs.sources
        return float(settings.total_steps * (settings.batch_tokens or _STEP_TOKENS)) if trains else 0.0
    if isinstance(settings, FitHeadConfig):
        return float(settings.steps * settings.batch_tokens)
    if isinstance(settings, EvaluateConfig):
        return _FORWARD * (settings.max_tokens or _EVALUATED_TOKENS)
    if isinstance(settings, TransferConfig | ShareConfig):
        tasks = settings.tasks if isinstance(settings, ShareConfig) else [settings.task]
        epochs = (settings.resolved() if isinstance(settings, ShareConfig) else settings).epochs
        batch = settings.batch_size or _BATCH
        examples = sum(_examples(task, settings.train_size) for task in tasks)
        steps = settings.steps or float(epochs or _EPOCHS) * examples / batch
        return steps * batch * (settings.max_length or _LENGTH) * len(settings.seeds)
    if isinstance(settings, SuperConfig):
        settings = settings.resolved()
        trainings = 1 + len(settings.level) * len(settings.selections)
        return trainings * sum(tokens_of(fine_tuning) for _, fine_tuning in settings.grid())
    return 0.0


def _examples(task: str | None, asked: str | None) -> float:
    every: float = EXAMPLES.get(str(task), 1_000)
    if asked is None:
        return every
    number = float(asked.rstrip("% "))
    return every * number / 100 if asked.strip().endswith("%") else min(every, number)


def _size_of(name: str) -> tuple[int, int, int]:
    """Return the layers, width and approximate number of parameters of a model."""
    try:
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        layers, width, words = (int(config[key]) for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
    except (OSError, ValueError, KeyError, TypeError):  # no local folder, or one that the run will refuse
        return next((size for part, size in _SIZES.items() if part in name), _SIZES["base"])
    return layers, width, words * width + 12 * layers * width**2


STATES = ("done", "running", "failed", "blocked", "to do")


def blocked_by(plan: Plan, failed: Iterable[str]) -> dict[str, str]:
    """Return the runs that wait for a failed run, and that run."""
    reasons = {run: run for run in failed}
    for run in plan.runs.values():  # each comes after those that it needs
        if run.id not in reasons:
            reason = next((reasons[need] for need in run.needs if need in reasons), None)
            if reason is not None:
                reasons[run.id] = reason
    return {run: reason for run, reason in reasons.items() if run != reason}


def study_status(plan: Plan, store: Store, workers: int = 1) -> dict[str, Any]:
    """Return the counts of `STATES` in all and by stage, failed, blocked and running runs, problems and an estimate.

    The estimate is for runs to do and running; blocked runs wait until the failed ones are tried again.
    """
    # The state of each run; runs that wait for a failed one are blocked.
    records = {record.id: record for record in store.records()} if store.exists() else {}
    found = {run: records[run].status if run in records else "absent" for run in plan.runs}
    states = {run: status if status in STATES else "to do" for run, status in found.items()}
    failed = [run for run, state in states.items() if state == "failed"]
    blocked = {run: why for run, why in blocked_by(plan, failed).items() if states[run] == "to do"}
    states |= dict.fromkeys(blocked, "blocked")
    # Counts by stage; a run that several stages share counts in each.
    stages = {}
    for name in plan.study.stages:
        runs = plan.stage_runs(name)
        stages[name] = {"runs": len(runs)} | _counts(states[run] for run in runs)
    left = [run for run, state in states.items() if state in ("to do", "running")]
    return {
        "study": plan.study.name,
        "scale": plan.scale,
        "runs": len(plan.runs),
        **_counts(states.values()),
        "stages": stages,
        "failed_runs": {run: (records[run].error or {}).get("message", "") for run in failed},
        "blocked_runs": blocked,
        "running_runs": [run for run, state in states.items() if state == "running"],
        "problems": list_problems(plan, lambda run: states[run] == "done"),
        "estimate": Estimator(plan, records).estimate(left, workers),
    }


def _counts(states: Iterable[str]) -> dict[str, int]:
    numbers = Counter(states)
    return {state.replace(" ", "_"): numbers[state] for state in STATES}
