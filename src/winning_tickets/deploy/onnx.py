"""`export --format onnx`: a file that runs without PyTorch, checked against PyTorch before it is kept."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from winning_tickets.deploy.formats import find_pruned
from winning_tickets.deploy.source import Export, ExportSource
from winning_tickets.models.compact import compact_where_possible_
from winning_tickets.models.loading import ONNX_FILE, PLM
from winning_tickets.runs.errors import ContentError, UsageError

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference from PyTorch's outputs that an export may have."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights above which they go into a separate file, as protobuf ends at two gigabytes."""
NOTE = (
    "Runs in onnxruntime, for any batch and length, without PyTorch. Heads, neurons and FFNs that are pruned as a "
    "whole are removed; other pruned weights are zeros, which make nothing faster."
)


class WithNames(nn.Module):
    """A model whose inputs and outputs are tensors in a fixed order."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the named outputs for the named inputs; each input is `(batch, length)`."""
        result = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(result[name] for name in self.outputs)


INT8_NOTE = NOTE + (
    " Matrices are stored as int8 and inputs rounded at run time (dynamic quantization): `int8.cosine` says how far "
    "its outputs are from the float model's, tickets measure DIR how fast it is, and tickets predict what it answers."
)


def check_installed(option: str) -> None:
    """Refuse an option that needs packages which are not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{option} needs {', '.join(missing)}: pip install 'winning-tickets[onnx]'.")


def onnx_int8(source: ExportSource) -> Export:
    """Prepare the same as `onnx`, with dynamic quantization of the matrices to int8."""
    return onnx(source, int8=True)


def onnx(source: ExportSource, int8: bool = False) -> Export:
    """Prepare the encoder of a ticket, or a fine-tuned model with its head, as ONNX."""
    check_installed("--format onnx")
    found = find_pruned(source, with_head=False)
    if found.causal:
        raise UsageError(f"--format onnx is for encoders, and {source.name} is a decoder; use masked or compact.")

    def fill(staging: Path) -> dict[str, Any]:
        found.add_files(staging)  # the task of a fine-tuned model, the pooling of a sentence encoder
        return write_onnx(found.load()[0], staging, int8) | found.origin

    return Export(found.facts | {"opset": OPSET}, fill, INT8_NOTE if int8 else NOTE, found.card)


def write_onnx(plm: PLM, folder: Path, int8: bool = False) -> dict[str, Any]:
    """Write `model.onnx`, the configuration and the tokenizer; the float model is checked before it is quantized."""
    plm.model.config.save_pretrained(folder)
    plm.tokenizer.save_pretrained(folder)
    compact_where_possible_(plm.model)
    model = plm.model.cpu().eval()
    example = _texts(plm, batch=2, length=9)
    with torch.no_grad():
        outputs = [name for name, value in model(**example).items() if isinstance(value, Tensor)]
    if not plm.has_pooler:
        outputs = [name for name in outputs if name != "pooler_output"]  # its weights would be random
    named = WithNames(model, list(example), outputs)
    _export(named, tuple(example.values()), folder / ONNX_FILE)
    difference = _largest_difference(plm, named, folder / ONNX_FILE)
    if not difference <= TOLERANCE:
        raise ContentError(
            f"onnxruntime and PyTorch differ by {difference:.1e} for {plm.name}, at most {TOLERANCE:.0e} is allowed; "
            "nothing was written. Use --format masked, and report this with the versions of torch and onnxruntime."
        )
    found = {"int8": _quantize(plm, named, folder / ONNX_FILE)} if int8 else {}
    size = sum(path.stat().st_size for path in folder.glob(f"{ONNX_FILE}*"))
    return {"inputs": list(example), "outputs": outputs, "bytes": size, "largest_difference": difference, **found}


def _quantize(plm: PLM, model: WithNames, file: Path) -> dict[str, Any]:
    """Quantize the matrices of a file in place; return the bytes before, and cosines with the float model's outputs."""
    before = sum(path.stat().st_size for path in file.parent.glob(f"{ONNX_FILE}*"))
    write_int8(file.parent)
    cosines = np.concatenate([
        functional.cosine_similarity(torch.from_numpy(one)[real], expected[real], dim=-1).flatten().numpy()
        for found, outputs, mask in _compared(plm, model, file)
        for one, expected in zip(found, outputs, strict=True)
        for real in (mask if one.shape[:2] == mask.shape else slice(None),)
    ])  # fmt: skip
    return {"float_bytes": before, "cosine": {"mean": float(cosines.mean()), "lowest": float(cosines.min())}}


def write_int8(folder: Path) -> None:
    """Store the matrices of `model.onnx` in one byte per weight; inputs are rounded at run time."""
    quantization = importlib.import_module("onnxruntime.quantization")
    file, whole = folder / ONNX_FILE, folder / "float.onnx"
    file.rename(whole)
    graph = importlib.import_module("onnx").load(whole).graph
    empty = {one.name for one in graph.initializer if 0 in one.dims}  # of layers without neurons; not quantizable
    left_out = [node.name for node in graph.node if empty & set(node.input)]
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a step that the exporter has done
    try:
        quantization.quantize_dynamic(
            whole,
            file,
            nodes_to_exclude=left_out,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"DefaultTensorType": 1},
        )
    finally:
        root.setLevel(level)
    whole.unlink()


def _texts(plm: PLM, batch: int, length: int) -> dict[str, Tensor]:
    """Return random tokens; the last text is padded from its middle on."""
    config = plm.model.config
    generator = torch.Generator().manual_seed(batch * length)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[-1, length // 2 + 1 :] = 0
    ids = torch.randint(config.vocab_size, (batch, length), generator=generator)
    inputs = {"input_ids": ids.masked_fill(mask == 0, config.pad_token_id or 0), "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    return inputs


def _export(model: WithNames, example: tuple[Tensor, ...], file: Path) -> None:
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # the exporter reports packages that it does not need
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own internals
            torch.onnx.export(
                model,
                example,
                file,
                dynamo=True,
                opset_version=OPSET,
                input_names=model.inputs,
                output_names=model.outputs,
                dynamic_shapes={"tensors": tuple({0: "batch", 1: "length"} for _ in example)},
                external_data=weights > LARGEST_FILE,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or "").strip() or str(error).strip()  # the exporter's own words name no reason
        first = reason.split("\n")[0]
        raise ContentError(f"PyTorch could not write this model as ONNX ({first}); use --format masked.") from error
    finally:
        logger.setLevel(level)


def _compared(plm: PLM, model: WithNames, file: Path) -> Iterator[tuple[Any, tuple[Tensor, ...], Tensor]]:
    """Yield outputs of onnxruntime and of PyTorch, with the attention mask, at other sizes than those of the export."""
    onnxruntime = importlib.import_module("onnxruntime")  # an extra, which type checkers need not have
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for batch, length in ((1, 5), (1, 16), (3, 5), (3, 16)):
        inputs = _texts(plm, batch, length)
        with torch.no_grad():
            expected = model(*inputs.values())
        found = session.run(list(model.outputs), {name: value.numpy() for name, value in inputs.items()})
        yield found, expected, inputs["attention_mask"].bool()


def _largest_difference(plm: PLM, model: WithNames, file: Path) -> float:
    """Compare onnxruntime and PyTorch at two batch sizes and two lengths."""
    largest = 0.0
    for found, expected, mask in _compared(plm, model, file):
        real = mask.numpy()
        for one, other in zip(found, expected, strict=True):
            difference = np.abs(one - other.numpy())
            if difference.shape[:2] == real.shape:  # one row per token; those of padding mean nothing
                difference = difference[real]
            largest = max(largest, float(difference.max()))
    return largest
