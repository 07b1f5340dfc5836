"""Draw docs/assets/which_verb.svg, "Which verb do I need"; `python docs/site/picture.py`."""

from __future__ import annotations

from html import escape
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "assets" / "which_verb.svg"
GROUPS = {
    "Find": [
        ("a sparse part of a model, for no task in particular", "search", "a ticket"),
        ("the heads and FFNs that are best for my task", "super", "a ticket and a model"),
        ("one model for several tasks, each with its ticket", "share", "a shared model"),
        ("a model that is twice as fast", "shrink", "a model, a report"),
        ("an MLM head for a model without one", "fit-head", "a model"),
    ],
    "Judge": [
        ("what it preserves, without training", "evaluate", "losses, similarity"),
        ("how well it fine-tunes", "transfer", "scores of seeds"),
        ("how two tickets differ", "compare", "overlap"),
        ("whether a difference is real", "analyse", "tables, figures"),
    ],
    "Use": [
        ("answers for new texts", "predict", "labels, scores"),
        ("a model that other programs load", "export", "a folder, ONNX"),
        ("its size and speed", "measure", "seconds, FLOPs"),
        ("a ticket or model that others find", "push", "a page on the hub"),
    ],
    "Repeat": [("a grid of all of these, or a figure of a paper", "study run", "a store, a report")],
}
COLORS = {"Find": "#3949ab", "Judge": "#00796b", "Use": "#e65100", "Repeat": "#6a1b9a"}
ROW, LEFT, VERB, RIGHT, WIDTH = 38, 108, 520, 690, 880


def main() -> None:
    parts: list[str] = []
    y = 52
    for group, rows in GROUPS.items():
        color = COLORS[group]
        height = ROW * len(rows)
        parts.append(f'<rect x="12" y="{y}" width="76" height="{height - 8}" rx="8" fill="{color}"/>')
        parts.append(
            f'<text x="50" y="{y + height / 2 + 1}" fill="white" font-weight="bold" text-anchor="middle">{group}</text>'
        )
        for want, verb, made in rows:
            middle = y + 15
            parts.append(f'<text x="{LEFT}" y="{middle + 5}" fill="#222">{escape(want)}</text>')
            parts.append(
                f'<path d="M{VERB - 44} {middle}h32" stroke="{color}" stroke-width="2" marker-end="url(#{group})"/>'
            )
            parts.append(f'<rect x="{VERB}" y="{y}" width="118" height="30" rx="15" fill="{color}"/>')
            parts.append(
                f'<text x="{VERB + 59}" y="{middle + 5}" fill="white" text-anchor="middle" '
                f'font-family="monospace" font-weight="bold">{verb}</text>'
            )
            parts.append(
                f'<path d="M{VERB + 122} {middle}h32" stroke="{color}" stroke-width="2" marker-end="url(#{group})"/>'
            )
            parts.append(f'<text x="{RIGHT}" y="{middle + 5}" fill="#222">{escape(made)}</text>')
            y += ROW
        y += 14
    markers = "".join(
        f'<marker id="{group}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{color}"/></marker>'
        for group, color in COLORS.items()
    )
    heads = ((LEFT, "I want ..."), (VERB, "tickets ..."), (RIGHT, "I get ..."))
    top = "".join(f'<text x="{x}" y="30" fill="#555" font-weight="bold">{text}</text>' for x, text in heads)
    OUT.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="15" '
        f'role="img"><title>Which verb do I need</title><rect width="{WIDTH}" height="{y}" rx="10" fill="white"/>'
        f"<defs>{markers}</defs>{top}{''.join(parts)}</svg>\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
