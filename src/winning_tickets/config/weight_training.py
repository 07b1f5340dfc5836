"""The configurations of searches that learn from text and tasks: iterative pruning, SNIP and movement."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from winning_tickets.config import profiles
from winning_tickets.config.objective import ALL_NAMES, SOURCE_NAMES
from winning_tickets.config.search import (
    ROUNDS,
    TASK_DATA,
    TEXTS,
    BatchedSearch,
    CountedSearch,
    LogitsSearch,
    ObjectiveSearch,
    ScheduledSearch,
    SteppedSearch,
    TrainingSearch,
    WeightSearch,
)
from winning_tickets.config.settings import ASCENDING, GROUPING_MEANING, LabeledKind, Open, setting
from winning_tickets.config.weights import parse_rewind
from winning_tickets.runs.errors import UsageError

_task = partial(setting, panel=TASK_DATA)
_round = partial(setting, panel=ROUNDS)
TENTHS = tuple(tenth / 10 for tenth in range(1, 10))  # 10 to 90 %, the sparsities of the papers' iterative pruning


class SourceSearch(BatchedSearch, ObjectiveSearch, WeightSearch):
    """What methods read whose objective is a sum of a loss on text and losses on tasks."""

    usual: ClassVar[Mapping[str, Any]] = {"objective": "mlm"}
    term_names: ClassVar[tuple[str, ...]] = SOURCE_NAMES

    tasks: Annotated[tuple[str, ...], ASCENDING] = _task(
        (), "Tasks that the objective's term task is about, such as rte,mrpc.", option="--task", everyday=True
    )
    train_file: str | None = _task(None, "Your own training file, as one more task.", everyday=True)
    text_columns: tuple[str, ...] | None = _task(None, "Text columns of your file, such as premise,hypothesis.")
    label_column: str = _task("label", "Label column of your file.")
    kind: LabeledKind | None = _task(
        None,
        "Kind of the labels of your file: classification, regression, multilabel, tokens or span. By default the file "
        "is inspected.",
    )
    max_length: int | None = _task(
        None, "Maximum tokens of a task's example. By default that of the task's definition.", ge=1
    )
    group_by_length: Open[bool] = _task(None, GROUPING_MEANING)
    mixing: Literal["sum", "proportional"] = _task(
        "sum",
        "A step over several sources (text and tasks): one batch of each with their losses added (sum), or a batch of "
        "one source, drawn in proportion to its size (proportional).",
        option=None,
    )

    @classmethod
    def usual_for(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults: named tasks are the objective, and papers rank all weights together."""
        found = super().usual_for(values)
        if values.get("tasks") or values.get("train_file"):
            found["objective"] = "task"
        counted = isinstance(values.get("pattern"), str) or values.get("like") is not None
        if values.get("profile") in ("paper", "code") and not counted:
            found["ranking"] = "global"  # one threshold over all matrices (Chen et al. 2020)
        return found

    @property
    def reads_corpus(self) -> bool:
        return bool(self.text_terms)

    @property
    def source_steps(self) -> int | None:
        """Optimizer steps, or those of a round; None if the data decide."""
        raise NotImplementedError

    @property
    def most_steps(self) -> int:
        return (self.source_steps or 0) * len(self.sparsities)

    def profile_values(self) -> dict[str, Any]:
        """Return the values of the profile for these terms."""
        return profiles.learned_values(self.profile, self.known_terms)

    def problems(self) -> list[str]:
        found, terms = super().problems(), self.known_terms
        named = bool(self.tasks) or self.train_file is not None
        text = next((name for name in terms if name != "task"), None)
        if text is not None and self.corpus is None:
            found.append(f"The objective {text} needs --corpus: {TEXTS}")
        if terms and "task" not in terms and named:
            found.append(
                f"The objective {self.objective} uses no task; write task, or {text}+task, or leave --task out."
            )
        return found


class ImpSearch(ScheduledSearch, LogitsSearch, SourceSearch):
    """Tickets from iterative magnitude pruning: train, prune, rewind, train ... (Chen et al. 2020)."""

    finder = "winning_tickets.pruning.imp:find_imp_ticket"
    usual: ClassVar[Mapping[str, Any]] = {"objective": "mlm", "sparsity": TENTHS}
    term_names: ClassVar[tuple[str, ...]] = ALL_NAMES

    round_steps: int | None = _round(None, "Optimizer steps of a round.", everyday=True, ge=1)
    round_epochs: float | None = _round(
        None, "Passes over the largest source (text or a task) in a round.", everyday=True, gt=0
    )
    round_examples: int | None = _round(None, "Examples (segments of text) of all sources in a round.", ge=1)
    rewind: Open[str] = _round(
        None,
        "Weights restored after each pruning: pretrained, step:K or percent:P of the first round, none, noise, "
        "noise:SCALE (pre-trained weights plus noise) or reinit.",
        everyday=True,
    )
    rewind_scope: Open[Literal["all", "encoder", "prunable"]] = _round(
        None,
        "Parameters that are rewound: all (encoder and heads), encoder, or only the prunable matrices.",
        option=None,
    )
    prune_first: Open[bool] = _round(None, "Prune the pre-trained weights before the first round.")
    rate_horizon: Open[Literal["round", "total"]] = _round(
        None, "Period over which the learning rate decays to zero: each round, or all rounds (total)."
    )
    reset_optimizer: Open[bool] = _round(
        None, "Reset the optimizer's moments after each round, or keep them from round to round.", option=None
    )
    save_trained: bool = _round(False, "Save the weights at the end of each round, for transfer --start-from.")

    @property
    def source_steps(self) -> int | None:
        return self.round_steps

    @property
    def advice_on_rounds(self) -> str | None:
        """What to know about iterative pruning in a single round; None for several."""
        if len(self.sparsities) - bool(self.resolved().prune_first) != 1:
            return None
        last = self.sparsities[-1]
        levels = ",".join(f"{last * part / 3:.2g}" for part in (1, 2)) + f",{last:g}"
        return (
            f"One sparsity level is one round: the model is trained once, pruned to {100 * last:g} %, and not trained "
            f"again. For iterative pruning give several levels, such as --sparsity {levels}."
        )

    def problems(self) -> list[str]:
        found = super().problems()
        lengths = [
            name for name in ("round_steps", "round_epochs", "round_examples") if getattr(self, name) is not None
        ]
        if len(lengths) > 1:
            found.append(f"{' and '.join(map(self.option_of, lengths))} contradict each other; give one of them.")
        if not lengths and {*self.known_terms} - {"task"}:
            found.append(
                "--method imp on text needs the length of a round: --round-steps, --round-epochs or --round-examples."
            )
        filled = self.resolved()
        if filled.prune_first and len(self.sparsities) == 1:
            why = "prune_first" if self.prune_first else f"--objective {self.objective}, which prunes first,"
            found.append(
                f"{why} with one sparsity trains nothing; that is --method magnitude. Give several, such as "
                "0.2,0.4,0.6."
            )
        try:
            policy = parse_rewind(filled.rewind)
        except UsageError as error:
            return [*found, *error.lines]
        if policy.kind == "step" and self.round_steps is not None and policy.amount > self.round_steps:
            found.append(f"--rewind {self.rewind} is after the first round, which has {self.round_steps} steps.")
        return found


class SnipSearch(SteppedSearch, SourceSearch, CountedSearch):
    """Tickets of the weights whose removal would change the loss most."""

    finder = "winning_tickets.pruning.one_shot:find_snip_ticket"

    @property
    def source_steps(self) -> int | None:
        return self.steps


class MovementSearch(SteppedSearch, TrainingSearch, SourceSearch, CountedSearch):
    """Tickets of the weights that fine-tuning moves away from zero."""

    finder = "winning_tickets.pruning.movement:find_movement_ticket"

    @property
    def source_steps(self) -> int | None:
        return self.steps
