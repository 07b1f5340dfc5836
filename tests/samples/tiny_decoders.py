"""Tiny decoders of every family, built in code, with a byte-level tokenizer in place of the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

END, BEGIN = "<|endoftext|>", "<s>"
_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
_GROUPED = _SMALL | {"num_key_value_heads": 2, "intermediate_size": 24, "pad_token_id": None}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 32},
    "opt": _SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 16, "pad_token_id": 1},
    "gpt_neox": _SMALL | {"intermediate_size": 24},
    "llama": _GROUPED | {"tie_word_embeddings": False},
    "mistral": _GROUPED | {"sliding_window": 8},
    "qwen2": _GROUPED | {"tie_word_embeddings": True},
    "qwen3": _GROUPED | {"head_dim": 8, "tie_word_embeddings": True},
    "gemma2": _GROUPED
    | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
    "gemma3_text": _GROUPED | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "phi3": _GROUPED | {"tie_word_embeddings": False},
}
"""Settings of the configuration of each family; four heads, in two groups where the family has groups."""


def byte_tokenizer(begin: bool = False, end: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are bytes: 0 is the end of a text, 1 its beginning, which `begin` puts before a text."""
    vocabulary = {token: index for index, token in enumerate([END, BEGIN, *sorted(ByteLevel.alphabet())])}
    backend = Tokenizer(BPE(vocabulary, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if begin:
        backend.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 1)])
    backend.add_special_tokens([END, BEGIN])
    tokens = {"bos_token": BEGIN} | ({"eos_token": END} if end else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=128, **tokens)


def make_decoder(path: Path, kind: str = "llama", seed: int = 0, begin: bool = False, **settings: Any) -> Path:
    """Save a tiny decoder and its tokenizer; `settings` are of the configuration."""
    transformers_logging.disable_progress_bar()
    tokenizer = byte_tokenizer(begin)
    ids = {"bos_token_id": 1, "eos_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **DECODERS[kind] | settings)
    config.initializer_range = 0.3  # larger than usual, so that pruning visibly changes the outputs
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
