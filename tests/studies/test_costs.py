"""What runs cost, before they are done: rounds, batches of the profile, evaluations and saved models count."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from samples.results import transfer_result
from samples.study_samples import little, planned
from winning_tickets.cli import app
from winning_tickets.config import EvaluateConfig, SearchConfig, ShareConfig, Smart, SuperConfig, TransferConfig
from winning_tickets.config.objective import TEACHER_NAMES, TERM_NAMES
from winning_tickets.report.costs import DEVICES, TASK_SIZES, Speed, _counted, cost_of, flops_of, size_of
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.store.records import Record
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.estimates import Estimator
from winning_tickets.studies.load import load_study
from winning_tickets.studies.needs import room_problem
from winning_tickets.studies.plan import plan_study
from winning_tickets.studies.status import study_status
from winning_tickets.training.objectives.terms import ALL_TERMS

BASE = size_of("google-bert/bert-base-uncased")
MINILM = size_of("builtin:minilm")


def study(stages, **parameters):
    """A study of some stages."""
    return {"name": "s", "title": "S", "scales": {"smoke": parameters}, "stages": stages}


@pytest.mark.parametrize(
    ("fields", "steps", "tokens"),
    [
        # nine rounds of three epochs of MNLI: the paper pads to 128 tokens
        ({"tasks": ("mnli",)}, 9 * 36_816, 9 * 36_816 * 32 * 128),
        # eight rounds of TAMT's length, pruned to 10 % before the first, with the batch of the profile
        ({"corpus": "wikitext-103", "round_steps": 2792, "prune_first": True}, 8 * 2792, 8 * 2792 * 16 * 512),
        ({"corpus": "wikitext-103", "round_examples": 160_000}, 9 * 10_000, 9 * 160_000 * 512),
        # rounds over fewer segments are shorter only where they are passes over them
        ({"corpus": "wikitext-103", "round_examples": 160_000, "train_size": "8576"}, 90_000, 9 * 160_000 * 512),
        ({"corpus": "wikipedia:20231101.en", "round_epochs": 1, "train_size": "8576"}, 9 * 536, 9 * 8576 * 512),
        # a pass over WikiText-103 in each round
        ({"corpus": "wikitext-103"}, 9 * 13_960, 9 * 13_960 * 16 * 512),
    ],
)
def test_rounds_of_iterative_pruning_count(fields, steps, tokens):
    cost = cost_of(SearchConfig.of(model="m", method="imp", profile="paper", **fields), BASE)
    assert cost.steps == pytest.approx(steps, rel=0.01)
    assert tokens / 2 < cost.tokens < 2 * tokens
    assert 9 * BASE.parameters / 8 < cost.bytes - 115 * steps < 1.1 * 9 * BASE.parameters / 8


def test_mask_training_has_the_batch_of_its_profile_and_a_teacher():
    fields = {"model": "m", "corpus": "wikitext-103", "steps": 17_000, "sparsity": 0.7}
    mlm, kd = (cost_of(SearchConfig.of(**fields, objective=one, profile="paper"), BASE) for one in ("mlm", "kd"))
    assert mlm.tokens == 17_000 * 16 * 512
    assert kd.tokens == pytest.approx(mlm.tokens * 4 / 3)
    assert mlm.bytes > kd.bytes  # its MLM head
    assert cost_of(SearchConfig.of(**fields, objective="mlm"), BASE).tokens == 17_000 * 2048


def test_every_term_that_compares_with_the_dense_model_has_a_teacher():
    assert sorted(TEACHER_NAMES) == sorted(name for name, term in ALL_TERMS.items() if term.teacher)
    fields = {"model": "m", "corpus": "wikitext-103", "steps": 100, "batch_tokens": 2048, "sparsity": 0.7}
    read = {name: cost_of(SearchConfig.of(**fields, objective=name), BASE).tokens / 204_800 for name in TERM_NAMES}
    assert read == pytest.approx({name: 4 / 3 if name in TEACHER_NAMES else 1 for name in TERM_NAMES})
    one, two = (cost_of(EvaluateConfig(target="m", objectives=(o,)), BASE).tokens for o in ("mlm", "contrastive"))
    assert two == pytest.approx(2 * one)


@pytest.mark.parametrize("method", ["imp", "snip", "movement"])
def test_the_next_token_costs_what_masked_tokens_cost(method):
    fields = {"model": "m", "method": method, "corpus": "wikitext-103"}
    masked, following = (cost_of(SearchConfig.of(**fields, objective=one), BASE) for one in ("mlm", "clm"))
    assert following == masked
    rounds = {"tasks": ("rte",), "round_steps": 10}
    if method == "imp":
        masked, following = (
            cost_of(SearchConfig.of(**fields, **rounds, objective=f"{one}+task"), BASE) for one in ("mlm", "clm")
        )
        assert following == masked


def test_evaluations_count():
    config = TransferConfig(target="m", task="sst2", profile="paper")
    rare = config.model_copy(update={"eval_steps": 10_000})
    often, few = cost_of(config, BASE), cost_of(rare, BASE)
    assert often.steps == few.steps == 3 * 2105
    # 126 evaluations of 872 examples of 14 tokens; a pass without gradients costs a third of a training step.
    assert often.tokens - few.tokens == pytest.approx(126 * 872 * 14 / 3)
    assert often.bytes > few.bytes > 3 * 2105 * 100


def test_parts_of_the_data_and_seeds_count():
    config = TransferConfig(target="m", task="sst2", batch_size=32, epochs=1)
    whole = cost_of(config, BASE).steps
    assert cost_of(config.model_copy(update={"train_size": "10%", "seeds": (0, 1)}), BASE).steps == 2 * 211
    assert whole == 2105
    assert cost_of(config.model_copy(update={"save_model": True}), BASE).bytes > 4 * BASE.parameters


def test_a_local_folder_has_the_examples_of_its_files(tmp_path):
    for folder, name, rows in (("RTE", "train.tsv", 320), ("SciTail", "scitail_1.0_train.tsv", 64)):
        (tmp_path / folder).mkdir()
        header = [] if folder == "SciTail" else ["index\tsentence1\tsentence2\tlabel"]
        (tmp_path / folder / name).write_text("\n".join([*header, *["a\tb\tc"] * rows]) + "\n")
    fields = {"target": "m", "batch_size": 32, "epochs": 1}
    steps = {
        task: cost_of(TransferConfig(**fields, task=task, data_dir=str(tmp_path)), BASE).steps
        for task in ("rte", "scitail", "cola")
    }
    assert steps == {"rte": 10, "scitail": 2, "cola": 268}  # the published size where the folder lacks a task
    # MNLI has two validation files, of which a folder may have one.
    (tmp_path / "MNLI").mkdir()
    (tmp_path / "MNLI" / "train.tsv").write_text("header\n" + "row\n" * 32)
    few = cost_of(TransferConfig(**fields, task="mnli", data_dir=str(tmp_path)), BASE)
    (tmp_path / "MNLI" / "dev_matched.tsv").write_text("header\n" + "row\n" * 1000)
    _counted.cache_clear()
    more = cost_of(TransferConfig(**fields, task="mnli", data_dir=str(tmp_path)), BASE)
    assert few.steps == more.steps == 1
    assert more.tokens < few.tokens / 10


def test_text_costs_its_segments_and_its_held_out_part():
    fields = {"target": "m", "task": "mlm", "corpus": "wikitext-103", "profile": "paper"}
    whole = cost_of(TransferConfig(**fields), BASE)
    assert whole.steps == pytest.approx(13_917, rel=0.01)  # a pass in batches of 16 segments of 512 tokens
    assert whole.tokens == pytest.approx(114e6 + 14 * 250_000 / 3, rel=0.01)
    few = cost_of(TransferConfig(**fields, steps=100, train_size="160", max_tokens=3000), BASE)
    assert (few.steps, few.tokens) == (100, 100 * 16 * 512 + 1000)


def test_the_next_token_as_a_task_costs_what_masked_tokens_cost():
    fields = {"target": "m", "corpus": "wikitext-103", "profile": "paper"}
    masked, following = (cost_of(TransferConfig(**fields, task=task), BASE) for task in ("mlm", "clm"))
    assert following == masked


def test_super_tickets_and_sharing_cost_their_trainings():
    fine_tuning = TransferConfig(target="m", task="rte", steps=10, seeds=(3,))
    one = cost_of(fine_tuning, MINILM)
    found = cost_of(SuperConfig(fine_tuning=fine_tuning, level=(10, 20)), MINILM)
    assert found.trainings == (1 + 2 * 3) + 1
    assert found.steps == 80
    assert found.tokens > 8 * one.tokens  # the importances are a pass over the training set
    assert found.bytes > 4 * MINILM.parameters
    shared = cost_of(ShareConfig(tasks=("rte", "mrpc"), model="m", steps=10), MINILM)
    assert (shared.steps, shared.bytes) == (10, pytest.approx(4 * MINILM.parameters, rel=0.01))
    assert one.tokens / 2 < shared.tokens < 3 * one.tokens


def test_a_teacher_reads_every_batch():
    alone, taught = (
        cost_of(TransferConfig(target="m", task="mnli", steps=1000, eval_steps=1000, teacher=teacher), BASE)
        for teacher in (None, "t")
    )
    assert taught.tokens == pytest.approx(alone.tokens * 4 / 3, rel=0.2)
    assert taught.tokens > 1.1 * alone.tokens


def test_trainings_on_single_tasks_have_the_settings_of_their_sharing():
    fields = {"tasks": ("rte", "mrpc"), "model": "m", "level": {"rte": 20, "mrpc": 20}}

    def of_single_tasks(**further):
        found, shared = (
            cost_of(ShareConfig(**fields | further | more), MINILM) for more in ({"tickets": "auto"}, {"level": None})
        )
        return found.tokens - shared.tokens

    whole = of_single_tasks()
    assert of_single_tasks(train_size="100") < whole / 5
    assert of_single_tasks(max_length=32) < 0.7 * whole
    assert of_single_tasks(smart=Smart(steps=1)) > 2 * whole


def test_smart_makes_the_steps_of_a_sharing_longer():
    plain, smart = (cost_of(ShareConfig(tasks=("rte",), model="m", smart=one), BASE) for one in (None, Smart(steps=1)))
    assert smart.steps == plain.steps
    assert smart.tokens > 2 * plain.tokens


def test_recovered_super_tickets_cost_their_recoveries():
    fine_tuning = TransferConfig(target="m", task="rte", steps=10, seeds=(3, 4))
    plain, recovered = (
        cost_of(SuperConfig(fine_tuning=fine_tuning, level=(10, 20), recover=steps), MINILM) for steps in (0, 50)
    )
    tickets = 2 * (1 + 2 + 1)  # random ones differ by seed
    assert recovered.steps - plain.steps == 50 * tickets
    assert recovered.trainings - plain.trainings == tickets
    assert recovered.tokens - plain.tokens == pytest.approx(50 * 2048 * tickets * 4 / 3)


def test_an_evaluation_reads_without_training():
    kd = cost_of(EvaluateConfig(target="m", objectives=("kd",), max_tokens=9_000), BASE)
    mlm = cost_of(EvaluateConfig(target="m", objectives=("mlm",), max_tokens=9_000), BASE)
    assert (kd.tokens, mlm.tokens) == (pytest.approx(6_000), pytest.approx(3_000))  # the teacher reads too


def test_the_models_of_super_tickets_are_in_the_estimate():
    """Table 1 keeps one fine-tuned model for each of 80 runs: 71 GB."""
    plan = plan_study(load_study("super-tickets-table-1"), "paper")
    estimate = Estimator(plan, {}).estimate(plan.runs, 1)
    models = 40 * 4 * (BASE.parameters + size_of("bert-large").parameters)
    assert models < estimate["bytes"] < 2 * models
    assert estimate["trainings"] == 80 * (9 * 9 + 1)


def test_the_estimate_knows_the_size_of_a_local_model(tmp_path):
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 6, "hidden_size": 384, "vocab_size": 30522}')
    seconds = []
    for model in ("builtin:minilm", str(tmp_path), str(tmp_path / "missing")):
        plan = planned(study({"one": {"verb": "transfer", "with": {"target": model, "task": "rte", "steps": 100}}}))
        seconds.append(Estimator(plan, {}).estimate(plan.runs, 1)["seconds"])
    assert seconds[0] == seconds[1]
    assert seconds[2] > 4 * seconds[1]  # as BERT-base, which is what is counted with where nothing is known


def test_seconds_are_those_of_similar_runs_for_each_token(tmp_path):
    """A fine-tuning of 100 steps took 50 seconds, so one of 1,000 steps on as long texts takes 500."""
    stage = {"verb": "transfer", "with": {"target": "m", "task": "rte"}, "over": {"steps": [100, 1000]}}
    plan, store = planned(study({"one": stage})), Store(tmp_path / "store")
    short, long = plan.runs
    store.describe(short, "transfer", plan.runs[short].config)
    RunDirectory.claim(store.folder(short), "transfer", short, {}).finish(transfer_result())
    fields = {"verb": "transfer", "status": "done", "config": plan.runs[short].config}
    record = Record(short, **fields, seconds=50.0, resumed=False)
    estimate = Estimator(plan, {short: record}).estimate([long], 1)
    assert estimate["measured_runs"] == 1
    assert estimate["seconds"] == pytest.approx(500, rel=0.15)  # and its evaluations
    assert Estimator(plan, {short: record}).estimate([long], 2)["seconds"] == estimate["seconds"] / 2
    # The last attempt of a run says nothing of the time that the whole run takes.
    resumed = Estimator(plan, {short: Record(short, **fields, seconds=0.1, resumed=True)}).estimate([long], 1)
    assert resumed == Estimator(plan, {}).estimate([long], 1)


RESULTS = Path(__file__).parents[2] / "docs" / "results"


def stored_searches():
    """Stored searches of MiniLM in batches of 2,048 tokens: the objective, the steps and the seconds."""
    for file in ("searches", "long_searches"):
        for name, run in json.loads((RESULTS / f"settings/raw/{file}.json").read_text()).items():
            objective = "mlm" if "imp" in name else name.removeprefix("search-mask-training-").partition("-0.")[0]
            yield name, objective, run["steps"], run["seconds"]


@pytest.mark.parametrize(("name", "objective", "steps", "seconds"), list(stored_searches()))
def test_stored_searches_took_what_is_estimated_within_a_factor_of_two(name, objective, steps, seconds):
    objective = {"mlm-kd-30": "mlm+kd", "kd-30-logits": "kd+logits"}.get(objective, objective)
    fields = {"model": "builtin:minilm", "corpus": "wikitext-2", "batch_tokens": 2048}
    config = SearchConfig.of(**fields, objective=objective, steps=steps)
    assert seconds / 2 < Speed().seconds(cost_of(config, MINILM), MINILM) < 2 * seconds


@pytest.mark.parametrize(
    ("file", "objective", "step"),
    [("mask_step", "mlm", "mlm_mask"), ("mask_step", "kd", "kd_mask"), ("hold_step", "mlm", "dense")],
)
def test_stored_steps_took_what_is_estimated_within_a_factor_of_two(file, objective, step):
    seconds = json.loads((RESULTS / f"speed/{file}.json").read_text())["ms_a_step"][step]  # of 1,000 steps
    config = SearchConfig.of(model="m", corpus="wikitext-2", objective=objective, steps=1000, segments="packed:128")
    assert seconds / 2 < Speed().seconds(cost_of(config, MINILM), MINILM) < 2 * seconds


FINE_TUNINGS = [  # pages of studies that had both cores; MNLI had one of its two dev sets
    ("tickets_win/five_tasks", "mnli", {"train_size": "9881", "epochs": 2.0}, {"validation": 9_815}),
    ("tickets_win/five_tasks", "sst2", {"train_size": "10000", "epochs": 2.0}, {}),
    ("tickets_win/five_tasks", "stsb", {"epochs": 3.0}, {}),
    ("tickets_win/five_tasks", "mrpc", {"train_size": "3667", "epochs": 4.0}, {}),
    ("tickets_win/five_tasks", "cola", {"epochs": 3.0}, {}),
    ("universal/three_tasks", "mnli", {"steps": 200}, {"validation": 9_815}),
    ("universal/three_tasks", "mrpc", {"steps": 200}, {}),
    ("universal/three_tasks", "stsb", {"steps": 200}, {}),
]


@pytest.mark.parametrize(("page", "task", "fields", "data"), FINE_TUNINGS)
def test_stored_fine_tunings_took_what_is_estimated_within_a_factor_of_two(page, task, fields, data):
    stored = json.loads((RESULTS / "speed/fine_tunings.json").read_text(encoding="utf-8"))
    seconds = stored[f"{page} {task}"]
    config = TransferConfig.of(target="m", task=task, batch_size=32, eval_steps=100_000, **fields)
    estimate = Speed().seconds(cost_of(config, MINILM, TASK_SIZES[task]._replace(**data)), MINILM)
    assert len(seconds) >= 15
    assert max(seconds) / 2 < estimate < 2 * min(seconds)


MEASURED = {  # milliseconds of training steps of BERT on one H200, in TF32 and in bfloat16
    ("minilm", 32, 64): (14.0, 20.0),
    ("minilm", 16, 512): (17.8, 20.9),
    ("base", 8, 128): (33.6, 30.4),
    ("base", 32, 64): (22.6, 36.5),
    ("base", 16, 512): (50.3, 37.4),
    ("large", 32, 64): (50.3, 57.4),
    ("large", 16, 512): (133.1, 63.4),
}


@pytest.mark.parametrize(("model", "batch", "length"), list(MEASURED))
def test_measured_steps_on_a_gpu_took_what_is_estimated_within_a_factor_of_two(model, batch, length):
    size = size_of(model)
    fields = {"model": "m", "corpus": "wikitext-103", "objective": "mlm", "sparsity": 0.7}
    more = {"steps": 1000, "batch_tokens": batch * length, "segments": f"packed:{length}"}
    cost = cost_of(SearchConfig.of(**fields, **more), size)
    for bf16, seconds in zip((False, True), MEASURED[model, batch, length], strict=True):  # of 1,000 steps
        assert seconds / 2 < Speed("h100", bf16).seconds(cost, size) - 5 < 2 * seconds


def test_devices_precision_gpus_and_workers_change_the_time():
    plan = plan_study(load_study("tamt-table-2"), "paper")

    def seconds(*speed, gpus=0, workers=1):
        return Estimator(plan, {}, Speed(*speed), gpus).estimate(plan.runs, workers)["seconds"]

    cpu, v100, a100, h100 = map(seconds, DEVICES)
    assert cpu > 10 * v100 > 20 * a100 > 30 * h100
    assert seconds("a100", True) < a100
    assert seconds("a100", gpus=2, workers=4) == pytest.approx(a100 / 8)
    assert seconds("a100", gpus=0.5, workers=2) == pytest.approx(a100)
    found = Estimator(plan, {}).estimate(plan.runs, 1)
    assert seconds("cpu", False, 1000.0) == pytest.approx(found["tokens"] / 1000)
    assert found["hours"]["a100"] == pytest.approx(a100 / 3600, rel=1e-3)
    assert found["flops"] == pytest.approx(
        sum(flops_of(cost_of(run.settings, BASE), BASE) for run in plan.runs.values())
    )


def test_an_unknown_device_is_refused():
    refused = CliRunner().invoke(app, ["study", "plan", "tamt-table-2", "--scale", "paper", "--on", "tpu"])
    assert str(refused.exception) == "--on tpu is not a known device; known are cpu, v100, a100, h100."


@pytest.fixture
def no_room(monkeypatch):
    """A disk with a kilobyte left."""
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000.0))


def test_a_full_disk_is_told_before_the_first_run(tmp_path, no_room):
    plan = planned(little())
    status = study_status(plan, Store(tmp_path / "store"))
    assert status["room"] == room_problem(status["estimate"], tmp_path / "store")
    assert f"1 kB are free at {tmp_path}" in status["room"]
    assert room_problem({"bytes": 400, "scratch_bytes": 600}, tmp_path) is None
    assert room_problem({"bytes": 400, "scratch_bytes": 601}, tmp_path) is not None


def test_a_study_that_does_not_fit_is_refused(tmp_path, no_room):
    words = ["study", "run", "tamt-table-2", "--scale", "smoke", "--store", str(tmp_path / "store")]
    for more in ([], ["--dry-run"]):
        refused = CliRunner().invoke(app, [*words, *more])
        assert isinstance(refused.exception, UsageError)
        assert "of room: results and saved weights take about" in str(refused.exception)
    planned_only = CliRunner().invoke(app, [*words, "--dry-run", "--ignore-room"])
    assert planned_only.exit_code == 0, planned_only.output
    assert "5 runs, 0 done" in planned_only.stdout
    assert "Missing: " in planned_only.stdout
    assert not (tmp_path / "store").exists()
