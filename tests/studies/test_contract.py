"""Every planned run of every recipe at the scale of its paper has the settings of the contract with this paper."""

from __future__ import annotations

import re

import pytest

from samples.recipes import RECIPES, planned, recipe
from winning_tickets.studies.contract import Held, Rule, contracts
from winning_tickets.studies.load import read_yaml, recipe_text
from winning_tickets.studies.plan import plan_study


@pytest.mark.parametrize("name", RECIPES)
def test_every_planned_run_is_that_of_the_contract(name):
    """What deviates without a note that names the setting and its value fails; so does a note that is not true."""
    held, study = Held(planned(name, "paper")), recipe(name)
    assert [one.text for one in held.unexplained] == []
    assert all(text.endswith(".") for text in held.notes.values())
    own = read_yaml(recipe_text(name), name)[0].get("deviations") or {}
    written = {note for note, body in own.items() if body is not None and not study.deviations[note].added}
    assert written - held.notes.keys() - {"pooler"} == set()
    series = {axis for point in planned(name, "paper").points for axis in map(str, point.axes.values())}
    rates = {float(one) for one in re.findall(r"\d(?:\.\d)?e-\d+", str([row.here for row in held.rows]))}
    for text in held.notes.values():
        assert {one for one in _series() if one in text} <= series, text
        assert {float(one) for one in re.findall(r"\d(?:\.\d)?e-\d+", text)} <= rates, text


def _series():
    """The names of series that only some plans have."""
    series = recipe("tamt-figure-3").scales["paper"]["released_series"][True]
    return {*series, "IMP (released code)", "shuffled weights (released code)"}


SMALL = {
    *("model", "corpus", "task", "seed", "sparsity", "level", "weights", "steps", "round", "train_size", "evaluations"),
    *("learning_rate", "head_learning_rate", "batch_size", "batch_tokens", "max_length", "max_tokens", "segments"),
}
"""Settings that the scale `miniature` makes small; `weights` are those of the steps to which a ticket is rewound."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_miniature_has_all_settings_of_the_contract_but_small_ones(name):
    assert {one.setting for one in Held(planned(name, "miniature")).unexplained} <= SMALL


def test_the_contracts_have_every_recipe_and_no_other():
    known = {name for contract in contracts().values() for name in contract.artefacts}
    assert known == set(RECIPES)
    with pytest.raises(ValueError, match="give exactly one of paper, all, grid, count"):
        Rule(source="Table 1")
    with pytest.raises(ValueError, match="give either the source of the value, or why it is assumed"):
        Rule(paper=1)


@pytest.mark.parametrize(
    ("name", "overrides", "found"),
    [
        (
            "super-tickets-table-8",
            {"profile": "tuned"},
            "downstream: dropout is 0 in 150 runs (paper: model, that of the",
        ),
        (
            "super-tickets-table-8",
            {"evaluations": None},
            "downstream: evaluations is 50 in 150 runs (paper: epoch, after",
        ),
        ("super-tickets-table-1", {"learning_rates": [1e-4]}, "single-task: learning_rate is 0.0001 in 80 runs"),
        ("tamt-figure-3", {"seeds": [0]}, "fine-tuning: seed is 1 in"),
        ("tamt-figure-3", {"imp_passes": None}, "imp: decay is all rounds in 3 runs (paper: 2 passes over the corpus"),
        ("bert-tickets-figure-11", {"mlm_round_steps": 500}, "imp-text: round is 500 steps in 5 runs (paper: 160000"),
    ],
)
def test_what_is_not_the_papers_is_found(name, overrides, found):
    held = Held(plan_study(recipe(name), "paper", overrides))
    assert [one.text for one in held.unexplained if one.text.startswith(found)] != []


def test_a_note_is_shown_where_its_runs_are():
    """They are inherited with the base recipe, whose runs a recipe may not have."""
    assert Held(planned("tamt-figure-1", "paper")).notes.keys() == {"best"}
    assert "rate-per-round" not in Held(planned("tamt-figure-3", "paper")).notes
    few = {"tasks": ["rte"], "seeds": [0]}
    with_code = Held(plan_study(recipe("tamt-figure-3"), "paper", {"released_code": True} | few))
    assert {"rate-per-round", "released-imp", "released-mlm", "released-kd"} <= with_code.notes.keys()
    assert {one.setting for one in with_code.unexplained} == {"task", "seed"}
    grid = Held(plan_study(recipe("super-tickets-table-3"), "paper", {"grid": "paper"} | few))
    assert "fine-tuning" in Held(planned("super-tickets-table-3", "paper")).notes
    assert "fine-tuning" not in grid.notes
    assert {one.setting for one in grid.unexplained} == {"task", "seed"}
    assert "fine-tuning" not in Held(planned("super-tickets-table-5", "paper")).notes


def test_a_page_says_what_is_not_the_papers():
    rows = {(row.training, row.setting): row for row in Held(planned("tamt-figure-3", "paper")).rows}
    rate = rows["Fine-tuning on each task", "learning_rate"]
    assert (rate.paper, rate.source, rate.here, rate.differs) == (
        "2e-05; 3e-05 for squad", "Table 1", "2e-05; 3e-05 for squad", False,
    )  # fmt: skip
    assert [key for key, row in rows.items() if row.differs] == [("Mask training (TAMT)", "rank_by")]
    small = Held(planned("tamt-figure-3", "small")).rows
    assert {row.here for row in small if row.setting == "model"} == {"builtin:minilm"}
    assert Held(planned("demo", "small")).rows == []
