"""Engines with real processes: threads, kills of workers and of the driver, Ray."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import yaml

from samples.study_samples import InlineEngine, little, planned
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.store.store import Store
from winning_tickets.studies import engines, worker
from winning_tickets.studies.engines import EngineOptions, LocalEngine, SlurmJob, _Worker, make_engine
from winning_tickets.studies.run import run_study
from winning_tickets.studies.worker import Job, JobOutcome

pytestmark = pytest.mark.usefixtures("one_thread")  # workers share the cores, so they have fewer threads


def longer(steps=60):
    """The little study with fine-tunings long enough to be killed."""
    return little(
        scales={"smoke": {"model": "tiny:bert", "sparsities": [0.5, 0.7], "tasks": ["rte", "mrpc"], "steps": steps}}
    )


def numbers(plan, store):
    """What the runs found, without times and places."""
    found = {}
    for run in plan.runs.values():
        result = store.result(run.id)
        found[run.id] = [result.get(key) for key in ("metrics", "ticket_id", "kd_loss", "kept_jaccard", "rungs")]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The numbers of the longer study, done in this process."""
    plan = planned(longer())
    store = Store(tmp_path_factory.mktemp("undisturbed") / "store")
    assert run_study(plan, store, InlineEngine())["failed"] == {}
    return numbers(plan, store)


def test_unknown_engines_and_impossible_numbers(tmp_path):
    with pytest.raises(UsageError, match="Unknown engine 'slrm'. Did you mean 'slurm'. Known: local, ray, slurm"):
        make_engine("slrm", EngineOptions(), tmp_path)
    with pytest.raises(UsageError, match="--workers 0 is impossible; it must be at least 1"):
        make_engine("local", EngineOptions(workers=0), tmp_path)


def test_a_worker_that_said_stopped_gets_no_other_job(tmp_path, monkeypatch):
    script = "import sys, time; print(sys.stdin.readline() and sys.argv[1], flush=True); time.sleep(0.3)"
    outcomes = iter([JobOutcome("a", "stopped"), JobOutcome("b", "done")])

    def spawn(place):
        command = [sys.executable, "-c", script, next(outcomes).line()]
        return _Worker(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE), tmp_path / "log")

    engine = LocalEngine(1, tmp_path)
    monkeypatch.setattr(engine, "_spawn", spawn)
    kinds = []
    for run in "ab":
        engine.start(Job(run, "search", {}, "s", {}))
        while not (ended := engine.wait(1.0)):
            pass
        kinds += [outcome.kind for outcome in ended]
        assert engine.free() == 1
    engine.close()
    assert kinds == ["stopped", "done"]


@pytest.fixture
def signals():
    """The handlers as they were, after the test."""
    numbers = (signal.SIGTERM, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_worker_stops_with_its_driver_where_a_signal_would_end_it_at_once(monkeypatch, signals):
    """As on Windows, where os.kill leaves no time for a checkpoint."""
    system = SimpleNamespace(name="nt", kill=lambda *_: pytest.fail("no checkpoint was written"))
    monkeypatch.setattr(worker, "os", system)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a job\n"))
    signal.signal(signal.SIGTERM, worker.stop_worker)
    jobs = queue.Queue()

    def train():
        threading.Thread(target=worker._read, args=(jobs,)).start()
        for _ in range(1000):
            time.sleep(0.01)

    with pytest.raises(worker.Stopped):
        train()
    assert list(jobs.queue) == ["a job\n", None]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray(tmp_path):
    with pytest.raises(UsageError, match=r"The engine ray needs Ray: pip install 'winning-tickets\[ray\]'"):
        make_engine("ray", EngineOptions(), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("submitit") is not None, reason="submitit is installed")
def test_without_submitit(tmp_path):
    with pytest.raises(UsageError, match=r"The engine slurm needs submitit: pip install 'winning-tickets\[slurm\]'"):
        make_engine("slurm", EngineOptions(), tmp_path)


def test_a_slurm_job_is_requeued_at_the_signal_once_its_checkpoint_is_written(monkeypatch, signals):
    told = []

    def training(job):
        previous = signal.signal(signal.SIGTERM, lambda number, frame: told.append("checkpoint"))
        signal.raise_signal(signal.SIGUSR2)
        signal.signal(signal.SIGTERM, previous)
        return JobOutcome(job.run, "stopped")

    def requeue(number, frame):
        told.append(("requeue", number))
        raise SystemExit(122)

    monkeypatch.setattr(engines, "perform_or_stop", training)
    signal.signal(signal.SIGUSR2, requeue)  # submitit's
    line = Job("a", "search", {}, "s", {}).line()
    with pytest.raises(SystemExit):
        SlurmJob(1)(line)
    assert told == ["checkpoint", ("requeue", signal.SIGUSR2)]


@pytest.mark.parametrize("kind", ["done", "stopped"])
def test_a_slurm_job_without_that_signal_says_how_it_ended(monkeypatch, signals, kind):
    monkeypatch.setattr(engines, "perform_or_stop", lambda job: JobOutcome(job.run, kind))
    signal.signal(signal.SIGUSR2, lambda number, frame: pytest.fail("nobody asked"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert JobOutcome.of_line(SlurmJob(2)(Job("a", "search", {}, "s", {}).line())) == JobOutcome("a", kind)
    assert os.environ["OMP_NUM_THREADS"] == "2"


@pytest.mark.ecosystem
def test_slurm_takes_whole_cores_and_known_parameters(tmp_path):
    pytest.importorskip("submitit")
    local = {"cluster": "local"}
    with pytest.raises(UsageError, match="whole numbers of --cpus and --gpus"):
        make_engine("slurm", EngineOptions(cpus=0.5, slurm=local), tmp_path)
    with pytest.raises(UsageError, match="The engine slurm cannot be used: .*prtition"):
        make_engine("slurm", EngineOptions(slurm=local | {"prtition": "gpu"}), tmp_path)
    if shutil.which("srun") is None:
        with pytest.raises(UsageError, match="The engine slurm cannot be used: .*srun"):
            make_engine("slurm", EngineOptions(), tmp_path)
    assert make_engine("slurm", EngineOptions(workers=3, slurm=local), tmp_path).free() == 3


@pytest.mark.ecosystem
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # submitit does not wait for its processes
def test_slurm_jobs_resume_after_their_walltime(tmp_path):
    """On the executor of submitit for one machine: a job gets the signal in training, is requeued, and goes on."""
    pytest.importorskip("submitit")
    scale = {"model": "tiny:bert", "sparsities": [0.5], "tasks": ["rte"], "steps": 400}
    plan, store = planned(little(scales={"smoke": scale})), Store(tmp_path / "store")
    (run,) = [one.id for one in plan.runs.values() if one.verb == "transfer" and "@" in str(one.config)][:1]
    log = store.folder(run) / "seed-0" / "metrics.jsonl"
    sent = []

    def signal_it():
        while not (log.is_file() and len(log.read_text().splitlines()) > 5):
            time.sleep(0.05)
        pid = int((store.path / "claims" / f"{run}.lock").read_text().split()[0])
        sent.append(pid)
        os.kill(pid, signal.SIGUSR2)

    threading.Thread(target=signal_it, daemon=True).start()
    options = EngineOptions(workers=2, walltime=20, slurm={"cluster": "local"})
    assert run_study(plan, store, make_engine("slurm", options, store.path))["failed"] == {}
    assert sent
    said = "".join(path.read_text() for path in (store.path / "logs" / "slurm").glob("*_log.*"))
    assert "Requeued job" in said
    whole = Store(tmp_path / "whole")
    assert run_study(plan, whole, InlineEngine())["failed"] == {}
    assert numbers(plan, store) == numbers(plan, whole)


@pytest.mark.slow
def test_two_workers_give_the_same_as_one_process(tmp_path, undisturbed):
    plan, store = planned(longer()), Store(tmp_path / "store")
    result = run_study(plan, store, make_engine("local", EngineOptions(workers=2), store.path))
    assert result["failed"] == {}
    assert numbers(plan, store) == undisturbed


@pytest.mark.slow
def test_killed_workers_are_replaced(tmp_path, undisturbed):
    plan, store = planned(longer()), Store(tmp_path / "store")
    engine = make_engine("local", EngineOptions(workers=2), store.path)
    killed = []

    def watch(progress, run, outcome):
        if outcome.kind == "done" and run.stage == "search":
            worker = next(worker for worker in engine._workers.values() if worker.job is None)
            worker.process.kill()  # an idle one; the next job finds it dead
        if outcome.kind == "done" and run.stage == "evaluate" and len(killed) < 2:
            busy = [worker for worker in engine._workers.values() if worker.job is not None]
            for worker in busy[:1]:
                worker.process.kill()
                killed.append(worker.job.run)

    result = run_study(plan, store, engine, watch=watch)
    assert killed
    assert result["failed"] == {}
    assert result["done"] == len(plan.runs)
    assert numbers(plan, store) == undisturbed


def start(file, store, *options):
    """The driver as a process of its own."""
    words = ["-m", "winning_tickets", "study", "run", str(file), "--scale", "smoke", "--store", str(store), *options]
    return subprocess.Popen(
        [sys.executable, *words, "--checkpoint-steps", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(store, plan, count, process):
    """Until so many runs are done and one more is on its way."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        statuses = [Store(store).status(run) for run in plan.runs]
        if statuses.count("done") >= count and "running" in statuses:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1])


@pytest.mark.slow
def test_a_killed_driver_goes_on(tmp_path, undisturbed):
    plan, store, file = planned(longer()), tmp_path / "store", tmp_path / "little.yaml"
    file.write_text(yaml.safe_dump(longer(), sort_keys=False))
    for count in (1, 4, 7):
        process = start(file, store, "--workers", "2")
        wait_for(store, plan, count, process)
        process.kill()
        process.communicate()
    process = start(file, store, "--workers", "2", "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["done"] == len(plan.runs)
    assert numbers(plan, Store(store)) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_driver_leaves_checkpoints(tmp_path, number, code, undisturbed):
    plan, store, file = planned(longer()), tmp_path / "store", tmp_path / "little.yaml"
    file.write_text(yaml.safe_dump(longer(), sort_keys=False))
    process = start(file, store, "--workers", "1")
    wait_for(store, plan, 6, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert out == ""
    assert "Run the same command again to resume" in err
    assert "Traceback" not in err
    assert not [run for run in plan.runs if Store(store).status(run) == "running"]
    assert run_study(plan, Store(store), InlineEngine())["failed"] == {}
    assert numbers(plan, Store(store)) == undisturbed


@pytest.mark.slow
def test_a_worker_dies_with_its_driver(tmp_path):
    """stdin ends: the worker stops by itself, and the run is free."""
    plan, store = planned(longer(5000)), Store(tmp_path / "store")
    run_study(planned(little()), store, InlineEngine())
    run = plan.runs[plan.stage_runs("transfer")[0]]
    process = subprocess.Popen(
        [sys.executable, "-m", "winning_tickets.studies.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(Job(run.id, run.verb, run.config, str(store.path), {"quiet": True}).line() + "\n")
    process.stdin.flush()
    end = time.monotonic() + 60
    while store.status(run.id) != "running" or not (store.folder(run.id) / "seed-0" / "metrics.jsonl").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.stdin.close()
    assert process.wait(timeout=60) == 143
    assert store.status(run.id) == "unfinished"
    assert list(store.folder(run.id).glob("seed-0/.scratch/checkpoint-*"))
    process.stdout.close()


@pytest.fixture
def cluster():
    """Ray on two nodes of two cores each, the driver's without any."""
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield made, nodes
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_survives_the_death_of_a_node(tmp_path, cluster, undisturbed, monkeypatch):
    made, nodes = cluster
    plan, store = planned(longer()), Store(tmp_path / "store")
    engine = make_engine("ray", EngineOptions(), store.path)
    assert engine.free() == 2
    told, wait = [], engine.wait

    def wait_and_kill(seconds):
        running = sum(store.status(run) == "running" for run in plan.stage_runs("transfer"))
        if running == 2 and len(nodes) == 2:  # both nodes are at work
            made.remove_node(nodes.pop(), allow_graceful=False)
        return wait(min(seconds, 0.1))

    monkeypatch.setattr(engine, "wait", wait_and_kill)
    result = run_study(plan, store, engine, watch=lambda progress, run, outcome: told.append(outcome.kind))
    assert "lost" in told
    assert result["failed"] == {}
    assert len(nodes) == 1
    assert numbers(plan, store) == undisturbed


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_has_to_have_room(tmp_path, cluster):
    with pytest.raises(UsageError, match="A run needs 8 cores and 0 GPUs, and the Ray cluster has 2 and 0"):
        make_engine("ray", EngineOptions(cpus=8), tmp_path)
