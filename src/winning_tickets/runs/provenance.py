"""What a result must carry so that it can be traced: versions, machine, commit, cost; no torch import."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from winning_tickets.runs.distributed import count

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PACKAGES = (
    "winning-tickets",
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "numpy",
    "scikit-learn",
    "scipy",
)


def version() -> str:
    """Return the version of this package."""
    return metadata.version("winning-tickets")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    """Looked up once a process: what counts are the packages that were loaded."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """System, processor, the number of usable cores, and of processes where there are several; no names, no paths."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": cores,
        "python": sys.version.split()[0],
    }
    return found if count() == 1 else found | {"processes": count()}


INPUTS = (
    "model",
    "revision",
    "target",
    "task",
    "corpus",
    "base_hash",
    "corpus_hash",
    "data_hash",
    "start_hash",
    "ticket_id",
)
"""What a result says of the weights and data that it comes from."""


def source() -> dict[str, Any] | None:
    """Commit of the repository that the working directory lies in, and whether tracked files have changed since.

    Looked up once a process and directory: what counts is the code that was loaded, not a later commit.

    Returns:
        `commit` and `dirty`; None outside a repository, before its first commit, or without git.
    """
    return _source(Path.cwd())


@functools.cache
def _source(directory: Path) -> dict[str, Any] | None:
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *words], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


class Account:
    """What a run costs, from here on."""

    def __init__(self, resumed: bool = False, measured: bool = True) -> None:
        self._began = time.monotonic()
        self._resumed = resumed
        self._measured = measured
        if measured:
            _forget_peaks()

    def provenance(self, result: dict[str, Any]) -> dict[str, Any]:
        """All that a number must carry to be traced.

        Returns:
            `versions`, `machine`, `source` (see there), `device` (`cpu`, or the name of the GPU that was used),
            `seconds`, `resumed`, `peak_memory` and `gpu_peak_memory` (bytes; since the run began where the system can
            tell, else since the process began), `inputs`, `finished_at` (UTC). What was not measured is None.
        """
        gpu = _gpu() if self._measured else None
        return {
            "versions": versions(),
            "machine": machine(),
            "source": source(),
            "device": None if not self._measured else "cpu" if gpu is None else gpu.get_device_name(),
            "seconds": time.monotonic() - self._began if self._measured else None,
            "resumed": self._resumed,
            "peak_memory": _peak_memory() if self._measured else None,
            "gpu_peak_memory": None if gpu is None else gpu.max_memory_allocated(),
            "inputs": {name: result[name] for name in INPUTS if result.get(name) is not None},
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _gpu() -> Any:
    """`torch.cuda` where this process has used it; nothing is imported to find out."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _forget_peaks() -> None:
    if (gpu := _gpu()) is not None:
        gpu.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # not Linux, or not allowed: the peak of the process stands for that of the run


def _peak_memory() -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
