"""The demo: the recipe `demo` in one folder, with its result, its table and its page."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from samples.tiny_models import make_model
from winning_tickets.config import Runtime, builtin_models
from winning_tickets.report.tables import MISSING
from winning_tickets.runs.errors import Interrupted, TrainingError, UsageError
from winning_tickets.studies import demo, worker
from winning_tickets.tickets.ticket import Ticket

VOID = {"meta", "br", "path", "use", "line", "rect", "circle", "link"}
NAMES = ["dense", "random", "magnitude", "mask training (KD)"]
QUIET = Runtime(device="cpu", quiet=True)


class Balanced(HTMLParser):
    """Collects ids and text, and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def parse(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def builtin(tmp_path_factory):
    """A tiny model in place of MiniLM, and a cache of its own."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "tiny_demo").mkdir()
    (folder / "tiny_demo" / "__init__.py").touch()
    weights = make_model(folder / "tiny_demo" / "model", head="none") / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    entry = dataclasses.replace(builtin_models.BUILTINS["minilm"], package="tiny_demo", sha256=digest)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setitem(builtin_models.BUILTINS, "minilm", entry)
        patch.setenv("WINNING_TICKETS_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def finished(builtin, tmp_path_factory):
    """The folder of a finished demo, which was stopped once in its last search, and its result."""
    out = tmp_path_factory.mktemp("demo") / "out"
    execute = worker.execute

    def stopped(job, store):
        if job.verb == "search" and job.config.get("corpus"):
            raise Interrupted(15, "Stopped by SIGTERM.")
        execute(job, store)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "execute", stopped)
        with pytest.raises(Interrupted, match="SIGTERM") as error:
            demo.run_demo(out, QUIET, "smoke")
        assert error.value.exit_code == 143
    return out, demo.run_demo(out, QUIET, "smoke")


@pytest.fixture(scope="module")
def page(finished) -> str:
    return (finished[0] / demo.REPORT).read_text(encoding="utf-8")


def test_page_is_well_formed_with_unique_ids(page: str) -> None:
    found = parse(page)
    assert len(found.ids) == len(set(found.ids))


def test_page_needs_nothing_else(page: str) -> None:
    tags = {tag for tag, _ in parse(page).tags}
    assert not tags & {"link", "img", "iframe", "object"}
    outside = re.findall(r"""(?:href|src)\s*=\s*["']([^"'#][^"']*)|url\((?!#)""", page)
    assert outside == []


def test_page_is_accessible(page: str) -> None:
    found = parse(page)
    labels = [values.get("aria-label") for tag, values in found.tags if values.get("role") == "img"]
    assert len(labels) == 4
    assert all(label and "." in label for label in labels)
    assert ("html", {"lang": "en"}) in found.tags
    assert 'scope="col"' in page
    assert 'scope="row"' in page


def test_page_states_the_numbers_and_the_caveats(page: str, finished) -> None:
    text = " ".join(page.split())
    for row in finished[1]["rows"]:
        assert f"{row['kd_in']:.3f}" in text
        assert f"{100 * row['accuracy']:.1f}" in text
    for caveat in ("small differences of one seed mean nothing", "do not make this model smaller on disk or faster"):
        assert caveat in text
    for title in ("KD loss along the search", "Accuracy along fine-tuning", "by kind of matrix", "majority class"):
        assert title in text
    assert "2 of 2 planned pairs are there, with at most 1 repetition; a verdict needs 3 of each" in text


def test_result_has_the_numbers_of_the_runs(finished) -> None:
    out, result = finished
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == NAMES
    folders = {
        json.loads(path.read_text())["config"]["method"]: path.parent
        for path in out.glob("store/runs/search-*/config.json")
    }
    for name, method in zip(NAMES[1:], ("random", "magnitude", "mask-training"), strict=True):
        assert rows[name]["sparsity"] == Ticket.from_pretrained(folders[method]).sparsity
        assert rows[name]["seconds"] >= 0
    assert (rows["dense"]["sparsity"], rows["dense"]["seconds"]) == (0.0, None)
    assert (rows["dense"]["kd_in"], rows["dense"]["kd_out"]) == (0.0, 0.0)
    assert all(row["kd_out"] > 0 for name, row in rows.items() if name != "dense")
    assert [entry["step"] for entry in result["search_log"]] == [1, 2]
    for name, log in result["transfer_logs"].items():
        assert [entry["step"] for entry in log] == [1, 2]
        assert (log[-1]["accuracy"], max(entry["accuracy"] for entry in log)) == (
            rows[name]["accuracy"],
            rows[name]["accuracy_best"],
        )
    assert result["changed_by_kind"].keys() >= {"embeddings", "query", "output"}
    assert result["by_matrix"]
    assert 0 < result["majority"] < 1
    assert result["pydocs"]["labels"]


def test_a_finished_demo_returns_its_stored_result(finished, monkeypatch) -> None:
    out, result = finished
    monkeypatch.setattr(demo, "run_study", None)
    assert demo.run_demo(out, QUIET, "smoke") == result


def test_another_demo_is_refused(finished) -> None:
    with pytest.raises(UsageError, match=r"layers: 1 there.*untouched"):
        demo.run_demo(finished[0], QUIET, "small")


def test_a_failed_run_is_reported(builtin, tmp_path, monkeypatch) -> None:
    def broken(job, store):
        raise ValueError("broken")

    monkeypatch.setattr(worker, "execute", broken)
    with pytest.raises(TrainingError, match="search-random.*: broken"):
        demo.run_demo(tmp_path / "out", QUIET, "smoke")


def test_table_of_the_demo(finished) -> None:
    lines = demo.table(finished[1]).text().splitlines()
    heading, first, last = ([cell.strip() for cell in lines[index].strip("|").split("|")] for index in (0, 2, 5))
    assert heading == ["Method", "Sparsity", "KD in", "KD out", "Accuracy", "Best", "Search"]
    assert (first[:4], first[-1]) == (["dense", "0.0", "0.000", "0.000"], MISSING)
    assert last[:2] == ["mask training (KD)", "60.0"]
    assert last[-1].endswith(" s")
    assert max(map(len, lines)) <= 80


def test_the_demo_never_imports_torch_before_its_runs() -> None:
    program = "import sys, winning_tickets.studies.demo\n"
    program += "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", program], check=True)
