"""Distributed runs: several processes, started by `torchrun` or `accelerate launch`, do one run together.

Only rank 0 writes and prints. `on_main` hands the result or error of a function to the other ranks through a key-value
store. A rank that fails writes the reason to the store and closes its connections, so that the others end too.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from winning_tickets.runs.errors import ContentError, Interrupted, TicketsError, TrainingError, UsageError

logger = logging.getLogger(__name__)

LAUNCH = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE")
"""Environment variables of a launcher."""
_REASON_SECONDS = 6.0  # wait, after a connection broke, for the failed process to report why
_END_SECONDS = 8.0  # wait for all ranks to end together, because the store may live in rank 0
_LONGEST_PAUSE = 0.05  # seconds between two reads of the store
_FAILED = "failed"
_KINDS = (UsageError, ContentError, TrainingError)
_REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
"""Environment variables that `accelerate launch` sets for features that this library does not support."""
_OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

T = TypeVar("T")


@dataclass
class Group:
    """The processes of a launch."""

    rank: int  # of this process; 0 is the main process
    size: int  # number of processes
    store: Any  # key-value store that all ranks share
    cpu_group: Any  # process group for tensors on the CPU; None is the default group
    own: bool  # the process group was initialized here
    turn: int = 0  # number of results that rank 0 has handed to the others

    def next_key(self) -> str:
        """Return the key of rank 0's next result; the same on all ranks."""
        self.turn += 1
        return f"turn-{self.turn}"

    def wait_for_outcome(self, key: str) -> dict[str, Any]:
        """Return the outcome that rank 0 stores under a key; the last rank that reads the key removes it."""
        try:
            self._wait_for_key(key)
            found: dict[str, Any] = json.loads(self.store.get(key))
            if self.store.add(f"{key}-read", 1) == self.size - 1:
                self.store.delete_key(key)
                self.store.delete_key(f"{key}-read")
        except RuntimeError as error:
            raise self._connection_error(error) from error
        return found

    def collective(self, work: Callable[[], Any]) -> None:
        """Run a collective operation; raise the error of a rank that failed meanwhile."""
        try:
            work()
        except RuntimeError as error:
            raise self._connection_error(error) from error

    def all_reduce(self, tensor: Any, op: str = "SUM") -> Any:
        """Reduce a tensor on the CPU over all ranks."""
        import torch.distributed as dist

        self.collective(lambda: dist.all_reduce(tensor, getattr(dist.ReduceOp, op), group=self.cpu_group))
        return tensor

    def finish(self) -> None:
        """Wait until all ranks are done with the store, which may live in rank 0."""
        self._barrier(f"done-{self.next_key()}")

    def fail(self, error: BaseException) -> BaseException:
        """Report an error to the other ranks; return it, or the error of the rank that failed first."""
        reason = error
        with suppress(RuntimeError):
            mine = json.dumps(described(error, self.rank))
            first = self.store.compare_set(_FAILED, "", mine).decode()
            if first != mine and isinstance(error, SystemExit | KeyboardInterrupt):
                reason = error_of(json.loads(first))  # the launcher stops all ranks after one has failed
        if self.own:
            with suppress(RuntimeError):
                _disconnect()
        self._barrier(f"{_FAILED}-all")  # the launcher must not stop rank 0 before it has reported
        return reason

    def _barrier(self, key: str) -> None:
        with suppress(RuntimeError):  # the run itself is complete
            if self.store.add(f"{key}-count", 1) == self.size:
                self.store.set(key, "")
            outlives = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # the store lives in the launcher
            if self.rank == 0 or outlives:
                self._wait_for_key(key, _END_SECONDS)

    def _wait_for_key(self, key: str, patience: float | None = None) -> bool:
        """Wait for a key and return whether it appeared; without a time limit, raise the failure of another rank."""
        began, pause = time.monotonic(), 0.0  # no signal interrupts the store's own `wait`
        while not self.store.check([key]):
            if patience is None and self.store.check([_FAILED]):
                raise self._reported_error()
            if patience is not None and time.monotonic() - began > patience:
                return False
            time.sleep(pause)
            pause = min(pause + 0.0002, _LONGEST_PAUSE)
        return True

    def _connection_error(self, error: RuntimeError) -> TicketsError:
        with suppress(RuntimeError):
            if self._wait_for_key(_FAILED, _REASON_SECONDS):
                return self._reported_error()
        where_in_c, end = r"^\[.*?\] ", ". "
        reason = re.sub(where_in_c, "", str(error)).partition(end)[0] or type(error).__name__
        lost = TrainingError(
            f"Another process of this run ended without a message, or cannot be reached ({reason}). Run the same "
            "command again: it resumes from the last checkpoint."
        )
        lost.told_by_any = True
        return lost

    def _reported_error(self) -> TicketsError:
        return error_of(json.loads(self.store.get(_FAILED)))


_group: Group | None = None
_inside = False  # this process is inside `together`
_alone = False  # rank 0 is inside `on_main`
_formed = 0  # number of groups formed
_deferred = 0  # signal that came after the last step of a training, or in a step that failed


def described(error: BaseException, rank: int) -> dict[str, Any]:
    """Return an error as JSON, so that another rank can raise it."""
    if isinstance(error, TicketsError):
        kind = next((kind for kind in _KINDS if isinstance(error, kind)), TicketsError)
        return {"kind": kind.__name__, "code": error.exit_code, "lines": error.lines, "of_all": error.of_all}
    if isinstance(error, KeyboardInterrupt):
        return {"kind": "", "code": 130, "lines": ["Interrupted."], "of_all": False}
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    what = "was stopped" if isinstance(error, SystemExit) else f"failed with {type(error).__name__}: {error}"
    return {"kind": "", "code": code, "lines": [f"Process {rank} {what}."], "of_all": False}


def error_of(description: dict[str, Any]) -> TicketsError:
    """Return the error that another rank has `described`."""
    kind = next((kind for kind in _KINDS if kind.__name__ == description["kind"]), TicketsError)
    interrupted = description["code"] > 128
    lines = description["lines"]
    error = Interrupted(description["code"] - 128, *lines) if interrupted else kind(*lines)
    error.of_all = description["of_all"]
    return error


def _join() -> Group:
    """Connect to the other ranks, through the caller's process group if there is one; later runs reuse the group."""
    global _group, _formed
    if _group is not None:
        return _group
    _formed += 1
    import torch

    dist: Any = torch.distributed
    own = not dist.is_initialized()
    if own:
        store, cpu_group = _store(), None
        dist.init_process_group(
            _backend(),
            store=dist.PrefixStore(f"connections-{_formed}", store),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        atexit.register(_disconnect)
    else:
        cpu_group = dist.new_group(backend="gloo")
        store = _new_store(cpu_group)
    keys = dist.PrefixStore(f"winning-tickets-{_formed}", store)
    _group = Group(dist.get_rank(), dist.get_world_size(), keys, cpu_group, own)
    return _group


@functools.cache
def _store() -> Any:
    import torch

    dist: Any = torch.distributed
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {', '.join(missing)} is not set, so the processes cannot "
            "find each other. Start them with torchrun --nproc-per-node N -m winning_tickets ..., or unset WORLD_SIZE."
        )
    store, _, _ = next(dist.rendezvous("env://", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])))
    return store


def _new_store(cpu_group: Any) -> Any:
    """Return a store in rank 0 for processes that the caller has connected, whose own store is private to torch."""
    import torch

    dist: Any = torch.distributed
    store, address = None, [("", 0)]
    if dist.get_rank() == 0:
        host = os.environ.get("MASTER_ADDR") or socket.gethostname()
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        address = [(host, store.port)]
    dist.broadcast_object_list(address, group=cpu_group)
    return store or dist.TCPStore(*address[0], is_master=False)


def _backend() -> str:
    """Return the backend, and select a GPU for this process if there are any; NCCL lets no processes share a GPU."""
    import torch

    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if not gpus:
        return "gloo"
    torch.cuda.set_device(local % gpus)  # from here on, the device `cuda` is this GPU
    return "gloo" if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > gpus else "cpu:gloo,cuda:nccl"


def _disconnect() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def keep(number: int) -> None:
    """Defer a signal, or 0 for none, that came after the last step of a training or in a step that failed."""
    global _deferred
    _deferred = number or _deferred


def kept() -> int:
    """Return the deferred signal; 0 means no signal."""
    return _deferred


def raise_deferred_signal(number: int) -> None:
    """Raise `Interrupted` for a signal that was deferred to this training; 0 means no signal."""
    global _deferred
    if number:
        _deferred = 0
        name = signal.Signals(number).name
        raise Interrupted(
            number,
            f"Stopped by {name} before the next training began. Run the same command again to resume.",
        )


def _active() -> Group | None:
    return _group if _inside and not _alone else None


def world_size() -> int:
    """Return the number of processes of this run."""
    group = _active()
    return 1 if group is None else group.size


def rank() -> int:
    """Return the rank of this process in the run."""
    group = _active()
    return 0 if group is None else group.rank


def is_main() -> bool:
    """Return whether this process is rank 0, which writes and prints."""
    if _group is not None:
        return _group.rank == 0
    return launched() == 1 or os.environ.get("RANK", "0") == "0"


@contextmanager
def together() -> Iterator[None]:
    """Do the run in the block with all processes of the launch; a single process or a nested run works as usual."""
    global _inside, _group, _deferred
    if _inside:
        yield
        return
    _deferred = 0
    check_launcher()
    group = _group = _join() if launched() > 1 else None
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
    """Run `work` on rank 0 alone and return its JSON result on all ranks; all ranks raise its error."""
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
    outcome = group.wait_for_outcome(key)
    if "lines" in outcome:
        raise error_of(outcome)
    return outcome["result"]


def main_first(work: Callable[[], T]) -> T:
    """Run `work` on rank 0 first, then on the other ranks, which find its result in a cache."""
    made: list[T] = []
    on_main(lambda: made.append(work()))
    return made[0] if made else work()


def all_reduce_max(value: int) -> int:
    """Return the maximum of a number over all ranks."""
    group = _active()
    if group is None:
        return value
    import torch

    return int(group.all_reduce(torch.tensor(value), "MAX"))


def all_reduce_sums(values: Sequence[float]) -> list[float]:
    """Return the sums of numbers over all ranks, in float64."""
    group = _active()
    if group is None or not values:
        return list(values)
    import torch

    return [float(value) for value in group.all_reduce(torch.tensor(values, dtype=torch.float64))]


def all_gather(value: Any) -> list[Any]:
    """Return the values of all ranks, by rank."""
    group = _active()
    if group is None:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * group.size
    group.collective(lambda: dist.all_gather_object(found, value, group=group.cpu_group))
    return found


def all_reduce_(tensor: Any) -> None:
    """Replace a tensor by its sum over all ranks."""
    group = _active()
    if group is not None:
        import torch.distributed as dist

        group.collective(lambda: dist.all_reduce(tensor))


@contextmanager
def collectives() -> Iterator[None]:
    """Run collective operations of torch; where one of them fails, raise the error of the rank that failed."""
    try:
        yield
    except RuntimeError as error:
        import torch.distributed as dist

        group = _active()
        lost = isinstance(error, dist.DistError) or "gloo" in str(error)
        if group is None or not lost:
            raise
        raise group._connection_error(error) from error


def check_same(value: str, what: str) -> None:
    """Refuse a launch whose ranks do not agree on a value."""
    found = all_gather(value)
    if len(set(found)) > 1:
        other = next(index for index, one in enumerate(found) if one != found[0])
        error = UsageError(
            f"The processes of a launch do one run together, and the {what} of process {other} is {found[other]}, that "
            f"of process 0 {found[0]}. Give all the same options and files, or start different runs one by one."
        )
        error.of_all = True
        raise error


@contextmanager
def hidden_launch() -> Iterator[None]:
    """Hide the launch from transformers and Accelerate, which would join the processes in their own way."""
    hidden = {name: os.environ.pop(name) for name in (*LAUNCH, *_OF_MPI) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def continues_alone() -> bool:
    """Return whether this is rank 0, which does this command alone; the other ranks have nothing to do."""
    main = is_main()
    for name in LAUNCH:  # subprocesses must not look for the other ranks
        os.environ.pop(name, None)
    return main


def check_launcher() -> None:
    """Refuse options of `accelerate launch` that are not supported here; name those that are followed."""
    # The options arrive as environment variables; ignoring them would train in another way than the user asked for.
    for name, what in _REFUSED.items():
        if os.environ.get(name, "").lower() in ("1", "true"):
            raise UsageError(
                f"accelerate launch was asked for {what} ({name}), which is not done here. Start the processes with "
                "torchrun, or with accelerate launch --multi_gpu; accelerate config may have chosen this. To shard a "
                "model over the processes give --shard to tickets search."
            )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16"):
        raise UsageError(f"accelerate launch was asked for --mixed_precision {precision}; use bf16, or no for float32.")
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise UsageError(
            f"accelerate launch was asked to compile with --dynamo_backend {backend}; leave that out, and give "
            "--compile to tickets search or tickets transfer."
        )
    if precision == "bf16":
        logger.info("Using bfloat16, as accelerate launch --mixed_precision bf16 asks.")


def launched() -> int:
    """Return the number of processes of this launch, whether they are inside `together` or not."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized() and (size := distributed.get_world_size()) > 1:
        return int(size)
    words = os.environ.get("WORLD_SIZE", "")  # a RANK alone does not make a launch
    return max(1, int(words)) if words.isdecimal() else 1
