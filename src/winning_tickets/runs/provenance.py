"""Provenance of a result: versions, machine, commit and cost; never imports torch."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from winning_tickets import __version__
from winning_tickets.runs.distributed import world_size

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "numpy", "scikit-learn", "scipy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version(), "winning-tickets": __version__}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """Return system, processor, number of usable cores and of processes; no names, no paths."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": cores,
        "python": sys.version.split()[0],
    }
    return found if world_size() == 1 else found | {"processes": world_size()}


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
"""Fields of a result that identify its weights and data."""


def source() -> dict[str, Any] | None:
    """Return `commit` and `dirty` of the repository of the working directory, cached; None without git or a commit."""
    return _source(Path.cwd())


@functools.cache
def _source(directory: Path) -> dict[str, Any] | None:
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *words],  # noqa: S607 - the git of the user's PATH
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


class Account:
    """Measures the cost of a run from here on; `measured` is false if another process did the run."""

    def __init__(self, *, resumed: bool = False, measured: bool = True) -> None:
        self._began = time.monotonic()
        self._resumed = resumed
        self._measured = measured
        if measured:
            _forget_peaks()

    def provenance(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return the content of `provenance.json`: memory is in bytes, times are UTC.

        The device is `cpu` or the name of the GPU. Values that were not measured are None.
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
    """Return `torch.cuda` if this process has used it, without importing torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _forget_peaks() -> None:
    if (gpu := _gpu()) is not None:
        gpu.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # not permitted or not Linux: the peak of the process is reported


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
