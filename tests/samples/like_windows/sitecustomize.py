"""Makes Python refuse what Windows refuses, in subprocesses that have this folder in PYTHONPATH.

POSIX-only modules are missing, folders cannot be opened, and only writable files are flushed to disk. In the folder
that LIKE_WINDOWS_IN names, a file that is open or mapped is neither replaced nor removed, nothing replaces a folder,
and names have no characters that Windows reserves.
"""

import builtins
import functools
import io
import os
import shutil
import stat
from pathlib import Path

import winning_tickets.runs.files as files

MISSING = ("fcntl", "grp", "pwd", "resource", "termios")
HERE = os.environ["LIKE_WINDOWS_IN"]
RESERVED = set('<>:"|?*\\')

real_import, real_open, real_io_open, real_fsync = builtins.__import__, os.open, io.open, os.fsync


def inside(path):
    """The part of a path in the folder; None for other paths and for descriptors."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    return text[len(HERE) :] if text.startswith(HERE) else None


def import_(name, globals=None, *more, **options):  # noqa: A002 - names of __import__
    # Other packages ask for the name of the system before they import these.
    if name in MISSING and (globals or {}).get("__name__", "").startswith("winning_tickets"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real_import(name, globals, *more, **options)


def check_name(path):
    if isinstance(path, str | os.PathLike) and os.fspath(path).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", path)
    name = inside(path) or ""
    if RESERVED & set(name) or any(part.endswith((" ", ".")) for part in name.split("/")):
        raise OSError(22, "Invalid argument", path)


def check_unused(path):
    if inside(path) is None:
        return
    whole = str(Path(path).absolute())
    used = [str(number.resolve()) for number in Path("/proc/self/fd").iterdir()]
    with real_io_open("/proc/self/maps") as maps:
        used += [line.split(maxsplit=5)[-1].rstrip("\n") for line in maps]
    if any(one == whole or one.startswith(whole + "/") for one in used):
        raise PermissionError(13, "The process cannot access the file because it is being used", path)


def open_number(path, flags, *more, **options):
    check_name(path)
    number = real_open(path, flags, *more, **options)
    if stat.S_ISDIR(os.fstat(number).st_mode):
        os.close(number)
        raise PermissionError(13, "Permission denied", path)
    return number


def open_file(path, *more, **options):
    check_name(path)
    return real_io_open(path, *more, **options)


def fsync(number):
    with real_io_open(f"/proc/self/fdinfo/{number}") as about:
        flags = next(int(line.split()[1], 8) for line in about if line.startswith("flags:"))
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")
    real_fsync(number)


def checked(function, renames):
    @functools.wraps(function)
    def call(path, *more, **options):
        check_unused(path)
        if renames:
            check_name(more[0])
            check_unused(more[0])
            if Path(more[0]).is_dir() or (function.__name__ == "rename" and Path(more[0]).exists()):
                raise FileExistsError(17, "File exists", more[0])
        return function(path, *more, **options)

    return call


del os.sched_getaffinity
shutil._use_fd_functions = False
builtins.__import__ = import_
os.open, os.fsync = open_number, fsync
io.open = builtins.open = open_file
for name in ("replace", "rename", "unlink", "remove", "rmdir"):
    setattr(os, name, checked(getattr(os, name), renames=name in ("replace", "rename")))
files._WINDOWS = True
