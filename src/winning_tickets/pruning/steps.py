"""Train in order: one optimizer step per batch, with a log and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from winning_tickets.config import Runtime
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.progress import Advance, progress
from winning_tickets.training.objectives.base import Batch
from winning_tickets.training.trainer import (
    Callback,
    Checkpoints,
    StepLog,
    TicketTrainer,
    run_training,
    trainer_arguments,
)


def counted(batches: Any, advance: Advance) -> Iterator[Batch]:
    """Yield batches, and report the progress after each one."""
    for number, batch in enumerate(batches, start=1):
        yield batch
        advance(number, "")


def train_in_order(
    title: str,
    run: RunDirectory,
    runtime: Runtime,
    batches: Any,  # of all steps: a sequence
    *,
    learning: Mapping[str, Any],
    record: Callable[[], dict[str, Any]] = dict,
    before: Sequence[Callback] = (),
    after: Sequence[Callback] = (),
    **options: Any,
) -> None:
    """Train one step per batch, in order, or resume; the callbacks `before` and `after` enclose log and checkpoints."""
    steps = len(batches)
    with progress(title, steps, quiet=runtime.quiet) as advance:
        trainer = TicketTrainer(
            args=trainer_arguments(run.scratch, runtime, max_steps=steps, **learning),
            batches=batches,
            callbacks=[*before, StepLog(run, advance, record), Checkpoints(runtime), *after],
            **options,
        )
        run_training(trainer, run)
