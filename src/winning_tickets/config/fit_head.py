"""The configuration of fitting an MLM head."""

from __future__ import annotations

from winning_tickets.config.settings import Settings


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
        warmup_ratio: fraction of the steps with linear warm-up; after it the rates decay linearly to zero.
        weight_decay: of AdamW, on matrices only.
        mlm_probability: fraction of tokens masked.
        max_tokens: unpadded tokens of the validation part that the result is measured on; None means all.
        seed: of the fresh head, the data order and the masking.
    """

    model: str
    revision: str | None = None
    layers: int | None = None
    corpus: str | None = None
    data_dir: str | None = None
    steps: int = 1000
    train_encoder: bool = False
    batch_tokens: int = 2048
    segments: str = "packed:128"
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 1e-4
    warmup_ratio: float = 0.06
    weight_decay: float = 0.01
    mlm_probability: float = 0.15
    max_tokens: int | None = 60_000
    seed: int = 0
