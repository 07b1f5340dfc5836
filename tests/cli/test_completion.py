"""Completion in the shells: commands, options, the words of an option, and recipes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from winning_tickets.cli import app

CASES = {
    "tickets sea": "search",
    "tickets search --meth": "--method",
    "tickets search builtin:minilm --method mask-": "mask-training",
    "tickets search builtin:minilm --profile tu": "tuned",
    "tickets study run tamt-table-1": "tamt-table-1",
    "tickets study repo": "report",
}
BASH = """source {script}
read -ra COMP_WORDS <<< "{line}"
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_tickets_completion tickets
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = """source {script}
complete -C "{line}" | string replace -r '\\t.*' ''
"""
# zsh completes only in a terminal, so its function gets its words here, and prints what it would offer.
ZSH = """compdef() {{ : }}
_arguments() {{ print -r -- "$@" | grep -o '"[^"]*"' | head -1 | tr -d '"' }}
source {script}
words=({line}) CURRENT=${{#words}}
_tickets_completion
"""


@pytest.mark.parametrize("line", CASES)
def test_the_program_offers_one_word(line: str) -> None:
    asked = {"_TICKETS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    outcome = CliRunner().invoke(app, [], env=asked, prog_name="tickets", catch_exceptions=False)
    assert outcome.output.split() == [CASES[line]]


@pytest.mark.slow
@pytest.mark.parametrize(("shell", "program"), [("bash", BASH), ("zsh", ZSH), ("fish", FISH)])
def test_a_shell_completes_commands_options_words_and_recipes(shell: str, program: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    here = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(text: str) -> str:
        done = subprocess.run([shell, "-c", text], capture_output=True, text=True, check=False, env=here, cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    script = tmp_path / "script"
    script.write_text(run("tickets --show-completion; true"), encoding="utf-8")
    offered = {line: run(program.format(script=script, line=line)).split() for line in CASES}
    assert offered == {line: [word] for line, word in CASES.items()}
