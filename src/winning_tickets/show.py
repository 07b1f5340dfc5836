"""Results as text for people: what the command line prints without `--json`."""

from __future__ import annotations

from typing import Any


def search(result: dict[str, Any], tickets: list[str]) -> str:
    """One ticket, or the rungs of a ladder."""
    if "rungs" not in result:
        share = result["pruned_share_of_all_parameters"]
        return f"{tickets[0]}\n{share:.1%} of all encoder parameters are pruned; saved in {result['out']}"
    lines = [
        f"{result['out']}/{rung['folder']}: {ticket}" for rung, ticket in zip(result["rungs"], tickets, strict=True)
    ]
    if result["steps"] is not None:
        lines.append(f"{result['steps']} steps; separate searches would take {result['steps_of_separate_searches']}")
    inside = [rung["kept_inside_previous"] for rung in result["rungs"][1:]]
    lines.append("nested" if result["nested"] else f"not nested: at least {min(inside):.1%} of a rung is kept below it")
    return "\n".join(lines)


def evaluation(result: dict[str, Any]) -> str:
    """The measured values of `evaluate`, a line each."""
    keys = ("kd_loss", "mlm_loss", "mlm_accuracy", "similarity_pearson", "similarity_spearman")
    lines = [f"{result['target']} ({result['sparsity']:.1%} pruned)"]
    lines += [f"  {key}: {result[key]:.4f}" for key in keys if result[key] is not None]
    if result["tokens"] is not None:
        lines.append(f"  over {result['tokens']:,} tokens of {result['corpus']} ({result['segments']})")
    return "\n".join(lines)


def transfer(result: dict[str, Any]) -> str:
    """Final and best metrics x100 with standard deviation and number of seeds."""
    lines = [f"{result['task']}, {len(result['seeds'])} seed(s)"]
    for name, kinds in result["metrics"].items():
        shown = []
        for kind in ("final", "best"):
            std = kinds[kind]["std"]
            shown.append(f"{kind} {100 * kinds[kind]['mean']:.1f}" + ("" if std is None else f" ± {100 * std:.1f}"))
        lines.append(f"  {name}: {', '.join(shown)}")
    return "\n".join(lines)


def comparison(result: dict[str, Any]) -> str:
    """Overlap of every pair, of kept and of pruned weights, with the chance level."""
    names = result["names"]
    lines = []
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            kept, pruned = result["kept_jaccard"][i][j], result["pruned_jaccard"][i][j]
            chance = result["chance_kept"][i][j]
            lines.append(f"{first} | {names[j]}: kept {kept:.4f} (chance {chance:.4f}), pruned {pruned:.4f}")
    return "\n".join(lines)


def description(result: dict[str, Any]) -> str:
    """What `inspect` says of a ticket."""
    lines = [
        f"{result['method']} ticket {result['id']} of {result['base']['name']}",
        f"  sparsity: {result['sparsity']:.6f} ({result['pruned']:,} of {result['total']:,}, scope {result['scope']})",
    ]
    lines += [f"  {name}: {value:.4f}" for name, value in result["by_matrix"].items()]
    if result["tickets_inside"]:
        lines.append(f"  tickets inside: {', '.join(result['tickets_inside'])}")
    return "\n".join(lines)


def predictions(result: dict[str, Any]) -> str:
    """One line a text: its label and probability, or its score."""
    lines = []
    for item in result["predictions"]:
        shown = f"{item['score']:.3f}" if "score" in item else f"{item['label']} ({max(item['scores'].values()):.3f})"
        lines.append(f"{shown}\t{' | '.join(item['text'])}")
    return "\n".join(lines)


def exported(result: dict[str, Any]) -> str:
    """What was written and what to expect of it."""
    return f"{result['format']} model written to {result['out']}\n{result['note']}"


def cache(result: dict[str, Any]) -> str:
    """Entries of the cache and their sizes."""
    lines = [f"{result['root']}: {len(result['entries'])} entries"]
    lines += [f"  {entry['key']}: {entry.get('bytes', 0) / 1e6:.1f} MB" for entry in result["entries"]]
    return "\n".join(lines)
