"""How any training is executed: in float32, TF32 or bfloat16, compiled or not."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from winning_tickets.config import Runtime
from winning_tickets.models.device import choose_device
from winning_tickets.runs.errors import TicketsWarning, TrainingError, UsageError

logger = logging.getLogger(__name__)

BACKEND = "inductor"  # of torch.compile
_COMPILERS = ("g++", "clang++", "c++")
_SLOW = 0.9  # time of a product in bfloat16, relative to float32, from which --bf16 comes with a warning
_PRODUCTS = 0.65  # share of a step's time that is spent on matrix products (docs/results/speed)
_LONG = 60.0  # seconds that a training must still take for advice on its speed


def precision_of(device: torch.device, *, bf16: bool) -> str:
    """Return the precision of matrix products: `bf16` if wanted, else `tf32` on a GPU and `float32` elsewhere."""
    return "bf16" if bf16 else "tf32" if device.type == "cuda" else "float32"


@contextmanager
def matrix_precision(device: torch.device, *, bf16: bool) -> Iterator[None]:
    """Let a GPU round the factors of float32 products to TF32 inside the block, which is several times faster."""
    before = torch.get_float32_matmul_precision()
    if precision_of(device, bf16=bf16) == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def attention_for_training(model: torch.nn.Module, device: torch.device, *, bf16: bool) -> Iterator[None]:
    """Replace fused attention with plain operations inside the block, if bfloat16 is used on a CPU.

    There the backward pass of torch's fused kernel takes longer than separate matrix products and a softmax.
    """
    fused = []
    if bf16 and device.type == "cpu":
        fused = [one for one in _whole_models(model) if one.config._attn_implementation == "sdpa"]
    for one in fused:
        one.set_attn_implementation("eager")
    try:
        yield
    finally:
        for one in fused:
            one.set_attn_implementation("sdpa")


def warn_of_slow_bf16(device: torch.device, runtime: Runtime) -> None:
    """Warn once in a process if `--bf16` is given on a CPU that multiplies matrices hardly faster in bfloat16."""
    if runtime.bf16 and device.type == "cpu":
        _warn_of_slow_bf16()


def advise_bf16(device: torch.device, *, bf16: bool, seconds: float) -> None:
    """Say once in a process that `--bf16` would shorten a training on a CPU that takes `seconds` without it."""
    if device.type == "cpu" and not bf16 and seconds > _LONG:
        _advise_bf16()


@cache
def _advise_bf16() -> None:
    if (ratio := _ratio_of_products()) <= _SLOW:
        share = 1 - _PRODUCTS * (1 - ratio)
        logger.info("With --bf16 this training would take about %.1f of its time on this processor.", share)


@cache
def _ratio_of_products() -> float:
    """Return the time of a matrix product in bfloat16, relative to float32."""
    return _time_of_a_product(torch.bfloat16) / _time_of_a_product(torch.float32)


@cache
def _warn_of_slow_bf16() -> None:
    if (ratio := _ratio_of_products()) > _SLOW:
        found = f"on this processor a matrix product takes {ratio:.1f} times as long in bfloat16 as in float32"
        warnings.warn(f"{found}, so steps can be slower with --bf16.", TicketsWarning, stacklevel=3)


def _time_of_a_product(dtype: torch.dtype) -> float:
    """Return the seconds of a matrix product, the shortest of five, which takes some milliseconds."""
    rows, weight = torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        rows @ weight
        times.append(time.perf_counter() - start)
    return min(times)


def _whole_models(model: torch.nn.Module) -> list[PreTrainedModel]:
    """Return the Hugging Face models inside a module that are not part of another one."""
    if isinstance(model, PreTrainedModel):
        return [model]
    return [found for child in model.children() for found in _whole_models(child)]


def check_compiler(runtime: Runtime) -> None:
    """Refuse `--compile` on a machine that cannot compile."""
    if not runtime.torch_compile:
        return
    device = choose_device(runtime.device)
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError("--compile needs the package triton on a GPU, and it is not installed; leave --compile out.")
    names = (os.environ.get("CXX", ""), *_COMPILERS)
    if device.type == "cpu" and not any(shutil.which(name) for name in names if name):
        raise UsageError(
            f"--compile needs a C++ compiler on a CPU, and there is none of {', '.join(_COMPILERS)}; install g++, or "
            "leave --compile out."
        )


def checkpoint_activations(model: torch.nn.Module) -> None:
    """Turn on gradient checkpointing: layers keep no activations, and the backward pass computes them again."""
    whole = _whole_models(model)[0]
    if not whole.supports_gradient_checkpointing:
        kind = whole.config.model_type
        raise TrainingError(f"{kind} models have no gradient checkpointing; leave --gradient-checkpointing out.")
    # Earlier versions of transformers have only the second name. Without reentrance, embeddings need no gradient.
    enable = getattr(whole, "activation_checkpointing_enable", None) or whole.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    whole.disable_input_require_grads()


def compile_(model: Any) -> None:
    """Compile the encoder of a model in place, once for all shapes; names and state dict stay."""
    model.base_model.compile(dynamic=True, backend=BACKEND)


@contextmanager
def compiling() -> Iterator[None]:
    """Raise a readable error if the block, which runs a compiled model, cannot compile it."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise TrainingError(f"The model could not be compiled: {reason} Leave --compile out.") from error
