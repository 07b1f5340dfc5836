"""Results of transfers as observations (one score per task and seed), and the groups of tickets they belong to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from winning_tickets.runs import memory
from winning_tickets.runs.directory import MARKER
from winning_tickets.runs.errors import ContentError, UsageError, unknown
from winning_tickets.runs.identity import canonical_json
from winning_tickets.runs.results import RESULT, FineTuning, TransferResult, TransferSeedResult, read_result
from winning_tickets.runs.statistics import constant_score, is_at_chance

K = TypeVar("K")
Score = Literal["final", "best"]
SCORES: tuple[Score, ...] = ("final", "best")

SETTINGS = ("steps", "train_examples", "max_length", "batch_size", "learning_rate", "dropout", "data_hash")
"""Settings that comparable runs share; the result of one seed has only the first three."""

_ORIGIN = ("method", "search", "search_seed", "asked", "start_from")


@dataclass(frozen=True)
class RunScore:
    """The score of one fine-tuning run; the committed results of docs/results may lack `method` and what follows."""

    task: str
    seed: int  # seed of the fine-tuning
    metric: str
    value: float  # 0-1 (correlations may be below 0)
    ticket_id: str | None  # None for a dense model
    sparsity: float
    model: str | None
    base_hash: str | None
    settings: dict[str, Any]  # the SETTINGS that the files have
    path: str
    method: str | None = None
    search: dict[str, Any] | None = None
    search_seed: int | None = None
    asked: dict[str, Any] | None = None  # if units were pruned: the level or the numbers of units to prune
    start_from: str = "pretrained"
    degenerate: bool = False  # the model was no better than a constant answer; for a summary, in any of its runs
    majority: float | None = None  # accuracy of the most frequent class, if `metric` is that accuracy

    @property
    def key(self) -> tuple[str, int]:
        """The pair of task and seed, by which runs of different tickets are compared."""
        return self.task, self.seed

    @property
    def at_chance(self) -> bool:
        """True if one answer for all examples has this score."""
        return is_at_chance(self.metric, self.value, self.majority, constant=self.degenerate)

    @property
    def constant_score(self) -> float | None:
        """The score of the best constant answer; None if the files do not say it."""
        return constant_score(self.metric, self.majority)


Run = str | Path | Mapping[str, Any]
"""A transfer: its folder, a file of its result, or the result itself."""
Runs = Run | Sequence[Run]


def as_list(given: Any) -> list[Any]:
    """Return several paths, results or tickets as a list; one of them as a list of one."""
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def name_in_memory(result: Mapping[str, Any]) -> str:
    """Return the name, in messages and tables, of a result that was given in memory."""
    return f"{result.get('run_id') or memory.shown(str(result.get('target', 'result')))} (in memory)"


def read_runs(runs: Runs, score: Score = "final", metric: str | None = None, kind: str = "transfer") -> list[RunScore]:
    """Return all finished seeds of transfer runs, in the order of runs and seeds; `kind` is for error messages."""
    if not as_list(runs):
        raise UsageError(f"No {kind} run was given; give one or more folders made by tickets transfer --out.")
    if score not in SCORES:
        raise unknown("score", score, SCORES)
    return [cell for run in as_list(runs) for cell in _read_run(run, score, metric)]


def index_once(cells: Iterable[RunScore], key: Callable[[RunScore], K], owner: str) -> dict[K, RunScore]:
    """Return cells by a key; refuse two cells with the same key."""
    found: dict[K, RunScore] = {}
    for cell in cells:
        other = found.setdefault(key(cell), cell)
        if other is not cell:
            twice = f"{cell.task} with seed {cell.seed} twice: {other.path} and {cell.path}"
            raise ContentError(f"{owner} hold {twice}. Give each run once.")
    return found


def check_comparable(cells: Sequence[RunScore]) -> None:
    """Refuse a task that is scored by two metrics, or on two sets of data."""
    first: dict[str, RunScore] = {}
    for cell in cells:
        other = first.setdefault(cell.task, cell)
        if other.metric != cell.metric:
            raise ContentError(
                f"{cell.task} is scored by {other.metric} in {other.path} and by {cell.metric} in {cell.path}; "
                "compare runs with the same metric."
            )
        hashes = [one.settings.get("data_hash") for one in (other, cell)]
        if None not in hashes and hashes[0] != hashes[1]:
            raise ContentError(
                f"{cell.task} has other data in {other.path} than in {cell.path} (data_hash {hashes[0]} and "
                f"{hashes[1]}), so their scores cannot be compared. If these are two tasks, give each a name: "
                "tickets transfer --task-name."
            )


def is_transfer(content: Any) -> bool:
    """Return whether a parsed JSON is the result of a transfer: of one seed, or the summary of several."""
    return isinstance(content, Mapping) and content.get("verb") in ("transfer", "transfer-seed")


def _read_run(run: Run, score: Score, metric: str | None) -> list[RunScore]:
    if isinstance(run, Mapping):
        name = name_in_memory(run)
        return _cells(FineTuning.parse(run, name), name, _Measure(score, metric))
    path = Path(run)
    if not path.exists():
        raise UsageError(f"There is no transfer run {path}; give folders made by tickets transfer --out.")

    def number_of(file: Path) -> tuple[int, str]:
        number = file.parent.name.removeprefix("seed-")
        return (int(number), "") if number.isdecimal() else (-1, number)

    seeds, summary = sorted(path.glob(f"seed-*/{RESULT}"), key=number_of), path / RESULT
    if not seeds and not path.is_file() and not summary.is_file():
        if (path / MARKER).is_file():
            raise UsageError(f"{path} is a run that has no finished seed yet; wait for it, or leave it out.")
        raise UsageError(f"{path} is not a transfer run; give folders made by tickets transfer --out.")
    common = read_result(summary, FineTuning) if seeds and summary.is_file() else None
    files = seeds or [path if path.is_file() else summary]
    return [
        cell
        for file in files
        for cell in _cells(read_result(file, FineTuning), str(file), _Measure(score, metric), common)
    ]


class _Measure(NamedTuple):
    """Which score is read: of the final or the best evaluation, by a metric or by the primary one (None)."""

    score: Score
    metric: str | None


def _cells(result: FineTuning, path: str, measure: _Measure, common: FineTuning | None = None) -> list[RunScore]:
    """Return the scores in a summary, or in a seed's result, whose missing fields come from the summary `common`."""
    assert isinstance(result, TransferResult | TransferSeedResult)
    metric = measure.metric or result.primary_metric
    known = result.metrics if isinstance(result, TransferResult) else result.final
    if metric not in known:
        raise unknown("metric", metric, known, f"{path} has no other.")
    # One score per seed: a summary lists those of all seeds.
    if isinstance(result, TransferResult):
        scores = dict(zip(result.seeds, getattr(result.metrics[metric], measure.score).values, strict=True))
    else:
        scores = {result.seed: (result.final if measure.score == "final" else result.best)[metric]}
    if None in scores.values():
        raise ContentError(f"{path} has no {metric}, as its data lacked that split; choose another metric.")
    facts = {name: value for one in (common, result) if one is not None for name, value in one.known()}
    about = {
        "task": result.task,
        "metric": metric,
        "ticket_id": result.ticket_id,
        "sparsity": result.sparsity,
        "model": facts.get("model"),
        "base_hash": facts.get("base_hash"),
        "settings": {key: facts[key] for key in SETTINGS if key in facts},
        "path": path,
        **{key: facts[key] for key in _ORIGIN if facts.get(key) is not None},
        "degenerate": bool(result.degenerate),
        "majority": _majority(facts.get("majority"), metric, result.primary_metric),
    }
    return [RunScore(seed=seed, value=value, **about) for seed, value in scores.items() if value is not None]


def _majority(majority: float | None, metric: str, primary: str) -> float | None:
    """Return the accuracy of the most frequent class, if `metric` is an accuracy on the same examples; else None."""
    return majority if metric == "accuracy" or (metric.startswith("accuracy") and metric == primary) else None


UNKNOWN = "tickets"
"""Name for the method of tickets whose runs do not state it."""
COMPARED = (*SETTINGS, "start_from")
"""Settings that should be the same in runs that are compared or averaged."""


def group_key(cell: RunScore) -> str:
    """Return a key that is the same for tickets found in the same way and fine-tuned from the same weights."""
    return canonical_json([cell.method, cell.search, _start(cell)])


def grid_sparsities(cells: Sequence[RunScore]) -> list[float]:
    """Return the sparsity of each cell, rounded to three decimals because exact counts differ a little."""
    # Tickets of one level differ in sparsity, because units overlap (a head in a pruned layer); all get their mean.
    places = [(group_key(cell), canonical_json(cell.asked or round(cell.sparsity, 3))) for cell in cells]
    tickets: dict[tuple[str, str], dict[str | None, float]] = {}
    for place, cell in zip(places, cells, strict=True):
        tickets.setdefault(place, {})[cell.ticket_id] = cell.sparsity
    return [round(statistics.fmean(tickets[place].values()), 3) for place in places]


def group_labels(cells: Sequence[RunScore]) -> dict[str, str]:
    """Return a short name for each group of tickets, by `group_key`: method, objective, and settings that differ."""
    first: dict[str, RunScore] = {}
    for cell in cells:
        first.setdefault(group_key(cell), cell)
    names = {key: " ".join(filter(None, (one.method or UNKNOWN, objective_of(one)))) for key, one in first.items()}
    labels = {}
    for key, cell in first.items():
        same_name = [_search_settings(first[other]) for other, name in names.items() if name == names[key]]
        differing = [
            f"{setting}={value}"
            for setting, value in _search_settings(cell).items()
            if any(other.get(setting) != value for other in same_name)
        ]
        labels[key] = names[key] + (f" ({', '.join(differing)})" if differing else "")
    return labels


def objective_of(cell: RunScore) -> str | None:
    """Return the objective of a search, such as `kd`, `mlm` or `task:mrpc,rte`; None without one."""
    search = cell.search or {}
    objective = search.get("objective")
    tasks = search.get("tasks")
    return f"{objective}:{','.join(tasks)}" if objective and tasks else objective


def method_name(method: str, objective: str | None) -> str:
    """Return the name of a method; that of mask training includes its objective."""
    return f"{method} {objective}" if method == "mask-training" and objective else method


def find_differences(
    groups: Mapping[str, Sequence[RunScore]], settings: Sequence[str] = COMPARED
) -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """Yield the settings that differ between cells, with the values of each group that its files have."""
    for setting in settings:
        values: dict[str, list[Any]] = {}
        for name, cells in groups.items():
            known = [cell.settings | {"start_from": _start(cell), "base_hash": cell.base_hash} for cell in cells]
            own = [one[setting] for one in known if setting in one]
            values[name] = list(dict.fromkeys(value for value in own if setting != "base_hash" or value is not None))
        values = {name: own for name, own in values.items() if own}
        if len({str(value) for own in values.values() for value in own}) > 1:
            yield setting, values


def _search_settings(cell: RunScore) -> Mapping[str, Any]:
    own = {key: value for key, value in (cell.search or {}).items() if key not in ("objective", "tasks")}
    return own | ({} if cell.start_from == "pretrained" else {"start_from": _start(cell)})


def _start(cell: RunScore) -> str:
    """Return the weights that fine-tuning started from; only the file name, as each sparsity has its own folder."""
    return Path(cell.start_from).name
