"""Write the intervals of these pages that no report has, from the numbers of runs beside them: python intervals.py."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from winning_tickets.report.correlations import correlate, correlate_within
from winning_tickets.report.effects import Effect, clustered_correlation, crossed_effect

HERE = Path(__file__).parent
MAIN = {"mnli": "accuracy_matched", "sst2": "accuracy", "mrpc": "accuracy", "stsb": "pearson"}
METRICS = {**MAIN, "cola": "matthews"}

ABOVE_CHANCE = ("cola", "mrpc", "stsb")
"""Tasks at base size that count; on RTE no ticket is better than one answer for all examples."""

Runs = dict[tuple[str, str], float]  # scores by task and seed
Scores = dict[tuple[str, str], Runs]  # by method and setting


def _rows(report: str) -> list[dict[str, str]]:
    path = HERE / report
    with (path if path.suffix else path / "runs.csv").open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def fine_tuned(report: str, sparsity: str = "0.7") -> Scores:
    """Return the scores of a report of tickets_win; the seed of the ticket is that of its fine-tuning."""
    found: Scores = defaultdict(dict)
    for row in _rows(report):
        if row["value"] == f"metrics.{METRICS.get(row['task'])}.final.mean" and row["sparsity"] in ("", sparsity):
            method = {"dense": "Full", "transfer": row["method"]}.get(row["stage"])
            if method:
                seed = row["search_seed"] or row["seed"]
                found[method, row["fine_tuning"]][row["task"], seed] = float(row["number"])
    return found


def constant_scores(report: str, scores: Runs) -> Runs:
    """Return the score of the best single answer for all examples: the most frequent class, or no correlation."""
    rows = _rows(report)
    shares = {row["task"]: float(row["number"]) for row in rows if row["value"] == "majority" and row["number"]}
    return {key: shares[key[0]] if METRICS[key[0]].startswith("accuracy") else 0.0 for key in scores}


def shared(report: str) -> Scores:
    """Return the scores of a report of docs/results/sharing by method and rate."""
    found: Scores = defaultdict(dict)
    for row in _rows(report):
        for task, metric in MAIN.items():
            of_all = row["value"] == f"tasks.{task}.metrics.{metric}.final.mean"
            alone = row["stage"] == "single" and row["task"] == task and row["value"] == f"metrics.{metric}.final.mean"
            if of_all or alone:
                found[row["method"], row["rate"]][task, row["seed"]] = float(row["number"])
    return found


def numbers_by(axis: str, report: str, stage: str, seed: str, value: str | None = None) -> dict[str, Runs]:
    """Return a number of the runs of a stage by one of its axes; by default the main metric of their tasks."""
    found: dict[str, Runs] = defaultdict(dict)
    for row in _rows(report):
        if row["stage"] == stage and row["value"] == (value or f"metrics.{METRICS[row['task']]}.final.mean"):
            found[row[axis]][row["task"], row[seed]] = float(row["number"])
    return found


def on(tasks: Collection[str], scores: Runs) -> Runs:
    """Return the scores of some tasks."""
    return {(task, seed): score for (task, seed), score in scores.items() if task in tasks}


def share(first: Runs, second: Runs, tasks: Collection[str]) -> Effect:
    """Return the share of the dense mean: 1 plus the mean difference divided by it; tasks and seeds are samples."""
    dense = on(tasks, second)
    mean = fmean(dense.values())
    return difference(on(tasks, first), dense, tasks_vary=True).on_scale(lambda change: 1 + change / mean)


def difference(first: Runs, second: Runs, tasks_vary: bool) -> Effect:
    """Return the mean difference, with the seeds as a sample, and the tasks too if they vary."""
    pairs = sorted(first.keys() & second.keys())
    if tasks_vary:
        factors: dict[str, list[str]] = {"task": [task for task, _ in pairs], "seed": [seed for _, seed in pairs]}
        return crossed_effect([first[pair] - second[pair] for pair in pairs], factors, ends=[0.0])
    seeds = sorted({seed for _, seed in pairs})
    return crossed_effect(
        [fmean(first[pair] - second[pair] for pair in pairs if pair[1] == seed) for seed in seeds],
        {"seed": seeds},
        ends=[0.0],
    )


def goes_with(loss: str, report: str, fine_tuning: str, tasks: Collection[str] = tuple(METRICS)) -> dict[str, Any]:
    """Return the correlation of a loss of the tickets of a report and their mean scores; magnitude is one ticket."""
    losses: dict[tuple[str, str], list[float]] = defaultdict(list)
    means: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in _rows(report):
        ticket = (row["method"], "" if row["method"] == "OMP" else row["search_seed"])
        if row["stage"] == "losses" and row["value"] == loss and row["sparsity"] == "0.7":
            losses[ticket].append(float(row["number"]))
    for (method, setting), found in fine_tuned(report).items():
        if setting == fine_tuning and method != "Full":
            for (_, seed), score in on(tasks, found).items():
                means[method, "" if method == "OMP" else seed].append(score)
    tickets = sorted(losses.keys() & means.keys())
    xs, ys = ([fmean(found[ticket]) for ticket in tickets] for found in (losses, means))
    return correlated(xs, ys, [method for method, _ in tickets])


def goes_with_of_ideas(loss: str) -> dict[str, Any]:
    """Return the same correlation for the tickets of docs/results/settings, the means of two tasks."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    methods: dict[tuple[str, str], str] = {}
    for row in _rows("settings/raw/searches.csv"):
        ticket = (row["idea"], row["search_seed"])
        if row["verb"] == "search":  # the id of a search begins with its method
            methods[ticket] = re.split(r"-(?=0\.|s\d)", row["run"])[0]
        elif row["stage"] == "losses" and row["value"] == loss:
            found[ticket][loss].append(float(row["number"]))
        elif row["stage"] == "searched" and row["value"] == f"metrics.{METRICS[row['task']]}.final.mean":
            found[ticket][row["task"]].append(float(row["number"]))
    tickets = [ticket for ticket, own in found.items() if {loss, "sst2", "stsb"} <= own.keys()]
    xs = [fmean(found[ticket][loss]) for ticket in tickets]
    ys = [fmean(fmean(found[ticket][task]) for task in ("sst2", "stsb")) for ticket in tickets]
    return correlated(xs, ys, [methods[ticket] for ticket in tickets])


def correlated(xs: Sequence[float], ys: Sequence[float], methods: Sequence[str]) -> dict[str, Any]:
    """Return Pearson's r with its interval, in which methods are the sample, and r within methods."""
    effect, within = clustered_correlation(xs, ys, methods), correlate_within(xs, ys, methods)
    return {
        "estimate": correlate(xs, ys)["pearson"],
        "tickets": len(xs),
        "methods": len(set(methods)),
        "interval": None if effect is None else effect.interval,  # None with fewer than five methods
        "p": None if effect is None else effect.p,
        "within_methods": within["pearson"],
        "tickets_within_methods": within["n"],
    }


def read(path: str) -> Any:
    """Return the content of a JSON file of these pages."""
    return json.loads((HERE / path).read_text(encoding="utf-8"))


def perplexities(method: str, sparsity: str = "0.7") -> Runs:
    """Return the perplexities of decoders of a method by seed; a ticket without a seed counts for each of them."""
    folder, scores = HERE / "decoders/raw/study", {}
    for seed in ("0", "1", "2"):
        path = folder / f"{method}-seed{seed}.json"
        found = json.loads((path if path.exists() else folder / f"{method}.json").read_text(encoding="utf-8"))
        scores["wikipedia", seed] = found["tickets"][sparsity]["perplexity"]
    return scores


def made_small(task: str, runs: str) -> tuple[Runs, Runs]:
    """Return the accuracy of small and dense fine-tuned models of docs/results/shrink by seed."""
    small, dense = {}, {}
    for seed in "012":
        result = read(f"shrink/raw/fine-tuned-{task}-{seed}{runs}.json")
        small[task, seed] = result["models"][0]["quality"]["accuracy"]
        dense[task, seed] = result["dense"]["quality"]["accuracy"]
    return small, dense


def of_minilm(group: str) -> Runs:
    """Return the scores of tickets of docs/results/transfer by task and seed."""
    found = {}
    for name, run in read("transfer/raw/fine_tuning.json").items():
        task, _, seed = name.partition("-")[0], *name.rpartition("-s")[1:]
        if name == f"{task}-{group}-s{seed}":
            found[task, seed] = run["metrics"][METRICS[task]]["final"]["values"][0]
    return found


def super_tickets(tasks: Collection[str]) -> Runs:
    """Return the super ticket minus the full model on the half of the dev set that chose nothing, by task and seed."""
    found = {}
    for task in tasks:
        for seed in "012":
            result = read(f"super_tickets/raw/study-{task}-s{seed}.json")
            found[task, seed] = result["super_ticket"]["rest"]["mean"] - result["full"]["rest"]["mean"]
    return found


def kept_over_seeds(first: Runs, second: Runs) -> Effect:
    """Return the ratio of the means of the tasks, with the seeds alone as a sample: that of the claims of a study."""
    seeds = sorted({seed for _, seed in first})
    means = [
        [fmean(score for (_, own), score in one.items() if own == seed) for seed in seeds] for one in (first, second)
    ]
    logs = [math.log(mine / other) for mine, other in zip(*means, strict=True)]
    return crossed_effect(logs, {"seed": seeds}, ends=[0.0]).on_scale(math.exp)


BEST = "without dropout"
SAMPLES = "tasks and seeds as samples"
FIVE, HIGHER = "tickets_win/five_tasks", "tickets_win/five_tasks_higher_rate"

Found = dict[str, Effect | None]


def all_five(method: str, sparsity: str = "0.7") -> dict[str, Runs]:
    """Return the scores of a method on the five tasks with the rates of the dense model and with 2e-4."""
    return {
        "rates of the dense model": fine_tuned(FIVE, sparsity)[method, BEST],
        "rate 2e-4": fine_tuned(HIGHER, sparsity)[method, BEST],
    }


def of_five_tasks() -> Found:
    """Return differences and shares of the five tasks at both rates."""
    dense = fine_tuned(FIVE)["Full", BEST]
    found: Found = {
        "five tasks: one answer for all examples, share of the dense mean": share(
            constant_scores(FIVE, dense), dense, METRICS
        )
    }
    for first, second in (("TAMT-KD", "IMP"), ("TAMT-KD", "OMP"), ("IMP", "OMP")):
        for rates, scores in all_five(first).items():
            name = f"five tasks, {rates}: {first} minus {second}, {SAMPLES}"
            found[name] = difference(scores, all_five(second)[rates], tasks_vary=True)
    for method, sparsity in (("TAMT-KD", "0.7"), ("IMP", "0.7"), ("OMP", "0.7"), ("TAMT-KD", "0.6")):
        for rates, scores in all_five(method, sparsity).items():
            name = f"five tasks, {rates}: {method} at {float(sparsity):.0%}, share of the dense mean"
            found[f"{name}, {SAMPLES}"] = share(scores, dense, METRICS)
            found[f"{name}, seeds as samples"] = kept_over_seeds(scores, dense)
    return found


def of_two_tasks() -> Found:
    """Return what all methods have on MNLI and CoLA with rate 2e-4."""
    models = {method: scores for (method, setting), scores in fine_tuned(HIGHER).items() if setting == BEST}
    both, found = ("mnli", "cola"), {}
    pairs = [("TAMT-KD", method) for method in sorted(models.keys() - {"Full", "TAMT-KD"})]
    for first, second in [*pairs, ("TAMT-MLM", "IMP"), ("TAMT-MLM", "OMP"), ("IMP", "released IMP")]:
        name = f"MNLI and CoLA, rate 2e-4: {first} minus {second}"
        mine, other = on(both, models[first]), on(both, models[second])
        found[f"{name}, {SAMPLES}"] = difference(mine, other, tasks_vary=True)
        for task in both:
            found[f"{name}, {task}"] = difference(on([task], mine), on([task], other), tasks_vary=False)
    return found


def of_other_encoders() -> Found:
    """Return what the encoders of 10,000 and of 1,000 steps have."""
    long, short = fine_tuned("tickets_win/report"), fine_tuned("tickets_win/long_trainings")
    name, dense = "encoder of 10,000 steps", long["Full", BEST]
    found: Found = {
        f"{name}: TAMT-KD minus OMP, {SAMPLES}": difference(long["TAMT-KD", BEST], long["OMP", BEST], tasks_vary=True),
        f"{name}: TAMT-KD, share of the dense mean, {SAMPLES}": share(long["TAMT-KD", BEST], dense, MAIN),
        f"{name}: OMP, share of the dense mean, {SAMPLES}": share(long["OMP", BEST], dense, MAIN),
    }
    name = "encoder of 1,000 steps: TAMT-KD minus IMP"
    found[f"{name}, {SAMPLES}"] = difference(short["TAMT-KD", BEST], short["IMP", BEST], tasks_vary=True)
    return found


def of_other_pages() -> Found:
    """Return what is said about decoders, settings, universal tickets, sharing, super tickets and small models."""
    ideas = numbers_by("idea", "settings/raw/full_length.csv", "searched", "search_seed")
    equal, found = ideas["one step to 70 %"], {}
    for idea in ("counts of global magnitude", "1000 steps", "1000 steps with rate 5e-5"):
        found[f"settings: {idea} minus 200 steps, {SAMPLES}"] = difference(ideas[idea], equal, tasks_vary=True)
    for first, second in (("kd", "magnitude"), ("clm", "imp")):
        name = f"decoders, perplexity at 70%: {first} minus {second}"
        found[name] = difference(perplexities(first), perplexities(second), tasks_vary=False)
    found |= universal("universal/three_tasks")
    for report, note in (("report", "bfloat16"), ("both_rates", "float32")):
        models = shared(f"sharing/{report}")
        for method, rate in sorted(models):
            if method == "Ticket-Share":
                pair, name = (models[method, rate], models["MT-DNN", rate]), f"sharing, {note}, {rate}"
                found[f"{name}: Ticket-Share minus MT-DNN, seeds as samples"] = difference(*pair, tasks_vary=False)
                found[f"{name}: Ticket-Share minus MT-DNN, {SAMPLES}"] = difference(*pair, tasks_vary=True)
    pair = of_minilm("tuned-70"), of_minilm("magnitude-70")
    found[f"MiniLM, three tasks: TAMT-KD minus OMP, {SAMPLES}"] = difference(*pair, tasks_vary=True)
    none = dict.fromkeys(super_tickets(MAIN), 0.0)
    found[f"super tickets minus the full model, {SAMPLES}"] = difference(super_tickets(MAIN), none, tasks_vary=True)
    for task in MAIN:
        found[f"super tickets minus the full model, {task}"] = difference(super_tickets([task]), none, tasks_vary=False)
    for task, runs in (("sst2", ""), ("mrpc", ""), ("mrpc", "-pairs")):
        name = f"shrink, fine-tuned on {task}{runs}: small minus dense"
        found[name] = difference(*made_small(task, runs), tasks_vary=False)
    return found


def universal(report: str) -> Found:
    """Return the differences of tickets of masked language modeling, of other tasks, and of the task itself."""
    scores = numbers_by("source", report, "targets", "seed")
    own = {(task, seed): scores[task][task, seed] for task, seed in scores["MLM"]}
    others = {
        (task, seed): fmean(scores[other][task, seed] for other in scores if other in METRICS and other != task)
        for task, seed in own
    }
    mlm = on(["mnli"], scores["MLM"]), on(["mnli"], own)
    return {
        "universal: MLM minus the task itself, mnli": difference(*mlm, tasks_vary=False),
        f"universal: the task itself minus other tasks, {SAMPLES}": difference(own, others, tasks_vary=True),
    }


def at_base_size() -> dict[tuple[str, str], tuple[str, float, Runs]]:
    """Return, by method and task, the rate of the fine-tuning, its mean on the selected half, the scores on the rest.

    The rate of a method on a task is that with the best mean of its seeds on the selected half, as `choose:` of a study
    has it. `IMP-KD` is the better one, there, of iterative pruning at two rates.
    """
    means: dict[tuple[str, str], dict[str, list[float]]] = {}
    rest: dict[tuple[str, str, str], Runs] = defaultdict(dict)
    for row in _rows("base/report") + _rows("base/report_cola_stsb"):
        main, arm = f"metrics.{(METRICS | {'rte': 'accuracy'}).get(row['task'])}", (row["method"], row["task"])
        if row["value"] == f"{main}.final_selection.mean":
            means.setdefault(arm, defaultdict(list))[row["learning_rate"]].append(float(row["number"]))
        elif row["value"] == f"{main}.final.mean":
            rest[*arm, row["learning_rate"]][row["task"], row["search_seed"]] = float(row["number"])
    found = {}
    for arm, rates in means.items():
        rate = max(rates, key=lambda one: fmean(rates[one]))
        found[arm] = (rate, fmean(rates[rate]), rest[*arm, rate])
    for task in sorted({task for _, task in found}):
        found["IMP-KD", task] = max(
            (found[f"IMP-KD {rate}", task] for rate in ("1e-4", "3e-4")), key=lambda one: one[1]
        )
    return found


def differences_at_base_size() -> Found:
    """Return the differences of mask training by KD and the other methods at the size of BERT-base."""
    arms, found = at_base_size(), {}
    for (method, task), (_, _, scores) in sorted(arms.items()):
        if method != "TAMT-KD":
            found[f"base, {task}: TAMT-KD minus {method}"] = difference(
                arms["TAMT-KD", task][2], scores, tasks_vary=False
            )
    for method in ("IMP-KD", "OMP", "Full"):
        all_of = [
            {key: score for task in ABOVE_CHANCE for key, score in arms[one, task][2].items()}
            for one in ("TAMT-KD", method)
        ]
        for words, vary in ((SAMPLES, True), ("seeds as samples", False)):
            found[f"base, three tasks: TAMT-KD minus {method}, {words}"] = difference(*all_of, tasks_vary=vary)
    return found


def correlations() -> dict[str, Any]:
    """Return the correlations of losses before fine-tuning and mean scores after it."""
    found = {}
    for loss in ("kd_loss", "mlm_loss"):
        name = f"correlation of {loss} and the mean"
        found[f"MNLI and CoLA, rate 2e-4: {name}"] = goes_with(loss, HIGHER, BEST, ("mnli", "cola"))
        found[f"short trainings, SST-2 and STS-B: {name}"] = goes_with(loss, "tickets_win/all_methods", BEST)
        found[f"settings, searches, SST-2 and STS-B: {name}"] = goes_with_of_ideas(loss)
    return found


def all_intervals() -> dict[str, Any]:
    """Return the content of intervals.json."""
    found = of_five_tasks() | of_two_tasks() | of_other_encoders() | of_other_pages() | differences_at_base_size()
    written: dict[str, Any] = {
        name: None
        if effect is None
        else {"estimate": effect.estimate, "interval": effect.interval, "p": effect.p, "needed": effect.needed}
        for name, effect in found.items()
    }
    return written | correlations()


def main() -> None:
    """Write intervals.json."""
    (HERE / "intervals.json").write_text(json.dumps(all_intervals(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
