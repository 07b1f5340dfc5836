"""Names of strangers in every verb that prints: none forges a line, hides text or becomes markup, code or a formula."""

import ast
import csv
import io
import json
import re
import signal
import subprocess
import sys
import unicodedata

import pytest

from samples.analyse_samples import transfer_run
from samples.tiny_models import TEXT, make_model
from winning_tickets import cli
from winning_tickets.runs.store.store import Store

LINE = "Done: all files verified"
NASTY = f'=x"); print(1) # <svg onload=alert(1)>`|\x1b[31m\n{LINE}\r\u202eevil\u200b\u2028'
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.fixture
def tickets(tickets):
    """Run a command line in this process and check all that it prints; returns exit code and stdout."""

    def run(*words):
        code, out, err = tickets(*words)
        harmless(out + err)
        return code, out

    return run


def harmless(text):
    assert not [letter for letter in text if unicodedata.category(letter) in UNSAFE and letter not in "\n\t"]
    assert not [line for line in text.split("\n") if line.strip(' "').startswith(LINE)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strangers")
    name = NASTY.replace("/", "")
    base = make_model(folder / name, head="mlm+pooler")
    (folder / "texts.txt").write_text("\n".join(TEXT * 20))
    return folder, base


def test_verbs_of_tickets(tickets, world):
    folder, base = world
    first, second = folder / "first", folder / f"second {NASTY}"
    for seed, out in enumerate((first, second)):
        words = ("--method", "random", "--sparsity", "0.5", "--seed", seed, "--out", out)
        assert tickets("search", base, *words, "--dry-run")[0] == 0
        assert tickets("search", base, *words)[0] == 0
    assert tickets("inspect", first)[0] == 0
    code, out = tickets("inspect", second, "--json")
    assert code == 0
    assert json.loads(out)["base"]["name"] == str(base)  # JSON has the name itself
    assert tickets("compare", first, second)[0] == 0
    assert tickets("mask", "perturb", second, "--out", folder / "third")[0] == 0
    assert tickets("mask", "combine", "union", first, second, "--out", folder / "fourth")[0] == 0
    assert tickets("runs", second, "--verify")[0] == 0
    assert tickets("compare", first, second, "--labels", f"{NASTY.replace(',', '')},b")[0] == 0
    text = ("--corpus", folder / "texts.txt", "--segments", "packed:16", "--max-tokens", "64", "--batch-tokens", "64")
    assert tickets("evaluate", second, "--objective", "kd", *text)[0] == 0
    export = ("export", second, "--format", "masked", "--out", folder / "export")
    assert tickets(*export, "--dry-run")[0] == 0
    assert tickets(*export)[0] == 0
    assert tickets("inspect", folder / f"missing {NASTY}")[0] == 2
    assert tickets("export", first, "--format", NASTY, "--out", folder / "x")[0] == 2
    for card in (second / "README.md", folder / "export" / "README.md"):
        harmless_card(card.read_text(encoding="utf-8"))


def harmless_card(card):
    harmless(card)
    assert "<svg" not in card
    (code,) = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    called = [node.func for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert "print" not in [getattr(one, "id", None) for one in called]
    assert code.count("\n") <= 2


def test_verbs_of_runs(tickets, world, tmp_path):
    store = Store(tmp_path / "store")
    for number, run in enumerate(("one", "two")):
        store.describe(run, "transfer", {"task": NASTY, NASTY: "-1"}, {"study": NASTY, "scale": NASTY})
        store.fail(run, f"{number}: {NASTY}")
    assert tickets("runs", "--store", store.path)[0] == 0
    assert tickets("runs", "--store", store.path, "--json")[0] == 0
    assert tickets("study", "list", "--store", store.path)[0] == 0
    assert tickets("runs", "--store", store.path, "--verify")[0] in (0, 1)
    code, out = tickets("runs", "--store", store.path, "--csv")
    assert code == 0
    rows = list(csv.reader(io.StringIO(out)))
    assert len(rows) == 3
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]
    assert "-1" in rows[1]  # a number stays one
    transfer_run(tmp_path / "runs" / "a", NASTY, {0: 0.5, 1: 0.6})
    assert tickets("analyse", "average", tmp_path / "runs" / "a")[0] in (0, 1)
    (tmp_path / "rows.csv").write_text(f'text,"{NASTY.replace(chr(34), "")}"\nw1,a\nw2,b\n', newline="")
    files = ("--train-file", tmp_path / "rows.csv", "--validation-file", tmp_path / "rows.csv")
    assert tickets("transfer", world[1], *files, "--label-column", "absent", "--out", tmp_path / "t")[0] in (1, 2)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 621. GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes.\nmore"
        ),
    ],
)
def test_too_little_memory_gets_a_sentence(error, capsys, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    for number, handler in before:
        signal.signal(number, handler)
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith(
        f"Error: There is not enough memory ({str(error).splitlines()[0].rstrip('.')}). Use smaller"
    )
    assert message.count("\n") == 1


def test_a_deleted_working_directory_gets_a_sentence(tmp_path):
    """Torch would end the process with a message of its own, in the shell and in Python."""
    program = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "import winning_tickets\n"
        "try:\n    winning_tickets.search\nexcept winning_tickets.TicketsError as error:\n    print(error)\n"
        "sys.argv = ['tickets', 'search', 'm', '--method', 'magnitude', '--sparsity', '0.5', '--out', 'o']\n"
        "from winning_tickets.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    sentence = (
        "The working directory cannot be used (No such file or directory): it was deleted, or may not be entered."
    )
    assert done.returncode == 2
    assert done.stdout.startswith(sentence)
    assert done.stderr.startswith(f"Error: {sentence}")
