"""Which studies there are: recipes with their costs, studies with runs in a store, and a new one to start from."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

from winning_tickets.errors import UsageError
from winning_tickets.files import write_text
from winning_tickets.store import Store
from winning_tickets.study.costs import Estimator
from winning_tickets.study.load import SUFFIXES, load_study, recipe_names
from winning_tickets.study.plan import plan_study


def recipe_list() -> list[dict[str, Any]]:
    """All recipes: what they show and need, how many published numbers they have, and by scale the cost."""
    found = []
    for name in recipe_names():
        study = load_study(name)
        scales = {}
        for scale in study.scales:
            plan = plan_study(study, scale)
            estimate = Estimator(plan, {}).estimate(plan.runs, 1)
            scales[scale] = {"runs": len(plan.runs), "seconds": estimate["seconds"], "bytes": estimate["bytes"]}
        found.append(
            {
                "name": name,
                "title": study.title,
                "paper": study.paper,
                "shows": study.shows,
                "needs": study.needs,
                "scales": scales,
                "published": len(study.published),
            }
        )
    return found


def studies_in(store: Store) -> list[dict[str, Any]]:
    """Studies that began runs in a store: `study`, `scale`, and how many of these runs have which status."""
    if not store.exists():
        return []
    counts: dict[tuple[str, str], Counter[str]] = {}
    for record in store.records():
        if "study" in record.labels:
            key = (str(record.labels["study"]), str(record.labels.get("scale")))
            counts.setdefault(key, Counter())[record.status] += 1
    return [
        {"study": study, "scale": scale, "runs": dict(sorted(statuses.items()))}
        for (study, scale), statuses in sorted(counts.items())
    ]


def write_template(path: Path, force: bool = False) -> None:
    """Write a study with comments, which is valid as it is.

    Args:
        path: a YAML file; its name becomes the study's.
        force: replace a file that is there.

    Raises:
        UsageError: the file is there (without `force`), or its name is not that of a YAML file.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} is not the name of a YAML file; expected one that ends with {' or '.join(SUFFIXES)}.")
    if path.exists() and not (force and path.is_file()):
        raise UsageError(f"{path} is there already and was left untouched; give another name, or --force.")
    letters = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in path.stem.lower())
    text = resources.files("winning_tickets.study").joinpath("template.yaml").read_text(encoding="utf-8")
    write_text(path, text.replace("NAME\n", f"{letters.strip('-') or 'study'}\n", 1))
