"""What stands beside the training loop: signals, checkpoints in time, the log of its steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from winning_tickets import processes
from winning_tickets.config import Runtime
from winning_tickets.random_states import draw_apart
from winning_tickets.rundir import RunDirectory

if TYPE_CHECKING:
    from winning_tickets.train import TicketTrainer


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
        self.signal_number = processes.largest(self.received or 0) or None
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
        if processes.largest(int(due)):  # clocks differ
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
