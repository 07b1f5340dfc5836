"""Task-agnostic mask training (TAMT, section 3.4): masks trained on the pre-training objectives, weights frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from winning_tickets.config import MODEL_DROPOUT, Runtime, SearchConfig, parse_objective
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.models.architectures import present_in
from winning_tickets.models.loading import PLM, untie_decoder
from winning_tickets.pruning.activations import activation_importance, input_norms
from winning_tickets.pruning.base import Prepared
from winning_tickets.pruning.mask_optimizer import MaskOptimizer, MaskUpdate, initial_scores
from winning_tickets.pruning.schedule import Rung, decay, rung_at, rungs_of
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.progress import progress
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.base import TermSettings
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.terms import check_mlm_tokenizer, frozen_head, needs_mlm_head
from winning_tickets.training.trainer import Checkpoints, StepLog, TicketTrainer, arguments, last_step, run_training


def find_trained_mask(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Train the masks; tickets are saved at the end of each rung (one without a ladder) and at the steps of `save_at`.

    Raises:
        ContentError: the corpus is shorter than one segment.
        TrainingError: NaN loss, or the disk is full.
        Interrupted: Ctrl-C or SIGTERM.
    """
    config, plm = prepared.config, prepared.plm
    wanted = parse_objective(config.objective)
    dataset = corpus_batches(prepared, with_labels=needs_mlm_head(wanted))
    model = plm.model.to(prepared.device)
    if config.student_dropout != MODEL_DROPOUT:
        set_dropout(model, config.student_dropout or 0.0)
    # The initial scores have no name here: they are as large as the weights, and the search keeps its own.
    state = MaskSearch(prepared, _initial_scores(prepared, dataset), head="mlm" in wanted)
    objective = objective_of(prepared, wanted, state.masked)
    rungs = rungs_of(config)
    # Before the optimiser takes back a checkpoint's scores, which are selected at that rung's sparsity.
    state.climb(rung_at(rungs, last_step(run.scratch)))
    wanted_tickets = ", ".join(f"{sparsity:.0%}" for sparsity in config.sparsities)
    climb = _Climb(state, rungs, lambda sparsity: prepared.folder(run, sparsity))
    with progress(f"searching a {wanted_tickets} ticket", config.total_steps, runtime.quiet) as advance:
        log = StepLog(run, advance, state.record)
        trainer = TicketTrainer(
            model=model,
            objective=objective,
            build_optimizer=lambda _: state.optimizer,
            schedule=decay(rungs, config.warmup_steps or 0, horizon(config, dataset)),
            in_order=True,
            save_weights=False,
            args=training_arguments(config, run, runtime),
            train_dataset=dataset,
            data_collator=lambda items: items[0],
            callbacks=[log, Checkpoints(runtime), SaveAt(state.ticket, run, config.save_at), climb],
        )
        log.trainer = trainer
        run_training(trainer, run)


def objective_of(prepared: Prepared, weights: Mapping[str, float], masked: MaskedWeights) -> PretrainingObjective:
    """The sum that is minimised, as the configuration has it.

    Args:
        prepared: the model and the configuration.
        weights: of each term.
        masked: with its dense values swapped in the model is the teacher.
    """
    config, plm = prepared.config, prepared.plm
    teacher_head = None
    if "logits" in weights:
        # The decoder stays dense as in MLM; the teacher keeps the checkpoint's head while MLM moves the student's.
        untie_decoder(plm, masked.dense_weights.get(plm.architecture.word_embeddings))
        teacher_head = frozen_head(plm.model, plm.architecture)
    settings = TermSettings(
        count_padding=config.kd_padding == "counted",
        temperature=config.temperature,
        logits_temperature=config.logits_temperature,
    )
    return PretrainingObjective(
        weights, plm.architecture, masked, bool(config.teacher_dropout), settings, teacher_head=teacher_head
    )


def corpus_batches(prepared: Prepared, with_labels: bool) -> CorpusBatches:
    """The batches of all steps; with masked tokens and their labels where MLM needs them."""
    config, plm = prepared.config, prepared.plm
    if with_labels:
        check_mlm_tokenizer(plm.tokenizer, plm.name)
    probability = config.mlm_probability if with_labels else None
    return prepared.batches(config.total_steps, probability, config.kd_masked_tokens or 0)


def training_arguments(config: SearchConfig, run: RunDirectory, runtime: Runtime) -> Any:
    """What the Trainer is told: the steps, and to leave clipping to the optimiser."""
    return arguments(
        run.scratch,
        runtime,
        max_steps=config.total_steps,
        per_device_train_batch_size=1,
        learning_rate=float(config.learning_rate or 0.0),
        max_grad_norm=0.0,  # the optimiser clips the straight-through gradient, not this one
        seed=config.seed,
    )


def horizon(config: SearchConfig, dataset: CorpusBatches) -> int | None:
    """Steps after which the learning rate reaches zero: those told, or passes of the corpus; None for the rung's end.

    The papers' rate decays over two passes however many steps are taken; a longer search stretches it.
    """
    if config.schedule_steps is not None or not config.schedule_passes:
        return config.schedule_steps
    return max(config.first_steps, round(config.schedule_passes * dataset.steps_of_a_pass))


def _initial_scores(prepared: Prepared, dataset: CorpusBatches) -> dict[str, Tensor]:
    config = prepared.config
    importance = {name: weight.abs() for name, weight in prepared.weights.items()}
    if config.score_init == "activation":
        names = present_in(prepared.plm.encoder, prepared.weights)
        batches = (dataset[index] for index in range(min(config.calibration_batches, len(dataset))))
        norms = input_norms(prepared.plm.model, names, batches, prepared.device)
        importance = activation_importance(prepared.weights, norms)
    return initial_scores(
        importance,
        config.score_init or "rank",
        config.sparsities[0],
        config.ranking,
        config.count_rounding or "floor",
        config.alpha,
        config.phi,
        config.seed,
        config.n_of_m,
    )


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set the probability of every dropout module, from where attention kernels read it.

    ModernBERT's attention keeps a number of its own instead.
    """
    module: Any
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif isinstance(getattr(module, "attention_dropout", None), int | float):
            module.attention_dropout = probability


class MaskSearch:
    """The live state of a search: dense weights, scores and the optimiser that moves them.

    Args:
        prepared: the model and the configuration.
        scores: initial scores of all matrices in scope.
        head: train the MLM head too.
    """

    def __init__(self, prepared: Prepared, scores: Mapping[str, Tensor], head: bool) -> None:
        self._prepared = prepared
        config, plm = prepared.config, prepared.plm
        self._starts = [prepared.keep(scores, sparsity) for sparsity in config.sparsities]
        self._rung = 0
        names = present_in(plm.encoder, prepared.weights)
        # Captured before any checkpoint of masked weights could be loaded.
        self.masked = MaskedWeights(plm.encoder, names)
        self.masked.write({name: self._starts[0].pop(name) for name in names})  # nothing climbs to the first rung
        trained = self._trained(names)
        if not trained:
            raise UsageError("Nothing is left to train: the scope holds only matrices whose masks stay as initialised.")
        self.head = trainable_head(plm, self.masked) if head else {}
        freeze_all_but(plm.model, self.masked.trained(trained) + list(self.head.values()))
        device = prepared.device
        self.optimizer = MaskOptimizer(
            self.masked, {name: scores[name].to(device) for name in trained}, self.head, mask_update(config)
        )

    def _trained(self, names: list[str]) -> list[str]:
        """Matrices whose mask is trained: those that the loss reaches, the embeddings only where told."""
        config, architecture = self._prepared.config, self._prepared.plm.architecture
        fixed = {architecture.pooler} | (set() if config.train_embeddings else {architecture.word_embeddings})
        return [name for name in names if name not in fixed]

    def climb(self, rung: int) -> None:
        """Go on at another sparsity: the scores stay, the matrices whose mask is not trained follow their start."""
        if rung == self._rung:
            return
        self._rung = rung
        # Every matrix is set to its start first: the optimiser takes from the masks how many entries it prunes.
        self.masked.write({name: self._starts[rung][name] for name in self.masked.masks})
        self.optimizer.take_counts()

    def record(self) -> dict[str, Any]:
        """What the log of a step says about the masks."""
        return {"grad_norm": self.optimizer.grad_norm}

    def ticket(self, step: int) -> Ticket:
        """The ticket of the present scores, at exactly the sparsity whatever the cadence of the threshold."""
        with self.optimizer.exactly_selected():
            masks = self._starts[self._rung] | {name: mask.clone() for name, mask in self.masked.masks.items()}
        head = {name: value.detach().cpu().clone() for name, value in self.head.items()}
        sparsity = self._prepared.config.sparsities[self._rung]
        return self._prepared.ticket(masks, sparsity, step, head or None)


def mask_update(config: SearchConfig) -> MaskUpdate:
    """How scores move and masks follow, as the configuration has it."""
    return MaskUpdate(
        ranking=config.ranking,
        phi=config.phi,
        rank_by=config.rank_by or "signed",
        reselect_steps=config.reselect_steps or 1,
        cadence=config.cadence or "after",
        threshold=config.threshold or "exceeded",
        learning_rate=float(config.learning_rate or 0.0),
        head_learning_rate=float(config.head_learning_rate or config.learning_rate or 0.0),
        kind=config.optimizer or "adamw",
        epsilon=config.adam_epsilon or 1e-8,
        weight_decay=config.weight_decay or 0.0,
        clip=config.clip or "none",
        max_grad_norm=config.max_grad_norm,
        pattern=config.n_of_m,
    )


def freeze_all_but(model: nn.Module, trained: list[nn.Parameter]) -> None:
    """Only these parameters get gradients; others would cost a backward pass that nobody uses."""
    wanted = {id(parameter) for parameter in trained}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)


def trainable_head(plm: PLM, masked: MaskedWeights) -> dict[str, nn.Parameter]:
    """Untie the decoder from the masked embeddings and return the rest of the MLM head, by name.

    The decoder keeps the dense embedding matrix (the same memory as the stored dense weights), as in the papers' code.
    """
    untie_decoder(plm, masked.dense_weights.get(plm.architecture.word_embeddings))
    decoder = plm.model.get_submodule(plm.architecture.mlm_decoder)
    inside = {id(parameter) for parameter in plm.encoder.parameters()} | {id(decoder.weight)}
    return {name: parameter for name, parameter in plm.model.named_parameters() if id(parameter) not in inside}


class SaveAt(TrainerCallback):  # type: ignore[misc]
    """Saves tickets on the way, in `step-000100/` and so on.

    Args:
        take: gives the ticket of a step.
        run: where they go.
        steps: at which.
    """

    def __init__(self, take: Callable[[int], Ticket], run: RunDirectory, steps: tuple[int, ...]) -> None:
        self._take = take
        self._run = run
        self._steps = set(steps)

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self._steps:
            ticket = self._take(state.global_step)
            folder = self._run.path / f"step-{state.global_step:06d}"
            distributed.on_main(lambda: ticket.save_pretrained(folder))


class _Climb(TrainerCallback):  # type: ignore[misc]
    """Saves a rung's ticket at its end and goes on with the next rung."""

    def __init__(self, state: MaskSearch, rungs: list[Rung], folder: Callable[[float], Path]) -> None:
        self._state = state
        self._rungs = rungs
        self._folder = folder

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for index, rung in enumerate(self._rungs):
            if rung.end == state.global_step:
                ticket, folder = self._state.ticket(rung.end), self._folder(rung.sparsity)
                distributed.on_main(partial(ticket.save_pretrained, folder))
                self._state.climb(min(index + 1, len(self._rungs) - 1))
