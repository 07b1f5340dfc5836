"""What a study may say, and what it is told when it says something else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from samples.study_samples import little
from winning_tickets.runs.errors import UsageError
from winning_tickets.studies.expressions import matches, parse_reference, substitute
from winning_tickets.studies.grid import order_of
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import plan_study
from winning_tickets.studies.text import write_template

ROOT = Path(__file__).resolve().parents[2]


def refused(study, **changes):
    """The text of the error of a study."""
    with pytest.raises(UsageError) as caught:
        load_study(study | changes)
    return str(caught.value)


def stage(name, **changes):
    """The little study with one stage changed."""
    stages = little()["stages"]
    return little(stages=stages | {name: stages.get(name, {}) | changes})


def test_the_example_of_the_docs_is_a_study():
    page = (ROOT / "docs/reference/studies.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(name: my-study.*?)```", page, re.DOTALL)
    study = load_study(yaml.safe_load(text))
    assert order_of(study) == ["dense", "search", "transfer"]
    assert len(plan_study(study, "smoke").runs) == 2 + 3 + 6
    assert len(plan_study(study, "small", {"data_dir": "d"}).runs) == 4 + 3 + 24


def test_the_example_with_a_base_is_a_study():
    page = (ROOT / "docs/reference/studies.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(name: my-figure-3.*?)```", page, re.DOTALL)
    plan = plan_study(load_study(yaml.safe_load(text)), "small", {"data_dir": "d", "corpus": "c"})
    assert list(dict.fromkeys(run.stage for run in plan.runs.values())) == ["head", "dense", "search", "transfer"]
    assert {(p.axes["task"], p.axes["seed"]) for p in plan.points if p.stage == "transfer"} == {("sst2", 0)}


def test_a_base_gives_parameters_and_stages():
    base = load_study("tamt-figure-3")
    own = {
        "name": "mine",
        "title": "Mine",
        "base": "tamt-figure-3",
        "parameters": {"seeds": [7]},
        "scales": {"smoke": {"sparsities": [0.9], "search_steps": {0.9: 4}, "imp_sparsities": [0.9]}},
        "stages": {"imp": None, "transfer-imp": None, "extra": {"verb": "evaluate", "with": {"target": "@search"}}},
    }
    study = load_study(own)
    assert set(study.stages) == (set(base.stages) | {"extra"}) - {"imp", "transfer-imp"}
    assert study.stages["search"] == base.stages["search"]
    assert study.parameters == base.parameters | {"seeds": [7]}
    assert study.scales["smoke"] == base.scales["smoke"] | own["scales"]["smoke"]
    assert study.scales["paper"] == base.scales["paper"]
    assert study.scales["small"]["corpus"] is None, "a parameter that is null stays one"
    assert study.needs == base.needs
    assert set(study.figures) == set(base.figures)  # of the stages that are left
    assert all("imp" not in (figure.stage or ()) for figure in study.figures.values())
    (search,) = set(plan_study(study, "smoke", {"methods": ["OMP"], "released": []}).stage_runs("search"))
    assert search in plan_study(base, "smoke", {"sparsities": [0.9], "search_steps": {0.9: 4}}).runs


def test_a_base_must_be_a_recipe(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ntitle: Mine\nbase: tamt-figure-33\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"mine\.yaml, line 3: Unknown recipe 'tamt-figure-33'.*tamt-figure-3"):
        load_study(file)


def test_bases_in_a_circle(monkeypatch):
    from winning_tickets.studies import load

    texts = {"a": "name: a\nbase: b\n", "b": "name: b\nbase: a\n"}
    monkeypatch.setattr(load, "_recipe_files", lambda: texts)
    with pytest.raises(UsageError, match="recipe a, line 2: The bases lead back to b: b -> a -> b"):
        load_study("a")


def test_the_template_is_a_study(tmp_path):
    write_template(tmp_path / "My study.yaml")
    study = load_study(tmp_path / "My study.yaml")
    assert study.name == "my-study"
    assert len(plan_study(study, "smoke").runs) == 2 + 2 + 8
    with pytest.raises(UsageError, match="is there already and was left untouched"):
        write_template(tmp_path / "My study.yaml")
    with pytest.raises(UsageError, match=r"expected one that ends with \.yaml or \.yml"):
        write_template(tmp_path / "study.txt")


def test_unknown_keys_are_told_with_their_line_and_the_closest_ones(tmp_path):
    file = tmp_path / "s.yaml"
    text = yaml.safe_dump(little(), sort_keys=False).replace("  search:\n    verb", "  search:\n    vreb: x\n    verb")
    file.write_text(text + "tabels: {}\n")
    with pytest.raises(UsageError) as caught:
        load_study(file)
    lines = text.splitlines()
    assert f"s.yaml, line {lines.index('    vreb: x') + 1}: Unknown key in stages.search 'vreb'. Did you mean" in str(
        caught.value
    )
    assert f"line {len(lines) + 1}: Unknown key 'tabels'. Did you mean 'tables' or" in str(caught.value)


def test_unknown_fields_of_a_verb():
    study = stage("search", **{"with": {"model": "m", "sparsty": 0.5}})
    assert "Unknown field of search 'sparsty'. Did you mean 'sparsity'" in refused(study)
    variants = {"method": {"A": {"methd": "random"}}}
    assert "Unknown field of search 'methd'. Did you mean 'method'" in refused(stage("search", over=variants))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [a\n", "line 2: not valid YAML"),
        ("name: a\nstages:\n  t: {with: {target: @search}}\n", "line 3: not valid YAML"),
        ("name: a\ntitle: b\nname: c\n", "line 3: 'name' is there already, in line 1"),
        ("- a\n", "a study maps keys to values"),
        ("", "found NoneType"),
    ],
)
def test_unreadable_yaml(tmp_path, text, message):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        load_study(file)


def test_a_reference_without_quotes_gets_a_hint(tmp_path):
    (tmp_path / "s.yaml").write_text("target: @search\n")
    with pytest.raises(UsageError, match="A reference needs quotes: '@search'"):
        load_study(tmp_path / "s.yaml")


def test_missing_files_and_recipes():
    with pytest.raises(UsageError, match="There is no file no/such.yaml; `tickets study new no/such.yaml` writes one"):
        load_study("no/such.yaml")
    with pytest.raises(UsageError, match="Unknown recipe 'tamt-figure-33'. Did you mean 'tamt-figure-3'"):
        load_study("tamt-figure-33")


def test_missing_and_wrong_values():
    text = refused(little(name="My study"))
    assert "name: String should match pattern" in text
    assert "(found 'My study')" in text
    assert "stages is missing" in refused({"name": "a", "title": "b", "scales": {}})
    assert "stages.search.verb: Input should be 'fit-head', 'search'" in refused(stage("search", verb="serch"))


def test_references_to_what_is_not_there():
    told = refused(stage("evaluate", **{"with": {"target": "@serach"}}))
    assert "@serach: Unknown stage 'serach'. Did you mean 'search'" in told
    assert "'@search[' is not a reference; expected '@STAGE'" in refused(
        stage("evaluate", **{"with": {"target": "@search["}})
    )
    with pytest.raises(UsageError, match="search has no axis 'mthod'; known: method, sparsity, level, step"):
        plan_study(load_study(stage("evaluate", **{"with": {"target": "@search[mthod]"}})), "smoke")
    with pytest.raises(UsageError, match=r"Stage evaluate: @search\[method=imp\] finds no run"):
        plan_study(load_study(stage("evaluate", **{"with": {"target": "@search[method=imp]"}})), "smoke")
    with pytest.raises(UsageError, match="opens the tickets of a search, and this stage is not one"):
        plan_study(load_study(stage("transfer", **{"with": {"target": "@evaluate[level]", "task": "rte"}})), "smoke")


def test_circles():
    stages = {
        "a": {"verb": "search", "with": {"model": "m", "like": "@b"}},
        "b": {"verb": "search", "with": {"model": "m", "like": "@a"}},
    }
    assert "The stages refer to each other in a circle: a -> b -> a." in refused(little(stages=stages))


def test_axes_and_parameters_that_nobody_knows():
    told = refused(stage("search", over={"sed": [1]}))
    assert "The axis sed: Unknown field of search 'sed'. Did you mean" in told
    assert "Use it in 'with' as '${sed}', or give a mapping of labels to fields." in told
    told = refused(stage("search", **{"with": {"model": "${modle}"}}))
    assert "Unknown parameter or axis 'modle'. Did you mean 'model'" in told
    assert "The axis method is the text 'random'; expected a list" in refused(
        stage("search", over={"method": "random"})
    )
    with pytest.raises(UsageError, match="the axis method must be a list or a mapping with at least one value"):
        plan_study(load_study(stage("search", over={"method": []})), "smoke")


def test_scales():
    study = load_study(little())
    with pytest.raises(UsageError, match="The study little has no scale 'paper'; it has smoke"):
        plan_study(study, "paper")
    with pytest.raises(UsageError, match="Unknown scale 'smok'. Did you mean 'smoke'"):
        plan_study(study, "smok")
    with pytest.raises(UsageError, match="Unknown parameter of little 'task'. Did you mean 'tasks'"):
        plan_study(study, "smoke", {"task": "rte"})
    assert "Input should be 'smoke', 'small' or 'paper'" in refused(little(scales={"huge": {}}))


def test_what_is_shown_names_stages_and_axes():
    figure = {"kind": "line", "stage": "transfer", "x": "sparsty", "series": "method"}
    assert "Unknown axis 'sparsty'" in refused(little(figures={"f": figure}))
    table = {"stage": "trnasfer", "rows": ["method"]}
    assert "Unknown stage 'trnasfer'. Did you mean 'transfer'" in refused(little(tables={"t": table}))
    published = [{"of": "t", "row": "a", "column": "b", "value": 0.5}]
    assert "Unknown table or figure 't'" in refused(little(published=published))


def test_a_claim_has_one_test():
    one = {"axis": "method", "first": "magnitude", "second": "random"}
    claim = {"text": "c", "stage": "transfer", "better": one}
    assert load_study(little(claims={"c": claim})).claims["c"].better.first == "magnitude"
    told = refused(little(claims={"c": claim | {"not_worse": one}}))
    assert "steadier, lies, correlates; found better and not_worse" in told
    assert "found none" in refused(little(claims={"c": {"text": "c"}}))
    assert "better needs the stage" in refused(little(claims={"c": {"text": "c", "better": one}}))


def test_substitution():
    known = {"a": [1, 2], "b": "x", "table": {0.5: 10, "y": 20}, "s": 0.5}
    assert substitute("${a}", known) == [1, 2]
    assert substitute("to ${b} and ${ s }", known) == "to x and 0.5"
    assert substitute({"k": ["${table[s]}", 3]}, known) == {"k": [10, 3]}
    with pytest.raises(UsageError, match="table has no entry for b x; found 0.5, y"):
        substitute("${table[b]}", known)
    with pytest.raises(UsageError, match=r"b is no mapping by s; found 'x'"):
        substitute("${b[s]}", known)


def test_parsing_of_references():
    found = parse_reference("@a-b[task, seed=0 , sparsity]/seed-0/model")
    assert (found.stage, found.names, dict(found.fixed), found.rest) == (
        "a-b",
        ("task", "sparsity"),
        {"seed": "0"},
        "/seed-0/model",
    )


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"m": "a"}, True),
        ({"m": ["b", "a"]}, True),
        ({"m": "a", "s": 0.5}, False),
        ({"s": {"above": 0.5}}, True),
        ({"s": {"above": 0.7}}, False),
        ({"s": {"below": 0.8, "above": 0.6}}, True),
        ({"s": {"not": 0.7}}, False),
        ({"s": {"not": [0.1, 0.2]}}, True),
        ({"other": "a"}, False),
        ({"s": "0.7"}, True),
    ],
)
def test_conditions(condition, holds):
    assert matches([condition], {"m": "a", "s": 0.7}) is holds
    assert not matches([], {"m": "a"})


def test_conditions_that_are_none():
    with pytest.raises(UsageError, match=r"\{'over': 3\} is no condition"):
        matches([{"m": {"over": 3}}], {"m": 4})
    with pytest.raises(UsageError, match="above compares numbers, found 'a' and 3"):
        matches([{"m": {"above": 3}}], {"m": "a"})
