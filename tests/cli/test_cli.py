"""The command line as others rely on it: exit codes, JSON, messages, nothing on stdout when something went wrong."""

import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from samples.tiny_models import TEXT, make_model
from tools.fuzz import seeds
from winning_tickets import cli
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.progress import progress


@pytest.fixture
def world(tmp_path):
    """A tiny model, a corpus, and a folder to work in."""
    (tmp_path / "corpus.txt").write_text("\n".join(TEXT))
    make_model(tmp_path / "model", head="mlm+pooler")
    rows = [f"{line},{'animal' if i % 3 else 'other'}" for i, line in enumerate(TEXT)]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    return tmp_path


@pytest.mark.parametrize(
    ("number", "name", "advice"),
    [
        (errno.ENOSPC, "x/y", "x/y: No space left on device. Free some space, or choose another place."),
        (errno.EDQUOT, None, "The file system: Disk quota exceeded. Free some space, or choose another place."),
        (errno.EACCES, "x/y", "x/y: Permission denied. Give another path."),
        (errno.ENAMETOOLONG, "x/y", "x/y: File name too long. Give another path."),
        (errno.ENOTDIR, "x/y", "x/y: Not a directory. Give another path."),
        (errno.ELOOP, "x/y", "x/y: Too many levels of symbolic links. Give another path."),
    ],
)
def test_what_the_file_system_refuses_is_one_message(tickets, monkeypatch, number, name, advice):
    def app(**options):
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(cli, "app", app)
    assert tickets("search") == (1, "", f"Error: {advice}\n")


def test_a_result_that_is_a_link_to_itself(tickets, tmp_path):
    seeds.store(tmp_path)
    result = tmp_path / "store" / "runs" / "done" / "result.json"
    result.unlink()
    result.symlink_to(result)
    code, out, err = tickets("runs", "--store", tmp_path / "store")
    assert (code, out) == (1, "")
    assert err == f"Error: {result}: Too many levels of symbolic links. Give another path.\n"


def search_words(world, out, *more):
    settings = "--method mask-training --objective kd --sparsity 0.6 --steps 3 --batch-tokens 64 --segments packed:16"
    places = ("--corpus", world / "corpus.txt", "--out", out)
    return ("search", world / "model", *settings.split(), *places, "--quiet", *more)


def test_the_whole_job(tickets, world):
    code, out, err = tickets(*search_words(world, world / "trained", "--json"))
    assert (code, err) == (0, "")
    assert json.loads(out)["sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert (
        tickets("search", world / "model", "--method", "magnitude", "--sparsity", "0.6", "--out", world / "omp")[0] == 0
    )

    code, out, _ = tickets("evaluate", world / "trained", "--objective", "kd,mlm", "--corpus", world / "corpus.txt",
                           "--segments", "lines", "--quiet", "--json")  # fmt: skip
    result = json.loads(out)
    assert code == 0
    assert result["kd_loss"] > 0
    assert result["mlm_loss"] > 0
    assert 0 <= result["mlm_accuracy"] <= 1
    assert result["similarity_pearson"] is None
    assert result["tokens"] > 0

    code, out, _ = tickets("inspect", world / "trained", "--json")
    result = json.loads(out)
    assert result["sparsity"] == result["pruned"] / result["total"]
    assert len(result["by_matrix"]) == 13
    code, out, _ = tickets("inspect", world / "trained", "--figure", world / "masks.svg")
    assert code == 0
    assert f"masks drawn in {world / 'masks.svg'}" in out
    assert (world / "masks.svg").read_text().startswith("<svg")
    assert tickets("inspect", world / "trained", "--force")[0] == 2

    code, out, _ = tickets("compare", world / "trained", world / "omp", "--json")
    result = json.loads(out)
    assert result["kept_jaccard"][0][0] == 1.0
    assert 0 < result["chance_kept"][0][1] < result["kept_jaccard"][0][1] <= 1
    assert {"pruned_jaccard", "chance_pruned"} <= set(result)

    code, out, _ = tickets("transfer", world / "trained", "--train-file", world / "train.csv", "--validation-file",
                           world / "dev.csv", "--seeds", "0,1", "--epochs", "1", "--save-model", "--quiet", "--out",
                           world / "moved", "--json")  # fmt: skip
    result = json.loads(out)
    assert code == 0
    assert result["seeds"] == [0, 1]
    final = result["metrics"]["accuracy"]["final"]
    assert len(final["values"]) == 2
    assert final["mean"] == pytest.approx(sum(final["values"]) / 2)
    assert set(final) == {"mean", "std", "values"}

    code, out, _ = tickets("predict", world / "moved", "--text", "the cat sat", "--text", "rain fell", "--json")
    labels = [item["label"] for item in json.loads(out)["predictions"]]
    assert set(labels) <= {"animal", "other"}
    assert len(labels) == 2

    code, out, _ = tickets("export", world / "trained", "--format", "masked", "--out", world / "exported", "--json")
    assert code == 0
    assert (world / "exported" / "model.safetensors").exists()
    code, out, _ = tickets("evaluate", world / "exported", "--objective", "mlm", "--corpus", world / "corpus.txt",
                           "--segments", "lines", "--quiet", "--json")  # fmt: skip
    assert code == 0


@pytest.mark.parametrize("words", [(), ("study",)])
def test_without_a_verb_there_is_help_and_no_error(tickets, words):
    code, out, err = tickets(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"Usage: {' '.join(['tickets', *words])} [OPTIONS] COMMAND")


def test_progress_without_a_text_has_no_stray_space(caplog):
    caplog.set_level(logging.INFO, "winning_tickets")
    with progress("evaluating", 2, quiet=False) as advance:
        advance(1, "")
        advance(2, "loss 0.5")
    first, last = caplog.messages
    assert re.fullmatch(r"evaluating: 1/2, \d+ s left", first)
    assert last == "evaluating: 2/2 loss 0.5"


def test_a_damaged_ticket_and_one_for_other_weights_exit_with_1(tickets, world):
    tickets("search", world / "model", "--method", "magnitude", "--out", world / "t")
    make_model(world / "other", seed=9)
    code, out, err = tickets("evaluate", world / "t", "--base", world / "other", "--corpus", world / "corpus.txt",
                             "--segments", "lines", "--quiet")  # fmt: skip
    assert (code, out) == (1, "")
    assert "holds other values" in err
    assert "--allow-other-weights" in err
    path = world / "t" / "ticket.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    code, out, err = tickets("inspect", world / "t", "--json")
    assert (code, out) == (1, "")
    assert "cut off or edited" in err


def test_a_finished_run_prints_its_stored_result(tickets, world):
    first = tickets(*search_words(world, world / "t", "--json"))
    second = tickets(*search_words(world, world / "t", "--json"))
    assert first[:2] == second[:2]
    assert tickets(*search_words(world, world / "t", "--seed", "1"))[0] == 2
    assert tickets(*search_words(world, world / "t", "--seed", "1", "--force"))[0] == 0


def test_dry_run_does_nothing(tickets, world):
    code, out, _ = tickets("search", "bert-base-uncased", "--corpus", "wikitext-103", "--steps", "20000", "--out",
                           world / "t", "--dry-run", "--json")  # fmt: skip
    assert code == 0
    assert json.loads(out)["plan"]["score_init"] == "activation"
    assert not (world / "t").exists()


@pytest.mark.parametrize(
    "verb",
    [
        "transfer builtin:minilm --task rte",
        "super builtin:minilm --task rte",
        "share --tasks rte,mrpc --model builtin:minilm",
    ],
)
def test_a_dry_run_refuses_what_the_run_would(tickets, world, verb):
    words = (*verb.split(), "--smart", 1, "--out", world / "t", "--dry-run")
    assert tickets(*words)[0] == 0
    code, _, err = tickets(*words, "--bf16")
    assert (code, "--smart and --bf16 contradict each other" in err) == (2, True)


def long_search_words(world, steps):
    words = [str(word) for word in search_words(world, world / "t", "--checkpoint-steps", "2")]
    words[words.index("--steps") + 1] = str(steps)
    return words


def signaled_after(monkeypatch, step, number):
    """The process gets a signal right after it has logged a step."""
    original = RunDirectory.log

    def log(self, record):
        original(self, record)
        if record["step"] == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunDirectory, "log", log)


def assert_interrupted(world, found, code):
    returned, out, err = found
    assert (returned, out) == (code, "")
    assert "a checkpoint is in" in err
    assert "Run the same command again to resume" in err
    assert "Traceback" not in err
    assert list((world / "t" / ".scratch").glob("checkpoint-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_command_with_their_codes(tickets, world, monkeypatch, number, code):
    signaled_after(monkeypatch, 3, number)
    assert_interrupted(world, tickets(*long_search_words(world, 10)), code)


def test_a_signal_ends_a_process_of_its_own(world):
    process = subprocess.Popen(
        [sys.executable, "-m", "winning_tickets", *long_search_words(world, 100_000)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = world / "t" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert_interrupted(world, (process.returncode, out, err), 143)


@pytest.mark.usefixtures("one_thread")  # forks
def test_kill_nine_and_run_again_gives_the_same_ticket(tickets, world, monkeypatch):
    """The process that is killed is a fork of this one: nothing is imported again."""
    words = long_search_words(world, 8)
    pid = os.fork()
    if not pid:
        try:
            signaled_after(monkeypatch, 5, signal.SIGKILL)
            tickets(*words)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert len((world / "t" / "metrics.jsonl").read_text().splitlines()) == 5
    assert not (world / "t" / "result.json").exists()
    code, out, _ = tickets(*words, "--json")
    assert code == 0
    words[words.index("--out") + 1] = str(world / "whole")
    whole = json.loads(tickets(*words, "--json")[1])
    assert json.loads(out)["ticket_id"] == whole["ticket_id"]


def test_the_cache_is_listed_and_cleaned(tickets, world):
    tickets(*search_words(world, world / "t"))
    code, out, _ = tickets("cache", "list", "--json")
    assert code == 0
    assert json.loads(out)["entries"]
    assert tickets("cache", "clean")[0] == 0
    assert json.loads(tickets("cache", "list", "--json")[1])["entries"] == []
