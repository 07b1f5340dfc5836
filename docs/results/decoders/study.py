"""Compares the methods on a decoder: perplexity on held-out articles of tickets of 50, 60 and 70 %, and of 2:4.

    python docs/results/decoders/study.py ARTICLES MODEL OUT --steps 100

ARTICLES is the folder that train.py reads, MODEL its OUT/model. OUT gets the tickets; each finished run leaves a file
in OUT/raw, and is not done again. Mask training takes `--steps` optimizer steps for the first sparsity and half of them
for each further one, which starts from the scores of the one before; iterative pruning takes `--steps` for each.
`--table` only prints the results as Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SPARSITIES = (0.5, 0.6, 0.7)
SEEDS = (0, 1, 2)
OBJECTIVES = ("kd+clm", "kd", "clm", "logits", "kd+logits")
SEARCH_CHARACTERS = 8_000_000  # of the training articles; the model has read them too


def settings_of_runs(steps: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name and the settings of each search: all methods with the first seed, then the other seeds."""
    levels: dict[str, Any] = {"sparsity": SPARSITIES}
    pattern: dict[str, Any] = {"pattern": "2:4"}
    whole = {"method": "mask-training", "steps": steps, "objective": "kd", "sparsity": 0.5}
    for method in ("wanda", "magnitude"):
        yield method, levels | {"method": method}
        yield f"{method}-2of4", pattern | {"method": method}
    for seed in SEEDS:
        drawn: dict[str, Any] = {"seed": seed}
        yield f"random-seed{seed}", levels | {"method": "random"} | drawn
        yield f"random-2of4-seed{seed}", pattern | {"method": "random"} | drawn
        for objective in OBJECTIVES:
            trained = {"method": "mask-training", "steps": steps, "objective": objective} | drawn
            if "logits" in objective:
                trained["logits_top_k"] = 100
            yield f"{objective}-seed{seed}", levels | trained
            yield f"{objective}-2of4-seed{seed}", pattern | trained
        yield f"end-to-end-seed{seed}", whole | drawn
        yield f"block-wise-seed{seed}", whole | {"block_wise": True} | drawn
        rounds = {"method": "imp", "objective": "clm", "round_steps": steps, "learning_rate": 5e-4}
        yield f"imp-seed{seed}", levels | rounds | drawn


def search_text(articles: Path, out: Path) -> Path:
    """Returns a file with the first training articles, one paragraph a line."""
    path = out / "search.txt"
    if not path.exists():
        text = (articles / "wiki.train.txt").read_text(encoding="utf-8")[:SEARCH_CHARACTERS]
        path.write_text(text.rpartition("\n\n")[0].replace("\n\n", "\n"), encoding="utf-8")
    return path


def run_all(args: argparse.Namespace) -> None:
    """Searches and measures what is not in OUT/raw yet."""
    import torch

    from winning_tickets import EvaluateConfig, Runtime, SearchConfig, evaluate, search_all

    torch.set_num_threads(args.threads)
    raw, runtime = args.out / "raw", Runtime(quiet=True, bf16=True)
    raw.mkdir(parents=True, exist_ok=True)
    corpus = search_text(args.articles, args.out)

    def perplexity(target: Path) -> dict[str, Any]:
        config = EvaluateConfig(
            target=str(target),
            objectives=("perplexity",),
            corpus=str(args.articles / "wiki.valid.txt"),
            max_tokens=args.max_tokens,
        )
        found = evaluate(config, runtime)
        return {key: found[key] for key in ("perplexity", "word_perplexity", "perplexity_tokens", "max_length")}

    def store(name: str, content: dict[str, Any]) -> None:
        temporary = raw / f"{name}.tmp"
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(raw / f"{name}.json")
        sys.stderr.write(f"{name}: {content}\n")

    if not (raw / "dense.json").exists():
        store("dense", perplexity(args.model))
    text = {"corpus": str(corpus), "segments": f"packed:{args.length}", "batch_tokens": 2048}
    for name, settings in settings_of_runs(args.steps):
        if (raw / f"{name}.json").exists():
            continue
        read = text if settings["method"] not in ("magnitude", "random") else {}
        started = time.process_time()
        config = SearchConfig(model=str(args.model), **read | settings)
        tickets = search_all(config, args.out / name, runtime)
        seconds = round(time.process_time() - started)
        folders = [args.out / name / config.rung_folder(level) for level in tickets]
        if len(tickets) == 1:
            folders = [folders[0].parent]
        measured = {str(level): perplexity(folder) for level, folder in zip(tickets, folders, strict=True)}
        store(name, {"settings": settings, "search_cpu_seconds": seconds, "tickets": measured})


def table(raw: Path) -> str:
    """Returns the perplexities as Markdown: a mean with its standard deviation where there are several seeds."""
    dense = json.loads((raw / "dense.json").read_text())["perplexity"]
    found: dict[str, dict[str, list[float]]] = {}
    for path in sorted(raw.glob("*.json")):
        if path.stem == "dense":
            continue
        method = path.stem.partition("-seed")[0].replace("-2of4", "")
        for level, measured in json.loads(path.read_text())["tickets"].items():
            column = "2:4" if "2of4" in path.stem else f"{float(level):.0%}"
            found.setdefault(method, {}).setdefault(column, []).append(measured["perplexity"])
    columns = [f"{one:.0%}" for one in SPARSITIES] + ["2:4"]
    lines = [f"Dense: {dense:.1f}", "", f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for method, cells in found.items():
        shown = []
        for column in columns:
            values = cells.get(column, [])
            spread = f" ± {statistics.stdev(values):.1f} (n={len(values)})" if len(values) > 1 else ""
            shown.append(f"{statistics.mean(values):.1f}{spread}" if values else "-")
        lines.append(f"| {method} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the study, or prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("articles", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--max-tokens", type=int, default=60_000, help="tokens of the held-out articles")
    parser.add_argument("--length", type=int, default=256, help="tokens of a segment")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        run_all(args)
    sys.stdout.write(table(args.out / "raw"))


if __name__ == "__main__":
    main()
