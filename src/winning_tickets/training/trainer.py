"""The one training loop: a thin subclass of the Hugging Face Trainer, for mask training and fine-tuning alike."""

from __future__ import annotations

import shutil
import signal
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
from winning_tickets.runs.progress import hand_over, tracked
from winning_tickets.training.finite import MAX_SKIPPED, FiniteSteps, NotFiniteError, gradient_norm
from winning_tickets.training.objectives.base import Objective
from winning_tickets.training.parallel import (
    add_up_gradients,
    draw_apart,
    filled,
    load_own_state,
    random_state,
    save_states,
    set_random_state,
    share_of,
)


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """Turns Ctrl-C and SIGTERM during training into a checkpoint and an orderly stop; a second signal stops at once.

    A signal to one of several processes stops all. From the start of the training these draw random numbers of their
    own.

    Attributes:
        signal_number: the signal that all processes have agreed to stop at; None before that.
        received: the signal that came to this process; None without one.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.received: int | None = None
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
            if callable(before):  # what Ctrl-C and SIGTERM do outside a training
                before(number, frame)
            raise SystemExit(128 + number)
        self.received = number

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        draw_apart()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.signal_number = distributed.largest(self.received or 0) or None
        if self.signal_number is not None and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint every so many steps, or else every so many seconds."""

    def __init__(self, runtime: Runtime) -> None:
        self._steps = runtime.checkpoint_steps
        self._seconds = runtime.checkpoint_seconds
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set `should_save` when it is time; not after the last step, whose result is saved anyway."""
        if state.global_step >= state.max_steps:
            return
        due = (
            time.monotonic() - self._last >= self._seconds
            if self._steps is None
            else state.global_step % self._steps == 0
        )
        if distributed.largest(int(due)):  # clocks differ
            control.should_save = True
            self._last = time.monotonic()


class StepLog(TrainerCallback):  # type: ignore[misc]
    """Appends one record a step to `metrics.jsonl` and advances the progress display.

    Args:
        run: where to.
        trainer: set after construction; the parts of the loss are read from it.
        advance: called after each step with the step and a short text.
        extra: more fields of the record.
    """

    def __init__(
        self,
        run: RunDirectory,
        advance: Callable[[int, str], None],
        extra: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.trainer: TicketTrainer | None = None
        self._run = run
        self._advance = advance
        self._extra = extra
        self._time = time.monotonic()
        self._rate = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget records of steps that a resumed run does again, and go on counting those that were skipped."""
        assert self.trainer is not None
        self.trainer.finite.go_on(self._run.forget_after(state.global_step))
        self._advance(state.global_step, "")
        self._time = time.monotonic()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the rate of this step, before the schedule moves on."""
        assert self.trainer is not None
        self._rate = self.trainer._get_learning_rate()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the step that just ended."""
        assert self.trainer is not None
        now = time.monotonic()
        parts = {} if self.trainer.finite.skipped else dict(self.trainer.parts)
        record = {"step": state.global_step, **(parts or {"skipped": True}), "learning_rate": self._rate}
        self._run.log(record | {"seconds": now - self._time} | self._extra())
        self._time = now
        self._advance(state.global_step, ", ".join(f"{name} {value:.4f}" for name, value in parts.items()))


CHECKPOINT = "checkpoint-"
WEIGHTS = "model.safetensors"


def arguments(scratch: Path, runtime: Runtime, **fields: Any) -> TrainingArguments:
    """TrainingArguments with everything off that this package does itself: logs, saves, reports, progress bars."""
    device = choose_device(runtime.device)
    transformers_logging.set_verbosity_error()
    with distributed.unseen():
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
    made.distributed_state.process_index = distributed.rank()  # only the main process makes folders
    hand_over(made, runtime.report_to if distributed.is_main() else ())
    if made.n_gpu > 1:
        made._n_gpu = 1  # with several GPUs in sight the Trainer would wrap the model in DataParallel
    return made


class TicketTrainer(Trainer):  # type: ignore[misc]
    """Trains an objective given as sums and counts.

    Where several processes do the run, each computes its rows of every batch; losses and gradients are summed.

    Args:
        objective: what is minimised.
        build_optimizer: makes the optimiser once the model is on its device; None takes the Trainer's AdamW.
        schedule: factor of the learning rate by step; None takes the Trainer's own schedule.
        in_order: visit the training set in its own order (its items are whole batches).
        save_weights: put the model's weights into checkpoints; a mask search keeps its state in the optimiser.
        options: everything else a Trainer takes.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        build_optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        schedule: Callable[[int], float] | None = None,
        in_order: bool = False,
        save_weights: bool = True,
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

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimiser that was asked for, else the Trainer's own."""
        if self._build_optimizer is not None:
            self.optimizer: torch.optim.Optimizer = self._build_optimizer(self.model)
            return self.optimizer
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule that was asked for, else the Trainer's own."""
        if self._schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self._schedule)
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset) if self._in_order else super()._get_train_sampler(train_dataset)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of one optimiser step, and how much each part of the loss counts in all of them."""
        self._random_state = random_state()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        totals: dict[str, Tensor] = {}
        for batch in batches:
            for name, count in self.objective.counts(batch).items():
                totals[name] = totals.get(name, torch.zeros((), dtype=torch.long, device=count.device)) + count
        self._totals = {name: total.clamp(min=1) for name, total in totals.items()}
        self.parts = {}
        return [share_of(batch, distributed.rank(), distributed.count()) for batch in batches], None

    def training_step(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        """The loss and the gradients of one micro-batch; those of all processes together at the last one of a step."""
        present = filled(inputs)
        if present:
            loss = super().training_step(model, present, *rest, **options)
        else:  # fewer examples than processes
            loss = torch.zeros((), device=self.args.device)
            self._add_parts({})
        if self.accelerator.sync_gradients:
            add_up_gradients(value for group in self.optimizer.param_groups for value in group["params"])
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one micro-batch, normalised by the counts of the whole step."""
        # Accelerate's autocast covers the model's own forward only, and objectives call the encoder inside it.
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            sums = self.objective(model, inputs)
        loss = sum(self.objective.weights[name] * value / self._totals[name] for name, value in sums.items())
        self._add_parts(sums)
        return loss

    def _add_parts(self, sums: Mapping[str, Tensor]) -> None:
        """Note what a micro-batch adds to the parts of the loss, in all processes."""
        own = {name: float(sums[name].detach()) if name in sums else 0.0 for name in self._totals}
        for name, value in zip(own, distributed.totals(list(own.values())), strict=True):
            self.parts[name] = self.parts.get(name, 0.0) + value / int(self._totals[name])

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The last look at a step before the optimiser's: one that is not finite stops here, or is passed over."""
        norm = gradient_norm(self.optimizer) if grad_norm is None else float(grad_norm)
        self.finite.check(self.state.global_step + 1, self.parts, norm, self.optimizer)
        return grad_norm

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        self._random_states = distributed.gathered(random_state())
        distributed.on_main(lambda: self._write_checkpoint(model, trial))

    def _write_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint aside and move it into place when it is complete; older ones go after that."""
        target, name = Path(self.args.output_dir), f"{CHECKPOINT}{self.state.global_step}"
        if (target / name).is_dir():
            return  # the same state; taking it away first would leave a moment without any
        self._staging = str(target / ".incomplete")
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            super()._save_checkpoint(model, trial)
            self._to_disk(Path(self._staging) / name)
            (Path(self._staging) / name).rename(target / name)
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
        for old in checkpoints(target)[:-1]:
            shutil.rmtree(old)

    def _to_disk(self, checkpoint: Path) -> None:
        """Bring a checkpoint to the disk, and the log of the steps that a run which goes on from it does not repeat."""
        log = Path(self.args.output_dir).parent / METRICS
        for path in (*checkpoint.rglob("*"), checkpoint, *([log] if log.exists() else [])):
            to_disk(path)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights, unless the optimiser's state is all there is to keep."""
        if self._save_weights and not isinstance(self.model, PreTrainedModel):
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self.model, str(folder / WEIGHTS))  # knows tensors that several models share
        elif self._save_weights:
            super().save_model(output_dir, _internal_call)
        elif output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)

    def keep_last_good_state(self) -> None:
        """Write a checkpoint from which the step that has just failed is done again with the same dropout."""
        set_random_state(self._random_state)
        self._save_checkpoint(self.model)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        save_states(Path(output_dir), self._random_states)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            load_own_state(Path(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._save_weights and not isinstance(self.model, PreTrainedModel):
            load_model(self.model, str(Path(resume_from_checkpoint) / WEIGHTS))
        elif self._save_weights:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


def checkpoints(scratch: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [path for path in scratch.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT)))


def last_step(scratch: Path) -> int:
    """Steps done at the last complete checkpoint; 0 without one."""
    found = checkpoints(scratch)
    return int(found[-1].name.removeprefix(CHECKPOINT)) if found else 0


def run_training(trainer: TicketTrainer, run: RunDirectory) -> None:
    """Train to the end, from the last checkpoint where there is one.

    A signal that comes when there is nothing left to stop stops the next training of the same command.

    Raises:
        TrainingError: the loss or the gradients became NaN or infinite (the state before that step is kept), or the
            disk is full.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    distributed.stop_between(distributed.largest(distributed.kept()))
    found = distributed.on_main(lambda: [str(path) for path in checkpoints(run.scratch)])
    stop = StopOnSignal()
    trainer.add_callback(stop)
    try:
        with stop, tracked(trainer, run):
            trainer.train(resume_from_checkpoint=found[-1] if found else None)
            distributed.wait_for_all()  # the Trainer looks at the scratch folder last, which a finished run removes
    except NotFiniteError as error:
        trainer.keep_last_good_state()
        kept = checkpoints(run.scratch)[-1]
        skip = "; or run the same command again with --non-finite skip, which passes over such steps"
        failure = TrainingError(
            f"{error} Nothing of that step was applied; the last good state, after step {error.step - 1}, is kept in "
            f"{kept}. Lower --learning-rate, or check the data and weights, and use another "
            f"--out{'' if error.skipped >= MAX_SKIPPED else skip}."
        )
        failure.of_all = True
        raise failure from error
    if stop.signal_number is not None and trainer.state.global_step < trainer.state.max_steps:
        name = signal.Signals(stop.signal_number).name
        raise Interrupted(
            stop.signal_number,
            f"Stopped by {name} after step {trainer.state.global_step} of {trainer.state.max_steps}; a checkpoint "
            f"is in {run.path}. Run the same command again to go on.",
        )
    distributed.keep(stop.received or 0)
