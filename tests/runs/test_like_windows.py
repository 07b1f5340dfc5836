"""What differs on Windows, simulated: calls that are missing there, and files that are refused."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import winning_tickets
from samples.study_samples import little
from winning_tickets.studies.report import PAGE

SOURCE = Path(winning_tickets.__file__).parent
STAND_IN = Path(__file__).resolve().parents[1] / "samples" / "like_windows"
MISSING = {
    "os": {
        *("chown", "chroot", "fchmod", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid"),
        *("getpgrp", "getuid", "killpg", "lockf", "mkfifo", "nice", "posix_fadvise", "posix_fallocate", "setpgid"),
        *("sched_getaffinity", "sched_setaffinity", "setsid", "statvfs", "sync", "symlink", "uname", "wait", "WNOHANG"),
    },
    "signal": {
        *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1", "SIGUSR2"),
        *("alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigtimedwait", "sigwait"),
    },
    "time": {"tzset", "pthread_getcpuclockid"},
}  # fmt: skip
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
NAMES = re.compile(rf"\b({'|'.join(MODULES.union(*MISSING.values()))})\b")
ASKS = ("hasattr(", "os.name", "sys.platform", "_WINDOWS")


def unguarded(source: str) -> list[str]:
    """Names that Windows lacks, used where no condition around them asks for the system."""
    if not NAMES.search(source):
        return []
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [f"{node.value.id}.{node.attr}"] if node.attr in MISSING.get(node.value.id, ()) else []
        elif isinstance(node, ast.ImportFrom):
            missing = MISSING.get(node.module or "", set())
            names = [one.name for one in node.names if one.name in missing or node.module in MODULES]
        else:
            names = [one.name for one in node.names if one.name in MODULES] if isinstance(node, ast.Import) else []
        above: ast.AST | None = node
        while names and (above := parents.get(above)) is not None:  # type: ignore[arg-type]
            if isinstance(above, ast.If | ast.IfExp) and any(one in ast.unparse(above.test) for one in ASKS):
                break
            if isinstance(above, ast.Try) and "ImportError" in ast.unparse(above.handlers):
                break
        else:
            found += names
    return found


def test_no_file_calls_what_windows_lacks() -> None:
    found = {str(path.relative_to(SOURCE)): unguarded(path.read_text("utf-8")) for path in SOURCE.rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os\nos.fork()", ["os.fork"]),
        ("from signal import SIGKILL", ["SIGKILL"]),
        ("def f():\n    import fcntl", ["fcntl"]),
        ("n = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1", []),
        ("try:\n    import resource\nexcept ImportError:\n    resource = None", []),
    ],
)
def test_such_a_call_would_be_noticed(source: str, found: list[str]) -> None:
    assert unguarded(source) == found


def like_windows(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python where what Windows refuses is refused, in a folder."""
    paths = os.pathsep.join([str(STAND_IN), str(SOURCE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "LIKE_WINDOWS_IN": str(folder)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_stand_in_refuses_what_windows_refuses(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import mmap, os, pathlib, sys\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "for name in 'abc': (here / name).write_text('x')\n"
        "(here / 'folder').mkdir()\n"
        "opened = (here / 'a').open()\n"
        "number = os.open(here / 'b', os.O_RDWR); mapped = mmap.mmap(number, 1); os.close(number)\n"
        "tries = [lambda: (here / 'c').replace(here / 'a'), (here / 'a').unlink, (here / 'b').unlink,\n"
        "         lambda: (here / 'folder').rename(here / 'folder2') and (here / 'c').replace(here / 'folder2'),\n"
        "         lambda: os.open(here, os.O_RDONLY), lambda: os.fsync(opened.fileno()),\n"
        "         lambda: (here / 'a:b').write_text('x'), lambda: open('/proc/self/stat')]\n"
        "for one in tries:\n"
        "    try: one()\n"
        "    except OSError as error: print(type(error).__name__)\n"
        "    else: print('done')\n"
    )
    done = like_windows(tmp_path, str(script))
    refused = ["PermissionError"] * 3 + [
        "FileExistsError",
        "PermissionError",
        "OSError",
        "OSError",
        "FileNotFoundError",
    ]
    assert done.stdout.split() == refused, done.stderr


@pytest.mark.slow
def test_a_study_with_workers_runs_where_windows_refuses(tmp_path: Path) -> None:
    (tmp_path / "little.yaml").write_text(yaml.safe_dump(little(), sort_keys=False))
    words = ("-m", "winning_tickets", "study", "run", "little.yaml", "--scale", "smoke", "--store", "store")
    for _ in range(2):  # the second time finds everything done
        done = like_windows(tmp_path, *words, "--workers", "2", "--quiet")
        assert done.returncode == 0, done.stderr
    done = like_windows(tmp_path, *words[:3], "report", *words[4:], "--out", "report")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / PAGE).exists()
