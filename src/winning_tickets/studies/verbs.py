"""VERBS: what the stages of a study may do, and what configures it; the verbs themselves are imported by workers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import Field

from winning_tickets.config import Settings
from winning_tickets.runs.errors import unknown


class ExportConfig(Settings):
    """An export; the fields are the arguments of `export.export`."""

    target: str
    format: str
    base: str | None = None
    convention: str | None = None
    allow_other_weights: bool = False


class MeasureConfig(Settings):
    """A measurement; the fields are the arguments of `measure.measure`."""

    target: str
    batches: tuple[int, ...] = (1, 8, 32)
    lengths: tuple[int, ...] = (32, 128)
    threads: int | None = None
    repeats: int = 10
    base: str | None = None
    revision: str | None = None
    layers: int | None = None
    allow_other_weights: bool = False


class CompareConfig(Settings):
    """A comparison.

    Attributes:
        targets: tickets.
        reference: of two tickets the first, where each is named by itself, so that every pair is a run.
        target: the second.
        average: as of `compare.compare`.
    """

    targets: tuple[str, ...] = ()
    reference: str | None = None
    target: str | None = None
    average: str = "pooled"

    @property
    def tickets(self) -> tuple[str, ...]:
        """All that are compared."""
        return (*(one for one in (self.reference, self.target) if one is not None), *self.targets)


class AnalyseConfig(Settings):
    """An analysis.

    Attributes:
        kind: a name of `analyse.ANALYSES`.
        paths: tickets or runs.
        baseline: runs they are compared with, of kinds that have some.
        dense: runs of the full model, of kinds that have some.
        options: further arguments of the analysis.
    """

    kind: str
    paths: tuple[str, ...]
    baseline: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Verb:
    """What a stage may do.

    Attributes:
        config: module and class of its configuration.
        function: module and function that does it.
        words: fields whose values make the readable part of a run's id.
        writes: whether the function takes a directory and stores its result there; else we store what it returns.
        output: what a reference to a run means inside its folder.
    """

    config: str
    function: str
    words: tuple[str, ...]
    writes: bool = True
    output: str = ""

    @property
    def settings(self) -> type[Settings]:
        """The class of the configuration."""
        found: type[Settings] = _attribute(self.config)
        return found


@cache
def _attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


VERBS: dict[str, Verb] = {
    "fit-head": Verb(
        "winning_tickets.config:FitHeadConfig", "winning_tickets.finetuning.fit_head:fit_head", ("steps", "seed")
    ),
    "search": Verb(
        "winning_tickets.config:SearchConfig",
        "winning_tickets.pruning.search:search_all",
        ("method", "objective", "tasks", "sparsity", "level", "seed"),
    ),
    "evaluate": Verb(
        "winning_tickets.config:EvaluateConfig",
        "winning_tickets.analysis.evaluate:evaluate",
        ("objectives",),
        writes=False,
    ),
    "transfer": Verb(
        "winning_tickets.config:TransferConfig", "winning_tickets.finetuning.transfer:transfer", ("task", "seeds")
    ),
    "share": Verb(
        "winning_tickets.config.share:ShareConfig", "winning_tickets.finetuning.sharing:share", ("tasks", "seeds")
    ),
    "super": Verb(
        "winning_tickets.config.share:SuperConfig",
        "winning_tickets.finetuning.super_ticket:super_ticket",
        ("fine_tuning.task", "fine_tuning.seeds"),
    ),
    "export": Verb(
        "winning_tickets.studies.verbs:ExportConfig",
        "winning_tickets.deploy.export:export",
        ("format",),
        writes=False,
        output="model",
    ),
    "measure": Verb(
        "winning_tickets.studies.verbs:MeasureConfig", "winning_tickets.deploy.measure:measure", (), writes=False
    ),
    "compare": Verb(
        "winning_tickets.studies.verbs:CompareConfig", "winning_tickets.tickets.overlap:compare", (), writes=False
    ),
    "analyse": Verb(
        "winning_tickets.studies.verbs:AnalyseConfig",
        "winning_tickets.analysis.kinds:ANALYSES",
        ("kind",),
        writes=False,
    ),
}


def verb_named(name: str) -> Verb:
    """An entry of `VERBS`."""
    if name not in VERBS:
        raise unknown("verb", name, VERBS)
    return VERBS[name]
