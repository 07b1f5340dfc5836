"""Resident memory of a training on a CPU: batches of many lengths leave free pieces that the C library keeps."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

_GROWTH = 1.1  # of the resident memory since the last look, after which free pieces are given back
_STEPS = 20  # between two looks: memory that was given back takes time to be had again
_STATM = Path("/proc/self/statm")


class ResidentMemory:
    """Gives the free memory of this process back to the system where its resident memory grows from step to step.

    Steps of equal shapes reuse the same pieces, and nothing is done. On systems without glibc nothing is done either.
    """

    def __init__(self) -> None:
        self._steps, self._pages = 0, 0

    def after_step(self) -> None:
        """Compare the resident memory with that of some steps ago, and trim it if it has grown."""
        trim = _trimmer()
        if trim is None or self._steps % _STEPS:
            self._steps += 1
            return
        self._steps += 1
        pages = _resident_pages()
        if self._pages and pages > _GROWTH * self._pages:
            trim(0)
            pages = _resident_pages()
        self._pages = pages


def _resident_pages() -> int:
    return int(_STATM.read_text().split()[1])


@functools.cache
def _trimmer() -> Callable[[int], int] | None:
    """Return `malloc_trim` of glibc; None on other systems."""
    if os.name != "posix" or not _STATM.is_file():
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
