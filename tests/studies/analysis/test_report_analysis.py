"""Analyses as tables, figures and files: what a reader sees, deterministic bytes, the folder's contract."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from functools import cache

import matplotlib as mpl
import pytest

from samples import sharing_samples
from winning_tickets.report import files
from winning_tickets.report.figures import FORMATS, printed
from winning_tickets.runs.errors import UsageError
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.studies.analysis.report.views import REPORTS, analysis_table, figure


def matrix(layer, kind, kept, empty_rows=0.0, empty_columns=0.0):
    return {"name": kind, "layer": layer, "kind": kind, "shape": [2, 2], "kept": kept, "empty_rows": empty_rows,
            "empty_columns": empty_columns}  # fmt: skip


def checkpoint(step, to_reference, to_previous):
    kinds = {"embeddings": 0.0, "Q": 2 * to_reference}
    return {"step": step, "folder": f"s/{step}", "ticket_id": str(step), "to_reference": to_reference, "to_first": 0.0,
            "to_previous": to_previous, "by_kind": kinds, "chance": 0.75}  # fmt: skip


def verdict(task, sparsity, wins, mean):
    return {"task": task, "group": "imp & $mlm$", "sparsity": sparsity, "wins": wins, "value": mean, "threshold": 0.69,
            "mean": mean, "std": 0.02, "median": mean, "best": mean, "n": 3, "n_judged": 3, "n_full": 3,
            "constant": wins is False, "difference": -0.02, "share_above_chance": 0.955,
            "interval": (-0.05, 0.01) if wins else None,
            "no_interval": None if wins else "1 repetition, and an interval needs 3", "unpaired_seeds": [],
            "reason": "one score" if wins is None else ""}  # fmt: skip


def row(label, method, sparsity, kd, score, ticket_id="t"):
    return {"label": label, "ticket_id": ticket_id, "model": "m", "method": method, "sparsity": sparsity,
            "predictors": {"kd[c]": kd}, "scores": {"rte": score}, "seeds": {"rte": 1}, "mean": score}  # fmt: skip


SAMPLES = {
    "similarity": {
        "kind": "similarity",
        "labels": ["kd & co", "$omp$"],
        "of": "kept",
        "average": "pooled",
        "same_base": False,
        "jaccard": [[1.0, 0.8124], [0.8124, 1.0]],
        "chance": [[0.25, 0.2], [0.2, 0.25]],
    },
    "distance": {
        "kind": "distance",
        "reference": None,
        "searches": [
            {"label": "kd", "sparsity": 0.6, "checkpoints": [checkpoint(1, 0.1, None), checkpoint(5, 0.25, 0.15)]},
            {"label": "mlm", "sparsity": 0.7, "checkpoints": [checkpoint(5, 0.3, None)]},
        ],
    },
    "predictors": {
        "kind": "predictors",
        "predictors": ["kd[c]"],
        "tasks": ["rte"],
        "rows": [
            row("m", "dense", 0.0, 0.0, 0.7, None),
            row("a", "magnitude", 0.6, 0.2, 0.6),
            row("b", "random", 0.7, 0.4, 0.5),
        ],
        "correlations": [
            {
                "predictor": "kd[c]",
                "task": "mean over tasks",
                "n": 5,
                "pearson": -0.914,
                "pearson_interval": [-0.99, -0.5],
                "no_interval": None,
                "methods": 5,
                "spearman": -1.0,
                "within_method": {"n": 4, "groups": 2, "pearson": 0.4, "spearman": 0.5},
                "within_sparsity": {"n": 4, "groups": 2, "pearson": None, "spearman": -0.5},
            }
        ],
        "not_transferred": ["/x/lonely"],
        "not_evaluated": [],
        "degenerate": [],
        "different_settings": [],
    },
    "gain": {
        "kind": "gain",
        "cells": [
            {"task": "rte", "seed": 0, "metric": "accuracy", "target": 0.6, "baseline": 0.5, "dense": 0.7, "gain": 0.1},
            {"task": "rte", "seed": 1, "metric": "accuracy", "target": 0.6, "baseline": 0.6, "dense": 0.7, "gain": 0.0},
        ],
        "tasks": [
            {"task": "rte", "metric": "accuracy", "target": 0.6, "baseline": 0.55, "dense": 0.7, "gain": 0.05,
             "gain_std": 0.0707, "interval": None, "constant": 0.5, "degenerate": [],
             "seeds": [0, 1], "n": 2, "wins": 1, "ties": 1, "losses": 0}
        ],
        "mean": {"target": 0.6, "baseline": 0.55, "gain": 0.05, "interval": (0.0, 0.1), "tasks": 1, "tasks_won": 1,
                 "p": 0.04, "levels": {"task": 1, "seed": 3}, "no_interval": None,
                 "n": 2, "wins": 1, "ties": 1, "losses": 0},
        "dense_share": {"dense": 0.7, "n": 2, "no_interval": None, "constant": 0.714,
                        "target": 0.857, "target_interval": None, "baseline": 0.786,
                        "baseline_interval": (0.7, 0.85)},
        "missing": [{"group": "dense", "task": "cola", "seed": 4}],
        "degenerate": [{"group": "baseline", "task": "rte", "seed": 1}],
        "not_counted": [],
        "different_settings": [],
    },
    "winning": {
        "kind": "winning",
        "criterion": "within-std",
        "std_of": "max",
        "margin": 0.01,
        "statistic": "mean",
        "select_seeds": None,
        "report_seeds": None,
        "tasks": [
            {"task": "rte", "metric": "accuracy", "dense": {"mean": 0.7, "std": 0.01}, "degenerate": []},
            {"task": "wnli", "metric": "accuracy", "dense": {"mean": 0.563, "std": None}, "degenerate": ["majority"]},
        ],
        "groups": [{"group": "imp & $mlm$"}],
        "cells": [verdict("rte", 0.5, True, 0.7234), verdict("rte", 0.6, None, 0.5), verdict("wnli", 0.5, False, 0.5)],
        "highest": [
            {"task": "rte", "group": "imp & $mlm$", "highest": 0.5, "unbroken": 0.5,
             "at_highest": {"mean": 0.7234, "std": 0.02, "n": 3}, "reported": None},
            {"task": "wnli", "group": "imp & $mlm$", "highest": None, "unbroken": None, "at_highest": None,
             "reported": None},
        ],
        "different_settings": [],
    },
    **sharing_samples.SAMPLES,
}  # fmt: skip


@cache
def drawn(kind):
    """The figure of a sample, drawn once for all tests."""
    return figure(SAMPLES[kind])


@pytest.fixture
def quick_figures(monkeypatch):
    """Files take their figures from `drawn`; that each drawing gives the same bytes has a test of its own."""
    for kind, (table, _) in REPORTS.items():
        monkeypatch.setitem(REPORTS, kind, (table, lambda result: drawn(result["kind"])))


def save(result, out, **options):
    return files.save_analysis(result, REPORTS[result["kind"]], out, **options)


def words(kind):
    """The texts of a figure."""
    root = ET.fromstring(drawn(kind)["svg"])
    return [" ".join("".join(e.itertext()).split()) for e in root.iter() if e.tag.endswith("}text")]


def test_every_analysis_has_a_table_a_figure_and_a_sample():
    assert ANALYSES.keys() == REPORTS.keys() == SAMPLES.keys()


@pytest.mark.parametrize("kind", SAMPLES)
def test_figures_are_what_their_names_say_and_the_same_every_time(kind):
    before = dict(mpl.rcParams)
    made = drawn(kind)
    assert tuple(made) == FORMATS
    assert made["png"].startswith(b"\x89PNG")
    assert made["svg"].startswith(b"<svg ")
    assert made["pdf"].startswith(b"%PDF")
    assert b"CreationDate" not in made["pdf"]
    assert b"matplotlib" not in made["svg"].lower()
    assert made == figure(SAMPLES[kind])
    assert dict(mpl.rcParams) == before


def test_what_the_figures_say():
    assert {"kd & co", "$omp$", "0.81", "(0.20)", "Similarity of kept weights"} <= set(words("similarity"))
    assert {"kd (60 %)", "mlm (70 %)", "From OMP", "emb.", "search step"} <= set(words("distance"))
    assert {
        "kd[c]", "magnitude", "random", "60 % sparsity", "dense", "Spearman -1.00, within methods +0.50 (n = 5)",
    } <= set(words("predictors"))  # fmt: skip
    assert {"RTE (accuracy)", "mean over tasks", "gain over the baseline (points)"} <= set(words("gain"))
    assert {
        "RTE (accuracy)", "WNLI (accuracy, degenerate)", "imp & $mlm$", "score (x 100); filled: wins",
    } <= set(words("winning"))  # fmt: skip
    nothing = SAMPLES["predictors"] | {"rows": [one | {"mean": None} for one in SAMPLES["predictors"]["rows"]]}
    assert b"no ticket has all tasks" in figure(nothing)["svg"]


def test_what_the_tables_say():
    text = analysis_table(SAMPLES["similarity"]).text()
    assert "| kd & co | jaccard |   1.000 | 0.812 |" in text
    assert "| kd & co | chance  |   0.250 | 0.200 |" in text
    assert "The tickets were made for different weights." in text
    text = analysis_table(SAMPLES["distance"]).text()
    assert "| kd     |     60.0 |    1 |    0.100 |      0.000 |             – |  0.750 |      0.000 | 0.200 |" in text
    assert "from the OMP ticket of the same weights, sparsity, ranking and rounding" in text
    text = analysis_table(SAMPLES["predictors"]).text()
    assert "| a      | magnitude |     60.0 | 0.200 | 60.0 | 60.0 |" in text
    assert "|       5 |       5 |   -0.91 | [-0.99, -0.50] |    -1.00 |" in text
    assert "Evaluated, not fine-tuned: /x/lonely." in text
    text = analysis_table(SAMPLES["gain"]).text()
    row = "| rte             | accuracy |     55.0 |   60.0 | +5.0 |       7.1 | –"
    assert f"{row}             |     2 |      1 |     1 |     0 |  70.0 |       50.0 |" in text
    assert (
        "Mean gain +5.0, 95 % interval [+0.0, +10.0], p = 0.04 (1 task, 3 seeds); better in 1 of 2 cells and on the "
        "average of 1 of 1 tasks. It is about rte alone." in text
    )
    assert "the target keeps 85.7 %, the baseline 78.6 % [70.0, 85.0], one answer for all examples 71.4 %." in text
    assert "Some run is no better than one answer for all examples: baseline on rte with seed 1." in text
    assert "Left out because a group lacks them: cola seed 4 (dense)." in text
    text = analysis_table(SAMPLES["winning"]).text()
    assert (
        "| rte  | accuracy | imp & $mlm$ |  70.0 |       1.0 |            50.0 |     50.0 |        72.3 | 2.0 |    3 |"
        f"{95.5:28.1f} |          -2.0 | [-5.0, +1.0] |" in text
    )
    assert "No 95 % interval of the difference from the dense model: 1 repetition, and an interval needs 3." in text
    assert "| rte  | imp & $mlm$ | yes  | ?    |" in text
    assert "| wnli | imp & $mlm$ | no*  | –    |" in text
    assert "A ticket wins where its mean is at least the full model's minus one standard deviation of either" in text
    assert "No verdict (?) for 1 of 3 tickets, which counts as not won: one score." in text
    assert ",0.7234," in analysis_table(SAMPLES["winning"]).unshown["cells"].csv()


@pytest.mark.parametrize("kind", SAMPLES)
def test_an_analysis_as_files(tmp_path, quick_figures, kind):
    out = tmp_path / "new" / "out"
    made = save(SAMPLES[kind], out)
    expected = {"analysis.json", "index.html", "figure.png", "figure.svg", "figure-dark.svg", "figure.pdf"}
    further = {
        "predictors": {"correlations"},
        "winning": {"grid", "cells"},
        "sharing": {"used_by", "layers", "overlap", "structures"},
        "cards": {"labels"},
    }
    stems = {"table"} | further.get(kind, set())
    expected |= {f"{stem}.{name}" for stem in stems for name in ("md", "tex", "csv")}
    assert {file.name for file in made} == {file.name for file in out.iterdir()} == expected
    assert made[-1].name == "analysis.json"
    assert {name: (out / f"figure.{name}").read_bytes() for name in FORMATS} == drawn(kind)
    assert json.loads(made[-1].read_text()) == json.loads(json.dumps(SAMPLES[kind]))
    before = {file.name: file.read_bytes() for file in made}
    assert save(SAMPLES[kind], out) == made
    assert before == {file.name: file.read_bytes() for file in made}


def test_the_csv_is_unrounded():
    first, second = (
        csv.DictReader(io.StringIO(analysis_table(SAMPLES["distance"]).csv())),
        SAMPLES["distance"]["searches"],
    )
    lines = list(first)
    assert [float(line["to_reference"]) for line in lines] == [0.1, 0.25, 0.3]
    assert lines[0]["to_previous"] == ""
    assert lines[2]["search"] == second[1]["label"]


def test_a_folder_is_never_overwritten_by_accident(tmp_path, quick_figures):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    for force in (False, True):
        with pytest.raises(UsageError, match="holds files that are not an analysis; it was left untouched"):
            save(SAMPLES["gain"], mine, force=force)
    assert [file.name for file in mine.iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="is a file"):
        files.check_folder(mine / "notes.txt")
    out = tmp_path / "out"
    save(SAMPLES["gain"], out)
    other = SAMPLES["gain"] | {"missing": []}
    with pytest.raises(UsageError, match=r"holds another analysis \(gain, from other files or settings\)"):
        save(other, out)
    assert json.loads((out / "analysis.json").read_text())["missing"]
    save(other, out, force=True)
    assert json.loads((out / "analysis.json").read_text())["missing"] == []
    with pytest.raises(UsageError, match=r"holds another analysis \(gain"):
        save(SAMPLES["similarity"], out)
    save(SAMPLES["predictors"], out, force=True)
    save(SAMPLES["gain"], out, force=True)
    assert not (out / "correlations.csv").exists()
    (out / "analysis.json").unlink()  # as if it had been stopped just before
    (out / ".analysis.json.0123.tmp").write_text("{")
    assert save(SAMPLES["gain"], out)[-1].is_file()


def inches(made):
    """Width of the svg and of the pdf of a figure."""
    width = float(ET.fromstring(made["svg"]).attrib["width"].removesuffix("pt"))
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", made["pdf"])
    return width / 72, float(box[1]) / 72


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("width", [8.0, 16.0])
def test_a_figure_for_print_has_the_width_that_was_asked_and_text_of_8_points(kind, width):
    with printed(width):
        made = figure(SAMPLES[kind])
    assert inches(made) == pytest.approx((width / 2.54,) * 2, abs=0.01)
    root = ET.fromstring(made["svg"])
    shown = [one for one in root.iter() if one.tag.endswith("}text")]
    assert len(shown) > 3  # text is text
    assert {re.search(r"([\d.]+)px", one.attrib["style"])[1] for one in shown} == {"8"}
    assert b"/FontFile2" in made["pdf"]  # TrueType, which other programs can edit
    assert b"/Type3" not in made["pdf"]
