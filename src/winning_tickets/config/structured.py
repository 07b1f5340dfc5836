"""Levels and counts of the heads, FFNs, neurons and layers that a structured ticket prunes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal

from pydantic import field_validator, model_serializer

from winning_tickets.config.settings import Settings, all_digits, as_percent, impossible, setting
from winning_tickets.runs.errors import UsageError

Unit = Literal["heads", "ffns", "neurons", "layers"]
UNIT_NAMES: tuple[Unit, ...] = ("heads", "ffns", "neurons", "layers")
COUNT_FIELDS: dict[Unit, str] = {  # the field that says how many of a unit are pruned
    "heads": "prune_heads",
    "ffns": "prune_ffns",
    "neurons": "prune_neurons",
    "layers": "prune_layers",
}
UNIT_FIELDS = ("level", "units", *COUNT_FIELDS.values())  # with one of them `mask-training` trains gates
_FFN_SHARE = Fraction(10, 12)  # factor of a level for FFNs: 10 % prunes one of the 12 FFNs of BERT-base


@dataclass(frozen=True)
class Level:
    """Units that one ticket prunes: a percentage of all units, or a number of each kind."""

    units: tuple[Unit, ...]
    percent: float | None = None
    given: Mapping[Unit, int] | None = None

    @property
    def folder(self) -> str:
        """`level-30`, or `heads-43-ffns-3`."""
        if self.given is not None:
            return "-".join(f"{unit}-{count}" for unit, count in self.given.items())
        assert self.percent is not None
        return f"level-{'0' * (self.percent < 10)}{all_digits(self.percent, 0)}"

    @property
    def option(self) -> str:
        """`--level 30%`, or the name of the folder for numbers of units."""
        return self.folder if self.percent is None else f"--level {self.percent:g}%"

    def counts(self, totals: Mapping[Unit, int]) -> dict[Unit, int]:
        """Return the numbers of units that are pruned from a model with these totals."""
        # A level of p % takes p % of all heads, neurons or layers, rounded down, and like the released code p / 10 of
        # every 12 FFNs.
        if self.given is not None:
            for unit, count in self.given.items():
                if count > totals[unit]:
                    raise UsageError(f"{count} {unit} cannot be pruned: the model has {totals[unit]}.")
            return dict(self.given)
        share = Fraction(str(self.percent)) / 100
        return {unit: int(share * totals[unit] * (_FFN_SHARE if unit == "ffns" else 1)) for unit in self.units}


def written_levels(levels: Iterable[float]) -> tuple[Any, ...]:
    """Return levels as settings read them: with a percent sign where they could be read as fractions."""
    return tuple(f"{level}%" if 0 < level <= 1 else level for level in levels)


UNITS = "Structured tickets"
GATES = "gates"  # among the methods of a setting: `mask-training` with a level, units or counts, which trains gates
_units = partial(setting, panel=UNITS, methods=("importance", GATES))
_importance = partial(setting, panel=UNITS, methods=("importance",))


class WithLevels(Settings):
    """Settings with a `level`, which is stored with a percent sign where it could be read as a fraction."""

    @model_serializer(mode="wrap")
    def _readable_again(self, dump: Any, info: Any) -> Any:
        found = dump(self)
        level = found.get("level") if info.mode == "json" else None
        if isinstance(level, dict):
            found["level"] = dict(zip(level, written_levels(level.values()), strict=True))
        elif level:
            found["level"] = list(written_levels(level))
        return found


class StructuredSettings(WithLevels):
    """The part of a `SearchConfig` about tickets of heads, FFNs, neurons and layers."""

    level: tuple[float, ...] = _units(
        (), "Percent of the units that are pruned, such as 30%. Several values, such as 10,20,30, give one ticket each."
    )
    units: tuple[Unit, ...] = _units(
        (), "Units that --level prunes: any of heads, ffns, neurons and layers. By default heads,ffns."
    )
    prune_heads: tuple[int, ...] = _units(
        (), "Number of heads to prune, instead of --level. Several numbers give one ticket each.", option="--heads"
    )
    prune_ffns: tuple[int, ...] = _units(
        (), "Number of FFNs to prune. Give as many numbers as for --heads.", option="--ffns"
    )
    prune_neurons: tuple[int, ...] = _units((), "Number of FFN neurons to prune.", option="--neurons")
    prune_layers: tuple[int, ...] = _units((), "Number of whole layers to prune.", option="--whole-layers")
    selection: Literal["winning", "losing", "random"] = _importance(
        "winning",
        "Units that are pruned: the least important (winning), the most important (losing), or random ones "
        "(Super Tickets, section 3.2).",
    )
    importance: Literal["sample", "token", "batch", "released"] | None = _units(
        None,
        "Unit over which a gradient is summed before its absolute value is taken: sample (Super Tickets, eq. 3), token "
        "or batch; or as in the released code (released).",
    )
    min_heads_per_layer: int | None = _units(None, "Smallest number of heads that every layer keeps.", ge=0)
    importance_from: str | None = _importance(
        None,
        "Source of the importances: a transfer with --save-model, or an earlier search by importance. By default they "
        "are computed from --objective on --corpus.",
    )
    keep_token_importance: bool = _importance(False, "Save the importances by token too, not only by sample.")

    @field_validator("level", mode="before")
    @classmethod
    def _without_percent_signs(cls, value: Any) -> Any:
        """Read `30%`, `30` or a list of them as percentages; refuse 0.5, which could also be a fraction."""
        try:
            return tuple(as_percent("--level", one) for one in (value if isinstance(value, list | tuple) else (value,)))
        except UsageError as error:
            raise impossible(str(error)) from error

    @field_validator("level")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(value)))

    @field_validator("units")
    @classmethod
    def _in_one_order(cls, value: tuple[Unit, ...]) -> tuple[Unit, ...]:
        return tuple(unit for unit in UNIT_NAMES if unit in value)

    @property
    def counted(self) -> dict[Unit, tuple[int, ...]]:
        """The numbers to prune of each unit for which numbers are given."""
        counts = {unit: getattr(self, field) for unit, field in COUNT_FIELDS.items()}
        return {unit: numbers for unit, numbers in counts.items() if numbers}

    @property
    def levels(self) -> tuple[Level, ...]:
        """The level of each ticket; one error names all problems of levels and counts."""
        problems = list(self._level_problems())
        if problems:
            raise UsageError(*problems)
        counted = self.counted
        if counted:
            rows = zip(*counted.values(), strict=True)
            return tuple(Level(tuple(counted), given=dict(zip(counted, row, strict=True))) for row in rows)
        return tuple(Level(self.units or ("heads", "ffns"), percent) for percent in self.level)

    def _level_problems(self) -> list[str]:
        counted = self.counted
        if bool(counted) == bool(self.level):
            found = "found both" if counted else "found neither"
            return [
                f"Say what is pruned with --level (such as 30%) or with counts (such as --heads 43 --ffns 3); {found}."
            ]
        problems = [f"--level {p:g}% is outside (0, 100]." for p in self.level if not 0 < p <= 100]
        if len({len(numbers) for numbers in counted.values()}) > 1:
            found = ", ".join(f"{len(numbers)} of {unit}" for unit, numbers in counted.items())
            problems.append(f"Each ticket needs a number of every unit; found {found}.")
        if any(number < 0 for numbers in counted.values() for number in numbers):
            problems.append("Numbers of units to prune must not be negative.")
        if counted and self.units:
            problems.append("--units needs --level; counts such as --heads name their units.")
        rows = list(zip(*counted.values(), strict=False))
        if len(set(rows)) < len(rows):
            problems.append("Two tickets lose the same numbers of units; give each combination once.")
        return problems
