"""Running a study: order, failures, claims, losses, stops; and the verbs themselves on a tiny model."""

from __future__ import annotations

import json
import shutil

import pytest

from samples.claims import held_by_another
from samples.study_samples import InlineEngine, ScriptedEngine, little, planned
from winning_tickets.pruning.search import search_all
from winning_tickets.report.costs import cost_of, flops_of, size_of
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import Interrupted
from winning_tickets.runs.store.store import Store
from winning_tickets.studies import run as run_module
from winning_tickets.studies.engines import gpu_of, threads_of
from winning_tickets.studies.run import MAX_LOSSES, absolute_paths, run_study
from winning_tickets.studies.status import study_status
from winning_tickets.studies.text import studies_in
from winning_tickets.studies.tiny import tiny_folder
from winning_tickets.studies.worker import Job, JobOutcome, perform, resolve


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def plan():
    return planned(little())


def finish(store, run):
    """Make a run done without doing it."""
    folder = RunDirectory.claim(store.folder(run), "v", run, {})
    folder.finish({"verb": "v"})
    store.seal(run)


@pytest.fixture
def done(store):
    """An ending of jobs: each is done."""

    def ending(job, before):
        finish(store, job.run)
        return JobOutcome(job.run, "done")

    return ending


def test_runs_wait_for_those_they_need(plan, store, done):
    engine = ScriptedEngine(done, slots=3)
    result = run_study(plan, store, engine)
    assert result == {"runs": 9, "done": 9, "failed": {}, "blocked": {}, "finished_now": 9}
    assert len(engine.done) == 9
    for place, run in enumerate(engine.done):
        assert set(plan.runs[run].needs) <= set(engine.done[:place])
    assert engine.closed


def test_what_is_done_is_not_done_again(plan, store, done):
    run_study(plan, store, ScriptedEngine(done))
    engine = ScriptedEngine(done)
    assert run_study(plan, store, engine)["finished_now"] == 0
    assert engine.done == []
    assert run_study(planned(little(name="other")), store, engine)["done"] == 9


def test_a_failed_run_blocks_its_dependants_and_no_others(plan, store, done):
    magnitude, random = plan.stage_runs("search")

    def ending(job, before):
        if job.run == magnitude and before == 0:
            store.fail(job.run, "no luck")
            return JobOutcome(job.run, "failed", "no luck")
        return done(job, before)

    engine = ScriptedEngine(ending)
    result = run_study(plan, store, engine)
    assert result["failed"] == {magnitude: "no luck"}
    assert set(result["blocked"].values()) == {magnitude}
    assert result["done"] == 4 == 9 - 1 - len(result["blocked"])
    status = study_status(plan, store)
    assert (status["done"], status["failed"], status["blocked"], status["to_do"]) == (4, 1, 4, 0)
    assert status["failed_runs"] == {magnitude: "no luck"}
    assert status["stages"]["evaluate"] == {"runs": 4, "done": 2, "running": 0, "failed": 0, "blocked": 2, "to_do": 0}
    # A failed run is left alone until it is asked for.
    assert run_study(plan, store, engine)["finished_now"] == 0
    assert run_study(plan, store, engine, retry_failed=True)["done"] == 9
    assert engine.done.count(magnitude) == 2
    assert engine.done.count(random) == 1


def test_a_run_that_another_process_works_on_is_looked_at_again(plan, store, done, monkeypatch):
    monkeypatch.setattr(run_module, "CLAIMED_SECONDS", 0.01)
    first = next(iter(plan.runs))

    def ending(job, before):
        return JobOutcome(job.run, "claimed") if job.run == first and before < 3 else done(job, before)

    engine = ScriptedEngine(ending)
    assert run_study(plan, store, engine)["done"] == 9
    assert engine.done.count(first) == 4


def test_a_lost_worker_is_forgiven_a_few_times(plan, store, done):
    first, second = list(plan.runs)[:2]

    def ending(job, before):
        if (job.run == first and before < MAX_LOSSES - 1) or job.run == second:
            return JobOutcome(job.run, "lost", "Its worker died (SIGKILL).")
        return done(job, before)

    engine = ScriptedEngine(ending)
    result = run_study(plan, store, engine)
    assert result["failed"] == {second: "Its worker died (SIGKILL). It was tried 3 times."}
    assert engine.done.count(first) == engine.done.count(second) == MAX_LOSSES
    assert store.status(second) == "failed"


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (SystemExit, 143)])
def test_a_stop_is_told_with_what_is_done(plan, store, done, stop, code):
    def ending(job, before):
        if len(engine.done) == 4:
            raise stop
        return done(job, before)

    engine = ScriptedEngine(ending)
    with pytest.raises(
        Interrupted, match="Stopped after 3 of 9 runs; .* Run the same command again to resume"
    ) as caught:
        run_study(plan, store, engine)
    assert caught.value.exit_code == code
    assert engine.closed
    assert run_study(plan, store, ScriptedEngine(done))["done"] == 9


def test_those_who_watch_are_told(plan, store, done):
    seen = []
    run_study(plan, store, ScriptedEngine(done), watch=lambda p, run, outcome: seen.append((p.count("done"), run.id)))
    assert [count for count, _ in seen] == list(range(1, 10))
    assert {run for _, run in seen} == set(plan.runs)


def test_the_store_knows_what_a_run_is(plan, store, done):
    run_study(plan, store, ScriptedEngine(done))
    record = store.record(plan.stage_runs("compare")[0])
    assert record.labels == {"study": "little", "scale": "smoke", "stage": "compare"}
    assert studies_in(store) == [{"study": "little", "scale": "smoke", "runs": {"done": 9}}]


def test_the_little_study_for_real(plan, store):
    engine = InlineEngine()
    result = run_study(plan, store, engine)
    assert result["failed"] == {}
    assert result["done"] == 9
    results = {run: store.result(run) for run in plan.runs}
    magnitude, random = plan.stage_runs("search")
    assert [rung["folder"] for rung in results[magnitude]["rungs"]] == ["sparsity-0.50", "sparsity-0.70"]
    for point in plan.points:
        if point.stage == "evaluate":
            assert results[point.run]["sparsity"] == pytest.approx(point.axes["sparsity"], abs=1e-3)
            assert results[point.run]["method"] == point.axes["method"]
    (compare,) = plan.stage_runs("compare")
    assert results[compare]["distance_to_first"][0] == 0.0
    assert results[compare]["names"] == [
        str(store.folder(run) / f"sparsity-{s}") for run in (magnitude, random) for s in ("0.50", "0.70")
    ]
    transfer = plan.stage_runs("transfer")[0]
    assert results[transfer]["task"] == "rte"
    assert results[transfer]["ticket_id"] == results[magnitude]["rungs"][0]["ticket_id"]
    assert all(store.sealed(run) for run in plan.runs)
    assert store.record(transfer).seconds > 0
    # Like runs now say how long the next ones take.
    estimate = study_status(planned(little(), tasks=["rte", "cola"], steps=7), store)["estimate"]
    assert (estimate["runs"], estimate["measured_runs"]) == (4, 4)
    tiny = size_of("tiny")
    known = {run: flops_of(cost_of(plan.runs[run].settings, tiny), tiny) for run in plan.stage_runs("transfer")}
    rate = sum(store.record(run).seconds / flops for run, flops in known.items()) / 2
    longer = planned(little(), tasks=["rte", "cola"], steps=7)
    flops = [flops_of(cost_of(longer.runs[run].settings, tiny), tiny) for run in longer.stage_runs("transfer")]
    assert estimate["seconds"] == pytest.approx(rate * sum(flops))


def test_a_moved_store_goes_on(plan, store, tmp_path):
    run_study(plan, store, InlineEngine())
    transfer = plan.stage_runs("transfer")[0]
    (store.folder(transfer) / "result.json").unlink()
    shutil.move(store.path, tmp_path / "elsewhere")
    moved = Store(tmp_path / "elsewhere")
    assert moved.status(transfer) == "unfinished"
    assert run_study(plan, moved, InlineEngine())["finished_now"] == 1
    assert moved.result(transfer)["target"].startswith(str(tmp_path / "elsewhere"))


def test_analyses_and_exports_are_runs(store):
    stages = {name: little()["stages"][name] for name in ("search", "transfer")}
    stages["search"]["with"]["sparsity"] = 0.5
    stages["transfer"]["with"]["target"] = "@search"
    more = {
        "dense": {
            "verb": "transfer",
            "with": {"target": "tiny:bert", "data_dir": "tiny:glue", "steps": 1},
            "over": {"task": ["rte"], "seed": [0]},
        },
        "export": {"verb": "export", "with": {"target": "@search[method=random]", "format": "masked"}},
        "gain": {
            "verb": "analyse",
            "with": {
                "kind": "gain",
                "paths": ["@transfer[method=magnitude]"],
                "baseline": ["@transfer[method=random]"],
                "dense": ["@dense"],
                "options": {"score": "best"},
            },
        },
        "measure": {"verb": "measure", "with": {"target": "@export", "batches": [1], "lengths": [8], "repeats": 2}},
    }
    plan = planned(little(stages=stages | more))
    result = run_study(plan, store, InlineEngine())
    assert result["failed"] == {}
    (export,), (gain,), (measure,) = (plan.stage_runs(name) for name in ("export", "gain", "measure"))
    assert (store.folder(export) / "model" / "model.safetensors").is_file()
    assert store.result(gain)["kind"] == "gain"
    assert store.result(measure)["target"] == str(store.folder(export) / "model")


def test_errors_of_a_verb_are_kept(store):
    content = little()
    content["stages"]["evaluate"]["with"]["corpus"] = "no/such/corpus.txt"
    plan = planned(content)
    result = run_study(plan, store, InlineEngine())
    assert set(result["failed"]) == set(plan.stage_runs("evaluate"))
    assert "There is no file or folder no/such/corpus.txt" in next(iter(result["failed"].values()))
    assert store.record(plan.stage_runs("evaluate")[0]).error["kind"] == "UsageError"


def test_a_claimed_run_is_left_alone(plan, store):
    run = next(iter(plan.runs.values()))
    job = Job(run.id, run.verb, run.config, str(store.path), {})
    store.describe(run.id, run.verb, run.config)
    with held_by_another(store.folder(run.id)):
        outcome = perform(job)
    assert outcome.kind == "claimed"
    assert f"The run {run.id} is in use by process" in outcome.message
    assert not store.folder(run.id).exists()


def test_a_run_that_another_driver_has_seen_fail_is_not_done_again(plan, store):
    run = next(iter(plan.runs.values()))
    store.fail(run.id, "no luck")
    outcome = perform(Job(run.id, run.verb, run.config, str(store.path), {}))
    assert outcome == JobOutcome(run.id, "failed", "no luck")
    assert not store.folder(run.id).exists()


def test_a_reason_that_the_store_could_not_keep_is_told(plan, store, done):
    first = next(iter(plan.runs))

    def ending(job, before):
        return JobOutcome(job.run, "failed", "Could not write /s: full.") if job.run == first else done(job, before)

    assert run_study(plan, store, ScriptedEngine(ending))["failed"] == {first: "Could not write /s: full."}


def test_a_finished_run_that_was_not_sealed_is_sealed(plan, store, monkeypatch):
    run = next(iter(plan.runs.values()))
    with store.claim(run.id):
        RunDirectory.claim(store.folder(run.id), run.verb, run.id, {}).finish({"verb": "v"})
    assert not store.sealed(run.id)
    assert perform(Job(run.id, run.verb, run.config, str(store.path), {})).kind == "done"
    assert store.sealed(run.id)


def test_jobs_travel_as_lines():
    job = Job("a", "search", {"sparsity": [0.5], "x": "é\n"}, "s", {"quiet": True})
    assert "\n" not in job.line()
    assert Job.of_line(job.line()) == job
    outcome = JobOutcome("a", "failed", "two\nlines")
    assert "\n" not in outcome.line()
    assert JobOutcome.of_line(outcome.line()) == outcome


def test_references_become_folders(store, tmp_path):
    found = resolve({"target": "@run-1/sparsity-0.50", "paths": ["@a", "b"], "n": 3}, store)
    runs = tmp_path / "store" / "runs"
    assert found == {"target": str(runs / "run-1" / "sparsity-0.50"), "paths": [str(runs / "a"), "b"], "n": 3}


def test_paths_become_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glue").mkdir()
    (tmp_path / "pydocs").mkdir()
    config = {"data_dir": "./glue", "corpus": "pydocs", "model": "org/name", "paths": ["../x", "@a/b"], "n": 1}
    config |= {"pairs_file": "~nobody-has-this-name/pairs.csv", "options": {"labels": [f"./{'x' * 300}"]}}
    assert absolute_paths(config) == config | {"data_dir": str(tmp_path / "glue")}


def test_threads_are_shared(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads_of(2, cores=8)["OMP_NUM_THREADS"] == "4"
    assert threads_of(3, cores=2)["MKL_NUM_THREADS"] == "1"
    assert threads_of(1, cores=8)["TOKENIZERS_PARALLELISM"] == "true"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads_of(1, cores=8)["RAYON_NUM_THREADS"] == "2"


def test_gpus_go_round(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [gpu_of(place) for place in range(3)] == [{"CUDA_VISIBLE_DEVICES": name} for name in ("3", "5", "3")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_of(0) == {}


def test_tiny_models_and_data_are_the_same_every_time(tmp_path):
    for name in ("bert", "bert-other", "roberta", "text", "glue"):
        first, second = tiny_folder(name, tmp_path / "a"), tiny_folder(name, tmp_path / "b")
        files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
        assert files
        for file in files:
            assert (first / file).read_bytes() == (second / file).read_bytes(), file
    assert (tmp_path / "a/bert/model.safetensors").read_bytes() != (
        tmp_path / "a/bert-other/model.safetensors"
    ).read_bytes()
    config = json.loads((tmp_path / "a/roberta/config.json").read_text())
    assert config["model_type"] == "roberta"


def test_folders_of_rungs_are_those_of_a_search(tmp_path):
    from winning_tickets.config import Runtime, SearchConfig

    model = tiny_folder("bert", tmp_path)
    sparsities = (0.05, 0.5, 0.625, 0.7)
    search_all(
        SearchConfig(model=str(model), method="random", sparsity=sparsities), tmp_path / "t", Runtime(quiet=True)
    )
    found = {path.name for path in (tmp_path / "t").iterdir() if path.is_dir()}
    assert found == {SearchConfig.rung_folder(sparsity) for sparsity in sparsities}
