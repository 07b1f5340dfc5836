"""The results of `shrink`: size, speed and quality of the dense and the small models, and their exports."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from winning_tickets.config import EvaluateConfig, Runtime
from winning_tickets.config.shrink import ShrinkConfig
from winning_tickets.deploy import measure
from winning_tickets.deploy.onnx import write_int8, write_onnx
from winning_tickets.evaluation.evaluate import similarity
from winning_tickets.finetuning.evaluation import evaluate_dev_splits
from winning_tickets.finetuning.recovery import held_out_losses
from winning_tickets.finetuning.shrink_source import ShrinkSource
from winning_tickets.models.device import choose_device
from winning_tickets.models.heads import KINDS
from winning_tickets.models.loading import ONNX_FILE, PLM, load_plm
from winning_tickets.models.modeling_compact import COMPACT, WAYS_OUT
from winning_tickets.models.onnx_runtime import OnnxModel
from winning_tickets.models.vocabulary import new_places
from winning_tickets.report.shrink import write_report
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import Interrupted, TicketsError, TrainingError
from winning_tickets.runs.files import build_directory
from winning_tickets.tickets.masking import modes
from winning_tickets.training.objectives.distillation import Distillation

MODEL = "model"
FORMATS = ("onnx", "int8")  # in the order in which they are made; int8 is made from onnx


def finish(run: RunDirectory, result: dict[str, Any]) -> None:
    """Write the report, then the result, which completes the run."""
    write_report(result, run.path)
    run.finish(result)


def _load(folder: Path, source: ShrinkSource) -> PLM:
    """Load a small model with its head."""
    if source.head is None or source.head == "mlm":
        return load_plm(str(folder), head=source.head or "none")
    return load_plm(str(folder), head=KINDS[source.head].head, num_labels=source.plm.model.config.num_labels)


def add_formats(config: ShrinkConfig, source: ShrinkSource, run: RunDirectory, runtime: Runtime) -> None:
    """Make and measure the formats that a finished run lacks; one that fails is recorded, and raised when all are done.

    Formats of earlier calls stay, and the same call tries a failed one again.
    """
    wanted = [form for form in FORMATS if form in config.formats]

    def find_missing(result: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
        return [(one, form) for one in result["models"] for form in wanted if form not in one]

    if not find_missing(result := run.result()) and not result.get("failed_formats"):
        return
    run.reopen()
    missing = find_missing(result := run.result())  # another launch may have added some meanwhile
    failed: dict[str, dict[str, str]] = {}
    for one, form in missing:
        try:
            one[form] = _exported(form, config, source, run.path / one["folder"], runtime=runtime)
        except Interrupted:
            raise
        except Exception as error:  # whatever it is, the model and the other formats are none the worse for it
            reason = str(error) if isinstance(error, TicketsError) else f"{type(error).__name__}: {error}"
            failed.setdefault(one["name"], {})[form] = reason.strip().split("\n")[0]
    result = {key: value for key, value in result.items() if key != "failed_formats"}
    finish(run, result | ({"failed_formats": failed} if failed else {}))
    if failed:
        told = [
            f"{form} of {name}: {reason.rstrip('.')}."
            for name, forms in failed.items()
            for form, reason in forms.items()
        ]
        raise TrainingError(
            f"{len(told)} of {len(missing)} formats failed. {' '.join(told)} The models, the report and all other "
            f"formats are in {run.path}; the same command tries what failed again, and without its name in --formats "
            "it is left out."
        )


def _exported(
    form: str, config: ShrinkConfig, source: ShrinkSource, folder: Path, *, runtime: Runtime
) -> dict[str, Any]:
    """Export a small model, unless an earlier call has, and measure the file in turns with the dense model."""
    if not (folder / form / ONNX_FILE).is_file():
        build_directory(folder / form, partial(_export, form, folder, source))
    small = _load(folder / MODEL, source)
    exported = replace(small, model=OnnxModel(folder / form / ONNX_FILE, small.model.config))
    device = choose_device(runtime.device)
    source.plm.model.to(device).eval().requires_grad_(False)
    inputs = measure.random_inputs(exported, *config.shape, device)
    passes = [partial(source.plm.encoder, **inputs), partial(exported.model, **inputs)]
    seconds = measure.take_turns(passes, config.repeats, device, bf16=runtime.bf16).T
    return _speed(config, *seconds) | {"quality": _scores(config, source, exported, runtime)}


def _speed(config: ShrinkConfig, dense: Any, own: Any) -> dict[str, Any]:
    """Return the speed of a model from the seconds of its passes and of the dense model's, which took turns."""
    return {
        "latency_seconds": measure.spread(own),
        "texts_per_second": measure.spread(config.shape[0] / own),
        "speedup": measure.spread(dense / own),
    }


def _export(form: str, folder: Path, source: ShrinkSource, staging: Path) -> None:
    if form == "int8" and (folder / "onnx" / ONNX_FILE).is_file():
        shutil.copytree(folder / "onnx", staging, dirs_exist_ok=True)
    else:
        plm = _load(folder / MODEL, source)
        if source.head == "mlm":  # an export of an MLM gives hidden states, not logits of all tokens
            plm = load_plm(str(folder / MODEL))
        write_onnx(plm, staging)
    if form == "int8":
        write_int8(staging, str(folder / MODEL))
    if source.info is not None:
        source.info.write(staging)


def measured(
    config: ShrinkConfig, source: ShrinkSource, made: Mapping[str, dict[str, Any]], run: Path, *, runtime: Runtime
) -> dict[str, Any]:
    """Measure size, speed and quality of the dense and the small models; all take turns in one process."""
    device = choose_device(runtime.device)
    plms = {"dense": source.plm} | {name: _load(run / facts["folder"] / MODEL, source) for name, facts in made.items()}
    for plm in plms.values():
        plm.model.to(device).eval().requires_grad_(False)
    # All models read the same tokens, so these must be in the smallest vocabulary.
    smallest = min(plms.values(), key=lambda plm: int(plm.model.config.vocab_size))
    batch, length = config.shape
    inputs = measure.random_inputs(smallest, batch, length, device)
    passes = [partial(plm.encoder, **inputs) for plm in plms.values()]
    seconds = measure.take_turns(passes, config.repeats, device, bf16=runtime.bf16).T
    facts_of: dict[str, dict[str, Any]] = {}
    for (name, plm), own in zip(plms.items(), seconds, strict=True):
        kept = [one["layer"] for one in made[name]["layers"]] if name in made else None
        facts_of[name] = _speed(config, seconds[0], own) | {
            "remote_code": hasattr(plm.model.config, COMPACT),
            "vocabulary": plm.model.config.vocab_size,
            "parameters": sum(value.numel() for value in plm.encoder.parameters()),
            "flops": measure.forward_flops(plm, batch, length),
            "quality": _quality(
                config, source, plm, kept or range(plm.model.config.num_hidden_layers), runtime=runtime
            ),
        }
    models = [facts | facts_of[name] for name, facts in made.items()]
    note = {"note": WAYS_OUT} if any(one["remote_code"] for one in models) else {}
    return {
        "dense": facts_of["dense"],
        "models": models,
        "threads": torch.get_num_threads(),
        "repeats": config.repeats,
        **note,
    }


def _quality(
    config: ShrinkConfig, source: ShrinkSource, plm: PLM, kept: Sequence[int], *, runtime: Runtime
) -> dict[str, Any]:
    """Measure a model on data that it was not trained on: distances from the dense model, and scores."""
    parts = {"states": 1.0, "pooled": 1.0}
    places = None
    if config.vocabulary and plm is not source.plm:
        places = new_places(source.vocabulary, source.plm.model.config.vocab_size)
    objective = Distillation(parts, plm.architecture, source.plm.model, list(kept), None, source.pooling, places)
    losses = held_out_losses(objective, plm.model, source.held_out, bf16=runtime.bf16)
    distances = {"kd_loss": losses["states"], "embedding_distance": losses["pooled"]}
    return distances | _scores(config, source, plm, runtime)


def _scores(config: ShrinkConfig, source: ShrinkSource, plm: PLM, runtime: Runtime) -> dict[str, Any]:
    """Return the similarity of scored pairs, and the metrics of a fine-tuned model's task."""
    found: dict[str, Any] = {}
    if config.task is not None or config.pairs_file is not None:
        asked = EvaluateConfig(
            target=config.model, task=config.task, pairs_file=config.pairs_file, data_dir=config.data_dir
        )
        with modes(plm.model, training=False), torch.no_grad():
            found |= similarity(asked, plm, plm.model.device, runtime)
    if (task := source.task) is not None:
        if config.vocabulary:  # token ids differ in a smaller vocabulary
            encoded = {name: task.encode(plm, split) for name, split in task.data.validation.items()}
            task = replace(task, validation=encoded)
        metrics = evaluate_dev_splits(task, plm, bf16=runtime.bf16)["evaluation"]
        found |= {name: value for name, value in metrics.items() if value is not None}
    return found
