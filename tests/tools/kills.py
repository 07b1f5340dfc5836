"""What a kill at any write or removal would leave on the disk, without a kill."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from winning_tickets.runs import directory


@contextmanager
def every_state(folder: Path, copies: Path) -> Iterator[list[Path]]:
    """Copy a folder after each change of a file in it; yield the list of copies, which grows, without repetitions."""
    states: list[Path] = []
    contents: list[dict[str, bytes]] = []

    def around(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            result = change(*arguments, **options)
            now = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            if now and now not in contents:
                contents.append(now)
                states.append(Path(shutil.copytree(folder, copies / str(len(states)))))
            return result

        return changed

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "unlink"):
            patch.setattr(os, name, around(getattr(os, name)))
        patch.setattr(directory, "append_line", around(directory.append_line))
        yield states
