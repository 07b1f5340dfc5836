"""A small world of models, text and tasks, and the commands that are disturbed in it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from winning_tickets.studies.tiny import tiny_folder

TEXT = ("--corpus", "{world}/text", "--segments", "packed:16", "--batch-tokens", "64")
TASK = ("--task", "rte", "--data-dir", "{world}/glue")
OFTEN = ("--checkpoint-steps", "3")
"""Not as often as evaluations or tickets, so that a kill after one of these resumes from a checkpoint before it."""
SEARCH = ("search", "{world}/bert")
FINE_TUNED = ("transfer", "{world}/bert", *TASK, "--seeds", "0", "--steps", "2", "--save-model",
              "--out", "{world}/fine-tuned")  # fmt: skip
"""Makes the model that `adaptation` starts from."""
STUDY = """\
name: little
title: Little
scales: {smoke: {model: "tiny:bert", tasks: [rte], steps: 2}}
stages:
  search:
    verb: search
    with: {model: "${model}", sparsity: 0.5}
    over: {method: [magnitude, random]}
  transfer:
    verb: transfer
    with: {target: "@search", data_dir: "tiny:glue", steps: "${steps}"}
    over: {task: "${tasks}", seed: [0]}
"""

COMMANDS: dict[str, tuple[str, ...]] = {
    "random": (*SEARCH, "--method", "random", "--sparsities", "0.5,0.7"),
    "magnitude": (*SEARCH, "--method", "magnitude", "--sparsity", "0.6"),
    "wanda": (*SEARCH, "--method", "wanda", "--sparsity", "0.6", *TEXT),
    "mask-training": (*SEARCH, "--method", "mask-training", "--objective", "kd,mlm", "--sparsities", "0.5,0.7",
                      "--steps", "5", "--rung-steps", "2", "--save-at", "3", *TEXT, "--checkpoint-steps", "2"),
    "gates": (*SEARCH, "--method", "mask-training", "--objective", "kd", "--level", "25,50", "--steps", "4",
              "--save-at", "2", *TEXT, *OFTEN),
    "imp": (*SEARCH, "--method", "imp", "--objective", "mlm+task", "--task", "rte", "--data-dir", "{world}/glue",
            "--sparsities", "0.2,0.5,0.8", "--round-steps", "2", "--rewind", "step:1", "--save-trained", *TEXT, *OFTEN),
    "snip": (*SEARCH, "--method", "snip", "--objective", "mlm", "--sparsity", "0.6", *TEXT),
    "movement": (*SEARCH, "--method", "movement", "--objective", "task", *TASK, "--sparsity", "0.6", "--steps", "4",
                 *OFTEN),
    "importance": (*SEARCH, "--method", "importance", "--objective", "mlm", "--level", "25,50", *TEXT),
    "fit-head": ("fit-head", "{world}/headless", "--steps", "5", "--eval-steps", "2", *TEXT, *OFTEN),
    "transfer": ("transfer", "{world}/bert", *TASK, "--seeds", "0,1", "--steps", "5", "--eval-steps", "2",
                 "--save-model", *OFTEN),
    "adaptation": ("transfer", "{world}/fine-tuned/seed-0/model", *TASK, "--seeds", "0", "--steps", "5",
                   "--eval-steps", "2", "--save-model", *OFTEN),
    "share": ("share", "--model", "{world}/bert", "--tasks", "rte,mrpc", "--tickets", "auto", "--level", "50%",
              "--data-dir", "{world}/glue", "--epochs", "2", "--seeds", "0", "--fine-tune", "--train-size", "24",
              "--checkpoint-steps", "4"),
    "super": ("super", "{world}/bert", *TASK, "--level", "50", "--selections", "winning,random", "--steps", "4",
              "--eval-steps", "2", "--recover", "4", "--seeds", "0,1", "--select-on", "0.25",
              "--learning-rate", "1e-3", "--batch-size", "8", *OFTEN),
    "shrink": ("shrink", "{world}/bert", "--speedup", "1.5,1.9", "--by", "flops", "--latency-on", "batch=2,length=8",
               "--steps", "5", "--eval-steps", "2", "--max-tokens", "256", "--importance-batches", "2",
               "--repeats", "1", *TEXT, *OFTEN),
    "study": ("study", "run", "{world}/little.yaml", "--scale", "smoke", "--workers", "1", *OFTEN),
}  # fmt: skip
"""By name, without `--out` (of a study `--store`)."""

APART: dict[str, tuple[str, ...]] = {
    f"{name}, {how}": (*COMMANDS[name][: -len(OFTEN)], *length, *words)
    for name, length in {
        "shrink": ("--speedup", "1.5", "--steps", "11"),
        "transfer": ("--seeds", "0", "--steps", "11"),
        "adaptation": ("--steps", "11", "--patience", "1"),
        "fit-head": ("--steps", "11"),
    }.items()
    for how, words in {
        "evaluated every 5 steps": ("--eval-steps", "5", "--checkpoint-steps", "8"),
        "evaluated every 8 steps": ("--eval-steps", "8", "--checkpoint-steps", "5"),
        "checkpoints by time": ("--eval-steps", "2", "--checkpoint-seconds", "0.02"),
    }.items()
}
APART["super, shorter"] = (*COMMANDS["super"], "--seeds", "0", "--selections", "winning")
"""Longer trainings whose evaluations and checkpoints are apart, in both orders, and by time."""


def make_world(folder: Path) -> Path:
    """The models and data of `COMMANDS`."""
    for name in ("bert", "text", "glue"):
        tiny_folder(name, folder)
    transformers_logging.set_verbosity_error()  # the head is left out on purpose
    AutoModel.from_pretrained(folder / "bert", add_pooling_layer=False).save_pretrained(folder / "headless")
    AutoTokenizer.from_pretrained(folder / "bert").save_pretrained(folder / "headless")
    (folder / "little.yaml").write_text(STUDY)
    return folder


def words_of(name: str, world: Path, out: Path) -> list[str]:
    """The command line of a command."""
    place = "--store" if name == "study" else "--out"
    return [*(word.format(world=world) if "{world}" in word else word for word in (COMMANDS | APART)[name]),
            "--quiet", place, str(out)]  # fmt: skip
