"""Structured mask training: gates on heads, FFNs, neurons or layers learned on a corpus, weights frozen.

The open question of the TAMT paper, answered with its own engine (section 3.4): `search.learned_gates` says how.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from winning_tickets.config import MODEL_DROPOUT, Level, Runtime
from winning_tickets.config.structured import Unit
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.models.structure import UNITS, Structure, gated, structure_of
from winning_tickets.pruning.base import Prepared
from winning_tickets.pruning.importance import add_up
from winning_tickets.pruning.levels import close_gates, counts_of, random_unit_scores
from winning_tickets.pruning.mask_optimizer import MaskOptimizer, initial_scores
from winning_tickets.pruning.mask_training import (
    SaveAt,
    corpus_batches,
    freeze_all_but,
    horizon,
    mask_update,
    objective_of,
    set_dropout,
    training_arguments,
)
from winning_tickets.pruning.schedule import decay, rungs_of
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.progress import progress
from winning_tickets.tickets.files import INFO_FILE
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.base import Objective
from winning_tickets.training.objectives.pretraining import PretrainingObjective, StateProbe
from winning_tickets.training.trainer import Checkpoints, StepLog, TicketTrainer, run_training


class GateParameters(nn.Module):
    """Gates of all layers of an encoder, named as in a ticket (`layers.0.heads`), float32 `(n,)` and all open.

    Args:
        structure: of the encoder.
        units: keys of `structure.UNITS`.
    """

    def __init__(self, structure: Structure, units: Sequence[str]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ParameterDict({UNITS[unit]: nn.Parameter(torch.ones(structure.per_layer(unit))) for unit in units})
            for _ in structure.layers
        )


class ByLevel:
    """Closes exactly as many gates of each unit as a level says, over all layers, at every step.

    Args:
        masked: the gates; its masks are overwritten.
        scores: flat, by name of the gate.
        structure: of the encoder.
        counts: how many are closed, by unit.
        min_heads_per_layer: heads with the highest scores of their layer, which stay.
    """

    def __init__(
        self,
        masked: MaskedWeights,
        scores: Mapping[str, Tensor],
        structure: Structure,
        counts: Mapping[Unit, int],
        min_heads_per_layer: int,
    ) -> None:
        self.thresholds: list[float] = []
        self._masked, self._scores = masked, scores
        self._structure, self._counts, self._min_heads = structure, counts, min_heads_per_layer

    def take_counts(self) -> None:
        """There is nothing to take: the level says them."""

    def select(self, exact: bool) -> None:
        """Masks with exact counts."""
        layers = range(len(self._structure.layers))
        scores: dict[str, Tensor] = {
            unit: torch.stack([self._scores[f"layers.{layer}.{UNITS[unit]}"] for layer in layers]).cpu()
            for unit in self._counts
        }
        for name, gate in close_gates(scores, self._counts, self._structure, self._min_heads).items():
            self._masked.masks[name].copy_(gate)

    def start_at(self, phi: float) -> None:
        """There is no threshold to set."""


def gate_scores(
    importances: Mapping[str, Tensor],
    init: Literal["rank", "plateau", "random"],
    counts: Mapping[Unit, int],
    structure: Structure,
    min_heads_per_layer: int,
    top: float,
    seed: int,
) -> dict[str, Tensor]:
    """Scores of gates before the first step, by name, float32 `(n,)`.

    `rank`: from 0 to `top`, rising with the rank of the importance among all units of the kind, over all layers, so
    that the threshold lies in a dense scale; the search starts at the ticket of importance. `plateau`: `top` for what
    that ticket keeps, else 0. `random`: the same two values over random gates.

    Args:
        importances: `(layers, n)` by unit; `random` needs none.
        init: how.
        counts: how many gates are closed, by unit.
        structure: of the encoder.
        min_heads_per_layer: as `close_gates` takes it.
        top: the highest score.
        seed: of random gates.
    """
    if init == "rank":
        ranked = initial_scores(importances, "rank", 0.0, "matrix", "floor", alpha=top, phi=1.0, seed=seed)
        layers = range(len(structure.layers))
        return {f"layers.{layer}.{UNITS[unit]}": ranked[unit][layer] for layer in layers for unit in counts}
    ordered = importances if init == "plateau" else random_unit_scores(structure, list(counts), seed)
    kept = close_gates(ordered, counts, structure, min_heads_per_layer)
    return {name: gate.float() * top for name, gate in kept.items()}


def find_gate_ticket(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Train the gates of every level, one after the other, each from its own start.

    Raises:
        ContentError: the corpus is shorter than one segment.
        TrainingError: NaN loss, or the disk is full.
        Interrupted: Ctrl-C or SIGTERM.
    """
    config, model = prepared.config, prepared.plm.model
    structure = structure_of(prepared.plm)
    dataset = corpus_batches(prepared, with_labels="mlm" in config.terms)
    model.to(prepared.device)
    freeze_all_but(model, [])
    if config.student_dropout != MODEL_DROPOUT:
        set_dropout(model, config.student_dropout or 0.0)
    levels = counts_of(config, structure)
    units = sorted({unit for level, _ in levels for unit in level.units})
    importances = {} if config.score_init == "random" else _importances(prepared, structure, dataset, units, runtime)
    for level, counts in levels:
        own = RunDirectory(prepared.folder(run, level.folder), run.status, f"{run.id}-{level.folder}")
        if not distributed.on_main((own.path / INFO_FILE).is_file):  # else an earlier start got beyond this level
            state = GateSearch(prepared, structure, level, counts, importances)
            _train(state, dataset, own, runtime)
            ticket = state.ticket(config.total_steps)
            distributed.on_main(partial(ticket.save_pretrained, own.path))
        distributed.on_main(partial(shutil.rmtree, own.scratch, ignore_errors=True))


class GateSearch:
    """The live state of the search for one ticket: gates, scores and the optimiser that moves them.

    Args:
        prepared: the model and the configuration.
        structure: of its encoder.
        level: of the ticket.
        counts: how many gates it closes, by unit.
        importances: where scores start, as `gate_scores` takes them.

    Attributes:
        gates: the parameters that act in the model, by name.
    """

    def __init__(
        self,
        prepared: Prepared,
        structure: Structure,
        level: Level,
        counts: Mapping[Unit, int],
        importances: Mapping[str, Tensor],
    ) -> None:
        self.prepared, self.structure, self.level = prepared, structure, level
        config = prepared.config
        parameters = GateParameters(structure, list(counts)).to(prepared.device)
        self.gates: dict[str, Tensor] = dict(parameters.named_parameters())
        self.masked = MaskedWeights(parameters, list(self.gates))
        min_heads, init = config.min_heads_per_layer or 0, config.score_init or "rank"
        assert init != "activation"  # refused before
        scores = gate_scores(importances, init, counts, structure, min_heads, config.alpha * config.phi, config.seed)
        self.optimizer = MaskOptimizer(
            self.masked,
            {name: scores[name].to(prepared.device) for name in self.gates},
            head={},
            update=mask_update(config),
            select_by=partial(ByLevel, structure=structure, counts=counts, min_heads_per_layer=min_heads),
        )
        # The Trainer forgets gradients of the model's own parameters only.
        self.optimizer.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
        self._start = {name: mask.clone() for name, mask in self.masked.masks.items()}

    def record(self) -> dict[str, Any]:
        """What the log of a step says about the gates: how many are not what they were at the start."""
        changed = sum(int(torch.count_nonzero(mask != self._start[n])) for n, mask in self.masked.masks.items())
        return {"grad_norm": self.optimizer.grad_norm, "changed_gates": changed}

    def ticket(self, step: int) -> Ticket:
        """The ticket of the present scores."""
        gates = {name: mask.clone() for name, mask in self.masked.masks.items()}
        return self.prepared.gate_ticket(gates, self.structure, self.level, step=step)


def _train(state: GateSearch, dataset: CorpusBatches, run: RunDirectory, runtime: Runtime) -> None:
    """All steps of one level."""
    prepared, config = state.prepared, state.prepared.config
    plm = prepared.plm
    with progress(f"searching a {state.level.folder} ticket", config.total_steps, runtime.quiet) as advance:
        log = StepLog(run, advance, state.record)
        trainer = TicketTrainer(
            model=plm.model,
            objective=objective_of(prepared, config.terms, state.masked),
            build_optimizer=lambda _: state.optimizer,
            schedule=decay(rungs_of(config), config.warmup_steps or 0, horizon(config, dataset)),
            in_order=True,
            save_weights=False,
            args=training_arguments(config, run, runtime),
            train_dataset=dataset,
            data_collator=lambda items: items[0],
            callbacks=[log, Checkpoints(runtime), SaveAt(state.ticket, run, config.save_at)],
        )
        log.trainer = trainer
        with gated(plm.encoder, state.structure, state.gates):
            run_training(trainer, run)


def _importances(
    prepared: Prepared, structure: Structure, dataset: CorpusBatches, units: Sequence[str], runtime: Runtime
) -> dict[str, Tensor]:
    """What scores start from: how far the states move where KD is in the objective, else the MLM loss."""
    config, plm = prepared.config, prepared.plm
    objective: Objective = PretrainingObjective({"mlm": 1.0}, plm.architecture)
    if "kd" in config.terms:
        objective = StateProbe(plm.architecture, config.seed)
    batches = [dataset[index] for index in range(min(config.calibration_batches, len(dataset)))]
    found = add_up(plm.model, structure, objective, batches, units, bf16=runtime.bf16).finish({})
    return {unit: found.scores(str(config.importance), unit) for unit in units}
