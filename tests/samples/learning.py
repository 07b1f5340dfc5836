"""Small set-ups for methods that learn from text and tasks."""

import importlib
import json
from contextlib import contextmanager

import pytest

from samples.settings import read_by_method
from samples.tiny_models import TEXT
from samples.tiny_tasks import task_data
from winning_tickets import Runtime
from winning_tickets.runs.directory import RunDirectory

QUIET = Runtime(quiet=True)
BASE = importlib.import_module("winning_tickets.pruning.preparation")


def corpus_of(folder):
    path = folder / "corpus.txt"
    path.write_text("\n".join(TEXT))
    return str(path)


def with_tiny_tasks(monkeypatch):
    """Tasks by name come from `tiny_tasks`, wherever the data would lie."""
    monkeypatch.setattr(BASE, "load_task", lambda name, data_dir: task_data(name))


def learning(model, method, corpus=None, **fields):
    """A configuration with short texts; of iterative pruning with three rounds of four steps."""
    defaults = {"segments": "packed:16", "batch_tokens": 64, "batch_size": 8, "steps": 4}
    if method == "imp":
        defaults |= {"sparsity": (0.2, 0.5, 0.8), "round_steps": 4}
    return read_by_method(model=model, method=method, corpus=corpus, **(defaults | fields))


def without_dropout(model):
    """The folder of a model whose configuration has no dropout, so that a plain loop can follow a training."""
    path = model / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {key: 0.0 for key in settings if "dropout_prob" in key}))
    return str(model)


class Killed(BaseException):
    """What a `kill -9` is to a test."""


@contextmanager
def killed_after(step):
    """The process dies at the end of a step, after tickets were saved and before the checkpoint."""
    original = RunDirectory.log

    def log(self, record):
        if record["step"] == step:
            raise Killed
        original(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "log", log)
        yield
