"""Which weights fine-tuning starts from, or magnitudes are taken of, as the user writes it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from winning_tickets.config.rewinding import parse_rewind
from winning_tickets.errors import UsageError

PRETRAINED = "pretrained"
START_WORDS = (PRETRAINED, "reinit", "shuffle-within", "shuffle-layers", "noise")


@dataclass(frozen=True)
class Start:
    """Weights to start from.

    Attributes:
        kind: one of `START_WORDS`, or `path`.
        scale: of `noise`: standard deviations of each matrix; 0 for the others.
        path: of `path`: a state file, or a folder with Hugging Face weights.
    """

    kind: str
    scale: float = 0.0
    path: Path | None = None


def parse_start(text: str) -> Start:
    """The weights that the user's word, or path, stands for.

    Raises:
        UsageError: neither a word nor something that exists, or an impossible scale of noise.
    """
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
        f"There are no weights {text!r}.{meant} Give pretrained, reinit, shuffle-within, shuffle-layers, noise:SCALE, "
        "a state file (such as states/step-000100.safetensors of an imp search) or a folder with Hugging Face weights."
    )
