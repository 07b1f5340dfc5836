"""The one training loop: a thin subclass of the Hugging Face Trainer, for both mask training and fine-tuning."""

from __future__ import annotations

import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from winning_tickets.config import Runtime
from winning_tickets.models.loading import choose_device
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import METRICS, RunDirectory
from winning_tickets.runs.errors import Interrupted, TrainingError
from winning_tickets.runs.files import REFUSALS, to_disk
from winning_tickets.runs.progress import set_trackers, tracked
from winning_tickets.training import parallel
from winning_tickets.training.objectives.base import Objective

CHECKPOINT = "checkpoint-"
WEIGHTS = "model.safetensors"
MAX_SKIPPED = 10
"""Consecutive non-finite steps that are skipped; with one more the weights, the data or the rate must be at fault."""


class NotFiniteError(TrainingError):
    """The loss or the gradients of a step became NaN or infinite; nothing of that step was applied."""

    def __init__(self, step: int, parts: Mapping[str, float], norm: float, skipped: int) -> None:
        self.step = step
        self.skipped = skipped
        before = f" The {skipped} steps before it were skipped." if skipped else ""
        super().__init__(f"{_found(step, parts, norm)}{before}")


class FiniteSteps:
    """Checks each step between its backward pass and the optimizer; raises on non-finite steps, or skips them."""

    # `skipped` says whether the last step was skipped; at most `MAX_SKIPPED` consecutive ones are.

    def __init__(self, skip: bool) -> None:
        self._skip = skip
        self._in_a_row = 0
        self.skipped = False

    def resume(self, skipped: int) -> None:
        """Continue after so many consecutive skipped steps."""
        self._in_a_row = skipped

    def check(self, step: int, parts: Mapping[str, float], norm: float, optimizer: Any) -> None:
        """Check the parts of the loss and the gradient norm of a step, counted from 1."""
        # A skipped step loses its gradients, so that the optimizer changes nothing.
        self.skipped = not all(map(math.isfinite, (*parts.values(), norm)))
        if not self.skipped:
            self._in_a_row = 0
            return
        if not self._skip or self._in_a_row == MAX_SKIPPED:
            raise NotFiniteError(step, parts, norm, self._in_a_row)
        self._in_a_row += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # zeros would still let momentum and decay change the weights
        if distributed.is_main():
            print(f"{_found(step, parts, norm)} The step was skipped.", file=sys.stderr, flush=True)  # noqa: T201


def gradient_norm(optimizer: Any) -> float:
    """Return the norm of all gradients of an optimizer's parameters; NaN or infinite as soon as one of them is."""
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    return float(torch.nn.utils.get_total_norm(gradients))


def _found(step: int, parts: Mapping[str, float], norm: float) -> str:
    shown = ", ".join(f"{name} = {value}" for name, value in parts.items())
    if all(map(math.isfinite, parts.values())):
        return f"The gradients are not finite at step {step} (norm = {norm}, {shown})."
    return f"The loss is not finite at step {step} ({shown})."


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """Turns Ctrl-C and SIGTERM during training into a checkpoint and an orderly stop; a second signal stops at once."""

    # A signal to one rank stops all ranks.

    def __init__(self) -> None:
        self.signal_number: int | None = None  # the signal that all ranks have agreed to stop at
        self.received: int | None = None  # the signal that this rank has received
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            before = self._before[number]
            if callable(before):  # the usual effect of Ctrl-C and SIGTERM
                before(number, frame)
            raise SystemExit(128 + number)
        self.received = number

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give each rank random numbers of its own."""
        parallel.seed_by_rank()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Agree with the other ranks on a stop, and ask for a checkpoint."""
        self.signal_number = distributed.all_reduce_max(self.received or 0) or None
        if self.signal_number is not None and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Saves a checkpoint every so many steps, or else every so many seconds."""

    def __init__(self, runtime: Runtime) -> None:
        self._steps = runtime.checkpoint_steps
        self._seconds = runtime.checkpoint_seconds
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save when it is time, but not after the last step, whose result is saved anyway."""
        if state.global_step >= state.max_steps:
            return
        due = (
            time.monotonic() - self._last >= self._seconds
            if self._steps is None
            else state.global_step % self._steps == 0
        )
        if distributed.all_reduce_max(int(due)):  # clocks of ranks differ
            control.should_save = True
            self._last = time.monotonic()


class StepLog(TrainerCallback):  # type: ignore[misc]
    """Appends one record per step to `metrics.jsonl` and advances the progress display; `extra` adds to the record."""

    def __init__(
        self, run: RunDirectory, advance: Callable[[int, str], None], extra: Callable[[], dict[str, Any]] = dict
    ) -> None:
        self.trainer: TicketTrainer | None = None  # sets itself; the parts of the loss are read from it
        self._run = run
        self._advance = advance
        self._extra = extra
        self._time = time.monotonic()
        self._rate = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the records of steps that a resumed run repeats, and restore the number of skipped steps."""
        assert self.trainer is not None
        self.trainer.finite.resume(self._run.forget_after(state.global_step))
        self._advance(state.global_step, "")
        self._time = time.monotonic()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember the learning rate of this step, before the scheduler changes it."""
        assert self.trainer is not None
        self._rate = self.trainer._get_learning_rate()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.trainer is not None
        now = time.monotonic()
        parts = {} if self.trainer.finite.skipped else dict(self.trainer.parts)
        record = {"step": state.global_step, **(parts or {"skipped": True}), "learning_rate": self._rate}
        self._run.log(record | {"seconds": now - self._time} | self._extra())
        self._time = now
        self._advance(state.global_step, ", ".join(f"{name} {value:.4f}" for name, value in parts.items()))


def trainer_arguments(scratch: Path, runtime: Runtime, **fields: Any) -> TrainingArguments:
    """TrainingArguments without what this package does itself: logs, saves, reports, progress bars."""
    device = choose_device(runtime.device)
    transformers_logging.set_verbosity_error()
    with distributed.hidden_launch():
        made = TrainingArguments(
            output_dir=str(scratch),
            use_cpu=device.type == "cpu",
            bf16=runtime.bf16,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            remove_unused_columns=False,
            dataloader_pin_memory=device.type == "cuda",
            logging_nan_inf_filter=False,
            **fields,
        )
    made.skip_not_finite = runtime.non_finite == "skip"
    made.distributed_state.process_index = distributed.rank()  # only rank 0 makes folders
    set_trackers(made, runtime.report_to if distributed.is_main() else ())
    if made.n_gpu > 1:
        made._n_gpu = 1  # with several visible GPUs the Trainer would wrap the model in DataParallel
    return made


class TicketTrainer(Trainer):  # type: ignore[misc]
    """Trains an objective given as sums and counts; several ranks share every batch."""

    def __init__(
        self,
        *,
        objective: Objective,
        build_optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,  # None takes the Trainer's AdamW
        schedule: Callable[[int], float] | None = None,  # factor of the rate by step; None takes the Trainer's own
        in_order: bool = False,  # visit the training set in its own order (its items are whole batches)
        save_weights: bool = True,  # put weights into checkpoints; a mask search keeps its state in the optimizer
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.remove_callback(PrinterCallback)  # it would write to stdout, where only results go
        self.objective = objective
        self.parts: dict[str, float] = {}
        self.loss_is_scaled_for_ga = True
        self._build_optimizer = build_optimizer
        self._schedule = schedule
        self._in_order = in_order
        self._save_weights = save_weights
        self._totals: dict[str, Tensor] = {}
        self._staging: str | None = None
        self._random_state: list[Tensor] = []
        self._random_states: list[list[Tensor]] = []
        self.finite = FiniteSteps(skip=self.args.skip_not_finite)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, StepLog):
                callback.trainer = self

    def create_optimizer(self, model: Any = None) -> Any:
        if self._build_optimizer is None:
            return super().create_optimizer(model)
        self.optimizer: torch.optim.Optimizer = self._build_optimizer(self.model)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self._schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self._schedule)
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset) if self._in_order else super()._get_train_sampler(train_dataset)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Return this rank's micro-batches of one optimizer step, and count each part of the loss over all of them."""
        # Remembered so that a step that fails can be repeated with the same dropout.
        self._random_state = parallel.random_state()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        # Counts are those of the whole step, on all ranks: micro-batches of different sizes then average correctly.
        totals: dict[str, Tensor] = {}
        for batch in batches:
            for name, count in self.objective.counts(batch).items():
                totals[name] = totals.get(name, torch.zeros((), dtype=torch.long, device=count.device)) + count
        self._totals = {name: total.clamp(min=1) for name, total in totals.items()}
        self.parts = {}
        return [parallel.shard_batch(batch, distributed.rank(), distributed.world_size()) for batch in batches], None

    def training_step(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        """Run forward and backward of one micro-batch; all-reduce the gradients at the last one of a step."""
        present = parallel.nonempty(inputs)
        if present:
            loss = super().training_step(model, present, *rest, **options)
        else:  # fewer examples than ranks
            loss = torch.zeros((), device=self.args.device)
            self._add_parts({})
        if self.accelerator.sync_gradients:
            parallel.all_reduce_gradients(value for group in self.optimizer.param_groups for value in group["params"])
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of one micro-batch, divided by the counts of the whole step."""
        # Accelerate's autocast covers the model's own forward only, and objectives call the encoder inside it.
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            sums = self.objective(model, inputs)
        loss = sum(self.objective.weights[name] * value / self._totals[name] for name, value in sums.items())
        self._add_parts(sums)
        return loss

    def _add_parts(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of a micro-batch, over all ranks, to the logged parts of the loss."""
        own = {name: float(sums[name].detach()) if name in sums else 0.0 for name in self._totals}
        for name, value in zip(own, distributed.all_reduce_sums(list(own.values())), strict=True):
            self.parts[name] = self.parts.get(name, 0.0) + value / int(self._totals[name])

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Check loss and gradients; raise on, or skip, non-finite steps."""
        norm = gradient_norm(self.optimizer) if grad_norm is None else float(grad_norm)
        self.finite.check(self.state.global_step + 1, self.parts, norm, self.optimizer)
        return grad_norm

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        self._random_states = distributed.all_gather(parallel.random_state())
        distributed.on_main(lambda: self._write_checkpoint(model, trial))

    def _write_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint to a staging folder, move it into place when it is complete, and remove older ones."""
        target, name = Path(self.args.output_dir), f"{CHECKPOINT}{self.state.global_step}"
        if (target / name).is_dir():
            return  # the same state; removing it first would leave a moment without any checkpoint
        self._staging = str(target / ".incomplete")
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            super()._save_checkpoint(model, trial)
            # Flush before the rename, with the log of the steps that a run resumed from here does not repeat.
            staged, log = Path(self._staging) / name, target.parent / METRICS
            for path in (*staged.rglob("*"), staged, *([log] if log.exists() else [])):
                to_disk(path)
            staged.rename(target / name)
            to_disk(target)
        except (*REFUSALS, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
            silent = any(word in str(error) for word in ("inline_container", "iostream"))  # it does not say why
            hidden = "is the disk full? " if silent else ""
            raise TrainingError(
                f"Could not write a checkpoint under {target}: {hidden}{error}. The previous checkpoint is intact; "
                "free some space and run the same command again."
            ) from error
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None
        # Only the new checkpoint is needed.
        for old in checkpoints(target)[:-1]:
            shutil.rmtree(old)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights, unless the optimizer's state is all that a checkpoint needs."""
        if self._save_weights and not isinstance(self.model, PreTrainedModel):
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self.model, str(folder / WEIGHTS))  # handles tensors that several models share
        elif self._save_weights:
            super().save_model(output_dir, _internal_call)
        elif output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)

    def keep_last_good_state(self) -> None:
        """Write a checkpoint from which the failed step can be repeated with the same dropout."""
        parallel.set_random_state(self._random_state)
        self._save_checkpoint(self.model)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        parallel.save_random_states(Path(output_dir), self._random_states)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            parallel.load_random_state(Path(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._save_weights and not isinstance(self.model, PreTrainedModel):
            load_model(self.model, str(Path(resume_from_checkpoint) / WEIGHTS))
        elif self._save_weights:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


def checkpoints(scratch: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    found = [path for path in scratch.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT)))


def last_step(scratch: Path) -> int:
    """Return the number of steps at the last complete checkpoint; 0 without one."""
    found = checkpoints(scratch)
    return int(found[-1].name.removeprefix(CHECKPOINT)) if found else 0


def run_training(trainer: TicketTrainer, run: RunDirectory) -> None:
    """Train to the end, from the last checkpoint if there is one; after an error or a signal a checkpoint is left."""
    # A signal after the last step of an earlier training of this command stops this one.
    distributed.raise_deferred_signal(distributed.all_reduce_max(distributed.kept()))
    found = distributed.on_main(lambda: [str(path) for path in checkpoints(run.scratch)])
    stop = StopOnSignal()
    trainer.add_callback(stop)
    try:
        with stop, tracked(trainer, run):
            trainer.train(resume_from_checkpoint=found[-1] if found else None)
            distributed.barrier()  # the Trainer reads the scratch folder last, and a finished run removes it
    except NotFiniteError as error:
        trainer.keep_last_good_state()
        kept = checkpoints(run.scratch)[-1]
        skip = "; or run the same command again with --non-finite skip, which skips such steps"
        failure = TrainingError(
            f"{error} Nothing of that step was applied; the last good state, after step {error.step - 1}, is kept in "
            f"{kept}. Lower --learning-rate, or check the data and weights, and use another "
            f"--out{'' if error.skipped >= MAX_SKIPPED else skip}."
        )
        failure.of_all = True
        raise failure from error
    # All steps may be done when the signal arrives: the result is then stored, and the next training stops.
    if stop.signal_number is not None and trainer.state.global_step < trainer.state.max_steps:
        name = signal.Signals(stop.signal_number).name
        raise Interrupted(
            stop.signal_number,
            f"Stopped by {name} after step {trainer.state.global_step} of {trainer.state.max_steps}; a checkpoint "
            f"is in {run.path}. Run the same command again to resume.",
        )
    distributed.keep(stop.received or 0)
