"""Claims of all kinds: what is compared, what counts, and the three verdicts."""

from __future__ import annotations

import itertools

import pytest

from samples.study_report_samples import fill_store, sample_plan, score_of
from samples.study_samples import little
from winning_tickets.runs.errors import UsageError
from winning_tickets.studies.load import load_study
from winning_tickets.studies.report.claims import judge_claim
from winning_tickets.studies.report.observations import StudyRun, gather_runs

TO_DENSE = {"axis": "method", "first": "TAMT", "second": {"stage": "dense"}}


def judged(tmp_path, claim, **parameters):
    """The verdict on a claim about the sample study."""

    def change(body):
        body["claims"] = {"c": {"text": "It is so.", "stage": "transfer", **claim}}
        body["parameters"] = parameters

    plan = sample_plan(change)
    return judge_claim(plan.study, "c", gather_runs(plan, fill_store(tmp_path, plan)))


@pytest.mark.parametrize("pair_by", [["task", "sparsity", "seed"], ["task", "seed"], []])
def test_a_stage_without_an_axis_stands_beside_all_its_values(tmp_path, pair_by):
    verdict = judged(tmp_path, {"better": TO_DENSE, "pair_by": pair_by})
    pairs = 12 if "sparsity" in pair_by else 6
    assert (verdict.word, verdict.finding.n, verdict.finding.planned) == ("contradicted", pairs, pairs)
    differences = [
        score_of({"method": "TAMT", "task": task, "sparsity": sparsity, "seed": seed})
        - score_of({"method": "dense", "task": task, "seed": seed})
        for task in ("rte", "mrpc")
        for sparsity in (0.5, 0.7)
        for seed in (0, 1, 2)
    ]
    assert verdict.finding.effect.estimate == pytest.approx(sum(differences) / 12)
    assert "mean difference of score, TAMT minus score of dense" in verdict.test
    assert all(name.endswith((": TAMT", ": score of dense")) for name in verdict.cells)


def test_not_worse_than_another_stage_and_conditions_of_the_first_alone(tmp_path):
    claim = {"not_worse": TO_DENSE, "pair_by": ["task", "sparsity", "seed"], "margin": 0.05}
    assert judged(tmp_path / "all", claim).word == "inconclusive"
    verdict = judged(tmp_path / "some", claim | {"where": [{"sparsity": 0.5}]})
    assert (verdict.word, verdict.finding.n) == ("holds", 6)


def test_conditions_may_hold_parameters(tmp_path):
    claim = {"better": TO_DENSE, "pair_by": ["task", "sparsity", "seed"], "where": [{"sparsity": "${wanted}"}]}
    assert judged(tmp_path / "one", claim, wanted=0.7).finding.n == 6
    assert judged(tmp_path / "two", claim, wanted=[0.5, 0.7]).finding.n == 12
    claim["better"] = TO_DENSE | {"second": {"stage": "dense", "where": [{"task": "${task}"}]}}
    assert judged(tmp_path / "three", claim, wanted=0.7, task="rte").finding.n == 3


def test_what_no_run_is_planned_for(tmp_path):
    verdict = judged(tmp_path, {"better": TO_DENSE, "where": [{"sparsity": 0.9}]})
    assert (verdict.word, verdict.reason) == (
        "inconclusive",
        "No pairs for it are planned with these parameters.",
    )


def test_unknown_stages_and_parameters_are_told(tmp_path):
    with pytest.raises(UsageError, match="Unknown stage 'dens'. Did you mean 'dense'"):
        judged(tmp_path, {"better": TO_DENSE | {"second": {"stage": "dens"}}})
    with pytest.raises(UsageError, match="Unknown parameter 'task'. Did you mean 'tasks'"):
        judged(tmp_path, {"better": TO_DENSE, "where": [{"task": "${task}"}]})
    with pytest.raises(UsageError, match="Unknown parameter 'task'. Did you mean 'tasks'"):
        judged(tmp_path, {"better": TO_DENSE | {"second": {"stage": "dense", "where": [{"task": "${task}"}]}}})


def test_exactly_the_margin_worse_is_not_above_it_whatever_the_rounding(tmp_path):
    """On rte all three differences to the dense model are -0.06, of which the sum rounds to a little less."""
    claim = {"not_worse": TO_DENSE | {"first": "OMP"}, "pair_by": ["task", "sparsity", "seed"]}
    claim["where"] = [{"sparsity": 0.5, "task": "rte"}]
    verdict = judged(tmp_path / "at", claim | {"margin": 0.06})
    assert (verdict.word, verdict.finding.n) == ("inconclusive", 3)
    assert judged(tmp_path / "below", claim | {"margin": 0.061}).word == "holds"


# Claims on made-up numbers: the axes are labels, and a function of them gives the value.


def judged_on(number, claim, methods=("A", "B"), **axes):
    """The verdict on a claim about a stage `runs` whose runs have the value `x`; axes are given with their values."""
    grid = {"method": list(methods), "task": ["rte", "mrpc", "stsb"], "search_seed": [0], "seed": [0, 1, 2]} | axes
    stages = {
        "runs": {"verb": "transfer", "with": {"target": "tiny:bert", "task": "rte"}, "label": grid},
        "dense": {"verb": "transfer", "with": {"target": "tiny:bert", "task": "rte"}, "label": grid},
    }
    body = little(stages=stages, claims={"c": {"text": "So.", "stage": "runs", "value": "x"} | claim})
    runs = []
    for values in itertools.product(*grid.values()):
        place = dict(zip(grid, values, strict=True))
        value = number(**place)
        if value is not None:
            result = value if isinstance(value, dict) else {"x": value}
            runs.append(StudyRun(f"r{len(runs)}", "runs", "transfer", place, {}, "done", result))
    for task, seed in itertools.product(grid["task"], grid["seed"]):
        place = {"method": "Full", "task": task, "seed": seed}
        runs.append(StudyRun(f"r{len(runs)}", "dense", "transfer", place, {}, "done", {"x": 0.8 + 0.001 * seed}))
    return judge_claim(load_study(body), "c", runs)


BETTER = {"better": {"axis": "method", "first": "A", "second": "B"}}
NOISE = {0: 0.001, 1: -0.002, 2: 0.001}


def apart(gap, **by_task):
    """Scores of which A is above B by a gap, with a little noise of the seeds."""

    def number(method, task, seed, **_):
        return 0.5 + (by_task.get(task, gap) + NOISE[seed] if method == "A" else 0.0)

    return number


def test_one_run_of_each_cell_is_inconclusive_and_the_missing_runs_are_counted():
    verdict = judged_on(lambda method, **_: 0.9 if method == "A" else 0.1, BETTER, seed=[0])
    assert (verdict.word, verdict.finding.n, verdict.finding.effect) == ("inconclusive", 3, None)
    assert verdict.finding.missing_runs == 3 * 2 * 2
    assert verdict.reason.endswith("with at most 1 repetition; a verdict needs 3 of each: 12 runs are missing.")


def test_no_runs_are_missing_where_the_pairs_have_no_repetitions():
    verdict = judged_on(lambda method, **_: 0.9 if method == "A" else 0.1, BETTER | {"pair_by": ["task"]})
    assert (verdict.word, verdict.finding.missing_runs) == ("inconclusive", 0)
    assert verdict.reason == "3 of 3 planned pairs are there, and none has repetitions for an interval."


def test_a_claim_about_all_tasks_needs_repetitions_of_each():
    def number(method, task, seed, **_):
        unfinished: dict[str, float] = {}
        return unfinished if task != "rte" and seed > most else apart(0.05)(method, task, seed)

    for most, words in ((-1, "0 to 3 repetitions of a task"), (1, "2 to 3 repetitions of a task")):
        verdict = judged_on(number, BETTER)
        assert verdict.word == "inconclusive"
        assert words in verdict.reason
        assert verdict.finding.missing_runs == 2 * 2 * (2 - most)
    most = 2
    assert judged_on(number, BETTER).word == "holds"


def test_a_group_with_one_mask_stands_beside_all_masks_of_the_other():
    def number(method, search_seed, seed, **_):
        if method == "A" and search_seed > 0:
            return None  # one-shot pruning draws nothing
        return 0.6 + 0.001 * seed if method == "A" else 0.5 + 0.02 * search_seed + 0.001 * seed

    claim = BETTER | {"pair_by": ["task", "search_seed", "seed"]}
    finding = judged_on(number, claim, search_seed=[0, 1, 2]).finding
    assert (finding.n, finding.effect.levels) == (27, {"task": 3, "search_seed": 3, "seed": 3})
    half = 4.302652730 * 0.02 / 3**0.5  # only the three masks differ
    assert finding.effect.interval == pytest.approx((0.08 - half, 0.08 + half))
    # One mask for all: the seeds are the only repetitions.
    single = judged_on(number, claim).finding
    assert single.effect.levels == {"task": 3, "search_seed": 1, "seed": 3}


def test_sparsities_are_conditions_and_no_sample():
    def number(method, seed, sparsity, **_):
        return 0.5 + ((0.1 if sparsity > 0.6 else 0.02) + NOISE[seed] if method == "A" else 0.0)

    finding = judged_on(number, BETTER, sparsity=[0.5, 0.7]).finding
    assert finding.effect.estimate == pytest.approx(0.06)
    assert finding.effect.interval[0] > 0.05, "what differs between sparsities is not chance"


def test_a_claim_on_each_task_names_them():
    claim = BETTER | {"each": "task"}
    verdict = judged_on(apart(0.05), claim)
    assert (verdict.word, list(verdict.parts)) == ("holds", ["rte", "mrpc", "stsb"])
    verdict = judged_on(apart(0.05, stsb=0.0), claim)
    assert verdict.word == "inconclusive"
    assert verdict.reason == "2 of 3 by task: holds for rte, mrpc; inconclusive for stsb."
    assert verdict.parts["stsb"].word == "inconclusive"
    verdict = judged_on(apart(0.05, mrpc=-0.05), claim)
    assert verdict.word == "contradicted"
    assert "contradicted for mrpc" in verdict.reason
    # On the wrong side, but not so clearly that it could not be one of three by chance.
    verdict = judged_on(apart(0.05, mrpc=-0.005), claim)
    assert (verdict.word, verdict.parts["mrpc"].word) == ("inconclusive", "contradicted")
    assert verdict.reason.endswith("That 1 of 3 are contradicted may be chance.")


def scored(value, majority=0.5, metric="accuracy"):
    """A result of a transfer with a score."""
    metrics = {metric: {"final": {"values": [value]}}}
    return {"metrics": metrics, "primary_metric": metric, "seeds": [0], "majority": majority, "degenerate": False}


def test_tasks_that_no_group_learns_count_for_nothing_and_are_named():
    def number(method, task, seed, **_):
        if task == "rte":
            return scored(0.5 if method == "A" else 0.48)  # the majority class, and less
        return scored(0.6 + (0.05 + NOISE[seed] if method == "A" else 0.0))

    verdict = judged_on(number, BETTER | {"value": "score"})
    assert (verdict.word, verdict.finding.n, verdict.finding.degenerate) == ("holds", 6, ("rte",))
    assert verdict.finding.effect.estimate == pytest.approx(0.05)
    assert verdict.reason.endswith("Not above chance, so not counted: rte.")
    each = judged_on(number, BETTER | {"value": "score", "each": "task", "pair_by": ["task", "seed"]})
    assert each.word == "holds"
    assert each.reason == "2 of 2 by task: holds for mrpc, stsb. Not above chance, so not counted: rte."


def test_a_task_that_only_one_group_fails_counts():
    def number(method, seed, **_):
        return scored(0.4 + NOISE[seed] if method == "A" else 0.0, metric="matthews")

    assert judged_on(number, BETTER | {"value": "score"}).finding.n == 9
    none = judged_on(lambda **_: scored(0.0, metric="matthews"), BETTER | {"value": "score"})
    assert (none.word, none.finding.n) == ("inconclusive", 0)
    assert none.reason.startswith("Nothing is left to compare. Not above chance")


def test_one_answer_for_all_examples_is_at_chance_whatever_its_f1():
    def number(seed, **_):
        return scored(0.81 + NOISE[seed], metric="f1") | {"degenerate": True}

    verdict = judged_on(number, BETTER | {"value": "score"})
    assert verdict.finding.degenerate == ("rte", "mrpc", "stsb")


@pytest.mark.parametrize(("kept", "word"), [(0.95, "holds"), (0.85, "contradicted"), (0.9, "inconclusive")])
def test_a_share_of_the_full_model(kept, word):
    def number(method, task, seed, **_):
        return kept * (0.8 + 0.001 * seed) + NOISE[seed]

    ratio = {"second": {"stage": "dense", "value": "x"}, "above": 0.9}
    verdict = judged_on(number, {"ratio": ratio, "each": "method", "pair_by": ["method", "seed"]})
    assert (verdict.word, {part.word for part in verdict.parts.values()}) == (word, {word})
    assert verdict.parts["A"].effect.estimate == pytest.approx(kept, rel=2e-3)
    assert (
        "divided by x of dense. The claim holds if the 95 % interval lies above 0.90, for each method." in verdict.test
    )


@pytest.mark.parametrize(("gap", "word"), [(0.0, "holds"), (0.05, "contradicted"), (-0.05, "contradicted")])
def test_comparable_scores(gap, word):
    assert judged_on(apart(gap), {"equal": BETTER["better"], "margin": 0.01}).word == word


def test_deviations_are_compared_by_the_ratio_of_variances():
    def number(scale):
        spread = (-2, -1, 0, 1, 2)
        return lambda method, seed, **_: 0.5 + (1 if method == "A" else scale) * 0.001 * spread[seed]

    claim = {"steadier": BETTER["better"], "pair_by": ["task"]}
    tasks = ["rte", "mrpc", "stsb", "cola", "sst2"]
    verdict = judged_on(number(4), claim, task=tasks, seed=[0, 1, 2, 3, 4])
    assert (verdict.word, verdict.finding.n) == ("holds", 5)
    assert verdict.finding.effect.estimate == pytest.approx(1 / 16)
    assert judged_on(number(1), claim, task=tasks, seed=[0, 1, 2, 3, 4]).word == "inconclusive"
    assert judged_on(number(0.2), claim, task=tasks, seed=[0, 1, 2, 3, 4]).word == "contradicted"
    few = judged_on(number(4), claim, seed=[0, 1])
    assert (few.word, few.finding.missing_runs) == ("inconclusive", 3 * 1 * 2)


def curve(steps, height):
    """Scores along some steps for each method; None at other steps."""

    def number(method, step, seed, **_):
        return height[method](step) + NOISE[seed] * (method == "A") if step in steps[method] else None

    return number


def test_a_pace_is_compared_at_equal_steps():
    """Equal curves that are measured at other steps are equal; their means over these steps are not."""
    steps = {"A": (100, 200, 400, 1600), "B": (300, 500, 900, 2000)}
    line = {"A": lambda step: step / 10_000, "B": lambda step: step / 10_000}
    every = sorted({*steps["A"], *steps["B"]})
    claim = {"better": {**BETTER["better"], "along": "step"}, "pair_by": ["task", "seed"]}
    found = judged_on(curve(steps, line), claim, step=every)
    assert found.word == "inconclusive"
    assert found.finding.effect.estimate == pytest.approx(0.0, abs=1e-9)
    faster = judged_on(curve(steps, line | {"A": lambda step: step / 10_000 + 0.02}), claim, step=every)
    assert (faster.word, faster.finding.n) == ("holds", 9)
    assert faster.finding.effect.estimate == pytest.approx(0.02)


def test_how_many_times_sooner_the_best_score_is_reached():
    steps = {"A": (100, 200, 300, 400), "B": (400, 800, 1600)}
    height = {"A": lambda step: step / 1000, "B": lambda step: step / 6400}
    claim = {"sooner": {**BETTER["better"], "along": "step"}, "pair_by": ["seed"], "published": 6.3}
    every = sorted({*steps["A"], *steps["B"]})
    verdict = judged_on(curve(steps, height), claim, step=every)
    assert verdict.word == "holds"
    assert verdict.finding.effect.estimate == pytest.approx(1600 / 250, rel=0.02)
    assert "The paper has 6.30, inside the interval." in verdict.reason
    never = judged_on(curve(steps, height | {"A": lambda step: 0.1}), claim, step=every)
    assert never.word == "holds", "at its last step it is four times sooner, which is all that is known"
    late = judged_on(curve({"A": (1600, 6400), "B": (400, 800)}, height), claim, step=[400, 800, 1600, 6400])
    assert late.word == "contradicted"


def test_curves_that_share_no_step_are_not_compared():
    steps = {"A": (100, 200), "B": (300, 500)}
    line = {"A": lambda step: step / 10_000, "B": lambda step: step / 10_000}
    claim = {"better": {**BETTER["better"], "along": "step"}, "pair_by": ["task", "seed"]}
    found = judged_on(curve(steps, line), claim, step=[100, 200, 300, 500])
    assert (found.word, found.finding.n) == ("inconclusive", 0)


MASKS = ["OMP", "IMP-0", "IMP-1", "IMP-2", "MLM-0", "MLM-1", "MLM-2"]


def similar(**_):
    """A matrix of similarities of masks: those of IMP and MLM are near 0.55."""
    kinds = [name.split("-")[0] for name in MASKS]
    near = {frozenset({"IMP", "MLM"}): 0.55, frozenset({"IMP"}): 0.8, frozenset({"OMP", "MLM"}): 0.7}
    rows = [
        [1.0 if i == j else near.get(frozenset({a, b}), 0.75) + 0.003 * (i * j % 3) for j, b in enumerate(kinds)]
        for i, a in enumerate(kinds)
    ]
    return {"labels": MASKS, "jaccard": rows}


def test_a_value_may_be_claimed_itself_and_be_part_of_a_matrix():
    claim = {"value": "jaccard.IMP*.MLM*", "lies": {"below": 0.6}, "pair_by": ["row", "column"], "published": 0.55}
    one = {"methods": ["A"], "task": ["rte"], "seed": [0]}
    verdict = judged_on(similar, claim, **one)
    assert (verdict.word, verdict.finding.n, verdict.finding.effect.levels) == ("holds", 9, {"row": 3, "column": 3})
    assert judged_on(similar, claim | {"lies": {"above": 0.7, "below": 0.8}}, **one).word == "contradicted"
    assert judged_on(similar, claim | {"lies": {"above": 0.5, "below": 0.6}}, **one).word == "holds"
    # A wildcard finds pairs of masks, and no mask with itself.
    alike = judged_on(similar, claim | {"value": "jaccard.IMP*.IMP*"}, **one)
    assert alike.finding.n == 6
    assert alike.finding.effect.estimate < 0.82


def test_two_parts_of_a_matrix_are_compared():
    claim = {
        "value": "jaccard.IMP*.MLM*",
        "lower_is_better": True,
        "better": {"second": {"stage": "runs", "value": "jaccard.OMP.MLM*"}},
        "pair_by": ["column"],
    }
    verdict = judged_on(similar, claim, methods=["A"], task=["rte"], seed=[0])
    assert (verdict.word, verdict.finding.n) == ("holds", 3)
    assert verdict.finding.effect.estimate == pytest.approx(0.15, abs=0.01)


def test_differences_of_differences():
    def number(method, task, seed, size, **_):
        return 0.5 + (0.1 if method == "A" and size == "few" else 0.02 if method == "A" else 0.0) + NOISE[seed]

    claim = {"minus": {"method": "B"}, "better": {"axis": "size", "first": "few", "second": "all"}}
    verdict = judged_on(number, claim, size=["few", "all"])
    assert (verdict.word, verdict.finding.n) == ("holds", 9)
    assert verdict.finding.effect.estimate == pytest.approx(0.08)
    gain = judged_on(number, {"minus": {"method": "B"}, "lies": {"above": 0}, "each": "size"}, size=["few", "all"])
    assert gain.word == "holds"
    assert gain.parts["few"].reason.startswith("Mean +0.100, 95 % interval")


def test_a_condition_may_ask_for_the_value_of_another_axis(tmp_path):
    same = {"stage": "runs", "value": "x", "where": [{"source": {"same": "task"}}], "name": "same task"}

    def number(source, task, seed, **_):
        return 0.5 + (0.1 if source == task else 0.08 if source == "MLM" else 0.0) + NOISE[seed]

    claim = {"not_worse": {"axis": "source", "first": "MLM", "second": same}, "pair_by": ["task", "seed"]}
    sources = ["rte", "mrpc", "stsb", "MLM"]
    verdict = judged_on(number, claim | {"margin": 0.03}, methods=["A"], source=sources)
    assert (verdict.word, verdict.finding.n) == ("holds", 9)
    assert verdict.finding.effect.estimate == pytest.approx(-0.02)
    assert all(title.endswith((": MLM", ": same task")) for title in verdict.cells)


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        ({"better": {"axis": "method", "second": "B"}}, "give axis and first together"),
        ({"better": {"second": "B"}}, "without an axis, second must be a value of a stage"),
        ({"sooner": BETTER["better"]}, "sooner needs along"),
        ({"lies": {}}, "give above, below or both"),
        ({"lies": {"above": 0.5, "below": 0.5}}, "leave nothing"),
        (BETTER | {"each": "task", "average": ["task"]}, "each names an axis that pairs the runs"),
    ],
)
def test_impossible_claims_are_told(claim, told):
    with pytest.raises(UsageError, match=told):
        judged_on(lambda **_: 0.5, claim)
