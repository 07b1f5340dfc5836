"""What a study needs before its first run: files and folders, models and data from the hub, room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from winning_tickets.data.corpora import PYDOCS_PARTS, check_corpus, hub_repository, table_column
from winning_tickets.data.hub import HubPart
from winning_tickets.data.loading import check_task_files
from winning_tickets.data.tasks import TASKS
from winning_tickets.report.costs import bytes_text
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.hub import unreachable
from winning_tickets.studies.expressions import is_reference, names_in
from winning_tickets.studies.plan import BY_DEFAULT, Plan, unset_needs
from winning_tickets.studies.references import Run
from winning_tickets.studies.worker import TINY

_FOLDERS = ("data_dir", "importance_from")
_FILES = ("task_file", "train_file", "validation_file", "pairs_file", "file")
_MODELS = ("model", "target", "base", "like", "targets", "reference", "paths", "baseline", "dense")
"""Settings that name tickets, runs and models; the values may be hub ids."""
_ON_HUB = ("model", "target")
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
    to_do = [run for run in plan.runs.values() if not is_done(run.id)]
    return [*unmet_needs(plan), *dict.fromkeys(lines), *_tasks_without_files(to_do), *_corpora_without_text(to_do)]


def unmet_needs(plan: Plan) -> list[str]:
    """Return a line for each missing input that a study declares; values that may be hub ids are not checked."""
    used = used_parameters(plan)
    needed = [name for name in plan.study.needs if name in used]  # a part of a study may not need all inputs
    by_default = () if _reads_test_files(plan) else BY_DEFAULT
    return unset_needs(plan.study, plan.parameters, [name for name in needed if name not in by_default]) + [
        f"{name}: there is no {one}; it has to be {plan.study.needs[name]}: --set {name}=..."
        for name in needed
        for one in _values(plan, name)
        if _is_missing(one)
    ]


def used_parameters(plan: Plan) -> set[str]:
    """Return the parameters that the stages of a plan use, also through other parameters."""
    stages = [plan.study.stages[name] for name in {point.stage for point in plan.points}]
    written = [[one.settings, one.over, one.label, one.only, one.skip, one.when] for one in stages]
    open_ = set(names_in(written))
    sources = [plan.study.parameters, *plan.study.scales.values()]
    used: set[str] = set()
    while open_:
        used |= open_
        open_ = names_in([source.get(name) for source in sources for name in open_]) - used
    return used


def _reads_test_files(plan: Plan) -> bool:
    """Return whether some run predicts test sets, which only a download of GLUE has."""
    return any(run.verb == "submit" for run in plan.runs.values())


def _values(plan: Plan, name: str) -> list[Any]:
    value = plan.parameters.get(name)
    return value if isinstance(value, list) else [value]


def _is_missing(value: Any) -> bool:
    """Return whether a value can only be a path, and that path does not exist."""
    if not isinstance(value, str) or is_reference(value) or value.startswith(TINY):
        return False
    certain = value.startswith((".", "~", "/")) or value.count("/") > 1
    return certain and not is_there(value)


def _absent(runs: Iterable[Run]) -> dict[Place, str]:
    """Return the settings that name missing files or folders, and what they should be."""
    places = dict.fromkeys(place for run in runs for place in _places(run.config))
    return {place: what for place in places if (what := _lacks(*place)) is not None}


def _tasks_without_files(runs: Iterable[Run]) -> Iterator[str]:
    """Yield a line for each task whose files are not in the folder that runs read it from."""
    for name, folder in dict.fromkeys(one for run in runs for one in _task_folders(run.config)):
        if is_there(folder, Path.is_dir):  # a missing folder is reported with its setting
            try:
                check_task_files(name, folder)
            except UsageError as error:
                yield f"data_dir: {error}"


def _corpora_without_text(runs: Iterable[Run]) -> Iterator[str]:
    """Yield a line for each file or folder of text that cannot be read, such as an empty one."""
    for field, value in dict.fromkeys(place for run in runs for place in _places(run.config)):
        if field == "corpus" and is_there(value):  # a missing one is reported with its setting
            try:
                check_corpus(value, "train")
            except (UsageError, ContentError) as error:
                yield f"corpus: {error}"


def _task_folders(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the built-in tasks of settings, also of nested ones, with the folder of their data."""
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _task_folders(value)
    folder = config.get("data_dir")
    if not isinstance(folder, str) or folder.startswith(TINY) or config.get("task_file") is not None:
        return
    names = [config.get("task"), *(config.get("tasks") or ()), str(config.get("corpus")).removeprefix("task:")]
    yield from ((str(name), folder) for name in names if name in TASKS)


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
    """Return what is missing, in words; None if the value exists, or may be something other than a path."""
    if field in _FOLDERS:
        return None if is_there(value, Path.is_dir) else "folder"
    if field in _FILES:
        return None if HubPart.parse(value) is not None or is_there(value, Path.is_file) else "file"
    if field == "corpus":
        named = value in PYDOCS_PARTS or value.startswith("task:") or hub_repository(value) is not None
        named = named or table_column(value) is not None
        return None if named or is_there(value) else "corpus, file or folder"
    return "file or folder" if field in _MODELS and _is_missing(value) else None


def is_there(value: str, test: Callable[[Path], bool] = Path.exists) -> bool:
    """Return whether a path exists, and passes a test such as `Path.is_dir`."""
    try:
        return test(Path(value).expanduser())
    except (OSError, RuntimeError):  # a name that is too long, or an unknown user
        return False


def list_hub_problems(plan: Plan, is_done: Callable[[str], bool]) -> list[str]:
    """Return the models and data sets of the hub that runs need and that this machine neither has nor can fetch."""
    lines = []
    for (field, value, repository, kind), runs in _repositories(plan.runs.values()).items():
        if all(is_done(run) for run in runs) or (reason := unreachable(repository, kind)) is None:
            continue
        if field == "data_dir":
            what = plan.study.needs.get(field, "a folder with the data")
            lines.append(f"data_dir is not set, and {repository} {reason}; --set data_dir=FOLDER, {what}.")
        else:
            what = "text or Parquet files" if field == "corpus" else "the model"
            name = repository if value == repository else f"{value}: {repository}"
            lines.append(f"{name} {reason}; {_advice(plan, value)}, a folder with {what}.")
    return list(dict.fromkeys(lines))  # a model may be read by several settings


def _repositories(runs: Iterable[Run]) -> dict[tuple[str, str, str, str], list[str]]:
    """Return the ids of runs by what they read from the hub: the setting, its value, the repository and its kind."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for run in runs:
        for config in (run.config, dict(run.config.get("fine_tuning") or {})):
            for place in _read_of_hub(config):
                found.setdefault(place, []).append(run.id)
    return found


def _read_of_hub(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for field in _ON_HUB:
        value = config.get(field)
        if isinstance(value, str) and _may_be_on_hub(value):
            yield field, value, value, "model"
    if config.get("data_dir") is not None:
        return
    if (repository := hub_repository(str(config.get("corpus")))) is not None:
        yield "corpus", str(config["corpus"]), repository, "dataset"
    for name in [config.get("task"), *(config.get("tasks") or ())]:
        task = TASKS.get(str(name))
        if task is not None and task.hub is not None:
            yield "data_dir", task.hub[0], task.hub[0], "dataset"


def _may_be_on_hub(name: str) -> bool:
    return not (is_reference(name) or name.startswith((TINY, "builtin:", ".", "~", "/")) or is_there(name))


def _advice(plan: Plan, value: str) -> str:
    """Return the `--set` option that replaces a value, which may be inside a mapping."""
    for name, given in plan.parameters.items():
        if given == value:
            return f"--set {name}=FOLDER"
        if isinstance(given, Mapping) and value in given.values():
            inside = ", ".join(f"{key}: {'FOLDER' if one == value else one}" for key, one in given.items())
            return f"--set '{name}={{{inside}}}'"
    return "give another one in the study"


def room_problem(estimate: Mapping[str, Any], store: Path) -> str | None:
    """Return a sentence if the files of a study, with checkpoints of runs at work, do not fit on the store's disk."""
    place = store.absolute()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, estimate["bytes"] + estimate["scratch_bytes"]
    if needed <= free:
        return None
    kept, scratch = bytes_text(estimate["bytes"]), bytes_text(estimate["scratch_bytes"])
    return (
        f"{bytes_text(needed)} of room: results and saved weights take about {kept}, checkpoints of runs at work "
        f"{scratch}, and {bytes_text(free)} are free at {place}. Give a --store on another disk, leave runs out with "
        "--set, or check it yourself and add --ignore-room."
    )
