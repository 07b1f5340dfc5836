"""Every test is offline, on the CPU, and keeps its caches to itself."""

import functools
import gc
import os
from pathlib import Path

# One thread per test process unless the caller asks for more (`make test-cpus`), set before torch is imported: with two
# processes on two cores more would only spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import pytest
import typer.main
import typer.testing

from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.results import Stored, StoredResult

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_finish():
    """Keep what imports and collection made out of every later garbage collection.

    Every `Trainer` collects all garbage when it starts. With half a million objects of imported modules to look
    through, that took more time than the training of a tiny model.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _imports_are_no_garbage():
    """The same for what the tests of a module imported as they ran."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _commands_are_made_once():
    """Typer makes all commands anew for each command line, which takes longer than most command lines of the tests."""
    made = functools.cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", made)
        patch.setattr(typer.testing, "_get_command", made)
        yield


def undocumented(value, place=""):
    """Keys of a result that its class has no field for, with their places."""
    if isinstance(value, dict):
        return [one for key, inner in value.items() for one in undocumented(inner, f"{place}{key}.")]
    if isinstance(value, list):
        return [one for inner in value for one in undocumented(inner, place)]
    if not isinstance(value, Stored):
        return []
    extra = [f"{place}{key}" for key in value.model_extra or ()]
    return extra + [
        one for key in type(value).model_fields for one in undocumented(getattr(value, key), f"{place}{key}.")
    ]


@pytest.fixture(autouse=True, scope="session")
def _results_have_no_other_keys():
    """A run stores only keys that the class of its verb describes; others would be missing in the reference."""
    finish = RunDirectory.finish

    def check(run, result):
        finish(run, result)
        others = undocumented(StoredResult.parse(run.result(), run.path))
        assert not others or result.get("verb") not in StoredResult.by_verb(), f"undescribed keys: {others}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "finish", check)
        yield


@pytest.fixture
def tickets(capsys, monkeypatch):
    """Run a command line in this process: (exit code, stdout, stderr)."""
    from samples.analyse_samples import command_line

    return command_line(capsys, monkeypatch)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WINNING_TICKETS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def one_thread():
    """One thread here and in all child processes, for tests that fork or compare with another process.

    OpenMP's threads do not exist in a fork, which would wait for them forever, and workers share the cores.
    """
    import torch

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


@pytest.fixture
def shared_data():
    """The real data sets, where they lie beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("shared/data is not beside the repository")
    return SHARED_DATA


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a tiny model with an MLM head and a pooler."""
    from samples.tiny_models import make_model

    return str(make_model(tmp_path_factory.mktemp("models") / "bert", head="mlm+pooler"))
