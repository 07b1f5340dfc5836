"""Tickets of heads, FFNs, neurons and layers by their importance (Super Tickets, Liang et al. 2021, section 3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from winning_tickets.config import Runtime
from winning_tickets.models.loading import PLM
from winning_tickets.models.structure import Structure, structure_of
from winning_tickets.pruning.base import Prepared
from winning_tickets.pruning.importance import BATCH_SIZE, IMPORTANCE_FILE, Importance, SplitBatches, add_up
from winning_tickets.pruning.levels import close_gates, counts_of, random_unit_scores
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.progress import progress
from winning_tickets.training.objectives.base import Batch, Objective
from winning_tickets.training.objectives.pretraining import PretrainingObjective, StateProbe
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.objectives.terms import check_mlm_tokenizer


def find_structured_ticket(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Close the gates of what matters least (winning tickets), most (losing), or of any (random), at every level.

    Importances are computed in one pass and saved in the run, so that `--importance-from` can take other levels,
    selections or definitions from them.
    """
    config = prepared.config
    structure = structure_of(prepared.plm)
    levels = counts_of(config, structure)
    units = sorted({unit for level, _ in levels for unit in level.units})
    importance = None
    if config.selection == "random":
        scores = random_unit_scores(structure, units, config.seed)
    else:
        importance = _importance(prepared, structure, run, runtime)
        sign = 1 if config.selection == "winning" else -1
        scores = {unit: sign * importance.scores(str(config.importance), unit) for unit in units}
    about = {} if importance is None else importance.about
    scores_from, parent = about.get("source"), about.get("ticket_id")
    parents = () if parent is None else (parent,)
    for level, counts in levels:
        gates = close_gates(scores, counts, structure, config.min_heads_per_layer or 0)
        ticket = prepared.gate_ticket(gates, structure, level, scores_from=scores_from, parents=parents)
        ticket.save_pretrained(prepared.folder(run, level.folder))


def _importance(prepared: Prepared, structure: Structure, run: RunDirectory, runtime: Runtime) -> Importance:
    """Opened where there is one, of an earlier search or of this one when it was stopped; else computed and saved."""
    if (run.path / IMPORTANCE_FILE).is_file():
        return Importance.load(run.path)
    importance = prepared.origin.saved or _computed(prepared, structure, runtime)
    importance.save(run.path)
    return importance


def _computed(prepared: Prepared, structure: Structure, runtime: Runtime) -> Importance:
    config = prepared.config
    plm, objective, batches, about = _on_task(prepared) if prepared.origin.model else _on_text(prepared)
    plm.model.to(prepared.device)
    with progress(f"importance by {about['source']}", len(batches), runtime.quiet) as advance:

        def read() -> Iterator[Batch]:
            for number, batch in enumerate(batches, start=1):
                yield batch
                advance(number, "")

        sums = add_up(
            plm.model, structure, objective, read(), _units(config), config.keep_token_importance, runtime.bf16
        )
    return sums.finish(about | {"objective": config.objective, "base_hash": prepared.base.hash})


def _units(config: Any) -> list[str]:
    """Heads, FFNs and layers always, which cost nothing; neurons where they are pruned."""
    asked = {unit for level in config.levels for unit in level.units}
    return ["heads", "ffns", "layers", *(["neurons"] if "neurons" in asked else [])]


def _on_task(prepared: Prepared) -> tuple[PLM, Objective, Any, dict[str, Any]]:
    """A fine-tuned model on the examples that it was trained on (section 3.1)."""
    model = prepared.origin.model
    assert model is not None
    plm = model.load()
    batches = SplitBatches(plm, model.examples(plm, prepared.config), prepared.config.batch_size or BATCH_SIZE)
    about = {
        "source": f"{model.info.task}, fine-tuned with seed {model.transfer.seeds[0]}",
        "kind": prepared.origin.kind,
        "data": model.data.fingerprint,
        "ticket_id": model.info.ticket_id,
    }
    return plm, TaskObjective(model.info.kind), batches, about


def _on_text(prepared: Prepared) -> tuple[PLM, Objective, Any, dict[str, Any]]:
    """The pre-trained model on the first batches of a corpus that mask training would see."""
    config, plm, corpus = prepared.config, prepared.plm, prepared.corpus
    assert corpus is not None
    predicts = config.objective == "mlm"
    if predicts:
        check_mlm_tokenizer(plm.tokenizer, plm.name)
    batches = prepared.batches(config.steps, config.mlm_probability if predicts else None)
    about = {"source": f"{config.objective} on text", "kind": f"{config.objective} on text", "data": corpus.fingerprint}
    if predicts:
        return plm, PretrainingObjective({"mlm": 1.0}, plm.architecture), batches, about
    return plm, StateProbe(plm.architecture, config.seed), batches, about
