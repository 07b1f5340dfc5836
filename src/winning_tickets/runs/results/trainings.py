"""Results of trainings: scores over seeds, of one task and of several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from winning_tickets.runs.results.base import Count, Score, Share, Stored, StoredResult, always, told

Metrics = dict[str, Score | None]
"""Scores by metric; null where the data lack that dev set."""


class Statistics(Stored):
    """Scores of several seeds."""

    mean: Score | None = told("null without measured values")
    std: Score | None = told("with n - 1; null for one value")
    values: list[Score | None] = Field(default_factory=list, description="one for each seed")
    n: Count | None = told("number of measured values")
    seeds: list[int] | None = told("of the values")


class ByEvaluation(Stored):
    """One metric of the seeds, by the evaluation that it is of."""

    final: Statistics = always("of the last evaluation")
    best: Statistics = always("of the best evaluation by `primary_metric`")
    final_selection: Statistics | None = told("with `--select-on`, on the selecting part of the dev set")
    best_selection: Statistics | None = told("the same")
    final_whole: Statistics | None = told("with `--select-on`, on the whole dev set")
    best_whole: Statistics | None = told("the same")


class TaskSummary(Stored):
    """One task of a training over seeds."""

    metrics: dict[str, ByEvaluation] = always(
        "by metric `final` and `best`: of the last evaluation, and of the best one by `primary_metric`; with "
        "`--select-on` those are of the rest of the dev set, and `final_selection`, `best_selection`, `final_whole`, "
        "`best_whole` of the selecting part and of the whole. The metrics are `accuracy f1 matthews pearson spearman "
        "exact_match micro_f1 macro_f1`; of `--task mlm` `accuracy` at masked tokens and `mlm_loss`; of MNLI "
        "`accuracy_matched`, `accuracy_mismatched`, whose values are null where the data lack that dev set"
    )
    primary_metric: str = always("the metric that selects `best`")
    ticket_id: str | None = always("null for a dense model")
    sparsity: Share = always("share of the prunable weights that are pruned")
    constant: Metrics | None = told(
        "by metric, the score of the best classifier that gives all examples one answer (0 for correlations)"
    )
    degenerate: bool | None = told(
        "the last evaluation is [no better than one answer](../explanation/numbers.md) for all examples"
    )
    train_examples: Count | None = told("of `--task mlm` segments of text")
    validation_examples: dict[str, Count] | None = told(
        "by split; of `--task mlm` masked tokens, with `--select-on` the rest"
    )
    selection_examples: dict[str, Count] | None = told("with `--select-on`: examples that were only selected on")
    batch_size: Count | None = told("as used")
    max_length: Count | None = told("in tokens, as used")
    data_hash: str | None = told("of all texts and labels")


class OverSeeds(StoredResult):
    """A training with several seeds."""

    seeds: list[int] = always("that finished")
    failed_seeds: list[int] = Field(default_factory=list, description="the same command tries them again")
    model: str | None = told("the pre-trained model")
    base_hash: str | None = told("of its weights")
    epochs: float | None = told("as used")
    steps: Count | None = told("as used")
    stopped_early: Count | None = told("how many of the seeds stopped early")
    learning_rate: float | None = told("as used")
    dropout: float | str | None = told("as used; `model` where the encoder had its own")
    smart: dict[str, Any] | None = told("the settings of [SMART](../how_to/task_files.md#smart), or null")

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


class FineTuning(StoredResult):
    """A fine-tuning on one task: where its ticket and its initial weights come from."""

    method: str | None = told("of the search of the ticket; null for a dense model")
    search: dict[str, Any] | None = told("settings of it that differ from its profile")
    search_seed: int | None = told("of the search")
    asked: dict[str, Any] | None = told("for a structured ticket the requested `level` or counts; else null")
    start_from: str | None = told("the initial weights as given")
    start_hash: str | None = told("of a state, folder or fine-tuned model, else null")
    from_task: str | None = told("of a fine-tuned initial model: its task")
    head: str | None = told(
        "of a fine-tuned initial model [its head](../how_to/adapt_to_a_domain.md): `kept`, `kept: 2 of 3 labels` or "
        "`fresh (why)`"
    )


class TransferResult(TaskSummary, FineTuning, OverSeeds):
    """A fine-tuning on one task with several seeds."""

    verbs = ("transfer",)

    task: str = always("its name")
    target: str | None = told("the model, ticket or export as given")
    majority: Share | None = told("accuracy of the most frequent class, of texts or of words; null for other kinds")
    labels: list[str] | None = told("names of the classes; empty for other kinds")
    classes: dict[str, dict[str, dict[str, float]]] | None = told(
        "by split and class `precision`, `recall`, `f1` and `examples`; empty above 100 classes"
    )
    confusion: dict[str, list[list[int]]] | None = told(
        "by split the table of counts (rows true, columns predicted) of all seeds"
    )
    warnings: list[str] | None = told("on data that look like a mistake, and on models that learned nothing")
    chosen: dict[str, Any] | None = told("with several learning rates, epochs or dropouts: the choice for all seeds")
    candidates: list[dict[str, Any]] | None = told("the scores of each candidate")
    train_windows: Count | None = told(
        "answers in texts: windows over the training texts (those of the first seed); else null"
    )
    teacher: str | None = told("with `--teacher`")
    corpus: str | None = told("of `--task mlm`")
    segments: str | None = told("of `--task mlm`")
    unlabelled_examples: dict[str, Count] | None = told("skipped rows without a gold label, by split")
    doc_stride: Count | None = told("null for tasks without windows")
    eval_steps: Count | None = told("steps between evaluations")

    def _summaries(self) -> Iterator[dict[str, ByEvaluation]]:
        yield self.metrics


class SeedScores(Stored):
    """The evaluations of one seed on one task."""

    final: Metrics = always("of the last evaluation")
    best: Metrics = always("of the best evaluation by `primary_metric`")
    final_selection: Metrics | None = told("with `--select-on`, on the selecting part")
    best_selection: Metrics | None = told("the same")
    final_whole: Metrics | None = told("with `--select-on`, on the whole dev set")
    best_whole: Metrics | None = told("the same")
    best_step: Count | None = told("step of the best evaluation")
    primary_metric: str = always("the metric that selects `best`")
    degenerate: bool | None = told("as of [transfer](#transfer)")
    ticket_id: str | None = always("null for a dense model")
    sparsity: Share = always("share of the prunable weights that are pruned")
    weight_remaining: Share | None = told("of a sharing: share of all parameters that the task keeps")


class OneSeed(StoredResult):
    """One seed of a training, in `seed-N`."""

    seed: int = always("its number")
    steps: Count | None = told("of the training as planned")
    stopped_early: bool | None = told("whether it ended before them")
    train_seconds: float | None = told("of the training steps")
    model: str | None = told("the pre-trained model")
    base_hash: str | None = told("of its weights")
    model_saved: bool | None = told("with `--save-model`")


class TransferSeedResult(SeedScores, FineTuning, OneSeed):
    """One seed of a fine-tuning."""

    verbs = ("transfer-seed",)

    task: str = always("its name")
    labels: list[str] | None = told("names of the classes")
    text_columns: list[str] | None = told("of the data")
    max_length: Count | None = told("in tokens, as used")
    confusion: dict[str, list[list[int]]] | None = told("of the last evaluation")
    stopped_step: Count | None = told("step of the last evaluation")
    train_examples: Count | None = told("as of [transfer](#transfer)")


class ShareSeedResult(OneSeed):
    """One seed of a multi-task training."""

    verbs = ("share-seed",)

    tasks: dict[str, SeedScores] = always("`final`, `best`, `best_step` and more of each task")
    weight_remaining: Share | None = told("share of all parameters that at least one task keeps")


Averages = dict[str, dict[str, Statistics]]
"""By rule and by kind."""


class ManyTasks(Stored):
    """Averages over tasks."""

    averages: Averages | None = told(
        "`task_average` and `column_average`, each with `final` and `best` over `seeds`; of a sharing `best` averages "
        "the best evaluations, of each task its own or all of one epoch (`best_by`). Null if a task file gives a task "
        "of the paper other metrics"
    )
    missing_tasks: list[str] | None = told("tasks of the paper that are missing")
    other_tasks: list[str] | None = told("tasks that are not in the paper")


class SharedTask(TaskSummary):
    """One task of a multi-task training."""

    weight_remaining: Share | None = told("share of all parameters that the task keeps")
    batches: Count | None = told("of a pass")
    dropout_p: float | None = told("of the head; null for that of the model")


class FineTunedTasks(ManyTasks):
    """The fine-tunings after a multi-task training."""

    tasks: dict[str, dict[str, Any]] = always("by task `metrics`")


class ShareResult(ManyTasks, OverSeeds):
    """A multi-task training with several seeds."""

    verbs = ("share",)

    tasks: dict[str, SharedTask] = always("by task what [transfer](#transfer) has of it, and the following")
    weight_remaining: Share | None = told("share of all parameters of the encoder that at least one task keeps")
    tickets: str | None = told("`given`, `auto` or `none`")
    steps_per_epoch: Count | None = told("as `mixing` counts them")
    mixing: str | None = told("as used")
    main_task: str | None = told("as used")
    ratio: float | None = told("as used")
    optimizer: str | None = told("as used")
    warmup_ratio: float | None = told("as used")
    weight_decay: float | None = told("as used")
    strict: bool | None = told("as used")
    best_by: str | None = told("as used")
    fine_tuned: FineTunedTasks | None = told("with `--fine-tune`")

    def _summaries(self) -> Iterator[dict[str, ByEvaluation]]:
        yield from (task.metrics for task in self.tasks.values())


class AveragedTask(Stored):
    """One transfer of an average."""

    run: str = always("its folder")
    ticket_id: str | None = always("null for a dense model")
    sparsity: Share = always("of its ticket")
    metrics: dict[str, ByEvaluation] = always("over `seeds`")


class AverageResult(ManyTasks, StoredResult):
    """The average of several transfers."""

    verbs = ("average",)

    tasks: dict[str, AveragedTask] = always("by task")
    seeds: list[int] = always("seeds that all tasks have")
    left_out_seeds: dict[str, list[int]] = always("by task, seeds that some other task lacks")


class Compared(Stored):
    """Mean difference to other trainings, paired by seed."""

    mean: Score = always("of the differences")
    n: Count = always("number of pairs")
    interval: list[float] | None = told("95 %")
    p: Share | None = told("two-sided; null if all differences are equal up to rounding")
    levels: dict[str, int] | None = told("number of seeds")
    no_interval: str | None = told("the reason, with fewer than three seeds")
    degenerate: list[str] | None = told("which sides are no better than one answer: `ticket`, `other`")
    learning_rates: dict[str, float] | None = told("of both")


class Selection(Stored):
    """The fine-tunings of the full model, or of the tickets of one selection and level."""

    settings: str | None = told("the selected ones")
    learning_rate: float | None = told("as used")
    batch_size: Count | None = told("as used")
    runs: list[str] = Field(default_factory=list, description="folders inside `out`")
    weight_remaining: Share | None = told("mean over the seeds of random tickets")
    degenerate: bool | None = told("of some fine-tuning")
    metrics: dict[str, dict[str, Statistics]] | None = told("each metric on the three parts")
    selection: Statistics | None = told("on the selecting part of the dev set")
    rest: Statistics | None = told("on the rest")
    whole: Statistics | None = told("on the whole dev set")
    ticket_ids: list[str] | None = told("random: one for each seed")
    units: dict[str, Any] | None = told("numbers of pruned and of all units")
    sparsity: Share | None = told(
        "mean over the seeds of random tickets, which differ if units overlap, such as heads in pruned layers"
    )
    against: dict[str, dict[str, Compared]] | None = told("differences to `full`, `random` or `losing`, by part")


class SuperTicket(Selection):
    """The super ticket."""

    level: float = always("in percent")
    folder: str = always("inside `out`")


class SuperResult(StoredResult):
    """The phase transition of a task and its super ticket."""

    verbs = ("super",)

    model: str = always("the pre-trained model")
    task: str = always("its name")
    metric: str = always("the primary one")
    seeds: list[int] = always("of the fine-tunings")
    levels: list[float] = always("in percent")
    select_on: float | None = told("share of the dev set that settings and ticket are chosen on")
    full: Selection = always("of the full model")
    selections: dict[str, dict[str, Selection]] = always("by selection and level")
    super_ticket: SuperTicket = always("`level`, `folder`, and all of `selections.winning.LEVEL`")
    trainings: Count | None = told("number of fine-tunings")
    stopped_early: Count | None = told("how many of them stopped early")
    warnings: list[str] | None = told(
        "the importances, or the scores that the super ticket was chosen among, are of models that learned nothing"
    )


class HeadQuality(Stored):
    """The quality of a language-modeling head on the validation part."""

    mlm_loss: Annotated[float, Field(ge=0)] = always("at masked tokens")
    perplexity: float | None = told("null if it is too large for a number")
    mlm_accuracy: Share | None = told("at masked tokens")


class FitHeadResult(StoredResult):
    """A fitted language-modeling head."""

    verbs = ("fit-head",)

    model: str = always("as given")
    corpus: str | None = told("as given")
    start: HeadQuality = always("`mlm_loss`, `perplexity` (null if too large), `mlm_accuracy` on validation text")
    final: HeadQuality = always("the same after the training")
    measured_tokens: Count | None = told("that these are of")
    measured_segments: str | None = told("as `--segments`")
    steps: Count = always("of the training")
    tokens_seen: Count | None = told("in it")
    train_encoder: bool | None = told("as given")
    trained_parameters: Count | None = told("their number")
    base_hash: str | None = told("of the saved encoder")
