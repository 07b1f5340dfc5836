"""Task-agnostic mask training (TAMT, section 3.4): masks trained on the pre-training objectives, weights frozen.

Several sparsities share one training: scores trained for 50 % already order the weights that matter at 60 %, so that
every further level needs fewer steps than a search of its own (docs/explanation/mask_engine.md has measurements).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.config import MODEL_DROPOUT, Runtime
from winning_tickets.config.mask_training import MaskTraining, ScoreTraining
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.models.architectures import present_in, split_name
from winning_tickets.models.lm_head import head_without_decoder, untie_decoder
from winning_tickets.models.loading import PLM, set_dropout
from winning_tickets.models.twin import make_twin
from winning_tickets.pruning.block_wise import BlockOptimizer, LayerDistance, Turn, turns_of
from winning_tickets.pruning.mask_optimizer import MaskOptimizer, buffer_order, initial_scores
from winning_tickets.pruning.one_shot import activation_importance, input_norms
from winning_tickets.pruning.preparation import PreparedSearch
from winning_tickets.pruning.sharded import ShardedMaskOptimizer, shard_
from winning_tickets.pruning.sources import term_settings
from winning_tickets.pruning.steps import train_in_order
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.masking import MaskedWeights, is_sharded, own_rows
from winning_tickets.tickets.selection import Computed, count_true, magnitudes
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.base import Objective
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.terms import needs_lm_head, needs_teacher
from winning_tickets.training.trainer import Callback, TicketTrainer, last_step

PreparedMasks = PreparedSearch[MaskTraining]


@dataclass(frozen=True)
class SparsityLevel:
    """One sparsity of a search, trained from optimizer step `start` to step `end`, when its ticket is made."""

    sparsity: float
    start: int
    end: int


def sparsity_levels(config: MaskTraining) -> list[SparsityLevel]:
    """Return the sparsity levels of a search, lowest first."""
    ends = [config.first_steps + index * config.steps_of_a_rung for index in range(len(config.sparsities))]
    starts = [0, *ends[:-1]]
    return [SparsityLevel(*values) for values in zip(config.sparsities, starts, ends, strict=True)]


def level_at(levels: list[SparsityLevel], step: int) -> int:
    """Return the index of the level that is trained after `step` steps; the end of a level belongs to the next one."""
    return next((index for index, level in enumerate(levels) if step < level.end), len(levels) - 1)


def decay(levels: list[SparsityLevel], warmup_steps: int, horizon: int | None) -> Callable[[int], float]:
    """Return the learning-rate factor by step: warm-up, then linear decay in each level.

    It reaches zero at the end of the level, or `horizon` steps after its start.
    """

    def factor(step: int) -> float:
        level = levels[level_at(levels, step)]
        length = horizon or level.end - level.start
        if step < warmup_steps:
            return step / warmup_steps
        lead = warmup_steps if level.start == 0 else 0
        return max(0.0, (length - (step - level.start)) / max(1, length - lead))

    return factor


def horizon(config: ScoreTraining, dataset: Any) -> int | None:
    """Return the steps after which the learning rate reaches zero; None for the end of the level."""
    if config.schedule_steps is not None or not config.schedule_passes:
        return config.schedule_steps
    # The papers' rate decays over two passes of the corpus; a longer search stretches it.
    steps_of_a_pass: float = dataset.steps_of_a_pass
    return max(config.first_steps, round(config.schedule_passes * steps_of_a_pass))


def find_trained_mask(prepared: PreparedMasks, run: RunDirectory, runtime: Runtime) -> None:
    """Train the masks; tickets are saved at the end of each sparsity level and at the steps of `save_at`."""
    config = prepared.config
    dataset = prepared.batches(
        config.total_steps, predicts=needs_lm_head(config.terms), masked_tokens=config.kd_masked_tokens
    )
    # A profile may train without dropout; the papers keep the model's own.
    if config.student_dropout != MODEL_DROPOUT:
        set_dropout(prepared.plm.model, config.student_dropout)
    if runtime.bf16 and not runtime.shard:
        prepared.round_weights()
    sparsities = ", ".join(f"{100 * sparsity:.0f}" for sparsity in config.sparsities)
    title = f"searching at {sparsities} % sparsity"
    if config.block_wise:
        prepared.plm.model.to(prepared.device)
        blocks = BlockSearch(prepared, dataset)
        train_scores(blocks, title, run, runtime, dataset=dataset, objective=blocks.objective, levels=blocks.levels)
        ticket = blocks.ticket(config.total_steps)
        distributed.on_main(lambda: ticket.save_pretrained(run.path))
        return
    with distributed.collectives():
        state, objective = (prepare_sharded if runtime.shard else prepare_whole)(prepared, dataset)
        levels = sparsity_levels(config)
        # This comes before a checkpoint is restored, whose scores are selected at the sparsity of its level.
        state.set_level(level_at(levels, last_step(run.scratch)))
        train_scores(
            state,
            title,
            run,
            runtime,
            dataset=dataset,
            objective=objective,
            levels=levels,
            after=[_SaveLevels(state, levels, run)],
        )


def prepare_whole(prepared: PreparedMasks, dataset: CorpusBatches) -> tuple[MaskSearch, PretrainingObjective]:
    """Return the search state and the objective for a model that this process holds whole."""
    config, plm = prepared.config, prepared.plm
    plm.model.to(prepared.device)
    trained = trained_names(config, plm, prepared.shapes)
    # The dense weights are copied before a mask, or a checkpoint of masked weights, could reach the model.
    masked = copy_weights(prepared, [trained])
    start = start_of(prepared, initial_importance(prepared, dataset))
    objective = make_objective(prepared, masked.dense_weights)
    head = trained_head(prepared)
    freeze_all_but(plm.model, masked.trained(trained) + list(head.values()))
    masked.write({name: mask for name, mask in (start.masks | start.fixed[0]).items() if name in masked.kept})
    start.masks.clear()
    return MaskSearch(prepared, start, MaskOptimizer(masked, start.scores, head, config)), objective


def prepare_sharded(prepared: PreparedMasks, dataset: CorpusBatches) -> tuple[MaskSearch, PretrainingObjective]:
    """Return the search state and the objective for a model of which each process keeps some rows.

    The loaded matrices stay whole on the CPU until each process has its rows of the initial scores; memory for the
    moments is allocated after that.
    """
    config, plm = prepared.config, prepared.plm
    inside = present_in(plm.encoder, prepared.shapes)
    objective = make_objective(prepared, {name: prepared.loaded[name] for name in inside})
    head = trained_head(prepared)
    # Before FSDP2 looks at which parameters need gradients; a variable for these parameters would keep them in memory.
    trained = trained_names(config, plm, prepared.shapes)
    freeze_all_but(plm.model, [*map(plm.encoder.get_parameter, trained), *head.values()])
    shard_(plm, objective.teacher, prepared.device)
    on_cpu = replace(prepared, device=torch.device("cpu"))
    start = start_of(on_cpu, initial_importance(on_cpu, dataset, prepared.device))
    del on_cpu
    prepared.keep_shapes_only()
    masks = {name: mask for name, mask in (start.masks | start.fixed[0]).items() if name in inside}
    optimizer = ShardedMaskOptimizer(plm.encoder, masks, start.scores, config, head=head)
    return MaskSearch(prepared, start, optimizer), objective


def train_scores(
    state: Any,
    title: str,
    run: RunDirectory,
    runtime: Runtime,
    *,
    dataset: Any,
    objective: Objective,
    levels: list[SparsityLevel],
    after: Sequence[Callback] = (),
) -> None:
    """Train the scores of a `MaskSearch`, `BlockSearch` or `GateSearch`; the learning rate decays in each level."""
    config = state.prepared.config
    train_in_order(
        title,
        run,
        runtime,
        dataset,
        # The optimizer clips the straight-through gradient, so the trainer clips nothing.
        learning={"learning_rate": config.learning_rate, "max_grad_norm": 0.0, "seed": config.seed},
        record=state.record,
        after=[_SaveSteps(state.ticket, run, config.save_at), *after],  # before `after` changes the masks
        model=state.prepared.plm.model,
        objective=objective,
        build_optimizer=lambda _: state.optimizer,
        schedule=decay(levels, config.warmup_steps, horizon(config, dataset)),
        save_weights=False,  # the weights follow from the dense weights and the scores
    )


def make_objective(
    prepared: PreparedSearch[ScoreTraining], dense_weights: Mapping[str, Tensor]
) -> PretrainingObjective:
    """Make the configured objective, with the dense model as the teacher where a term needs one."""
    config, plm = prepared.config, prepared.plm
    teacher, copied = None, []
    if needs_lm_head(config.terms):
        # The output embeddings stay dense; the teacher keeps the checkpoint's head while MLM trains the student's.
        untie_decoder(plm, dense_weights.get(plm.architecture.word_embeddings))
        copied = list(head_without_decoder(plm)) if "logits" in config.terms else []
    if needs_teacher(config.terms):
        teacher = make_twin(plm.model, dense_weights, copied).train(config.teacher_dropout)
    return PretrainingObjective(config.terms, plm.architecture, teacher, term_settings(config))


def initial_importance(
    prepared: PreparedMasks, dataset: CorpusBatches, device: torch.device | None = None
) -> Mapping[str, Tensor]:
    """Return the importance that gives the initial scores, by name, computed when read; the model must be dense.

    `device` is that of the model, if the matrices are on another one.
    """
    if prepared.config.score_init != "activation":
        return magnitudes(prepared.weights)
    names = present_in(prepared.plm.encoder, prepared.shapes)
    batches = (dataset[index] for index in range(min(prepared.config.calibration_batches, len(dataset))))
    norms = input_norms(prepared.plm.model, names, batches, device or prepared.device)
    return activation_importance(prepared.weights, norms)


@dataclass
class Start:
    """Initial scores and masks of a search; for sharded matrices, the rows of this process and their counts."""

    scores: dict[str, Tensor]  # of the matrices whose masks are trained
    masks: dict[str, Tensor]  # of these matrices, at the first sparsity
    kept: list[dict[str, int]]  # by sparsity, the number of kept entries of each of these matrices
    fixed: list[dict[str, Tensor]]  # by sparsity, the masks of all other matrices, always whole


def start_of(prepared: PreparedMasks, importance: Mapping[str, Tensor]) -> Start:
    """Return the initial scores that follow from an importance, and the masks of these scores."""
    config, encoder = prepared.config, prepared.plm.encoder
    parameters = dict(encoder.named_parameters())
    trained = {n: parameters[split_name(n).parameter] for n in trained_names(config, prepared.plm, prepared.shapes)}
    levels = list(enumerate(config.sparsities))
    start = Start({}, {}, [{} for _ in levels], [{} for _ in levels])
    # Sharded matrices get whole scores one at a time, unless the scores depend on all matrices.
    together = config.ranking == "global" or config.score_init == "random"
    alone = any(map(is_sharded, trained.values())) and not together
    for group in [[name] for name in importance] if alone else [list(importance)]:
        scores = scores_of(prepared, Computed(group, importance.__getitem__))
        for level, sparsity in reversed(levels):
            masks = prepared.keep(scores, sparsity)
            start.fixed[level] |= {name: mask for name, mask in masks.items() if name not in trained}
            start.masks |= {name: own_rows(mask, trained[name]) for name, mask in masks.items() if name in trained}
            start.kept[level] |= {name: count_true(start.masks[name]) for name in masks if name in trained}
        start.scores |= {name: own_rows(scores[name], trained[name]) for name in group if name in trained}
    return start


def scores_of(prepared: PreparedMasks, importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the configured initial scores that follow from the importance of matrices, by name."""
    config = prepared.config
    keep = partial(prepared.keep, sparsity=config.sparsities[0])
    top = config.alpha * config.phi
    return initial_scores(importance, config.score_init, keep, config.ranking, top=top, seed=config.seed)


def trained_names(config: MaskTraining, plm: PLM, scope: Iterable[str]) -> list[str]:
    """Return the matrices in scope whose masks are trained."""
    # The loss does not reach the pooler; the embeddings are trained only on request.
    fixed = {plm.architecture.pooler} | (set() if config.train_embeddings else {plm.architecture.word_embeddings})
    names = [name for name in present_in(plm.encoder, scope) if name not in fixed]
    if not names:
        raise UsageError("Nothing is left to train: the scope holds only matrices whose masks stay as initialised.")
    return names


def copy_weights(prepared: PreparedMasks, groups: Sequence[Sequence[str]]) -> MaskedWeights:
    """Copy the dense weights of the searched model; `prepared` uses the copies from then on.

    `groups` are the matrices whose masks are trained; the matrices of a group are neighbors in the buffer.
    """
    encoder, shapes = prepared.plm.encoder, prepared.shapes
    order = [
        name
        for group in groups
        for name in buffer_order({name: shapes[name] for name in group}, prepared.config.ranking)
    ]
    masked = MaskedWeights(encoder, present_in(encoder, prepared.shapes), order)
    prepared.use_weights(masked.dense_weights)
    return masked


class MaskSearch:
    """The live state of a search: the optimizer of the scores, and the masks that are not trained."""

    def __init__(self, prepared: PreparedMasks, start: Start, optimizer: MaskOptimizer) -> None:
        self.prepared, self.optimizer = prepared, optimizer
        self._fixed, self._kept, self._level = start.fixed, start.kept, 0
        # They are as large as the weights, and the optimizer has its own copies.
        start.scores.clear()
        start.masks.clear()

    def set_level(self, level: int) -> None:
        """Continue at another sparsity: scores stay; matrices without scores get their mask for that sparsity."""
        if level == self._level:
            return
        self._level = level
        masked = self.optimizer.masked
        masked.write({name: mask for name, mask in self._fixed[level].items() if name in masked.kept})
        masked.kept |= self._kept[level]
        self.optimizer.take_counts()

    def record(self) -> dict[str, Any]:
        """Return what the log of a step records about the masks."""
        return {"grad_norm": self.optimizer.grad_norm}

    def ticket(self, step: int) -> Ticket:
        """Return the ticket of the present scores, exactly at the sparsity, however often thresholds are adjusted."""
        masks = self.optimizer.whole_masks(exact=True) | self._fixed[self._level]
        head = {name: value.detach().cpu().clone() for name, value in self.optimizer.head.items()}
        sparsity = self.prepared.config.sparsities[self._level]
        return self.prepared.ticket(masks, sparsity, step, head or None)


class BlockSearch:
    """The live state of a search that trains the masks of one layer after the other."""

    def __init__(self, prepared: PreparedMasks, dataset: CorpusBatches) -> None:
        self.prepared = prepared
        config, plm = prepared.config, prepared.plm
        trained = trained_names(config, plm, prepared.shapes)
        turns = turns_of(plm.architecture, plm.encoder, trained, config.first_steps)
        self.levels = [SparsityLevel(config.sparsities[0], turn.start, turn.end) for turn in turns]
        masked = copy_weights(prepared, [turn.matrices for turn in turns])
        importance = initial_importance(prepared, dataset)
        # Scores are computed for a layer at a time: all of them would be the largest part of the memory.
        scores = Computed(importance, lambda name: scores_of(prepared, {name: importance[name]})[name])
        masks = prepared.keep(scores, config.sparsities[0])
        masked.write({name: mask for name, mask in masks.items() if name in masked.kept})
        self._masks = {name: mask.cpu() for name, mask in masks.items()}
        teacher = make_twin(plm.model, masked.dense_weights).train(config.teacher_dropout)
        self.objective = LayerDistance(plm.architecture, teacher)
        self._masked = masked
        self.optimizer = BlockOptimizer(
            masked,
            turns,
            lambda names: scores_of(prepared, {name: importance[name] for name in names}),
            self._begin,
            config=config,
        )

    def _begin(self, turn: Turn) -> None:
        self.objective.path = turn.path
        freeze_all_but(self.prepared.plm.model, self._masked.trained(turn.matrices))

    def record(self) -> dict[str, Any]:
        """Return what the log of a step records about the masks."""
        return {"grad_norm": self.optimizer.grad_norm, "layer": self.optimizer.moved}

    def ticket(self, step: int) -> Ticket:
        """Return the ticket of the present scores; layers above the present one have their initial masks."""
        return self.prepared.ticket(self._masks | self.optimizer.masks(), self.prepared.config.sparsities[0], step)


def freeze_all_but(model: nn.Module, trained: list[nn.Parameter]) -> None:
    """Turn off the gradients of all parameters but `trained`, which saves their part of the backward pass."""
    wanted = {id(parameter) for parameter in trained}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)


def trained_head(prepared: PreparedMasks) -> dict[str, nn.Parameter]:
    """Return the trained parameters of the MLM head: all but the decoder matrix, as in the released code."""
    return head_without_decoder(prepared.plm) if "mlm" in prepared.config.terms else {}


class _SaveSteps(Callback):
    """Saves the ticket at each of the given steps, in `step-000100/` and so on."""

    def __init__(self, make_ticket: Callable[[int], Ticket], run: RunDirectory, steps: tuple[int, ...]) -> None:
        self._make_ticket, self._run, self._steps = make_ticket, run, set(steps)

    @torch.no_grad()
    def on_step_end(self, trainer: TicketTrainer) -> None:
        if trainer.step in self._steps:
            ticket = self._make_ticket(trainer.step)
            folder = self._run.path / f"step-{trainer.step:06d}"
            distributed.on_main(lambda: ticket.save_pretrained(folder))


class _SaveLevels(Callback):
    """Saves the ticket of a sparsity level at its end and continues with the next level."""

    def __init__(self, state: MaskSearch, levels: list[SparsityLevel], run: RunDirectory) -> None:
        self._state, self._levels, self._run = state, levels, run

    @torch.no_grad()
    def on_step_end(self, trainer: TicketTrainer) -> None:
        for index, level in enumerate(self._levels):
            if level.end == trainer.step:
                ticket, folder = self._state.ticket(level.end), self._state.prepared.folder(self._run, level.sparsity)
                distributed.on_main(partial(ticket.save_pretrained, folder))
                self._state.set_level(min(index + 1, len(self._levels) - 1))
