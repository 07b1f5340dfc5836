"""A process that has imported everything and forks a child for each command, so that real commands start at once.

Requests and answers are JSON, a line each: `start` answers with the child's number once it is inside the command,
`wait` with its exit status, or null while it runs.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.faults import driver

HEAVY = (
    "pruning.search",
    "finetuning.transfer",
    "finetuning.sharing",
    "finetuning.shrink",
    "finetuning.super_ticket",
    "finetuning.fit_head",
    "studies.analysis.kinds",
    "studies.run",
    "studies.worker",
    "studies.tiny",
)


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in HEAVY:
        importlib.import_module(f"winning_tickets.{name}")
    importlib.import_module("transformers.models.bert.modeling_bert")
    importlib.import_module("matplotlib.backends.backend_agg")
    warnings.simplefilter("ignore")
    gc.collect()
    gc.freeze()  # children collect all garbage for each `Trainer`, and need not look through what is imported
    for line in sys.stdin:
        answer = OPERATIONS[(request := json.loads(line)).pop("op")](**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def start(words: list[str], errors: str, output: str, env: dict[str, str], fault: dict[str, Any]) -> int:
    """Fork a child that runs `tickets` with these words, and wait until it is inside the command."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        _become(words, errors, output, env, fault, tell)
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)
    return child


def _become(words: list[str], errors: str, output: str, env: dict[str, str], fault: dict[str, Any], tell: int) -> None:
    code = 99
    try:
        for number, path in ((0, os.devnull), (1, output), (2, errors)):
            handle = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.environ.update(env)
        sys.argv = ["tickets", *words]
        code = driver.run(fault, lambda: os.write(tell, b"r"))
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """The exit status of a child, negative for a signal; None where it still runs after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


OPERATIONS = {"start": start, "wait": wait}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C of the tests ends them; they close our stdin
    main()
