"""The page of a study: every link has its target, nothing is asked of the network, no text becomes markup."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from samples.study_report_samples import PARAMETERS, definition, fill_store, sample_plan
from winning_tickets.report.figures import DARK, dark_svg, page_svg, page_variables
from winning_tickets.report.tables import latex_escape, markdown_escape
from winning_tickets.studies.report import report_study

HOSTILE = '<script>alert(1)</script> & 50_% "x" #1 $y$ ~^\\ {z} | `q` *b* [l](http://evil.example)'
VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use"}


class Page(HTMLParser):
    """Elements, ids, links and texts of a page; unbalanced elements are an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.elements, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.elements.append((tag, values))
        if "id" in values:
            self.ids.append(values["id"])
        self.links += [values[key] for key in ("href", "src", "xlink:href", "action") if key in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self):
        return " ".join(" ".join(data for tag, data in self.texts if tag not in ("style", "script")).split())


def failed(point):
    return point.stage == "transfer" and point.axes == {"method": "OMP", "sparsity": 0.7, "task": "rte", "seed": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    plan = sample_plan()
    report_study(plan, fill_store(folder / "store", plan, failed=failed), folder / "out", ["html", "svg"])
    return plan, folder / "out"


@pytest.fixture(scope="module")
def page(made):
    return Page((made[1] / "index.html").read_text())


def test_every_link_has_its_target_on_the_page_and_none_leaves_it(page):
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_nothing_is_asked_of_the_network(made):
    text = (made[1] / "index.html").read_text()
    # Names of XML namespaces look like addresses, but nothing is fetched from them.
    addresses = set(re.findall(r"https?://[^\"'\s<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|import)\(", text)


def test_every_number_of_a_table_leads_to_its_run(made, page):
    plan, _ = made
    runs = {f"run-{point.run}" for point in plan.points}
    assert runs <= set(page.ids)
    cells = [values for tag, values in page.elements if tag == "td" and values.get("data-sort")]
    assert len(cells) > 20
    text = (made[1] / "index.html").read_text()
    for cell in re.findall(r'<td class="number[^"]*" data-sort="[^"]+">(.*?)</td>', text):
        assert cell.startswith('<a href="#') or "±" in cell or re.fullmatch(r"[\d.]*", cell), cell
    # A mean leads to the list of its single numbers, and each of those to its run.
    row, number = re.search(r'href="#from-table-main-(\d+)-(\d+)"><strong>70.5 ± 0.5', text).groups()
    evidence = text[text.index(f'id="from-table-main-{row}-{number}"') :]
    dense = [point.run for point in plan.points if point.stage == "dense" and point.axes["task"] == "rte"]
    found = re.findall(r'seed (\d): <a href="#run-([^"]+)">([\d.]+)</a>', evidence[: evidence.index("</ul>")])
    assert found == [("0", dense[0], "70.0"), ("1", dense[1], "70.5"), ("2", dense[2], "71.0")]


def test_failed_runs_show_their_error_and_no_number(made, page):
    plan, _ = made
    text = page.text()
    assert "the loss is not finite at step 7 <script>" in text, "as text, not as an element"
    assert text.count("the loss is not finite") == sum(failed(point) for point in plan.points)
    assert "62.5 ± 0.7 (2 of 3, 1 failed)" in text


def test_claims_tables_and_figures_are_there(page):
    text = page.text()
    assert "TAMT transfers better than OMP. holds Mean difference +2.1" in text
    assert "A lower loss goes with a better score. inconclusive" in text
    assert "38 runs: 37 done, 1 failed." in text
    images = [values["aria-label"] for tag, values in page.elements if values.get("role") == "img"]
    assert len(images) == 4
    assert images[0].startswith(
        "Line chart: Mean score. score over sparsity. OMP: from 69.5 to 67.5. TAMT: from 71.6 to"
    )
    assert [tag for tag, _ in page.elements].count("svg") == 4


def test_structure_for_keyboards_and_readers(page):
    (html,) = [values for tag, values in page.elements if tag == "html"]
    assert html["lang"] == "en"
    first = next(values for tag, values in page.elements if tag == "a")
    assert (first["class"], first["href"]) == ("skip", "#main")
    tables = [values for tag, values in page.elements if tag == "table"]
    assert tables
    assert all("sortable" in values["class"] for values in tables)
    scopes = [values.get("scope") for tag, values in page.elements if tag == "th"]
    assert set(scopes) == {"col", "row"}
    scrolled = [values for _, values in page.elements if values.get("class") == "scroll"]
    assert all(values["tabindex"] == "0" and values["aria-label"] for values in scrolled)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1


def test_hostile_names_stay_text_everywhere(tmp_path):
    def hostile(body):
        body["title"] = body["shows"] = HOSTILE
        body["stages"]["search"]["over"]["method"] = {
            HOSTILE: {"method": "magnitude"}, "TAMT": {"method": "mask-training"}
        }  # fmt: skip
        body["tables"]["../../" + HOSTILE] = body["tables"].pop("main") | {"title": HOSTILE}
        body["figures"] = {HOSTILE: body["figures"]["by-task"] | {"title": HOSTILE, "y_label": HOSTILE}}
        body["claims"] = {HOSTILE: body["claims"]["better"] | {"text": HOSTILE}}
        body["published"] = []

    plan = sample_plan(hostile)
    result = report_study(plan, fill_store(tmp_path / "store", plan), tmp_path / "out")
    assert all(re.fullmatch(r"[\w.-]+", name) for name in result["files"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert [tag for tag, _ in page.elements].count("script") == 1, "our own"
    assert "alert(1)" in page.text()
    assert {link[1:] for link in page.links} <= set(page.ids)
    (svg,) = [path for path in (tmp_path / "out").glob("*.svg") if not path.stem.endswith("-dark")]
    assert HOSTILE in ["".join(one.itertext()) for one in ET.parse(svg).iter() if one.tag.endswith("}text")]
    (table,) = (tmp_path / "out").glob("table-script*.tex")
    assert latex_escape(HOSTILE) in table.read_text()


def test_escapes():
    assert latex_escape("a_b & 50 % #1 $x$ {y} ~ ^ \\ <z> | ±") == (
        r"a\_b \& 50 \% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"\textless{}z\textgreater{} \textbar{} $\pm$"
    )
    assert markdown_escape("a_b <script> [x](y) `c` *d* & \n#e") == (r"a\_b \<script\> \[x\](y) \`c\` \*d\* &amp; \#e")


def test_colors_of_figures_follow_the_page():
    svg = '<svg><path style="fill: #0072b2; stroke: #333333"/><a href="#333333"/><rect fill="#ffffff"/></svg>'
    assert dark_svg(svg) == (
        f'<svg><path style="fill: {DARK["#0072B2"]}; stroke: {DARK["#333333"]}"/><a href="#333333"/>'
        f'<rect fill="{DARK["#ffffff"]}"/></svg>'
    )
    assert 'style="fill: var(--figure-0072b2, #0072B2); stroke: var(--figure-333333, #333333)"' in page_svg(svg)
    assert set(page_variables(dark=True)) == set(page_variables(dark=False))
    used = set(re.findall(r"var\((--[\w-]+)", page_svg(svg)))
    assert used <= set(page_variables(dark=True))


def contrast(first, second):
    def light(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(first), light(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_dark_colors_stand_out_from_their_ground():
    lines = [dark for light, dark in DARK.items() if light not in ("#ffffff", "#fefefe", "#DDDDDD")]
    assert all(contrast(color, DARK["#ffffff"]) >= 4.5 for color in lines)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_sorts_a_table_by_keyboard_and_changes_colors(made, tmp_path):
    """Real keys cannot be sent without a driver; a click on a button is what Enter and Space make of it."""
    script = """<script>addEventListener("load", () => {
      const table = document.querySelector("table.sortable"), heads = table.tHead.rows[0].cells;
      const column = () => Array.from(table.tBodies[0].rows, (row) => row.cells[2].textContent.slice(0, 4));
      const found = {before: column(), focusable: heads[2].querySelector("button").tabIndex};
      heads[2].querySelector("button").click(); found.up = column(); found.sort = heads[2].getAttribute("aria-sort");
      heads[2].querySelector("button").click(); found.down = column(); found.again = heads[2].getAttribute("aria-sort");
      heads[0].querySelector("button").click(); found.other = heads[2].getAttribute("aria-sort");
      const ground = () => getComputedStyle(document.body).backgroundColor;
      found.light = ground(); document.getElementById("theme").click(); found.dark = ground();
      found.label = document.getElementById("theme").getAttribute("aria-label");
      location.hash = document.querySelector("td a").getAttribute("href");
      setTimeout(() => {
        found.opened = document.querySelector(location.hash).closest("details").open;
        document.body.innerHTML = "<pre id=found>" + JSON.stringify(found) + "</pre>"; }, 200);
    });</script>"""
    copy = tmp_path / "page.html"
    copy.write_text((made[1] / "index.html").read_text().replace("</body>", script + "</body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=3000", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout).group(1))
    assert found["before"] == ["70.5", "64.5", "62.5", "66.6", "64.6"]
    assert found["up"] == ["62.5", "64.5", "64.6", "66.6", "70.5"]
    assert (found["sort"], found["again"], found["other"]) == ("ascending", "descending", None)
    assert found["down"] == found["up"][::-1]
    assert found["focusable"] == 0
    assert (found["light"], found["dark"]) == ("rgb(255, 255, 255)", "rgb(22, 25, 29)")
    assert found["label"] == "Change to light colors"
    assert found["opened"] is True


def test_runs_that_are_not_begun_are_folded_away(tmp_path):
    plan = sample_plan()
    store = fill_store(tmp_path / "store", plan, wanted=lambda point: point.stage == "dense")
    begun = next(point.run for point in plan.points if point.stage != "dense")
    store.describe(begun, plan.runs[begun].verb, plan.runs[begun].config)
    report_study(plan, store, tmp_path / "out", ["html"])
    text = (tmp_path / "out" / "index.html").read_text()
    page = Page(text)
    assert {link[1:] for link in page.links} <= set(page.ids)
    shown = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    listed = set(re.findall(r'<tr id="run-([^"]+)"', shown))
    assert listed == {begun, *(point.run for point in plan.points if point.stage == "dense")}
    assert set(re.findall(r'<tr id="run-([^"]+)"', text)) == set(plan.runs)


def test_the_smallest_study_has_a_page(tmp_path):
    def bare(body):
        for key in ("tables", "figures", "claims"):
            body[key] = {}
        body["published"] = []
        body["scales"]["smoke"] = {**PARAMETERS, "seeds": [0]}

    plan = sample_plan(bare)
    result = report_study(plan, fill_store(tmp_path / "store", plan), tmp_path / "out", ["html"])
    assert result["files"] == ["index.html"]
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert "18 runs: 18 done." in page.text()


def test_the_command_line(tmp_path, monkeypatch, capsys):
    import yaml

    from winning_tickets.cli import main

    def tickets(*words):
        monkeypatch.setattr("sys.argv", ["tickets", "study", "report", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    (tmp_path / "sample.yaml").write_text(yaml.safe_dump(definition()))
    words = (tmp_path / "sample.yaml", "--scale", "smoke", "--store", tmp_path / "store", "--out", tmp_path / "out")
    code, out, err = tickets(*words)
    assert (code, out) == (2, "")
    assert f"There is no store at {tmp_path / 'store'}; name the one that `tickets study run` was given" in err
    fill_store(tmp_path / "store", sample_plan(), failed=failed)
    code, out, _ = tickets(*words, "--formats", "md,csv", "--json")
    assert (code, json.loads(out)["runs"]) == (0, {"done": 37, "failed": 1, "missing": 0})
    assert not (tmp_path / "out" / "index.html").exists()
    code, out, _ = tickets(*words, "--formats", "html")
    assert out.splitlines()[0] == "sample at smoke: 37 of 38 runs done, 1 failed."
    assert out.splitlines()[1].startswith("holds            better: TAMT transfers better than OMP. Mean difference")
    assert out.splitlines()[-1] == f"1 file, see {tmp_path / 'out' / 'index.html'}"
    code, out, err = tickets(*words, "--formats", "doc")
    assert (code, out) == (2, "")
    assert "Unknown format 'doc'" in err
