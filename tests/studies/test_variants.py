"""Variants of recipes: what they take over, parts of a plan, and names that no run could find."""

from __future__ import annotations

import pytest

from samples.study_samples import little, planned
from winning_tickets.runs.errors import UsageError
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import part_of, plan_study
from winning_tickets.studies.text import write_template

BASE = "tamt-figure-3"


def variant(**fields):
    return load_study({"name": "mine", "base": BASE} | fields)


def test_a_variant_shows_what_its_base_shows():
    base, study = load_study(BASE), variant()
    for kind in ("tables", "figures", "claims"):
        assert getattr(study, kind) == getattr(base, kind) != {}
    assert study.published == base.published
    assert (study.title, study.paper, study.left_out) == (base.title, "tamt", ())


def test_own_entries_replace_those_of_the_base_and_null_removes_one():
    base = load_study(BASE)
    claim, figure = next(iter(base.claims)), next(iter(base.figures))
    own = {"title": "Mine", "kind": "line", "stage": "transfer", "x": "sparsity", "series": "method"}
    study = variant(figures={figure: own, "more": own}, claims={claim: None})
    assert study.figures[figure].title == "Mine"
    assert "more" in study.figures
    assert claim not in study.claims
    assert study.tables == base.tables


def test_stages_that_go_take_what_reads_them_along():
    study = variant(stages={"imp": None})
    assert "transfer-imp" not in study.stages
    assert study.figures
    assert not {"imp", "transfer-imp"} & {
        stage for shown in (*study.tables.values(), *study.figures.values()) for stage in shown.stage or ()
    }
    plan_study(study, "smoke")
    study = variant(stages={"imp": None, "transfer": None, "dense": None})
    assert study.figures == {}
    assert any(name.startswith("figure ") for name in study.left_out)


def test_recipes_with_a_base_show_their_own_picture_only():
    assert set(load_study("tamt-figure-9").figures) & set(load_study(BASE).figures) == set()


def test_a_written_variant_is_a_study(tmp_path):
    write_template(tmp_path / "My Figure.yaml", recipe=BASE)
    study = load_study(tmp_path / "My Figure.yaml")
    assert (study.name, study.base) == ("my-figure", BASE)
    assert plan_study(study, "smoke").runs.keys() == plan_study(load_study(BASE), "smoke").runs.keys()
    text = (tmp_path / "My Figure.yaml").read_text()
    assert "#   smoke:" in text
    (tmp_path / "My Figure.yaml").write_text(
        text.replace("# parameters:", "parameters:").replace("#   seeds:", "  seeds:")
    )
    assert load_study(tmp_path / "My Figure.yaml").parameters["seeds"] == load_study(BASE).parameters["seeds"]
    (tmp_path / "small.yaml").write_text(
        text.replace("# scales:", "scales:").replace("#   small:", "  small:").replace("#     encoder:", "    encoder:")
    )
    assert load_study(tmp_path / "small.yaml").scales["small"]["encoder"] == "@head", "references are quoted"
    with pytest.raises(UsageError, match="Did you mean 'tamt-figure-3'"):
        write_template(tmp_path / "other.yaml", recipe="tamt-figure-33")


def test_a_problem_of_several_stages_is_told_once():
    with pytest.raises(UsageError) as told:
        load_study({"name": "x", "base": BASE, "stages": {"head": None}})
    lines = str(told.value).splitlines()
    assert len(lines) == len(set(lines)) > 0


def test_shards_are_a_partition_and_bring_what_they_need():
    plan = plan_study(load_study(BASE), "smoke")
    parts = [part_of(plan, (), f"{index}/3") for index in (1, 2, 3)]
    assert set().union(*(part.runs for part in parts)) == set(plan.runs)
    for part in parts:
        assert all(set(run.needs) <= set(part.runs) for run in part.runs.values())
        assert {point.run for point in part.points} == set(part.runs)
    needed = {need for run in plan.runs.values() for need in run.needs}
    leaves = [set(part.runs) - needed for part in parts]
    assert sum(map(len, leaves)) == len(set().union(*leaves)) == len(set(plan.runs) - needed)


def test_a_part_by_its_axes():
    plan = plan_study(load_study(BASE), "smoke")
    part = part_of(plan, ("method=OMP,Rand", "sparsity=0.5"))
    chosen = [point for point in part.points if point.stage == "transfer"]
    assert {(point.axes["method"], point.axes["sparsity"]) for point in chosen} == {("OMP", 0.5), ("Rand", 0.5)}
    assert 0 < len(part.runs) < len(plan.runs)


@pytest.mark.parametrize(
    ("where", "values"),
    [
        (("sparsity>=0.5",), {0.5, 0.7}),
        (("sparsity>0.5",), {0.7}),
        (("sparsity!=0.7",), {0.5}),
        (("sparsity>=0.5", "sparsity<0.7"), {0.5}),
        (("sparsity=0.5,0.7", "method!=OMP,Rand"), {0.5, 0.7}),
    ],
)
def test_a_part_by_comparisons(where, values):
    part = part_of(plan_study(load_study(BASE), "smoke"), ("stage=transfer", *where))
    assert {point.axes["sparsity"] for point in part.points if point.stage == "transfer"} == values


def test_a_part_by_its_stage_has_what_it_needs_and_nothing_else():
    plan = plan_study(load_study(BASE), "smoke")
    part = part_of(plan, ("stage=transfer", "method=OMP"))
    ends = {point.run for point in plan.points if point.stage == "transfer" and point.axes["method"] == "OMP"}
    assert set(part.runs) == ends | {need for run in ends for need in plan.runs[run].needs}
    assert {point.stage for point in part.points} > {"transfer"}


def test_values_of_a_condition_may_be_written_in_other_ways():
    content = little()
    content["stages"]["transfer"]["over"] |= {"learning_rate": [0.0001, 0.0002]}
    plan = planned(content)
    for text in ("1e-4", "0.0001", "0.00010", "{below: 1.5e-4}"):
        chosen = [point.axes for point in part_of(plan, (f"learning_rate={text}",)).points if point.stage == "transfer"]
        assert {axes["learning_rate"] for axes in chosen} == {0.0001}
    with pytest.raises(UsageError, match="Unknown value of learning_rate '1{400}'"):
        part_of(plan, (f"learning_rate={'1' * 400}",))
    with pytest.raises(UsageError, match="Unknown value of method 'Magnitude'. Did you mean 'magnitude'"):
        part_of(plan, ("method=Magnitude",))


def test_labels_are_text():
    content = little()
    content["stages"]["transfer"]["over"]["version"] = {
        "1.1": {"steps": 1},
        "1.10": {"steps": 2},
        "2024-01-01": {"steps": 3},
    }
    plan = planned(content)
    for label in ("1.1", "1.10", "2024-01-01"):
        quoted = label if "-" in label else f'"{label}"'
        chosen = part_of(plan, (f"version={quoted}", "stage=transfer")).points
        assert {point.axes["version"] for point in chosen if point.stage == "transfer"} == {label}


def test_a_folder_may_be_a_study(tmp_path):
    (tmp_path / "study.yaml").write_text(f"name: mine\nbase: {BASE}\n")
    assert load_study(tmp_path).name == "mine"
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="There is no study.yaml in the folder"):
        load_study(tmp_path / "other")


@pytest.mark.parametrize(
    ("where", "shard", "message"),
    [
        (("mehtod=OMP",), None, "Unknown axis 'mehtod'. Did you mean 'method'"),
        (("method",), None, "--where 'method' is not a condition; write KEY=VALUE"),
        (("sparsity>0.9",), None, "--where sparsity>0.9: no run of .* is left; they have sparsity"),
        (("sparsity>x",), None, "above compares numbers, found 0.5 and 'x'"),
        (("stage=trnsfer",), None, "Unknown value of stage 'trnsfer'. Did you mean 'transfer'"),
        (("method=XYZ",), None, "Unknown value of method 'XYZ'. Known: Full, IMP"),
        (("method=Full", "sparsity=0.5"), None, "no run of .* is left; those with method=Full have no axis sparsity"),
        (("method=Full,OMP", "sparsity=0.5"), None, "--where method=Full has no run with sparsity=0.5; remove it"),
        (("method=OMP", "method=Rand"), None, "--where method is given twice"),
        (("stage=search", "method=Full"), None, "those with stage=search have method .*OMP"),
        ((), "4/3", "--shard 4/3 is not a part"),
        ((), "x", "--shard x is not a part"),
    ],
)
def test_parts_that_are_none(where, shard, message):
    with pytest.raises(UsageError, match=message):
        part_of(plan_study(load_study(BASE), "smoke"), where, shard)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"verb": "transfer", "with": {"target": "m"}, "over": {"task": ["rte", "mrcp"]}},
            "task=mrcp.*Unknown task 'mrcp'",
        ),
        ({"verb": "search", "with": {"model": "m", "method": "magnitud"}}, "Did you mean 'magnitude'"),
        ({"verb": "super", "with": {"fine_tuning": {"target": "m", "task": "rtee"}}}, "Did you mean 'rte'"),
        ({"verb": "share", "with": {"model": "m", "tasks": ["rte", "x"]}}, "Unknown task 'x'"),
    ],
)
def test_names_are_checked_by_the_plan(fields, message):
    study = load_study({"name": "a", "title": "A", "scales": {"smoke": {}}, "stages": {"one": fields}})
    with pytest.raises(UsageError, match=message):
        plan_study(study, "smoke")
