"""Small made-up task data with learnable labels, for every registered task."""

from __future__ import annotations

import importlib

import pytest

from winning_tickets.data.records import Split, TaskData
from winning_tickets.data.squad import Answers
from winning_tickets.data.tasks import TASKS

SUBJECTS = ("the cat", "a dog", "birds", "she", "rain", "he")
PLACES = ("on the mat", "over the hill", "in the tall tree", "by the window", "on the roof", "in the house")


def split(task_name: str, count: int, offset: int = 0) -> Split:
    """Examples whose label follows from the first word of the first text; answers are the places of second texts."""
    task = TASKS[task_name]
    columns = []
    for number in range(len(task.text_columns)):
        words = [
            f"{SUBJECTS[(i + offset + number) % 6]} sat {PLACES[(i // 6 + number) % 6]}"
            + " and slept" * ((i + offset) % 4)
            for i in range(count)
        ]
        columns.append(words)
    if task.kind == "span":
        found = [(context.index("sat ") + 4, context) for context in columns[1]]
        return Split(tuple(columns), [Answers((context[start:],), (start,)) for start, context in found])
    kinds = [(i + offset) % 6 for i in range(count)]
    labels = [5 * kind / 6 for kind in kinds] if task.is_regression else [kind % len(task.labels) for kind in kinds]
    return Split(tuple(columns), labels)


def transfers_read(patch, data=None):
    """Whatever a transfer reads by the name of a task comes from here, wherever the data would lie.

    Args:
        patch: a `MonkeyPatch`.
        data: gives the data of a name; None takes `task_data`.
    """
    task_data_module = importlib.import_module("winning_tickets.training.task_data")
    patch.setattr(task_data_module, "load_task", lambda name, data_dir: (data or task_data)(name))


def tasks_fixture(data=None):
    """A fixture for a whole test module, in which `transfers_read`."""

    @pytest.fixture(autouse=True, scope="module")
    def tiny_tasks():
        with pytest.MonkeyPatch.context() as patch:
            transfers_read(patch, data)
            yield

    return tiny_tasks


def task_data(name: str, train: int = 36, validation: int = 18) -> TaskData:
    """Data of a registered task, of whatever splits it has."""
    task = TASKS[name]
    parts = {part: split(name, validation, offset) for offset, part in enumerate(task.validation_splits)}
    return TaskData.of(task, split(name, train), parts, "files")
