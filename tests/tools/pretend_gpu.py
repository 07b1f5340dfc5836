"""A pretend GPU for tests on machines without one: which tensors mix, how much is launched, what waits for the device.

Inside `with PretendGPU() as gpu:` torch has one CUDA device. Its tensors say that they are on `cuda:0`, keep their data
on the CPU, and refuse to mix with CPU tensors by CUDA's rules. Everything that reaches the device is counted:

- a launch is a call of an aten operator that is neither a view nor an allocation; a real operator may launch more;
- a sync is a call whose result the host has to wait for: a number that is read, a shape that depends on the data;
- an upload is a copy from pageable host memory that is not `non_blocking`, for which the host waits as well.

It has no timing, no streams and no memory of its own, and the limits of CUDA's kernels are not known to it. Autocast
has no effect: all is computed in the types of the tensors. The CPU's random generator serves both devices.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from winning_tickets.models import layers
from winning_tickets.runs import ambient

CUDA = torch.device("cuda", 0)
_STAND_IN = torch.device("meta")
"""The device under which torch's C++ knows these tensors: a CPU build has no CUDA, and `meta` has no data to touch."""

_WITHOUT_KERNEL = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
)
_SYNCS = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_consecutive", "unique_dim"}
    | {"equal", "bincount", "repeat_interleave"}
)
_COPIES = frozenset({"copy", "_to_copy", "_foreach_copy"})
_INDEXED = frozenset({"index", "_unsafe_index", "index_put", "_index_put_impl", "_unsafe_index_put"})


@dataclass(eq=False)
class Counts:
    """Numbers of launches, syncs and uploads, and the source lines and operators that they come from."""

    launches: Counter[str] = field(default_factory=Counter)  # by source line
    syncs: Counter[str] = field(default_factory=Counter)  # by source line and operator
    uploads: Counter[str] = field(default_factory=Counter)  # by source line and operator
    operators: Counter[str] = field(default_factory=Counter)  # launches by operator

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Launches, syncs, uploads."""
        return self.launches.total(), self.syncs.total(), self.uploads.total()

    def report(self, most: int = 12) -> str:
        """Describe the numbers and the lines that most of them come from, for the message of a test that fails."""
        launches, syncs, uploads = self.numbers
        parts = [f"{launches} launches, {syncs} syncs, {uploads} uploads"]
        for title, counter in (("launches", self.launches), ("syncs", self.syncs), ("uploads", self.uploads)):
            parts += [f"  {title}: {number} {place}" for place, number in counter.most_common(most)]
        return "\n".join(parts)


class PretendTensor(Tensor):
    """A tensor on the pretend GPU; `on_cpu` has its data."""

    on_cpu: Tensor
    # Functions of torch get the tensor as it is; what is computed with it goes through `__torch_dispatch__`.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, data: Tensor) -> PretendTensor:
        made: PretendTensor = Tensor._make_wrapper_subclass(
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            layout=data.layout,
            device=_STAND_IN,
        )
        made.on_cpu = data
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _call(func, args, dict(kwargs or {}))

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def data_ptr(self) -> int:
        return self.on_cpu.data_ptr()

    def untyped_storage(self) -> Any:
        return self.on_cpu.untyped_storage()

    def get_device(self) -> int:
        return 0

    def is_pinned(self, device: Any = None) -> bool:
        return False

    def __deepcopy__(self, memo: dict[int, Any]) -> PretendTensor:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied.detach(), self.requires_grad)
        memo[id(self)] = copied
        assert isinstance(copied, PretendTensor)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A file has the values; who loads it says where to.
        return self.detach().cpu().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"PretendTensor({self.on_cpu})"


class PretendGPU:
    """One pretend CUDA device for the time of a `with` block; it counts what it is told to do."""

    active: ClassVar[PretendGPU | None] = None

    def __init__(self) -> None:
        self.counts = Counts()  # since the block began
        self._regions: list[Counts] = [self.counts]
        self._paused = 0
        self._stack = ExitStack()

    def __enter__(self) -> PretendGPU:
        assert PretendGPU.active is None, "There is one pretend GPU."
        with ExitStack() as stack:
            for context in self._replacements():
                stack.enter_context(context)
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings(
                "ignore", message=".*pin_memory.*"
            )  # the loader of a CPU build finds no accelerator
            stack.enter_context(_swapped_parameters())
            stack.enter_context(self._modes())
            self._stack = stack.pop_all()
        PretendGPU.active = self
        return self

    def __exit__(self, *details: object) -> None:
        PretendGPU.active = None
        self._stack.close()

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Count what happens inside the block."""
        region = Counts()
        self._regions.append(region)
        try:
            yield region
        finally:
            self._regions.remove(region)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do as if there were no pretend GPU inside the block, which may use the device `meta` as it is."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    @property
    def is_paused(self) -> bool:
        return self._paused > 0

    def count(self, kind: str, operator: str) -> None:
        """Add one launch, sync or upload."""
        place = _place()
        for region in self._regions:
            counter: Counter[str] = getattr(region, kind)
            counter[place if kind == "launches" else f"{place} {operator}"] += 1
            if kind == "launches":
                region.operators[operator] += 1

    @contextmanager
    def _modes(self) -> Iterator[None]:
        with _Functions(self), _Operators(self):
            yield

    def _replacements(self) -> Iterator[Any]:
        """Replace what a CPU build cannot do; modes act in one thread alone, so new threads get their own."""
        yield from (mock.patch.object(torch.cuda, name, new, create=True) for name, new in _cuda_module(self).items())
        for name in ("get_rng_state", "set_rng_state", "get_rng_state_all", "set_rng_state_all", "manual_seed_all"):
            yield mock.patch.object(torch.cuda.random, name, getattr(_Generators, name))
        # Lists of tensors are passed to one kernel, as on a GPU.
        kinds = [*_foreach_utils._foreach_supported_types, PretendTensor]
        yield mock.patch.object(_foreach_utils, "_foreach_supported_types", kinds)
        devices = [*_foreach_utils._get_foreach_kernels_supported_devices(), _STAND_IN.type]
        yield mock.patch.object(_foreach_utils, "_get_foreach_kernels_supported_devices", return_value=devices)
        run = threading.Thread.run

        def run_with_modes(thread: threading.Thread) -> None:
            with self._modes():
                run(thread)

        yield mock.patch.object(threading.Thread, "run", run_with_modes)
        yield from self._loaders()
        # To the library, the modes are the device and not the state of a caller, and its tensors are plain ones.
        for name in ("_without_function_modes", "_without_dispatch_modes"):
            yield mock.patch.object(ambient, name, nullcontext)
        yield mock.patch.object(layers, "_problem", return_value="")

    def _loaders(self) -> Iterator[Any]:
        """Models are loaded as without a GPU: on the CPU, by way of the device `meta`."""
        from transformers import PreTrainedModel

        load = PreTrainedModel.from_pretrained.__func__

        @functools.wraps(load)
        def from_pretrained(kind: Any, *args: Any, **options: Any) -> Any:
            with self.paused():
                return load(kind, *args, **options)

        yield mock.patch.object(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes every aten call, as tensors can be made without any tensor."""

    def __init__(self, gpu: PretendGPU) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._gpu.is_paused:
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():  # where operators come that are made of others
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        return _call(func, args, dict(kwargs))


class _Functions(TorchFunctionMode):
    """Takes every function of torch before C++ does, which would look for a CUDA device."""

    def __init__(self, gpu: PretendGPU) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._gpu.is_paused:
            return func(*args, **kwargs)
        if func is Tensor.pin_memory:
            return args[0]
        if func is Tensor.cuda:
            return args[0].to(_STAND_IN)
        # A number that is assigned stays on the CPU, as for a GPU.
        if (
            func is Tensor.__setitem__
            and isinstance(args[0], PretendTensor)
            and isinstance(args[2], bool | int | float)
        ):
            return func(args[0], args[1], torch.tensor(args[2], dtype=args[0].dtype))
        if func is Tensor.new_tensor and isinstance(args[0], PretendTensor):
            kwargs = {"dtype": args[0].dtype, "device": CUDA} | kwargs
            func, args = torch.tensor, args[1:]
        moves = func is Tensor.to
        args = tuple(_redirected(value, moves and index == 1) for index, value in enumerate(args))
        if "device" in kwargs:
            kwargs["device"] = _redirected(kwargs["device"], True)
        # Values are read on the host: C++ would not read any for the device `meta`.
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") == _STAND_IN:
            del kwargs["device"]
            wants_gradient = kwargs.pop("requires_grad", False)
            return func(*args, **kwargs).to(_STAND_IN).requires_grad_(wants_gradient)
        return func(*args, **kwargs)


def _redirected(value: Any, is_device: bool) -> Any:
    """Return the device that stands in for the pretend GPU, for whatever names that; else the value."""
    if isinstance(value, torch.device):
        return _STAND_IN if value.type == "cuda" else value
    if is_device and isinstance(value, str) and value.partition(":")[0] == "cuda":
        return _STAND_IN
    return _STAND_IN if is_device and isinstance(value, int) and not isinstance(value, bool) else value


def _call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Check, count and compute one aten operator."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    here = [value for value in tensors if isinstance(value, PretendTensor)]
    device = kwargs.get("device")
    target = None if device is None else torch.device(device).type
    makes = target in ("cuda", _STAND_IN.type)
    if not here and not makes:
        return func(*args, **kwargs)
    name = func._schema.name.partition("::")[2]
    kind = name.rstrip("_")
    _refuse_mixed(kind, name, args, here, [value for value in tensors if not isinstance(value, PretendTensor)])
    if PretendGPU.active is not None:
        _count(PretendGPU.active, func, name, args, kwargs, target)
    # Compute on the CPU.
    kwargs = tree_map(_data, kwargs) | ({"device": torch.device("cpu")} if makes else {})
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    # A tensor that is made in inference mode could not be a view of one that was not.
    ordinary = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with ordinary:
        return _wrapped(func(*tree_map(_data, args), **kwargs), tensors, target)


def _wrapped(result: Any, tensors: list[Tensor], target: str | None) -> Any:
    """Return the result of an operator as what it is on the pretend GPU."""
    # What was changed in place is itself; everything else that is computed is on the device, unless it was copied away.
    known = {id(_data(value)): value for value in tensors}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in known:
            return known[id(value)]
        return value if target == "cpu" else PretendTensor(value)

    return tree_map(wrapped, result)


def _data(value: Any) -> Any:
    return value.on_cpu if isinstance(value, PretendTensor) else value


def _refuse_mixed(kind: str, name: str, args: tuple[Any, ...], here: list[Any], others: list[Tensor]) -> None:
    """Raise what CUDA would raise: a CPU tensor may only be copied from, be an index, or have no dimensions."""
    if any(value.is_meta for value in others):
        raise RuntimeError(f"A tensor of the device meta reached {name} on the pretend GPU, which has no data for it.")
    if kind in _COPIES or not here:
        return
    if kind in _INDEXED:
        if not isinstance(args[0], PretendTensor):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        indices = tree_leaves(args[1])
        others = [value for value in others if not any(value is index for index in indices)]
    if any(value.dim() > 0 for value in others):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({name})"
        )


def _count(
    gpu: PretendGPU, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], target: str | None
) -> None:
    """Count a launch, and a sync or an upload where the host waits."""
    kind = name.rstrip("_")
    waits = (
        _waits_of_copy(kind, args, kwargs, target)
        if kind in _COPIES
        else _waits_of_index(args)
        if kind in _INDEXED
        else ["syncs"]
        if kind in _SYNCS and kwargs.get("output_size") is None
        else []
    )
    for wait in waits:
        gpu.count(wait, name)
    if kind not in _WITHOUT_KERNEL and not _is_view(func):
        gpu.count("launches", name)


def _waits_of_copy(kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], target: str | None) -> list[str]:
    """A copy between the devices makes the host wait, unless it is told not to."""
    if kind == "_to_copy":
        to_here, from_here = target != "cpu", isinstance(args[0], PretendTensor)
    else:  # into the first argument, from the second
        to_here, from_here = (isinstance(tree_leaves(value)[0], PretendTensor) for value in args[:2])
    patient = kwargs.get("non_blocking", len(args) > 2 and args[2])
    return [] if patient or to_here == from_here else ["uploads" if to_here else "syncs"]


def _waits_of_index(args: tuple[Any, ...]) -> list[str]:
    """A mask as an index has to be counted, unless it only fills; an index or value on the CPU is copied."""
    indices = [index for index in args[1] if isinstance(index, Tensor)]
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    value = args[2] if len(args) > 2 else None
    from_cpu = value is not None and not isinstance(value, PretendTensor)
    counted = masks and not (from_cpu and len(indices) == 1)
    copied = any(not isinstance(index, PretendTensor) for index in indices) or (from_cpu and not masks)
    return ["syncs"] * bool(counted) + ["uploads"] * copied


@functools.cache
def _is_view(func: Any) -> bool:
    """Return whether the result is the memory of an argument, seen in another way."""
    returned = func._schema.returns
    return bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write


def _place() -> str:
    """Return the line of the package that called, else the innermost line outside of torch and of this file."""
    frame, other = sys._getframe(2), None
    while frame is not None:
        file = frame.f_code.co_filename
        _, package, inside = file.rpartition(f"{os.sep}winning_tickets{os.sep}")
        if package:
            return f"{inside}:{frame.f_lineno}"
        if other is None and file != __file__ and f"{os.sep}torch{os.sep}" not in file:
            other = f"{'/'.join(Path(file).parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return other or "?"


@contextmanager
def _swapped_parameters() -> Iterator[None]:
    """A module that is moved keeps its Parameters and their ties, as it does between real devices."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


class _Generators:
    """The functions of `torch.cuda.random`; the CPU's generator serves both devices."""

    @staticmethod
    def get_rng_state(device: Any = "cuda") -> Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(new_state: Tensor, device: Any = "cuda") -> None:
        torch.set_rng_state(new_state)

    @staticmethod
    def get_rng_state_all() -> list[Tensor]:
        return [torch.get_rng_state()]

    @staticmethod
    def set_rng_state_all(new_states: Sequence[Tensor]) -> None:
        for state in new_states:
            torch.set_rng_state(state)

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """`torch.manual_seed` has seeded the generator."""


class _Stream:
    """A stream or an event: everything is done as soon as it is launched."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.device = CUDA

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *details: object) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in ("wait_stream", "wait_event", "record_event", "record", "wait", "query", "synchronize"):
            raise AttributeError(name)
        return lambda *args, **options: True


def _cuda_module(gpu: PretendGPU) -> dict[str, Any]:
    """Return the functions of `torch.cuda` on a machine with one device."""
    properties = SimpleNamespace(name="pretend GPU", major=9, minor=0, total_memory=80 << 30, multi_processor_count=132)
    generators = ("get_rng_state", "set_rng_state", "get_rng_state_all", "set_rng_state_all", "manual_seed_all")
    found: dict[str, Any] = {name: getattr(_Generators, name) for name in generators}
    found |= {"Stream": _Stream, "Event": _Stream, "stream": lambda stream: nullcontext(stream)}
    found |= {name: lambda *args, **options: _Stream() for name in ("current_stream", "default_stream")}
    ignored = ("_lazy_init", "set_device", "empty_cache", "reset_peak_memory_stats", "ipc_collect", "manual_seed")
    found |= {name: lambda *args, **options: None for name in ignored}
    numbers = ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved", "current_device")
    found |= {name: lambda *args, **options: 0 for name in numbers}
    return found | {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "device": lambda device: nullcontext(),
        "synchronize": lambda device=None: gpu.count("syncs", "synchronize"),
        "get_device_name": lambda device=None: properties.name,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (properties.major, properties.minor),
        "is_bf16_supported": lambda *args, **options: True,
        "mem_get_info": lambda device=None: (properties.total_memory, properties.total_memory),
    }
