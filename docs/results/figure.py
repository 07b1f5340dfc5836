"""Draw docs/results/figure.svg, "Do tickets win?", from the raw JSON of mask_training and decoders.

    python docs/results/figure.py

Left: the similarity that unstructured tickets of MiniLM keep without fine-tuning. Right: the perplexity of a small
decoder as a multiple of the dense model's, the mean of all seeds.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from winning_tickets.analysis.report.figures import (
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
    with canvas(8.6, 3.9, "do tickets win", ("svg",)) as (drawing, made):
        left, right = drawing.subplots(1, 2)
        panels = (
            (left, similarities(), "MiniLM: similarity kept", "percent of the dense model", 100),
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
            name: line for axes in (left, right) for line, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        add_legend(drawing, 3, [handles[name] for name in LOOK])
    (HERE / "figure.svg").write_bytes(made["svg"])


if __name__ == "__main__":
    main()
