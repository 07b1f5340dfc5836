"""How the processes of a launch find each other, wait for each other, and tell each other why they end."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from winning_tickets.errors import ContentError, Interrupted, TicketsError, TrainingError, UsageError

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
        """What the main process puts under a key; the last process that reads it takes it away.

        Raises:
            TicketsError: another process failed meanwhile.
        """
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
        """Something that all processes do at once.

        Raises:
            TicketsError: another one has failed, or is gone.
        """
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

        Args:
            key: what is waited for.
            patience: seconds; None waits until it is there.

        Returns:
            Whether it is there.

        Raises:
            TicketsError: without a limit to the patience: another process failed.
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
    """An error as another process can raise it.

    Args:
        error: any.
        rank: of the process that met it.
    """
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
    """Find the other processes, over a group of the caller's where there is one.

    Args:
        number: of groups formed so far; each has keys and connections of its own.

    Raises:
        UsageError: the launch does not say where the processes find each other.
    """
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
