"""The configuration of fitting an MLM head."""

from __future__ import annotations

import math

from pydantic import Field

from winning_tickets.config.settings import Count, Seed, Settings

WARMUP_RATIO = 0.06
"""Fraction of the steps that the learning rates rise where `warmup_steps` is None."""


class FitHeadConfig(Settings):
    """Fitting an MLM head to an encoder that has none.

    Attributes:
        model: hub id, local folder or `builtin:minilm`; without a trained MLM head.
        revision: hub revision of the model.
        layers: keep only the first so many layers.
        corpus: text the head is trained on.
        data_dir: folder of a `task:NAME` corpus.
        steps: optimiser steps.
        train_encoder: train the encoder too; else it stays as it is, bit for bit, and so do its tickets.
        batch_tokens: tokens an optimiser step sees.
        segments: how the corpus is cut: `packed:L`, `lines`, `mixed`.
        learning_rate: peak rate of the head.
        encoder_learning_rate: peak rate of the encoder, where it is trained.
        warmup_steps: steps over which the rates rise; None takes 6 % of all. After them they decay linearly to zero.
        weight_decay: of AdamW, on matrices only.
        mlm_probability: fraction of tokens masked.
        max_tokens: unpadded tokens of the validation part that the result is measured on; None means all, as in
            `tickets evaluate`.
        seed: of the fresh head, the data order and the masking.
    """

    model: str
    revision: str | None = None
    layers: Count | None = None
    corpus: str | None = None
    data_dir: str | None = None
    steps: int = 1000
    train_encoder: bool = False
    batch_tokens: int = Field(default=2048, ge=1)
    segments: str = "packed:128"
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    encoder_learning_rate: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    warmup_steps: int | None = Field(default=None, ge=0)
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    mlm_probability: float = 0.15
    max_tokens: int | None = Field(default=None, ge=1)
    seed: Seed = 0

    @property
    def warmup(self) -> int:
        """Steps of the warm-up."""
        return math.ceil(WARMUP_RATIO * self.steps) if self.warmup_steps is None else self.warmup_steps
