"""Results of trainings: scores over seeds, of one task and of several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from winning_tickets.runs.results.base import Count, Score, Share, Stored, StoredResult, optional, required

Metrics = dict[str, Score | None]
"""Scores by metric; null where the data lack that dev set."""


class Statistics(Stored):
    """Scores of several seeds."""

    mean: Score | None = optional("null without measured values")
    std: Score | None = optional("with n - 1; null for one value")
    values: list[Score | None] = Field(default_factory=list, description="one for each seed")
    n: Count | None = optional("number of measured values")
    seeds: list[int] | None = optional("of the values")


Value = TypeVar("Value")


class Evaluations(Stored, Generic[Value]):
    """What was measured, by the evaluation that it is of; with `--select-on` on the rest of the dev set."""

    final: Value = required("of the last evaluation")
    best: Value = required("of the best evaluation by `primary_metric`")
    final_selection: Value | None = optional("with `--select-on`, on the selecting part of the dev set")
    best_selection: Value | None = optional("with `--select-on`, on the selecting part of the dev set")
    final_whole: Value | None = optional("with `--select-on`, on the whole dev set")
    best_whole: Value | None = optional("with `--select-on`, on the whole dev set")


class ByEvaluation(Evaluations[Statistics]):
    """One metric over the seeds."""


class Scored(Stored):
    """What is scored by a training on one task, and how."""

    primary_metric: str = required("the metric that selects `best`")
    ticket_id: str | None = required("null for a dense model")
    sparsity: Share = required("share of the prunable weights that are pruned")
    degenerate: bool | None = optional(
        "the last evaluation is [no better than one answer](../explanation/numbers.md) for all examples"
    )


class TaskSummary(Scored):
    """One task of a training over seeds."""

    metrics: dict[str, ByEvaluation] = required(
        "by metric: `accuracy f1 matthews pearson spearman exact_match micro_f1 macro_f1`; of `--task mlm` `accuracy` "
        "at masked tokens and `mlm_loss`; of MNLI `accuracy_matched`, `accuracy_mismatched`, whose values are null "
        "where the data lack that dev set"
    )
    constant: Metrics | None = optional(
        "by metric, the score of the best classifier that gives all examples one answer (0 for correlations)"
    )
    train_examples: Count | None = optional("of `--task mlm` segments of text")
    validation_examples: dict[str, Count] | None = optional(
        "by split; of `--task mlm` masked tokens, with `--select-on` the rest"
    )
    selection_examples: dict[str, Count] | None = optional("with `--select-on`: examples that were only selected on")
    batch_size: Count | None = optional("as used")
    max_length: Count | None = optional("in tokens, as used")
    data_hash: str | None = optional("of all texts and labels")


class Training(StoredResult):
    """A training, with one seed or with several."""

    model: str | None = optional("the pre-trained model")
    base_hash: str | None = optional("of its weights")
    steps: Count | None = optional("of the training as planned")


class OverSeeds(Training):
    """A training with several seeds."""

    seeds: list[int] = required("that finished")
    failed_seeds: list[int] = Field(default_factory=list, description="the same command tries them again")
    epochs: float | None = optional("as used")
    stopped_early: Count | None = optional("how many of the seeds stopped early")
    learning_rate: float | None = optional("as used")
    dropout: float | str | None = optional("as used; `model` where the encoder had its own")
    smart: dict[str, Any] | None = optional("the settings of [SMART](../how_to/task_files.md#smart), or null")

    def _summaries(self) -> Iterator[dict[str, ByEvaluation]]:
        """Yield the metrics of each task."""
        yield from ()

    @model_validator(mode="after")
    def _each_seed_has_one_value(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise PydanticCustomError("seeds", "a seed comes twice")
        for metrics in self._summaries():
            for metric, kinds in metrics.items():
                for kind in ByEvaluation.model_fields:
                    scores = getattr(kinds, kind)
                    if scores is not None and len(scores.values) != len(self.seeds):
                        about = f"metrics.{metric}.{kind} has {len(scores.values)} values for {len(self.seeds)} seeds"
                        raise PydanticCustomError("values", "{about}", {"about": about})
        return self


class FineTuning(Scored, StoredResult):
    """A fine-tuning on one task: where its ticket and its initial weights come from."""

    method: str | None = optional("of the search of the ticket; null for a dense model")
    search: dict[str, Any] | None = optional("settings of it that differ from its profile")
    search_seed: int | None = optional("of the search")
    asked: dict[str, Any] | None = optional("for a structured ticket the requested `level` or counts; else null")
    start_from: str | None = optional("the initial weights as given")
    start_hash: str | None = optional("of a state, folder or fine-tuned model, else null")
    from_task: str | None = optional("of a fine-tuned initial model: its task")
    head: str | None = optional(
        "of a fine-tuned initial model [its head](../how_to/adapt_to_a_domain.md): `kept`, `kept: 2 of 3 labels` or "
        "`fresh (why)`"
    )


class TransferResult(TaskSummary, FineTuning, OverSeeds):
    """A fine-tuning on one task with several seeds."""

    verbs = ("transfer",)

    task: str = required("its name")
    target: str | None = optional("the model, ticket or export as given")
    majority: Share | None = optional("accuracy of the most frequent class, of texts or of words; null for other kinds")
    labels: list[str] | None = optional("names of the classes; empty for other kinds")
    classes: dict[str, dict[str, dict[str, float]]] | None = optional(
        "by split and class `precision`, `recall`, `f1` and `examples`; empty above 100 classes"
    )
    confusion: dict[str, list[list[int]]] | None = optional(
        "by split the table of counts (rows true, columns predicted) of all seeds"
    )
    warnings: list[str] | None = optional("on data that look like a mistake, and on models that learned nothing")
    chosen: dict[str, Any] | None = optional(
        "with several learning rates, epochs or dropouts: the choice for all seeds"
    )
    candidates: list[dict[str, Any]] | None = optional("the scores of each candidate")
    train_windows: Count | None = optional(
        "answers in texts: windows over the training texts (those of the first seed); else null"
    )
    teacher: str | None = optional("with `--teacher`")
    corpus: str | None = optional("of `--task mlm`")
    segments: str | None = optional("of `--task mlm`")
    unlabelled_examples: dict[str, Count] | None = optional("skipped rows without a gold label, by split")
    doc_stride: Count | None = optional("null for tasks without windows")
    eval_steps: Count | None = optional("steps between evaluations")

    def _summaries(self) -> Iterator[dict[str, ByEvaluation]]:
        yield self.metrics


class SeedScores(Evaluations[Metrics], Scored):
    """The scores of one seed on one task, by metric."""

    best_step: Count | None = optional("step of the best evaluation")
    weight_remaining: Share | None = optional("of a sharing: share of all parameters that the task keeps")


class OneSeed(Training):
    """One seed of a training, in `seed-N`."""

    seed: int = required("its number")
    stopped_early: bool | None = optional("whether it ended before its steps")
    train_seconds: float | None = optional("of the training steps")
    model_saved: bool | None = optional("with `--save-model`")


class TransferSeedResult(SeedScores, FineTuning, OneSeed):
    """One seed of a fine-tuning."""

    verbs = ("transfer-seed",)

    task: str = required("its name")
    labels: list[str] | None = optional("names of the classes")
    text_columns: list[str] | None = optional("of the data")
    max_length: Count | None = optional("in tokens, as used")
    confusion: dict[str, list[list[int]]] | None = optional("of the last evaluation")
    stopped_step: Count | None = optional("step of the last evaluation")
    train_examples: Count | None = optional("as of [transfer](#transfer)")


class ShareSeedResult(OneSeed):
    """One seed of a multi-task training."""

    verbs = ("share-seed",)

    tasks: dict[str, SeedScores] = required("of each task")
    weight_remaining: Share | None = optional("share of all parameters that at least one task keeps")


Averages = dict[str, dict[str, Statistics]]
"""By rule and by kind."""


class ManyTasks(Stored):
    """Averages over tasks."""

    averages: Averages | None = optional(
        "`task_average` and `column_average`, each with `final` and `best` over `seeds`; of a sharing `best` averages "
        "the best evaluations, of each task its own or all of one epoch (`best_by`). Null if a task file gives a task "
        "of the paper other metrics"
    )
    missing_tasks: list[str] | None = optional("tasks of the paper that are missing")
    other_tasks: list[str] | None = optional("tasks that are not in the paper")


class SharedTask(TaskSummary):
    """One task of a multi-task training."""

    weight_remaining: Share | None = optional("share of all parameters that the task keeps")
    batches: Count | None = optional("of a pass")
    dropout_p: float | None = optional("of the head; null for that of the model")


class FineTunedTasks(ManyTasks):
    """The fine-tunings after a multi-task training."""

    tasks: dict[str, dict[str, Any]] = required("by task `metrics`")


class ShareResult(ManyTasks, OverSeeds):
    """A multi-task training with several seeds."""

    verbs = ("share",)

    tasks: dict[str, SharedTask] = required("by task what [transfer](#transfer) has of it, and the following")
    weight_remaining: Share | None = optional("share of all parameters of the encoder that at least one task keeps")
    tickets: str | None = optional("`given`, `auto` or `none`")
    steps_per_epoch: Count | None = optional("as `mixing` counts them")
    mixing: str | None = optional("as used")
    main_task: str | None = optional("as used")
    ratio: float | None = optional("as used")
    optimizer: str | None = optional("as used")
    warmup_ratio: float | None = optional("as used")
    weight_decay: float | None = optional("as used")
    strict: bool | None = optional("as used")
    best_by: str | None = optional("as used")
    fine_tuned: FineTunedTasks | None = optional("with `--fine-tune`")

    def _summaries(self) -> Iterator[dict[str, ByEvaluation]]:
        yield from (task.metrics for task in self.tasks.values())


class AveragedTask(Stored):
    """One transfer of an average."""

    run: str = required("its folder")
    ticket_id: str | None = required("null for a dense model")
    sparsity: Share = required("of its ticket")
    metrics: dict[str, ByEvaluation] = required("over `seeds`")


class AverageResult(ManyTasks, StoredResult):
    """The average of several transfers."""

    verbs = ("average",)

    tasks: dict[str, AveragedTask] = required("by task")
    seeds: list[int] = required("seeds that all tasks have")
    left_out_seeds: dict[str, list[int]] = required("by task, seeds that some other task lacks")


class Compared(Stored):
    """Mean difference to other trainings, paired by seed."""

    mean: Score = required("of the differences")
    n: Count = required("number of pairs")
    interval: list[float] | None = optional("95 %")
    p: Share | None = optional("two-sided; null if all differences are equal up to rounding")
    levels: dict[str, int] | None = optional("number of seeds")
    no_interval: str | None = optional("the reason, with fewer than three seeds")
    degenerate: list[str] | None = optional("which sides are no better than one answer: `ticket`, `other`")
    learning_rates: dict[str, float] | None = optional("of both")


class Selection(Stored):
    """The fine-tunings of the full model, or of the tickets of one selection and level."""

    settings: str | None = optional("the selected ones")
    learning_rate: float | None = optional("as used")
    batch_size: Count | None = optional("as used")
    runs: list[str] = Field(default_factory=list, description="folders inside `out`")
    weight_remaining: Share | None = optional("mean over the seeds of random tickets")
    degenerate: bool | None = optional("of some fine-tuning")
    metrics: dict[str, dict[str, Statistics]] | None = optional("each metric on the three parts")
    selection: Statistics | None = optional("on the selecting part of the dev set")
    rest: Statistics | None = optional("on the rest")
    whole: Statistics | None = optional("on the whole dev set")
    ticket_ids: list[str] | None = optional("random: one for each seed")
    units: dict[str, Any] | None = optional("numbers of pruned and of all units")
    sparsity: Share | None = optional(
        "mean over the seeds of random tickets, which differ if units overlap, such as heads in pruned layers"
    )
    against: dict[str, dict[str, Compared]] | None = optional("differences to `full`, `random` or `losing`, by part")


class SuperTicket(Selection):
    """The super ticket."""

    level: float = required("in percent")
    folder: str = required("inside `out`")


class SuperResult(StoredResult):
    """The phase transition of a task and its super ticket."""

    verbs = ("super",)

    model: str = required("the pre-trained model")
    task: str = required("its name")
    metric: str = required("the primary one")
    seeds: list[int] = required("of the fine-tunings")
    levels: list[float] = required("in percent")
    select_on: float | None = optional("share of the dev set that settings and ticket are chosen on")
    full: Selection = required("of the full model")
    selections: dict[str, dict[str, Selection]] = required("by selection and level")
    super_ticket: SuperTicket = required("`level`, `folder`, and all of `selections.winning.LEVEL`")
    trainings: Count | None = optional("number of fine-tunings")
    stopped_early: Count | None = optional("how many of them stopped early")
    warnings: list[str] | None = optional(
        "the importances, or the scores that the super ticket was chosen among, are of models that learned nothing"
    )


class HeadQuality(Stored):
    """The quality of a language-modeling head on the validation part."""

    mlm_loss: Annotated[float, Field(ge=0)] = required("at masked tokens")
    perplexity: float | None = optional("null if it is too large for a number")
    mlm_accuracy: Share | None = optional("at masked tokens")


class FitHeadResult(StoredResult):
    """A fitted language-modeling head."""

    verbs = ("fit-head",)

    model: str = required("as given")
    corpus: str | None = optional("as given")
    start: HeadQuality = required("`mlm_loss`, `perplexity` (null if too large), `mlm_accuracy` on validation text")
    final: HeadQuality = required("the same after the training")
    measured_tokens: Count | None = optional("that these are of")
    measured_segments: str | None = optional("as `--segments`")
    steps: Count = required("of the training")
    tokens_seen: Count | None = optional("in it")
    train_encoder: bool | None = optional("as given")
    trained_parameters: Count | None = optional("their number")
    base_hash: str | None = optional("of the saved encoder")
