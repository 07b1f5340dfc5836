"""The device of a run, from the option `--device`."""

from __future__ import annotations

from typing import Any

import torch

from winning_tickets.runs.distributed import world_size
from winning_tickets.runs.errors import UsageError


def choose_device(requested: str) -> torch.device:
    """Return the device of a run: `auto` takes a CUDA GPU if there is one; a numbered device is made current."""
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise UsageError(f"--device {requested} is not a device; use auto, cpu, cuda, mps, cuda:1 ...") from error
    if device.type == "cpu":
        return torch.device("cpu")
    module: Any = getattr(torch, device.type, None)
    usable = module is not None and getattr(module, "is_available", lambda: True)()
    count = module.device_count() if usable else 0
    if (device.index or 0) >= count:
        raise UsageError(
            f"--device {requested} was asked for, and this machine has {count} usable {_kind_of(device)}; use --device "
            "cpu, or a build of torch for that device on a machine that has one."
        )
    if device.index is not None:
        if world_size() > 1:
            raise UsageError(f"--device {requested}: each of several processes takes its own; give {device.type}.")
        if hasattr(module, "set_device"):
            module.set_device(device)
    return device


def _kind_of(device: torch.device) -> str:
    return "GPUs" if device.type == "cuda" else f"devices of the kind {device.type}"
