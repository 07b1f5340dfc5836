"""Cost of an encoder by the heads and neurons of its layers: time on this machine, operations, or parameters."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from winning_tickets.config import Runtime
from winning_tickets.data.token_cache import cache_root
from winning_tickets.deploy import measure
from winning_tickets.models.compact import compact_
from winning_tickets.models.device import choose_device
from winning_tickets.models.loading import PLM
from winning_tickets.models.removal import keep_layers_, remove_
from winning_tickets.models.structure import Structure, structure_of
from winning_tickets.runs.errors import TicketsError, TrainingError
from winning_tickets.runs.files import read_json, write_json
from winning_tickets.runs.identity import digest
from winning_tickets.runs.progress import progress
from winning_tickets.runs.provenance import machine, versions

logger = logging.getLogger(__name__)

Counted = Literal["latency", "flops", "size"]
GRID = 12
"""About how many sizes of an FFN are measured; multiples of 32 neurons if there are enough."""
_TOGETHER = 3  # variants that are timed next to the same passes of the dense model
_REPEATS = 10
_STEP = 32  # neurons
_MORE_ROUNDS = 2  # of passes, if times contradict each other
_Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_MOST_SCATTER = 0.05  # as a share of a layer's time; below 0.01 on a quiet machine


@dataclass(frozen=True)
class CostTable:
    """Costs as shares of the dense encoder's cost; they add up: `base`, and per layer `layer` + heads + neurons."""

    counted: Counted
    base: float  # of embeddings and pooler
    layer: float  # of a layer without its heads and neurons; a layer that keeps neither is removed
    heads: tuple[float, ...]  # of 0, 1, ... heads in a layer
    sizes: tuple[int, ...]  # numbers of neurons that a layer may have, from 0
    neurons: tuple[float, ...]  # of each of the `sizes`
    layers: int
    about: dict[str, Any]

    def of(self, structure: Sequence[tuple[int, int]]) -> float:
        """Return the cost of an encoder, given the numbers of heads and neurons of each layer."""
        return self.base + sum(
            self.layer + self.heads[heads] + self.neurons[self.sizes.index(neurons)]
            for heads, neurons in structure
            if heads or neurons
        )

    @property
    def least(self) -> float:
        """The cost of an encoder of one layer with one head and the fewest neurons."""
        return self.base + self.layer + self.heads[1] + self.neurons[1]


def cost_table(plm: PLM, counted: Counted, batch: int, length: int, *, runtime: Runtime) -> CostTable:
    """Measure or count the costs of an encoder of the shape of `plm`; times are cached on this machine."""
    structure = structure_of(plm)
    step = _neuron_step(structure.intermediate_size)
    sizes = (*range(0, structure.intermediate_size, step), structure.intermediate_size)
    shape = {"heads": structure.num_heads, "sizes": sizes, "layers": len(structure.layers)}
    shape |= {"model_type": plm.model.config.model_type, "hidden": structure.hidden_size}
    about = {"batch": batch, "length": length, "device": str(choose_device(runtime.device)), "bf16": runtime.bf16}
    about |= {"threads": torch.get_num_threads()}
    file = _cache_file(shape | about) if counted == "latency" else None
    if file is not None and (found := stored_costs(file)) is not None:
        return found
    as_table = partial(
        _table, counted, heads=structure.num_heads, sizes=sizes, layers=len(structure.layers), about=about
    )
    if counted == "latency":
        heads = [(one, 0) for one in range(1, structure.num_heads + 1)]
        variants = [None, (0, 0), *heads, *((0, one) for one in sizes[1:])]
        seconds = _seconds(plm, variants, batch, length, runtime=runtime)
        table = as_table(seconds[:, 1] / seconds[:, 0])
        for _ in range(_MORE_ROUNDS):
            if table.about["scatter"] <= _MOST_SCATTER:
                break
            # Other work only ever adds to a time, so the shortest passes of all rounds say more.
            seconds = np.minimum(seconds, _seconds(plm, variants, batch, length, runtime=runtime))
            table = as_table(seconds[:, 1] / seconds[:, 0])
    else:
        table = as_table(_counts(plm, counted, sizes, batch, length=length))
    if table.about["scatter"] > _MOST_SCATTER:
        logger.warning(
            "more heads or neurons were up to %.0f%% of a layer's time faster than fewer, as on a machine that does "
            "other work. The structure is chosen by these times, and they are not kept; try again when the machine is "
            "less busy, or give --by flops.",
            100 * table.about["scatter"],
        )
    elif file is not None:
        write_json(file, asdict(table) | {"machine": machine(), "versions": versions()})
    return table


def _neuron_step(neurons: int) -> int:
    """Return the number of neurons from one size of an FFN to the next."""
    step = max(1, round(neurons / GRID))
    return step if step < _STEP else round(step / _STEP) * _STEP


def _table(
    counted: Counted,
    shares: Sequence[float] | _Array,
    heads: int,
    sizes: Sequence[int],
    *,
    layers: int,
    about: dict[str, Any],
) -> CostTable:
    """Split the costs of encoders whose layers are all alike into the costs of their parts."""
    from scipy.optimize import isotonic_regression

    one, empty, *others = shares
    layer = max(0.0, (empty - one) / max(1, layers - 1))
    base = max(0.0, one - layer)
    # More heads or neurons never cost less; measurements that say otherwise are noise.
    rows, moved = [], 0.0
    for part in (others[:heads], others[heads:]):
        measured = np.maximum(0.0, (np.array(part) - empty) / layers)
        rising = isotonic_regression(measured).x
        rows.append(np.array([0.0, *rising]))
        moved = max(moved, float(np.abs(measured - rising).max()))
    # The parts are measured separately, and are scaled to cost as much together as the dense encoder.
    whole = layers * sum(float(row[-1]) for row in rows)
    if not (whole > 0 and base + layers * layer < 1):
        raise TrainingError(
            "The measured times say nothing: layers without heads and neurons took as long as whole ones. Try again "
            "when the machine is less busy, or give --by flops."
        )
    factor = (1 - base - layers * layer) / whole
    of_heads, of_neurons = (tuple((row * factor).tolist()) for row in rows)
    about = about | {"sum_of_parts": base + layers * layer + whole, "scatter": moved * layers / whole}
    return CostTable(counted, base, layer, of_heads, tuple(sizes), of_neurons, layers, about)


Variant = tuple[int, int] | None
"""Heads and neurons of every layer; None for an encoder with a single empty layer, as some models need a layer."""


def _variant(twin: PLM, variant: Variant) -> PLM:
    """Return a copy of an encoder whose layers all have the same heads and neurons."""
    made = dataclasses.replace(twin, model=copy.deepcopy(twin.model))
    if variant is None:
        keep_layers_(made, [0])
    places = structure_of(made)
    compact_(made.model, _gates(places, [variant or (0, 0)] * len(places.layers)))
    return made


def time_share(plm: PLM, structure: Sequence[tuple[int, int]], batch: int, length: int, *, runtime: Runtime) -> float:
    """Return the time of an encoder with these heads and neurons in its layers, as a share of the dense encoder's."""
    device, twin = choose_device(runtime.device), measure.dense_twin(plm)
    small = dataclasses.replace(twin, model=copy.deepcopy(twin.model))
    places = structure_of(twin)
    remove_(small, _gates(places, structure), places)
    inputs = measure.random_inputs(twin, batch, length, device)
    passes = [partial(one.model.to(device).eval(), **inputs) for one in (twin, small)]
    shortest = measure.take_turns(passes, _REPEATS, device, bf16=runtime.bf16).min(axis=0)
    return float(shortest[1] / shortest[0])


def _gates(places: Structure, structure: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
    """Return gates that leave the first heads and neurons of each layer open."""
    gates: dict[str, torch.Tensor] = {}
    for layer, (heads, neurons) in enumerate(structure):
        gates[f"layers.{layer}.heads"] = torch.arange(places.num_heads) < heads
        gates[f"layers.{layer}.neurons"] = torch.arange(places.intermediate_size) < neurons
        gates[f"layers.{layer}.ffn"] = torch.tensor([neurons > 0])
    return gates


def _seconds(plm: PLM, variants: Sequence[Variant], batch: int, length: int, *, runtime: Runtime) -> _Array:
    """Return the shortest seconds of the dense encoder and of each variant that took turns with it, `(variants, 2)`."""
    device = choose_device(runtime.device)
    twin = measure.dense_twin(plm)
    twin.model.to(device).eval()
    inputs = measure.random_inputs(twin, batch, length, device)
    found: list[tuple[float, float]] = []
    with progress("measuring layers", len(variants), quiet=runtime.quiet) as advance:
        for start in range(0, len(variants), _TOGETHER):
            made = [_variant(twin, variant) for variant in variants[start : start + _TOGETHER]]
            passes = [partial(one.encoder, **inputs) for one in (twin, *made)]
            seconds = measure.take_turns(passes, _REPEATS, device, bf16=runtime.bf16)
            dense, *shortest = seconds.min(axis=0).tolist()
            found += [(dense, own) for own in shortest]
            advance(len(found), "")
    return np.array(found)


def _counts(plm: PLM, counted: Counted, sizes: Sequence[int], batch: int, *, length: int) -> list[float]:
    """Return operations or parameters as shares of the dense encoder's; they are proportional to heads and neurons."""

    def count(one: PLM) -> int:
        if counted == "flops":
            return measure.forward_flops(one, batch, length)
        return sum(value.numel() for value in one.encoder.parameters())

    twin, heads = measure.dense_twin(plm), structure_of(plm).num_heads
    whole = count(twin)
    base, empty, all_heads, all_neurons = (
        count(_variant(twin, variant)) / whole for variant in (None, (0, 0), (heads, 0), (0, sizes[-1]))
    )
    by_heads = [empty + (all_heads - empty) * one / heads for one in range(1, heads + 1)]
    return [base, empty, *by_heads, *(empty + (all_neurons - empty) * one / sizes[-1] for one in sizes[1:])]


def _cache_file(key: dict[str, Any]) -> Path:
    import platform

    own = {name: versions().get(name) for name in ("torch", "transformers")}
    where = [machine(), platform.node(), torch.backends.cpu.get_cpu_capability(), own]
    return cache_root() / "costs" / f"{digest([key, where], 24)}.json"


def stored_costs(file: Path) -> CostTable | None:
    """Read a table; return None if there is none, or one that cannot be read, so that it is measured again."""
    if not file.is_file():
        return None
    try:
        return TypeAdapter(CostTable).validate_python(read_json(file, "cost table"), extra="ignore")
    except (ValidationError, TicketsError):
        return None
