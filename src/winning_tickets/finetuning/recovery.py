"""Recovery of a small model: distillation from the dense model, with early stopping on held-out text."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from winning_tickets.config import Runtime
from winning_tickets.config.shrink import ShrinkConfig
from winning_tickets.models.loading import PLM, set_dropout
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.errors import TrainingError
from winning_tickets.runs.progress import progress
from winning_tickets.tickets.masking import modes
from winning_tickets.training.objectives.base import Batch
from winning_tickets.training.objectives.distillation import Distillation
from winning_tickets.training.trainer import (
    Callback,
    Checkpoints,
    StepLog,
    TicketTrainer,
    run_training,
    trainer_arguments,
)

_UNLIMITED = 1_000_000  # number of steps if only minutes are limited
HELD_OUT = "held_out"
"""Key of the held-out loss and its parts in the records of an evaluation."""


def held_out_losses(
    objective: Distillation, model: Any, batches: Iterable[Batch], *, bf16: bool = False
) -> dict[str, float]:
    """Return the mean of each part of a distillation loss over batches, and their weighted `sum`."""
    sums, counts = dict.fromkeys(objective.weights, 0.0), dict.fromkeys(objective.weights, 0)
    device = model.device
    with modes(model, training=False), torch.no_grad():
        for batch in batches:
            for name, count in objective.counts(batch).items():
                counts[name] += int(count)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                found = objective(model, {name: value.to(device) for name, value in batch.items()})
            for name, value in found.items():
                sums[name] += float(value)
    means = {name: sums[name] / max(1, counts[name]) for name in sums}
    return means | {"sum": sum(objective.weights[name] * value for name, value in means.items())}


class _Recovery(Callback):
    """Evaluates on held-out text, keeps the best weights, and stops when time or patience is exhausted."""

    # The best weights are in memory and in the checkpoint. A file of their own could be newer or older than the
    # checkpoint from which a killed run resumes.

    stateful = True

    def __init__(self, config: ShrinkConfig, run: RunDirectory, objective: Distillation, held_out: list[Batch]) -> None:
        self._config, self._run, self._objective, self._held_out = config, run, objective, held_out
        self.records: list[dict[str, Any]] = []
        self.weights: dict[str, Tensor] = {}  # of the best evaluation, on the CPU
        self._before, self._began = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training, including the time before an interruption."""
        return self._before + time.monotonic() - self._began

    @property
    def best(self) -> dict[str, Any]:
        return min(self.records, key=lambda record: record[HELD_OUT]["sum"])

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = state["weights"]

    def factor(self, step: int) -> float:
        """Return the factor of the learning rate: a warm-up, then linear to zero at the last step or minute."""
        config, steps = self._config, self._config.most_steps
        left = [1.0] if steps is None else [1 - step / steps]
        left += [] if config.minutes is None else [1 - self.seconds / (60 * config.minutes)]
        return max(0.0, min(*left, (step + 1) / (config.warmup_steps + 1)))

    def on_train_begin(self, trainer: TicketTrainer) -> None:
        """Read the evaluations up to the checkpoint; a new training begins with an evaluation."""
        log = read_log(self._run.path)
        self.records = [record for record in log if HELD_OUT in record]
        self._before, self._began = sum(record.get("seconds", 0.0) for record in log), time.monotonic()
        if not trainer.resumed:
            self._evaluate(trainer)

    def on_step_end(self, trainer: TicketTrainer) -> None:
        config = self._config
        out_of_time = config.minutes is not None and self.seconds >= 60 * config.minutes
        if trainer.step % config.eval_steps and not out_of_time and trainer.step < trainer.max_steps:
            return
        self._evaluate(trainer)
        later = [record for record in self.records if record["step"] > self.best["step"]]
        if out_of_time or len(later) >= config.patience:
            trainer.max_steps = trainer.step

    def _evaluate(self, trainer: TicketTrainer) -> None:
        losses = held_out_losses(self._objective, trainer.model, self._held_out, bf16=trainer.args.bf16)
        if not math.isfinite(losses["sum"]):
            advice = "lower --learning-rate" if trainer.step else "use another model, its weights are damaged"
            raise TrainingError(f"The loss on held-out text is {losses['sum']} after step {trainer.step}; {advice}.")
        self.records.append({"step": trainer.step, HELD_OUT: losses})
        self._run.log(self.records[-1])
        if self.best is self.records[-1]:
            state = trainer.model.state_dict()
            self.weights = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}


def recover(
    config: ShrinkConfig,
    plm: PLM,
    objective: Distillation,
    batches: Any,
    *,
    held_out: list[Batch],
    run: RunDirectory,
    runtime: Runtime,
) -> dict[str, Any]:
    """Train a small model to follow the dense model; the small model ends with the weights of the best evaluation.

    Returns:
        `steps`, `best_step`, `seconds`, and the held-out losses `before` and `after`.
    """
    model = plm.model.requires_grad_(True)
    set_dropout(model, 0.0)
    _freeze_embeddings(plm)
    callback = _Recovery(config, run, objective, held_out)
    steps = _UNLIMITED if config.most_steps is None else config.most_steps
    if steps == 0:
        losses = held_out_losses(objective, model, held_out, bf16=runtime.bf16)
        return {"steps": 0, "best_step": 0, "seconds": 0.0, "before": losses, "after": losses}
    with progress("recovering", steps, quiet=runtime.quiet) as advance:
        trainer = TicketTrainer(
            model=model,
            objective=objective,
            batches=batches,
            args=trainer_arguments(
                run.scratch,
                runtime,
                max_steps=steps,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                seed=config.seed,
            ),
            callbacks=[StepLog(run, advance), callback, Checkpoints(runtime)],
            schedule=callback.factor,
        )
        run_training(trainer, run)
    best = callback.best
    model.load_state_dict(callback.weights)
    return {
        "steps": trainer.step,
        "best_step": best["step"],
        "seconds": callback.seconds,
        "before": callback.records[0][HELD_OUT],
        "after": best[HELD_OUT],
    }


def _freeze_embeddings(plm: PLM) -> None:
    """Freeze the word embeddings: a short training sees few of them, and they are a large part of the weights."""
    plm.encoder.get_parameter(plm.architecture.word_embeddings).requires_grad_(False)


def recovered(path: Path) -> bool:
    """Return whether a folder has the saved model of a finished recovery."""
    return (path / "config.json").is_file()
