"""The configuration of the search for a task's super ticket: levels, selections, seeds and a grid of settings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

from pydantic import Field, field_validator

from winning_tickets.config.profiles import Profile
from winning_tickets.config.settings import Settings
from winning_tickets.config.structured import StructuredSettings, Unit
from winning_tickets.config.transfer import TransferConfig

Selection = Literal["winning", "random", "losing"]
SELECTIONS: tuple[Selection, ...] = ("winning", "random", "losing")
LEVELS = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
"""The eight levels of the paper's figures."""

# Super Tickets, section 5.2 and appendix A.1.2; weight decay is that of the program.
_PAPER: dict[str, Any] = {
    "learning_rates": (5e-5, 1e-4, 2e-4),
    "batch_sizes": (8, 16, 32),
    "optimizer": "adamax-mtdnn",
    "epochs": 6.0,
    "patience": 1,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "max_length": 512,
}
_DROPOUT = {"mnli": 0.3, "cola": 0.05}
_PAPER_DROPOUT = 0.1
_SELECT_ON = 0.1
_TUNED: dict[str, Any] = {"learning_rates": (), "batch_sizes": ()}


class SuperConfig(Settings):
    """Which ticket of heads and FFNs is best for a task (Super Tickets, sections 3 and 5).

    Attributes:
        fine_tuning: how the full model and every ticket are fine-tuned; its target is the model. `select_on` is the
            part of the dev set on which settings, the best evaluation and the super ticket are chosen.
        level: percent of the units that tickets lose.
        units: which units a level prunes.
        selections: what is fine-tuned: tickets without what matters least, without any, without what matters most.
        importance: where absolute values of gradients are taken; None takes the profile's.
        importance_train_size: `N` examples or `P%` that importances are taken from; None means all.
        importance_from: a transfer that was run with `--save-model`; None fine-tunes one.
        min_heads_per_layer: heads that every layer keeps; None takes the profile's.
        learning_rates: peak rates that are tried; empty means that of `fine_tuning`.
        batch_sizes: batch sizes that are tried; empty means that of `fine_tuning`.
        profile: where unset choices take their values from; `paper` also tries its grid of nine settings.
    """

    fine_tuning: TransferConfig
    level: tuple[float, ...] = LEVELS
    units: tuple[Unit, ...] = ("heads", "ffns")
    selections: tuple[Selection, ...] = SELECTIONS
    importance: Literal["sample", "token", "batch", "released"] | None = None
    importance_train_size: str | None = None
    importance_from: str | None = None
    min_heads_per_layer: int | None = Field(default=None, ge=0)
    learning_rates: tuple[float, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    profile: Profile = "tuned"

    _percent = field_validator("level", mode="before")(StructuredSettings._without_percent_signs.__func__)  # type: ignore[attr-defined]
    _sorted = field_validator("level")(StructuredSettings._ascending.__func__)  # type: ignore[attr-defined]

    @field_validator("selections")
    @classmethod
    def _in_one_order(cls, value: tuple[Selection, ...]) -> tuple[Selection, ...]:
        return tuple(selection for selection in SELECTIONS if selection in value)

    def resolved(self) -> SuperConfig:
        """The same configuration with every open choice filled from its profile; what was set stays."""
        values = dict(_PAPER if self.profile in ("paper", "code") else _TUNED)
        if self.profile in ("paper", "code"):
            values["head_dropout"] = _DROPOUT.get(str(self.fine_tuning.task), _PAPER_DROPOUT)
        own = {name: values.pop(name) for name in ("learning_rates", "batch_sizes") if name in values}
        own = {name: value for name, value in own.items() if getattr(self, name) is None}
        given = self.fine_tuning.model_fields_set | ({"epochs"} if self.fine_tuning.steps is not None else set())
        open_ = {name: value for name, value in ({"select_on": _SELECT_ON} | values).items() if name not in given}
        return self.model_copy(update=own | {"fine_tuning": self.fine_tuning.model_copy(update=open_)})

    def grid(self) -> Iterator[tuple[str, TransferConfig]]:
        """The settings that are tried: a folder's name and the fine-tuning, of a resolved configuration."""
        rates = self.learning_rates or (None,)
        sizes = self.batch_sizes or (None,)
        for rate, size in product(rates, sizes):
            values = {"learning_rate": rate, "batch_size": size}
            chosen = {name: value for name, value in values.items() if value is not None}
            name = "_".join(f"{word}-{value:g}" for word, value in (("lr", rate), ("batch", size)) if value is not None)
            yield name or "task-settings", self.fine_tuning.model_copy(update=chosen)
