"""Draw docs/results/figure.svg, "Do tickets win?", from the raw numbers of tickets_win, mask_training and decoders.

    python docs/results/figure.py

Left: scores of tickets of MiniLM-MLM (3,000 steps) at 70 % sparsity, after fine-tuning with rate 2e-4, each seed as a
share of the mean of the dense model with its better rate. Middle: the similarity that tickets of MiniLM keep without
fine-tuning. Right: the perplexity of a small decoder as a multiple of the dense model's, the mean of all seeds.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from intervals import fine_tuned

from winning_tickets.report.figures import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILLION,
    Series,
    add_legend,
    canvas,
    draw_line,
)

HERE = Path(__file__).parent
LOOK = {
    "mask training, KD": (BLUE, "o"),
    "mask training, KD + logits": (GREEN, "s"),
    "iterative magnitude pruning": (ORANGE, "D"),
    "Wanda": (PURPLE, "v"),
    "magnitude": (VERMILLION, "^"),
    "random": (BLACK, "x"),
}
TASKS = {"sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "mnli": "MNLI", "cola": "CoLA"}
FINE_TUNED = {"mask training, KD": "TAMT-KD", "iterative magnitude pruning": "IMP", "magnitude": "OMP"}
ENCODER = {"mask training, KD": "tuned", "magnitude": "magnitude", "random": "random"}
DECODER = {
    "mask training, KD": "kd",
    "mask training, KD + logits": "kd+logits",
    "iterative magnitude pruning": "imp",
    "Wanda": "wanda",
    "magnitude": "magnitude",
}


def read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def scores() -> dict[str, dict[str, list[float]]]:
    """Return by method and task the final scores of all seeds at 70 %, in percent of the dense model's mean."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    models = fine_tuned("tickets_win/five_tasks_higher_rate") | {
        pair: scores for pair, scores in fine_tuned("tickets_win/five_tasks").items() if pair[0] == "Full"
    }
    for (method, _), of_pairs in models.items():
        for (task, _), score in of_pairs.items():
            found[method][task].append(score)
    dense = {task: statistics.mean(values) for task, values in found["Full"].items()}
    return {
        name: {task: [100 * one / dense[task] for one in found[method][task]] for task in TASKS}
        for name, method in FINE_TUNED.items()
    }


def similarities() -> dict[str, dict[float, float]]:
    """Return by method and sparsity the share of the dense similarity."""
    raw = HERE / "mask_training" / "raw"
    dense = read(raw / "dense.stsb.json")["similarity_pearson"]
    return {
        name: {
            level: 100 * read(raw / f"{method}-{level}.stsb.json")["similarity_pearson"] / dense
            for level in (50, 60, 70, 80)
        }
        for name, method in ENCODER.items()
    }


def perplexities() -> dict[str, dict[float, float]]:
    """Return by method and sparsity the mean perplexity of all seeds, as a multiple of the dense model's."""
    raw = HERE / "decoders" / "raw" / "study"
    dense = read(raw / "dense.json")["perplexity"]
    found = {}
    for name, method in DECODER.items():
        runs = [read(path)["tickets"] for path in [*raw.glob(f"{method}.json"), *raw.glob(f"{method}-seed?.json")]]
        found[name] = {
            level: statistics.mean(run[f"{level / 100:g}"]["perplexity"] for run in runs) / dense
            for level in (50, 60, 70)
        }
    return found


def main() -> None:
    """Write the figure."""
    with canvas(11.6, 3.9, "do tickets win", ("svg",)) as (drawing, made):
        left, middle, right = drawing.subplots(1, 3)
        left.axhline(100, **DASHED)
        for place, (name, by_task) in enumerate(scores().items()):
            color, marker = LOOK[name]
            for at, values in enumerate(by_task.values()):
                left.plot([at + 0.2 * (place - 1)] * len(values), values, marker, color=color, fillstyle="none")
        left.set(
            title="MiniLM-MLM at 70 %: fine-tuned", ylabel="percent of the dense model", xlim=(-0.5, len(TASKS) - 0.5)
        )
        left.set(xticks=range(len(TASKS)), xticklabels=TASKS.values())
        left.grid(axis="y")
        panels = (
            (middle, similarities(), "MiniLM: similarity kept", "percent of the dense model", 100),
            (right, perplexities(), "Decoder: perplexity", "multiple of the dense model", 1),
        )
        for axes, values, title, label, dense in panels:
            axes.axhline(dense, **DASHED)
            for name, points in values.items():
                color, marker = LOOK[name]
                series = Series(name, list(points), list(points.values()), color=color, marker=marker)
                draw_line(axes, series)
            axes.set(title=title, ylabel=label, xlabel="sparsity (%)", xticks=(50, 60, 70, 80))
            axes.grid(axis="y")
        right.set(
            yscale="log", yticks=(1, 1.25, 1.5, 2, 2.5), yticklabels=("1", "1.25", "1.5", "2", "2.5"), xlim=(49, 71)
        )
        right.set(xticks=(50, 60, 70))
        right.minorticks_off()
        handles = {
            name: line for axes in (middle, right) for line, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        add_legend(drawing, 3, [handles[name] for name in LOOK])
    (HERE / "figure.svg").write_bytes(made["svg"])


if __name__ == "__main__":
    main()
