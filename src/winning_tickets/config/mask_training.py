"""The configuration of searches that train scores: masks of weights, and what gates share with them."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from winning_tickets.config import profiles
from winning_tickets.config.search import (
    MEMORY,
    OBJECTIVE,
    TRAINING,
    CalibratedSearch,
    CountedSearch,
    LogitsSearch,
    RoundedWeights,
    ScheduledSearch,
    SteppedSearch,
    TeacherSearch,
)
from winning_tickets.config.settings import Open, setting

_objective = partial(setting, panel=OBJECTIVE)
_train = partial(setting, panel=TRAINING)
_memory = partial(setting, panel=MEMORY)


class ScoreTraining(SteppedSearch, ScheduledSearch, CalibratedSearch, TeacherSearch):
    """What the training of masks and that of gates read."""

    kd_masked_tokens: Open[int] = _objective(
        None,
        "Tokens masked in each sequence if --objective has no mlm. The released KD code masks one.",
        ge=0,
        option=None,
    )
    step_offset: Open[int] = _train(
        None, "Number added to --steps. The released KD code saves its tickets one step early (-1).", option=None
    )
    score_init: Open[Literal["activation", "rank", "plateau", "random"]] = _train(
        None,
        "Initial scores: by the rank of absolute weights (rank), by the rank of absolute weights times input norms "
        "(activation), two values by magnitude (plateau, TAMT eq. 5), or two values at random (random).",
    )
    alpha: float = _train(2.0, "Initial scores of kept weights in units of phi (TAMT eq. 5).", gt=0)
    phi: float = _train(0.01, "Threshold at the start (TAMT eq. 3).", gt=0, option=None)
    optimizer: Open[Literal["adamw", "adamw-hf", "bertadam"]] = _train(
        None, "Optimizer: adamw, adamw-hf (epsilon before the bias correction) or bertadam (no bias correction)."
    )
    adam_beta1: Open[float] = _train(None, "Decay of the optimizer's first moment.", ge=0, lt=1, option=None)
    adam_beta2: Open[float] = _train(None, "Decay of the optimizer's second moment.", ge=0, lt=1, option=None)
    adam_epsilon: Open[float] = _train(None, "Epsilon of the optimizer.", gt=0)
    clip: Open[Literal["global", "tensor", "none"]] = _train(
        None,
        "Clip gradients by the norm over scores and head together (global) or of each tensor (tensor), or not (none).",
    )
    save_at: tuple[int, ...] = _train((), "Steps at which intermediate tickets are saved, such as 100,500.")

    @property
    def first_steps(self) -> int:
        """Optimizer steps of the first ticket; at least 1."""
        return max(1, self.steps + (self.step_offset or 0))

    @property
    def total_steps(self) -> int:
        """Optimizer steps that one training takes."""
        return self.first_steps

    @property
    def most_steps(self) -> int:
        return max(self.total_steps, self.calibration_batches)

    def problems(self) -> list[str]:
        found, filled = super().problems(), self.resolved()
        beyond = [step for step in self.save_at if not 1 <= step <= filled.total_steps]
        if beyond:
            found.append(f"--save-at {beyond[0]} is outside the search of {filled.total_steps} steps.")
        if filled.clip != "none" and self.max_grad_norm == 0:
            found.append("--max-grad-norm 0 would make all gradients zero; give a larger one, or --clip none.")
        return found


class MaskTraining(ScoreTraining, LogitsSearch, RoundedWeights, CountedSearch):
    """Tickets from scores of single weights that are trained on pre-training objectives (TAMT, section 3.4)."""

    finder = "winning_tickets.pruning.mask_training:find_trained_mask"

    rung_steps: int | None = _train(
        None, "Optimizer steps of each sparsity level after the first. By default half of --steps.", ge=1
    )
    head_learning_rate: Open[float] = _train(None, "Learning rate of the MLM head.", gt=0, option=None)
    rank_by: Open[Literal["signed", "absolute"]] = _train(
        None,
        "Rank scores by their value (signed: TAMT eq. 3, the released code) or by absolute value (TAMT section 3.4.2).",
    )
    reselect_steps: Open[int] = _train(None, "Steps between adjustments of the threshold.", ge=1, option=None)
    cadence: Open[Literal["after", "before"]] = _train(
        None,
        "Time of adjusting the threshold: after every reselect_steps steps, or one step earlier and also after the "
        "first step (before).",
        option=None,
    )
    threshold: Open[Literal["reached", "exceeded"]] = _train(
        None, "Between adjustments, keep weights whose score has reached the threshold (TAMT eq. 3), or exceeded it."
    )
    train_embeddings: Open[bool] = _train(
        None, "Train the mask of the word embeddings too. Otherwise it keeps its initial value."
    )
    score_dtype: Literal["float32", "bfloat16"] = _memory(
        "float32", "Type of the scores. In bfloat16 they are rounded up or down at random, so that no update is lost."
    )
    moment_dtype: Literal["float32", "bfloat16"] = _memory(
        "float32", "Type of AdamW's two moments of each score: 4 bytes each, or 2 in bfloat16."
    )
    block_wise: bool = _memory(
        False,
        "Train the masks of one layer after the other, each on the distance of its output from that of the dense layer "
        "(--objective kd). --steps are divided among the layers. Only one layer has gradients, scores and moments.",
        option="--block-wise/--end-to-end",
    )

    @property
    def steps_of_a_rung(self) -> int:
        """Optimizer steps of every sparsity level but the first."""
        return (self.steps + 1) // 2 if self.rung_steps is None else self.rung_steps

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all sparsity levels."""
        return self.first_steps + (len(self.sparsities) - 1) * self.steps_of_a_rung

    @property
    def betas(self) -> tuple[float, float]:
        """Decay of the optimizer's two moments."""
        return self.adam_beta1, self.adam_beta2

    @property
    def defaults_version(self) -> int:
        """Version 2 of `tuned` has other values for searches that only follow the dense model."""
        return 2 if self.profile == "tuned" and not self.block_wise and profiles.follows(self.objective) else 1

    def profile_values(self) -> dict[str, Any]:
        """Return the values of the profile for this objective and ranking."""
        # Layers that share the steps have few of them each.
        steps = 0 if self.block_wise else self.first_steps
        return profiles.profile_values(self.profile, self.method, self.objective, self.ranking, steps=steps)

    def problems(self) -> list[str]:
        found, filled = super().problems(), self.resolved()
        short = {"--score-dtype": self.score_dtype, "--moment-dtype": self.moment_dtype}
        found += [
            f"{option} {dtype} needs --optimizer adamw, and it is {filled.optimizer}."
            for option, dtype in short.items()
            if dtype != "float32" and filled.optimizer != "adamw"
        ]
        rows = ["--ranking row"] if self.ranking == "row" else []
        rows += [] if self.pattern is None else [f"--pattern {self.pattern}"]
        found += [
            f"{option} selects at every step, and reselect_steps is {filled.reselect_steps} (profile "
            f"{filled.profile}); use another profile, or set reselect_steps: 1 in a --config file."
            for option in rows
            if filled.reselect_steps > 1
        ]
        if not self.block_wise:
            return found
        contradictions = {
            f"--objective {self.objective}, which needs the last layer; give kd": {*self.known_terms} - {"kd"},
            "--kd-layers: each layer learns from its own output": self.kd_layers,
            "several sparsities; give one": len(self.sparsities) > 1,
            "--ranking global, which compares all layers": self.ranking == "global",
            "--train-embeddings, which are no part of a layer": filled.train_embeddings,
            "--score-init random; give activation, rank or plateau": filled.score_init == "random",
        }
        return found + [f"--block-wise contradicts {what}." for what, is_there in contradictions.items() if is_there]
