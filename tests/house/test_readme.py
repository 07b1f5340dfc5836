"""The README and the docs say what the program does: blocks run, options exist, links lead somewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samples.tiny_models import make_model
from winning_tickets.cli import app
from winning_tickets.cli.application import whole_application
from winning_tickets.config import SearchConfig, builtin_models
from winning_tickets.models import loading
from winning_tickets.studies.tiny import tiny_folder

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^<!-- test: (run|dry-run|elsewhere) -->\n```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"```python\n(.*?)^```\n\nprints\n\n```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITH_DRY_RUN = {"search", "evaluate", "fit-head", "transfer", "share", "super", "shrink", "export", "measure"}
SHELL_ONLY = ("python3 -m venv ", ".venv/bin/python -m pip install ")


def blocks(kind: str, language: str) -> list[object]:
    """Marked blocks of all pages, as test parameters."""
    return [
        pytest.param(content, id=f"{page.relative_to(ROOT)}-{index}")
        for page in PAGES
        for index, (how, what, content) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
        if (how, what) == (kind, language)
    ]


def commands(block: str) -> list[list[str]]:
    """The words of each command, lines joined at backslashes, comments gone."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def tickets(words: list[str]) -> None:
    """Run the command in this process; an error or another exit code fails the test."""
    outcome = CliRunner().invoke(app, words, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output


def parse(words: list[str]) -> None:
    """Parse a command line down to the last subcommand without running it."""
    command: Any = whole_application()
    context = command.make_context("tickets", list(words))
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, list(words))
        context = command.make_context(name, list(words), parent=context)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture(scope="module")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, builtin_models.Builtin]:
    """An importable package with a tiny model, and the entry for it in place of that of MiniLM."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "tiny_builtin").mkdir()
    (folder / "tiny_builtin" / "__init__.py").touch()
    weights = make_model(folder / "tiny_builtin" / "model", head="none") / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return folder, dataclasses.replace(builtin_models.BUILTINS["minilm"], package="tiny_builtin", sha256=digest)


@pytest.fixture(params=["tiny", pytest.param("real", marks=pytest.mark.slow)])
def builtin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `builtin:minilm` is: a tiny model, whose training costs nothing, or MiniLM itself."""
    if request.param == "tiny":
        folder, entry = request.getfixturevalue("tiny_package")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setitem(builtin_models.BUILTINS, "minilm", entry)


def test_the_built_in_model_is_installed() -> None:
    found = loading.load_plm("builtin:minilm", layers=1)
    assert found.encoder.config.hidden_size == 384


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WINNING_TICKETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("block", blocks("run", "bash"))
def test_offline_commands(block: str, workplace: Path, builtin: None) -> None:
    for words in commands(block):
        if words[0] == "make":
            assert set(words[1:]) <= make_targets(), f"the Makefile has no {words[1:]}"
        elif words[0] == "tickets":
            tickets([*words[1:], "--tiny"] if words[1] == "demo" else words[1:])
        else:
            assert " ".join(words).startswith(SHELL_ONLY), f"neither run nor known: {words}"


@pytest.mark.parametrize("block", blocks("run", "python"))
def test_offline_python(
    block: str, workplace: Path, builtin: None, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(block.splitlines()) <= 10
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    documented = PRINTED.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert documented is not None
    if documented[1] == block:
        same_output(documented[2], capsys.readouterr().out, "real" in request.node.name)


def same_output(documented: str, printed: str, same_model: bool) -> None:
    """Compare two outputs but for hashes: all words, and with the same model all numbers, which machines round."""
    one, other = ([re.sub("[0-9a-f]{8}", "HASH", word) for word in re.findall(r"[^\s|:-]+", text)]
                  for text in (documented, printed))  # fmt: skip
    words = [[re.sub(r"[\d.,]*\d[\d.,]*", "N", word) for word in text] for text in (one, other)]
    assert words[0] == words[1]
    for left, right in zip(one, other, strict=True) if same_model else ():
        if re.fullmatch(r"[\d.,]+", left):
            old, new = (float(number.replace(",", "")) for number in (left, right))
            assert new == pytest.approx(old, abs=10 if old > 1 else 0.01)  # scores, losses


def test_another_output_would_be_noticed() -> None:
    same_output("| loss | 0.10 |", "| loss  |  0.7 |", False)
    same_output("| score | 45.1 |", "| score | 43.8 |", True)
    with pytest.raises(AssertionError):
        same_output("| loss | 0.10 |", "| cost | 0.10 |", False)
    with pytest.raises(AssertionError):
        same_output("| loss | 0.10 |", "| loss | 0.20 |", True)


def test_the_readme_is_short_and_begins_with_code() -> None:
    text = re.sub("<!--.*?-->", "", (ROOT / "README.md").read_text(encoding="utf-8"))
    words = [len([word for word in part.split() if word.strip("|-:`#")]) for part in (text, text.partition("```")[0])]
    assert words[0] <= 500
    assert words[1] <= 120


@pytest.fixture(scope="module")
def files_of_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files and folders of users that the pages name, which a dry run checks."""
    folder = tmp_path_factory.mktemp("users")
    make_model(folder / "my-bert")
    (folder / "my-text").mkdir()
    (folder / "my-text" / "a.txt").write_text("some text\n", encoding="utf-8")
    glue = tiny_folder("glue", tmp_path_factory.mktemp("data"))
    for name in ("glue", "GLUE_FOLDER"):
        (folder / name).symlink_to(glue)
    for name, label in (("train.csv", "x"), ("dev.csv", "y")):
        rows = "".join(f"{label} {number},1,2,body,{number % 2},{number % 2}\n" for number in range(4))
        (folder / name).write_text(f"text,a,b,body,label,category\n{rows}", encoding="utf-8")
    page = (ROOT / "docs/how_to/task_files.md").read_text(encoding="utf-8")
    (folder / "tasks.yml").write_text(re.findall(r"```yaml\n(# tasks.yml.*?)```", page, re.DOTALL)[0], encoding="utf-8")
    return folder


@pytest.mark.parametrize("builtin", ["tiny"], indirect=True)
@pytest.mark.parametrize("block", blocks("dry-run", "bash"))
def test_network_commands_parse(block: str, workplace: Path, builtin: None, files_of_users: Path) -> None:
    for path in files_of_users.iterdir():
        (workplace / path.name).symlink_to(path)
    before = set(workplace.iterdir())
    for words in commands(block):
        assert words[0] == "tickets", words
        if words[1] in WITH_DRY_RUN:
            tickets([*words[1:], "--dry-run"])
        else:
            parse(words[1:])
    assert set(workplace.iterdir()) == before, "a dry run must leave nothing behind"


@pytest.mark.parametrize("block", blocks("elsewhere", "bash"))
def test_commands_for_another_machine_parse(block: str) -> None:
    for words in commands(block):
        if words[0] == "tickets":
            parse(words[1 : words.index(">") if ">" in words else None])


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option: --jsn"):
        parse(["compare", "a", "b", "--jsn"])


def test_every_documented_option_exists() -> None:
    groups: list[Any] = [whole_application()]
    known, of_all = {"--tiny", "--help"}, {o for one in groups[0].params for o in one.opts}
    for group in groups:
        for command in group.commands.values():
            known |= {o for one in command.params for o in (*one.opts, *one.secondary_opts) if o.startswith("--")}
            groups += [command] if hasattr(command, "commands") else []
    page = (ROOT / "docs/reference/command_line.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page))
    assert documented - known - of_all == set(), "documented, but not there"
    assert known - documented == {"--tiny"}, "there, but not documented"


def test_every_command_has_an_example() -> None:
    page = (ROOT / "docs/reference/command_line.md").read_text(encoding="utf-8").partition("\n## ")[0]
    commands: Any = whole_application()
    assert [word for word in commands.commands if f"\ntickets {word}" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("profile", ["paper", "code", "tuned"])
def test_every_field_of_a_profile_is_explained(profile: str) -> None:
    page = (ROOT / "docs/explanation/profiles.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`(\w+)`", page))
    for objective in ("kd", "mlm", "mlm+kd"):
        config = SearchConfig(model="m", profile=profile, objective=objective)  # type: ignore[arg-type]
        resolved = config.resolved()
        set_by_profile = {
            name for name in SearchConfig.model_fields if getattr(resolved, name) != getattr(config, name)
        }
        assert set_by_profile - {"warmup_steps"} <= explained
