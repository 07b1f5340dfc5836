"""The tables of these pages, each a function of the raw numbers beside them; `tables.py` puts them into the pages."""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from statistics import fmean, stdev
from typing import Any

from intervals import (
    BEST,
    FIVE,
    HERE,
    HIGHER,
    MAIN,
    METRICS,
    Runs,
    at_base_size,
    constant_scores,
    difference,
    fine_tuned,
    made_small,
    numbers_by,
    on,
    read,
    share,
    shared,
)

from winning_tickets.data.tasks import task_title
from winning_tickets.report.effects import Effect

METHODS = {
    "TAMT-KD": "mask training, KD",
    "TAMT-MLM": "mask training, MLM",
    "TAMT-MLM+KD": "mask training, MLM + 30 KD",
    "IMP": "iterative pruning, MLM",
    "released IMP": "iterative pruning, released",
    "OMP": "magnitude",
    "Rand": "random",
}
SEEDS = ("0", "1", "2")
NONE = "–"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    first, *others = [f"| {' | '.join(line)} |\n" for line in (head, *rows)]
    return "".join([first, f"|{'---|' * len(head)}\n", *others])


def seeds_of(scores: Runs, task: str) -> str:
    """Return the scores of a task by seed, times 100."""
    values = [scores[task, seed] for seed in SEEDS if (task, seed) in scores]
    return ", ".join(f"{100 * value:.1f}" for value in values) or NONE


def mean_of(scores: Runs) -> str:
    """Return the mean of all tasks with its deviation over the seeds, times 100."""
    means = [fmean(score for (_, own), score in scores.items() if own == seed) for seed in SEEDS]
    return f"{100 * fmean(means):.1f} ± {100 * stdev(means):.1f}"


def shown(effect: Effect | None, scale: float = 100, places: int = 1, sign: str = "+") -> str:
    """Return an estimate with its interval, bold if zero lies outside."""
    if effect is None:
        return NONE
    low, high = effect.interval
    text = (
        f"{scale * effect.estimate:{sign}.{places}f} [{scale * low:{sign}.{places}f}, {scale * high:{sign}.{places}f}]"
    )
    return f"**{text}**" if sign == "+" and (low > 0 or high < 0) else text


def apart(first: Runs, second: Runs, tasks: Sequence[str] | None = None) -> str:
    """Return a difference: of one task over its seeds, of several with tasks and seeds as samples."""
    first = first if tasks is None else on(tasks, first)
    pairs = first.keys() & second.keys()
    if not pairs:
        return NONE
    return shown(difference(first, second, tasks_vary=len({task for task, _ in pairs}) > 1))


def five_scores() -> str:
    """Scores of the five tasks; MNLI and CoLA with both rates."""
    low, high = fine_tuned(FIVE), fine_tuned(HIGHER)
    low6, high6 = fine_tuned(FIVE, "0.6"), fine_tuned(HIGHER, "0.6")
    rows = [("dense", low["Full", BEST], high["Full", BEST])]
    rows += [(f"{METHODS[one]}, 70 %", low[one, BEST], high[one, BEST]) for one in ("TAMT-KD", "IMP", "OMP")]
    rows.append(("mask training, KD, 60 %", low6["TAMT-KD", BEST], high6["TAMT-KD", BEST]))
    head = ["seeds 0, 1, 2", "SST-2", "MRPC", "STS-B", "MNLI, 1e-4", "MNLI, 2e-4", "CoLA, 1e-4", "CoLA, 2e-4"]
    cells = [
        [name, *(seeds_of(one, task) for task in ("sst2", "mrpc", "stsb"))]
        + [seeds_of(scores, task) for task in ("mnli", "cola") for scores in (one, two)]
        for name, one, two in rows
    ]
    return markdown(head, cells)


def five_shares() -> str:
    """Means of the five tasks and shares of the dense mean."""
    dense = fine_tuned(FIVE)["Full", BEST]
    head = ["mean of five tasks", "rates of the dense model", "2e-4", "share of dense, its rates", "share, 2e-4"]
    rows = [["dense", mean_of(dense), mean_of(fine_tuned(HIGHER)["Full", BEST]), "", ""]]
    for method, sparsity in (("TAMT-KD", "0.7"), ("IMP", "0.7"), ("OMP", "0.7"), ("TAMT-KD", "0.6")):
        both = [fine_tuned(report, sparsity)[method, BEST] for report in (FIVE, HIGHER)]
        shares = [shown(share(one, dense, METRICS), 1, 3, "") for one in both]
        rows.append([f"{METHODS[method]}, {float(sparsity):.0%}".replace("%", " %"), *map(mean_of, both), *shares])
    return markdown(head, rows)


def above_one_answer() -> str:
    """Share of the dense model above one answer for all examples, tickets with 2e-4, means of the seeds."""
    dense = fine_tuned(FIVE)["Full", BEST]
    constant, rows = constant_scores(FIVE, dense), []
    for method, sparsity in (("TAMT-KD", "0.7"), ("IMP", "0.7"), ("OMP", "0.7"), ("TAMT-KD", "0.6")):
        own = fine_tuned(HIGHER, sparsity)[method, BEST]
        cells = []
        for tasks in (*([task] for task in METRICS), list(METRICS)):
            ticket, whole, answer = (fmean(on(tasks, one).values()) for one in (own, dense, constant))
            cells.append(f"{(ticket - answer) / (whole - answer):.2f}")
        rows.append([f"{METHODS[method]}, {100 * float(sparsity):.0f} %", *cells])
    return markdown(["above one answer", *(task_title(task) for task in METRICS), "five tasks"], rows)


def five_differences() -> str:
    """Differences of the methods on the five tasks, with both rates."""
    tasks = ("sst2", "mrpc", "stsb", "mnli", "cola")
    rows = []
    for first, second in (("TAMT-KD", "IMP"), ("TAMT-KD", "OMP"), ("IMP", "OMP")):
        for report, rate in ((FIVE, "rates of the dense model"), (HIGHER, "2e-4")):
            scores = fine_tuned(report)
            pair = scores[first, BEST], scores[second, BEST]
            by_task = [apart(*pair, [task]) if report == FIVE or task in ("mnli", "cola") else "" for task in tasks]
            short = {"TAMT-KD": "KD", "IMP": "iterative pruning", "OMP": "magnitude"}
            rows.append([f"{short[first]} minus {short[second]}, {rate}", *by_task, apart(*pair)])
    return markdown(["70 %, difference [95 %]", *(task_title(task) for task in tasks), "five tasks"], rows)


def two_tasks() -> str:
    """All methods on MNLI and CoLA at 70 %, rate 2e-4."""
    scores = fine_tuned(HIGHER)
    mine = on(("mnli", "cola"), scores["TAMT-KD", BEST])
    rows = []
    for method, name in METHODS.items():
        own = scores[method, BEST]
        less = ["", ""] if method == "TAMT-KD" else [apart(mine, own, [task]) for task in ("mnli", "cola")]
        rows.append([name, seeds_of(own, "mnli"), seeds_of(own, "cola"), *less])
    return markdown(["seeds 0, 1, 2", "MNLI", "CoLA", "KD minus this: MNLI", "CoLA"], rows)


def half_pruned() -> str:
    """Tickets of 50 % on MNLI and CoLA."""
    scores, dense = fine_tuned(HIGHER, "0.5"), fine_tuned(FIVE)["Full", BEST]
    rows = [["dense, 1e-4", seeds_of(dense, "mnli"), seeds_of(dense, "cola")]]
    rows += [
        [METHODS[one], *(seeds_of(scores[one, BEST], task) for task in ("mnli", "cola"))] for one in ("TAMT-KD", "IMP")
    ]
    return markdown(["50 %, seeds 0, 1, 2", "MNLI", "CoLA"], rows)


def encoder_10000() -> str:
    """The encoder of 10,000 steps: four tasks at 70 %."""
    scores = fine_tuned("tickets_win/report")
    names = {"Full": "dense"} | METHODS
    rows = []
    for method in ("Full", "TAMT-KD", "OMP", "IMP"):
        own = scores[method, BEST]
        mean = mean_of(own) if len(own) == 12 else NONE
        rows.append([names[method], *(seeds_of(own, task) for task in ("sst2", "mrpc", "stsb", "mnli")), mean])
    return markdown(["70 %, seeds 0, 1, 2", "SST-2", "MRPC", "STS-B", "MNLI", "mean"], rows)


def encoder_1000() -> str:
    """The encoder of 1,000 steps: mask training and iterative pruning on four tasks."""
    scores = fine_tuned("tickets_win/long_trainings")
    kd, imp = scores["TAMT-KD", BEST], scores["IMP", BEST]
    rows = [
        [task_title(task), seeds_of(kd, task), seeds_of(imp, task), apart(kd, imp, [task])]
        for task in ("sst2", "mrpc", "stsb", "mnli")
    ]
    rows.append(["mean", mean_of(kd), mean_of(imp), apart(kd, imp)])
    return markdown(["70 %, seeds 0, 1, 2", METHODS["TAMT-KD"], METHODS["IMP"], "difference [95 %]"], rows)


def short_trainings() -> str:
    """All methods in short trainings of SST-2 and STS-B."""
    levels = ("0.5", "0.6", "0.7", "0.8")
    by_level = {level: fine_tuned("tickets_win/all_methods", level) for level in levels}
    rows = []
    for task in ("sst2", "stsb"):
        dense = by_level["0.5"]["Full", BEST]
        rows.append([f"{task_title(task)}: dense", seeds_of(dense, task), "", "", ""])
        for method, name in METHODS.items():
            cells = [seeds_of(by_level[level].get((method, BEST), {}), task) for level in levels]
            rows.append([f"{task_title(task)}: {name}", *cells])
    return markdown(["seeds 0, 1, 2", "50 %", "60 %", "70 %", "80 %"], rows)


def short_differences() -> str:
    """KD minus the other methods in short trainings."""
    rows = []
    for task in ("sst2", "stsb"):
        for method in list(METHODS)[1:-1]:
            cells = []
            for level in ("0.5", "0.7", "0.8"):
                scores = fine_tuned("tickets_win/all_methods", level)
                cells.append(apart(on([task], scores["TAMT-KD", BEST]), scores.get((method, BEST), {})))
            rows.append([f"{task_title(task)}: {METHODS[method]}", *cells])
    return markdown(["KD minus, [95 %] over seeds", "50 %", "70 %", "80 %"], rows)


def _rows(path: str) -> list[dict[str, str]]:
    with (HERE / path).open(encoding="utf-8") as handle:
        return [row for row in csv.DictReader(handle) if row["number"]]


def _finals(path: str, stages: Sequence[str], axis: str, seed: str) -> dict[str, Runs]:
    found: dict[str, Runs] = defaultdict(dict)
    for row in _rows(path):
        if row["stage"] in stages and row["value"] == f"metrics.{METRICS.get(row['task'])}.final.mean":
            found[row[axis]][row["task"], row[seed]] = float(row["number"])
    return found


def changed_fine_tuning() -> str:
    """What changes the fine-tuning of a 70 % sparse ticket of the encoder of 10,000 steps; seed 0."""
    path = "settings/raw/fine_tuning.csv"
    tickets, dense = (_finals(path, stages, "idea", "seed") for stages in (("plain", "tuned"), ("dense",)))
    beside = {"none": "dense", "rate 2e-4": "dense with rate 2e-4", "no dropout": "dense without dropout"}
    beside["no dropout and rate 2e-4"] = "dense without dropout and with rate 2e-4"
    ideas = (
        "none",
        "teacher",
        "teacher with states",
        "rate 2e-4",
        "twice the epochs",
        "no dropout",
        "no dropout and rate 2e-4",
    )
    rows = []
    for idea in ideas:
        own = [tickets[idea], dense.get(beside.get(idea, ""), {})]
        rows.append(
            [idea, *(seeds_of(on([task], one), task).split(",")[0] for one in own for task in ("sst2", "stsb"))]
        )
    head = [
        "change, seed 0, rate 1e-4 where nothing is said",
        "SST-2: ticket",
        "STS-B: ticket",
        "SST-2: dense",
        "STS-B: dense",
    ]
    return markdown(head, rows)


def rate_of_tickets() -> str:
    """What twice the rate of the dense model gives on MNLI and CoLA."""
    rows = []
    for method, sparsity in (("Full", "0.7"), ("TAMT-KD", "0.6"), ("TAMT-KD", "0.7"), ("IMP", "0.7"), ("OMP", "0.7")):
        low, high = (fine_tuned(report, sparsity)[method, BEST] for report in (FIVE, HIGHER))
        name = "dense" if method == "Full" else f"{METHODS[method]}, {100 * float(sparsity):.0f} %"
        rows.append([name, *(apart(high, low, [task]) for task in ("mnli", "cola"))])
    return markdown(["2e-4 minus 1e-4, three seeds", "MNLI", "CoLA"], rows)


def searches() -> str:
    """Ideas for searches, in short trainings with the encoder of 1,000 steps."""
    path = "settings/raw/searches.csv"
    scores, names = _finals(path, ("searched", "on-task-text", "dense"), "idea", "search_seed"), {}
    dense = _finals(path, ("dense",), "idea", "seed")
    scores["dense model"] = next(iter(dense.values()))
    losses: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in _rows(path):
        if row["stage"] == "losses" and row["value"] in ("kd_loss", "mlm_loss"):
            losses[row["idea"]][row["value"]].append(float(row["number"]))
    names = {
        "one step to 70 %": "KD, equal sparsity in each matrix, 200 steps",
        "counts of global magnitude": "as many weights of each matrix as global magnitude keeps",
    }
    ideas = (
        "dense model",
        "one step to 70 %",
        "20 steps",
        "60 steps",
        "1000 steps",
        "counts of global magnitude",
        "global ranking",
    )
    ideas += (
        "MLM",
        "MLM + 30 KD",
        "30 KD + logits",
        "logits",
        "contrastive",
        "KD of the last layer",
        "five steps to 70 %",
        "text of the task",
    )
    ideas += ("iterative pruning", "iterative pruning with 1050 steps", "magnitude", "random")
    rows = []
    for idea in ideas:
        own = [losses[idea][key] for key in ("kd_loss", "mlm_loss")]
        cells = [f"{fmean(values):.{places}f}" if values else NONE for values, places in zip(own, (3, 2), strict=True)]
        rows.append([names.get(idea, idea), *(_all_seeds(scores[idea], task) for task in ("sst2", "stsb")), *cells])
    return markdown(["70 %", "SST-2", "STS-B", "KD loss", "MLM loss"], rows)


def _all_seeds(scores: Runs, task: str) -> str:
    return ", ".join(f"{100 * score:.1f}" for (own, _), score in sorted(scores.items()) if own == task)


def at_full_length() -> str:
    """Two ideas for searches at full length."""
    ideas = numbers_by("idea", "settings/raw/full_length.csv", "searched", "search_seed")
    names = {
        "one step to 70 %": "equal sparsity, 200 steps, 2e-4",
        "counts of global magnitude": "as many as global magnitude keeps",
    }
    names |= {"1000 steps": "1,000 steps, 2e-4", "1000 steps with rate 5e-5": "1,000 steps, 5e-5"}
    tasks, equal, rows = ("mrpc", "mnli", "cola"), ideas["one step to 70 %"], []
    for idea, name in names.items():
        less = "" if idea == "one step to 70 %" else apart(ideas[idea], equal)
        rows.append([name, *(seeds_of(ideas[idea], task) for task in tasks), less])
    return markdown(["seeds 0, 1, 2", "MRPC", "MNLI", "CoLA", "minus the first row"], rows)


def long_searches() -> str:
    """Losses of searches by steps and rate."""
    losses: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in _rows("settings/raw/full_length.csv"):
        if row["stage"] == "losses" and row["value"] in ("kd_loss", "mlm_loss"):
            losses[row["idea"], row["value"]][row["search_seed"]] = float(row["number"])
    names = {
        "one step to 70 %": "KD, 200 steps, 2e-4",
        "rate 1e-4": "KD, 200 steps, 1e-4",
        "rate 5e-5": "KD, 200 steps, 5e-5",
    }
    names |= {"1000 steps": "KD, 1,000 steps, 2e-4", "1000 steps with rate 1e-4": "KD, 1,000 steps, 1e-4"}
    names |= {"1000 steps with rate 5e-5": "KD, 1,000 steps, 5e-5", "MLM, 1000 steps": "MLM, 1,000 steps, 2e-4"}
    names |= {"MLM, 1000 steps with rate 1e-4": "MLM, 1,000 steps, 1e-4"}
    rows = []
    for idea, name in names.items():
        kd, mlm = (losses[idea, key] for key in ("kd_loss", "mlm_loss"))
        rows.append([name, str(len(kd)), f"{fmean(kd.values()):.4f}", f"{fmean(mlm.values()):.2f}"])
    return markdown(["objective, steps, peak rate", "seeds", "KD loss", "MLM loss"], rows)


def short_rates() -> str:
    """Mean scores of short trainings of dense models by rate: MRPC, STS-B, SST-2 and CoLA."""
    means: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in _rows("settings/raw/rates.csv"):
        if row["stage"] == "transfer" and row["value"] == f"metrics.{METRICS[row['task']]}.final.mean":
            means[row["model"], row["epochs"], row["learning_rate"]].append(float(row["number"]))
    rates = ("2e-05", "5e-05", "0.0001", "0.0002", "0.0005")
    names = {"builtin:minilm": "MiniLM", "decoder": "decoder"}
    rows = [
        [
            f"{name}, {epochs} epoch{'s' * (epochs != '1')}",
            *(f"{100 * fmean(means[model, epochs, rate]):.1f}" for rate in rates),
        ]
        for model, name in names.items()
        for epochs in ("1", "3")
    ]
    return markdown(["mean of four tasks, seed 0", "2e-5", "5e-5", "1e-4", "2e-4", "5e-4"], rows)


def minilm_tickets() -> str:
    """MiniLM and its 70 % sparse tickets with two rates."""
    scores: dict[tuple[str, str], Runs] = defaultdict(dict)
    for row in _rows("settings/raw/rates_of_tickets.csv"):
        if row["stage"] == "tickets" and row["value"] == f"metrics.{METRICS[row['task']]}.final.mean":
            scores[row["model"], f"{float(row['learning_rate']):g}"][row["task"], row["seed"]] = float(row["number"])
    rates = ("0.0001", "0.0002")
    rows = [
        [name, *(seeds_of(scores[model, rate], task) for task in ("mrpc", "stsb") for rate in rates)]
        for model, name in (("MiniLM", "dense"), ("ticket of MiniLM", "70 % sparse ticket"))
    ]
    return markdown(["seeds 0, 1, 2", "MRPC, 1e-4", "MRPC, 2e-4", "STS-B, 1e-4", "STS-B, 2e-4"], rows)


def with_and_without_dropout() -> str:
    """The dense encoder of 10,000 steps by dropout and rate."""
    found: dict[tuple[Any, float], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for run in read("tickets_win/raw/curves.json"):
        if run["method"] is None and (run["task"] != "mnli" or run["epochs"] == 2):
            score = run["evaluations"][-1]["evaluation"][METRICS[run["task"]]]
            found[run["dropout"], run["learning_rate"]][run["task"]][run["seed"]] = score
    rows = []
    for (dropout, rate), by_task in sorted(found.items(), key=str, reverse=True):
        cells = [
            ", ".join(f"{100 * score:.1f}" for _, score in sorted(by_task[task].items())) or NONE for task in METRICS
        ]
        rows.append([f"dropout {0.1 if dropout == 'model' else 0:g}, rate {rate:g}", *cells])
    return markdown(["dense model, seeds 0, 1, 2 or 0", *(task_title(task) for task in METRICS)], rows)


def minilm_dropout() -> str:
    """MiniLM with and without dropout, seed 0."""
    scores: dict[str, Runs] = defaultdict(dict)
    for row in _rows("settings/raw/rates.csv"):
        if row["stage"] == "dropout" and row["value"] == f"metrics.{METRICS[row['task']]}.final.mean":
            scores[row["dropout"]][row["task"], row["seed"]] = float(row["number"])
    tasks = ("mrpc", "stsb", "sst2", "cola")
    rows = [[f"{float(dropout):g}", *(seeds_of(scores[dropout], task) for task in tasks)] for dropout in ("0.1", "0.0")]
    return markdown(["dropout", *(task_title(task) for task in tasks)], rows)


def encoder_steps() -> str:
    """MLM loss of the encoders by step."""
    files = {"10,000 steps": "minilm-mlm", "3,000 steps": "minilm-mlm-3000-bf16", "1,000 steps": "minilm-mlm-1000"}
    rows = []
    for name, file in files.items():
        lines = (HERE / f"encoder/raw/{file}.validation.jsonl").read_text(encoding="utf-8").splitlines()
        losses = {one["step"]: one["validation"]["mlm_loss"] for one in map(json.loads, lines)}
        result = read(f"encoder/raw/{file}.json")
        cells = [f"{losses[step]:.2f}" if step in losses else NONE for step in (500, 1000, 2000, 5000)]
        rows.append(
            [name, *cells, f"{result['final']['mlm_loss']:.2f}", f"{100 * result['final']['mlm_accuracy']:.1f} %"]
        )
    return markdown(["encoder of", "after 500", "1,000", "2,000", "5,000", "at the end", "accuracy"], rows)


def encoder_cost() -> str:
    """What the MLM training costs: similarity, and scores after fine-tuning."""
    before: Runs = {}
    for run in read("encoder/raw/glue-minilm.json"):
        if run["method"] is None:
            before[run["task"], str(run["seed"])] = run["evaluations"][-1]["evaluation"][METRICS[run["task"]]]
    models = (before, fine_tuned("tickets_win/report")["Full", BEST], fine_tuned(FIVE)["Full", BEST])
    similarity = read("encoder/raw/similarities.json")
    names = ("similarity-minilm", "similarity-minilm-mlm", "similarity-minilm-mlm-3000-bf16")
    rows = [["similarity, Pearson", *(f"{100 * similarity[name]['similarity_pearson']:.1f}" for name in names), ""]]
    for task in ("sst2", "stsb", "mrpc", "mnli", "cola"):
        rows.append([task_title(task), *(seeds_of(one, task) for one in models), apart(models[2], before, [task])])
    return markdown(["seeds 0, 1, 2", "MiniLM", "10,000 steps", "3,000 steps", "3,000 steps minus MiniLM"], rows)


def _universal(report: str, tasks: Sequence[str], sources: Mapping[str, str]) -> list[list[str]]:
    path = f"universal/{report}/runs.csv"
    targets = numbers_by("source", path, "targets", "seed")
    dense = numbers_by("row", path, "dense", "seed")["full model"]
    rows = [["full model", *(seeds_of(dense, task) for task in tasks)]]
    rows += [[name, *(seeds_of(targets[source], task) for task in tasks)] for source, name in sources.items()]
    controls = numbers_by("row", path, "controls", "seed")
    for name in ("random masks", "shuffled weights", "random weights"):
        if name in controls:
            rows.append([name, *(seeds_of(controls[name], task) for task in tasks)])
    return rows


def universal_two() -> str:
    """Tickets of 50 % by source: SST-2 and STS-B, encoder of 1,000 steps."""
    sources = {
        "sst2": "ticket of SST-2",
        "stsb": "ticket of STS-B",
        "MLM": "ticket of MLM",
        "one-shot": "one-shot magnitude",
    }
    return markdown(["50 %, seeds 0, 1, 2", "SST-2", "STS-B"], _universal("report", ("sst2", "stsb"), sources))


def universal_three() -> str:
    """Tickets of 50 % by source: MNLI, MRPC and STS-B, encoder of 3,000 steps."""
    sources = {task: f"ticket of {task_title(task)}" for task in ("mnli", "mrpc", "stsb")}
    sources |= {"MLM": "ticket of MLM", "one-shot": "one-shot magnitude"}
    rows = _universal("three_tasks", ("mnli", "mrpc", "stsb"), sources)
    return markdown(["50 %, seeds 0, 1, 2", "MNLI", "MRPC", "STS-B"], rows)


def sentence_encoder() -> str:
    """Tickets of the sentence encoder MiniLM on three tasks at 70 %."""
    found = read("transfer/raw/fine_tuning.json")
    names = {
        "dense": "dense",
        "magnitude-70": "magnitude",
        "tuned-70": "mask training, KD",
        "mlm-70": "mask training, MLM",
    }
    rows = []
    for group, name in names.items():
        cells = []
        for task in ("sst2", "mrpc", "stsb"):
            runs = [found[key]["metrics"] for key in sorted(found) if key.startswith(f"{task}-{group}-s")]
            cells.append(", ".join(f"{100 * run[METRICS[task]]['final']['values'][0]:.1f}" for run in runs) or NONE)
        rows.append([name, *cells])
    return markdown(["70 %, seeds 0, 1, 2 or 0", "SST-2", "MRPC", "STS-B"], rows)


def fitted_heads() -> str:
    """MLM heads that `tickets fit-head` gives MiniLM."""
    heads = read("transfer/raw/heads.json")
    rows = [["new head", NONE, "0", *_loss(heads["minilm-head"]["start"])]]
    for name, words in (("minilm-head", "head only"), ("minilm-mlm", "head and encoder")):
        one = heads[name]
        rows.append([words, f"{one['trained_parameters']:,}", str(one["steps"]), *_loss(one["final"])])
    return markdown(["", "trained parameters", "steps", "MLM loss", "accuracy"], rows)


def _loss(found: Mapping[str, float]) -> list[str]:
    return [f"{found['mlm_loss']:.2f}", f"{100 * found['mlm_accuracy']:.1f} %"]


def equal_steps() -> str:
    """Losses of tickets before fine-tuning at equal steps, MLM and KD."""
    found = read("transfer/raw/equal_steps.json")
    names = {
        "random": "random",
        "magnitude": "magnitude",
        "imp": "iterative pruning, MLM, rewound",
        "imp-none": "iterative pruning, MLM, not rewound",
    }
    names |= {
        "tamt-mlm": "mask training, MLM",
        "tamt-kd": "mask training, KD",
        "tamt-mlmkd": "mask training, MLM + 30 KD",
    }
    cells = [(key, level) for key in ("mlm_loss", "kd_loss") for level in (50, 60, 70, 80)]
    rows = [
        [words, *(f"{found[f'{name}-{level}'][key]:.{2 if key == 'mlm_loss' else 3}f}" for key, level in cells)]
        for name, words in names.items()
    ]
    return markdown(["", *(f"{key[:-5].upper()} loss, {level} %" for key, level in cells)], rows)


def _quality(found: Mapping[str, Any], label: str, run: str, sparsity: int) -> list[str]:
    kept = [found[f"{run}.wikitext"]["kd_loss"], found[f"{run}.stsb"]["kd_loss"]]
    bases = [found[f"magnitude-{sparsity}.{text}"]["kd_loss"] for text in ("wikitext", "stsb")]
    similarity, dense = (found[f"{name}.stsb"]["similarity_pearson"] for name in (run, "dense"))
    cells = [cell for one, base in zip(kept, bases, strict=True) for cell in (f"{one:.4f}", f"{one / base:.3f}")]
    return [label, *cells, f"{similarity:.4f}", f"{similarity / dense:.3f}"]


QUALITY = ["", "KD WikiText-2", "/ magnitude", "KD STS-B", "/ magnitude", "similarity", "/ dense"]


def quality_by_sparsity() -> str:
    """Quality of tickets of MiniLM before fine-tuning by method and sparsity."""
    found = read("mask_training/raw/quality.json")
    names = ("random", "magnitude", "tuned")
    rows = [
        _quality(found, f"{name} {level} %", f"{name}-{level}", level) for level in (50, 60, 70, 80) for name in names
    ]
    return markdown(QUALITY, rows)


def initial_scores() -> str:
    """Quality after 60 steps by initial scores and profile."""
    found = read("mask_training/raw/quality.json")
    names = ("tuned-60", "rank-60", "plateau-60", "plateau-60-lr1e-3", "randominit-60", "paper-60", "code-60")
    return markdown(QUALITY, [_quality(found, name.replace("-60", "", 1), f"{name}-60steps", 60) for name in names])


def losses_by_step() -> str:
    """KD loss of `tuned` and `paper` by step, three seeds."""
    losses: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in _rows("mask_training/steps/report/runs.csv"):
        if row["value"] == "kd_loss" and row["step"]:
            losses[row["profile"], int(row["step"])].append(float(row["number"]))
    cells = {key: f"{fmean(values):.4f} ± {stdev(values):.4f}" for key, values in losses.items()}
    pairs = zip((2, 5, 10, 25, 50, 100), (500, 600, 700, 800, 900, 1000), strict=True)
    rows = [[str(one), cells["tuned", one], f"{two:,}", cells["paper", two]] for one, two in pairs]
    return markdown(["`tuned`: steps", "KD loss", "`paper`: steps", "KD loss"], rows)


def levels_in_one_search() -> str:
    """One search of five levels beside separate searches."""
    found, alone = read("mask_training/levels/raw/levels.json"), read("mask_training/raw/quality.json")
    rows = []
    for rung in found["ladder.result"]["rungs"]:
        percent, inside = round(100 * rung["sparsity"]), rung["kept_inside_previous"]
        own = alone.get(f"tuned-{percent}.wikitext", found["kd240-90-bf16.wikitext"])["kd_loss"]
        one = found[f"ladder-{percent}.wikitext"]["kd_loss"]
        cells = [f"{percent} %", f"{one:.4f}", f"{own:.4f}", f"{one / own:.3f}", str(rung["steps"])]
        rows.append([*cells, NONE if inside is None else f"{inside:.3f}"])
    head = [
        "sparsity",
        "one search",
        "separate search",
        "ratio",
        "total steps",
        "kept weights also kept by the level below",
    ]
    return markdown(head, rows)


def rankings() -> str:
    """Signed and absolute scores."""
    found = read("mask_training/ranking/raw/ranking.json")
    names = {
        "magnitude": "magnitude",
        "kd-signed-0": "KD, signed",
        "kd-absolute-0": "KD, absolute",
        "mlm-signed-0": "MLM, signed",
        "mlm-absolute-0": "MLM, absolute",
    }
    rows = [
        [words, *(NONE if found[name][key] is None else f"{found[name][key]:.4f}" for key in ("kd_loss", "mlm_loss"))]
        for name, words in names.items()
    ]
    return markdown(["ticket", "KD loss", "MLM loss"], rows)


def heads_and_neurons() -> str:
    """KD loss of tickets of heads and neurons."""
    found = read("mask_training/structured/raw/structured.json")
    names = {
        "heads-random": "heads, random",
        "heads-importance": "heads, importance",
        "heads-trained-2e-4": "heads, trained, the default",
        "heads-trained-epsilon": "heads, trained, epsilon 0.01, rate 2e-3",
    }
    names |= {
        "neurons-random": "neurons, random",
        "neurons-importance": "neurons, importance",
        "neurons-trained-2e-4": "neurons, trained, the default",
    }
    rows = [
        [words, *(f"{found[f'{name}-{level}']['kd_loss']:.4f}" for level in (30, 50))] for name, words in names.items()
    ]
    return markdown(["KD loss", "30 %", "50 %"], rows)


def perplexities_of_decoders() -> str:
    """Perplexity of tickets of the decoder."""
    names = {
        "random": "random",
        "magnitude": "magnitude",
        "wanda": "Wanda",
        "imp": "iterative pruning, `clm`",
        "clm": "mask training, `clm`",
    }
    names |= {name: f"mask training, `{name}`" for name in ("kd", "kd+clm", "logits", "kd+logits")}
    names["block-wise"] = "`kd`, block-wise"
    folder, rows = HERE / "decoders/raw/study", []
    for method, words in names.items():
        cells = []
        for level, suffix in (("0.5", ""), ("0.6", ""), ("0.7", ""), ("0.5", "-2of4")):
            paths = [*folder.glob(f"{method}{suffix}.json"), *folder.glob(f"{method}{suffix}-seed?.json")]
            tickets = [json.loads(path.read_text(encoding="utf-8"))["tickets"] for path in sorted(paths)]
            values = [one[level]["perplexity"] for one in tickets if level in one]
            spread = f" ± {stdev(values):,.1f}" if len(values) > 1 else ""
            cells.append(f"{fmean(values):,.1f}{spread}" if values else NONE)
        rows.append([words, *cells])
    return markdown(["method", "50 %", "60 %", "70 %", "2:4"], rows)


SHARED = {
    "ST-DNN": "single-task",
    "MT-DNN": "MT-DNN",
    "Ticket-Share": "Ticket-Share",
    "Random tickets": "random tickets",
}


def shared_scores() -> str:
    """Scores of shared models in bfloat16, rate 1e-4."""
    models = {method: scores for (method, _), scores in shared("sharing/report").items()}
    rows = [
        [words, *(seeds_of(models[name], task) for task in MAIN), mean_of(models[name])]
        for name, words in SHARED.items()
    ]
    return markdown(["seeds 0, 1, 2", *(task_title(task) for task in MAIN), "mean"], rows)


def shared_differences() -> str:
    """Differences of shared models over the seeds of these four tasks."""
    models = {SHARED[method]: scores for (method, _), scores in shared("sharing/report").items()}
    pairs = [("Ticket-Share", "MT-DNN"), ("Ticket-Share", "random tickets"), ("random tickets", "MT-DNN")]
    pairs.append(("Ticket-Share", "single-task"))
    rows = []
    for one, two in pairs:
        cells = [apart(models[one], models[two], [task]) for task in MAIN]
        rows.append(
            [
                f"{one} minus {two}",
                *cells,
                shown(difference(models[one], models[two], tasks_vary=False)),
                apart(models[one], models[two]),
            ]
        )
    return markdown(
        ["difference [95 %]", *(task_title(task) for task in MAIN), "mean, over seeds", "mean, over tasks and seeds"],
        rows,
    )


def shared_in_float32() -> str:
    """Means of the same study in float32, with both rates."""
    models = shared("sharing/both_rates")
    rows = []
    for rate in ("1e-4", "5e-5"):
        one, two = models["Ticket-Share", rate], models["MT-DNN", rate]
        rows.append([rate, mean_of(two), mean_of(one), shown(difference(one, two, tasks_vary=False)), apart(one, two)])
    return markdown(["rate", "MT-DNN", "Ticket-Share", "difference, over seeds", "over tasks and seeds"], rows)


def adapted() -> str:
    """Accuracy after adaptation to SNLI and SciTail by share of the training set."""
    found: dict[tuple[str, str], Runs] = defaultdict(dict)
    for row in _rows("sharing/report/runs.csv"):
        if row["stage"] == "adapted" and row["value"] == "metrics.accuracy.final.mean":
            found[row["method"], row["train_size"]][row["task"], row["seed"]] = float(row["number"])
    methods, rows = sorted({method for method, _ in found}), []
    for method in methods:
        rows.append(
            [
                SHARED.get(method, method),
                *(
                    seeds_of(found[method, size], task)
                    for task in ("snli", "scitail")
                    for size in ("1%", "10%", "100%")
                ),
            ]
        )
    less = [
        apart(found["Ticket-Share", size], found["MT-DNN", size], [task])
        for task in ("snli", "scitail")
        for size in ("1%", "10%", "100%")
    ]
    rows.append(["Ticket-Share minus MT-DNN", *less])
    head = [f"{task}, {size}" for task in ("SNLI", "SciTail") for size in ("1 %", "10 %", "100 %")]
    return markdown(["seeds 0, 1, 2", *head], rows)


def _phases(task: str, kind: str, level: str) -> Runs:
    found = {}
    for seed in SEEDS:
        result = read(f"super_tickets/raw/study-{task}-s{seed}.json")
        one = result["full"] if kind == "full" else result["selections"][kind][level]
        found[task, seed] = one["whole"]["mean"]
    return found


def phases() -> str:
    """Winning, random and losing tickets of heads and FFNs."""
    rows = [["full model", *(seeds_of(_phases(task, "full", ""), task) for task in MAIN)]]
    for level in ("20", "40", "60"):
        for kind in ("winning", "random", "losing"):
            rows.append([f"{kind}, {level} %", *(seeds_of(_phases(task, kind, level), task) for task in MAIN)])
    return markdown(["seeds 0, 1, 2", *(task_title(task) for task in MAIN)], rows)


def phase_differences() -> str:
    """Differences of kinds of tickets, means of the three levels."""

    def mean(task: str, kind: str) -> Runs:
        levels = [_phases(task, kind, level) for level in ("20", "40", "60")]
        return {key: fmean(one[key] for one in levels) for key in levels[0]}

    rows = []
    for one, two in (("random", "losing"), ("winning", "random")):
        rows.append([f"{one} minus {two}", *(apart(mean(task, one), mean(task, two)) for task in MAIN)])
    chosen = []
    for task in MAIN:
        results = {seed: read(f"super_tickets/raw/study-{task}-s{seed}.json") for seed in SEEDS}
        mine = {(task, seed): one["super_ticket"]["rest"]["mean"] for seed, one in results.items()}
        full = {(task, seed): one["full"]["rest"]["mean"] for seed, one in results.items()}
        chosen.append(apart(mine, full))
    rows.append(["super ticket minus full model, other half of dev", *chosen])
    return markdown(["difference [95 %], three seeds", *(task_title(task) for task in MAIN)], rows)


def four_epochs() -> str:
    """Super tickets with up to four epochs: the half of the dev set that chose nothing."""
    rows = []
    for task in ("stsb", "mrpc"):
        for recovered in ("", "-recovered"):
            result = read(f"super_tickets/raw/super-{task}-4-epochs{recovered}.json")
            full = {
                (task, str(seed)): value for seed, value in zip(SEEDS, result["full"]["rest"]["values"], strict=True)
            }
            if not recovered:
                rows.append([f"{task_title(task)}: full model", seeds_of(full, task), ""])
            for level, one in result["selections"]["winning"].items():
                mine = {(task, seed): value for seed, value in zip(SEEDS, one["rest"]["values"], strict=True)}
                words = f"{task_title(task)}: {level} % pruned{', recovered first' if recovered else ''}"
                rows.append([words, seeds_of(mine, task), apart(mine, full)])
    return markdown(["seeds 0, 1, 2", "other half of dev", "minus full model [95 %]"], rows)


def _times(speed: Mapping[str, float]) -> str:
    return f"{speed['median']:.2f} [{speed['lower_quartile']:.2f}, {speed['upper_quartile']:.2f}]"


def quarter_of_an_hour() -> str:
    """`tickets shrink` for a quarter of an hour, one thread."""
    result = read("shrink/raw/quarter-of-an-hour.json")
    small, dense = result["models"][0], result["dense"]["quality"]["similarity_spearman"]
    rows = [["dense", "1", f"{dense:.4f}", "1"]]
    for name, one in (("small", small), ("small, ONNX", small["onnx"]), ("small, ONNX int8", small["int8"])):
        score = one["quality"]["similarity_spearman"]
        rows.append([name, _times(one["speedup"]), f"{score:.4f}", f"{score / dense:.3f}"])
    return markdown(["", "speed-up", "STS-B dev", "of dense"], rows)


def small_models() -> str:
    """Ways to choose and to recover, seed 0 unless the row says otherwise."""
    found = read("shrink/raw/rows.json")
    dense = read("shrink/raw/quarter-of-an-hour.json")["dense"]["quality"]["similarity_spearman"]
    names = (
        "importance",
        "no-recovery",
        "flops",
        "gates",
        "sts",
        "wikipedia",
        "steps-320",
        "steps-320-seed1",
        "steps-320-seed2",
    )
    names += (
        "importance-3x",
        "importance-4x",
        "importance-5x",
        "depth",
        "depth-3x",
        "even",
        "magnitude",
        "sums",
        "sums-3x",
        "sums-flops-320",
    )
    rows = [_small(name, found[f"row-{name}"], dense) for name in names]
    peers = ("taylor-global", "taylor-global-320", "taylor", "magnitude", "hidden")
    rows += [_small(f"Torch-Pruning, {name}", found[f"peer-{name}"], dense) for name in peers]
    return markdown(["row", "speed-up by the table", "steps", "STS-B dev", "of dense"], rows)


def _small(name: str, one: Mapping[str, Any], dense: float) -> list[str]:
    speed = f"{1 / one['time_by_table']:.2f}" if one.get("time_by_table") else "half of the FLOPs"
    return [name, speed, str(one["asked"]["steps"]), f"{one['spearman']:.4f}", f"{one['spearman'] / dense:.3f}"]


def made_small_on_tasks() -> str:
    """Fine-tuned models made small: accuracy on the dev set, three seeds, two threads."""
    speeds = [read(f"shrink/raw/speed-fine-tuned{name}.json")["models"] for name in ("", "-mrpc")]
    rows = []
    for task, runs, words in (
        ("sst2", "", "SST-2"),
        ("mrpc", "", "MRPC"),
        ("mrpc", "-pairs", "MRPC, 12,938 unlabeled pairs"),
    ):
        small, dense = made_small(task, runs)
        models = speeds[1 if runs else 0]
        times = [models[f"{task}-{seed}-{'pairs' if runs else 'fast'}/model"]["speedup"]["median"] for seed in SEEDS]
        cells = [seeds_of(dense, task), seeds_of(small, task), apart(small, dense)]
        rows.append([words, *cells, ", ".join(f"{time:.2f}" for time in times)])
    return markdown(["seeds 0, 1, 2", "dense", "small", "difference [95 %]", "speed-up"], rows)


def small_at_base_size() -> str:
    """MPNet-base made small, and int8 exports of all: similarity and times in turns, one thread."""
    models = read("shrink/raw/base-speed.json")["models"]
    dense, faster = models["dense"]["similarity_spearman"], models["dense int8"]["latency_seconds"]["median"]
    rows = []
    for name, one in models.items():
        score, beside_int8 = one["similarity_spearman"], faster / one["latency_seconds"]["median"]
        cells = [f"{one['bytes'] / 1e6:.0f}", f"{score:.4f}", f"{score / dense:.3f}"]
        rows.append([name.replace("int8", "ONNX int8").replace(" onnx", " ONNX"), *cells, _times(one["speedup"])])
        rows[-1].append(f"{beside_int8:.2f}")
    return markdown(["", "MB", "STS-B dev", "of dense", "speed-up", "beside dense int8"], rows)


def benchmarks() -> str:
    """All benchmarks beside their targets, from the JSON files of docs/results/speed."""
    folder = HERE.parents[1] / "benchmarks"
    sys.path.insert(0, str(folder))
    every = import_module("all")
    table: str = every.table(HERE / "speed", every.chosen_by(None))
    return table.rstrip("\n") + "\n"


def verb_stages() -> str:
    """Where the CPU seconds of verbs go, from the profiles of two models; a verb that was not profiled has no row."""
    rows = []
    for model, file in (("MiniLM", "verb_profile_minilm"), ("base", "verb_profile")):
        found = json.loads((HERE / "speed" / f"{file}.json").read_text(encoding="utf-8"))["verbs"]
        for verb, one in found.items():
            stages = one["stages"]
            known = [stages.get(stage, 0.0) for stage in ("imports", "loading", "passes")]
            numbers = [one["cpu_seconds"], *known, one["products"], one["explained"]]
            rows.append([f"{verb}, {model}", *(f"{number:.1f}" for number in numbers), f"{one['peak_megabytes']:,.0f}"])
    head = ["", "CPU s", "imports", "loading", "passes", "products", "explained", "peak MB"]
    return markdown(head, rows)


BASE_TASKS = ("mrpc", "rte", "stsb", "cola")
BASE_ARMS = {
    "Full": "dense",
    "TAMT-KD": "mask training, KD",
    "IMP-KD 1e-4": "iterative pruning, KD, 1e-4",
    "IMP-KD 3e-4": "iterative pruning, KD, 3e-4",
    "OMP": "magnitude",
    "Rand": "random",
}


def base_scores() -> str:
    """Scores at the size of BERT-base: the chosen rate, its mean on the selected half, the seeds on the rest."""
    arms, rows, raw = at_base_size(), [], _rows("base/report/runs.csv")
    shares = {row["task"]: float(row["number"]) for row in raw if row["value"] == "majority"}
    for task in BASE_TASKS:
        dense, constant = fmean(arms["Full", task][2].values()), shares.get(task, 0.0)  # of a correlation 0
        for method, name in BASE_ARMS.items():
            rate, selected, scores = arms[method, task]
            above = (fmean(scores.values()) - constant) / (dense - constant)
            numbers = [f"{100 * selected:.1f}", seeds_of(scores, task), mean_of(scores), f"{above:.2f}"]
            rows.append([task_title(task), name, {"5e-05": "5e-5", "0.0001": "1e-4"}[rate], *numbers])
        rows.append([task_title(task), "one answer for all", "", "", "", f"{100 * constant:.1f}", "0"])
    head = ["task", "70 % sparsity", "rate", "selected half", "rest, seeds 0, 1, 2", "rest, mean", "share of dense*"]
    return markdown(head, rows)


def base_differences() -> str:
    """Differences at the size of BERT-base on the rest of the dev set."""
    arms = at_base_size()
    others = {"IMP-KD": "iterative pruning by KD, better rate", "OMP": "magnitude", "Rand": "random", "Full": "dense"}
    rows = [
        [name, *(apart(arms["TAMT-KD", task][2], arms[method, task][2]) for task in BASE_TASKS)]
        for method, name in others.items()
    ]
    return markdown(["mask training by KD minus", *(task_title(task) for task in BASE_TASKS)], rows)


SEARCHES = {"2048": "2,048 tokens, as in 0.1.0", "tuned": "1,024 tokens, now `tuned`", "48": "the same, 48 steps"}


def search_times() -> str:
    """Searches of 60 steps by KD: CPU seconds, KD loss on text that the search did not see, and fine-tuned scores."""
    rows = []
    for file, model in {"minilm_bf16": "MiniLM", "mpnet_base_bf16": "MPNet-base"}.items():
        report = read(f"time_to_ticket/{file}.json")
        before = report["means"]["2048"]["cpu_seconds"]
        for name, words in SEARCHES.items():
            if name not in report["searches"]:
                continue
            found, mean = report["searches"][name], report["means"][name]
            cells = [f"{mean['cpu_seconds']:.0f}", f"{mean['cpu_seconds'] / before:.2f}"]
            for key in ("text", "lines"):
                cells.append(f"{mean[key]:.4f} ({', '.join(f'{one[key]:.4f}' for one in found)})")
            rows.append([f"{model}: {words}", *cells])
    return markdown(["search, seeds 0, 1, ...", "CPU s", "ratio", "KD loss, text", "KD loss, questions"], rows)


def scores_of_search_times() -> str:
    """Scores of the tickets of MiniLM after fine-tuning, paired by seed."""
    found = read("time_to_ticket/minilm_tasks.json")["searches"]
    rows = []
    for task in ("mrpc", "stsb"):
        values = {name: [one[task] for one in some] for name, some in found.items()}
        differences = [100 * (now - before) for before, now in zip(values["2048"], values["tuned"], strict=True)]
        cells = [", ".join(f"{100 * one:.1f}" for one in scores) for scores in values.values()]
        rows.append([task_title(task), *cells, f"{fmean(differences):+.1f}"])
    return markdown(["seeds 0, 1, 2", *(SEARCHES[name] for name in found), "mean difference"], rows)


def choice_of_batches() -> str:
    """The settings that were compared with one seed: which losses they reach."""
    rows = []
    for file, model in {"choice_minilm": "MiniLM", "choice_mpnet_base": "MPNet-base"}.items():
        report = read(f"time_to_ticket/{file}.json")
        for name, values in report["settings"].items():
            one = report["searches"][name][0]
            filled = {"batch_tokens": 1024, "learning_rate": 3e-4, "adam_beta1": 0.6, "adam_beta2": 0.8} | values
            tokens, rate, *betas = filled.values()
            cells = [f"{tokens:,}", f"{rate:g}", ", ".join(f"{beta:g}" for beta in betas)]
            rows.append([model, *cells, f"{one['text']:.4f}", f"{one['lines']:.4f}"])
    return markdown(["seed 0", "tokens a step", "rate", "betas", "KD loss, text", "KD loss, questions"], rows)
