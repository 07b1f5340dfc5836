"""`tickets study` and `tickets recipes` as a user meets them."""

from __future__ import annotations

import json

import pytest
import yaml

from samples.study_samples import InlineEngine, little, planned
from winning_tickets.report.costs import bytes_text
from winning_tickets.runs.store.store import Store
from winning_tickets.studies import engines
from winning_tickets.studies.load import recipe_names
from winning_tickets.studies.text import duration


@pytest.fixture
def tickets(tickets, monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "local", lambda options, store: InlineEngine())
    return tickets


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WINNING_TICKETS_STORE", raising=False)
    path = tmp_path / "little.yaml"
    path.write_text(yaml.safe_dump(little(), sort_keys=False))
    return str(path)


def test_plan_run_status_and_list(tickets, file, tmp_path):
    code, out, err = tickets("study", "plan", file, "--scale", "smoke")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        "little at smoke: 9 runs, 0 done",
        "  stage     runs  done  running  failed  blocked  to do",
        "  search       2     0        0       0        0      2",
    ]
    assert "; results and saved weights of at most " in out
    assert "(9 runs by their operations on two x86-64 cores without a GPU)" in out
    assert not (tmp_path / "tickets-store").exists()
    code, out, err = tickets("study", "run", file, "--scale", "smoke")
    assert (code, out) == (0, "little at smoke: all 9 runs are done (9 now).\n")
    first, *lines = err.splitlines()
    assert first == "little at smoke: 9 runs to do; a line for each when it ends."
    assert len(lines) == 9
    assert err.splitlines()[-1].startswith("[9/9 done] done ")
    code, out, err = tickets("study", "run", file, "--scale", "smoke", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "study": "little",
        "scale": "smoke",
        "runs": 9,
        "done": 9,
        "failed": {},
        "blocked": {},
        "finished_now": 0,
    }
    code, out, _ = tickets("study", "status", file, "--scale", "smoke")
    assert out.splitlines()[0] == "little at smoke: 9 runs, 9 done"
    assert "left:" not in out
    assert tickets("study", "list")[1] == "little at smoke: 9 done\n"
    code, out, _ = tickets("study", "list", "--store", "elsewhere", "--json")
    assert json.loads(out) == {"store": "elsewhere", "studies": []}
    # A report with other parameters than those of the run says that their runs are there.
    other, done = planned(little(), tasks=["cola"]).runs, planned(little()).runs
    rest = sorted(done.keys() - other.keys())
    code, out, _ = tickets("study", "report", file, "--scale", "smoke", "--set", "tasks=[cola]", "--out", "report")
    assert code == 0
    assert (
        f"Warning: {len(rest)} finished runs of this study in the store are not among those of this report, such as "
        f"{rest[0]}; give the --set options that they were run with.\n" in out
    )
    code, out, _ = tickets("study", "report", file, "--scale", "smoke", "--out", "report")
    assert "finished runs of this study" not in out


def test_plan_as_json(tickets, file):
    code, out, _ = tickets("study", "plan", file, "--scale", "smoke", "--set", "tasks=rte,cola", "--json")
    assert code == 0
    result = json.loads(out)
    plan = planned(little(), tasks=["rte", "cola"])
    assert [run["id"] for run in result["planned"]] == list(plan.runs)
    assert result["parameters"]["tasks"] == ["rte", "cola"]
    assert result["stages"]["transfer"]["to_do"] == 4
    assert result["estimate"]["runs"] == 11


def test_a_failure_is_exit_one_and_status_shows_it(tickets, file, tmp_path):
    (tmp_path / "nowhere").mkdir()
    code, out, err = tickets("study", "run", file, "--scale", "smoke", "--quiet", "--set", "model=./nowhere", "--json")
    assert (code, out) == (1, "")
    assert "2 of 9 runs failed and 7 wait for them; 0 are done. search-magnitude" in err
    assert ": The model folder " in err
    code, out, _ = tickets("study", "status", file, "--scale", "smoke", "--set", "model=./nowhere")
    assert code == 0
    assert "  search       2     0        0       2        0      0" in out
    assert "`tickets study run --retry-failed` tries them again." in out
    assert "Nothing can run; 7 wait for failed runs (--retry-failed)." in out
    assert "left:" not in out


def test_missing_data_is_refused_before_any_work(tickets, file, tmp_path):
    (tmp_path / "needy.yaml").write_text(yaml.safe_dump(little(needs={"model": "a model"})))
    words = ("needy.yaml", "--scale", "smoke", "--set", "model=./no/model")
    code, out, err = tickets("study", "run", *words)
    assert (code, out) == (2, "")
    assert err == "Error: model: there is no ./no/model; it has to be a model: --set model=...\n"
    assert not (tmp_path / "tickets-store").exists()
    code, out, _ = tickets("study", "plan", *words)
    assert code == 0
    assert "Missing: model: there is no ./no/model" in out


def test_the_nodes_of_a_cluster_may_have_other_data(tickets, file, monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "ray", lambda options, store: InlineEngine())
    monkeypatch.delitem(engines._PACKAGES, "ray")
    words = ("study", "run", file, "--scale", "smoke", "--quiet", "--set", "model=./no/model")
    assert tickets(*words) == (2, "", "Error: model=./no/model: there is no file or folder ./no/model.\n")
    code, _, err = tickets(*words, "--engine", "ray")
    assert code == 1
    assert "2 of 9 runs failed and 7 wait for them" in err


def test_what_is_refused(tickets, file, tmp_path):
    for words, told in (
        (("study", "plan", "nothing", "--scale", "smoke"), "Unknown recipe 'nothing'"),
        (("study", "plan", file, "--scale", "paper"), "The study little has no scale 'paper'; it has smoke"),
        (("study", "run", file, "--scale", "smoke", "--engine", "pbs"), "Unknown engine 'pbs'"),
        (("study", "run", file, "--scale", "smoke", "--set", "x=1"), "Unknown parameter of little 'x'"),
    ):
        code, out, err = tickets(*words)
        assert (code, out) == (2, "")
        assert told in err
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    code, out, err = tickets("study", "run", file, "--scale", "smoke", "--store", "foreign")
    assert (code, out) == (2, "")
    assert "foreign holds files that are not a store of this tool" in err


def test_a_new_study_runs_as_it_is(tickets, file, tmp_path):
    code, out, _ = tickets("study", "new", "mine.yaml")
    assert code == 0
    assert "tickets study plan mine.yaml --scale smoke" in out
    code, out, err = tickets("study", "new", "mine.yaml")
    assert (code, out) == (2, "")
    assert "mine.yaml is there already and was left untouched" in err
    code, out, err = tickets("study", "run", "mine.yaml", "--scale", "smoke", "--quiet")
    assert (code, out) == (0, "mine at smoke: all 12 runs are done (12 now).\n"), err
    assert list(Store(tmp_path / "tickets-store").records(["verb=transfer"]))
    code, out, err = tickets("study", "report", "mine.yaml", "--scale", "smoke", "--out", "report", "--formats", "html")
    assert code == 0, err
    assert "inconclusive     magnitude-beats-random" in out
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<p>Judged on the numbers of this study alone." in page
    assert "paper" not in page.partition("<section")[2].lower()
    words = ("study", "report", "mine.yaml", "--scale", "smoke", "--out", "report", "--where", "stage=search")
    code, out, err = tickets(*words)
    assert code == 0, err
    assert out.startswith("mine at smoke, part stage=search: ")


def test_recipes(tickets):
    names = list(recipe_names())
    code, out, _ = tickets("recipes")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[0] == "hours"
    assert {"smoke", "small", "paper"} < set(lines[0].split())
    assert [line.split()[0] for line in lines[1:-3]] == names
    place = names.index("tamt-figure-3")
    assert lines[1 + place].endswith("  Downstream performance of BERT subnetworks")
    assert lines[-3].startswith("Hours are estimates: at scale paper of one A100")
    assert lines[-2].startswith("To begin with one: `tickets study plan tamt-table-2 --scale paper --on a100`: ")
    code, out, _ = tickets("recipes", "--json")
    found = json.loads(out)["recipes"]
    assert [one["name"] for one in found] == names
    recipe = found[place]
    assert recipe["scales"]["smoke"]["runs"] == 34
    assert set(recipe["needs"]) == {"corpus", "data_dir"}
    code, out, _ = tickets("recipes", "tamt-figure-3")
    assert yaml.safe_load(out)["name"] == "tamt-figure-3"
    code, out, err = tickets("recipes", "tamt-figure-33")
    assert (code, out) == (2, "")
    assert "Did you mean 'tamt-figure-3'" in err


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 s"), (600, "10 min"), (7200, "2.0 h"), (864_000, "240 h (10 days)")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_sizes():
    assert [bytes_text(count) for count in (12_000, 3_400_000, 1.2e9)] == ["12 kB", "3.4 MB", "1.2 GB"]
