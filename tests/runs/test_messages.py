"""What the library says: Python users hear it through logging and warnings, those of the command line on stderr."""

import logging
import subprocess
import sys
import warnings

import pytest

import winning_tickets as wt
from samples.tiny_models import make_model
from winning_tickets.runs import messages

SEARCH = """
import logging, sys
import winning_tickets as wt
fields = {"method": "imp", "corpus": ["one two three"] * 40, "segments": "lines", "sparsity": 0.5, "round_steps": 2,
          "batch_size": 2, "max_length": 8, "device": "cpu"}
wt.search(sys.argv[1], **fields)
print("and now", flush=True)
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s", stream=sys.stdout)
wt.search(sys.argv[1], **fields)
"""
ADVICE = "One sparsity level is one round: the model is trained once, pruned to 50 %, and not trained again."


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("model") / "bert", head="mlm+pooler"))


def test_a_call_prints_nothing_by_itself_and_leaves_records_for_who_listens(bert):
    ended = subprocess.run([sys.executable, "-c", SEARCH, bert], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    before, _, after = ended.stdout.partition("and now\n")
    assert before == ""
    assert f"winning_tickets.pruning.search INFO {ADVICE}" in after
    assert "winning_tickets.runs.progress INFO iterative pruning" in after


@pytest.mark.parametrize("quiet", [False, True])
def test_the_command_line_prints_them_unless_it_is_to_be_quiet(bert, tmp_path, tickets, quiet):
    (tmp_path / "corpus.txt").write_text("one two three\n" * 40)
    words = ["search", bert, "--method", "imp", "--corpus", tmp_path / "corpus.txt", "--segments", "lines"]
    words += ["--sparsity", "0.5", "--round-steps", "2", "--batch-size", "2", "--max-length", "8", "--device", "cpu"]
    code, _, err = tickets(*words, "--out", tmp_path / "out", *(["--quiet"] if quiet else []))
    assert code == 0
    lines = err.splitlines()
    assert [line.startswith(ADVICE) for line in lines[:1]] == [True] * (not quiet)
    assert [line.startswith("iterative pruning") and ": 2/2 " in line for line in lines[-1:]] == [True] * (not quiet)


def test_a_command_line_shows_records_and_advice_and_lets_other_warnings_be(capsys):
    logger = logging.getLogger("winning_tickets.somewhere")
    with messages.shown():
        for _ in range(2):
            warnings.warn("give less", wt.TicketsWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="of another"):  # as the caller has asked
            warnings.warn("of another library", UserWarning, stacklevel=1)
        logger.info("a\x1bb %s", "100 %")
        logger.warning("beware")
        logger.debug("not this")
        messages.hush()
        logger.warning("nor this")
    logger.warning("nor after the end")
    assert capsys.readouterr().err.splitlines() == [*["Warning: give less"] * 2, r"a\x1bb 100 %", "Warning: beware"]


def test_only_rank_0_of_a_launch_prints(capsys, monkeypatch):
    monkeypatch.setattr(messages, "is_main", lambda: False)
    with messages.shown():
        logging.getLogger("winning_tickets").warning("of rank 1")
    assert capsys.readouterr().err == ""
