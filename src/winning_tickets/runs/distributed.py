"""Several processes that do one run together, as `torchrun` and `accelerate launch` start them.

All of them go through the same code. The first one, the main process, alone writes and prints; `on_main` does its part
and hands the outcome to the others, a failure included, so that all raise the same. They wait at a key-value store,
which a signal interrupts, and never for files. What ends one process ends all: it says why in the store and breaks its
connections, at which the others look there. In one process everything here is what it would be without this module.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from winning_tickets.runs.errors import ContentError, Interrupted, TicketsError, TrainingError, UsageError

LAUNCH = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE")
"""Variables in which launchers tell a process of the others."""
_LAST_WORDS = 3.0  # seconds for a process whose connection broke to say why
_FAREWELL = 5.0  # seconds for all to leave together: the store may live in the main process
_LONGEST_PAUSE = 0.05  # seconds between two looks at the store
_FAILED = "failed"
_KINDS = (UsageError, ContentError, TrainingError)


@dataclass
class Group:
    """The processes of a launch.

    Attributes:
        rank: this one's number; 0 is the main process.
        size: how many there are.
        store: what all of them can read and write.
        agreeing: group of processes for numbers on the CPU; None is the default one.
        own: it was formed here.
        turn: how many outcomes of the main process were handed over.
    """

    rank: int
    size: int
    store: Any
    agreeing: Any
    own: bool
    turn: int = 0

    def next_key(self) -> str:
        """Where the main process puts its next outcome; the same in all processes."""
        self.turn += 1
        return f"turn-{self.turn}"

    def outcome(self, key: str) -> dict[str, Any]:
        """What the main process puts under a key; the last process that reads it takes it away."""
        try:
            self._appears(key)
            found: dict[str, Any] = json.loads(self.store.get(key))
            if self.store.add(f"{key}-read", 1) == self.size - 1:
                self.store.delete_key(key)
                self.store.delete_key(f"{key}-read")
        except RuntimeError as error:
            raise self._broken(error) from error
        return found

    def connected(self, work: Callable[[], Any]) -> None:
        """Something that all processes do at once."""
        try:
            work()
        except RuntimeError as error:
            raise self._broken(error) from error

    def finish(self) -> None:
        """Stay until all are done with the store, which may live in the main process."""
        self._stay(f"done-{self.next_key()}")

    def fail(self, error: BaseException) -> BaseException:
        """Tell the others why, and break the connections, so that they look.

        Returns:
            What is to be raised: the error, or that of another process which led to it.
        """
        reason = error
        with suppress(RuntimeError):
            mine = json.dumps(described(error, self.rank))
            first = self.store.compare_set(_FAILED, "", mine).decode()
            if first != mine and isinstance(error, SystemExit | KeyboardInterrupt):
                reason = error_of(json.loads(first))  # launchers stop all when one has failed
        if self.own:
            with suppress(RuntimeError):
                _disconnect()
        self._stay(f"{_FAILED}-all")  # for the same reason: the main process still has to tell why
        return reason

    def _stay(self, key: str) -> None:
        with suppress(RuntimeError):  # what was to be done is done
            if self.store.add(f"{key}-count", 1) == self.size:
                self.store.set(key, "")
            outlives = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # the store is not in the main process
            if self.rank == 0 or outlives:
                self._appears(key, _FAREWELL)

    def _appears(self, key: str, patience: float | None = None) -> bool:
        """Wait for a key. The store's own waiting cannot be interrupted, and tells of its timeouts on stderr.

        Returns:
            Whether it is there.
        """
        began, pause = time.monotonic(), 0.0
        while not self.store.check([key]):
            if patience is None and self.store.check([_FAILED]):
                raise self._failure()
            if patience is not None and time.monotonic() - began > patience:
                return False
            time.sleep(pause)
            pause = min(pause + 0.0002, _LONGEST_PAUSE)
        return True

    def _broken(self, error: RuntimeError) -> TicketsError:
        """Why the connection to another process broke."""
        with suppress(RuntimeError):
            if self._appears(_FAILED, _LAST_WORDS):
                return self._failure()
        where_in_c, end = r"^\[.*?\] ", ". "
        reason = re.sub(where_in_c, "", str(error)).partition(end)[0] or type(error).__name__
        lost = TrainingError(
            f"Another process of this run ended without a word, or cannot be reached ({reason}). Run the same command "
            "again: it goes on from the last checkpoint."
        )
        lost.told_by_any = True
        return lost

    def _failure(self) -> TicketsError:
        return error_of(json.loads(self.store.get(_FAILED)))


def described(error: BaseException, rank: int) -> dict[str, Any]:
    """An error as another process can raise it."""
    if isinstance(error, TicketsError):
        kind = next((kind for kind in _KINDS if isinstance(error, kind)), TicketsError)
        return {"kind": kind.__name__, "code": error.exit_code, "message": str(error), "of_all": error.of_all}
    if isinstance(error, KeyboardInterrupt):
        return {"kind": "", "code": 130, "message": "Interrupted.", "of_all": False}
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    what = "was stopped" if isinstance(error, SystemExit) else f"failed with {type(error).__name__}: {error}"
    return {"kind": "", "code": code, "message": f"Process {rank} {what}.", "of_all": False}


def error_of(told: dict[str, Any]) -> TicketsError:
    """The error that another process has `described`."""
    kind = next((kind for kind in _KINDS if kind.__name__ == told["kind"]), TicketsError)
    interrupted = told["code"] > 128
    error = Interrupted(told["code"] - 128, told["message"]) if interrupted else kind(told["message"])
    error.of_all = told["of_all"]
    return error


def join(number: int) -> Group:
    """Find the other processes, over a group of the caller's where there is one."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    own = not dist.is_initialized()
    if own:
        store, agreeing = _store(), None
        dist.init_process_group(
            _backend(),
            store=distributed_c10d.PrefixStore(f"connections-{number}", store),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        atexit.register(_disconnect)
    else:
        store, agreeing = distributed_c10d._get_default_store(), dist.new_group(backend="gloo")
    keys = distributed_c10d.PrefixStore(f"winning-tickets-{number}", store)
    return Group(dist.get_rank(), dist.get_world_size(), keys, agreeing, own)


@functools.cache
def _store() -> Any:
    from torch.distributed.rendezvous import rendezvous

    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {', '.join(missing)} is not set, so the processes cannot "
            "find each other. Start them with torchrun --nproc-per-node N -m winning_tickets ..., or unset WORLD_SIZE."
        )
    store, _, _ = next(rendezvous("env://", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])))
    return store


@functools.cache
def _backend() -> str:
    """How tensors travel. From here on a process sees one GPU; NCCL does not let several processes share it."""
    import torch

    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if not gpus:
        return "gloo"
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(gpus)] if seen is None else seen.split(",")
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        os.environ["CUDA_VISIBLE_DEVICES"] = names[local % gpus]
    return "gloo" if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > gpus else "cpu:gloo,cuda:nccl"


def _disconnect() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


_late = 0


def keep(number: int) -> None:
    """Remember a signal that stopped nothing; 0 is none."""
    global _late
    _late = number or _late


def kept() -> int:
    """The signal that this process has to heed yet; 0 is none."""
    return _late


def forget() -> None:
    """A command begins: what came before it does not concern it."""
    global _late
    _late = 0


def stop_between(number: int) -> None:
    """Stop before a training where a signal came at the end of an earlier one."""
    if number:
        name = signal.Signals(number).name
        raise Interrupted(
            number, f"Stopped by {name} at the end of a training, which is stored. Run the same command again to go on."
        )


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
    """Do a run with all processes of the launch; in one process, or inside such a run, nothing changes."""
    global _inside, _group
    if _inside:
        yield
        return
    forget()
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
    """What the main process finds or writes, for all."""
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
    """Make sure that all processes mean the same."""
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
