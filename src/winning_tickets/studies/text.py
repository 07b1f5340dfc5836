"""Text of `tickets study plan`, `status`, `run` and `list` and of `tickets recipes`; lists of recipes and studies."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

from winning_tickets.report.costs import bytes_text
from winning_tickets.runs.errors import UsageError, page
from winning_tickets.runs.files import write_text
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.estimates import Estimator
from winning_tickets.studies.expressions import is_reference
from winning_tickets.studies.load import SUFFIXES, load_study, recipe_names
from winning_tickets.studies.plan import plan_study
from winning_tickets.studies.status import STATES

_LISTED = 10
_RECIPES = "winning_tickets.studies.recipes"


def plan_text(result: dict[str, Any]) -> str:
    """Return the output of `tickets study plan`."""
    problems = [
        f"Missing: {problem}" for problem in [*result["problems"], *([result["room"]] if result["room"] else [])]
    ]
    return "\n".join([_head(result), *problems, *_table(result), *_estimate(result), *_errors(result)])


def status_text(result: dict[str, Any]) -> str:
    """Return the output of `tickets study status`."""
    running = result["running_runs"]
    lines = [f"running: {run}" for run in running[:_LISTED]]
    return "\n".join([_head(result), *_table(result), *lines, *_estimate(result), *_errors(result)])


def run_text(result: dict[str, Any]) -> str:
    """Return the last line of `tickets study run`."""
    return f"{result['study']} at {result['scale']}: all {result['runs']} runs are done ({result['finished_now']} now)."


def recipes_text(result: dict[str, Any]) -> str:
    """Return the output of `tickets recipes`."""
    recipes = result["recipes"]
    scales = list(dict.fromkeys(scale for recipe in recipes for scale in recipe["scales"]))
    rows = [["hours", *(f"{scale} (A100)" if scale == "paper" else scale for scale in scales)]]
    for recipe in recipes:
        costs = {scale: recipe["scales"].get(scale) for scale in scales}
        device = {"paper": "a100"}
        cells = (cost and _hours(cost["hours"][device.get(scale, "cpu")]) for scale, cost in costs.items())
        rows.append([recipe["name"], *(cell or "" for cell in cells)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    titles = ["", *(recipe["title"] for recipe in recipes)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        + f"  {title}"
        for row, title in zip(rows, titles, strict=True)
    ]
    lines = [line[:_WIDE].rstrip() for line in lines]
    lines.append("Hours are estimates: at scale paper of one A100, at the others of two x86-64 cores without a GPU.")
    lines.append(_first(recipes))
    lines.append("`tickets study plan NAME --scale SCALE` says what a study needs; `tickets recipes NAME` prints it.")
    return "\n".join(lines)


FIRST = "tamt-table-2"
"""The recipe to begin with: TAMT's tickets of BERT-base, fine-tuned on its tasks, for the fewest hours."""


def _first(recipes: list[dict[str, Any]]) -> str:
    """Return which recipe to begin with, and what it costs."""
    hours = next((one["scales"]["paper"]["hours"]["a100"] for one in recipes if one["name"] == FIRST), None)
    cost = "" if hours is None else f": {_hours(hours)} hours of one A100"
    return f"To begin with one: `tickets study plan {FIRST} --scale paper --on a100`{cost}."


_WIDE = 110  # maximum number of characters of a line


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 0.1 else "<0.1"


def studies_text(result: dict[str, Any]) -> str:
    """Return the output of `tickets study list`."""
    if not result["studies"]:
        return f"No study has been run in {result['store']}."
    return "\n".join(
        f"{one['study']} at {one['scale']}: " + ", ".join(f"{count} {state}" for state, count in one["runs"].items())
        for one in result["studies"]
    )


def duration(seconds: float) -> str:
    """Return a duration as text, such as `40 s`, `12 min`, `3.5 h` or `72 h (3 days)`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours:,.0f} h ({hours / 24:,.0f} days)"


def _head(result: dict[str, Any]) -> str:
    return f"{result['study']} at {result['scale']}: {result['runs']:,} runs, {result['done']:,} done"


def _table(result: dict[str, Any]) -> list[str]:
    names = ["stage", "runs", *STATES]
    rows = [
        [name, *(str(counts[key.replace(" ", "_")]) for key in names[1:])] for name, counts in result["stages"].items()
    ]
    widths = [max(len(row[column]) for row in [names, *rows]) for column in range(len(names))]
    return [
        "  "
        + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in [names, *rows]
    ]


def _estimate(result: dict[str, Any]) -> list[str]:
    estimate = result["estimate"]
    if not estimate["runs"]:
        blocked = len(result["blocked_runs"])
        return [f"Nothing can run; {blocked:,} wait for failed runs (--retry-failed)."] if blocked else []
    measured, rest = estimate["measured_runs"], estimate["runs"] - estimate["measured_runs"]
    sources = [f"{measured:,} runs by similar ones in the store"] if measured else []
    sources += [f"{rest:,} runs by their operations on {estimate['on']}"] if rest else []
    time, space, scratch = (
        duration(estimate["seconds"]),
        bytes_text(estimate["bytes"]),
        bytes_text(estimate["scratch_bytes"]),
    )
    trainings, tokens = estimate["trainings"], estimate["tokens"] / 1e6
    return [
        f"left: about {time} ({', '.join(sources)}): {trainings:,} trainings on {tokens:,.1f} million tokens; results "
        f"and saved weights of at most {space}, and {scratch} for checkpoints of runs at work",
        "hours of one device: "
        + ", ".join(f"{name} {_hours(hours)}" for name, hours in estimate["hours"].items())
        + " (estimates; --on, --bf16, --gpus and --workers say what there is)",
    ]


def _errors(result: dict[str, Any]) -> list[str]:
    failed = result["failed_runs"]
    lines = [f"failed: {run}: {error}" for run, error in list(failed.items())[:_LISTED]]
    if len(failed) > _LISTED:
        lines.append(f"... and {len(failed) - _LISTED} more; --json names all.")
    if failed:
        lines.append("`tickets study run --retry-failed` tries them again.")
    return lines


def recipe_list() -> list[dict[str, Any]]:
    """Return all recipes with their needs, number of published numbers, and cost by scale, from a file of the package.

    Planning all recipes would take too long for a list; `make reference` does so and writes the file.
    """
    found: list[dict[str, Any]] = json.loads(resources.files(_RECIPES).joinpath("list.json").read_text("utf-8"))
    return found


def describe_recipes() -> list[dict[str, Any]]:
    """Plan all recipes at all scales, and return what `recipe_list` reads."""
    found = []
    for name in recipe_names():
        study = load_study(name)
        scales = {}
        for scale in study.scale_names:
            plan = plan_study(study, scale)
            estimate = Estimator(plan, {}).estimate(plan.runs, 1)
            scales[scale] = {"runs": len(plan.runs), "hours": estimate["hours"], "bytes": estimate["bytes"]}
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


def template_text(result: dict[str, Any]) -> str:
    """Return the output of `tickets study new`."""
    return f"{result['file']}: change it, then see `tickets study plan {shlex.quote(result['file'])} --scale smoke`."


def studies_in(store: Store) -> list[dict[str, Any]]:
    """Return the studies of a store: `study`, `scale`, and the number of `runs` by status."""
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


def _variant_of(recipe: str) -> str:
    """Return the YAML of a study based on a recipe; comments list the stages and parameters of the recipe."""
    study = load_study(recipe)
    lines = [
        f"# A variant of {recipe}: what is not written here is taken over, also its tables, figures and claims.",
        f"# `tickets recipes {recipe}` prints it. {page('reference/studies.md')}",
        "name: NAME",
        f"base: {recipe}",
        f"title: {json.dumps(f'{study.title} (variant)', ensure_ascii=False)}",
        "# Uncomment what you change; null removes a stage, a table, a figure or a claim.",
        "# parameters: # for all scales",
        *(f"#   {name}: {_as_yaml(value)}" for name, value in study.parameters.items()),
        "# scales: # their parameters win",
    ]
    for scale, values in study.scales.items():
        lines += [f"#   {scale}:", *(f"#     {name}: {_as_yaml(value)}" for name, value in values.items())]
    for kind in ("stages", "tables", "figures", "claims"):
        lines += [f"# {kind}: # {', '.join(getattr(study, kind))}"] if getattr(study, kind) else []
    return "\n".join(lines) + "\n"


def _as_yaml(value: Any) -> str:
    """Return a value as one line of YAML: strings unchanged, references and other values as JSON."""
    return value if isinstance(value, str) and not is_reference(value) else json.dumps(value, ensure_ascii=False)


def write_template(path: Path, *, force: bool = False, recipe: str | None = None) -> None:
    """Write a commented study that is valid as it is, or a variant of a recipe; the file name becomes its name."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} is not the name of a YAML file; expected one that ends with {' or '.join(SUFFIXES)}.")
    if path.exists() and not (force and path.is_file()):
        raise UsageError(f"{path} is there already and was left untouched; give another name, or --force.")
    letters = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in path.stem.lower())
    if recipe is None:
        text = resources.files("winning_tickets.studies").joinpath("template.yaml").read_text(encoding="utf-8")
    else:
        text = _variant_of(recipe)
    write_text(path, text.replace("NAME\n", f"{letters.strip('-') or 'study'}\n", 1))
