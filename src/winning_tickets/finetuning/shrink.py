"""Make a model faster: choose units under a budget, remove them physically, and recover the rest by distillation.

Each small model has parts that are stored one by one: the chosen ticket, then the recovered model, then its exports; a
stopped run resumes after the last complete part.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from winning_tickets.config import Level, Runtime
from winning_tickets.config.levels import Unit
from winning_tickets.config.shrink import ShrinkConfig
from winning_tickets.config.structured import ImportanceSearch
from winning_tickets.data.segments import parse_segments
from winning_tickets.deploy.costs import CostTable, cost_table, stored_costs, time_share
from winning_tickets.deploy.formats import copy_sentence_modules
from winning_tickets.deploy.onnx import check_installed
from winning_tickets.finetuning.recovery import recover, recovered
from winning_tickets.finetuning.shrink_results import MODEL, add_formats, finish, measured
from winning_tickets.finetuning.shrink_source import ShrinkSource, dense_shape
from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.models.device import choose_device
from winning_tickets.models.loading import PLM
from winning_tickets.models.removal import first_layer_differs, remove_
from winning_tickets.models.structure import Structure, structure_of
from winning_tickets.models.vocabulary import trim_
from winning_tickets.pruning import importance
from winning_tickets.pruning.budget import Losses, Sizes, choose_sizes, gates_of, uniform_sizes
from winning_tickets.pruning.importance import IMPORTANCE_FILE, Importance
from winning_tickets.pruning.preparation import make_gate_ticket
from winning_tickets.pruning.removal_losses import measure_losses
from winning_tickets.pruning.steps import counted
from winning_tickets.runs.directory import MARKER, SCRATCH, RunDirectory, stored_run
from winning_tickets.runs.errors import UsageError, problems_of, refuse
from winning_tickets.runs.files import build_directory, read_json, write_json
from winning_tickets.runs.identity import run_id
from winning_tickets.runs.progress import progress
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.runs.results import RESULT
from winning_tickets.tickets.files import BaseModelInfo, is_ticket
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.distillation import Distillation
from winning_tickets.training.saved_model import save_folder

TICKET, RECOVERY, COSTS, LOSSES = "ticket", "recovery.json", "costs.json", "removal_losses.json"
_CORRECTIONS = 4  # maximum number of corrections of a time budget
_TOLERANCE = 1.01


@dataclass(frozen=True)
class Choice:
    """Everything that decides which structure is chosen for a budget."""

    config: ShrinkConfig
    structure: Structure
    values: dict[str, Tensor]  # of heads and neurons, `(layers, n)`: a layer keeps the units with the highest values
    losses: Losses  # losses of the layers by the number of units that they keep
    costs: CostTable
    keep_first: bool

    def sizes(self, budget: float) -> Sizes | None:
        """Return the numbers of heads and neurons of each layer under a budget; None if no structure keeps it."""
        spread = self.config.choice == "depth"
        if self.config.uniform or spread:
            return uniform_sizes(self.losses, self.costs, budget, spread=spread)
        return choose_sizes(self.losses, self.costs, budget, keep_first=self.keep_first)

    def check(self) -> None:
        """Refuse budgets that no structure keeps."""
        for name, budget in self.config.budgets.items():
            if self.sizes(budget) is None:
                raise UsageError(self._unreachable(name, budget))

    def corrected(self, name: str, plm: PLM, runtime: Runtime) -> float:
        """Return the budget whose structure keeps the requested budget when the whole model is timed."""
        # Layers of different sizes take a few percent more time than the sum of their parts.
        asked = allowed = self.config.budgets[name]
        for _ in range(_CORRECTIONS if self.config.counts == "latency" else 0):
            sizes = self.sizes(allowed)
            if sizes is None:
                raise UsageError(self._unreachable(name, asked))
            share = time_share(plm, sizes, *self.config.shape, runtime=runtime)
            if share <= asked * _TOLERANCE:
                break
            allowed *= asked / share
        return allowed if self.sizes(allowed) is not None else asked

    def _unreachable(self, name: str, budget: float) -> str:
        # Bisect for the smallest budget that has a structure, such as one thin layer.
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if self.sizes(middle) is not None else (middle, high)
        costs, shape = self.costs, self.config.latency_on
        fixed = f"embeddings and pooler alone take {costs.base:.1%} of the dense model's"
        if self.config.size:
            least = -(-high * 1000 // 1) / 1000
            return f"--size {name.partition('-')[2]} cannot be reached: {fixed} parameters; the least is {least:.3f}."
        what = "operations" if self.config.by == "flops" else "time"
        fastest = 1 / high // 0.01 / 100
        return (
            f"--speedup {1 / budget:g} cannot be reached at {shape}: {fixed} {what}, and the fastest model that can be "
            f"made is {fastest:.2f} times as fast; give --speedup {fastest:.2f} or less."
        )


def check_shrink(config: ShrinkConfig) -> None:
    """Refuse settings that contradict each other, with all problems at once, before anything is loaded."""
    refuse(
        [
            *config.problems(),
            *problems_of(lambda: config.weights),
            *problems_of(lambda: parse_segments(config.cut)),
            *(problems_of(lambda: check_installed("--formats")) if config.formats else []),
        ]
    )


def plan_shrink(config: ShrinkConfig) -> tuple[ShrinkConfig, dict[str, Any]]:
    """Return the arithmetic of the budget for `--dry-run`: operations of the dense model, and how many may stay."""
    shape = dense_shape(config)
    if shape is None:
        return config, {"arithmetic": f"{config.model} is not on this machine, so its size is not known before the run"}
    batch, length = config.shape
    heads, layers, hidden = shape.num_attention_heads, shape.num_hidden_layers, shape.hidden_size
    neurons = getattr(shape, ARCHITECTURES[shape.model_type].ffn_size) or 4 * hidden  # GPT-2 leaves its usual size out
    # Operations per token: four matrices and attention for a head; two matrices for a neuron, three in a gated FFN.
    of_head = 2 * (hidden // heads) * (4 * hidden + 2 * length)
    of_neuron = 2 * hidden * (3 if shape.model_type == "modernbert" else 2)
    dense = layers * (heads * of_head + neurons * of_neuron) * batch * length / 1e9
    steps = config.most_steps
    facts: dict[str, Any] = {
        "dense_gflops": round(dense, 2),
        "share_of_heads": round(heads * of_head / (heads * of_head + neurons * of_neuron), 3),
        "recovery_tokens": None if steps is None else steps * config.batch_tokens,
    }
    for name, share in config.budgets.items() if not config.size else ():
        even = f"{layers} layers of about {share * heads:.1f} heads and {share * neurons:.0f} neurons"
        facts[name] = f"{share * dense:.2f} GFLOPs may stay, as in {even}, or in {share * layers:.1f} whole layers"
    return config, facts


def shrink(
    config: ShrinkConfig, out: Path | str, runtime: Runtime | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Make a model faster and save it with its ticket, exports and report (see `winning_tickets.shrink`)."""
    # Several speed-ups share the measurement of the dense model and the importances.
    runtime = runtime or Runtime()
    check_shrink(config)
    choose_device(runtime.device)
    source = ShrinkSource.find(config)
    plm = source.plm
    structure = _structure(plm)
    base = BaseModelInfo.of(plm.encoder, plm.name, plm.model.config.model_type, config.revision, layers=None)
    slug = f"shrink-{Path(plm.name).name}-{'-'.join(config.budgets)}"
    identity = run_id(config, slug, base=base.hash, text=source.fingerprint)
    # What the machine cannot reach is refused before the folder is taken; a finished run is not measured again.
    costs = None
    if force or not (Path(out) / RESULT).is_file():
        costs = None if force else _earlier_costs(Path(out), identity)
        costs = costs or _without_words(config, cost_table(plm, config.counts, *config.shape, runtime=runtime), source)
        equal = equal_values(structure)
        losses = Losses.of(equal, costs.sizes)
        Choice(config, structure, equal, losses, costs, first_layer_differs(plm, structure)).check()
    with RunDirectory.claim(Path(out), "shrink", identity, config.identity(), force=force) as run:
        if run.status != "done":
            assert costs is not None
            write_json(run.path / COSTS, asdict(costs))
            values = unit_values(config, source, structure, run.path, runtime=runtime)
            losses = removal_losses(
                config, source, structure, values, sizes=costs.sizes, folder=run.path, runtime=runtime
            )
            choice = Choice(config, structure, values, losses, costs, first_layer_differs(plm, structure))
            made = {name: _make(name, choice, base, source, run=run, runtime=runtime) for name in config.budgets}
            result: dict[str, Any] = {"verb": "shrink", "run_id": identity, "model": plm.name, "losses": source.losses}
            result |= {"budget": config.counts, "batch": config.shape[0], "length": config.shape[1]}
            result |= {"seed": config.seed} | measured(config, source, made, run.path, runtime=runtime)
            result |= {"machine": machine(), "versions": versions()}
            finish(run, result)
        add_formats(config, source, run, runtime)
        return run.result()


def _earlier_costs(out: Path, identity: str) -> CostTable | None:
    """Return the costs of an unfinished run, by which its first structures were chosen; times are never the same."""
    found = stored_run(out / MARKER)
    return stored_costs(out / COSTS) if found is not None and found.id == identity else None


def _without_words(config: ShrinkConfig, costs: CostTable, source: ShrinkSource) -> CostTable:
    """Return the costs without the parameters of words that are left out; words cost no time and no operations."""
    if not config.vocabulary or config.counts != "size":
        return costs
    plm = source.plm
    words = plm.encoder.get_parameter(plm.architecture.word_embeddings)
    share = (1 - len(source.vocabulary) / len(words)) * words.numel() / sum(p.numel() for p in plm.encoder.parameters())
    return replace(costs, base=costs.base - share)


def _structure(plm: PLM) -> Structure:
    if plm.architecture.shared_layers:
        raise UsageError(
            f"All layers of {plm.name} apply the same stored weights, so no layer can lose heads or neurons alone. It "
            "gets faster with fewer layers: --layers of the other commands."
        )
    return structure_of(plm)


def equal_values(structure: Structure) -> dict[str, Tensor]:
    """Return the same value for all heads and neurons."""
    return {unit: torch.ones(len(structure.layers), structure.per_layer(unit)) for unit in ("heads", "neurons")}


def unit_values(
    config: ShrinkConfig, source: ShrinkSource, structure: Structure, folder: Path, *, runtime: Runtime
) -> dict[str, Tensor]:
    """Return values of heads and neurons, `(layers, n)`, by which the units of a layer are ranked."""
    if config.choice == "depth":  # whole layers at even distances need no importances
        return equal_values(structure)
    # To second order, the loss grows with the square of the removed importance.
    found = _importance(config, source, structure, folder, runtime=runtime).values["sample"]
    return {unit: found[unit].square() for unit in ("heads", "neurons")}


def removal_losses(
    config: ShrinkConfig,
    source: ShrinkSource,
    structure: Structure,
    values: Mapping[str, Tensor],
    *,
    sizes: Sequence[int],
    folder: Path,
    runtime: Runtime,
) -> Losses:
    """Return the losses of layers by the number of units that they keep; a resumed run reads the stored losses."""
    if config.choice == "depth":  # whole layers at even distances need no losses
        return Losses.of(values, sizes)
    file = folder / LOSSES
    if not file.is_file():
        last = source.plm.model.config.num_hidden_layers - 1
        objective = objective_of(source, [last])
        if "logits" in objective.weights:  # the logits are the purpose of the model, so they alone count
            objective.weights = {"logits": 1.0}
        source.plm.model.to(choose_device(runtime.device))
        batches = [source.batches[index] for index in range(config.removal_batches)]
        found = measure_losses(source.plm, structure, objective, values, sizes=sizes, batches=batches, runtime=runtime)
        write_json(file, {"sizes": list(sizes)} | {unit: loss.tolist() for unit, loss in vars(found).items()})
    stored = read_json(file, "losses of layers")
    return Losses(np.array(stored["heads"]), np.array(stored["neurons"]))


def _importance(
    config: ShrinkConfig, source: ShrinkSource, structure: Structure, folder: Path, *, runtime: Runtime
) -> Importance:
    """Compute and save the importances of heads and neurons; a resumed run reads the stored importances."""
    if (folder / IMPORTANCE_FILE).is_file():
        return Importance.load(folder)
    source.plm.model.to(choose_device(runtime.device))
    batches = (source.batches[index] for index in range(config.importance_batches))
    with progress("importance", config.importance_batches, quiet=runtime.quiet) as advance:
        probe = source.probe(config.seed)
        sums = importance.add_up(
            source.plm.model, structure, probe, counted(batches, advance), units=("heads", "neurons"), bf16=runtime.bf16
        )
    found = sums.finish({"source": source.outputs, "data": source.fingerprint})
    found.save(folder)
    return found


def _folder(config: ShrinkConfig, name: str, run: Path) -> Path:
    """Return the folder of a small model: the run's, or with several budgets one inside it such as `speedup-2`."""
    return run if len(config.budgets) == 1 else run / name


def _make(
    name: str, choice: Choice, base: BaseModelInfo, source: ShrinkSource, *, run: RunDirectory, runtime: Runtime
) -> dict[str, Any]:
    """Choose, remove, recover and export one small model; skip parts that are already done."""
    config, folder = choice.config, _folder(choice.config, name, run.path)
    if not is_ticket(folder / TICKET):
        sizes = choice.sizes(choice.corrected(name, source.plm, runtime))
        assert sizes is not None  # checked before
        gates = gates_of(choice.values, sizes, choice.structure)
        closed: dict[Unit, int] = {"heads": _closed(gates, "heads"), "neurons": _closed(gates, "neurons")}
        level = Level(("heads", "neurons"), given=closed)
        ticket = make_gate_ticket(
            _search_settings(config), base, gates, choice.structure, level=level, scores_from=source.outputs
        )
        ticket.save_pretrained(folder / TICKET)
    ticket = Ticket.from_pretrained(folder / TICKET)
    sizes = _sizes(ticket.gates, len(choice.structure.layers))
    kept = [layer for layer, numbers in enumerate(sizes) if any(numbers)]
    if not recovered(folder / MODEL):
        small = copy.deepcopy(source.plm)
        remove_(small, ticket.gates, choice.structure)
        own = RunDirectory(folder, run.status, f"{run.id}-{name}")
        facts = recover(
            config,
            small,
            objective_of(source, kept),
            source.batches,
            held_out=source.held_out,
            run=own,
            runtime=runtime,
        )
        write_json(folder / RECOVERY, facts)
        shutil.rmtree(folder / MODEL, ignore_errors=True)
        build_directory(folder / MODEL, partial(_save, small, source, config))
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)  # a kill may have come right after the model was saved
    return {
        "name": name,
        "folder": str(folder.relative_to(run.path)),
        "budget": config.budgets[name],
        "predicted_cost": choice.costs.of(sizes),
        "ticket_id": ticket.id,
        "layers": [{"layer": layer, "heads": sizes[layer][0], "neurons": sizes[layer][1]} for layer in kept],
        "recovery": read_json(folder / RECOVERY, "recovery"),
    }


def _search_settings(config: ShrinkConfig) -> ImportanceSearch:
    """Return the settings of the search by importance that makes the same ticket."""
    settings = ImportanceSearch(
        model=config.model,
        revision=config.revision,
        corpus=config.text,
        objective="kd",
        segments=config.cut,
        batch_tokens=config.batch_tokens,
        prune_heads=(1,),
        prune_neurons=(1,),
        seed=config.seed,
    )
    return settings.resolved()


def _closed(gates: Mapping[str, Tensor], unit: str) -> int:
    return sum(int((~gate).sum()) for name, gate in gates.items() if name.endswith(f".{unit}"))


def _sizes(gates: Mapping[str, Tensor], layers: int) -> Sizes:
    def count(name: str) -> int:
        return int(gates[name].sum())

    return [(count(f"layers.{layer}.heads"), count(f"layers.{layer}.neurons")) for layer in range(layers)]


def objective_of(source: ShrinkSource, kept: list[int]) -> Distillation:
    """Return the distillation losses against the dense model, for the layers that are kept."""
    plm = source.plm
    teacher = plm.model.eval().requires_grad_(False)
    return Distillation(source.losses, plm.architecture, teacher, kept, source.head, source.pooling)


def _save(small: PLM, source: ShrinkSource, config: ShrinkConfig, folder: Path) -> None:
    small.model.requires_grad_(True)
    if config.vocabulary:
        trim_(small, source.vocabulary)
    save_folder(small.model, small.tokenizer, folder)
    if source.info is not None:
        source.info.write(folder)
    else:
        copy_sentence_modules(config.model, config.revision, folder)
