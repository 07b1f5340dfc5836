"""What a caller may have switched on or off around a call; each state changes results or breaks a call it reaches."""

import random
import sys
import warnings
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as modules
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import logging

C = torch._C
SWITCHES = {
    "default type": (torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "matrix precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    "processor's precision": (
        lambda: torch.backends.mkldnn.matmul.fp32_precision,
        lambda value: setattr(torch.backends.mkldnn.matmul, "fp32_precision", value),
        "bf16",
    ),
    "mkldnn": (C._get_mkldnn_enabled, C._set_mkldnn_enabled, False),
    "deterministic": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True),
    "fill": (
        lambda: torch.utils.deterministic.fill_uninitialized_memory,
        lambda value: setattr(torch.utils.deterministic, "fill_uninitialized_memory", value),
        False,
    ),
    "anomalies": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, True),
    "denormals": (lambda: False, torch.set_flush_denormal, True),
    "threads of autograd": (C._is_multithreading_enabled, C._set_multithreading_enabled, False),
    "cache of autocast": (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, False),
    "fast path": (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp, False),
    "messages": (logging.get_verbosity, logging.set_verbosity, logging.DEBUG),
}


@contextmanager
def switched(name):
    get, put, value = SWITCHES[name]
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


class Halves(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        return found / 2 if func is functional.linear else found


class Doubles(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        return found * 2 if "mm" in func.__name__ else found


@contextmanager
def hooks():
    """Hooks on all modules and all optimizers."""
    handles = [
        modules.register_module_forward_hook(
            lambda module, args, output: 2 * output if torch.is_tensor(output) else None
        ),
        modules.register_module_forward_pre_hook(lambda module, args: None),
        register_optimizer_step_post_hook(
            lambda optimizer, *_: [value.data.zero_() for group in optimizer.param_groups for value in group["params"]]
        ),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def drawn():
    """Somebody else has used the global generators."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


STATES = {
    **{name: (lambda name=name: switched(name)) for name in SWITCHES},
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "hooks": hooks,
    "random numbers": drawn,
    "attention": lambda: sdpa_kernel(SDPBackend.MATH),
    "numpy": lambda: np.errstate(all="raise"),
    "saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(torch.zeros_like, lambda saved: saved),
    "no hooks on saved tensors": lambda: torch.autograd.graph.disable_saved_tensors_hooks("not here"),
    "no data in files": torch.serialization.skip_data,
    "default device": default_device,
    "device": lambda: torch.device("meta"),
    "function mode": Halves,
    "dispatch mode": Doubles,
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "no function modes": torch._C.DisableTorchFunction,
}
"""By name, a function that makes a context."""
_APART = ("device", "no hooks on saved tensors", "no function modes")  # exclude another state


@contextmanager
def everything():
    """All states at once."""
    with ExitStack() as stack:
        for name, make in STATES.items():
            if name not in _APART:
                stack.enter_context(make())
        yield


def seen():
    """What of it a caller can see, so that it can be compared before and after a call."""
    return {
        **{name: get() for name, (get, _, _) in SWITCHES.items() if name not in ("matrix precision", "denormals")},
        "precisions": [C._get_fp32_precision_getter(kind, "matmul") for kind in ("cuda", "mkldnn")],
        "denormals": sys.float_info.min / 2 == 0,
        "autocast": torch.is_autocast_enabled("cpu"),
        "nesting": (torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()),
        "hooks": [list(getattr(modules, f"_global_forward_{kind}")) for kind in ("hooks", "pre_hooks")],
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        "attention": (C._get_math_sdp_enabled(), C._get_mem_efficient_sdp_enabled(), C._get_sdp_priority_order()),
        "numpy": np.geterr(),
        "saving": C._autograd._top_saved_tensors_default_hooks(True),
        "saving refused": C._autograd._saved_tensors_hooks_get_disabled_error_message(),
        "files": torch.serialization._serialization_tls.skip_data,
        "modes": torch.overrides._get_current_function_mode_stack(),
        "dispatch": C._len_torch_dispatch_stack(),
        "device": torch.get_default_device(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "progress": logging.is_progress_bar_enabled(),
        "filters": list(warnings.filters),
    }
