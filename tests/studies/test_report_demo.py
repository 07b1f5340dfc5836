"""The demo's page and table, from a made-up result."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from samples.report_samples import demo_result
from winning_tickets.studies import demo_report

VOID = {"meta", "br", "path", "use", "line", "rect", "circle", "link"}


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
def page() -> str:
    return demo_report.build(demo_result())


def test_page_is_well_formed_with_unique_ids(page: str) -> None:
    found = parse(page)
    assert len(found.ids) == len(set(found.ids))


def test_page_needs_nothing_else(page: str) -> None:
    tags = {tag for tag, _ in parse(page).tags}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    outside = re.findall(r"""(?:href|src)\s*=\s*["']([^"'#][^"']*)|url\((?!#)""", page)
    assert outside == []


def test_page_is_accessible(page: str) -> None:
    found = parse(page)
    labels = [values.get("aria-label") for tag, values in found.tags if values.get("role") == "img"]
    assert len(labels) == 4
    assert all(label and "." in label for label in labels)
    assert ("html", {"lang": "en"}) in found.tags
    assert page.count("<caption") == page.count("<table") == 1
    assert 'scope="col"' in page
    assert 'scope="row"' in page


def test_page_states_the_numbers_and_the_caveats(page: str) -> None:
    text = " ".join(page.split())
    assert "0.30 times the KD loss of magnitude pruning" in text
    assert "0.45 times on other text" in text
    assert "frequent class gives an accuracy of 8.0" in text
    assert "One seed." in text
    assert "do not make this model smaller on disk or faster" in text
    assert "59.9975% to 60.0000% over 2 matrices" in text
    assert "Exactly zero: embeddings, whose masks" in text
    assert "150000" in text
    assert "attention output: 1.60 %. FFN in: 2.00 %. FFN out: 2.40 %." in text


def test_page_works_without_the_optional_numbers() -> None:
    result = demo_result()
    result["search_log"] = result["search_log"][:1]
    result["transfer_logs"]["random"] = []
    result["rows"][2]["kd_in"] = 0.0
    assert "times the KD loss" not in " ".join(demo_report.build(result).split())


def test_markdown_table_of_the_demo() -> None:
    lines = demo_report.table(demo_result()).text().splitlines()
    heading, last = ([cell.strip() for cell in lines[index].strip("|").split("|")] for index in (0, 5))
    assert heading == ["Method", "Sparsity", "KD in", "KD out", "Accuracy", "Best", "Search"]
    assert last == ["mask training (KD)", "60.0", "0.075", "0.125", "56.0", "57.0", "12 s"]


def test_the_table_fits_eighty_columns() -> None:
    assert max(map(len, demo_report.table(demo_result()).text().splitlines())) <= 80


def test_trailing_mean() -> None:
    assert demo_report.trailing_mean([4.0, 2.0, 0.0, 6.0], 2) == [4.0, 3.0, 1.0, 3.0]


def test_text_is_escaped_and_svg_is_not() -> None:
    result = demo_result()
    result["model"] = "T <b>"
    result["rows"][1]["name"] = "<x>"
    result["versions"]["k"] = "v>"
    result["changed_by_kind"]['say "so"'] = 0.0
    page = demo_report.build(result)
    for expected in ("T &lt;b&gt;", "&lt;x&gt;", "v&gt;", "<svg ", "&#34;so&#34;"):
        assert expected in page
    parse(page)


def test_reports_never_import_torch() -> None:
    program = "import sys, winning_tickets.studies.demo_report as d, winning_tickets.runs.statistics\n"
    program += "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", program], check=True)
