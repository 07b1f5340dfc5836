"""How a comparison is said: its effect and interval, runs that learned nothing, settings that differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from winning_tickets.config import TransferConfig
from winning_tickets.report.tables import Format, Result, format_interval

_PLURALS = {"task": "tasks", "row": "masks", "column": "other masks"}
_FIELDS = {"train_examples": "train_size"}
"""Settings whose names in results are not those of their options."""


def describe_effect(estimate: float, facts: Mapping[str, Any], form: Format) -> str:
    """Return an estimate with its interval, or with the reason why it has none.

    Args:
        estimate: the mean difference.
        facts: its `interval`, `p`, `levels` and `no_interval`, as `Estimate.facts` gives them.
        form: format of a difference.
    """
    if facts["interval"] is None:
        return f"{form(estimate)}, without an interval: {facts['no_interval']}"
    p = "" if facts["p"] is None else f", p = {facts['p']:.2g}"
    interval = format_interval(facts["interval"], form)
    return f"{form(estimate)}, 95 % interval {interval}{p}{describe_levels(facts['levels'])}"


def describe_levels(levels: Mapping[str, int]) -> str:
    """Return the numbers of levels in parentheses, such as ` (2 tasks, 3 seeds)`; empty without any."""
    found = [f"{count} {plural(axis) if count > 1 else axis.replace('_', ' ')}" for axis, count in levels.items()]
    return f" ({', '.join(found)})" if found else ""


def plural(axis: str) -> str:
    """Return the word for several levels of an axis, such as `search seeds`."""
    return _PLURALS.get(axis, f"{axis.replace('_', ' ')}s" if axis.endswith("seed") else axis)


def describe_silent(places: Sequence[str]) -> str:
    """Return a sentence on places at which no number is above chance; empty without any."""
    return f"Not above chance, so not counted: {'; '.join(places)}." if places else ""


def chance_note(who: Iterable[str]) -> list[str]:
    """Return a sentence on runs that are no better than one answer for all examples; none without any."""
    names = ", ".join(dict.fromkeys(who))
    return [f"Some run is no better than one answer for all examples: {names}."] if names else []


def unfair_note(how: str, result: Result) -> list[str]:
    """Return a warning if compared runs differ in their settings, with the values of each group and what to type."""
    found: dict[tuple[str, str], list[str]] = {}  # tasks by setting and values
    by_task: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for one in result["different_settings"]:
        groups = by_task.setdefault((one["setting"], one["task"]), {})
        for group, values in one["values"].items():
            own = groups.setdefault(group, [])
            own += [value for value in values if value not in own]
    for (setting, task), groups in by_task.items():
        found.setdefault((setting, describe_values(groups)), []).append(task)
    if not found:
        return []
    parts = [f"{setting} on {', '.join(tasks)} ({values})" for (setting, values), tasks in found.items()]
    return [f"Not a fair comparison: {how} in {'; '.join(parts)}. {remedy(setting for setting, _ in found)}"]


def describe_values(groups: Mapping[str, Sequence[Any]]) -> str:
    """Return the values of a setting by group, such as `target 0.0002, baseline 0.0001`."""
    shown = {group: " and ".join(_shown(value) for value in values) for group, values in groups.items()}
    return ", ".join(f"{group} {values}" for group, values in shown.items())


def remedy(settings: Iterable[str]) -> str:
    """Return what to type so that all runs have the same settings."""
    fields = [_FIELDS.get(setting, setting) for setting in dict.fromkeys(settings)]
    options = [TransferConfig.option_of(field) for field in fields if field in TransferConfig.model_fields]
    what = [f"with the same {' and '.join(options)} of tickets transfer"] if options else []
    what += ["on the same data and weights"] if len(options) < len(fields) else []
    return f"Fine-tune all of them {' and '.join(what)}."


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
