"""What the pages print is what the program prints: the same lines and words, and numbers where they have numbers.

A block ```output directly after a block ```bash is what its commands print together; a line `...` in it stands for any
number of lines. The blocks of a page run in order, in one folder.
`python tests/house/test_printed_outputs.py PAGE` writes what each block of a page prints now.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
PAGES = {
    path.stem: path for folder in ("tutorials", "how_to") for path in sorted((ROOT / "docs" / folder).glob("*.md"))
}
BLOCK = re.compile(
    r"^(<!-- test: elsewhere -->\n)?```bash\n(.*?)^```$(?:\n\n```output\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)
NUMBER = re.compile(r"\b[0-9a-f]{16}\b|[-+]?\b\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?\b")
QUICK = ("use_the_papers_masks",)
"""Pages whose commands take a few seconds together."""


def blocks(page: str) -> list[tuple[str, str, str]]:
    """The blocks of commands of a page: whether they need another place, the commands, and what they print."""
    return BLOCK.findall(PAGES[page].read_text(encoding="utf-8"))


def printed(commands: str) -> str:
    """Run the `tickets` commands of a block here, and return what they print on stdout."""
    from winning_tickets.cli import app

    texts = []
    for line in commands.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["tickets"]:
            continue
        command, _, file = (" ".join(map(shlex.quote, words[1:]))).partition(" '>' ")
        outcome = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
        assert outcome.exit_code == 0, f"{line}\n{outcome.output}"
        if file:
            Path(file).write_text(outcome.stdout, encoding="utf-8")
        else:
            texts.append(outcome.stdout)
    return "".join(texts)


def shape(text: str) -> list[str]:
    """The lines of a text with numbers, hashes and spaces made equal."""
    return [re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip() for line in text.strip().splitlines()]


def fits(stored: str, now: str) -> bool:
    """Whether a text has the lines of a stored one; `...` in that stands for any lines."""
    lines = [r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in shape(stored)]
    return re.fullmatch("".join(lines), "".join(f"{line}\n" for line in shape(now))) is not None


def make_files(folder: Path) -> None:
    """Write the files of a user that the pages name."""
    for name, first in (("train.csv", 0), ("dev.csv", 6), ("new.csv", 12)):
        lines = ["text,body,label,category"]
        for number in range(first, first + 6):
            for thing in ("parcel", "letter", "order", "box"):
                for text, category in (
                    (f"My {thing} {number} is late.", "delivery"),
                    (f"Refund {thing} {number}?", "refund"),
                ):
                    lines.append(f"{text},{text},{number % 2},{category}")
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tasks,) = re.findall(r"```yaml\n(# tasks.yml.*?)```", PAGES["task_files"].read_text(encoding="utf-8"), re.DOTALL)
    (folder / "tasks.yml").write_text(tasks, encoding="utf-8")
    topics = [{"text": f"{topic} news {n}", "label": [topic]} for n in range(8) for topic in ("sport", "politics")]
    names = [{"words": ["Ada", "wrote"], "tags": ["B-PER", "O"]}, {"words": ["Rain", "fell"], "tags": ["O", "O"]}] * 8
    for name, some in (("topics", topics), ("names", names)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in some), encoding="utf-8")
    question = {"id": "1", "question": "Who ruled it?", "answers": [{"text": "Rollo", "answer_start": 0}]}
    paragraphs = [{"context": "Rollo ruled Normandy.", "qas": [question | {"id": str(n)}]} for n in range(8)]
    (folder / "answers.json").write_text(json.dumps({"data": [{"title": "Rollo", "paragraphs": paragraphs}]}))
    if DATA.exists():
        (folder / "glue").symlink_to(DATA / "glue")


def test_shapes_differ_in_words_and_in_lines_but_not_in_numbers() -> None:
    assert fits("kd_loss: 0.1234\n", "kd_loss:   12\n")
    assert fits("a 1\n...\nb", "a 2\nmore\nlines\nb\n")
    assert not fits("kd_loss: 0.1", "mlm_loss: 0.1")
    assert not fits("a 1", "a 1\nb 2")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in PAGES
        if any(output for _, _, output in blocks(name))
    ],
)
def test_a_page_shows_what_its_commands_print(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = [(commands, output) for elsewhere, commands, output in blocks(page) if not elsewhere]
    if (
        any(word in commands for commands, _ in here for word in ("--data-dir glue", "data_dir=glue"))
        and not DATA.exists()
    ):
        pytest.skip(f"the data of {DATA} is not there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    make_files(tmp_path)
    last = max(index for index, (_, output) in enumerate(here) if output)
    for commands, output in here[: last + 1]:
        now = printed(commands)
        assert not output or fits(output, now), f"{commands}\nprints\n{now}\nand the page says\n{output}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        make_files(Path(work))
        os.chdir(work)
        for elsewhere, commands, _ in blocks(sys.argv[1]):
            sys.stdout.write(f"```bash\n{commands}```\n\n")
            if not elsewhere:
                sys.stdout.write(f"```output\n{printed(commands)}```\n\n")
