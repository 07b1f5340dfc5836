"""Models in ONNX files, as onnxruntime runs them, behind the interface of a Hugging Face model."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.models.checkpoints import files_of
from winning_tickets.models.loading import ONNX_FILE, PLM, outline
from winning_tickets.models.tokenizers import fit_tokenizer_, open_tokenizer
from winning_tickets.runs.errors import ContentError, UsageError


class OnnxModel(nn.Module):
    """An ONNX file that is called like the model it was exported from; it runs on the CPU and has no parameters."""

    device = torch.device("cpu")

    def __init__(self, file: Path, config: Any) -> None:
        super().__init__()
        if importlib.util.find_spec("onnxruntime") is None:
            raise UsageError(
                f"{file} runs in onnxruntime, which is not installed: pip install 'winning-tickets[onnx]'."
            )
        runtime = importlib.import_module("onnxruntime")  # an extra, which type checkers need not have
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each kind of damage, and no common one
            raise ContentError(f"onnxruntime cannot read {file}: {str(error).strip().splitlines()[0]}") from error
        self.config = config
        self._inputs = [one.name for one in self._session.get_inputs()]
        self.outputs = [one.name for one in self._session.get_outputs()]

    @property
    def base_model(self) -> OnnxModel:
        """The model itself: a file is an encoder or a model with its head."""
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **others: Tensor) -> Any:
        """Return the outputs of the file, such as `last_hidden_state` `(batch, seq, hidden)` or `logits`."""
        from transformers.utils import ModelOutput

        given = {"input_ids": input_ids, "attention_mask": attention_mask, **others}
        default = {"attention_mask": torch.ones_like, "token_type_ids": torch.zeros_like}
        inputs = {}
        for name in self._inputs:
            tensor = given.get(name)
            inputs[name] = (default[name](input_ids) if tensor is None else tensor).cpu().numpy()
        found = self._session.run(self.outputs, inputs)
        return ModelOutput({name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)})


def load_onnx(folder: Path | str) -> PLM:
    """Load an export of the format `onnx`, with its tokenizer."""
    plm = outline(str(folder), onnx=True)
    tokenizer = open_tokenizer(str(folder), files_of(str(folder), None, {}))
    fit_tokenizer_(tokenizer, plm.model, str(folder))  # the file itself does not say how many tokens it takes
    return replace(plm, model=OnnxModel(Path(folder) / ONNX_FILE, plm.model.config), tokenizer=tokenizer)
