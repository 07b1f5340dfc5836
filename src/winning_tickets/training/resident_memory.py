"""Resident memory of a training on a CPU: batches of many lengths leave free pieces that the C library keeps."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

_GROWTH = 1.25  # of the resident memory since the first step after the last trim, at which it is trimmed again
_STEPS = 5  # at least, from one trim to the next: memory that was given back takes time to be had again
_STATM = Path("/proc/self/statm")


class ResidentMemory:
    """Gives the free memory of this process back to the system where its resident memory grows from step to step.

    Steps of equal shapes reuse the same pieces, and nothing is done. On systems without glibc nothing is done either.
    """

    def __init__(self) -> None:
        self._steps = self._level = 0  # steps since the last trim, and pages after the first of them

    def after_step(self) -> None:
        """Trim the resident memory if it has grown by a quarter."""
        trim = _trimmer()
        if trim is None:
            return
        self._steps += 1
        pages = _resident_pages()
        if self._steps == 1:
            self._level = pages
        elif self._steps > _STEPS and pages > _GROWTH * self._level:
            trim(0)
            self._steps = 0


def _resident_pages() -> int:
    return int(_STATM.read_text().split()[1])


@functools.cache
def _trimmer() -> Callable[[int], int] | None:
    """Return `malloc_trim` of glibc; None on other systems."""
    if os.name != "posix" or not _STATM.is_file():
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
