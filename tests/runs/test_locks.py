"""A folder belongs to one launch: another is refused in words, and what a dead process has left does not matter."""

import errno
import os
import re
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest
import typer.testing
from filelock import SoftFileLease

from samples.launch import Launch
from samples.tiny_models import make_model
from winning_tickets import cli, search
from winning_tickets.config import SearchConfig
from winning_tickets.deploy.export import export
from winning_tickets.runs import locks
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.distributed import together
from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.runs.locks import ClaimedError, LostError, hold
from winning_tickets.runs.store.store import Store
from winning_tickets.studies import report
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.studies.analysis.report import save
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import plan_study

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up on Linux only")


def claim(path, run_id="id-1", force=False):
    return RunDirectory.claim(path, "search", run_id, {"x": 1}, force)


@pytest.fixture
def fast(monkeypatch):
    """Locks that grow old fast."""
    monkeypatch.setattr(locks.take, "__defaults__", (0.05, 0.3, None, None))


def write_lock(path, host="elsewhere", pid=1, start=None, duration=locks.DEAD_AFTER_SECONDS):
    """A lock of another process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=t\nduration={duration}\n"
    path.write_text(text + ("" if start is None else f"start={start}\n") + "since=2031-05-06T07:08:09+00:00\n")
    return path


def own_record(tmp_path):
    """This process as filelock records it."""
    with SoftFileLease(tmp_path / "probe") as lease:
        return lease.owner


def as_others(tmp_path, path, dead=False):
    """A lock of the parent of this process, which lives, or of a process that has ended."""
    me = own_record(tmp_path)
    if dead:
        return write_lock(path, me.hostname, me.pid, me.start - 1)
    return write_lock(path, me.hostname, os.getppid())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@needs_proc
def test_the_refusal_names_process_host_and_begin_and_says_what_to_do(tmp_path):
    out = tmp_path / "out"
    as_others(tmp_path, out / ".lock")
    host = own_record(tmp_path).hostname.partition("?")[0]
    who = rf"process {os.getppid()} on {re.escape(host)} since 2031-05-06 07:08:09 UTC"
    with pytest.raises(UsageError, match=rf"^--out {out} is in use by {who}; nothing was changed\. Wait for it, or"):
        claim(out)
    assert names(out) == [".lock"]
    with pytest.raises(ClaimedError):  # also to replace it
        claim(out, force=True)


def test_the_lock_names_this_process_and_vanishes_at_the_end(tmp_path):
    out = tmp_path / "out"
    with claim(out) as run:
        assert names(out) == [".lock", "config.json"]
        assert re.match(
            rf"process {os.getpid()} on \S+ since 20\d\d-\d\d-\d\d ..:..:.. UTC$", locks.name_owner(out / ".lock")
        )
        run.finish({"loss": 1.0})
    assert names(out) == ["config.json", "result.json"]


def test_what_is_refused_or_fails_leaves_no_lock(tmp_path, monkeypatch):
    with claim(tmp_path / "out"):
        pass
    with pytest.raises(UsageError, match="holds another run"):
        claim(tmp_path / "out", "id-2")
    with pytest.raises(KeyboardInterrupt), claim(tmp_path / "out"):
        raise KeyboardInterrupt
    assert names(tmp_path / "out") == ["config.json"]

    def full(*_):
        raise TrainingError("No space left on device")

    monkeypatch.setattr("winning_tickets.runs.directory.write_json", full)
    with pytest.raises(TrainingError):
        claim(tmp_path / "new")
    assert names(tmp_path) == ["out"]


@needs_proc
def test_a_dead_process_is_replaced_at_once(tmp_path):
    as_others(tmp_path, tmp_path / "out" / ".lock", dead=True)
    began = time.monotonic()
    with claim(tmp_path / "out"):
        assert time.monotonic() - began < 1
        assert names(tmp_path / "out") == [".lock", "config.json"]
    assert names(tmp_path / "out") == ["config.json"]


@needs_proc
def test_a_dead_process_is_replaced_where_names_cannot_be_exchanged(tmp_path, monkeypatch):
    """Network file systems refuse the call by which filelock takes over."""
    monkeypatch.setattr(filelock._soft, "exchange_names", lambda *_: False)
    as_others(tmp_path, tmp_path / "out" / ".lock", dead=True)
    with claim(tmp_path / "out"):
        assert names(tmp_path / "out") == [".lock", "config.json"]
    store = Store(tmp_path / "store")
    store.describe("run", "search", {})
    as_others(tmp_path, tmp_path / "store" / "claims" / "run" / "lease", dead=True)
    with store.claim("run") as lock:
        assert lock.is_held()


def test_a_lock_that_was_taken_over_meanwhile_is_put_back(tmp_path):
    lock = tmp_path / ".lock"
    lock.write_text("first")
    judged = locks.look_at(lock)
    lock.unlink()
    lock.write_text("second one")
    locks.remove_lock(lock, judged)
    assert (lock.read_text(), names(tmp_path)) == ("second one", [".lock"])


@needs_proc
def test_a_child_that_nobody_waits_for_has_ended(tmp_path):
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        while not locks._has_ended(child):
            time.sleep(0.001)
        me = own_record(tmp_path)
        write_lock(tmp_path / "out" / ".lock", me.hostname, child)
        with claim(tmp_path / "out"):
            pass
    finally:
        os.waitpid(child, 0)


def test_another_machine_is_watched_and_replaced_after_a_while(tmp_path, fast, capsys):
    lock = write_lock(tmp_path / "out" / ".lock", duration=0.3)
    with claim(tmp_path / "out"):
        pass
    assert re.search(
        r"out is in use by process 1 on elsewhere since 2031\S* \S* UTC; waiting at most", capsys.readouterr().err
    )
    write_lock(lock, duration=0.3)
    stop = threading.Event()

    def live():
        while not stop.wait(0.02):
            os.utime(lock)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ClaimedError, match="by process 1 on elsewhere"):
            claim(tmp_path / "out")
    finally:
        stop.set()
        thread.join()


def test_an_empty_lock_of_a_power_failure_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_BEGIN_SECONDS", 0.05)
    (tmp_path / ".lock").touch()
    with claim(tmp_path):
        pass
    assert names(tmp_path) == ["config.json"]


@needs_proc
def test_a_lock_of_this_process_that_nobody_holds_is_replaced(tmp_path):
    """A release may fail on a network file system, and a notebook goes on."""
    me = own_record(tmp_path)
    write_lock(tmp_path / "out" / ".lock", me.hostname, me.pid, me.start)
    with claim(tmp_path / "out"):
        pass


def test_a_second_thread_is_refused_and_the_first_goes_on(tmp_path):
    found = []

    def second():
        try:
            claim(tmp_path / "link" / "out")
        except UsageError as error:
            found.append(str(error))

    (tmp_path / "link").symlink_to(tmp_path)
    with claim(tmp_path / "out") as run:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        run.log({"step": 1})
        run.finish({})
    assert len(found) == 1
    assert "link/out is in use by another thread of this process; nothing was changed." in found[0]


def test_runs_inside_a_run_need_no_lock(tmp_path):
    with claim(tmp_path / "out"), claim(tmp_path / "out" / "seed-0", "id-2") as inner:
        assert names(inner.path) == ["config.json"]
        inner.finish({})
        assert names(tmp_path / "out") == [".lock", "config.json", "seed-0"]
        with claim(tmp_path / "other"):  # but any other folder does
            assert names(tmp_path / "other") == [".lock", "config.json"]
    assert names(tmp_path / "out") == ["config.json", "seed-0"]


def test_a_fork_works_inside_the_launch_and_does_not_end_the_lock(tmp_path):
    with claim(tmp_path / "out") as run:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with claim(tmp_path / "out"), claim(tmp_path / "out" / "part", "id-2"):
                    run.log({"step": 1})
                run.__exit__()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ".lock" in names(run.path)
        run.finish({})


def test_a_lost_lock_ends_the_run(tmp_path, fast):
    with claim(tmp_path / "out") as run:
        run.log({"step": 1})
        (run.path / ".lock").unlink()
        write_lock(run.path / ".lock")
        with pytest.raises(LostError, match="is no longer ours: its lock was removed, or another process has taken"):
            run.finish({"loss": 1.0})
    assert names(run.path) == [".lock", "config.json", "metrics.jsonl"]  # that of the other process stays
    assert LostError("x").exit_code == 1


def test_a_heartbeat_that_finds_another_holder_ends_the_run_at_the_next_step(tmp_path, fast):
    with claim(tmp_path / "out") as run:
        (run.path / ".lock").unlink()
        end = time.monotonic() + 5
        while not run._hold.lock.is_lost:
            assert time.monotonic() < end
            time.sleep(0.01)
        with pytest.raises(LostError):
            run.log({"step": 1})


def test_a_finished_run_is_read_without_a_lock(tmp_path, monkeypatch):
    with claim(tmp_path / "out") as run:
        run.finish({"loss": 1.0})
    monkeypatch.setattr("winning_tickets.runs.directory.hold", None)
    with claim(tmp_path / "out") as run:
        assert (run.status, run.result()) == ("done", {"loss": 1.0})


@needs_proc
def test_a_lock_that_a_kill_left_in_a_finished_run_is_removed(tmp_path):
    with claim(tmp_path / "out") as run:
        run.finish({})
    as_others(tmp_path, tmp_path / "out" / ".lock", dead=True)
    assert claim(tmp_path / "out").status == "done"
    assert names(tmp_path / "out") == ["config.json", "result.json"]


def test_seeds_that_failed_are_tried_again_under_a_lock(tmp_path):
    with claim(tmp_path / "out") as run:
        run.finish({"failed_seeds": [1]})
    with claim(tmp_path / "out") as run:
        assert run.status == "unfinished"
        assert ".lock" in names(run.path)


@needs_proc
def test_a_folder_that_may_not_be_written_is_told_at_once(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    as_others(tmp_path, tmp_path / "out" / ".lock", dead=True)
    monkeypatch.setattr(locks, "TemporaryFile", refuse)
    with pytest.raises(TrainingError, match=r"Could not write .*out/\.lock: Read-only file system"):
        claim(tmp_path / "out")


def test_a_run_of_a_store_has_the_claim_of_the_store_as_its_lock(tmp_path):
    store = Store(tmp_path / "store")
    store.describe("run", "search", {})
    with store.claim("run"), claim(store.folder("run")) as run:
        assert names(run.path) == ["config.json"]
    with claim(store.folder("run")):  # a command with this --out
        assert store.status("run") == "running"
        with pytest.raises(ClaimedError, match="The run run is claimed by process"), store.claim("run"):
            pass
    assert store.status("run") == "unfinished"
    as_others(tmp_path, tmp_path / "store" / "claims" / "run" / "lease")
    with pytest.raises(ClaimedError, match=r"^--out .*runs/run is in use by process"):
        claim(store.folder("run"))


@pytest.mark.usefixtures("one_thread")
@needs_proc
def test_all_ranks_of_a_launch_are_refused_in_words(tmp_path):
    as_others(tmp_path, tmp_path / "out" / ".lock")

    @together()
    def work():
        claim(tmp_path / "out")

    ended = Launch(tmp_path, lambda rank: work()).wait()
    assert [one.code for one in ended] == [2, 2]
    assert all("is in use by process" in one.err for one in ended)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "bert", head="mlm+pooler")


@needs_proc
def test_an_export_is_locked_beside_its_folder(bert, tmp_path):
    search(SearchConfig(model=str(bert), method="random", sparsity=0.5), tmp_path / "ticket")
    made = export(tmp_path / "ticket", "masked", tmp_path / "here" / "out")
    assert names(tmp_path / "here") == ["out"]
    as_others(tmp_path, tmp_path / "here" / ".out.lock")
    assert export(tmp_path / "ticket", "masked", tmp_path / "here" / "out")["id"] == made["id"]  # it is read only
    with pytest.raises(ClaimedError, match="here/out is in use by process"):
        export(tmp_path / "ticket", "masked", tmp_path / "here" / "out", force=True)


def test_an_export_does_not_remove_what_another_command_has_begun(bert, tmp_path, monkeypatch):
    search(SearchConfig(model=str(bert), method="random", sparsity=0.5), tmp_path / "ticket")
    deploy = sys.modules["winning_tickets.deploy.export"]
    write = deploy.write_json

    def meanwhile(path, value):
        claim(tmp_path / "out")
        write(path, value)

    monkeypatch.setattr(deploy, "write_json", meanwhile)
    with pytest.raises(UsageError, match="holds files that are not an export of this tool"):
        export(tmp_path / "ticket", "masked", tmp_path / "out")
    assert "config.json" in names(tmp_path / "out")


def test_processes_that_save_one_ticket_take_turns(bert, tmp_path, capsys):
    ticket = search(SearchConfig(model=str(bert), method="random", sparsity=0.5), tmp_path / "ticket")
    saved = threading.Thread(target=ticket.save_pretrained, args=(tmp_path / "copy",))
    with hold(tmp_path / "copy"):
        saved.start()
        saved.join(0.1)
        assert saved.is_alive()
        assert names(tmp_path / "copy") == [".lock"]
    saved.join(10)
    assert names(tmp_path / "copy") == ["README.md", "ticket.json", "ticket.safetensors"]


@needs_proc
def test_analyses_and_reports_are_refused_before_any_work(tmp_path, monkeypatch):
    def work(*_):
        raise AssertionError("it has begun")

    as_others(tmp_path, tmp_path / "out" / ".lock")
    monkeypatch.setattr(save, "analysis_table", work)
    monkeypatch.setattr(report, "report_files", work)
    with pytest.raises(ClaimedError):
        save.save({"kind": "similarity"}, tmp_path / "out")
    with pytest.raises(ClaimedError):
        report.report_study(plan_study(load_study("demo"), "smoke"), Store(tmp_path / "store"), tmp_path / "out")
    monkeypatch.setitem(ANALYSES, "similarity", work)
    ended = typer.testing.CliRunner().invoke(
        cli.app, ["analyse", "similarity", "a", "b", "--out", str(tmp_path / "out")]
    )
    assert isinstance(ended.exception, ClaimedError)
