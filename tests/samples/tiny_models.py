"""Tiny pre-trained models of every architecture, built in code and saved as ordinary Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)
from transformers.utils import logging as transformers_logging

from samples.tiny import tiny_tokenizer

TEXT = [
    "the cat sat on the mat and looked at the small dog",
    "a dog ran over the green hill to find its lost ball",
    "birds sing in the tall tree when the sun comes up",
    "she reads an old book by the window every evening",
    "rain fell on the roof while they slept in the house",
    "he cooked soup with carrots onions and a little salt",
] * 6

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CONFIGS = {
    "bert": lambda size: BertConfig(vocab_size=size, **_SMALL, pad_token_id=0),
    "roberta": lambda size: RobertaConfig(
        vocab_size=size, **_SMALL, pad_token_id=0, bos_token_id=2, eos_token_id=3, max_position_embeddings=514
    ),
    "xlm-roberta": lambda size: XLMRobertaConfig(
        vocab_size=size, **_SMALL, pad_token_id=0, bos_token_id=2, eos_token_id=3, max_position_embeddings=514
    ),
    "camembert": lambda size: CamembertConfig(
        vocab_size=size, **_SMALL, pad_token_id=0, bos_token_id=2, eos_token_id=3, max_position_embeddings=514
    ),
    "electra": lambda size: ElectraConfig(vocab_size=size, **_SMALL, embedding_size=16, pad_token_id=0),
    "distilbert": lambda size: DistilBertConfig(
        vocab_size=size, dim=32, n_layers=2, n_heads=2, hidden_dim=64, pad_token_id=0
    ),
    "mpnet": lambda size: MPNetConfig(vocab_size=size, **_SMALL, pad_token_id=1, max_position_embeddings=514),
    "albert": lambda size: AlbertConfig(vocab_size=size, **_SMALL, embedding_size=16, pad_token_id=0),
    "deberta-v2": lambda size: DebertaV2Config(  # the settings of v3
        vocab_size=size,
        **_SMALL,
        pad_token_id=0,
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
    ),
    "modernbert": lambda size: ModernBertConfig(  # one layer of each kind of attention; the window is short
        vocab_size=size,
        **_SMALL,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
        local_attention=8,
    ),
}

_MADE: dict[tuple[Any, ...], tuple[dict[str, bytes], torch.Tensor]] = {}
"""Files of the models made before, and the state of the generator after each; most tests want the same few."""


def make_model(path: Path, kind: str = "bert", head: str = "mlm", seed: int = 0) -> Path:
    """Save a tiny model and its tokenizer.

    Args:
        path: folder to make.
        kind: a key of `CONFIGS`.
        head: `mlm` (ForMaskedLM has no pooler), `none`, or `mlm+pooler` (a pre-training checkpoint, which has both).
        seed: of the weights.
    """
    transformers_logging.disable_progress_bar()
    key = (kind, head, seed, tuple(TEXT))
    if key not in _MADE:
        with TemporaryDirectory() as made:
            _save_model(Path(made), kind, head, seed)
            files = {file.name: file.read_bytes() for file in Path(made).iterdir()}
        _MADE[key] = files, torch.get_rng_state()
    files, random_state = _MADE[key]
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    torch.manual_seed(seed)
    torch.set_rng_state(random_state)  # as if the weights had been drawn anew
    return path


def _save_model(path: Path, kind: str, head: str, seed: int) -> None:
    tokenizer = tiny_tokenizer(TEXT)
    torch.manual_seed(seed)
    config = CONFIGS[kind](len(tokenizer))
    config.initializer_range = 0.3  # larger than usual, so that pruning visibly changes the outputs
    loader = {"mlm": AutoModelForMaskedLM, "none": AutoModel, "mlm+pooler": AutoModelForPreTraining}[head]
    model = loader.from_config(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
