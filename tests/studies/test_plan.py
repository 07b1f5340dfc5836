"""From a study to its runs: grids, references, ids, shared runs."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest

from samples.study_samples import little, planned
from winning_tickets.runs.errors import UsageError
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import parse_overrides, plan_study
from winning_tickets.studies.status import blocked_by
from winning_tickets.studies.verbs import VERBS

GOLDEN = {
    "search-magnitude-0.5-0.7-s0-c06762925d0d",
    "search-random-0.5-0.7-s0-b9fcfc6b5c4b",
}


def configs(plan, stage):
    """The configurations of a stage's runs."""
    return [plan.runs[run].config for run in plan.stage_runs(stage)]


def study(stages, **parameters):
    """A study of some stages."""
    return {"name": "s", "title": "S", "scales": {"smoke": parameters}, "stages": stages}


SEARCH = {"verb": "search", "with": {"model": "m"}}
TRANSFER = {"verb": "transfer", "with": {"target": "@search", "task": "rte"}}


def test_the_product_of_axes_in_order():
    axes = {"method": ["random", "magnitude"], "sparsity": [0.7, 0.5], "seed": [3, 1]}
    plan = planned(study({"search": SEARCH | {"over": axes}}))
    wanted = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    assert [point.axes for point in plan.points] == wanted
    assert [dict(plan.runs[point.run].settings) for point in plan.points] == [
        dict(plan.runs[point.run].settings) | axes | {"model": "m"}
        for point, axes in zip(plan.points, wanted, strict=True)
    ]
    assert len(plan.runs) == 8


def test_mappings_set_fields_and_seed_and_task_become_lists():
    over = {"method": {"KD": {"method": "mask-training", "objective": "kd", "steps": "${n[s]}"}}, "s": [0.5, 0.7]}
    plan = planned(
        study(
            {
                "search": {"verb": "search", "with": {"model": "m", "sparsity": "${s}", "corpus": "c"}, "over": over},
                "t": {"verb": "transfer", "with": {"target": "m"}, "over": {"task": ["rte"], "seed": [7]}},
                "i": {"verb": "search", "with": {"model": "m", "method": "imp"}, "over": {"task": ["rte"]}},
            },
            n={0.5: 10, 0.7: 20},
        )
    )
    assert configs(plan, "search") == [
        {"model": "m", "sparsity": 0.5, "corpus": "c", "steps": 10},
        {"model": "m", "sparsity": 0.7, "corpus": "c", "steps": 20},
    ]
    assert configs(plan, "t") == [{"target": "m", "task": "rte", "seeds": [7]}]
    assert [config["tasks"] for config in configs(plan, "i")] == [["rte"]]


def test_a_field_that_is_given_wins_over_its_axis():
    stage = {"verb": "transfer", "with": {"target": "m", "task": "mrpc"}, "over": {"task": ["rte", "cola"]}}
    plan = planned(study({"t": stage}))
    assert len(plan.runs) == 1
    assert [point.axes["task"] for point in plan.points] == ["rte", "cola"]


def test_a_parameter_that_holds_itself_is_refused():
    stage = {"verb": "share", "with": {"model": "m", "tasks": ["rte"], "tickets": "${x}"}}
    with pytest.raises(UsageError, match=r"\$\{x\} holds itself"):
        planned(study({"s": stage}, x={"rte": "${x}"}))


def test_references_bring_their_axes_and_join_on_shared_ones():
    stages = {
        "finetune": {
            "verb": "transfer",
            "with": {"target": "m", "save_model": True},
            "over": {"task": ["rte", "cola"]},
        },
        "search": {
            "verb": "search",
            "with": {"model": "m", "method": "importance", "level": 30, "importance_from": "@finetune"},
            "over": {"selection": ["winning", "losing"]},
        },
        "transfer": {
            "verb": "transfer",
            "with": {"target": "@search"},
            "over": {"task": ["cola", "mrpc"], "seed": [0, 1]},
        },
    }
    with pytest.raises(UsageError, match=r"Stage transfer \(task=mrpc, seed=0\): @search finds no run"):
        planned(study(stages))
    stages["transfer"]["over"]["task"] = ["cola", "rte"]
    plan = planned(study(stages))
    found = [(p.axes["task"], p.axes["selection"], p.axes["seed"]) for p in plan.points if p.stage == "transfer"]
    assert sorted(found) == sorted(product(["cola", "rte"], ["winning", "losing"], [0, 1]))
    for point in plan.points:
        if point.stage != "finetune":
            chain = point.run
            while plan.runs[chain].needs:
                (chain,) = plan.runs[chain].needs
            assert plan.runs[chain].config["task"] == point.axes["task"]


def test_ladders_open():
    stages = {
        "search": SEARCH | {"with": {"model": "m", "method": "random", "sparsity": [0.7, 0.5, 0.123]}},
        "all": {"verb": "evaluate", "with": {"target": "@search[sparsity]"}},
        "one": {"verb": "evaluate", "with": {"target": "@search[sparsity=0.5]", "objectives": ["mlm"]}},
    }
    plan = planned(study(stages))
    (search,) = plan.stage_runs("search")
    assert [config["target"] for config in configs(plan, "all")] == [
        f"@{search}/sparsity-0.123",
        f"@{search}/sparsity-0.50",
        f"@{search}/sparsity-0.70",
    ]
    assert [point.axes for point in plan.points if point.stage == "all"] == [
        {"sparsity": 0.123},
        {"sparsity": 0.5},
        {"sparsity": 0.7},
    ]
    assert configs(plan, "one") == [{"target": f"@{search}/sparsity-0.50", "objectives": ["mlm"]}]
    assert [point.axes for point in plan.points if point.stage == "one"] == [{}]


def test_levels_and_steps_open():
    stages = {
        "levels": SEARCH | {"with": {"model": "m", "method": "importance", "level": [10, 30]}},
        "steps": SEARCH | {"with": {"model": "m", "steps": 20, "save_at": [5, 10]}},
        "l": {"verb": "evaluate", "with": {"target": "@levels[level]"}},
        "s": {"verb": "evaluate", "with": {"target": "@steps[step]"}},
        "wrong": {"verb": "evaluate", "with": {"target": "@steps[sparsity, step]"}},
    }
    with pytest.raises(UsageError, match="opens sparsity and step; open one of them"):
        planned(study(stages))
    del stages["wrong"]
    plan = planned(study(stages))
    (levels,), (steps,) = plan.stage_runs("levels"), plan.stage_runs("steps")
    assert [c["target"] for c in configs(plan, "l")] == [f"@{levels}/level-10", f"@{levels}/level-30"]
    assert [c["target"] for c in configs(plan, "s")] == [f"@{steps}/step-000005", f"@{steps}/step-000010", f"@{steps}"]
    assert [p.axes for p in plan.points if p.stage == "s"] == [{"step": 5}, {"step": 10}, {"step": 20}]
    with pytest.raises(UsageError, match=r"\[level\] opens tickets of heads and FFNs, and mask-training finds others"):
        planned(study(stages | {"wrong": {"verb": "evaluate", "with": {"target": "@steps[level]"}}}))


def test_named_axes_match_alone_and_must_leave_one_run():
    stages = {
        "finetune": {"verb": "transfer", "with": {"target": "m"}, "over": {"task": ["rte"], "seed": [0, 1]}},
        "search": {
            "verb": "search",
            "with": {"model": "m", "method": "importance", "level": 30, "importance_from": "@finetune[task]"},
            "over": {"seed": [0, 1, 2]},
        },
    }
    with pytest.raises(
        UsageError, match=r"@finetune\[task\]: several runs have \{'task': 'rte'\}; name or fix more axes"
    ):
        planned(study(stages))
    stages["search"]["with"]["importance_from"] = "@finetune[task, seed=1]"
    plan = planned(study(stages))
    assert {c["importance_from"] for c in configs(plan, "search")} == {f"@{plan.stage_runs('finetune')[1]}"}
    assert [p.axes for p in plan.points if p.stage == "search"] == [{"task": "rte", "seed": s} for s in range(3)]


def test_lists_gather_all_runs_that_agree():
    stages = {
        "search": SEARCH | {"over": {"method": ["random", "magnitude"], "sparsity": [0.5, 0.7]}},
        "compare": {"verb": "compare", "with": {"targets": ["@search"]}, "over": {"sparsity": {0.7: {}, 0.5: {}}}},
    }
    plan = planned(study(stages))
    for point in plan.points:
        if point.stage == "compare":
            targets = [plan.runs[target[1:]] for target in plan.runs[point.run].config["targets"]]
            assert [run.settings.method for run in targets] == ["random", "magnitude"]
            assert {run.settings.sparsity for run in targets} == {point.axes["sparsity"]}
    assert plan.runs[plan.stage_runs("compare")[0]].needs == tuple(
        target[1:] for target in plan.runs[plan.stage_runs("compare")[0]].config["targets"]
    )


def test_skip_and_only():
    stage = SEARCH | {
        "over": {"method": ["random", "magnitude"], "seed": "${seeds}"},
        "skip": [{"method": "magnitude", "seed": {"above": "${first}"}}],
    }
    plan = planned(study({"search": stage}, seeds=[0, 1, 2], first=0))
    assert [(p.axes["method"], p.axes["seed"]) for p in plan.points] == [
        ("random", 0),
        ("random", 1),
        ("random", 2),
        ("magnitude", 0),
    ]
    plan = planned(study({"search": stage | {"only": [{"seed": 2}, {"method": "magnitude"}]}}, seeds=[0, 2], first=5))
    assert [(p.axes["method"], p.axes["seed"]) for p in plan.points] == [
        ("random", 2),
        ("magnitude", 0),
        ("magnitude", 2),
    ]


def test_parameters_may_be_references_and_stages_conditional():
    stages = {
        "head": {"verb": "fit-head", "when": "${fit}", "with": {"model": "m", "corpus": "c"}},
        "search": {"verb": "search", "with": {"model": "${encoder}", "method": "random"}},
    }
    content = study(stages) | {
        "parameters": {"encoder": "m", "fit": False},
        "scales": {"smoke": {}, "small": {"encoder": "@head", "fit": True}},
    }
    assert configs(planned(content), "search") == [{"model": "m", "method": "random"}]
    plan = planned(content, "small")
    (head,) = plan.stage_runs("head")
    assert configs(plan, "search") == [{"model": f"@{head}", "method": "random"}]
    assert plan.runs[plan.stage_runs("search")[0]].needs == (head,)


def test_exports_are_models_inside_their_runs():
    stages = {
        "search": SEARCH,
        "export": {"verb": "export", "with": {"target": "@search", "format": "masked"}},
        "measure": {"verb": "measure", "with": {"target": "@export", "batches": [1]}},
        "share": {"verb": "transfer", "with": {"target": "@search/step-000005", "task": "rte"}},
    }
    plan = planned(study(stages))
    assert configs(plan, "measure")[0]["target"] == f"@{plan.stage_runs('export')[0]}/model"
    assert configs(plan, "share")[0]["target"] == f"@{plan.stage_runs('search')[0]}/step-000005"


def test_ids_are_frozen():
    """They name folders in users' stores: when this fails, raise `defaults_version` or find what moved."""
    plan = planned(little())
    assert set(plan.stage_runs("search")) == GOLDEN
    assert plan.stage_runs("evaluate")[0] == "evaluate-kd-bf075bb505da"
    assert plan.stage_runs("compare") == ["compare-300221209ac7"]
    assert plan.stage_runs("transfer")[0] == "transfer-rte-s0-408d7a21713b"


def test_equal_runs_of_several_stages_and_studies_are_one():
    plan = planned(little())
    stages = little()["stages"]
    twice = planned(little(name="other", stages=stages | {"again": stages["search"]}))
    assert twice.runs.keys() == plan.runs.keys()
    assert len(twice.points) == len(plan.points) + 2
    assert {run.id for run in twice.runs.values() if run.stage == "again"} == set()


def test_ids_follow_what_they_refer_to():
    first, second = planned(little()), planned(little(), model="tiny:bert-other")
    assert not first.runs.keys() & second.runs.keys()


def test_runs_come_after_those_they_need():
    stages = little()["stages"]
    plan = planned(little(stages=dict(reversed(stages.items()))))
    seen = set()
    for run in plan.runs.values():
        assert set(run.needs) <= seen
        seen.add(run.id)
    assert next(point.stage for point in plan.points) == "transfer"


def test_impossible_settings_name_the_stage_and_the_axes():
    with pytest.raises(UsageError, match=r"Stage search \(seed=a\): --seed: Input should be a valid integer"):
        planned(study({"search": SEARCH | {"over": {"seed": ["a"]}}}))


def test_settings_that_a_method_does_not_read_are_refused_at_once():
    told = r"Stage search \(method=random\): --method random does not read --level; it needs --method importance or"
    over = {"method": {"importance": {"method": "importance"}, "random": {"method": "random"}}}
    with pytest.raises(UsageError, match=told):
        planned(study({"search": {"verb": "search", "with": {"model": "tiny:bert", "level": ["30%"]}, "over": over}}))


def test_a_mistyped_built_in_model_is_refused_at_once():
    with pytest.raises(UsageError, match="Unknown built-in model 'minlm'. Did you mean 'minilm'"):
        planned(little(), model="builtin:minlm")


def test_overrides():
    assert parse_overrides(["tasks=rte,mrpc", "a=0.5", "b=null", "c=[x]", "d=text", "e="]) == {
        "tasks": ["rte", "mrpc"],
        "a": 0.5,
        "b": None,
        "c": ["x"],
        "d": "text",
        "e": None,
    }
    with pytest.raises(UsageError, match=r"--set 'tasks' is not of the form NAME=VALUE"):
        parse_overrides(["tasks"])
    assert len(planned(little(), tasks=["rte", "cola"]).stage_runs("transfer")) == 4


def test_what_waits_for_a_failed_run_is_blocked():
    plan = planned(little())
    magnitude = plan.stage_runs("search")[0]
    blocked = blocked_by(plan, [magnitude])
    assert set(blocked.values()) == {magnitude}
    stages = [plan.runs[run].stage for run in blocked]
    assert sorted(stages) == ["compare", "evaluate", "evaluate", "transfer"]


def test_every_verb_has_a_configuration():
    for verb in VERBS.values():
        assert {word.partition(".")[0] for word in verb.words} <= set(verb.settings.all_fields())


def test_a_large_study_is_planned_without_torch():
    program = (
        "import sys\nfrom winning_tickets.studies.load import load_study\n"
        "from winning_tickets.studies.plan import plan_study\n"
        "plan = plan_study(load_study('tamt-figure-3'), 'paper')\n"
        "print(len(plan.runs), sorted({'torch', 'transformers', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2816 []\n"


def test_the_figures_of_the_recipe_count():
    plan = plan_study(load_study("tamt-figure-3"), "paper")
    # 8 sparsities x 7 tasks: nine runs of each of the four methods that are drawn and of IMP, three of one-shot pruning
    # and of the full model. The series of the released code are off.
    assert len(plan.stage_runs("transfer")) == 8 * 7 * (4 * 9 + 3)
    assert len(plan.stage_runs("transfer-imp")) == 8 * 7 * 9
    assert len(plan.stage_runs("dense")) == 7 * 3


def test_labels_may_be_lists_that_only_the_report_sees():
    stages = {
        "search": SEARCH | {"label": {"part": "${parts}", "how": "own"}, "over": {"seed": [0, 1]}},
        "t": TRANSFER | {"with": {"target": "@search[seed]", "task": "rte"}},
        "all": {"verb": "compare", "with": {"targets": ["@search"]}, "label": {"seed": [0, 1]}},
    }
    plan = planned(study(stages, parts=["full", "half"]))
    assert [p.axes for p in plan.points if p.stage == "search"] == [
        {"seed": seed, "part": part, "how": "own"} for seed in (0, 1) for part in ("full", "half")
    ]
    first, second = plan.stage_runs("search")
    assert [p.axes for p in plan.points if p.stage == "t"] == [{"seed": 0}, {"seed": 1}]
    assert [config["targets"] for config in configs(plan, "all")] == [[f"@{first}"], [f"@{second}"]]


def test_a_parameter_may_map_names_to_references():
    stages = {
        "search": SEARCH | {"over": {"task": {"rte": {"seed": 0}, "mrpc": {"seed": 1}}, "round": {"a": {}, "b": {}}}},
        "share": {
            "verb": "share",
            "with": {"tasks": ["rte", "mrpc"], "tickets": "${tickets}"},
            "over": {"round": {"a": {"seeds": [0]}, "b": {"seeds": [1]}}},
        },
    }
    tickets = {task: f"@search[task={task}, round]/best" for task in ("rte", "mrpc")}
    plan = planned(study(stages, tickets=tickets))
    rte, mrpc = plan.stage_runs("search")
    assert configs(plan, "share") == [
        {"tasks": ["rte", "mrpc"], "tickets": {"rte": f"@{rte}/best", "mrpc": f"@{mrpc}/best"}} | seeds
        for seeds in ({}, {"seeds": [1]})
    ]
    assert plan.runs[plan.stage_runs("share")[0]].needs == (rte, mrpc)


def test_conditions_may_be_a_parameter_and_what_they_leave_out_needs_no_value():
    over = {"sparsity": [0.5, 0.7, 0.9]}
    with_steps = {
        "verb": "search",
        "with": {"model": "m", "steps": "${n[sparsity]}"},
        "over": over,
        "only": "${wanted}",
    }
    plan = planned(study({"search": with_steps}, n={0.5: 5, 0.9: 9}, wanted=[{"sparsity": [0.5, 0.9]}]))
    assert [config["steps"] for config in configs(plan, "search")] == [5, 9]
    with pytest.raises(UsageError, match=r"n has no entry for sparsity 0.7; found 0.5, 0.9"):
        planned(study({"search": with_steps}, n={0.5: 5, 0.9: 9}, wanted=[{"sparsity": 0.7}]))


def test_two_tickets_may_be_compared_by_name():
    stages = {
        "search": SEARCH | {"over": {"method": ["random", "magnitude"]}},
        "compare": {"verb": "compare", "with": {"reference": "@search[method=magnitude]", "target": "@search"}},
    }
    plan = planned(study(stages))
    random, magnitude = plan.stage_runs("search")
    assert [plan.runs[run].settings.tickets for run in plan.stage_runs("compare")] == [
        (f"@{magnitude}", f"@{random}"),
        (f"@{magnitude}", f"@{magnitude}"),
    ]
