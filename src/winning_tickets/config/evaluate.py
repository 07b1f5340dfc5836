"""The configuration of an evaluation without fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from winning_tickets.config.settings import Count, Seed, Settings


class EvaluateConfig(Settings):
    """An evaluation of a model or ticket without fine-tuning.

    Attributes:
        target: a ticket, or a model's name.
        base: the base model of a ticket, where it has moved since the search.
        objectives: any of `kd`, `mlm`, `attention`, `contrastive`, `logits`, `similarity`.
        corpus: text for all but the similarity; a folder's validation file is read.
        segments: how the corpus is cut.
        max_tokens: stop after so many unpadded tokens.
        batch_tokens: tokens a forward pass sees.
        task: scored-pairs task of the similarity.
        pairs_file: the user's own scored pairs, instead of a task.
        data_dir: GLUE folder.
        kd_loss: distance of the hidden states: 1 - `cosine` (TAMT eq. 6), or `mse` (what the released program reports).
        kd_padding: padded positions are `ignored` in it, or `counted` (the released program).
        kd_masked_tokens: tokens corrupted in each segment for it (the released program: one).
        temperature: of the contrastive loss.
        mlm_head: the base model's own MLM head or the one the ticket trained; None takes the ticket's if it has one.
        seed: of the MLM masking.
        allow_other_weights: evaluate the ticket on weights it was not made for.
    """

    target: str
    base: str | None = None
    revision: str | None = None
    layers: Count | None = None
    objectives: tuple[str, ...] = ("kd",)
    corpus: str | None = None
    segments: str = "packed:128"
    max_tokens: Count | None = None
    batch_tokens: Count = 4096
    task: str | None = None
    pairs_file: str | None = None
    data_dir: str | None = None
    kd_loss: Literal["cosine", "mse"] = "cosine"
    kd_padding: Literal["ignored", "counted"] = "ignored"
    kd_masked_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    mlm_head: Literal["base", "ticket"] | None = None
    seed: Seed = 42
    allow_other_weights: bool = False
