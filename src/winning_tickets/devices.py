"""Where a run computes."""

from __future__ import annotations

import torch

from winning_tickets.errors import UsageError


def choose_device(requested: str) -> torch.device:
    """The device a run uses.

    Raises:
        UsageError: a GPU is asked for where there is none, or the name is not a device.
    """
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise UsageError(f"--device {requested} is not a device; use auto, cpu or cuda.") from error
    if device.type == "cuda" and device.index is not None:
        raise UsageError(
            f"--device {requested}: choose a GPU with CUDA_VISIBLE_DEVICES={device.index} and give --device cuda."
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"--device {requested} was asked for, and this machine has {torch.cuda.device_count()} usable GPUs; "
            "use --device cpu, or install a CUDA build of torch on a machine with a GPU."
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {requested} is not supported; use auto, cpu or cuda.")
    return device
