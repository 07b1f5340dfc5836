"""Wrong values of options, derived from the fields of the settings, and what the messages about them must say."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import annotated_types

from samples.settings import SMALL_VERBS, VERBS
from winning_tickets.cli.options import leaves, named, shape
from winning_tickets.config import Runtime
from winning_tickets.config.search import USUAL_METHOD, classes_of, readers_of
from winning_tickets.config.settings import Size
from winning_tickets.config.transfer import Dropouts, Epochs, EvalSteps, Rates

_ABOVE_ZERO = dict.fromkeys(("0", "-1", "inf", "nan"), ("it must be above 0",))
OF_TYPES: dict[Any, dict[str, tuple[str, ...]]] = {
    Size: {
        "0": ("not a whole number of at least 1",),
        "200%": ("outside (0%, 100%]",),
        "many": ("use a number of examples such as 1000, or a percentage such as 10%",),
        "1e99999999": ("use a number of examples such as 1000, or a percentage such as 10%",),
    },
    Rates: _ABOVE_ZERO,
    Epochs: _ABOVE_ZERO,
    Dropouts: dict.fromkeys(("1", "-1", "nan", "x"), ("from 0 to below 1, or model",)),
    EvalSteps: dict.fromkeys(("0", "1.5", "often"), ("at least 1, or epoch",)),
}
"""For types whose texts are read by a function of their own: wrong texts, and words on what is allowed."""

OWN_WORDS = {
    ("--sparsity", "nan"): ("Sparsity nan is outside [0, 1)",),
    ("--sparsity", "inf"): ("Sparsity inf is outside [0, 1)",),
    ("--level", ","): ("Say what is pruned with --level (such as 30%)",),
    ("--fraction", "x"): ("--fraction", "'x' is neither a fraction such as 0.1 nor a percentage such as 10%"),
    ("--dtype", "bfloat16x"): ("Unknown dtype 'bfloat16x'", "Known: bfloat16, float16, float32"),
}
"""What the message says about values that a function of the command refuses in words of its own."""


def parts_of(annotation: Any) -> Iterator[Any]:
    """A type, and all types and rules inside it."""
    yield annotation
    for inner in (*get_args(annotation), *getattr(annotation, "metadata", ())):
        yield from parts_of(inner)


def of_type(annotation: Any) -> dict[str, tuple[str, ...]]:
    """Wrong texts of an option of a type: none of its choices, or no number."""
    (kind, several), parts = shape(annotation), [] if named(annotation) else parts_of(annotation)
    names = [name for part in parts if get_origin(part) is Literal for name in get_args(part)]
    if names:
        return {f"{names[-1]}x": tuple(names)}
    if several and kind in (int, float):
        words = ("a list of whole numbers" if kind is int else "number",)
        return dict.fromkeys(["2,x", *(["1.5"] if kind is int else [])], words) | {",": ("is empty",)}
    if kind is int:
        return dict.fromkeys(["x", "1.5"], ("a valid integer",))
    return {"x": ("a valid",)} if kind is float else {}


def of_rule(rule: Any, kind: type) -> dict[str, tuple[str, ...]]:
    """Wrong texts of a number that a rule of its field limits: the nearest, and one further away."""
    step = 1 if kind is int else 0.5
    match rule:
        case annotated_types.Ge(ge):
            return {f"{ge - step:g}": (f"it must be at least {ge}",)}
        case annotated_types.Gt(gt):
            return dict.fromkeys([f"{gt:g}", f"{gt - step:g}"], (f"it must be above {gt}",))
        case annotated_types.Le(le):
            return {str(le + step): (f"it must be at most {le}",)}
        case annotated_types.Lt(lt):
            return dict.fromkeys([f"{lt:g}", f"{lt + step:g}"], (f"it must be below {lt}",))
    return {}


def of_field(field: Any) -> dict[str, tuple[str, ...]]:
    """Wrong texts of the option of a field, each with what the message must say about the allowed values."""
    (kind, _), parts = shape(field.annotation), [*parts_of(field.annotation), *field.metadata]
    for alias, texts in OF_TYPES.items():
        if alias.__metadata__[0] in parts:
            return texts
    found = of_type(field.annotation)
    if kind is float:
        found |= dict.fromkeys(["nan", "inf"], ("a finite number",))
    for rule in parts:
        for one in rule if isinstance(rule, annotated_types.GroupedMetadata) else (rule,):
            found |= of_rule(one, kind)
    return found


def of_parameter(parameter: Any, annotation: Any) -> dict[str, tuple[str, ...]]:
    """Wrong texts of an option that no field describes: outside of its range, no number, or none of its choices."""
    found, (kind, _) = of_type(annotation), shape(annotation)
    if kind in (int, float) and parameter.min is not None:
        found[f"{parameter.min - 1:g}"] = (f"greater than or equal to {parameter.min}",)
    if kind in (int, float) and parameter.max is not None:
        found[str(parameter.max + 1)] = (f"less than or equal to {parameter.max}",)
    return found


@functools.cache
def fields_of(command: str) -> dict[str, Any]:
    """The field of each parameter of a command that takes settings."""
    settings = (VERBS | SMALL_VERBS).get(command)
    if settings is None:
        return {}
    of_settings = leaves(settings, inline="fine_tuning" if command == "super" else "")
    return {**Runtime.model_fields, **{key: cls.model_fields[path[-1]] for key, path, cls, _ in of_settings}}


def method_for(field: str) -> str:
    """A method whose search reads a field whatever the other fields are; the usual one if it does."""
    able = [one for one in readers_of(field) if field in classes_of(one)[0].model_fields]
    return able[0] if able and USUAL_METHOD not in able else USUAL_METHOD


def derived(command: str, parameters: list[Any], hints: dict[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The words before the value, a wrong value and what the message says, for all options of a command."""
    for one in parameters:
        if one.param_type_name == "option":
            field, option = fields_of(command).get(one.name), one.opts[0]
            for value, words in (of_parameter(one, hints[one.name]) if field is None else of_field(field)).items():
                said = OWN_WORDS.get((option, value), (option, value.split(",")[-1], *words))
                yield (f"--method {method_for(one.name)} " if command == "search" else "") + option, value, said
