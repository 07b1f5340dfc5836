"""Write the intervals of these pages that no report has, from the numbers of runs beside them: python intervals.py."""

from __future__ import annotations

import csv
import json
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

Runs = dict[tuple[str, str], float]  # scores by task and seed
Scores = dict[tuple[str, str], Runs]  # by method and setting


def _rows(report: str) -> list[dict[str, str]]:
    with (HERE / report / "runs.csv").open(encoding="utf-8") as handle:
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


def adaptations() -> Scores:
    """Return the accuracies of docs/results/sharing after adaptation by method and share of the training set."""
    found: Scores = defaultdict(dict)
    for row in _rows("sharing/report"):
        if row["stage"] == "adapted" and row["value"] == "metrics.accuracy.final.mean":
            found[row["method"], row["train_size"]][row["task"], row["seed"]] = float(row["number"])
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
    """Return the same correlation for the tickets of docs/results/better_tickets, the means of two tasks."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    methods: dict[tuple[str, str], str] = {}
    for row in _rows("better_tickets/searches"):
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


def goes_with_in_studies(figure: str, sparsity: str | None) -> dict[str, Any]:
    """Return the same correlation for the tickets of a figure of docs/results/studies; best scores, two tasks."""
    with (HERE / "studies" / "tamt-figure-5" / f"{figure}.csv").open(encoding="utf-8") as handle:
        rows = [row for row in list(csv.reader(handle))[1:] if row[1] != "dense" and sparsity in (None, row[0])]
    xs, ys = ([float(row[4]) for row in rows[start::2]] for start in (0, 1))  # two rows for each ticket
    return correlated(xs, ys, [row[1] for row in rows[::2]])


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


def universal(report: str) -> dict[str, Effect | None]:
    """Return the differences of tickets of masked language modeling, of other tasks, and of the task itself."""
    scores = numbers_by("source", report, "targets", "seed")
    own = {(task, seed): scores[task][task, seed] for task, seed in scores["MLM"]}
    others = {
        (task, seed): fmean(scores[other][task, seed] for other in scores if other in METRICS and other != task)
        for task, seed in own
    }
    name = "universal, three tasks, tasks and seeds as samples:"
    return {
        f"{name} MLM minus the task itself": difference(scores["MLM"], own, tasks_vary=True),
        f"{name} the task itself minus other tasks": difference(own, others, tasks_vary=True),
    }


def main() -> None:
    """Write intervals.json."""
    best, long, short = "without dropout", fine_tuned("tickets_win/report"), fine_tuned("tickets_win/long_trainings")
    found: dict[str, Effect | None] = {}
    for method in ("TAMT-KD", "OMP"):
        for tasks in (set(MAIN), set(MAIN) - {"mnli"}):
            name = f"tickets_win: {method}, share of the dense mean of {len(tasks)} tasks, without dropout"
            found[name] = share(long[method, best], long["Full", best], tasks)
    found["tickets_win: TAMT-KD, share of the dense mean of 3 tasks, with dropout"] = share(
        long["TAMT-KD", "with dropout"], long["Full", "with dropout"], set(MAIN) - {"mnli"}
    )
    for method in ("TAMT-KD", "IMP"):
        name = f"tickets_win, encoder of 1,000 steps: {method}, share of the dense mean of SST-2 and STS-B"
        found[name] = share(short[method, best], short["Full", best], {"sst2", "stsb"})
    name = "tickets_win, encoder of 1,000 steps: TAMT-KD minus IMP"
    found[f"{name}, tasks and seeds as samples"] = difference(short["TAMT-KD", best], short["IMP", best], True)
    for task in MAIN:
        mine, other = (on([task], short[method, best]) for method in ("TAMT-KD", "IMP"))
        found[f"{name}, {task}"] = difference(mine, other, False)
    five, folder = fine_tuned("tickets_win/five_tasks"), "tickets_win/five_tasks_higher_rate"
    dense = five["Full", best]
    found["tickets_win, five tasks: one answer for all examples, share of the dense mean"] = share(
        constant_scores("tickets_win/five_tasks", dense), dense, METRICS
    )
    for sparsity in ("0.7", "0.6"):
        for (method, setting), scores in fine_tuned("tickets_win/five_tasks", sparsity).items():
            if method != "Full" and setting == best and len(scores) == len(dense):
                name = f"tickets_win, five tasks: {method} at {float(sparsity):.0%}, share of the dense mean"
                found[name] = share(scores, dense, METRICS)
                found[f"{name} without CoLA"] = share(scores, dense, MAIN)
        for (method, setting), scores in fine_tuned(folder, sparsity).items():
            if setting != best or len(scores) < len(dense):
                continue
            ticket = "dense" if method == "Full" else f"{method} at {float(sparsity):.0%}"
            name = f"tickets_win, five tasks, rate 2e-4: {ticket}"
            if method != "Full":
                found[f"{name}, share of the dense mean with its best rates"] = share(scores, dense, METRICS)
                found[f"{name}, the same without CoLA"] = share(scores, dense, set(MAIN))
            lower = fine_tuned("tickets_win/five_tasks", sparsity)[method, best]
            for task in ("mnli", "cola"):
                found[f"{name} minus rate 1e-4, {task}"] = difference(on([task], scores), on([task], lower), False)
    higher = fine_tuned(folder)
    both = on(("mnli", "cola"), higher["TAMT-KD", best])
    for method in sorted({method for method, _ in higher} - {"Full", "TAMT-KD"}):
        name = f"tickets_win, rate 2e-4: TAMT-KD minus {method}, MNLI and CoLA, tasks and seeds as samples"
        found[name] = difference(both, higher[method, best], tasks_vary=True)
    for method in ("IMP", "OMP"):
        name = f"tickets_win, rate 2e-4: TAMT-MLM minus {method}"
        for tasks, words in ((("mnli", "cola"), "MNLI and CoLA, tasks and seeds as samples"), (("mnli",), "mnli")):
            mine, other = (on(tasks, higher[one, best]) for one in ("TAMT-MLM", method))
            found[f"{name}, {words}"] = difference(mine, other, tasks_vary=True)
    half = {method: scores for (method, setting), scores in fine_tuned(folder, "0.5").items() if setting == best}
    for method in sorted(half.keys() - {"Full"}):
        name = f"tickets_win, rate 2e-4: {method} at 50%"
        for task in ("mnli", "cola"):
            mine = on([task], half[method])
            found[f"{name} minus the dense model with its best rates, {task}"] = difference(mine, dense, False)
            if method != "TAMT-KD":
                found[f"{name}: TAMT-KD minus this, {task}"] = difference(on([task], half["TAMT-KD"]), mine, False)
        found[f"{name}, share of the dense mean of MNLI and CoLA"] = share(half[method], dense, {"mnli", "cola"})
    correlations = {}
    for loss in ("kd_loss", "mlm_loss"):
        name = f"correlation of {loss} and the mean"
        correlations |= {
            f"tickets_win, with dropout: {name} of 3 tasks": goes_with(loss, "tickets_win/report", "with dropout"),
            f"tickets_win, five tasks: {name}": goes_with(loss, "tickets_win/five_tasks", best),
            f"tickets_win, rate 2e-4, all methods: {name} of MNLI and CoLA": goes_with(
                loss, folder, best, ("mnli", "cola")
            ),
            f"tickets_win, all methods: {name} of 2 tasks": goes_with(loss, "tickets_win/all_methods", best),
            f"better_tickets: {name} of 2 tasks": goes_with_of_ideas(loss),
        }
        figure = "figure-kd" if loss == "kd_loss" else "figure-mlm"
        correlations[f"studies: {name} of 2 tasks"] = goes_with_in_studies(figure, None)
        correlations[f"studies, 70%: {name} of 2 tasks"] = goes_with_in_studies(figure, "0.7")
    full_length = "better_tickets/full_length"
    ideas = numbers_by("idea", full_length, "searched", "search_seed")
    losses = numbers_by("idea", full_length, "losses", "search_seed", "kd_loss")
    equal = ideas["one step to 70 %"]
    for idea in ("counts of global magnitude", "1000 steps", "1000 steps with rate 5e-5"):
        name = f"better_tickets at full length: {idea}"
        for task in ("mrpc", "mnli", "cola"):
            found[f"{name}, {task}"] = difference(on([task], ideas[idea]), on([task], equal), False)
        found[f"{name}, tasks and seeds as samples"] = difference(ideas[idea], equal, tasks_vary=True)
    slow = "1000 steps with rate 5e-5"
    name = f"better_tickets at full length: {slow} minus"
    found[f"{name} rate 2e-4, tasks and seeds as samples"] = difference(ideas[slow], ideas["1000 steps"], True)
    found[f"{name} rate 2e-4, KD loss"] = difference(losses[slow], losses["1000 steps"], False)
    found[f"{name} 200 steps, KD loss"] = difference(losses[slow], losses["one step to 70 %"], False)
    found |= universal("universal/three_tasks")
    for report, note in (("report", ""), ("both_rates", ", float32")):
        models = shared(f"sharing/{report}")
        single = next(scores for (method, _), scores in models.items() if method == "ST-DNN")
        for method, rate in sorted(models):
            if method == "Ticket-Share":
                name, scores = f"sharing{note}, {rate}: Ticket-Share minus", models[method, rate]
                pairs = difference(scores, models["MT-DNN", rate], tasks_vary=True)
                found[f"{name} MT-DNN, tasks and seeds as samples"] = pairs
                if rate == "1e-4":
                    found[f"{name} single-task models"] = difference(scores, single, tasks_vary=False)
    adapted = adaptations()
    for size in ("1%", "10%", "100%"):
        for task in ("snli", "scitail"):
            mine, other = (on([task], adapted[method, size]) for method in ("Ticket-Share", "MT-DNN"))
            name = f"sharing, {size} of {task}: Ticket-Share minus MT-DNN"
            found[name] = difference(mine, other, tasks_vary=False)
    written: dict[str, Any] = {
        name: None
        if effect is None
        else {"estimate": effect.estimate, "interval": effect.interval, "p": effect.p, "needed": effect.needed}
        for name, effect in found.items()
    }
    written |= correlations
    (HERE / "intervals.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
