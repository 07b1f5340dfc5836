"""A pytest plugin that records the lines each test executes, and the duration of each test.

`run.py` starts pytest with `-p lines` and two environment variables: MUTANTS_TRACE, the folder for the records,
and MUTANTS_FILES, the source files to trace. Forks of a test and its Python subprocesses are recorded as well.
Needs `coverage`, which is no dependency of the project.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

import coverage

FOLDER = Path(os.environ["MUTANTS_TRACE"])
_running = []


def start(context):
    """Trace this process under a context, in a file of its own."""
    include = os.environ["MUTANTS_FILES"].split(os.pathsep)
    data = str(FOLDER / ".coverage")
    trace = coverage.Coverage(data, True, include=include, context=context, config_file=False, messages=False)
    _running[:] = [trace]
    trace.start()


def _start_in_fork():
    _running[0]._auto_save = False
    _running[0].stop()
    start(os.environ.get("PYTEST_CURRENT_TEST"))


def _exit(code, leave=os._exit):
    with suppress(Exception):  # forks leave through os._exit, which skips atexit
        _running[0].stop()
        _running[0].save()
    leave(code)


def pytest_configure(config):
    """Start before the first test is imported."""
    start(None)
    os.register_at_fork(after_in_child=_start_in_fork)
    os._exit = _exit


def _switch(item, phase):
    _running[0].switch_context(f"{item.nodeid} ({phase})")


def pytest_runtest_setup(item):
    """Separate the setup, which may fill a fixture of other tests, from the test."""
    _switch(item, "setup")


def pytest_runtest_call(item):
    """Switch to the test itself."""
    _switch(item, "call")


def pytest_runtest_logreport(report):
    """Append the duration and outcome of one phase."""
    with (FOLDER / "durations.jsonl").open("a") as file:
        line = {"test": report.nodeid, "phase": report.when, "seconds": report.duration, "outcome": report.outcome}
        file.write(json.dumps(line) + "\n")


def pytest_unconfigure(config):
    """Save the records."""
    _running[0].stop()
    _running[0].save()
