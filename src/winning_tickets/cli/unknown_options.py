"""What to give instead of an option that does not exist, if users know its name from other programs."""

from __future__ import annotations

import re
from typing import Any

_NAMES = {
    "--sparsity": ("amount", "pruning-ratio", "prune-ratio", "ratio", "sparsity-level", "target-sparsity"),
    "--task": ("task-name",),
    "--corpus": ("text", "calibration-data"),
    "--epochs": ("num-train-epochs", "num-epochs", "max-epochs"),
    "--steps": ("max-steps", "num-steps", "iterations", "epochs", "num-train-epochs"),
    "--batch-size": ("per-device-train-batch-size", "train-batch-size", "batch"),
    "--batch-tokens": ("per-device-train-batch-size", "train-batch-size", "batch-size", "batch"),
    "--learning-rate": ("lr",),
    "--out": ("output-dir", "output", "save-dir", "save-to"),
    "--max-length": ("max-seq-length", "max-seq-len", "seq-length"),
    "--bf16": ("fp16", "half", "amp", "mixed-precision"),
    "--device": ("gpu", "gpus", "cuda", "use-cpu", "no-cuda"),
    "--seeds": ("seed", "random-state"),
    "--seed": ("seeds", "random-state"),
    "--force": ("overwrite", "overwrite-output-dir"),
    "--teacher": ("teacher-model", "distill-from"),
}
"""Options, and what they are called elsewhere."""

_SENTENCES = {
    "The model is the first argument, without an option.": (
        "model",
        "model-name",
        "model-name-or-path",
        "pretrained-model-name-or-path",
    ),
    "A run trains and evaluates without being asked.": ("do-train", "do-eval"),
    "The same command resumes a run that was stopped.": ("resume", "resume-from-checkpoint"),
    "Give --sparsity, the share of weights that are pruned: a density of 0.3 is --sparsity 0.7.": ("density",),
    "Give --task for a task, or --corpus for text.": ("dataset", "dataset-name"),
}
"""Advice for other names, if the command has all options that it names."""


def advice(name: str, context: Any) -> str:
    """Return what to give instead of an option that the command of a context does not have.

    Example:
        >>> advice("--amount", context_of_search)  # doctest: +SKIP
        'Give --sparsity.'
    """
    known = {option for one in context.command.get_params(context) for option in (*one.opts, *one.secondary_opts)}
    word = name.lstrip("-").replace("_", "-").lower()
    if f"--{word}" in known:
        return f"Give --{word}."
    found = [f"Give {option}." for option, names in _NAMES.items() if word in names and option in known]
    found += [
        sentence
        for sentence, names in _SENTENCES.items()
        if word in names and {*re.findall(r"--[a-z-]+", sentence)} <= known
    ]
    return found[0] if found else ""
