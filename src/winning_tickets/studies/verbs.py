"""Verbs of studies, with their settings; workers import their functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import Field

from winning_tickets.config import Settings
from winning_tickets.runs.errors import unknown


class AnalyseConfig(Settings):
    """An analysis from `ANALYSES` of tickets or runs; some kinds take `baseline` and `dense` runs to compare with."""

    kind: str
    paths: tuple[str, ...]
    baseline: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)


class SubmitConfig(Settings):
    """Arguments of `finetuning.glue_submission.glue_submission`: one transfer with a saved model for each task."""

    runs: tuple[str, ...]
    data_dir: str | None = None  # folder of a GLUE download; the hub has no test files
    seed: int | None = None


@dataclass(frozen=True)
class StudyVerb:
    """A verb of studies."""

    config: str  # module and class of its settings
    function: str  # module and function, or table of functions
    words: tuple[str, ...]  # settings in the readable part of a run id
    writes: bool = True  # whether the function stores its result; otherwise the worker does
    output: str = ""  # path inside a run's folder that a reference to the run means

    @property
    def settings(self) -> type[Settings]:
        found: type[Settings] = _attribute(self.config)
        return found

    @property
    def call(self) -> Any:
        return _attribute(self.function)


@cache
def _attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(f"winning_tickets.{module}"), attribute)


VERBS: dict[str, StudyVerb] = {
    "fit-head": StudyVerb("config:FitHeadConfig", "finetuning.fit_head:fit_head", ("steps", "seed")),
    "search": StudyVerb(
        "config:SearchConfig",
        "pruning.search:search_all",
        ("method", "objective", "tasks", "sparsity", "level", "seed"),
    ),
    "evaluate": StudyVerb("config:EvaluateConfig", "evaluation.evaluate:evaluate", ("objectives",), writes=False),
    "transfer": StudyVerb("config:TransferConfig", "finetuning.transfer:transfer", ("task", "seeds")),
    "share": StudyVerb("config:ShareConfig", "finetuning.sharing:share", ("tasks", "seeds")),
    "super": StudyVerb(
        "config:SuperConfig", "finetuning.super_ticket:super_ticket", ("fine_tuning.task", "fine_tuning.seeds")
    ),
    "export": StudyVerb("config:ExportConfig", "deploy.export:export", ("format",), writes=False, output="model"),
    "import-mask": StudyVerb(
        "config:ImportConfig", "deploy.mask_files:import_mask", ("method",), writes=False, output="ticket"
    ),
    "measure": StudyVerb("config:MeasureConfig", "deploy.measure:measure", (), writes=False),
    "compare": StudyVerb("config:CompareConfig", "tickets.overlap:compare", (), writes=False),
    "analyse": StudyVerb("studies.verbs:AnalyseConfig", "studies.analysis.kinds:ANALYSES", ("kind",), writes=False),
    "submit": StudyVerb(
        "studies.verbs:SubmitConfig",
        "finetuning.glue_submission:glue_submission",
        ("seed",),
        writes=False,
        output="submission",
    ),
}


def verb_named(name: str) -> StudyVerb:
    """Return the entry of `VERBS` with a name."""
    if name not in VERBS:
        raise unknown("verb", name, VERBS)
    return VERBS[name]
