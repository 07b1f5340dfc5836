"""Structured tickets: gates on heads, FFNs, neurons and layers, chosen by importance or trained on a corpus.

By importance: Super Tickets (Liang et al. 2021), section 3. Trained: an open question of the TAMT paper; its optimizer
(section 3.4) trains gates instead of masks of weights, which stay frozen.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from winning_tickets.config import MODEL_DROPOUT, Level, Runtime
from winning_tickets.config.levels import Unit
from winning_tickets.config.structured import GateTraining, ImportanceSearch
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.models.loading import PLM, set_dropout
from winning_tickets.models.structure import UNITS, Structure, gated, structure_of
from winning_tickets.pruning import importance, mask_training
from winning_tickets.pruning.importance import IMPORTANCE_FILE, Importance, ImportanceModel, pruned_units, unit_counts
from winning_tickets.pruning.mask_optimizer import MaskOptimizer, rank_scores
from winning_tickets.pruning.preparation import PreparedSearch
from winning_tickets.pruning.steps import counted
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.progress import progress
from winning_tickets.tickets.files import INFO_FILE
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.base import Objective
from winning_tickets.training.objectives.pretraining import PretrainingObjective, StateProbe
from winning_tickets.training.objectives.task import TaskObjective

logger = logging.getLogger(__name__)


def find_structured_ticket(prepared: PreparedSearch[ImportanceSearch], run: RunDirectory, runtime: Runtime) -> None:
    """Close the gates of the least important units (winning), the most important ones (losing), or random ones."""
    config = prepared.config
    structure = structure_of(prepared.plm)
    levels = unit_counts(config, structure)
    units = pruned_units(config)
    about: Mapping[str, Any] = {}
    if config.selection == "random":
        scores = importance.random_unit_scores(structure, units, config.seed)
    else:
        found = _importance(prepared, structure, units, run, runtime=runtime)
        about = found.about
        sign = 1 if config.selection == "winning" else -1
        scores = {unit: sign * found.scores(config.importance, unit) for unit in units}
    parents = () if about.get("ticket_id") is None else (about["ticket_id"],)
    for level, counts in levels:
        gates = importance.close_gates(scores, counts, structure, config.min_heads_per_layer)
        ticket = prepared.gate_ticket(gates, structure, level, scores_from=about.get("source"), parents=parents)
        ticket.save_pretrained(prepared.folder(run, level.folder))


def _importance(
    prepared: PreparedSearch[ImportanceSearch],
    structure: Structure,
    units: Sequence[Unit],
    run: RunDirectory,
    *,
    runtime: Runtime,
) -> Importance:
    """Return the importances that this run or its source has already, or compute them; save them in the run."""
    if (run.path / IMPORTANCE_FILE).is_file():
        return Importance.load(run.path)
    source = prepared.importances
    found = None if source is None else source.saved
    if found is None:
        model = None if source is None else source.model
        plm, objective, batches, about = _on_text(prepared) if model is None else _on_task(prepared, model)
        plm.model.to(prepared.device)
        # Those of heads, FFNs and layers cost nothing extra, and a later search may use them; those of neurons do cost.
        computed = ["heads", "ffns", "layers", *(["neurons"] if "neurons" in units else [])]
        with progress(f"importance by {about['source']}", len(batches), quiet=runtime.quiet) as advance:
            keep_tokens = prepared.config.keep_token_importance
            read = counted(batches, advance)
            sums = importance.add_up(
                plm.model, structure, objective, read, units=computed, keep_tokens=keep_tokens, bf16=runtime.bf16
            )
        found = sums.finish(about | {"objective": prepared.config.objective, "base_hash": prepared.base.hash})
    found.save(run.path)
    return found


def _on_task(
    prepared: PreparedSearch[ImportanceSearch], model: ImportanceModel
) -> tuple[PLM, Objective, Any, dict[str, Any]]:
    """Return a fine-tuned model and the examples that it was trained on (section 3.1)."""
    if model.degenerate:
        logger.warning(
            "%s is no better on %s than one answer for all examples; its importances say nothing of the task.",
            model.folder,
            model.info.task,
        )
    plm = model.load()
    batches = importance.in_order(
        plm, model.examples(plm, prepared.config), prepared.config.batch_size or importance.BATCH_SIZE
    )
    about = {
        "source": f"{model.info.task}, fine-tuned with seed {model.transfer.seeds[0]}",
        "kind": f"task {model.info.task}",
        "data": model.data.fingerprint,
        "ticket_id": model.info.ticket_id,
    }
    return plm, TaskObjective(model.info.kind), batches, about


def _on_text(prepared: PreparedSearch[ImportanceSearch]) -> tuple[PLM, Objective, Any, dict[str, Any]]:
    """Return the pre-trained model and the first batches of a corpus that mask training would see."""
    config, plm, corpus = prepared.config, prepared.plm, prepared.corpus
    assert corpus is not None
    predicts = config.text_term is not None
    batches = prepared.batches(config.steps, predicts=predicts)
    about = {"source": f"{config.objective} on text", "kind": f"{config.objective} on text", "data": corpus.fingerprint}
    if predicts:
        return plm, PretrainingObjective({config.objective: 1.0}, plm.architecture), batches, about
    return plm, StateProbe(plm.architecture, config.seed), batches, about


def find_gate_ticket(prepared: PreparedSearch[GateTraining], run: RunDirectory, runtime: Runtime) -> None:
    """Train the gates of every level, one after the other, each level from its own initial scores."""
    config, model = prepared.config, prepared.plm.model
    structure = structure_of(prepared.plm)
    dataset = prepared.batches(
        config.total_steps, predicts=config.text_term is not None, masked_tokens=config.kd_masked_tokens
    )
    # The weights stay frozen; a profile may set the dropout.
    model.to(prepared.device)
    mask_training.freeze_all_but(model, [])
    if config.student_dropout != MODEL_DROPOUT:
        set_dropout(model, config.student_dropout)
    levels = unit_counts(config, structure)
    importances = {} if config.score_init == "random" else _start_importances(prepared, structure, dataset, runtime)
    for level, counts in levels:
        # Each level is a run of its own, so that an interrupted search skips finished levels and resumes inside one.
        own = RunDirectory(prepared.folder(run, level.folder), run.status, f"{run.id}-{level.folder}")
        if not distributed.on_main((own.path / INFO_FILE).is_file):
            state = GateSearch(prepared, structure, level, counts, importances=importances)
            _train_gates(state, dataset, own, runtime)
            ticket = state.ticket(config.total_steps)
            distributed.on_main(partial(ticket.save_pretrained, own.path))
        distributed.on_main(partial(shutil.rmtree, own.scratch, ignore_errors=True))


def _start_importances(
    prepared: PreparedSearch[GateTraining], structure: Structure, dataset: CorpusBatches, runtime: Runtime
) -> dict[str, Tensor]:
    """Return the importances for the initial scores: for the states if the objective has KD, else for its loss."""
    config, plm = prepared.config, prepared.plm
    objective: Objective = StateProbe(plm.architecture, config.seed)
    if "kd" not in config.terms:
        objective = PretrainingObjective(config.terms, plm.architecture)
    batches = [dataset[index] for index in range(min(config.calibration_batches, len(dataset)))]
    units = pruned_units(config)
    found = importance.add_up(plm.model, structure, objective, batches, units=units, bf16=runtime.bf16).finish({})
    return {unit: found.scores(config.importance, unit) for unit in units}


class GateParameters(nn.Module):
    """Gates of all layers of an encoder, named as in a ticket (`layers.0.heads`), float32 `(n,)` and all open."""

    def __init__(self, structure: Structure, units: Sequence[str]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ParameterDict({UNITS[unit]: nn.Parameter(torch.ones(structure.per_layer(unit))) for unit in units})
            for _ in structure.layers
        )


def close_by_level(
    scores: Mapping[str, Tensor], structure: Structure, counts: Mapping[Unit, int], min_heads_per_layer: int
) -> dict[str, Tensor]:
    """Return the gates for scores, both by name; over all layers, as many units are closed as `counts` says."""
    layers = range(len(structure.layers))
    joined: dict[str, Tensor] = {
        unit: torch.stack([scores[f"layers.{layer}.{UNITS[unit]}"] for layer in layers]) for unit in counts
    }
    return importance.close_gates(joined, counts, structure, min_heads_per_layer)


def gate_scores(
    importances: Mapping[str, Tensor],
    init: Literal["rank", "plateau", "random"],
    counts: Mapping[Unit, int],
    structure: Structure,
    *,
    min_heads_per_layer: int,
    top: float,
    seed: int,
) -> dict[str, Tensor]:
    """Return the scores of gates before the first step, by name, float32 `(n,)`, from importances `(layers, n)`."""
    # The search starts at the ticket of importance: scores by rank over all layers, or one plateau for the kept units.
    if init == "rank":
        ranked = rank_scores(importances, "matrix", top)
        layers = range(len(structure.layers))
        return {f"layers.{layer}.{UNITS[unit]}": ranked[unit][layer] for layer in layers for unit in counts}
    ordered = importances if init == "plateau" else importance.random_unit_scores(structure, list(counts), seed)
    kept = importance.close_gates(ordered, counts, structure, min_heads_per_layer)
    return {name: gate.float() * top for name, gate in kept.items()}


class GateSearch:
    """The live state of the search for one ticket: gates, scores and the optimizer that moves them."""

    def __init__(
        self,
        prepared: PreparedSearch[GateTraining],
        structure: Structure,
        level: Level,
        counts: Mapping[Unit, int],
        *,
        importances: Mapping[str, Tensor],
    ) -> None:
        self.prepared, self.structure, self.level = prepared, structure, level
        config = prepared.config
        parameters = GateParameters(structure, list(counts)).to(prepared.device)
        self.gates: dict[str, Tensor] = dict(parameters.named_parameters())  # which are applied in the model
        self.masked = MaskedWeights(parameters, list(self.gates))
        min_heads, init = config.min_heads_per_layer, config.score_init
        assert init != "activation"  # refused before
        scores = gate_scores(
            importances,
            init,
            counts,
            structure,
            min_heads_per_layer=min_heads,
            top=config.alpha * config.phi,
            seed=config.seed,
        )
        self.optimizer = MaskOptimizer(
            self.masked,
            {name: scores[name].to(prepared.device) for name in self.gates},
            head={},
            config=config.as_masks(),
            choose=partial(close_by_level, structure=structure, counts=counts, min_heads_per_layer=min_heads),
        )
        # The trainer zeroes only the gradients of the model's own parameters.
        self.optimizer.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
        self._start = self._open()

    def record(self) -> dict[str, Any]:
        """Return the values of a step's log; `changed_gates` counts those that differ from the start."""
        changed = int(torch.count_nonzero(self._open() != self._start))
        return {"grad_norm": self.optimizer.grad_norm, "changed_gates": changed}

    def _open(self) -> Tensor:
        """Return which gates are open as one flat tensor, which can be read back at once."""
        return torch.cat([gate.detach().bool().view(-1) for gate in self.gates.values()])

    def ticket(self, step: int) -> Ticket:
        """Return the ticket of the present scores."""
        gates = {name: gate.detach().bool() for name, gate in self.gates.items()}
        return self.prepared.gate_ticket(gates, self.structure, self.level, step=step)


def _train_gates(state: GateSearch, dataset: CorpusBatches, run: RunDirectory, runtime: Runtime) -> None:
    """Train the gates of one level for all steps."""
    prepared, encoder = state.prepared, state.prepared.plm.encoder
    objective = mask_training.make_objective(prepared, {})  # made before the gates, so that its teacher has none
    with gated(encoder, state.structure, state.gates):
        title = f"searching {state.level.folder}"
        levels = [mask_training.SparsityLevel(0.0, 0, prepared.config.first_steps)]
        mask_training.train_scores(state, title, run, runtime, dataset=dataset, objective=objective, levels=levels)
