"""Tiny sentence-transformers: the encoders of `tiny_models` with the files of that library beside them."""

from __future__ import annotations

import json
from pathlib import Path

from samples.tiny_models import make_model

MODULES = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}


def make_sentence_transformer(folder: Path, kind: str = "bert", max_seq_length: int = 24) -> Path:
    """Save an encoder with mean pooling and normalization, in the form that versions 5 and 6 of the library read."""
    make_model(folder, kind, head="none")
    width = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = {
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
            for index, (path, name) in enumerate(MODULES.items())
        ],
        "sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": width.get("hidden_size") or width["dim"],
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
        },
        "2_Normalize/config.json": {},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder
