"""The state of PyTorch around a call: what a caller has switched on or off never enters a result.

`neutral()` is around every public function that computes. Inside, all switches that change what PyTorch computes are as
in a new process; after it they are the caller's again, also if the call fails. Two stay: the number of threads, and
deterministic algorithms, which make runs on a GPU repeatable and change nothing on a CPU.
"""

from __future__ import annotations

import copy
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from winning_tickets.runs.errors import UsageError

_KEPT = object()  # in place of a usual value: the caller's value is only restored
_SEED = 67280421310721
"""Of PyTorch's generator at the beginning of a call. A new process has a random one, so nothing should depend on it."""

_FLAGS = {
    "cudnn_enabled": True,
    "cudnn_benchmark": False,
    "mkldnn_enabled": True,
    "mkldnn_deterministic": False,
    "nnpack_enabled": True,
    "deterministic_fill_uninitialized_memory": True,
    "cublas_allow_fp16_accumulation": False,
    "cpu_allow_fp16_reduced_precision_reduction": False,
    "math_sdp_allow_fp16_bf16_reduction": False,
}
"""Switches of the whole process with a getter `torch._C._get_NAME` and a setter `torch._C._set_NAME`."""
_ATTENTION = {"flash": True, "mem_efficient": True, "math": True, "cudnn": True, "overrideable": True, "fa3": False}
_ATTENTION_ORDER = [1, 2, 0, 3, 4]
_PRECISIONS = {
    ("generic", "all"): "none",  # `none` inherits from the entry above
    ("cuda", "all"): "none",
    ("cuda", "matmul"): "none",
    ("cuda", "conv"): "tf32",
    ("cuda", "rnn"): "tf32",
    ("mkldnn", "all"): "none",
    ("mkldnn", "matmul"): "none",
    ("mkldnn", "conv"): "none",
    ("mkldnn", "rnn"): "none",
}
"""Precision of float32 products by backend and operation. The general ones come first, as others inherit from them."""
_COMPILER_SETTINGS = ("torch._dynamo.config", "torch._inductor.config", "torch._functorch.config")
_MODULE_HOOKS = (
    *("forward_pre_hooks", "forward_hooks", "forward_hooks_always_called", "forward_hooks_with_kwargs"),
    *("backward_pre_hooks", "backward_hooks"),
    *("module_registration_hooks", "parameter_registration_hooks", "buffer_registration_hooks"),
)


@dataclass(frozen=True)
class _Switch:
    """A value that a caller may have changed, with the value that it has in a new process."""

    get: Callable[[], Any]
    set: Callable[[Any], Any]
    usual: Any = _KEPT

    @contextmanager
    def at_usual(self) -> Iterator[None]:
        before = self.get()
        if self.usual is not _KEPT and before != self.usual:
            self.set(self.usual)
        try:
            yield
        finally:
            if self.get() != before:
                self.set(before)


def _attribute(owner: Any, name: str, usual: Any = _KEPT) -> _Switch:
    return _Switch(partial(getattr, owner, name), partial(setattr, owner, name), usual)


@contextmanager
def neutral() -> Iterator[None]:
    """Keep the caller's PyTorch state out of the block, and restore it after the block; also a decorator.

    Verbs may run in several threads at once: state of a thread is each verb's own, and state of the process is put back
    when the last verb ends.

    Raises:
        UsageError: the caller is inside something that cannot be switched off, such as `torch.func.vmap`.
    """
    if getattr(_here, "inside", False):
        yield
        return
    _refuse_transforms()
    with ExitStack() as stack:
        stack.enter_context(_attribute(_here, "inside", True).at_usual())
        stack.enter_context(_the_process)
        stack.enter_context(_own_thread())
        yield


@contextmanager
def neutral_if_loaded() -> Iterator[None]:
    """The same, without loading PyTorch for what may not need it: until it is loaded, nobody has changed its state."""
    with neutral() if "torch" in sys.modules else nullcontext():
        yield


class _Here(threading.local):
    inside = False


_here = _Here()


class _Process:
    """The state of the whole process: set by the first of several verbs, and restored after the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verbs = 0
        self._stack = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._verbs:
                _refuse_replaced_functions()
                with ExitStack() as stack:
                    _enter_process(stack)
                    self._stack = stack.pop_all()
            self._verbs += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._verbs -= 1
            if not self._verbs:
                self._stack.close()


_the_process = _Process()


def _refuse_transforms() -> None:
    import torch

    inside = ""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        inside = "a transform of torch.func, such as vmap or grad"
    elif torch._C._get_tracing_state() is not None:
        inside = "torch.jit.trace"
    elif _gpus_are_in_use() and torch.cuda.is_current_stream_capturing():
        inside = "the capture of a CUDA graph"
    elif "torch._dynamo" in sys.modules and callable(torch._C._dynamo.eval_frame.get_eval_frame_callback()):
        inside = "a function that torch.compile has compiled"
    if inside:
        raise UsageError(f"This call is inside {inside}, which would change what it computes; make it outside.")


def _gpus_are_in_use() -> bool:
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _refuse_replaced_functions() -> None:
    """Refuse contexts that replace functions of PyTorch so that new modules have no data."""
    import torch

    for owner, name in ((torch.nn.Module, "register_parameter"), (torch.nn.init, "normal_")):
        found = getattr(owner, name)
        place = f"{found.__module__}.{found.__qualname__}"
        # While a model is loaded in another thread, transformers puts functions in place that do the same.
        if not place.startswith("torch.") and "<locals>" in place:
            raise UsageError(
                f"This call is inside a context that replaces {owner.__name__}.{name} by {place}, so that new models "
                "have no data; make it outside."
            )


def _enter_process(stack: ExitStack) -> None:
    """Set the state of the process to that of a new one, and keep what is needed to restore it."""
    import torch
    from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

    for switch in _process_switches():
        stack.enter_context(switch.at_usual())
    for name in _MODULE_HOOKS:
        stack.enter_context(_emptied(getattr(torch.nn.modules.module, f"_global_{name}")))
    for hooks in (_global_optimizer_pre_hooks, _global_optimizer_post_hooks):
        stack.enter_context(_emptied(hooks))
    if "torch._dynamo.eval_frame" in sys.modules:
        stack.enter_context(torch.compiler.set_stance("default"))
    stack.enter_context(_own_random_numbers())


def _process_switches() -> Iterator[_Switch]:
    import torch
    from transformers.utils import logging

    c: Any = torch._C
    yield _Switch(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
    if c._get_default_device() != "cpu":
        tensor = getattr(torch, c._get_default_device()).FloatTensor
        yield _Switch(lambda: tensor, torch.set_default_tensor_type, torch.FloatTensor)
    for name, usual in _FLAGS.items():
        if hasattr(c, f"_get_{name}"):  # some came with later versions
            yield _Switch(getattr(c, f"_get_{name}"), getattr(c, f"_set_{name}"), usual)
    for name, usual in _ATTENTION.items():
        if hasattr(c, f"_get_{name}_sdp_enabled"):
            yield _Switch(getattr(c, f"_get_{name}_sdp_enabled"), getattr(c, f"_set_sdp_use_{name}"), usual)
    yield _Switch(c._get_sdp_priority_order, c._set_sdp_priority_order, _ATTENTION_ORDER)
    yield from _precision_switches(c)
    yield _Switch(
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
        (False, True),
    )
    einsum = torch.backends.opt_einsum
    yield _attribute(einsum, "enabled", einsum.is_available())
    yield _attribute(einsum, "strategy", "auto" if einsum.is_available() else None)
    for name in ("overwrite_module_params_on_conversion", "swap_module_params_on_conversion"):
        yield _Switch(getattr(torch.__future__, f"get_{name}"), getattr(torch.__future__, f"set_{name}"), False)
    # Loading a model changes these; nothing depends on them.
    yield _Switch(logging.get_verbosity, logging.set_verbosity)
    yield _attribute(logging, "_tqdm_active")
    hub = logging.hf_hub_utils
    yield _Switch(
        hub.are_progress_bars_disabled, lambda off: (hub.disable_progress_bars if off else hub.enable_progress_bars)()
    )
    yield _Switch(torch.get_num_threads, torch.set_num_threads)


def _precision_switches(c: Any) -> Iterator[_Switch]:
    if hasattr(c, "_get_fp32_precision_getter"):
        for place, usual in _PRECISIONS.items():
            yield _Switch(
                partial(c._get_fp32_precision_getter, *place), partial(c._set_fp32_precision_setter, *place), usual
            )

    # The older switches come last: reading them fails while the newer ones contradict them.
    def cudnn_rounds() -> bool:
        try:
            return bool(c._get_cudnn_allow_tf32())
        except RuntimeError:  # off, while the newer ones are on
            return False

    yield _Switch(cudnn_rounds, c._set_cudnn_allow_tf32, True)
    yield _Switch(c._get_float32_matmul_precision, c._set_float32_matmul_precision, "highest")
    for name in ("fp16", "bf16"):
        get, put = (getattr(c, f"_{verb}_cublas_allow_{name}_reduced_precision_reduction") for verb in ("get", "set"))
        if isinstance(get(), tuple):  # of later versions
            yield _Switch(get, partial(_spread, put), (True, True))
        else:
            yield _Switch(get, put, True)


def _spread(put: Callable[..., Any], values: tuple[Any, ...]) -> None:
    put(*values)


def _compiler_switches() -> Iterator[_Switch]:
    """Yield the settings of `torch.compile` that the caller has changed; those of environment variables stay."""
    from torch.utils._config_module import _UNSET_SENTINEL as UNSET

    for module in filter(None, map(sys.modules.get, _COMPILER_SETTINGS)):
        for name, entry in vars(module)["_config"].items():
            of_environment = (entry.env_value_default, entry.env_value_force) != (UNSET, UNSET)
            stays = of_environment or entry.alias is not None or name == "deterministic"  # set with PyTorch's own
            if not stays and not module._is_default(name):
                yield _attribute(module, name, copy.deepcopy(entry.default))


@contextmanager
def _emptied(hooks: dict[Any, Any]) -> Iterator[None]:
    kept = dict(hooks)
    hooks.clear()
    try:
        yield
    finally:
        kept.update(hooks)
        hooks.clear()
        hooks.update(kept)


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Begin with a generator in a fixed state, and restore the caller's generators."""
    import numpy as np
    import torch

    of_python, of_numpy = random.getstate(), np.random.get_state()
    seed, of_cpu = torch.initial_seed(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if _gpus_are_in_use() else None
    torch.default_generator.manual_seed(_SEED)
    try:
        yield
    finally:
        if gpus is not None:
            torch.cuda.set_rng_state_all(gpus)
        elif torch.initial_seed() != _SEED:  # GPUs that the caller has not used begin with the same seed
            torch.cuda.manual_seed_all(seed)
        torch.default_generator.manual_seed(seed)
        torch.set_rng_state(of_cpu)
        np.random.set_state(of_numpy)
        random.setstate(of_python)


@contextmanager
def _own_thread() -> Iterator[None]:
    """Set the state of this thread to that of a new one, and restore it."""
    import numpy as np
    import torch

    with ExitStack() as stack:
        enter = stack.enter_context
        enter(_without_function_modes())
        enter(_without_dispatch_modes())
        enter(torch.inference_mode(False))
        for switch in _thread_switches():
            enter(switch.at_usual())
        enter(_without_autocast())
        enter(_without_saved_tensors_hooks())
        enter(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield


def _thread_switches() -> Iterator[_Switch]:
    import torch

    c: Any = torch._C
    yield _Switch(torch.is_grad_enabled, c._set_grad_enabled, True)
    yield _Switch(c._is_fwd_grad_enabled, c._set_fwd_grad_enabled, True)
    yield _Switch(c._is_multithreading_enabled, c._set_multithreading_enabled, True)
    yield _Switch(c._is_view_replay_enabled, c._set_view_replay_enabled, False)
    yield _Switch(c._get_torch_function_state, c._set_torch_function_state, c._TorchFunctionState.ENABLED)
    yield _Switch(_flushes_denormals, _flush_denormals, False)
    yield from _compiler_switches()
    saving = torch.serialization._serialization_tls
    for name, usual in (("map_location", None), ("skip_data", False), ("materialize_fake_tensors", False)):
        if hasattr(saving, name):
            yield _attribute(saving, name, usual)


def _flushes_denormals() -> bool:
    """PyTorch has no getter; the processor's flag holds for Python's numbers too."""
    return sys.float_info.min / 2 == 0.0


def _flush_denormals(on: bool) -> None:  # noqa: FBT001 - as torch has its switches
    import torch

    torch.set_flush_denormal(on)
    if not on and not bool(torch.full((torch.get_num_threads() << 16,), 1e-40).all()):
        torch.set_flush_denormal(True)
        raise UsageError(
            "PyTorch's threads were started after torch.set_flush_denormal(True) and keep that setting, which changes "
            "results; call torch.set_num_threads(1), or make the call in a new process."
        )


@contextmanager
def _without_function_modes() -> Iterator[None]:
    """Leave all `TorchFunctionMode`s, of which a default device is one."""
    import torch
    from torch.overrides import _pop_mode, _push_mode

    modes = [_pop_mode() for _ in range(torch._C._len_torch_function_stack())]  # type: ignore[no-untyped-call]
    default = torch._GLOBAL_DEVICE_CONTEXT
    try:
        with ExitStack() as stack:
            if hasattr(default, "device_context"):
                stack.enter_context(_attribute(default, "device_context", None).at_usual())
            yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)  # type: ignore[no-untyped-call]


@contextmanager
def _without_dispatch_modes() -> Iterator[None]:
    """Leave all `TorchDispatchMode`s."""
    import torch

    before_dispatch = torch._ops._len_torch_dispatch_stack_pre_dispatch()  # type: ignore[no-untyped-call]
    if not torch._C._len_torch_dispatch_stack() and not before_dispatch:
        yield  # without the import below, which takes seconds
        return
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        yield


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Switch autocast off on every kind of device, and let blocks with autocast inside clear its cache."""
    import torch

    c: Any = torch._C
    kinds = [kind for kind in c._autocast_supported_devices() if torch.is_autocast_enabled(kind)]
    depth = torch.autocast_increment_nesting() - 1
    cached = torch.is_autocast_cache_enabled()
    for kind in kinds:
        torch.set_autocast_enabled(kind, False)
    torch.set_autocast_cache_enabled(True)
    # Only the end of the outermost block clears the cache, which otherwise keeps copies of weights that have changed.
    for _ in range(depth + 1):
        torch.autocast_decrement_nesting()
    try:
        yield
    finally:
        for _ in range(depth):
            torch.autocast_increment_nesting()
        torch.set_autocast_cache_enabled(cached)
        for kind in kinds:
            torch.set_autocast_enabled(kind, True)


@contextmanager
def _without_saved_tensors_hooks() -> Iterator[None]:
    import torch

    autograd: Any = torch._C._autograd
    hooks = []
    refusal = None
    if not autograd._saved_tensors_hooks_is_enabled():
        refusal = autograd._saved_tensors_hooks_get_disabled_error_message()
        autograd._saved_tensors_hooks_enable()
    while (pair := autograd._top_saved_tensors_default_hooks(True)) is not None:
        hooks.append(pair)
        autograd._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pair in reversed(hooks):
            autograd._push_saved_tensors_default_hooks(*pair)
        if refusal is not None:
            autograd._saved_tensors_hooks_disable(refusal)
