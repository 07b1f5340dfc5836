"""Reading what `tickets evaluate --json` measured: one column for each measure and text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from winning_tickets.errors import ContentError, explain
from winning_tickets.files import read_object
from winning_tickets.ticket import INFO_FILE

MEASURES = {
    "kd_loss": "kd",
    "mlm_loss": "mlm",
    "mlm_accuracy": "mlm_accuracy",
    "similarity_pearson": "similarity_pearson",
    "similarity_spearman": "similarity_spearman",
}
"""Keys of an evaluation and what their columns are called."""

_HOW = ("segments", "split", "kd_distance", "kd_padding", "kd_masked_tokens", "corpus_hash")
"""What tells measurements on a text of the same name apart, in the order in which it is shown."""

_USUAL = {"kd_distance": "cosine", "kd_padding": "ignored", "kd_masked_tokens": "0"}
"""What files mean that do not say it."""


@dataclass(frozen=True)
class Subject:
    """What was evaluated or fine-tuned.

    Attributes:
        ticket_id: None for a dense model.
        model: name of the (base) model; None where the file does not say it.
        base_hash: of the base weights; None where the file does not say it.
    """

    ticket_id: str | None
    model: str | None
    base_hash: str | None


@dataclass(frozen=True)
class Measurement:
    """One number that was measured before fine-tuning.

    Attributes:
        subject: of what.
        name: such as `kd[wikitext-2]`.
        how: further settings by name, which become part of the column's name where they differ.
        value: the number.
        sparsity: of the ticket; 0 for a dense model.
        target: what was evaluated, as the user named it.
        path: the file it was read from.
        method: how the ticket was found, and with which objective; None where nothing says it.
    """

    subject: Subject
    name: str
    how: tuple[tuple[str, str], ...]
    value: float
    sparsity: float
    target: str
    path: str
    method: str | None = None


def is_evaluation(content: Any) -> bool:
    """Whether a parsed JSON is what `tickets evaluate` prints."""
    return isinstance(content, dict) and {*MEASURES, "ticket_id", "sparsity", "target"} <= content.keys()


def measurements(content: Mapping[str, Any], path: str) -> list[Measurement]:
    """All numbers of an evaluation.

    Raises:
        ContentError: it has something else where numbers or names should be.
    """
    try:
        return [_MEASUREMENT.validate_python(asdict(one)) for one in _measurements(content, path)]
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else repr(error)
        raise ContentError(
            f"{path} is no evaluation as tickets evaluate --json prints it: {reason} It was edited; evaluate anew."
        ) from error


def _measurements(content: Mapping[str, Any], path: str) -> Iterator[Measurement]:
    subject = Subject(content["ticket_id"], content.get("model"), content.get("base_hash"))
    target = str(content["target"])
    for key, short in MEASURES.items():
        if content[key] is None:
            continue
        value = float(content[key])
        how: tuple[tuple[str, str], ...] = ()
        if key.startswith("similarity"):
            text = str(content.get("pairs_from")).removesuffix(" validation")
        else:
            text = PurePath(str(content.get("corpus"))).name
            how = _how(content, short)
        method = method_of(content)
        yield Measurement(subject, f"{short}[{text}]", how, value, float(content["sparsity"]), target, path, method)


_MEASUREMENT = TypeAdapter(Measurement)


def _how(content: Mapping[str, Any], measure: str) -> tuple[tuple[str, str], ...]:
    given = {key: str(content[key]) for key in _HOW if content.get(key) is not None}
    return tuple((_USUAL | given if measure == "kd" else {k: v for k, v in given.items() if k not in _USUAL}).items())


def method_of(content: Mapping[str, Any]) -> str | None:
    """The method of the evaluated ticket and the objective of a trained one.

    Evaluations of older versions do not say it; the ticket itself does, while it is where it was.
    """
    if content["ticket_id"] is None:
        return None
    if content.get("method") is not None:
        return method_name(content["method"], content.get("search_objective"))
    file, body = Path(str(content["target"])) / INFO_FILE, {}
    with suppress(OSError):  # a target that no path can be
        body = read_object(file, "ticket description") if file.is_file() else {}
    if body.get("id") != content["ticket_id"]:
        return None
    return method_name(body["info"]["method"], body["info"]["config"].get("objective"))


def method_name(method: str, objective: str | None) -> str:
    """A trained mask is named with its objective; for other methods the field means nothing."""
    return f"{method} {objective}" if method == "mask-training" and objective else method


def columns(found: Sequence[Measurement]) -> dict[Measurement, str]:
    """The column of each measurement: its name, and what differs between measurements of that name."""
    names: dict[Measurement, str] = {}
    for name in dict.fromkeys(one.name for one in found):
        own = [one for one in found if one.name == name]
        settings = [dict(one.how) for one in own]
        keys = [key for key in _HOW if len({setting.get(key) for setting in settings}) > 1]
        if keys != ["corpus_hash"] and "corpus_hash" in keys:
            keys.remove("corpus_hash")  # other settings tell them apart in words
            if _ambiguous(settings, keys):
                keys.append("corpus_hash")
        for one, setting in zip(own, settings, strict=True):
            extra = " ".join(setting.get(key, "?")[:12] for key in keys)
            names[one] = f"{name[:-1]} {extra}]" if extra else name
    return names


def _ambiguous(settings: Sequence[Mapping[str, str]], keys: Sequence[str]) -> bool:
    """Whether the keys leave texts of different content together."""
    seen: dict[tuple[str | None, ...], str | None] = {}
    return any(
        seen.setdefault(tuple(setting.get(key) for key in keys), setting.get("corpus_hash"))
        != setting.get("corpus_hash")
        for setting in settings
    )


def merged(
    found: Sequence[Measurement], key: Callable[[Subject], tuple[str, str]]
) -> dict[tuple[str, str], dict[str, Measurement]]:
    """For each subject its measurements by column.

    Args:
        found: all measurements.
        key: what says that two subjects are the same.

    Raises:
        ContentError: the same thing was measured twice with different results.
    """
    table: dict[tuple[str, str], dict[str, Measurement]] = {}
    for one, column in columns(found).items():
        earlier = table.setdefault(key(one.subject), {}).setdefault(column, one)
        if abs(earlier.value - one.value) > 1e-9:
            raise ContentError(
                f"{column} of {one.target} is {earlier.value} in {earlier.path} and {one.value} in {one.path}; "
                "give one of these files."
            )
    return table
