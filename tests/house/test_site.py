"""The site: pages have readers, public names a reference, notebooks and picture are those of their scripts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import winning_tickets
from winning_tickets import analysis
from winning_tickets.cli.application import whole_application
from winning_tickets.cli.commands import Verb
from winning_tickets.runs.errors import DOCS as DOCS_ADDRESS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def script(path: str) -> ModuleType:
    """Import a script of the docs."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, DOCS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOTEBOOKS = script("notebooks/build.py")
HOOKS = script("site/hooks.py")


def test_every_public_name_has_a_reference() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference/api").glob("*.md"))
    documented = re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
    for name in documented:
        module, _, last = name.rpartition(".")
        if name != "winning_tickets.runs.errors":
            assert hasattr(importlib.import_module(module), last), name
    names = {name.rpartition(".")[2] for name in documented} | {"TicketsError", "TicketsWarning", "__version__"}
    assert set(winning_tickets.__all__) - names == set()
    assert set(analysis.__all__) - names == set()


@pytest.mark.parametrize("name", NOTEBOOKS.SCRIPTS)
def test_a_notebook_is_that_of_its_script(name: str) -> None:
    stored = json.loads((DOCS / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))
    wanted = NOTEBOOKS.notebook(name)
    stale = f"{name}.ipynb is not that of its script; run `make notebooks`"
    assert [(one["cell_type"], one["source"]) for one in stored["cells"]] == [
        (one["cell_type"], one["source"]) for one in wanted["cells"]
    ], stale
    assert all(one["outputs"] or one["cell_type"] == "markdown" for one in stored["cells"] if "outputs" in one and
               one["source"][-1].split("(")[0] in ("print", "display")), "a cell that prints has no output"  # fmt: skip
    assert len(json.dumps(stored)) < 300_000, "notebooks stay small"


def test_a_notebook_is_stored_without_the_folders_of_its_machine() -> None:
    text = ["a Ticket of /opt/my-venv/lib/python3.11/site-packages/package/model)", "in '/tmp/tmp1_x/run'"]
    assert NOTEBOOKS.without_folders(text) == ["a Ticket of site-packages/package/model)", "in 'WORK/run'"]


@pytest.mark.parametrize("page", [*PAGES, *(f"notebooks/{name}.ipynb" for name in NOTEBOOKS.SCRIPTS)])
def test_no_page_names_a_folder_of_the_machine_that_made_it(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.])/(?:root|home|tmp|work)/[\w./-]*|/[\w.-]+/site-packages/", text) == []


def test_the_picture_names_every_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = script("site/picture.py")
    stored = picture.OUT.read_text(encoding="utf-8")
    monkeypatch.setattr(picture, "OUT", tmp_path / "picture.svg")
    picture.main()
    assert (tmp_path / "picture.svg").read_text(encoding="utf-8") == stored, "run docs/site/picture.py"
    verbs = {verb.split()[0] for rows in picture.GROUPS.values() for _, verb, _ in rows}
    commands: Any = whole_application()
    assert verbs <= set(commands.commands)
    with_settings = {name for name, command in commands.commands.items() if isinstance(command, Verb)}
    assert with_settings <= verbs, "a verb with settings of its own is missing"


def test_every_page_has_a_reader() -> None:
    made = [*HOOKS.COPIED.values(), *(f"notebooks/{name}.md" for name in NOTEBOOKS.SCRIPTS)]
    assert [page for page in [*PAGES, *made] if not HOOKS.readers(page)] == []


def test_the_help_of_every_command_names_a_reader_and_the_page_for_it() -> None:
    groups: list[Any] = [whole_application()]
    ends = {}
    for group in groups:
        for command in group.commands.values():
            ends[f"{group.name} {command.name}"] = command.epilog
            groups += [command] if hasattr(command, "commands") else []
    assert len(ends) > 30
    for name, end in ends.items():
        reader, page = re.fullmatch(r"\x08\nFor (.*)s\. Guide:\n(\S+)", end or "").groups()  # type: ignore[union-attr]
        assert page.startswith(DOCS_ADDRESS), name
        assert reader in HOOKS.readers(page.removeprefix(DOCS_ADDRESS)), name
        assert (DOCS / page.removeprefix(DOCS_ADDRESS)).is_file(), name


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NOTEBOOKS.SCRIPTS)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'winning-tickets[docs]'")
    if name.startswith("3"):
        pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    done = NOTEBOOKS.run(name, tmp_path)
    assert sum(len(cell.get("outputs", [])) for cell in done["cells"]) >= 3


class Links(HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []  # scripts, styles and pictures
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := found.get(key))}
        self.links += [value for key in ("href", "src") if (value := found.get(key))]
        if tag != "a" and found.get("rel") not in ("canonical", "prev", "next", "edit"):
            self.loaded += [value for key in ("href", "src") if (value := found.get(key))]


@pytest.mark.slow
def test_the_site_builds_without_network_and_dead_links(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'winning-tickets[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    # Nothing answers at that proxy, so whatever asked for the network would fail.
    environment = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in tmp_path.rglob("*.html")}
    assert len(pages) > 60
    dead = []
    pages.pop(tmp_path / "404.html")  # a server shows it at any address
    for path, page in pages.items():
        for link in page.links:
            address, _, anchor = link.partition("#")
            if ":" in address or address.startswith("//"):
                continue
            target = (path.parent / address.partition("?")[0]).resolve() if address else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors | {"__skip"}):
                dead.append(f"{path.relative_to(tmp_path)}: {link}")
    assert dead == []
    loaded = {one for page in pages.values() for one in page.loaded if ":" in one or one.startswith("//")}
    assert [one for one in loaded if not one.startswith("data:")] == [], "pages load something from the network"
    verbs = (tmp_path / "reference/api/verbs.html").read_text(encoding="utf-8")
    assert "&gt;&gt;&gt; " in verbs, "examples are code"
    assert "<blockquote>" not in verbs
    found = json.loads((tmp_path / "search/search_index.json").read_text(encoding="utf-8"))
    assert any("mask_adapters" in entry["text"] for entry in found["docs"]), "the reference can be searched"
