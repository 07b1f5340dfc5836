"""Several processes that do one run together, as `torchrun` and `accelerate launch` start them.

All of them go through the same code. The first one, the main process, alone writes and prints; `on_main` does its part
and hands the outcome to the others, a failure included, so that all raise the same. They wait at a key-value store,
which a signal interrupts, and never for files. What ends one process ends all: it says why in the store and breaks its
connections, at which the others look there. In one process everything here is what it would be without this module.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from winning_tickets import interruption
from winning_tickets.errors import TicketsError, UsageError
from winning_tickets.process_group import LAUNCH, Group, described, error_of, join

T = TypeVar("T")

_OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

_group: Group | None = None
_inside = False  # of a run that is done together
_alone = False  # the main process does something for all
_formed = 0  # groups so far


def _active() -> Group | None:
    return _group if _inside and not _alone else None


def count() -> int:
    """How many processes do this run."""
    group = _active()
    return 1 if group is None else group.size


def rank() -> int:
    """The number of this process in the run, from 0."""
    group = _active()
    return 0 if group is None else group.rank


def is_main() -> bool:
    """Whether this process writes and prints; before a run begins, the launch says so."""
    if _group is not None:
        return _group.rank == 0
    return not _is_launch() or os.environ.get("RANK", "0") == "0"


@contextmanager
def together() -> Iterator[None]:
    """Do a run with all processes of the launch; in one process, or inside such a run, nothing changes.

    Raises:
        UsageError: the launch does not say where the processes find each other.
        TicketsError: another process failed; its message and exit code.
    """
    global _inside, _group
    if _inside:
        yield
        return
    interruption.forget()
    group = _group = _join() if _is_launch() else None
    _inside = True
    try:
        yield
        if group is not None:
            group.finish()
    except BaseException as error:
        if group is None:
            raise
        _group = None
        reason = group.fail(error)
        if reason is error:
            raise
        raise reason from error
    finally:
        _inside = False


def on_main(work: Callable[[], T]) -> T:
    """What the main process finds or writes, for all.

    Args:
        work: done by the main process as if it were alone. Its result is JSON.

    Raises:
        TicketsError: the work failed; every process raises it.
    """
    global _alone
    group = _active()
    if group is None:
        return work()
    key = group.next_key()
    if group.rank == 0:
        _alone = True
        try:
            outcome = {"result": work()}
        except TicketsError as error:
            error.of_all = True
            group.store.set(key, json.dumps(described(error, 0)))
            raise
        finally:
            _alone = False
        group.store.set(key, json.dumps(outcome))
        return outcome["result"]
    outcome = group.outcome(key)
    if "message" in outcome:
        raise error_of(outcome)
    return outcome["result"]


def main_first(work: Callable[[], T]) -> T:
    """Done by the main process, then by the others, which find in a cache what it made."""
    made: list[T] = []
    on_main(lambda: made.append(work()))
    return made[0] if made else work()


def largest(value: int) -> int:
    """The largest of a number that each process has."""
    group = _active()
    if group is None:
        return value
    import torch
    import torch.distributed as dist

    tensor = torch.tensor(value)
    group.connected(lambda: dist.all_reduce(tensor, dist.ReduceOp.MAX, group=group.agreeing))
    return int(tensor)


def wait_for_all() -> None:
    """Go on when all processes have come here, such as before the main one removes what the others still read."""
    largest(0)


def totals(values: Sequence[float]) -> list[float]:
    """Sums over all processes, each in float64; the processes give numbers of the same things."""
    group = _active()
    if group is None or not values:
        return list(values)
    import torch
    import torch.distributed as dist

    tensor = torch.tensor(values, dtype=torch.float64)
    group.connected(lambda: dist.all_reduce(tensor, group=group.agreeing))
    return [float(value) for value in tensor]


def gathered(value: Any) -> list[Any]:
    """What each process has, by rank."""
    group = _active()
    if group is None:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * group.size
    group.connected(lambda: dist.all_gather_object(found, value, group=group.agreeing))
    return found


def add_up_(tensor: Any) -> None:
    """Replace a tensor, which all processes have in the same shape, by its sum over all of them."""
    group = _active()
    if group is not None:
        import torch.distributed as dist

        group.connected(lambda: dist.all_reduce(tensor))


def check_same(value: str, what: str) -> None:
    """Make sure that all processes mean the same.

    Raises:
        UsageError: they do not; every process raises it.
    """
    found = gathered(value)
    if len(set(found)) > 1:
        other = next(index for index, one in enumerate(found) if one != found[0])
        error = UsageError(
            f"The processes of a launch do one run together, and the {what} of process {other} is {found[other]}, that "
            f"of process 0 {found[0]}. Give all the same options and files, or start different runs one by one."
        )
        error.of_all = True
        raise error


@contextmanager
def unseen() -> Iterator[None]:
    """Inside this block the environment says nothing of other processes.

    The Trainer and Accelerate then do what they do in one process: no second division of batches, no wrapping of the
    model. What is about several processes is done here.
    """
    hidden = {name: os.environ.pop(name) for name in (*LAUNCH, *_OF_MPI) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def leave_to_main() -> bool:
    """Let the main process go on alone, for what several cannot do together.

    Returns:
        Whether this is the main process, or the only one; the others have nothing left to do.
    """
    main = is_main()
    for name in LAUNCH:  # what the main process starts must not look for the others
        os.environ.pop(name, None)
    return main


def _is_launch() -> bool:
    size = os.environ.get("WORLD_SIZE", "")  # a RANK alone is left over from something else
    if size.isdecimal() and int(size) > 1:
        return True
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized() and distributed.get_world_size() > 1


def _join() -> Group:
    """The group of this process; one that worked is used again by the next run."""
    global _group, _formed
    if _group is None:
        _formed += 1
        _group = join(_formed)
    return _group
