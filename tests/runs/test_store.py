"""The store: what becomes of runs, what is remembered of them, and how they are found again."""

import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError
from winning_tickets.runs.files import write_json
from winning_tickets.runs.store import index, query
from winning_tickets.runs.store.query import STATUSES
from winning_tickets.runs.store.records import ListedRun, Record
from winning_tickets.runs.store.store import Store

RESULT = {"metrics": {"accuracy": {"final": {"mean": 0.75, "std": None, "values": [0.75]}}}, "base_hash": "abc"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def do(store, run_id, result=RESULT, config=None, labels=None):
    """A whole run, as an engine does it."""
    config = {"task": "rte", "sparsity": 0.6} if config is None else config
    with store.claim(run_id):
        store.describe(run_id, "transfer", config, labels)
        run = RunDirectory.claim(store.folder(run_id), "transfer", "inner-id", config | {"seeds": [0, 1]})
        run.finish(result)
        store.seal(run_id)


def test_looking_makes_no_store(store):
    assert not store.exists()
    assert store.status("a") == "absent"
    assert list(store.records()) == []
    assert store.ids() == []
    assert not store.path.exists()


def test_a_run_goes_from_absent_to_done(store):
    seen = [store.status("run-1")]
    with store.claim("run-1"):
        seen.append(store.status("run-1"))
        RunDirectory.claim(store.folder("run-1"), "evaluate", "run-1", {}).finish({"kd_loss": 0.1})
        seen.append(store.status("run-1"))
        assert not store.sealed("run-1")
        store.seal("run-1")
    assert seen == ["absent", "running", "done"]
    assert store.status("run-1") == "done"
    assert store.sealed("run-1")
    assert store.result("run-1") == {"kd_loss": 0.1}
    assert json.loads((store.path / "store.json").read_text()) == {
        "what": "winning-tickets store",
        "format_version": 1,
    }


def test_a_run_that_was_begun_and_left_is_unfinished(store):
    def stopped():
        with store.claim("run-1"):
            RunDirectory.claim(store.folder("run-1"), "search", "run-1", {"steps": 3})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert store.status("run-1") == "unfinished"
    assert store.record("run-1").config == {"steps": 3}
    with pytest.raises(UsageError, match=r"^The run run-1 is not done but unfinished; it has no result yet\.$"):
        store.result("run-1")
    with pytest.raises(UsageError, match="is not done but unfinished"):
        store.seal("run-1")


def test_a_described_run_without_a_folder_is_unfinished(store):
    store.describe("run-1", "search", {"method": "random"})
    assert store.status("run-1") == "unfinished"
    assert store.record("run-1").verb == "search"


def test_a_failed_run_keeps_its_error_and_gives_no_number(store):
    with store.claim("run-1"):
        RunDirectory.claim(store.folder("run-1"), "transfer", "x", {}).finish(RESULT | {"failed_seeds": [1]})
        store.fail("run-1", TrainingError("The loss is NaN."))
    assert store.status("run-1") == "failed"
    record = store.record("run-1")
    assert record.result is None
    assert {key: record.error[key] for key in ("kind", "message", "traceback")} == {
        "kind": "TrainingError",
        "message": "The loss is NaN.",
        "traceback": None,
    }
    assert record.error["provenance"]["seconds"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.error["time"])
    with pytest.raises(ContentError, match=r"^The run run-1 has failed: The loss is NaN\.$"):
        store.result("run-1")
    store.retry("run-1")
    assert store.status("run-1") == "unfinished"
    store.retry("run-1")  # nothing to forget


def test_a_failure_takes_the_seal_away_and_the_next_success_seals_anew(store):
    do(store, "run-1")
    store.fail("run-1", "no")
    assert not store.sealed("run-1")
    assert store.status("run-1") == "failed"
    store.retry("run-1")
    (store.folder("run-1") / "extra.json").write_text("{}")
    store.seal("run-1")
    sealed = json.loads((store.path / "about" / "run-1" / "files.json").read_text())
    assert sorted(sealed["files"]) == ["config.json", "extra.json", "result.json"]


def test_a_second_seal_changes_nothing(store):
    do(store, "run-1")
    about = store.path / "about" / "run-1"
    before = {path.name: path.read_text() for path in about.iterdir()}
    (store.folder("run-1") / "result.json").write_text('{"edited": 1}')
    with store.claim("run-1"):
        store.seal("run-1")
    assert {path.name: path.read_text() for path in about.iterdir()} == before


def test_a_run_killed_before_its_seal_does_not_invent_its_time(store):
    with store.claim("run-1"):
        RunDirectory.claim(store.folder("run-1"), "search", "run-1", {}).finish({"sparsity": 0.5})
    with store.claim("run-1"):
        store.seal("run-1")
    record = store.record("run-1")
    assert (record.seconds, record.peak_memory) == (None, None)
    assert record.versions["python"]


def test_a_bug_keeps_its_traceback_and_words_are_enough(store):
    try:
        _ = {}["nowhere"]
    except KeyError as error:
        store.fail("run-1", error)
    error = store.record("run-1").error
    assert (error["kind"], error["message"]) == ("KeyError", "'nowhere'")
    assert "_ = {}" in error["traceback"]
    store.fail("run-1", "the worker was killed three times")
    error = store.record("run-1").error
    assert (error["kind"], error["message"]) == ("Error", "the worker was killed three times")
    assert error["provenance"]["seconds"] is None  # this process did not do the work


def test_a_failed_run_has_no_folder_that_its_verb_would_refuse(store):
    store.describe("run-1", "transfer", {})
    store.fail("run-1", "no such task")
    assert not store.folder("run-1").exists()
    assert RunDirectory.claim(store.folder("run-1"), "transfer", "x", {}).status == "new"


def test_a_transfer_with_failed_seeds_is_not_done(store):
    with RunDirectory.claim(store.folder("run-1"), "transfer", "x", {}) as run:
        run.finish(RESULT | {"failed_seeds": [1]})
    assert store.status("run-1") == "unfinished"
    with RunDirectory.claim(store.folder("run-1"), "transfer", "x", {}) as run:
        run.finish(RESULT | {"failed_seeds": []})
    assert store.status("run-1") == "done"


def test_seeds_that_are_tried_again_have_a_cost(store):
    with store.claim("run-1"):
        RunDirectory.claim(store.folder("run-1"), "transfer", "x", {}).finish(RESULT | {"failed_seeds": [1]})
    with store.claim("run-1"):
        RunDirectory.claim(store.folder("run-1"), "transfer", "x", {}).finish(RESULT | {"failed_seeds": []})
        store.seal("run-1")
    assert store.record("run-1").seconds > 0


def test_a_damaged_file_is_a_failed_run_and_not_the_end_of_the_list(store):
    do(store, "run-1")
    do(store, "run-2")
    (store.folder("run-1") / "result.json").write_text('{"metrics": ')
    first, second = store.records()
    assert (first.status, second.status) == ("failed", "done")
    assert first.result is None
    assert first.error["kind"] == "ContentError"
    assert "result.json is not valid JSON" in first.error["message"]
    (store.folder("run-1") / "result.json").write_text("[1]")
    assert "holds list instead of an object" in store.record("run-1").error["message"]


def test_the_record_of_a_done_run(store):
    do(store, "run-1", labels={"stage": "transfer", "study": "figure-3"})
    (record,) = store.records()
    assert record.id == "run-1"
    assert record.verb == "transfer"
    assert record.config == {"task": "rte", "sparsity": 0.6, "seeds": [0, 1]}
    assert record.result == RESULT
    assert record.error is None
    assert record.labels == {"stage": "transfer", "study": "figure-3"}
    assert 0 < record.seconds < 60
    assert record.resumed is False
    assert record.peak_memory > 1_000_000
    assert record.versions["python"]
    assert record.machine["cores"] >= 1
    assert record.finished_at.endswith("+00:00")
    provenance = json.loads((store.path / "about" / "run-1" / "provenance.json").read_text())
    assert provenance["inputs"] == {"base_hash": "abc"}
    assert provenance["resumed"] is False
    assert provenance["device"] == "cpu"


def test_a_resumed_run_says_so(store):
    with store.claim("run-1"):
        RunDirectory.claim(store.folder("run-1"), "transfer", "inner-id", {"seeds": [0, 1]})
    do(store, "run-1", config={})
    assert json.loads((store.path / "about" / "run-1" / "provenance.json").read_text())["resumed"] is True


@pytest.mark.parametrize("run_id", ["", "..", ".hidden", "a/b", "-x", "a b", "é", "x" * 201, "a\n"])
def test_ids_are_safe_names(store, run_id):
    for use in (store.folder, store.status, store.record, store.retry, lambda one: store.claim(one).__enter__()):
        with pytest.raises(UsageError, match=f"{re.escape(repr(run_id))} cannot be the id of a run: it must begin"):
            use(run_id)
    assert not store.path.exists()


def test_foreign_folders_are_refused_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds files that are not a store of this tool; it was left untouched"):
        Store(tmp_path)
    with pytest.raises(UsageError, match="is a file; give a folder that is absent, empty, or a store"):
        Store(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_and_a_start_that_was_killed_become_stores(tmp_path):
    (tmp_path / ".store.json.0a1b2c3d.tmp").write_text('{"wh')
    store = Store(tmp_path)
    store.describe("a", "search", {})
    assert store.ids() == ["a"]


def test_another_format_is_refused(tmp_path):
    write_json(tmp_path / "store.json", {"format_version": 2})
    with pytest.raises(ContentError, match="has format version 2, this version reads 1; upgrade winning-tickets"):
        Store(tmp_path)


def test_records_see_changes_through_the_cache(store):
    for number in range(5):
        do(store, f"run-{number}")
    assert [record.status for record in store.records()] == ["done"] * 5
    fresh = Store(store.path)
    store.fail("run-3", "no")
    do(store, "run-9")
    assert [(record.id, record.status) for record in fresh.records()] == [
        ("run-0", "done"), ("run-1", "done"), ("run-2", "done"), ("run-3", "failed"), ("run-4", "done"),
        ("run-9", "done"),
    ]  # fmt: skip


def refuse_to_read(monkeypatch):
    def refuse(paths):
        raise AssertionError(f"{paths} were read again")

    monkeypatch.setattr(index, "read_body", refuse)


def test_the_index_is_used_and_disposable(store, monkeypatch):
    do(store, "run-1")
    before = list(store.records())
    with monkeypatch.context() as patch:
        refuse_to_read(patch)
        assert list(Store(store.path).records()) == before
        assert Store(store.path).listed() == [
            ListedRun("run-1", before[0].verb, "done", before[0].headline),
        ]
    file = store.path / "cache" / index.FILE
    good = file.read_bytes()
    for damaged in (b"", b"no database", good[:3000], good.replace(b"CREATE TABLE runs", b"CREATE TABLE rums")):
        file.write_bytes(damaged)
        assert list(Store(store.path).records()) == before
        with monkeypatch.context() as patch:
            refuse_to_read(patch)
            assert list(Store(store.path).records()) == before, "the index was made again"


def test_a_row_that_was_changed_is_read_again(store):
    do(store, "run-1", {"kd_loss": 0.1})
    before = store.listed()
    with closing(sqlite3.connect(store.path / "cache" / index.FILE)) as database, database:
        database.execute("UPDATE runs SET state = 'failed', headline = 'forged'")
    assert Store(store.path).listed() == before
    with closing(sqlite3.connect(store.path / "cache" / index.FILE)) as database, database:
        database.execute("UPDATE runs SET content = replace(content, '0.1', '0.9')")
    assert next(Store(store.path).records()).result == {"kd_loss": 0.1}


def test_an_index_that_another_process_writes_is_not_waited_for_long(store, monkeypatch):
    do(store, "run-1")
    before = list(store.records())
    do(store, "run-2")
    monkeypatch.setattr(index, "_SECONDS", 0.1)
    with closing(sqlite3.connect(store.path / "cache" / index.FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert [record.id for record in store.records()] == ["run-1", "run-2"]
        other.execute("ROLLBACK")
    assert next(store.records()) == before[0]


@given(
    config=st.dictionaries(
        st.text("ab.0", min_size=1, max_size=4),
        st.recursive(
            st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1e-4, 2**70, "rte", "1", "a b"]),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab0"), inner, max_size=2),
            max_leaves=4,
        ),
        max_size=3,
    ),
    key=st.sampled_from(["a", "b", "a.b", "a.0", "0", "a.b.0", "config.a", "config.a.b", "labels.a", "verb", "id"]),
    sign=st.sampled_from(["=", "!=", "<", ">="]),
    text=st.sampled_from(["1", "0.5", "1e-4", "rte", "true", "null", '"1"', str(2**70), "a b", "[1]"]),
)
@settings(max_examples=150, deadline=None)
def test_sql_leaves_out_no_run_that_fulfills_a_condition(config, key, sign, text):
    condition = query.Condition(key, sign, text)
    record = Record("run", "search", config=config)
    content = json.dumps({name: value for name, value in asdict(record).items() if name != "status"})
    where, values = index._where([condition])
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE runs (content TEXT)")
        database.execute("INSERT INTO runs VALUES (?)", [content])
        found = database.execute(f"SELECT count(*) FROM runs {where}", values).fetchone()[0]
    assert found or not condition.holds(record)


def test_a_result_that_changes_within_one_tick_of_the_clock_is_seen(store):
    do(store, "run-1", {"kd_loss": 0.1})
    assert store.result("run-1") == {"kd_loss": 0.1}
    path = store.folder("run-1") / "result.json"
    stamp = path.stat()
    write_json(path, {"kd_loss": 0.2})
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_size == stamp.st_size
    assert store.result("run-1") == {"kd_loss": 0.2}


def test_runs_that_were_deleted_leave_the_index(store):
    do(store, "run-1")
    do(store, "run-2")
    list(store.records())
    for folder in ("runs", "about"):
        shutil.rmtree(store.path / folder / "run-1")
    assert [record.id for record in Store(store.path).records()] == ["run-2"]
    with closing(sqlite3.connect(store.path / "cache" / index.FILE)) as database:
        assert database.execute("SELECT id FROM runs").fetchall() == [("run-2",)]


def test_a_store_that_may_not_be_written_is_still_read(store, monkeypatch):
    do(store, "run-1")
    list(store.records())
    do(store, "run-2")
    begin = index._open_file

    def read_only(path):
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)

    monkeypatch.setattr(index, "_open_file", read_only)
    assert [record.id for record in store.records()] == ["run-1", "run-2"]
    monkeypatch.setattr(index, "_open_file", begin)


def test_statuses_can_be_filtered_and_unknown_ones_are_answered(store):
    do(store, "run-1")
    store.fail("run-2", "no")
    assert [record.id for record in store.records(status="failed")] == ["run-2"]
    assert STATUSES == ("absent", "running", "unfinished", "failed", "done")
    with pytest.raises(UsageError, match=r"Unknown status 'don'\. Did you mean 'done'"):
        list(store.records(status="don"))


def test_records_of_nothing_but_a_name():
    assert Record("x").status == "unfinished"
