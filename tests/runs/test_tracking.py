"""Trackers: what they are told, what is said where one is missing, and that nobody is told anything by default."""

from __future__ import annotations

import importlib
import json
import sys

import pytest

from winning_tickets import Runtime, SearchConfig, TransferConfig, search, transfer
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.runs.progress import ENVIRONMENT, check_trackers, scalars
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.tiny import tiny_folder
from winning_tickets.studies.worker import Job, perform
from winning_tickets.training.trainer import trainer_arguments

TRACKIO = """
from types import SimpleNamespace
__version__ = "1.0"
told, runs = [], []
context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))
class Config(dict):
    def update(self, content, allow_val_change): super().update(content)
config = Config()
def init(**fields):
    if fields["name"].startswith("transfer-cola"): raise OSError("no space for the database")
    runs.append(fields)
    print("the metrics are in a database")
def log(record): told.append((runs[-1]["name"], record))
def finish(): runs.append("finished"); print("finished")
"""
WANDB = """
from types import SimpleNamespace
run, begun, told = None, [], []
config = {}
class Config(dict):
    def update(self, content, allow_val_change): super().update(content)
config = Config()
def init(**fields):
    global run
    begun.append(fields)
    run = SimpleNamespace(summary={}, _label=lambda code: None)
def log(record): told.append((begun[-1]["name"], record))
def finish():
    global run
    run = None
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Stands in for a tracker's package."""

    def make(name, code, further=()):
        for part, content in {f"{name}/__init__.py": code, **dict.fromkeys(further, "ConfigError = KeyError")}.items():
            path = tmp_path / "packages" / part
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))
        for variable, value in ENVIRONMENT[name].items():
            monkeypatch.setenv(variable, value)  # so that it is gone after the test
        return importlib.import_module(name)

    before = set(sys.modules)
    yield make
    for module in set(sys.modules) - before:
        if module.partition(".")[0] in ENVIRONMENT:
            del sys.modules[module]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return {name: str(tiny_folder(name, folder)) for name in ("bert", "glue", "text")}


@pytest.fixture
def config(tiny):
    return TransferConfig(
        target=tiny["bert"], task="rte", data_dir=tiny["glue"], seeds=(0, 1), steps=4, eval_steps=2, batch_size=8
    )


def runtime(*names):
    return Runtime(quiet=True, device="cpu", report_to=names)


def test_a_tracker_is_told_of_every_step_and_evaluation(fake, config, tmp_path, monkeypatch):
    monkeypatch.delenv("TRACKIO_SPACE_ID", raising=False)
    trackio = fake("trackio", TRACKIO)
    transfer(config, tmp_path / "run", runtime("trackio"))
    ids = [json.loads((tmp_path / f"run/seed-{seed}/config.json").read_text())["id"] for seed in (0, 1)]
    assert trackio.runs[1] == trackio.runs[3] == "finished"
    begun = [trackio.runs[0], trackio.runs[2]]
    assert [run["name"] for run in begun] == ids
    assert {run["project"] for run in begun} == {"winning-tickets"}
    assert {run["space_id"] for run in begun} == {None}
    for seed, name in enumerate(ids):
        told = [record for run, record in trackio.told if run == name]
        records = read_log(tmp_path / "run" / f"seed-{seed}")
        losses = [record["loss"] for record in records if "loss" in record]
        assert [record["train/loss"] for record in told if "train/loss" in record] == losses
        scores = [record["evaluation"]["accuracy"] for record in records if "evaluation" in record]
        assert [record["eval/accuracy"] for record in told if "eval/accuracy" in record] == scores
        assert [record["train/global_step"] for record in told if "train/loss" in record] == [1, 2, 3, 4]


def test_trackers_change_no_number_and_no_id(fake, config, tmp_path):
    fake("trackio", TRACKIO)
    with_tracker = transfer(config, tmp_path / "with", runtime("trackio"))
    without = transfer(config, tmp_path / "without", runtime())
    assert with_tracker["metrics"] == without["metrics"]
    assert with_tracker["run_id"] == without["run_id"]
    assert transfer(config, tmp_path / "with", runtime()) == with_tracker  # the same run


def test_what_trackers_print_is_no_result(fake, config, tmp_path, capsys):
    fake("trackio", TRACKIO)
    transfer(config.model_copy(update={"seeds": (0,)}), tmp_path / "run", runtime("trackio"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["the metrics are in a database", "finished"]


def test_a_search_is_tracked(fake, tiny, tmp_path):
    trackio = fake("trackio", TRACKIO)
    search(
        SearchConfig(model=tiny["bert"], corpus=tiny["text"], steps=3, batch_tokens=128, segments="lines"),
        tmp_path / "ticket",
        runtime("trackio"),
    )
    told = [record for _, record in trackio.told if "train/kd" in record]
    assert [record["train/kd"] for record in told] == [record["kd"] for record in read_log(tmp_path / "ticket")]


def test_each_seed_is_a_run_of_its_own_with_wandb(fake, config, tmp_path):
    wandb = fake("wandb", WANDB, ["wandb/sdk/lib/config_util.py"])
    transfer(config, tmp_path / "run", runtime("wandb"))
    assert len({run["name"] for run in wandb.begun}) == 2
    assert {run["project"] for run in wandb.begun} == {"winning-tickets"}
    assert wandb.run is None
    counts = [sum(run == one["name"] and "train/loss" in record for run, record in wandb.told) for one in wandb.begun]
    assert counts == [4, 4]


def test_a_run_that_the_user_has_opened_goes_on(fake, config, tmp_path):
    wandb = fake("wandb", WANDB, ["wandb/sdk/lib/config_util.py"])
    wandb.init(name="mine", project="mine")
    transfer(config, tmp_path / "run", runtime("wandb"))
    assert [run["name"] for run in wandb.begun] == ["mine"]
    assert wandb.run is not None


def test_a_tracker_that_does_not_start(fake, config, tmp_path):
    fake("trackio", TRACKIO)
    cola = config.model_copy(update={"task": "cola", "seeds": (0,)})
    with pytest.raises(TrainingError, match=r"trackio did not start: no space for the database\. Nothing was trained"):
        transfer(cola, tmp_path / "run", runtime("trackio"))


def test_a_tracker_that_fails_later_stops_nothing(fake, config, tmp_path, caplog):
    fails = TRACKIO.replace(
        "def log(record): ", "def log(record):\n    if len(told) == 2: raise OSError('disk full')\n    "
    )
    trackio, single = fake("trackio", fails), config.model_copy(update={"seeds": (0,)})
    found = transfer(single, tmp_path / "told", runtime("trackio"))
    assert found["metrics"] == transfer(single, tmp_path / "plain", runtime())["metrics"]
    assert len(trackio.told) == 2
    assert caplog.messages == ["the tracker trackio failed at step 2 and gets nothing more: disk full"]


def test_trackers_end_their_run_where_training_fails(fake, config, tmp_path):
    trackio = fake("trackio", TRACKIO)
    with pytest.raises(TrainingError, match="The loss is not finite"):
        transfer(
            config.model_copy(update={"seeds": (0,), "learning_rate": 1e38, "warmup_ratio": 0.0}),
            tmp_path / "run",
            runtime("trackio"),
        )
    assert trackio.runs[-1] == "finished"


def test_a_study_hands_trackers_to_its_workers(fake, config, tmp_path):
    trackio = fake("trackio", TRACKIO)
    store = Store(tmp_path / "store")
    one = config.model_copy(update={"seeds": (0,)}).model_dump(mode="json", exclude_defaults=True)
    job = Job.of_line(Job("run-1", "transfer", one, str(store.path), runtime("trackio").model_dump()).line())
    assert perform(job).kind == "done"
    assert len(trackio.runs) == 2
    assert store.check("run-1").findings == []


@pytest.mark.parametrize("variable", ["WANDB_API_KEY", "TRACKIO_SPACE_ID", "KUBEFLOW_TRAINER_SERVER_URL"])
def test_nobody_is_told_by_default(fake, tmp_path, monkeypatch, variable):
    fake("trackio", TRACKIO)
    monkeypatch.setenv(variable, "something")
    assert trainer_arguments(tmp_path, Runtime(device="cpu"), max_steps=1).report_to == ()
    assert trainer_arguments(tmp_path, runtime("trackio"), max_steps=1).report_to == ("trackio",)


def test_unknown_and_missing_trackers(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"Unknown tracker 'tensorbord'\. Did you mean 'tensorboard'\?"):
        check_trackers(["tensorbord"])
    if importlib.util.find_spec("dvclive") is None:
        said = r"--report-to dvclive: DVCLiveCallback requires dvclive .*'winning-tickets\[track\]' installs mlflow"
        with pytest.raises(UsageError, match=said):
            trainer_arguments(tmp_path, runtime("dvclive"), max_steps=1)


def test_a_tracker_may_have_no_package_of_its_name(monkeypatch):
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "http://127.0.0.1")
    check_trackers(["kubeflow"])


def test_any_tracker_of_transformers_is_told(config, tmp_path, monkeypatch):
    """One that this package does not know by name, which begins before the training, as codecarbon does."""
    utils = importlib.import_module("transformers.integrations.integration_utils")
    told = []

    class Callback(utils.TrainerCallback):
        def on_init_end(self, args, state, control, **kwargs):
            told.append(("init", state.max_steps))

        def on_log(self, args, state, control, logs=None, **kwargs):
            told.append(("log", sorted(logs)))

    monkeypatch.setitem(utils.INTEGRATION_TO_CALLBACK, "mine", Callback)
    transfer(config.model_copy(update={"seeds": (0,)}), tmp_path / "run", runtime("mine"))
    assert told[0] == ("init", 4)
    assert ("log", ["learning_rate", "loss", "seconds"]) in told


@pytest.mark.parametrize(
    "words",
    [
        ("search", "MODEL"),
        ("search", "MODEL", "--dry-run"),
        ("transfer", "MODEL", "--task", "rte"),
        ("share", "--tasks", "rte,mrpc", "--model", "MODEL"),
        ("super", "MODEL", "--task", "rte"),
        ("fit-head", "MODEL"),
        ("shrink", "MODEL"),
    ],
    ids=" ".join,
)
def test_the_command_line_refuses_before_any_work(tickets, tmp_path, words):
    code, out, err = tickets(*words, "--out", str(tmp_path / "run"), "--report-to", "wandbb")
    assert (code, out) == (2, "")
    assert err.startswith("Error: Unknown tracker 'wandbb'. Did you mean 'wandb'")
    assert not (tmp_path / "run").exists()


def test_a_study_refuses_before_any_work(tickets, tmp_path):
    words = ("study", "run", "tamt-figure-3", "--scale", "smoke", "--store", str(tmp_path / "store"))
    code, _, err = tickets(*words, "--report-to", "none,x")
    assert code == 2
    assert err.startswith("Error: Unknown tracker 'x'.")
    assert not (tmp_path / "store").exists()


def test_only_numbers_are_told():
    record = {"step": 3, "kd": 0.5, "degenerate": True, "evaluation": {"f1": 1, "rte": {"accuracy": 0.5}}, "x": "y"}
    assert scalars(record) == {"kd": 0.5, "eval_f1": 1, "eval_rte_accuracy": 0.5}


def test_a_run_directory_tells_whoever_watches(tmp_path):
    run, seen = RunDirectory.claim(tmp_path / "run", "verb", "id-1", {}), []
    run.log({"step": 1})
    run.watch = seen.append
    run.log({"step": 2})
    assert (run.id, seen) == ("id-1", [{"step": 2}])


@pytest.mark.ecosystem
def test_tensorboard_files_lie_in_the_run_and_stay(config, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def steps(folder):
        events = EventAccumulator(str(folder))
        events.Reload()
        return [(event.step, event.value) for event in events.Scalars("train/loss")]

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    transfer(config, tmp_path / "run", runtime("tensorboard"))
    for seed in (0, 1):
        records = [record for record in read_log(tmp_path / f"run/seed-{seed}") if "loss" in record]
        found = steps(tmp_path / f"run/seed-{seed}/tensorboard")
        assert [step for step, _ in found] == [1, 2, 3, 4]
        assert [value for _, value in found] == pytest.approx([record["loss"] for record in records])
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    transfer(config, tmp_path / "elsewhere", runtime("tensorboard"))
    assert not (tmp_path / "elsewhere/seed-0/tensorboard").exists()
    assert len(list((tmp_path / "events").iterdir())) == 2
