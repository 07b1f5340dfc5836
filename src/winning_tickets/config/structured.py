"""The configurations of searches for structured tickets: by importance, and by training gates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from winning_tickets.config import profiles
from winning_tickets.config.levels import COUNT_FIELDS, UNIT_FIELDS, UNIT_NAMES, Level, PercentLevels, Unit
from winning_tickets.config.mask_training import MaskTraining, ScoreTraining
from winning_tickets.config.objective import GATE_NAMES, STRUCTURED_NAMES, parse_objective
from winning_tickets.config.search import (
    TEXTS,
    UNITS,
    BatchedSearch,
    ObjectiveSearch,
    SearchConfig,
    SteppedSearch,
)
from winning_tickets.config.settings import ASCENDING, Open, in_order_of, setting
from winning_tickets.runs.errors import problems_of, refuse

_units = partial(setting, panel=UNITS)


class UnitSearch(PercentLevels, SearchConfig):
    """What methods read that prune heads, FFNs, neurons and layers."""

    usual: ClassVar[Mapping[str, Any]] = {"scope": "encoder"}

    level: Annotated[tuple[float, ...], ASCENDING] = _units(
        (),
        "Percent of the units that are pruned, such as 30%. Several values, such as 10,20,30, give one ticket each.",
        everyday=True,
    )
    units: Annotated[tuple[Unit, ...], in_order_of(UNIT_NAMES)] = _units(
        (), "Units that --level prunes: any of heads, ffns, neurons and layers. By default heads,ffns."
    )
    prune_heads: tuple[int, ...] = _units(
        (),
        "Number of heads to prune, instead of --level. Several numbers give one ticket each.",
        option="--heads",
        everyday=True,
    )
    prune_ffns: tuple[int, ...] = _units(
        (), "Number of FFNs to prune. Give as many numbers as for --heads.", option="--ffns"
    )
    prune_neurons: tuple[int, ...] = _units((), "Number of FFN neurons to prune.", option="--neurons")
    prune_layers: tuple[int, ...] = _units((), "Number of whole layers to prune.", option="--whole-layers")
    importance: Open[Literal["sample", "token", "batch", "released"]] = _units(
        None,
        "Unit over which a gradient is summed before its absolute value is taken: sample (Super Tickets, eq. 3), token "
        "or batch; or as in the released code (released).",
    )
    min_heads_per_layer: Open[int] = _units(None, "Smallest number of heads that every layer keeps.", ge=0)

    @property
    def counted(self) -> dict[Unit, tuple[int, ...]]:
        """The numbers to prune of each unit for which numbers are given."""
        counts = {unit: getattr(self, field) for unit, field in COUNT_FIELDS.items()}
        return {unit: numbers for unit, numbers in counts.items() if numbers}

    @property
    def levels(self) -> tuple[Level, ...]:
        """The level of each ticket; one error names all problems of levels and counts."""
        refuse(self._level_problems())
        counted = self.counted
        if counted:
            rows = zip(*counted.values(), strict=True)
            return tuple(Level(tuple(counted), given=dict(zip(counted, row, strict=True))) for row in rows)
        return tuple(Level(self.units or ("heads", "ffns"), percent) for percent in self.level)

    @property
    def rungs(self) -> tuple[str, ...]:
        """The folder of each level."""
        return tuple(level.folder for level in self.levels)

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

    def problems(self) -> list[str]:
        found = super().problems() + problems_of(lambda: self.levels)
        if self.scope != "encoder":
            found.append(f"--scope {self.scope} cannot be used with tickets of whole units, which prune the encoder.")
        return found


class ImportanceSearch(BatchedSearch, SteppedSearch, UnitSearch, ObjectiveSearch):
    """Tickets of the units whose removal would change a loss most (Super Tickets, section 3)."""

    finder = "winning_tickets.pruning.structured:find_structured_ticket"
    term_names = STRUCTURED_NAMES

    selection: Literal["winning", "losing", "random"] = _units(
        "winning",
        "Units that are pruned: the least important (winning), the most important (losing), or random ones "
        "(Super Tickets, section 3.2).",
    )
    importance_from: str | None = _units(
        None,
        "Source of the importances: a transfer with --save-model, or an earlier search by importance. By default they "
        "are computed from --objective on --corpus.",
        everyday=True,
    )
    keep_token_importance: bool = _units(False, "Save the importances by token too, not only by sample.")

    @classmethod
    def usual_for(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults; importances of a source are about its task."""
        about = {} if values.get("importance_from") is None else {"objective": "task"}
        return super().usual_for(values) | about

    @property
    def terms(self) -> dict[str, float]:
        """The term of the objective; none for random tickets."""
        return {} if self.selection == "random" else super().terms

    @property
    def reads_corpus(self) -> bool:
        return bool(self.terms) and "task" not in self.terms

    @property
    def most_steps(self) -> int:
        return self.steps

    def profile_values(self) -> dict[str, Any]:
        """Return the values of the profile for this selection."""
        return profiles.structured_values(self.profile, self.selection)

    def problems(self) -> list[str]:
        found, terms = super().problems(), self.known_terms
        if len(terms) > 1:
            return [
                *found,
                f"Importance is about one loss, mlm, clm, kd or task, and the objective is {self.objective}.",
            ]
        if "task" in terms and self.importance_from is None:
            found.append(
                "Importance for a task needs a model fine-tuned on it: tickets transfer --save-model, then "
                "--importance-from RUN."
            )
        elif terms and "task" not in terms and self.importance_from is not None:
            found.append(
                f"--objective {self.objective} contradicts --importance-from, which says what importances are about; "
                "give one of them."
            )
        elif terms and "task" not in terms and self.corpus is None:
            found.append(
                f"Importance by {self.objective} needs --corpus: {TEXTS[:-1]}. For that of a task give "
                "--importance-from RUN."
            )
        return found


class GateTraining(UnitSearch, ScoreTraining):
    """Tickets from gates of units that are trained on a corpus: `mask-training` with a level or counts."""

    finder = "winning_tickets.pruning.structured:find_gate_ticket"

    @classmethod
    def named(cls, fields: Mapping[str, Any]) -> str:
        unit = next((name for name in UNIT_FIELDS if fields.get(name)), UNIT_FIELDS[0])
        return f"{super().named(fields)} with {cls.option_of(unit)} trains gates and"

    @property
    def terms(self) -> dict[str, float]:
        """Weights of the terms of the objective."""
        why = f"{self.named(dict(self)).removesuffix(' and')}, which learn from these losses only."
        return parse_objective(self.objective, GATE_NAMES, why)

    def profile_values(self) -> dict[str, Any]:
        """Return the values of `tuned`: no paper trains gates."""
        return profiles.GATE_VALUES

    def as_masks(self) -> MaskTraining:
        """Return settings of mask training with these values, for the optimizer of the scores."""
        shared = {name: value for name, value in self if name in MaskTraining.model_fields}
        return MaskTraining.model_construct(**profiles.GATE_VALUES | shared)

    def problems(self) -> list[str]:
        found = super().problems()
        if self.profile != "tuned":
            found.append(
                f"--profile {self.profile} is a recipe for masks of weights, and none of the papers trains gates; "
                "leave it out."
            )
        if self.score_init == "activation":
            found.append("--score-init activation is about weights; for gates give rank, plateau or random.")
        return found
