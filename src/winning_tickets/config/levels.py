"""Levels and counts of the heads, FFNs, neurons and layers that structured tickets prune."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from pydantic import field_validator, model_serializer

from winning_tickets.config.settings import Settings, all_digits, as_percent, impossible
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


class PercentLevels(WithLevels):
    """Settings whose `level` is one or more percentages."""

    @field_validator("level", mode="before", check_fields=False)
    @classmethod
    def _without_percent_signs(cls, value: Any) -> Any:
        """Read `30%`, `30` or a list of them as percentages; refuse 0.5, which could also be a fraction."""
        try:
            return tuple(as_percent(one) for one in (value if isinstance(value, list | tuple) else (value,)))
        except UsageError as error:
            raise impossible(str(error)) from error
