"""The one training loop, for mask training and fine-tuning.

docs/explanation/training_loop.md says why this loop is our own, and what a step does.
"""

from __future__ import annotations

import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from transformers import get_linear_schedule_with_warmup, set_seed
from transformers.utils import logging as transformers_logging

from winning_tickets.config import Runtime
from winning_tickets.models.device import choose_device
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import METRICS, RunDirectory
from winning_tickets.runs.errors import Interrupted, TrainingError, UsageError, page
from winning_tickets.runs.files import REFUSALS, save_tensors, to_disk
from winning_tickets.runs.progress import check_trackers, tracked
from winning_tickets.tickets.masking import is_sharded
from winning_tickets.training import execution, parallel
from winning_tickets.training.objectives.base import Objective
from winning_tickets.training.optimizers import adamw
from winning_tickets.training.resident_memory import ResidentMemory

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint-"
MAX_SKIPPED = 10
"""Consecutive non-finite steps that are skipped; one more means that weights, data or learning rate are at fault."""


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

    def __init__(self, *, skip: bool) -> None:
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
        logger.info("%s The step was skipped.", _found(step, parts, norm))


def gradient_norm(optimizer: Any) -> Tensor:
    """Return the norm of all gradients of an optimizer's parameters; NaN or infinite as soon as one of them is."""
    if hasattr(optimizer, "gradient_norm"):  # an optimizer that clips needs a norm itself
        norm: Tensor = optimizer.gradient_norm()
        return norm
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    return torch.nn.utils.get_total_norm(gradients)


def _found(step: int, parts: Mapping[str, float], norm: float) -> str:
    shown = ", ".join(f"{name} = {value}" for name, value in parts.items())
    if all(map(math.isfinite, parts.values())):
        return f"The gradients are not finite at step {step} (norm = {norm}, {shown})."
    return f"The loss is not finite at step {step} ({shown})."


class Callback:
    """Acts at some moments of a training; a subclass defines those that it needs.

    It may read all attributes of the trainer, and set `should_save`, `should_stop` and `max_steps`.
    """

    stateful = False
    """Whether a checkpoint keeps the callback's state; a training does not resume from a checkpoint that lacks it."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last complete step, of tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that a checkpoint kept; this comes before `on_train_begin`."""

    def on_train_begin(self, trainer: TicketTrainer) -> None:
        """Act before the first step, or before the first step after a checkpoint was loaded."""

    def on_optimizer_step(self, trainer: TicketTrainer) -> None:
        """Act after the optimizer moved the weights; `step` is still that of the last complete step."""

    def on_step_end(self, trainer: TicketTrainer) -> None:
        """Act at the end of step `step`; a checkpoint is written afterwards if one is asked for."""

    def on_train_end(self, trainer: TicketTrainer) -> None:
        """Act after the last step, or after the step at which the training was stopped; not after an error."""


class StopOnSignal(Callback):
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

    def on_step_end(self, trainer: TicketTrainer) -> None:
        """Agree with the other ranks on a stop, and ask for a checkpoint."""
        self.signal_number = distributed.all_reduce_max(self.received or 0) or None
        if self.signal_number is not None and trainer.step < trainer.max_steps:
            trainer.should_save = trainer.should_stop = True


class Checkpoints(Callback):
    """Saves a checkpoint every so many steps, or else every so many seconds."""

    def __init__(self, runtime: Runtime) -> None:
        self._steps = runtime.checkpoint_steps
        self._seconds = runtime.checkpoint_seconds
        self._last = time.monotonic()

    def on_step_end(self, trainer: TicketTrainer) -> None:
        """Save when it is time, but not after the last step, whose result is saved anyway."""
        if trainer.step >= trainer.max_steps:
            return
        due = time.monotonic() - self._last >= self._seconds if self._steps is None else trainer.step % self._steps == 0
        if distributed.all_reduce_max(int(due)):  # clocks of ranks differ
            trainer.should_save = True
            self._last = time.monotonic()


class StepLog(Callback):
    """Appends one record per step to `metrics.jsonl` and advances the progress display; `extra` adds to the record."""

    def __init__(
        self, run: RunDirectory, advance: Callable[[int, str], None], extra: Callable[[], dict[str, Any]] = dict
    ) -> None:
        self._run = run
        self._advance = advance
        self._extra = extra
        self._time = time.monotonic()

    def on_train_begin(self, trainer: TicketTrainer) -> None:
        """Drop the records of steps that a resumed run repeats, and restore the number of skipped steps."""
        trainer.finite.resume(self._run.forget_after(trainer.step if trainer.resumed else None))
        self._advance(trainer.step, "")
        self._time = time.monotonic()

    def on_step_end(self, trainer: TicketTrainer) -> None:
        now = time.monotonic()
        parts = {} if trainer.finite.skipped else trainer.parts
        record = {"step": trainer.step, **(parts or {"skipped": True}), "learning_rate": trainer.learning_rate}
        norm, found = trainer.norm  # a record that has this norm needs no second copy from the device
        extra = {
            name: found if value is norm else value.item() if isinstance(value, Tensor) else value
            for name, value in self._extra().items()
        }
        for name, value in extra.items():
            if isinstance(value, float) and not math.isfinite(value):
                extra[name] = None  # JSON has no NaN
        self._run.log(record | {"seconds": now - self._time} | extra | trainer.args.execution)
        self._time = now
        self._advance(trainer.step, ", ".join(f"{name} {value:.4f}" for name, value in parts.items()))


@dataclass(frozen=True)
class TrainerArguments:
    """Settings of a training, where possible under the names of `transformers.TrainingArguments`."""

    output_dir: Path  # folder of the checkpoints
    device: torch.device
    max_steps: int
    learning_rate: float = 5e-5  # peak of the schedule
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0: the gradients are not clipped
    gradient_accumulation_steps: int = 1  # micro-batches of an optimizer step
    seed: int = 42
    bf16: bool = False
    torch_compile: bool = False
    gradient_checkpointing: bool = False
    shard: bool = False  # parameters of the model are DTensors
    skip_not_finite: bool = False
    report_to: tuple[str, ...] = ()  # trackers

    @property
    def execution(self) -> dict[str, Any]:
        """How steps are computed if not in plain float32; every record of the log includes it."""
        precision = execution.precision_of(self.device, bf16=self.bf16)
        facts = {} if precision == "float32" else {"precision": precision}
        return facts | ({"compiled": True} if self.torch_compile else {})

    def as_of_transformers(self) -> dict[str, Any]:
        """Return the settings that `transformers.TrainingArguments` has too, for trackers."""
        own = ("output_dir", "device", "skip_not_finite", "report_to", "gradient_checkpointing", "shard")
        shared = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in own}
        return shared | {"use_cpu": self.device.type == "cpu"}


def trainer_arguments(scratch: Path, runtime: Runtime, **settings: Any) -> TrainerArguments:
    """Return the settings of a training with checkpoints in `scratch`."""
    transformers_logging.set_verbosity_error()
    check_trackers(runtime.report_to)
    device = choose_device(runtime.device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())  # threads have a current device of their own
    execution.warn_of_slow_bf16(device, runtime)
    return TrainerArguments(
        output_dir=scratch,
        device=device,
        bf16=runtime.bf16,
        torch_compile=runtime.torch_compile,
        gradient_checkpointing=runtime.gradient_checkpointing,
        shard=runtime.shard,
        skip_not_finite=runtime.non_finite == "skip",
        report_to=runtime.report_to if distributed.is_main() else (),
        **settings,
    )


@dataclass(frozen=True)
class StepBatches:
    """The micro-batches of an optimizer step: this rank's rows of them, and the counts of all ranks' rows."""

    batches: Sequence[Mapping[str, Any]]  # there may be fewer rows than ranks
    totals: Mapping[str, int]  # divisor of each part of the loss, at least 1


class TicketTrainer:
    """Trains an objective given as sums and counts; several ranks share every batch."""

    def __init__(
        self,
        *,
        model: Any,
        objective: Objective,
        batches: Any,  # batch `i` of the training is `batches[i]`, always the same
        args: TrainerArguments,
        callbacks: Sequence[Callback] = (),
        steps_per_epoch: int | None = None,  # of the batches; None if an epoch is the whole training
        build_optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,  # from the model; None takes AdamW
        schedule: Callable[[int], float] | None = None,  # factor of the rate by step; None: linear after warm-up
        acting: Callable[[Mapping[str, Any]], AbstractContextManager[Any]] = nullcontext,  # around a micro-batch
        save_weights: bool = True,  # put weights into checkpoints; a mask search keeps its state in the optimizer
    ) -> None:
        self.model, self.objective, self.batches, self.args = model, objective, batches, args
        self.callbacks = list(callbacks)
        self.step, self.max_steps = 0, args.max_steps  # number of complete steps, and of all steps
        self.should_save = self.should_stop = False
        self.resumed = False  # whether the training continues from a checkpoint, which may be that of step 0
        self.parts: dict[str, float] = {}  # of the loss, over all ranks, at the last step
        self.learning_rate = 0.0  # at the last step
        self.norm = torch.zeros(()), 0.0  # of the gradients at the last step, on the device and read from it
        self.finite = FiniteSteps(skip=args.skip_not_finite)
        self.optimizer: torch.optim.Optimizer
        self.lr_scheduler: torch.optim.lr_scheduler.LRScheduler
        self._steps_per_epoch = steps_per_epoch or args.max_steps
        self._build_optimizer, self._schedule = build_optimizer, schedule
        self._acting, self._save_weights = acting, save_weights
        self._totals: Mapping[str, int] = {}  # divisors of the present step
        self._rank, self._world_size = distributed.rank(), distributed.world_size()
        self._random_state: dict[str, Any] = {}  # before the present step, so that it can be repeated
        if args.shard and not any(map(is_sharded, model.parameters())):
            raise UsageError(
                "--shard is for tickets search by mask training, and nothing is sharded here; leave it out."
            )

    def train(self, resume_from_checkpoint: Path | str | None = None) -> None:
        """Train to the last step, or until a callback stops the training."""
        set_seed(self.args.seed)
        self.model.to(self.args.device)
        state = None
        if resume_from_checkpoint is not None:
            checkpoint = Path(resume_from_checkpoint)
            state = _read_checkpoint(checkpoint, mapped=self.args.shard)
            if self._save_weights:  # before the optimizer is made, which may take its own state from the weights
                self.model.load_state_dict(state["model"])
        self._make_optimizer()
        if self.args.torch_compile:
            execution.compile_(self.model)
            if (teacher := getattr(self.objective, "teacher", None)) is not None:
                execution.compile_(teacher)  # a module of its own
        if self.args.gradient_checkpointing:
            execution.checkpoint_activations(self.model)
        if state is not None:
            self.step, self.resumed = state["step"], True
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["scheduler"])
            for name, callback in self._stateful.items():
                callback.load_state_dict(state["callbacks"][name])
        parallel.seed_by_rank()
        self.model.zero_grad()
        self._tell("on_train_begin")
        # From the first step on, generators continue from the checkpoint, whatever was drawn until here.
        if state is not None and self._rank < len(state["random_states"]):
            parallel.set_random_state(state["random_states"][self._rank])
        del state
        device, steps, memory = self.args.device, range(self.step, self.max_steps), ResidentMemory()
        with (
            execution.matrix_precision(device, bf16=self.args.bf16),
            execution.attention_for_training(self.model, device, bf16=self.args.bf16),
            parallel.prepared_ahead(self._prepare, steps, device) as prepared,
        ):
            while self.step < self.max_steps and not self.should_stop:
                self._random_state = parallel.random_state()
                if self.step % self._steps_per_epoch == 0:
                    parallel.draw_as_a_data_loader()
                began = time.monotonic()
                self._take_step(next(prepared))
                seconds = time.monotonic() - began
                if device.type == "cpu":
                    memory.after_step()
                if self.args.torch_compile and self.step == steps.start + 1:
                    logger.info("Compiled; the first step took %.1f s.", seconds)
                if self.step == steps.start + 2:  # the first one is slower
                    left = seconds * (self.max_steps - self.step)
                    execution.advise_bf16(device, bf16=self.args.bf16, seconds=left)
        self._tell("on_train_end")

    @property
    def _stateful(self) -> dict[str, Callback]:
        """The callbacks whose state is part of a checkpoint, by the name of their class."""
        return {type(callback).__name__: callback for callback in self.callbacks if callback.stateful}

    def _make_optimizer(self) -> None:
        args = self.args
        build = self._build_optimizer or (lambda model: adamw(model, args.learning_rate, args.weight_decay))
        self.optimizer = build(self.model)
        if self._schedule is None:
            self.lr_scheduler = get_linear_schedule_with_warmup(self.optimizer, args.warmup_steps, args.max_steps)
        else:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._schedule)

    def _prepare(self, step: int) -> StepBatches:
        """Build the micro-batches of the step after `step` complete ones, in a thread and without random numbers."""
        first, count = step * self.args.gradient_accumulation_steps, self.args.gradient_accumulation_steps
        batches = [self.batches[index] for index in range(first, first + count)]
        # Counts are those of the whole step, on all ranks: micro-batches of different sizes then average correctly.
        totals: dict[str, int] = {}
        for batch in batches:
            for name, found in self.objective.counts(batch).items():
                totals[name] = totals.get(name, 0) + int(found)
        if self.args.shard and (rows := min(len(batch["input_ids"]) for batch in batches)) < self._world_size:
            raise TrainingError(
                f"With --shard every process needs a segment of each batch, and that of step {step + 1} has {rows} "
                f"for {self._world_size} processes; use fewer, or raise --batch-tokens."
            )
        own = [parallel.shard_batch(batch, self._rank, self._world_size) for batch in batches]
        if self.args.device.type == "cuda":
            own = [parallel.each_tensor(batch, Tensor.pin_memory) for batch in own]
        return StepBatches(own, {name: max(1, total) for name, total in totals.items()})

    def _take_step(self, prepared: StepBatches) -> None:
        args, self._totals = self.args, prepared.totals
        self.model.train()
        sums = [self._run(batch) for batch in prepared.batches]
        parallel.all_reduce_gradients(value for group in self.optimizer.param_groups for value in group["params"])
        if args.max_grad_norm > 0:
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), args.max_grad_norm)
        else:
            norm = gradient_norm(self.optimizer)
        # One copy from the device, before the step is applied; it waits until all of these values are computed.
        read = self._read([*(value for found in sums for value in found.values()), norm])
        self.parts = self._add_parts([dict(zip(found, read, strict=False)) for found in sums])
        self.norm = norm, next(read)
        self.finite.check(self.step + 1, self.parts, self.norm[1], self.optimizer)
        self.optimizer.step()
        self._tell("on_optimizer_step")
        self.learning_rate = float(self.lr_scheduler.get_last_lr()[0])
        self.lr_scheduler.step()
        self.model.zero_grad()
        self.step += 1
        self._tell("on_step_end")
        if self.should_save:
            self.save_checkpoint()
            self.should_save = False

    def _run(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run this rank's rows of a micro-batch; the copy from pinned memory to the device does not block."""
        with self._acting(batch), execution.compiling():
            present = parallel.nonempty(batch)
            if not present:  # fewer rows than ranks
                return {}
            to = partial(Tensor.to, device=self.args.device, non_blocking=True)
            return self.training_step(parallel.each_tensor(present, to))

    def training_step(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run forward and backward of a micro-batch on the device; return the sum of each part of the loss."""
        # With --shard, the cache of autocast would keep a bfloat16 copy of every layer that is gathered.
        cached = not self.args.shard
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16, cache_enabled=cached):
            sums = self.objective(self.model, inputs)
        loss = sum(self.objective.weights[name] * value / self._totals[name] for name, value in sums.items())
        loss.backward()  # type: ignore[union-attr]
        return {name: value.detach() for name, value in sums.items()}

    def _read(self, values: Sequence[Tensor]) -> Iterator[float]:
        return iter(torch.stack([value.to(self.args.device) for value in values]).tolist())

    def _add_parts(self, sums: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the parts of the loss from the sums of this rank's micro-batches, over all ranks."""
        own = [found.get(name, 0.0) for found in sums for name in self._totals]
        parts = dict.fromkeys(self._totals, 0.0)
        for name, value in zip(list(parts) * len(sums), distributed.all_reduce_sums(own), strict=True):
            parts[name] += value / self._totals[name]
        return parts

    def _tell(self, moment: str) -> None:
        for callback in self.callbacks:
            getattr(callback, moment)(self)

    def save_checkpoint(self) -> None:
        """Write everything that the next step depends on; older checkpoints are removed."""
        random_states = distributed.all_gather(parallel.random_state())
        optimizer = self.optimizer.state_dict()  # on all ranks, which may share it
        distributed.on_main(lambda: self._write_checkpoint(random_states, optimizer))

    def keep_last_good_state(self) -> None:
        """Write a checkpoint from which the failed step can be repeated with the same dropout."""
        parallel.set_random_state(self._random_state)
        self.save_checkpoint()

    def _write_checkpoint(self, random_states: list[dict[str, Any]], optimizer: dict[str, Any]) -> None:
        """Write a file under another name and rename it when it is complete and on the disk."""
        folder = self.args.output_dir
        target, staged = folder / f"{CHECKPOINT}{self.step}", folder / "incomplete"
        if target.exists():
            return  # the same state
        state = {
            "step": self.step,
            "model": self.model.state_dict() if self._save_weights else None,
            "optimizer": optimizer,
            "scheduler": self.lr_scheduler.state_dict(),
            "random_states": random_states,
            "callbacks": {name: callback.state_dict() for name, callback in self._stateful.items()},
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(state, staged)
            # Sync the log, too: a run that resumes from here does not repeat its steps.
            log = folder.parent / METRICS
            for path in (staged, *([log] if log.exists() else [])):
                to_disk(path)
            staged.rename(target)
            to_disk(folder)
        except REFUSALS as error:
            raise TrainingError(
                f"Could not write a checkpoint under {folder}: {error}. The previous checkpoint is intact; "
                "free some space and run the same command again."
            ) from error
        finally:
            staged.unlink(missing_ok=True)
        # Only the new checkpoint is needed.
        for old in checkpoints(folder)[:-1]:
            old.unlink()


def _read_checkpoint(path: Path, *, mapped: bool) -> dict[str, Any]:
    """Return a checkpoint; if `mapped`, only the parts that are copied from it are read into memory."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    return state


def checkpoints(scratch: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    found = [path for path in scratch.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdecimal()]
    return sorted((path for path in found if path.is_file()), key=lambda path: int(path.name.removeprefix(CHECKPOINT)))


def last_step(scratch: Path) -> int:
    """Return the number of steps at the last complete checkpoint; 0 without one."""
    found = checkpoints(scratch)
    return int(found[-1].name.removeprefix(CHECKPOINT)) if found else 0


def _last_checkpoint(run: RunDirectory) -> str | None:
    """Return the last complete checkpoint of a run; all other files that a kill left in its scratch folder go."""
    run.scratch.mkdir(parents=True, exist_ok=True)  # with the folder of the run, for its log
    last = checkpoints(run.scratch)[-1:]
    for path in run.scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path not in last:
            with suppress(OSError):
                path.unlink()
    return str(last[0]) if last else None


def run_training(trainer: TicketTrainer, run: RunDirectory) -> None:
    """Train to the end, from the last checkpoint if there is one; after an error or a signal a checkpoint is left."""
    # A signal that came after the last step of the command's previous training stops this one.
    distributed.raise_deferred_signal(distributed.all_reduce_max(distributed.kept()))
    last = distributed.on_main(lambda: _last_checkpoint(run))
    stop = StopOnSignal()
    trainer.callbacks.append(stop)
    args = trainer.args
    try:
        with stop, tracked(run, args.report_to, trainer.model, args.as_of_transformers()):
            trainer.train(resume_from_checkpoint=last)
    except NotFiniteError as error:
        trainer.keep_last_good_state()
        kept = checkpoints(run.scratch)[-1]
        skip = "; or run the same command again with --non-finite skip, which skips such steps"
        failure = TrainingError(
            f"{error} Nothing of that step was applied; the last good state, after step {error.step - 1}, is kept in "
            f"{kept}. Lower --learning-rate, or check the data and weights, and use another "
            f"--out{'' if error.skipped >= MAX_SKIPPED else skip}. "
            + page("explanation/faults.md#non-finite-losses-and-gradients")
        )
        failure.of_all = failure.diverged = True
        raise failure from error
    finally:
        # All steps may be done when the signal arrives, or the step may fail: then the next training does not start.
        if not trainer.should_stop:
            distributed.keep(stop.received or 0)
    if stop.signal_number is not None and trainer.step < trainer.max_steps:
        name = signal.Signals(stop.signal_number).name
        raise Interrupted(
            stop.signal_number,
            f"Stopped by {name} after step {trainer.step} of {trainer.max_steps}; a checkpoint "
            f"is in {run.path}. Run the same command again to resume.",
        )
