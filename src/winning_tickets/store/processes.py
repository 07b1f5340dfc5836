"""Which process is which: after a reboot, in a container, or where a number is used again."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def namespace() -> str | None:
    """Where process numbers mean the same: this boot of this machine, and this container; None where none can tell.

    Two containers may share a host name and still not see each other's processes, and clones of one machine share it
    too; so the name says nothing.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where there is no such process, or only its zombie.

    A number is used again after some time; together with the start it is unique.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
