"""Cost of a ticket or an export compared with its dense model: sizes, operations, and time."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from winning_tickets.config import MeasureConfig, Runtime
from winning_tickets.deploy.stored_weights import folder_of, size_of, weight_files
from winning_tickets.models.device import choose_device
from winning_tickets.models.loading import FEW_ZEROS, PLM, share_of_zeros
from winning_tickets.models.modeling_compact import COMPACT
from winning_tickets.models.onnx_runtime import OnnxModel, load_onnx
from winning_tickets.models.tokenizers import count_positions
from winning_tickets.runs import memory
from winning_tickets.runs.directory import MARKER, is_trusted, remote_code_facts, stored_run
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.files import read_object
from winning_tickets.runs.hub import local
from winning_tickets.runs.progress import progress
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.tickets.cards import CARD
from winning_tickets.tickets.target import Target
from winning_tickets.training.fine_tuned import EXPORT_FILE
from winning_tickets.training.saved_model import find_model
from winning_tickets.training.source import OnnxSource, TicketSource, find_source


def forward_flops(plm: PLM, batch: int, length: int) -> int:
    """Count the operations in matrix products, zeros included, of one forward pass of the encoder without its head."""
    encoder = plm.encoder
    assert isinstance(encoder, PreTrainedModel)
    before = encoder.config._attn_implementation
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    encoder.set_attn_implementation("eager")  # the counter cannot count inside the fused attention of a CPU
    encoder.requires_grad_(False)  # the counter fails where a parameter with gradients is the input of a module
    try:
        one = _count_flops(encoder, 1, length)
        # Operations are not proportional to the batch size: all texts share DeBERTa's projections of positions.
        return one if batch == 1 else one + (batch - 1) * (_count_flops(encoder, 2, length) - one)
    finally:
        encoder.set_attn_implementation(before)
        for parameter in trained:
            parameter.requires_grad_(True)


def _count_flops(encoder: PreTrainedModel, batch: int, length: int) -> int:
    ids = torch.zeros(batch, length, dtype=torch.long, device=encoder.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():  # the counter fails in inference mode
        encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    return int(counter.get_total_flops())


WARM_UPS = 2
"""Passes of each model that are not timed: the first ones allocate memory and choose kernels."""


def measure(config: MeasureConfig, runtime: Runtime | None = None) -> dict[str, Any]:
    """Measure the cost of a model, ticket, export or transfer by name; see `api.deploy_verbs.measure`.

    Passes of the two models alternate (A B A B ...), so that a busy or throttled machine slows both. The speed-up is
    the median, with quartiles, of the ratios of adjacent passes. Both get the same random tokens without padding.
    """
    runtime = runtime or Runtime()
    # Load the model, and build the dense one of its shape if it is pruned.
    device = choose_device(runtime.device)
    with _set_threads(config.threads):
        kind, plm, folder = load_target(config)
        is_pruned = kind in ("ticket", "onnx") or hasattr(plm.model.config, COMPACT) or share_of_zeros(plm) > FEW_ZEROS
        models = [plm, dense_twin(plm)] if is_pruned else [plm]
        check_lengths(models[-1], config.lengths)
        device = plm.model.device if kind == "onnx" else device
        shapes = _time_all(models, config, device, runtime)
        used, warnings = torch.get_num_threads(), _disagreements(shapes, torch.get_num_threads())
        if config.threads is None and used > 1 and device.type == "cpu" and kind != "onnx":
            warnings += _compare_with_one_thread(plm, shapes[0], used)
    return {
        "target": config.target,
        "kind": kind,
        "model": plm.name,
        "measured": "file" if kind == "onnx" else "encoder",
        **_sizes(config.target, kind, plm, folder),
        "dense": {"parameters": _parameters(models[1])} if is_pruned else None,
        "shapes": shapes,
        **_quality(folder, kind),
        "expectation": OF_ONNX if kind == "onnx" else expectation(shapes, share_of_zeros(plm)),
        "warnings": warnings,
        "device": str(device),
        "threads": used,
        "bf16": runtime.bf16,
        "repeats": config.repeats,
        "machine": machine(),
        "versions": versions(),
        **remote_code_facts(),
    }


def check_lengths(plm: PLM, lengths: Sequence[int]) -> None:
    """Refuse texts that are longer than a model takes."""
    most = count_positions(plm.encoder)
    if max(lengths) > most:
        raise UsageError(f"--length {max(lengths)} is impossible: {plm.name} takes texts of up to {most} tokens.")


def load_target(config: MeasureConfig) -> tuple[str, PLM, Path | None]:
    """Load an encoder; return its kind (`ticket`, `run`, `model`, `onnx`), the model and the folder of its weights."""
    target, seed, place = config.target, config.seed, (config.base, config.revision, config.layers)
    source = find_source(target)
    path = Path(source.where)
    if isinstance(source, OnnxSource):
        source.refuse(**config.model_dump(include={"base", "revision", "layers", "seed"}))
        return "onnx", load_onnx(path), path
    if not isinstance(source, TicketSource) and stored_run(path / MARKER) is not None:
        folder = find_model(path, seed)
        return "run", Target.find(str(folder), *place).load(), folder
    if seed is not None:
        raise UsageError(f"--seed {seed} chooses a model of a transfer, and {target} is not one.")
    found = Target.find(target, *place)
    plm = found.load()
    if found.ticket is not None:
        found.ticket.apply_(plm.model, allow_other_weights=config.allow_other_weights)
    return "model" if found.ticket is None else "ticket", plm, folder_of(found.model, found.revision)


def _stored(folder: Path | None) -> tuple[int | None, int | None]:
    """Count the parameters and bytes in the weight files of a folder; None for what cannot be counted."""
    files, numbers = weight_files(folder), 0
    for file in files:
        if file.suffix != ".safetensors":
            return None, size_of(folder) or None
        with safe_open(file, framework="numpy") as handle:
            numbers += sum(int(np.prod(handle.get_slice(name).get_shape())) for name in handle.keys())  # noqa: SIM118 - no dict
    return numbers or None, size_of(folder) or None


def _quality(folder: Path | None, kind: str) -> dict[str, Any]:
    """Return what an int8 export lost: cosines of its outputs with those of the float model."""
    file = None if folder is None else folder / EXPORT_FILE
    if kind != "onnx" or file is None or not file.is_file():
        return {}
    found = read_object(file, "description of the export").get("int8")
    return {} if found is None else {"int8": found}


def _sizes(target: str, kind: str, plm: PLM, folder: Path | None) -> dict[str, Any]:
    """Return the parameters of the weight files and of the encoder, and the bytes of the weights and of a ticket."""
    numbers, size = _stored(folder)
    saved = kind == "ticket" and memory.find(target) is None
    ticket_files = [path for path in Path(local(target)).iterdir() if path.is_file()] if saved else []
    ticket_files = [path for path in ticket_files if path.name != CARD]
    return {
        "parameters": {"all": numbers, **_parameters(plm)},
        "bytes_on_disk": size,
        "ticket_bytes": sum(path.stat().st_size for path in ticket_files) or None,
    }


def _parameters(plm: PLM) -> dict[str, int | None]:
    if isinstance(plm.model, OnnxModel):
        return {"encoder": None, "non_zero": None}
    parameters = list(plm.encoder.parameters())
    return {
        "encoder": sum(parameter.numel() for parameter in parameters),
        "non_zero": sum(int(torch.count_nonzero(parameter)) for parameter in parameters),
    }


def dense_twin(plm: PLM) -> PLM:
    """Return a full-size model with random weights; it is as fast as the dense model of this architecture."""
    import transformers

    config = copy.deepcopy(plm.model.config)
    vars(config).pop(COMPACT, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=is_trusted())
    return dataclasses.replace(plm, model=model)


def random_inputs(plm: PLM, batch: int, length: int, device: torch.device) -> dict[str, Tensor]:
    """Return random tokens without padding, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    padding = plm.model.config.pad_token_id or 0
    ids = torch.randint(0, plm.model.config.vocab_size - 1, (batch, length), generator=generator)
    ids += (ids >= padding).long()
    return {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids).to(device)}


@contextmanager
def _set_threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(number or before)
        yield
    finally:
        torch.set_num_threads(before)


def _time_all(
    models: Sequence[PLM], config: MeasureConfig, device: torch.device, runtime: Runtime
) -> list[dict[str, Any]]:
    for plm in models:
        plm.model.to(device).eval()
    shapes = [(batch, length) for batch in config.batches for length in config.lengths]
    results = []
    with progress("measuring", len(shapes), quiet=runtime.quiet) as advance:
        for done, (batch, length) in enumerate(shapes, 1):
            inputs = random_inputs(models[0], batch, length, device)
            seconds = take_turns(
                [partial(plm.encoder, **inputs) for plm in models], config.repeats, device, bf16=runtime.bf16
            )
            results.append(_summary(models, batch, length, seconds))
            advance(done, f"batch {batch}, length {length}")
    return results


@torch.inference_mode()
def take_turns(
    passes: Sequence[Callable[[], Any]], repeats: int, device: torch.device, *, bf16: bool
) -> np.ndarray[Any, Any]:
    """Return the seconds of each pass, `(repeats, passes)`; the passes alternate."""
    seconds = np.empty((repeats, len(passes)))

    def wait() -> None:
        if device.type != "cpu":
            torch.get_device_module(device.type).synchronize()  # of the current device

    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for turn in range(-WARM_UPS, repeats):
            for index, forward in enumerate(passes):
                wait()
                start = time.perf_counter()
                forward()
                wait()
                if turn >= 0:
                    seconds[turn, index] = time.perf_counter() - start
    return seconds


def _summary(models: Sequence[PLM], batch: int, length: int, seconds: np.ndarray[Any, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"batch": batch, "length": length}
    for index, (prefix, plm) in enumerate(zip(("", "dense_"), models, strict=False)):
        result |= {
            f"{prefix}flops": None if isinstance(plm.model, OnnxModel) else forward_flops(plm, batch, length),
            f"{prefix}latency_seconds": spread(seconds[:, index]),
            f"{prefix}texts_per_second": spread(batch / seconds[:, index]),
        }
    if len(models) > 1:
        result["flops_ratio"] = result["dense_flops"] / result["flops"] if result["flops"] else None
        result["speedup"] = spread(seconds[:, 1] / seconds[:, 0])
    return result


DISAGREEMENT = 1.25
"""Ratio of the upper to the lower quartile above which the turns of a measurement disagree."""


def _disagreements(shapes: Sequence[dict[str, Any]], threads: int) -> list[str]:
    """Return a warning about the shapes whose turns took different times, if there are any."""
    wide = [
        f"{shape['batch']} x {shape['length']}"
        for shape in shapes
        if shape["latency_seconds"]["upper_quartile"] > DISAGREEMENT * shape["latency_seconds"]["lower_quartile"]
    ]
    if not wide:
        return []
    alone = "with --threads 1, " if threads > 1 else ""
    return [
        f"The turns of {', '.join(wide)} disagree: some took {DISAGREEMENT} times as long as others. Other programs "
        f"use this machine; measure on an idle one, {alone}or with more --repeats."
    ]


def _compare_with_one_thread(plm: PLM, shape: dict[str, Any], threads: int) -> list[str]:
    """Return a warning if one thread is faster than several, which wait for each other on a busy machine."""
    inputs = random_inputs(plm, shape["batch"], shape["length"], plm.model.device)
    with _set_threads(1):
        alone = float(np.median(take_turns([partial(plm.encoder, **inputs)], 3, plm.model.device, bf16=False)))
    together = shape["latency_seconds"]["median"]
    if together < DISAGREEMENT * alone:
        return []
    return [
        f"One thread takes {1000 * alone:.0f} ms for {shape['batch']} x {shape['length']} tokens, and {threads} "
        f"threads take {1000 * together:.0f} ms: they wait for each other on a busy machine. Measure with --threads 1."
    ]


OF_ONNX = "The file was run by onnxruntime, the dense model by PyTorch: the speed-up is that of both together."


def spread(values: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return the median and quartiles of values."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(median), "lower_quartile": float(low), "upper_quartile": float(high)}


def expectation(shapes: Sequence[dict[str, Any]], zeros: float) -> str:
    """Describe the expected speed-up; `zeros` is the share of zeros in the matrices that can be pruned."""
    if "speedup" not in shapes[0]:
        return "The model is dense: there is nothing to compare it with."
    ratios = [shape["flops_ratio"] for shape in shapes]
    if max(ratios) == 1:
        return (
            f"No speed-up is to be expected: {zeros:.1%} of the weights are zeros inside matrices of full size, and "
            "dense kernels multiply by zeros as well. Whole heads, neurons and FFNs can be removed: "
            "tickets export --format compact."
        )
    return (
        f"The dense model takes {min(ratios):.2f} to {max(ratios):.2f} times as many operations, which is about the "
        "speed-up to expect; small batches and short texts may reach less of it."
    )
