"""The user's names for weights that fine-tuning starts from or rewinds to, or whose magnitudes are ranked."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from pathlib import Path

from winning_tickets.runs.errors import UsageError

NOISE_SCALE = 0.1  # scale of `noise` where none is given, in standard deviations of each matrix


@dataclass(frozen=True)
class Rewind:
    """A policy of rewinding."""

    kind: str  # pretrained, none, reinit, noise, step or percent
    amount: float = 0.0  # the scale of the noise, the step, or the percentage of the first round

    def step(self, round_steps: int) -> int | None:
        """Return the step of the first round whose weights are kept for rewinding; None for other policies."""
        if self.kind == "percent":
            return round(self.amount * round_steps / 100)
        return int(self.amount) if self.kind == "step" else None


def parse_rewind(text: str) -> Rewind:
    """Parse a policy such as `step:100`."""
    kind, colon, number = text.partition(":")
    if not colon and kind in ("pretrained", "none", "reinit", "noise"):
        return Rewind(kind, NOISE_SCALE if kind == "noise" else 0.0)
    pattern = {"step": r"[0-9]+", "percent": r"[0-9.]+", "noise": r"[0-9.]+(e-?[0-9]+)?"}.get(kind)
    if pattern is not None and re.fullmatch(pattern, number):
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if (kind == "percent" and 0 <= amount <= 100) or (kind == "noise" and amount > 0) or kind == "step":
            return Rewind(kind, amount)
    raise UsageError(
        f"--rewind {text} is not a policy; use pretrained, step:K, percent:P (0 to 100 of the first round), none, "
        "noise, noise:SCALE or reinit."
    )


PRETRAINED = "pretrained"
START_WORDS = (PRETRAINED, "reinit", "shuffle-within", "shuffle-encoder", "shuffle-layers", "noise")


@dataclass(frozen=True)
class Start:
    """Weights to start from."""

    kind: str  # one of START_WORDS, or path
    scale: float = 0.0  # of noise, in standard deviations of each matrix
    path: Path | None = None  # a state file, or a folder with Hugging Face weights


def parse_start(text: str) -> Start:
    """Parse the name of weights to start from, such as `noise:0.1`, or a path that exists."""
    kind = text.partition(":")[0]
    if kind == "noise":
        try:
            return Start("noise", scale=parse_rewind(text).amount)
        except UsageError as error:
            raise UsageError(f"{text} is no start: noise:SCALE needs a number above 0, such as noise:0.1.") from error
    if text in START_WORDS:
        return Start(text)
    path = Path(text).expanduser()
    if path.exists():
        return Start("path", path=path)
    close = difflib.get_close_matches(text, START_WORDS, n=1, cutoff=0.6)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    raise UsageError(
        f"There are no weights {text!r}.{meant} Give pretrained, reinit, shuffle-within, shuffle-encoder, "
        "shuffle-layers, noise:SCALE, a state file (such as states/step-000100.safetensors of an imp search) or a "
        "folder with Hugging Face weights."
    )
