"""The configuration of making a model faster."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import field_validator

from winning_tickets.config.objective import parse_objective
from winning_tickets.config.settings import ASCENDING, Count, Seed, Settings, impossible, setting

LOSS_NAMES = ("states", "pooled", "similarity", "logits")
"""Terms of `--losses`; `winning_tickets.training.objectives.distillation` computes them."""
DEFAULT_STEPS = 1000
_SHAPE = re.compile(r"batch=(\d+),length=(\d+)")

_model = partial(setting, panel="Model and data")
_budget = partial(setting, panel="Budget")
_choose = partial(setting, panel="Structure")
_recover = partial(setting, panel="Recovery")
_export = partial(setting, panel="Export and measurement")


class ShrinkConfig(Settings):
    """Configuration of `shrink`: a model, how much faster it becomes, and the text that it is taught on."""

    model: str = _model(..., "Hub id, local folder, builtin:minilm, or a transfer with --save-model.")
    revision: str | None = _model(None, "Hub revision of the model.")
    corpus: str | None = _model(
        None,
        "Text that the small model learns from: wikitext-103, pydocs, task:NAME, a text file or a folder. By default "
        "the sentences of --task; a fine-tuned model takes those of its own task.",
        everyday=True,
    )
    train_file: str | None = _model(
        None,
        "Your own texts in a csv, tsv, jsonl or parquet file, instead of --corpus; labels are not read. A fine-tuned "
        "model takes each row as an example of its task.",
        everyday=True,
    )
    text_columns: tuple[str, ...] | None = _model(
        None, "Text columns of --train-file. By default well-known names, or those of the fine-tuned model."
    )
    validation: str | None = _model(
        None, "Held-out text. By default the validation part of the text, or a twentieth of it where it has none."
    )
    task: str | None = _model(None, "Task with scored pairs whose similarity is reported: stsb.", everyday=True)
    pairs_file: str | None = _model(None, "Your own scored pairs, instead of a task: csv, tsv, jsonl or parquet.")
    data_dir: str | None = _model(None, "Folder with the data of the task.", everyday=True)
    speedup: Annotated[tuple[float, ...], ASCENDING] = _budget(
        (2.0,),
        "How many times as fast as the dense model. Several values, such as 1.5,2,3, give one model each.",
        everyday=True,
    )
    size: Annotated[tuple[float, ...], ASCENDING] = _budget(
        (),
        "Share of the encoder's parameters that may stay, such as 0.5, instead of --speedup. Several are allowed.",
        everyday=True,
    )
    by: Literal["latency", "flops"] = _budget(
        "latency", "What --speedup counts: time measured on this machine, or operations.", everyday=True
    )
    latency_on: str = _budget(
        "batch=8,length=64", "Batch size and tokens per text for which the speed is measured.", everyday=True
    )
    choice: Literal["importance", "depth"] = _choose(
        "importance",
        "What stays under the budget: the most important heads, neurons and layers (importance), or evenly spread "
        "whole layers (depth).",
    )
    uniform: bool = _choose(
        False, "Keep all heads and equally many neurons in every layer that stays, so that no remote code is needed."
    )
    vocabulary: bool = _choose(
        False,
        "Also remove the word embeddings of tokens that do not occur in the text; the tokenizer then splits other "
        "words into tokens that remain.",
        everyday=True,
    )
    importance_batches: Count = _choose(64, "Batches of text on which importances are computed.")
    removal_batches: Count = _choose(
        4, "Batches of text on which the loss of a layer with fewer heads or neurons is measured."
    )
    steps: int | None = _recover(
        None,
        "Optimizer steps of the recovery of each model. By default 1,000, or what --minutes allow.",
        ge=0,
        everyday=True,
    )
    minutes: float | None = _recover(None, "Minutes of the recovery of each model.", gt=0)
    losses: str | None = _recover(
        None,
        "Sum of the losses between the small and the dense model: states, pooled, similarity, logits, such as "
        "states+pooled:2. The default depends on the kind of model.",
    )
    learning_rate: float = _recover(3e-4, "Peak learning rate of the recovery.", gt=0, everyday=True)
    warmup_steps: int = _recover(20, "Steps of linear warm-up, before a linear decay to zero.", ge=0)
    weight_decay: float = _recover(0.01, "Weight decay of matrices.", ge=0)
    batch_tokens: Count = _recover(2048, "Tokens in an optimizer step.", everyday=True)
    segments: str | None = _recover(
        None,
        "Segments that the text is cut into: packed:L, lines or mixed. By default lines for the sentences of a task or "
        "of --train-file, and mixed for other text.",
        everyday=True,
    )
    eval_steps: Count = _recover(50, "Optimizer steps between evaluations on held-out text.")
    patience: Count = _recover(10, "Stop after this many evaluations without a lower held-out loss.")
    max_tokens: Count = _recover(20_000, "Tokens of held-out text in an evaluation.")
    formats: tuple[Literal["onnx", "int8"], ...] = _export(
        (),
        "Further formats: onnx, and int8 (ONNX with weights of one byte). A later call with the same other settings "
        "adds those that it names, and trains nothing again.",
        output=True,
        everyday=True,
    )
    repeats: Count = _export(20, "Timed passes of each model in the report.")
    seed: Seed = _recover(0, "Seed of the data order.", everyday=True)

    @field_validator("latency_on")
    @classmethod
    def _a_shape(cls, value: str) -> str:
        match = _SHAPE.fullmatch(value.replace(" ", ""))
        if match is None or min(int(match[1]), int(match[2])) < 1:
            raise impossible(f'--latency-on {value!r} is no shape; write it as "batch=8,length=64".')
        return match[0]

    @field_validator("speedup", "size", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @property
    def shape(self) -> tuple[int, int]:
        """Batch size and length of `latency_on`."""
        batch, length = re.findall(r"\d+", self.latency_on)
        return int(batch), int(length)

    @property
    def counts(self) -> Literal["latency", "flops", "size"]:
        """What the budget limits."""
        return "size" if self.size else self.by

    @property
    def budgets(self) -> dict[str, float]:
        """The share of the dense model's cost that each small model may have, by the name of its folder."""
        if self.size:
            return {f"size-{share:g}": share for share in reversed(self.size)}
        return {f"speedup-{factor:g}": 1 / factor for factor in self.speedup}

    @property
    def most_steps(self) -> int | None:
        """Steps after which a recovery ends; None where only `minutes` limit it."""
        if self.steps is None and self.minutes is None:
            return DEFAULT_STEPS
        return self.steps

    @property
    def most_batches(self) -> int | None:
        """Batches of text that are read at most; None where only `minutes` limit them."""
        if self.most_steps is None:
            return None
        return max(self.most_steps, self.importance_batches, self.removal_batches)

    @property
    def text(self) -> str | None:
        """The corpus, the file, or the sentences of the task."""
        return self.corpus or self.train_file or (None if self.task is None else f"task:{self.task}")

    @property
    def cut(self) -> str:
        """Segments of the text: by default lines for a task or a training file, and mixed lengths for other text."""
        if self.segments is not None:
            return self.segments
        return "lines" if self.train_file is not None or str(self.text).startswith("task:") else "mixed"

    @property
    def weights(self) -> dict[str, float] | None:
        """Weights of `losses`; None where the kind of model decides."""
        return None if self.losses is None else parse_objective(self.losses, LOSS_NAMES)

    def problems(self) -> list[str]:
        """Return the settings that contradict each other."""
        found = []
        if self.size and "speedup" in self.model_fields_set:
            found.append("--size and --speedup are two budgets; give one of them.")
        if self.size and "by" in self.model_fields_set:
            found.append("--by says what --speedup counts; with --size leave it out.")
        if not self.size and (not self.speedup or min(self.speedup) <= 1):
            found.append(
                f"--speedup {','.join(f'{one:g}' for one in self.speedup)} is impossible; give values above 1."
            )
        if any(not 0 < one < 1 for one in self.size):
            found.append(f"--size {','.join(f'{one:g}' for one in self.size)} is impossible; give shares such as 0.5.")
        if self.corpus is not None and self.train_file is not None:
            found.append("--corpus and --train-file are two texts to learn from; give one of them.")
        if self.text_columns is not None and (self.train_file is None or len(self.text_columns) > 2):
            found.append("--text-columns names the one or two text columns of --train-file.")
        if self.task is not None and self.pairs_file is not None:
            found.append("--task and --pairs-file are two sources of scored pairs; give one of them.")
        return found
