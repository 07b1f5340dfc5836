"""Structured mask training: gates on heads, FFNs, neurons or layers learned on a corpus, weights frozen.

The open question of the TAMT paper, answered with its own engine (section 3.4): `search.learned_gates` says how.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from winning_tickets import processes
from winning_tickets.config import MODEL_DROPOUT, Level, Runtime
from winning_tickets.config.structured import Unit
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.gates import gated
from winning_tickets.importance import add_up
from winning_tickets.mask_optimizer import MaskOptimizer
from winning_tickets.masking import MaskedWeights
from winning_tickets.objectives import Objective, PretrainingObjective, StateProbe
from winning_tickets.progress import progress
from winning_tickets.rundir import RunDirectory
from winning_tickets.search.base import Prepared
from winning_tickets.search.ladder import decay, rungs_of
from winning_tickets.search.learned_gates import ByLevel, GateParameters, gate_scores
from winning_tickets.search.levels import counts_of
from winning_tickets.search.mask_training import (
    SaveAt,
    corpus_batches,
    freeze_all_but,
    horizon,
    mask_update,
    objective_of,
    set_dropout,
    training_arguments,
)
from winning_tickets.structure import Structure, structure_of
from winning_tickets.ticket import Ticket
from winning_tickets.ticket.files import INFO_FILE
from winning_tickets.train import TicketTrainer, run_training
from winning_tickets.training_callbacks import Checkpoints, StepLog


def find(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
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
        if not processes.on_main((own.path / INFO_FILE).is_file):  # else an earlier start got beyond this level
            state = GateSearch(prepared, structure, level, counts, importances)
            _train(state, dataset, own, runtime)
            ticket = state.ticket(config.total_steps)
            processes.on_main(partial(ticket.save_pretrained, own.path))
        processes.on_main(partial(shutil.rmtree, own.scratch, ignore_errors=True))


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
