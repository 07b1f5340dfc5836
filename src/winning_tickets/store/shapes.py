"""What the files of a run must look like to be worked with; any of them may have been edited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from winning_tickets.errors import shown
from winning_tickets.files import is_number

_NUMBER = (int, float)
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "description": {"verb": (str,), "config": (dict,), "labels": (dict,)},
    "marker": {"verb": (str,), "config": (dict,)},
    "result": {
        "verb": (str,),
        "metrics": (dict,),
        "primary_metric": (str,),
        "seeds": (list,),
        "failed_seeds": (list,),
        "versions": (dict,),
    },
    "error": {"kind": (str,), "message": (str,), "provenance": (dict,)},
    "provenance": {
        "seconds": _NUMBER,
        "peak_memory": _NUMBER,
        "versions": (dict,),
        "machine": (dict,),
        "finished_at": (str,),
        "source": (dict,),
    },
}
"""By file: the fields that are looked into, and what they hold where they are there and not null."""
_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a number"}


def misshapen(file: str, content: Mapping[str, Any]) -> str | None:
    """What is wrong with a parsed file; None where it can be worked with.

    Args:
        file: a key of `index.Body`.
        content: what it holds.
    """
    return next(_problems(file, content), None)


def _problems(file: str, content: Mapping[str, Any]) -> Iterator[str]:
    for name, kinds in _FIELDS[file].items():
        value = content.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            yield f"{name} is {shown(value)}, expected {_NAMES[kinds[0]]}"
            return
    if file == "error" and content.get("provenance") is not None:
        yield from _problems("provenance", content["provenance"])
    if file == "result":
        numbers = [one.get("seed") if isinstance(one, dict) else one for one in content.get("failed_seeds") or ()]
        if any(type(seed) is not int for seed in [*(content.get("seeds") or ()), *numbers]):
            yield f"seeds are {shown(content.get('seeds'))} and {shown(numbers)}, expected whole numbers"
        elif content.get("verb") == "transfer":
            yield from _scores(content)


def _scores(result: Mapping[str, Any]) -> Iterator[str]:
    """A transfer has for each metric a final and a best score of each seed."""
    seeds = result.get("seeds")
    for metric, kinds in (result.get("metrics") or {}).items():
        for kind, scores in kinds.items() if isinstance(kinds, dict) else [(metric, kinds)]:
            if not isinstance(scores, dict):
                yield f"metrics.{metric} holds {shown(scores)}, expected scores"
                return
            numbers = [scores.get("mean"), scores.get("std"), *_listed(scores.get("values"))]
            if not all(one is None or is_number(one) for one in numbers):
                yield f"metrics.{metric}.{kind} holds {shown(scores)}, expected numbers"
            elif seeds is not None and len(_listed(scores.get("values"))) not in (0, len(seeds)):
                yield f"metrics.{metric}.{kind} has {len(scores['values'])} values for {len(seeds)} seeds"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value, "no list"]
