"""Load a study: a recipe by its name, a YAML file, a folder with a study.yaml, or a mapping."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from winning_tickets.config.yaml_files import Lines, YamlPath, read_yaml
from winning_tickets.runs.errors import UsageError, page, shown, unknown
from winning_tickets.runs.text import read_text
from winning_tickets.studies import expressions
from winning_tickets.studies.grid import check_study
from winning_tickets.studies.schema import Study


def _line(path: YamlPath, lines: Lines) -> str:
    """Return `, line N` of a place or of its closest parent; empty for a study without a file."""
    parts = tuple(part if isinstance(part, int) else str(part) for part in path)
    while parts and parts not in lines:
        parts = parts[:-1]
    return f", line {lines[parts]}" if parts else ""


SUFFIXES = (".yaml", ".yml")
_IN_FOLDER = "study.yaml"  # the file to read if a folder is given as a study
_OF_A_BASE = ("needs", "deviations", "parameters", "scales", "stages")
_SHOWN = ("tables", "figures", "claims")


@cache
def _recipe_files() -> dict[str, str]:
    folder = resources.files("winning_tickets.studies.recipes")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return {name.removesuffix(".yaml"): (folder / name).read_text(encoding="utf-8") for name in names}


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes, sorted."""
    return tuple(_recipe_files())


def recipe_text(name: str) -> str:
    """Return the YAML of a recipe."""
    recipes = _recipe_files()
    if name not in recipes:
        raise unknown("recipe", name, recipes)
    return recipes[name]


def load_study(source: str | Path | Mapping[str, Any]) -> Study:
    """Load a study and check it.

    Args:
        source: the name of a recipe, a YAML file, a folder with a study.yaml, or a study as a mapping.

    Raises:
        UsageError: no such recipe or file, not valid YAML, or not a study; every problem is named, with its line.
    """
    name = "the study"
    lines: Lines = {}
    if isinstance(source, Mapping):
        content = dict(source)
    else:
        text, name = _text(source)
        content, lines = _read(text, name)
    merged = _with_base(content, name, lines)
    if content.get("base") is not None and not name.startswith("recipe "):  # a recipe shows only what it lists itself
        merged = _with_shown(merged, load_study(str(content["base"])))
    return _build(merged, name, lines)


def _with_base(content: dict[str, Any], name: str, lines: Lines, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Merge a study over its base: parameters, also of each scale, by name; stages as a whole.

    Null removes a deviation, or a stage together with the stages that read it.
    """
    base = content.get("base")
    if base is None:
        return content
    where = name + _line(("base",), lines)
    if base not in recipe_names():
        raise UsageError(f"{where}: {unknown('recipe', str(base), recipe_names())}")
    if base in above:
        raise UsageError(f"{where}: The bases lead back to {base}: {' -> '.join((*above, base))}.")
    found_content, found_lines = _read(recipe_text(base), f"recipe {base}")
    found = _with_base(found_content, f"recipe {base}", found_lines, (*above, base))
    merged = dict(content)
    for key in _OF_A_BASE:
        merged[key] = _over(found.get(key, {}), content.get(key, {}), 2 if key == "scales" else 1)
    for key in ("stages", "deviations"):
        if isinstance(merged[key], dict):
            merged[key] = {name: body for name, body in merged[key].items() if body is not None}
    if isinstance(merged["stages"], dict):
        merged["stages"] = _without_orphans(merged["stages"], set(content.get("stages") or ()))
    return merged


def _without_orphans(stages: dict[str, Any], own: set[str]) -> dict[str, Any]:
    """Return the stages without those of the base that read a removed stage."""
    while True:
        gone = {
            name
            for name, body in stages.items()
            if name not in own
            and isinstance(body, dict)
            and any(reference.stage not in stages for reference, _ in expressions.references_in([*_settings_of(body)]))
        }
        if not gone:
            return stages
        stages = {name: body for name, body in stages.items() if name not in gone}


def _settings_of(stage: Mapping[str, Any]) -> Iterator[Any]:
    yield from (stage.get("with") or {}).values()
    over = stage.get("over") or {}
    yield from over.values() if isinstance(over, Mapping) else ()


def _with_shown(content: dict[str, Any], base: Study) -> dict[str, Any]:
    """Take over the tables, figures and claims of the base that the study neither replaces nor removes (null)."""
    below = base.model_dump(mode="json", by_alias=True, exclude_unset=True)
    merged: dict[Any, Any] = {key: below[key] for key in ("title", "paper", "shows") if key in below} | content
    inherited = set()
    for kind in _SHOWN:
        own = content.get(kind) or {}
        if not isinstance(own, dict):
            continue
        inherited |= {(kind, key) for key in below.get(kind, {}) if key not in own}
        shown = {key: _on(body, merged["stages"]) for key, body in below.get(kind, {}).items()} | own
        merged[kind] = {key: body for key, body in shown.items() if body is not None}
    merged.setdefault("published", below.get("published", []))
    # Tables, figures and claims of stages or axes that the study no longer has are left out; the report names them.
    try:
        draft = Study.model_validate(merged | {"published": []})
    except ValidationError:
        return merged  # the caller names the problems
    left: list[str] = []
    for path, _ in check_study(draft):
        if path[:2] in inherited and merged[path[0]].pop(path[1], None) is not None:
            left.append(f"{str(path[0]).removesuffix('s')} {path[1]}")
    there = {key for kind in ("tables", "figures") for key in merged.get(kind, {})}
    if "published" not in content:
        merged["published"] = [one for one in merged["published"] if one["of"] in there]
    return merged | {"left_out": left}


def _on(shown: Any, stages: Mapping[str, Any]) -> Any:
    """Reduce the stages that a table, figure or claim reads to those that exist; keep all if none exists."""
    reduced = dict(shown)
    for key in ("stage", "level"):
        if isinstance(shown.get(key), list):
            kept = [one for one in shown[key] if not isinstance(one, str) or one in stages]
            reduced[key] = kept or shown[key]
    return reduced


def _read(text: str, name: str) -> tuple[dict[str, Any], Lines]:
    content, lines = read_yaml(text, name)
    if not isinstance(content, dict):
        found = type(content).__name__
        raise UsageError(f"{name}: a study maps keys to values, such as 'name: my-study'; found {found}.")
    return content, lines


def _over(below: Any, above: Any, depth: int) -> Any:
    """Merge two nested mappings down to a depth; entries of `above` win."""
    if depth == 0 or not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _over(below.get(key), value, depth - 1) for key, value in above.items()}


def _text(source: str | Path) -> tuple[str, str]:
    recipes = _recipe_files()
    if isinstance(source, str) and source in recipes:
        return recipes[source], f"recipe {source}"
    path = Path(source)
    if (path / _IN_FOLDER).is_file():
        path /= _IN_FOLDER
    if path.is_file():
        return read_text(path), str(path)
    if path.is_dir():
        raise UsageError(f"There is no {_IN_FOLDER} in the folder {path}; give the file of a study.")
    if path.suffix in SUFFIXES or "/" in str(source):
        raise UsageError(
            f"There is no file {path}; `tickets study new {shlex.quote(str(path))}` writes one to start from."
        )
    raise unknown("recipe", str(source), recipes, "A path to a YAML file, or to a folder with a study.yaml, works too.")


def _build(content: dict[str, Any], name: str, lines: Lines) -> Study:
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        problems = [_problem(item, lines) for item in error.errors()]
        raise UsageError(*(f"{name}{problem}" for problem in problems), page("reference/studies.md")) from error
    if found := check_study(study):
        told = dict.fromkeys(f"{name}{_line(path, lines)}: {text}" for path, text in found)
        raise UsageError(*told, page("reference/studies.md"))
    return study


def _problem(item: Any, lines: Lines) -> str:
    """Return a problem as text: line, place, and the closest known keys for an unknown one."""
    place = tuple(item["loc"])
    where = _line(place, lines)
    if item["type"] == "extra_forbidden":
        known = _keys_at(place[:-1])
        inside = f" in {_dotted(place[:-1])}" if place[:-1] else ""
        return f"{where}: {unknown(f'key{inside}', str(place[-1]), known)}"
    if item["type"] == "missing":
        return f"{where}: {_dotted(place)} is missing."
    message = item["msg"].removeprefix("Value error, ")
    found = "" if isinstance(item["input"], dict | list) else f" (found {shown(item['input'])})"
    return f"{where}: {_dotted(place)}: {message}{found}."


def _dotted(place: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in place if part != "[key]")


def _keys_at(place: tuple[str | int, ...]) -> list[str]:
    kinds: list[Any] = [Study]
    for part in place:
        kinds = [inner for kind in kinds for inner in _inside(kind, part)]
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _inside(kind: Any, part: str | int) -> list[Any]:
    """Return the types of the entry `part` in a value of a type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
        return _alternatives(fields[str(part)]) if part in fields else [kind]  # the name of a union's type
    if get_origin(kind) is dict:
        return _alternatives(get_args(kind)[1])
    if get_origin(kind) is tuple:
        return _alternatives(get_args(kind)[0])
    return []


def _alternatives(kind: Any) -> list[Any]:
    arguments = get_args(kind)
    union = arguments and get_origin(kind) not in (dict, tuple, list)
    return [inner for one in arguments for inner in _alternatives(one)] if union else [kind]
