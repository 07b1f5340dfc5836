"""A folder belongs to one launch: another is refused in words, and what a dead process has left does not matter."""

import errno
import logging
import os
import re
import signal
import socket
import sys
import threading
import time

import pytest
import typer.testing

from samples.claims import held_by_another
from samples.launch import Launch
from samples.tiny_models import make_model
from winning_tickets import cli, export, search
from winning_tickets.config import SearchConfig
from winning_tickets.report import files
from winning_tickets.runs import locks
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.distributed import together
from winning_tickets.runs.errors import TrainingError, UsageError, page
from winning_tickets.runs.locks import ClaimedError, LostError, hold
from winning_tickets.runs.store.store import Store
from winning_tickets.studies import report
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import plan_study
from winning_tickets.tickets import overlap

HERE = socket.gethostname()
SEE = re.escape(page("explanation/faults.md#one-folder-one-launch"))


def claim(path, run_id="id-1", force=False):
    return RunDirectory.claim(path, "search", run_id, {"x": 1}, force=force)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_refusal_names_process_host_and_begin_and_says_what_to_do(tmp_path):
    out = tmp_path / "out"
    with held_by_another(out) as pid:
        who = rf"process {pid} on {re.escape(HERE)} since 20\d\d-\d\d-\d\d ..:..:.. UTC"
        said = rf"^--out {out} is in use by {who}; nothing was changed\. Wait for it, or .* another directory\. "
        with pytest.raises(UsageError, match=rf"{said}{SEE}$"):
            claim(out)
        assert names(out) == [".lock"]
        with pytest.raises(ClaimedError):  # also to replace it
            claim(out, force=True)


def test_the_lock_names_this_process_and_vanishes_at_the_end(tmp_path):
    out = tmp_path / "out"
    with claim(out) as run:
        assert names(out) == [".lock", "config.json"]
        assert locks.name_owner(out / ".lock").startswith(f"process {os.getpid()} on {HERE} since 20")
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


def test_a_killed_process_loses_its_lock_at_once(tmp_path):
    out = tmp_path / "out"
    with held_by_another(out) as pid:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert names(out) == [".lock"]
        assert not locks.in_use(out)
        began = time.monotonic()
        with claim(out):
            assert time.monotonic() - began < 0.05
            assert f"process {os.getpid()} on" in locks.name_owner(out / ".lock")
    assert names(out) == ["config.json"]


def test_a_child_of_a_killed_process_does_not_keep_its_lock(tmp_path):
    """Workers of data loaders may outlive the process that has forked them."""
    ready, told = os.pipe()
    if os.fork() == 0:
        lock = hold(tmp_path / "out")
        assert lock.is_held()
        if (child := os.fork()) == 0:
            signal.pause()
        os.write(told, b"%d" % child)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    child = int(os.read(ready, 20))
    try:
        with claim(tmp_path / "out"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(ready)
        os.close(told)


@pytest.mark.parametrize("content", ["", "[]", "filelock/2\npid=1\nhost=h\n", "12\n", "\0", "\udcff"])
def test_the_file_of_a_lock_without_a_holder_is_taken_whatever_it_says(tmp_path, content):
    path = tmp_path / "out" / ".lock"
    path.parent.mkdir()
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert locks.name_owner(path) == "a process that has just begun"
    assert not locks.in_use(path.parent)
    with claim(path.parent):
        pass
    assert names(path.parent) == ["config.json"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_without_locks_in_the_file_system_the_file_is_the_lock(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.lock_descriptor", refuse)
    out = tmp_path / "out"
    with held_by_another(out) as pid, pytest.raises(ClaimedError, match=f"by process {pid} on {re.escape(HERE)}; no"):
        claim(out)
    with claim(out):  # filelock sees that the process is gone
        assert names(out) == [".lock", "config.json"]
        assert locks.in_use(out)
    assert names(out) == ["config.json"]
    (out / ".lock").write_text("1\nelsewhere\n")
    said = rf"by process 1 on elsewhere; .* If that process is gone: tickets runs --break-lock {out}\. {SEE}$"
    with pytest.raises(ClaimedError, match=said):
        claim(out)
    assert locks.break_lock(out) == "process 1 on elsewhere"
    with claim(out):
        pass


def test_a_file_system_that_refuses_is_told(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(locks, "TemporaryFile", refuse)
    with pytest.raises(TrainingError, match=r"Could not write .*out/\.lock: Read-only file system"):
        claim(tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="Could not write"):
        hold(tmp_path / "file" / "out")


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


@pytest.mark.parametrize("another", [False, True])
def test_a_lock_that_is_broken_by_hand_ends_the_run_before_it_writes_again(tmp_path, tickets, another):
    with claim(tmp_path / "out") as run:
        run.log({"step": 1})
        code, out, err = tickets("runs", "--break-lock", run.path)
        assert (code, err) == (0, "")
        assert re.search(rf"^Removed the lock of \S*out, which process {os.getpid()} on .* UTC held\.$", out)
        if another:
            (run.path / ".lock").touch()
        for write in (lambda: run.log({"step": 2}), lambda: run.finish({"loss": 1.0})):
            with pytest.raises(LostError, match=r"is no longer ours: its lock was removed, so another process may"):
                write()
    assert names(run.path) == [*([".lock"] if another else []), "config.json", "metrics.jsonl"]
    assert LostError("x").exit_code == 1
    code, _, err = tickets("runs", "--break-lock", tmp_path)
    assert (code, "has no lock; give the folder that a message names as in use." in err) == (2, True)


def test_a_finished_run_is_read_without_a_lock(tmp_path, monkeypatch):
    with claim(tmp_path / "out") as run:
        run.finish({"loss": 1.0})
    monkeypatch.setattr("winning_tickets.runs.directory.hold", None)
    with claim(tmp_path / "out") as run:
        assert (run.status, run.result()) == ("done", {"loss": 1.0})


def test_a_lock_that_a_kill_left_in_a_finished_run_is_removed(tmp_path):
    with claim(tmp_path / "out") as run:
        run.finish({})
    (tmp_path / "out" / ".lock").touch()
    assert claim(tmp_path / "out").status == "done"
    assert names(tmp_path / "out") == ["config.json", "result.json"]


def test_seeds_that_failed_are_tried_again_under_a_lock(tmp_path):
    with claim(tmp_path / "out") as run:
        run.finish({"failed_seeds": [1]})
    with claim(tmp_path / "out") as run:
        assert run.status == "unfinished"
        assert ".lock" in names(run.path)


def test_a_run_of_a_store_has_the_claim_of_the_store_as_its_lock(tmp_path):
    store = Store(tmp_path / "store")
    store.describe("run", "search", {})
    with store.claim("run"), claim(store.folder("run")) as run:
        assert names(run.path) == ["config.json"]
        assert names(store.path / "claims") == ["run.lock"]
    with held_by_another(store.folder("run")) as pid:  # a command with this --out
        assert store.status("run") == "running"
        with pytest.raises(ClaimedError, match=f"The run run is in use by process {pid}"), store.claim("run"):
            pass
        with pytest.raises(ClaimedError, match=r"^--out .*runs/run is in use by process"):
            claim(store.folder("run"))
        assert f"process {pid} on" in locks.break_lock(store.folder("run"))
    assert store.status("run") == "unfinished"
    assert names(store.path / "claims") == []


@pytest.mark.usefixtures("one_thread")
def test_all_ranks_of_a_launch_are_refused_in_words(tmp_path):
    @together()
    def work():
        claim(tmp_path / "out")

    with held_by_another(tmp_path / "out"):
        ended = Launch(tmp_path, lambda rank: work()).wait()
    assert [one.code for one in ended] == [2, 2]
    assert all("is in use by process" in one.err for one in ended)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "bert", head="mlm+pooler")


def test_an_export_is_locked_beside_its_folder(bert, tmp_path):
    search(SearchConfig(model=str(bert), method="random", sparsity=0.5), tmp_path / "ticket")
    made = export(tmp_path / "ticket", "masked", tmp_path / "here" / "out")
    assert names(tmp_path / "here") == ["out"]
    with held_by_another(tmp_path / "here" / "out", beside=True):
        assert names(tmp_path / "here") == [".out.lock", "out"]
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


def test_processes_that_save_one_ticket_take_turns(bert, tmp_path, caplog):
    ticket = search(SearchConfig(model=str(bert), method="random", sparsity=0.5), tmp_path / "ticket")
    caplog.set_level(logging.INFO, "winning_tickets")
    saved = threading.Thread(target=ticket.save_pretrained, args=(tmp_path / "copy",))
    with hold(tmp_path / "copy"):
        saved.start()
        saved.join(0.3)
        assert saved.is_alive()
        assert names(tmp_path / "copy") == [".lock"]
    saved.join(10)
    assert names(tmp_path / "copy") == ["README.md", "ticket.json", "ticket.safetensors"]
    assert re.search(rf"copy is in use by process {os.getpid()} on .*; waiting for its end\.", caplog.messages[-1])


def test_analyses_and_reports_are_refused_before_any_work(tmp_path, monkeypatch):
    def work(*_):
        raise AssertionError("it has begun")

    monkeypatch.setattr(report, "report_files", work)
    monkeypatch.setitem(ANALYSES, "distance", work)
    monkeypatch.setattr(overlap, "compare", work)
    with held_by_another(tmp_path / "out"):
        with pytest.raises(ClaimedError):
            files.save_analysis({"kind": "similarity"}, (work, work), tmp_path / "out")
        with pytest.raises(ClaimedError):
            report.report_study(plan_study(load_study("demo"), "smoke"), Store(tmp_path / "store"), tmp_path / "out")
        for words in (["analyse", "distance"], ["compare", "b"]):
            ended = typer.testing.CliRunner().invoke(cli.app, [*words, "a", "--out", str(tmp_path / "out")])
            assert isinstance(ended.exception, ClaimedError)
