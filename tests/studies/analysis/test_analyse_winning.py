"""Winning tickets over stored runs: verdicts by hand, groups, highest sparsities, held-out seeds, flags, refusals."""

import json

import pytest

from samples.analyse_samples import transfer_run as run
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.studies.analysis.report.views import analysis_table

winning = ANALYSES["winning"]
KD, MLM = ({"method": "mask-training", "search": {"objective": objective}} for objective in ("kd", "mlm"))


@pytest.fixture
def dense(tmp_path):
    """0.70 with a deviation of 0.01."""
    return run(tmp_path / "dense", "rte", {0: 0.69, 1: 0.70, 2: 0.71}, ticket=None, sparsity=0.0)


@pytest.fixture
def grid(tmp_path):
    """Of kd 0.5 and 0.7 exceed and 0.6 is within a deviation, 0.8 lies below; of mlm 0.5 lies below."""
    scores = {0.5: (0.70, 0.72, 0.71), 0.6: (0.68, 0.71, 0.69), 0.7: (0.70, 0.70, 0.70), 0.8: (0.6, 0.6, 0.6)}
    found = [
        run(tmp_path / f"kd-{s}", "rte", dict(enumerate(v)), ticket=f"kd{s}", sparsity=s - 1e-5, search_seed=0, **KD)
        for s, v in scores.items()
    ]
    return [*found, run(tmp_path / "mlm", "rte", {0: 0.6, 1: 0.7, 2: 0.6}, ticket="m", sparsity=0.5, **MLM)]


def verdicts(result, group="mask-training kd"):
    return {cell["sparsity"]: cell["wins"] for cell in result["cells"] if cell["group"] == group}


def highest(result, group="mask-training kd"):
    (one,) = (one for one in result["highest"] if one["group"] == group)
    return one["highest"], one["unbroken"]


def test_verdicts_and_highest_sparsities(grid, dense):
    exceeds = winning(grid, [dense])
    assert verdicts(exceeds) == {0.5: True, 0.6: False, 0.7: True, 0.8: False}
    assert highest(exceeds) == (0.7, 0.5)
    assert highest(exceeds, "mask-training mlm") == (None, None)
    within = winning(grid, [dense], criterion="within-std")
    assert verdicts(within) == {0.5: True, 0.6: True, 0.7: True, 0.8: False}
    assert highest(within) == (0.7, 0.7)
    # The deviation of the mlm ticket, 0.0577, brings it within reach of its own mean 0.6333; that of 0.8 is zero.
    own = winning(grid, [dense], criterion="within-std", std_of="subnetwork")
    assert verdicts(own, "mask-training mlm") == {0.5: False}
    assert highest(winning(grid, [dense], statistic="best")) == (0.6, 0.6)


def test_every_number_of_a_cell(grid, dense):
    result = winning(grid, [dense], criterion="within-std")
    (cell,) = (cell for cell in result["cells"] if cell["sparsity"] == 0.6)
    assert (cell["task"], cell["tickets"], cell["n"], cell["n_full"], cell["seeds"]) == (
        "rte",
        ["kd0.6"],
        3,
        3,
        [0, 1, 2],
    )
    assert cell["exact_sparsity"] == [0.6 - 1e-5]
    assert cell["mean"] == cell["value"] == pytest.approx(2.08 / 3)
    assert (cell["median"], cell["best"]) == (0.69, 0.71)
    assert cell["std"] == pytest.approx(((0.0133333**2 + 0.0166667**2 + 0.0033333**2) / 2) ** 0.5, abs=1e-6)
    assert cell["threshold"] == pytest.approx(0.69)
    (task,) = result["tasks"]
    assert (task["metric"], task["degenerate"], task["majority"]) == ("accuracy", [], None)
    assert task["dense"]["mean"] == pytest.approx(0.7)
    assert task["dense"]["std"] == pytest.approx(0.01)
    assert result["groups"][0] == {
        "group": "mask-training kd", "method": "mask-training", "objective": "kd", "search": {"objective": "kd"},
        "start_from": "pretrained",
    }  # fmt: skip
    assert result["different_settings"] == []


def test_non_inferiority_pairs_by_seed(tmp_path, dense):
    """Every seed is 0.005 worse than the dense model with the same one; unpaired, nothing could be said."""
    close = run(tmp_path / "a", "rte", {2: 0.705, 0: 0.685, 1: 0.695, 5: 0.1})
    result = winning([close], [dense], criterion="non-inferior")
    (cell,) = result["cells"]
    assert cell["wins"] is True
    assert cell["value"] == pytest.approx(-0.005)
    assert (cell["n"], cell["n_judged"], cell["unpaired_seeds"]) == (4, 3, [5])
    assert not winning([close], [dense], criterion="non-inferior", margin=0.004)["cells"][0]["wins"]
    text = analysis_table(result).text()
    assert "surely less than 1 points worse" in text
    assert "Seeds that the dense model lacks were skipped: 5 on rte." in text


def test_one_seed_gives_no_verdict_where_a_deviation_is_needed(tmp_path, dense):
    single = run(tmp_path / "a", "rte", {0: 0.99})
    for how in ({"criterion": "within-std", "std_of": "max"}, {"criterion": "non-inferior"}):
        result = winning([single], [dense], **how)
        assert verdicts(result, "tickets") == {0.6: None}
        assert (highest(result, "tickets"), result["highest"][0]["undecided"]) == ((None, None), [0.6])
        assert "No verdict (?) for 1 of 1 tickets, which counts as not won: " in analysis_table(result).text()
    result = winning([single], [dense])
    assert verdicts(result, "tickets") == {0.6: True}
    assert "The verdict on 1 of 1 tickets rests on a single run." in analysis_table(result).text()


def test_a_sparsity_is_chosen_on_some_seeds_and_reported_on_others(tmp_path):
    """On seeds 0 and 1 the ticket of 70 % wins by luck; the other seeds tell."""
    seeds = dict.fromkeys(range(5), 0.70)
    dense = run(tmp_path / "dense", "rte", seeds, ticket=None, sparsity=0.0)
    lucky = run(tmp_path / "a", "rte", {0: 0.72, 1: 0.70, 2: 0.6, 3: 0.62, 4: 0.61}, ticket="a", sparsity=0.7)
    solid = run(tmp_path / "b", "rte", seeds, ticket="b", sparsity=0.6)
    result = winning([lucky, solid], [dense], select_seeds=[0, 1], report_seeds=[2, 3, 4])
    (one,) = result["highest"]
    assert one["highest"] == 0.7
    assert one["reported"]["wins"] is False
    assert one["reported"]["mean"] == pytest.approx(0.61)
    assert one["reported"]["seeds"] == [2, 3, 4]
    assert one["reported"]["dense"]["n"] == 3
    assert winning([lucky, solid], [dense])["highest"][0]["highest"] == 0.6
    text = analysis_table(result).text()
    assert "Verdicts and highest sparsities are of seeds 0, 1; the other seeds are 2, 3, 4." in text
    columns = ("Other seeds", "± (other)", "Wins there")
    head, _, line = ([cell.strip() for cell in line.split("|")] for line in text.splitlines()[:3])
    assert [line[head.index(name)] for name in columns] == ["61.0", "1.0", "no"]
    text = analysis_table(winning([lucky], [dense])).text()
    assert "is selected and reported on the same seeds, so its score is biased upwards" in text
    with pytest.raises(ContentError, match="tickets at 70 % lacks seed 9 on rte; run it, or choose other seeds"):
        winning([lucky], [dense], select_seeds=[0, 9], report_seeds=[2])
    with pytest.raises(UsageError, match="--select-seeds and --report-seeds go together"):
        winning([lucky], [dense], select_seeds=[0])
    with pytest.raises(UsageError, match="Seeds 1, 2 are among both --select-seeds and --report-seeds"):
        winning([lucky], [dense], select_seeds=[0, 1, 2], report_seeds=[1, 2, 3])


def test_degenerate_tasks_and_constant_predictions_are_flagged(tmp_path):
    """WNLI: the full model does not beat the 40 of 71 sentences of the most frequent class, and everything wins."""
    dense = run(tmp_path / "d", "wnli", {0: 40 / 71, 1: 40 / 71}, ticket=None, sparsity=0.0, majority=40 / 71)
    ticket = run(tmp_path / "a", "wnli", {0: 40 / 71, 1: 40 / 71}, sparsity=0.9, degenerate=True, majority=40 / 71)
    result = winning([ticket], [dense])
    assert result["tasks"][0]["degenerate"] == ["majority"]
    assert result["cells"][0]["constant"]
    assert highest(result, "tickets") == (0.9, 0.9)
    text = analysis_table(result).text()
    assert "Results on wnli are not informative: the full model does not beat the most frequent class." in text
    assert "yes*" in text
    better = run(tmp_path / "e", "wnli", {0: 40 / 71, 1: 41 / 71}, ticket=None, sparsity=0.0, majority=40 / 71)
    assert winning([ticket], [better])["tasks"][0]["degenerate"] == []
    constant = run(tmp_path / "f", "wnli", {0: 0.8}, ticket=None, sparsity=0.0, majority=0.5, degenerate=True)
    assert winning([ticket], [constant])["tasks"][0]["degenerate"] == ["constant"]


def test_the_majority_counts_for_accuracies_only(tmp_path):
    """CoLA: a Matthews correlation of 0.6 is below the accuracy 0.69 of the most frequent class, and fine."""
    own = {"metric": "matthews", "majority": 0.69}
    dense = run(tmp_path / "d", "cola", {0: 0.6, 1: 0.6}, ticket=None, sparsity=0.0, **own)
    result = winning([run(tmp_path / "a", "cola", {0: 0.6, 1: 0.6}, **own)], [dense])
    assert (result["tasks"][0]["degenerate"], result["tasks"][0]["majority"]) == ([], None)


def test_groups_are_told_apart_by_what_differs(tmp_path, dense):
    def imp(name, **search):
        more = {"method": "imp", "search": {"objective": "task", "tasks": ["mrpc", "rte"], "round_steps": 9} | search}
        return run(tmp_path / name, "rte", {0: 0.7, 1: 0.7}, ticket=name, **more)

    runs = [
        imp("a", rewind="none"),
        imp("b"),
        run(tmp_path / "c", "rte", {0: 0.7}, ticket="c", method="random", search={}),
    ]
    result = winning(runs, [dense])
    assert [one["group"] for one in result["groups"]] == [
        "imp task:mrpc,rte (rewind=none)",
        "imp task:mrpc,rte",
        "random",
    ]
    assert result["groups"][0]["objective"] == "task:mrpc,rte"
    states = [
        run(
            tmp_path / f"s{s}",
            "rte",
            {0: 0.7},
            ticket=f"s{s}",
            sparsity=s,
            method="imp",
            search={},
            start_from=f"{s}/state",
        )
        for s in (0.5, 0.6)
    ]
    result = winning([*states, imp("e", rewind="none")], [dense])
    assert [one["group"] for one in result["groups"]] == ["imp", "imp task:mrpc,rte"]
    assert [cell["sparsity"] for cell in result["cells"]] == [0.5, 0.6, 0.6]
    moved = run(tmp_path / "d", "rte", {0: 0.7}, ticket="c", method="random", search={}, start_from="reinit")
    result = winning([runs[2], moved], [dense])
    assert [one["group"] for one in result["groups"]] == ["random", "random (start_from=reinit)"]


def test_tickets_of_other_search_seeds_are_one_point(tmp_path, dense):
    """Nine runs: three searches, three seeds each; searches and seeds are samples, and here only searches differ."""
    runs = [
        run(
            tmp_path / str(s),
            "rte",
            {k: 0.6 + 0.01 * k + 0.03 * s for k in range(3)},
            ticket=f"t{s}",
            search_seed=s,
            **KD,
        )
        for s in range(3)
    ]
    (cell,) = winning(runs, [dense])["cells"]
    assert (cell["n"], cell["tickets"]) == (9, ["t0", "t1", "t2"])
    assert cell["mean"] == pytest.approx(0.64)
    (cell,) = winning(runs, [dense], criterion="non-inferior", margin=0.12)["cells"]
    assert (cell["n"], cell["n_judged"], cell["wins"]) == (9, 9, True)
    assert cell["value"] == pytest.approx(-0.06 - 2.919986 * 0.03 / 3**0.5)  # the searches are 0.09, 0.06, 0.03 worse
    assert (cell["difference"], cell["levels"]) == (pytest.approx(-0.06), {"search_seed": 3, "seed": 3})
    with pytest.raises(
        ContentError, match=r"The runs of mask-training kd at 60 % hold rte with seed 0 twice: .*Give each run once"
    ):
        winning([*runs, run(tmp_path / "x", "rte", {0: 0.7}, ticket="x", search_seed=2, **KD)], [dense])


def test_tickets_of_one_level_are_one_point_though_their_sparsities_differ(tmp_path, dense):
    """Units overlap: which heads lie in pruned layers depends on the seed of the search."""
    own = {"method": "importance", "search": {"selection": "random"}}
    runs = [
        run(
            tmp_path / f"{level}-{s}", "rte", {s: score}, ticket=f"{level}-{s}", sparsity=sparsity, search_seed=s,
            asked={"level": [level]}, **own,
        )
        for level, sparsities in ((50.0, (0.62, 0.74, 0.77)), (75.0, (0.74, 0.88, 0.9)))
        for s, (sparsity, score) in enumerate(zip(sparsities, (0.7, 0.71, 0.72), strict=True))
    ]  # fmt: skip
    cells = winning(runs, [dense])["cells"]
    assert [(cell["sparsity"], cell["n"]) for cell in cells] == [(0.71, 3), (0.84, 3)]
    assert cells[0]["exact_sparsity"] == [0.62, 0.74, 0.77]


def test_another_metric_for_all(tmp_path):
    paths = {}
    for name, ticket, f1 in (("d", None, 0.8), ("a", "a", 0.9)):
        paths[name] = run(tmp_path / name, "mrpc", {0: 0.7, 1: 0.7}, ticket=ticket, sparsity=0.5 if ticket else 0.0)
        for seed in (0, 1):
            file = paths[name] / f"seed-{seed}" / "result.json"
            content = json.loads(file.read_text())
            content["final"]["f1"] = f1 + 0.1 * seed
            file.write_text(json.dumps(content))
    result = winning([paths["a"]], [paths["d"]], metric="f1")
    assert (result["tasks"][0]["metric"], result["cells"][0]["values"]) == ("f1", [0.9, 1.0])
    with pytest.raises(
        UsageError, match=r"Unknown metric 'matthews'\. Known: accuracy, f1\. .*result.json has no other"
    ):
        winning([paths["a"]], [paths["d"]], metric="matthews")


def test_settings_that_differ_are_said(tmp_path, dense):
    other = run(tmp_path / "a", "rte", {0: 0.7, 1: 0.7}, steps=20, base_hash="another")
    result = winning([other], [dense])
    assert result["different_settings"] == [
        {"task": "rte", "setting": "steps", "values": {"dense": [10], "tickets": [20]}},
        {"task": "rte", "setting": "base_hash", "values": {"dense": ["h"], "tickets": ["another"]}},
    ]
    assert (
        "Not a fair comparison: the runs differ in steps on rte (dense 10, tickets 20); base_hash on rte (dense h, "
        "tickets another). Fine-tune all of them with the same --steps of tickets transfer and on the same data and "
        "weights." in analysis_table(result).text()
    )


def test_refusals(tmp_path, grid, dense):
    with pytest.raises(UsageError, match="No ticket run was given"):
        winning([], [dense])
    with pytest.raises(UsageError, match="No dense run was given"):
        winning(grid, [])
    with pytest.raises(
        ContentError, match=r"dense/seed-0/result.json is a run of the dense model; give it after --dense"
    ):
        winning([*grid, dense], [dense])
    with pytest.raises(ContentError, match="is a run of a ticket; take it out of --dense"):
        winning(grid, [dense, grid[0]])
    with pytest.raises(UsageError, match="There is no dense run of cola; fine-tune the base model on it"):
        winning([run(tmp_path / "c", "cola", {0: 0.1})], [dense])
    again = run(tmp_path / "again", "rte", {2: 0.7}, ticket=None, sparsity=0.0)
    with pytest.raises(ContentError, match="The dense runs hold rte with seed 2 twice"):
        winning(grid, [dense, again])
    for wrong, message in (
        ({"criterion": "exceed"}, "Unknown criterion 'exceed'. Did you mean 'exceeds'?"),
        ({"std_of": "ful"}, "Unknown standard deviation 'ful'. Did you mean 'full'?"),
        ({"statistic": "mode"}, "Unknown statistic 'mode'."),
        (
            {"criterion": "non-inferior", "statistic": "best"},
            "--statistic best cannot be used with --criterion non-inferior",
        ),
        ({"criterion": "non-inferior", "margin": -1}, "The margin -1 is impossible"),
    ):
        with pytest.raises(UsageError, match=message):
            winning(grid, [dense], **wrong)


def test_the_command_line(grid, dense, tickets, tmp_path):
    words = ["analyse", "winning", *grid, "--dense", dense, "--criterion", "within-std"]
    code, out, err = tickets(*words, "--json", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "out" / "analysis.json").read_text())
    tables = {f"{name}.{suffix}" for name in ("table", "grid", "cells") for suffix in ("md", "tex", "csv")}
    figures = {"figure.png", "figure.svg", "figure-dark.svg", "figure.pdf"}
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"analysis.json", "index.html", *tables, *figures}
    code, out, err = tickets(*words, "--std-of", "max", "--select-seeds", "0,1", "--report-seeds", "2")
    assert (code, err) == (0, "")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert lines[0][:7] == ["Task", "Metric", "Tickets", "Dense", "± (dense)", "Highest winning", "Unbroken"]
    assert lines[2][:7] == ["rte", "accuracy", "mask-training kd", "70.0", "1.0", "70.0", "70.0"]
    assert ["Task", "Tickets", "50 %", "60 %", "70 %", "80 %"] in lines
    assert ["rte", "mask-training kd", "yes", "yes", "yes", "no"] in lines
    for wrong, message in (
        ([*words, "--select-seeds", "a"], "--select-seeds 'a' is not a list of whole numbers"),
        (words[:-4], "Missing option '--dense'"),
        ([*words, "--std-of", "both"], "Unknown standard deviation 'both'."),
    ):
        code, out, err = tickets(*wrong)
        assert (code, out) == (2, ""), wrong
        assert message in err
