"""Nothing is ever half-written, and --out directories obey their contract."""

import errno
import json
import os
from pathlib import Path

import pytest

from winning_tickets.runs import files
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError, page, unknown
from winning_tickets.runs.files import (
    build_directory,
    read_json,
    remove_leftovers,
    to_disk,
    write_atomic,
    write_json,
    write_text,
)


def full_disk(path):
    path.write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path):
    target = tmp_path / "result.json"
    write_json(target, {"a": 1})
    with pytest.raises(
        TrainingError, match=r"No space left on device\. Nothing was left half-written; free some space"
    ):
        write_atomic(target, full_disk)
    assert json.loads(target.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "make its folder writable"),
        (errno.EROFS, "make its folder writable"),
        (errno.ENAMETOOLONG, "fix that"),
    ],
)
def test_the_advice_fits_what_the_file_system_refused(tmp_path, number, advice):
    def refuse(path):
        raise OSError(number, os.strerror(number))

    with pytest.raises(
        TrainingError, match=rf"{os.strerror(number)}\. Nothing was left half-written; {advice} or choose"
    ):
        write_atomic(tmp_path / "result.json", refuse)


def test_a_temporary_file_that_another_process_removed_is_written_again(tmp_path):
    attempts = []

    def removed(times):
        def write(temporary):
            attempts.append(temporary)
            temporary.write_text("content")
            if len(attempts) <= times:
                remove_leftovers(tmp_path)

        return write

    write_atomic(tmp_path / "run.json", removed(2))
    assert (tmp_path / "run.json").read_text() == "content"
    assert len(set(attempts)) == 3
    attempts.clear()
    with pytest.raises(TrainingError, match=r"Could not write .*other\.json: No such file or directory"):
        write_atomic(tmp_path / "other.json", removed(99))
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]


def test_a_full_disk_leaves_no_directory(tmp_path):
    def fill(staging):
        (staging / "one").write_text("1")
        full_disk(staging / "two")

    with pytest.raises(TrainingError, match="No space left on device"):
        build_directory(tmp_path / "out", fill)
    assert list(tmp_path.iterdir()) == []


def test_build_directory_takes_an_empty_one(tmp_path):
    (tmp_path / "out").mkdir()
    build_directory(tmp_path / "out", lambda staging: (staging / "one").write_text("1") and None)
    assert (tmp_path / "out" / "one").read_text() == "1"


def test_files_and_folders_are_brought_to_the_disk(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    brought = []
    monkeypatch.setattr(os, "fsync", lambda number: brought.append(os.fstat(number).st_ino))
    for path in (tmp_path / "file", tmp_path):
        to_disk(path)
    assert brought == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]

    def refuse(number):
        raise OSError(kind, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    kind = errno.EINVAL  # a file system that cannot do it for folders
    to_disk(tmp_path)
    kind = errno.EIO
    with pytest.raises(OSError, match="refused"):
        to_disk(tmp_path)


def test_nan_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_reading_says_what_is_wrong(tmp_path):
    with pytest.raises(UsageError, match="There is no result at"):
        read_json(tmp_path / "absent.json", "result")
    write_text(tmp_path / "cut.json", '{"a": ')
    with pytest.raises(ContentError, match="is not valid JSON .* it was edited or cut off"):
        read_json(tmp_path / "cut.json", "result")


def claim(path, run_id="id-1", force=False):
    return RunDirectory.claim(path, "search", run_id, {"x": 1}, force=force)


def test_a_run_starts_resumes_and_is_done(tmp_path):
    out = tmp_path / "out"
    assert claim(out).status == "new"
    unfinished = claim(out)
    assert unfinished.status == "unfinished"
    unfinished.scratch.mkdir()
    unfinished.finish({"loss": 1.0})
    done = claim(out)
    assert done.status == "done"
    assert done.result() == {"loss": 1.0}
    assert not done.scratch.exists()


def test_another_run_is_refused_untouched_and_replaced_only_by_force(tmp_path):
    out = tmp_path / "out"
    claim(out).finish({"loss": 1.0})
    with pytest.raises(
        UsageError, match="holds another run .search id-1., this one is search id-2; it was left untouched"
    ):
        claim(out, "id-2")
    assert (out / "result.json").exists()
    assert claim(out, "id-2", force=True).status == "new"
    assert not (out / "result.json").exists()


def test_a_folder_that_force_emptied_half_way_may_be_forced_again(tmp_path, monkeypatch):
    out = tmp_path / "out"
    claim(out).finish({"loss": 1.0})
    remove, entries = Path.unlink, Path.iterdir

    def kill_after(self, *arguments, **options):
        remove(self, *arguments, **options)
        if self.name in ("config.json", "result.json"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", kill_after)
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(entries(self))))  # the marker comes first
    for _ in range(2):  # each attempt is killed after one file
        with pytest.raises(KeyboardInterrupt):
            claim(out, "id-2", force=True)
    monkeypatch.undo()
    assert claim(out, "id-2").status == "new"


def test_the_settings_that_differ_from_another_run_are_named(tmp_path):
    def start(run_id, **config):
        RunDirectory.claim(tmp_path, "search", run_id, config)

    start("id-1", steps=4, seed=1, terms=(1, 2), a=0, b=0, old=1)
    with pytest.raises(UsageError, match=r"this one is search id-2 \(steps: 4 there, 6 here\); it was left untouched"):
        start("id-2", steps=6, seed=1, terms=(1, 2), new=2)
    with pytest.raises(
        UsageError, match=r"\(a: 0 there, 1 here; b: 0 there, 1 here; seed: 1 there, 2 here; and 1 more\)"
    ):
        start("id-2", a=1, b=1, seed=2, steps=6)
    with pytest.raises(UsageError, match="this one is search id-2; it was left"):  # the weights or data are others
        start("id-2", steps=4)
    with pytest.raises(UsageError, match=r"steps: 4 there, 'y{30,40}\.\.\.y{30,40}' here"):
        start("id-2", steps="y" * 1000)


def test_files_of_a_built_directory_follow_the_umask(tmp_path):
    def fill(folder):
        (folder / "inside").mkdir()
        for name, mode in (("a", 0o600), ("inside/b", 0o600), ("c", 0o755)):
            (folder / name).write_text("")
            (folder / name).chmod(mode)

    before = os.umask(0o027)
    try:
        build_directory(tmp_path / "built", fill)
    finally:
        os.umask(before)
    modes = {name: (tmp_path / "built" / name).stat().st_mode & 0o777 for name in ("a", "inside/b", "c")}
    assert modes == {"a": 0o640, "inside/b": 0o640, "c": 0o755}


@pytest.mark.parametrize("force", [False, True])
def test_foreign_files_are_never_touched(tmp_path, force):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds files that are not a run of this tool; it was left untouched"):
        claim(tmp_path, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UsageError, match="is a file; give a directory"):
        claim(tmp_path / "thesis.txt")


def test_a_start_that_was_killed_while_writing_its_marker_starts_again(tmp_path):
    (tmp_path / ".config.json.0a1b2c3d.tmp").write_text('{"verb"')
    assert claim(tmp_path).status == "new"


def test_records_beyond_the_resumed_step_are_forgotten(tmp_path):
    run = claim(tmp_path / "out")
    for step in (1, 2, 3):
        run.log({"step": step})
    with (run.path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 4, "lo')
    run.forget_after(2)
    assert (run.path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    run.log({"step": 0})  # of an evaluation before the first step
    run.forget_after(None)
    assert (run.path / "metrics.jsonl").read_text() == ""


def test_unknown_names_get_the_closest_ones():
    error = unknown("method", "magnitud", ["random", "magnitude"])
    said = "Unknown method 'magnitud'. Did you mean 'magnitude'? Known: magnitude, random."
    assert str(error) == f"{said} {page('README.md#find')}"
    assert error.exit_code == 2
    many = [f"name_{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + ["learning_rate"]
    assert str(unknown("field", "learning_rat", many)) == "Unknown field 'learning_rat'. Did you mean 'learning_rate'?"
    assert "Known: learning_rate, name_a, name_b" in str(unknown("field", "lr", many))


def test_files_are_written_where_the_system_syncs_only_what_is_writable_and_opens_no_folders(tmp_path, monkeypatch):
    """What differs on Windows."""
    real = os.open

    def open_(path, flags, *more):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        assert flags & os.O_RDWR, "Windows refuses fsync of a handle that is only readable"
        return real(path, flags, *more)

    monkeypatch.setattr(files.os, "open", open_)
    monkeypatch.setattr(files, "_WINDOWS", True)
    files.write_json(tmp_path / "a" / "b.json", {"a": 1})
    files.build_directory(tmp_path / "c", lambda staging: files.write_text(staging / "d", "e"))
    files.to_disk(tmp_path / "a")
    assert (tmp_path / "c" / "d").read_text() == "e"
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"a": 1}
