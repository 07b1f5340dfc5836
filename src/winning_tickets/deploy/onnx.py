"""`export --format onnx`: a file that runs without PyTorch, checked against PyTorch before it is kept."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from winning_tickets.config import ExportConfig
from winning_tickets.deploy.formats import find_pruned
from winning_tickets.deploy.source import Export
from winning_tickets.deploy.stored_weights import size_of
from winning_tickets.models.compact import compact_where_possible_
from winning_tickets.models.loading import ONNX_FILE, PLM
from winning_tickets.models.modeling_compact import COMPACT
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.training.source import Source

OPSET = 18
TOLERANCE = 1e-4
"""Largest difference from PyTorch's outputs that an export may have."""
INT8_TOLERANCE = 0.5
"""Largest difference between outputs with int8 and float weights, as a share of their norm; noise has 1 and more."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights above which they go into a separate file, as protobuf ends at two gigabytes."""
NOTE = (
    "Runs in onnxruntime, for any batch and length, without PyTorch. Heads, neurons and FFNs that are pruned as a "
    "whole are removed; other pruned weights are zeros, which make nothing faster."
)
IN_FLOAT32 = " The file computes in float32, to which weights of a shorter type were converted."


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


def onnx_int8(source: Source, config: ExportConfig) -> Export:
    """Prepare the same as `onnx`, with dynamic quantization of the matrices to int8."""
    return onnx(source, config, int8=True)


def onnx(source: Source, config: ExportConfig, *, int8: bool = False) -> Export:
    """Prepare the encoder of a ticket, or a fine-tuned model with its head, as ONNX."""
    check_installed("--format onnx")
    found = find_pruned(source, config, with_head=False)
    if found.causal:
        raise UsageError(f"--format onnx is for encoders, and {source.where} is a decoder; use masked or compact.")

    def fill(staging: Path) -> dict[str, Any]:
        found.add_files(staging)  # the task of a fine-tuned model, the pooling of a sentence encoder
        return write_onnx(found.load()[0], staging, int8=int8) | found.origin

    return found.export(
        fill,
        (INT8_NOTE if int8 else NOTE) + (IN_FLOAT32 if found.checkpoint.facts else ""),
        facts=found.facts | {"opset": OPSET},
        dtypes="int8 and float32" if int8 else "float32",
    )


def write_onnx(plm: PLM, folder: Path, *, int8: bool = False) -> dict[str, Any]:
    """Write `model.onnx`, the configuration and the tokenizer; the float model is checked before it is quantized."""
    config = copy.deepcopy(plm.model.config)
    for field in (COMPACT, "auto_map"):  # they are about weights for PyTorch
        vars(config).pop(field, None)
    config.save_pretrained(folder)
    plm.tokenizer.save_pretrained(folder)
    compact_where_possible_(plm.model)
    model = plm.model.cpu().eval()
    example = _texts(config, batch=2, length=9)
    with torch.no_grad():
        outputs = [name for name, value in model(**example).items() if isinstance(value, Tensor)]
    if not plm.has_pooler:
        outputs = [name for name in outputs if name != "pooler_output"]  # its weights would be random
    named = WithNames(model, list(example), outputs)
    _export(named, tuple(example.values()), folder / ONNX_FILE)
    difference = _largest_difference(config, named, folder / ONNX_FILE)
    if not difference <= TOLERANCE:
        raise ContentError(
            f"onnxruntime and PyTorch differ by {difference:.1e} for {plm.name}, at most {TOLERANCE:.0e} is allowed; "
            "nothing was written. Use --format masked, and report this with the versions of torch and onnxruntime."
        )
    facts = {"inputs": list(example), "outputs": outputs, "largest_difference": difference}
    return facts if not int8 else facts | write_int8(folder, plm.name)


def write_int8(folder: Path, name: str) -> dict[str, Any]:
    """Quantize the matrices of `model.onnx` in place; return how far its outputs are from the float ones.

    Matrices take one byte per weight, and inputs are rounded at run time. A file whose outputs have little to do with
    those of the float model is refused.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    whole = folder / "float"
    whole.mkdir()
    before = size_of(folder)
    for path in list(folder.glob(f"{ONNX_FILE}*")):
        path.rename(whole / path.name)
    try:
        _quantize(whole / ONNX_FILE, folder / ONNX_FILE)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # onnx and onnxruntime have a class for each kind of problem, and no common one
        reason = str(error).strip().split("\n")[0]
        raise ContentError(
            f"onnxruntime could not quantize {name} ({reason}); use the format onnx, whose weights are floats."
        ) from error
    expected, found = (_rows(config, _session(file)) for file in (whole / ONNX_FILE, folder / ONNX_FILE))
    shutil.rmtree(whole)
    cosines = np.concatenate([_cosines(*pair) for pair in zip(found, expected, strict=True)])
    share = max(_relative_error(*pair) for pair in zip(found, expected, strict=True))
    if not share <= INT8_TOLERANCE:
        raise ContentError(
            f"The outputs of {name} with int8 weights differ from those of the float model by {share:.0%} of their "
            f"size, at most {INT8_TOLERANCE:.0%} is allowed; nothing was written. Use the format onnx, whose weights "
            "are floats."
        )
    facts = {"float_bytes": before, "relative_difference": share}
    cosine = {"mean": float(cosines.mean()), "lowest": float(cosines.min())}
    return {"int8": facts | {"cosine": cosine}}


def _quantize(whole: Path, file: Path) -> None:
    quantization, library = importlib.import_module("onnxruntime.quantization"), importlib.import_module("onnx")
    model = library.load(whole, load_external_data=False)
    # The exporter notes shapes of weights, and the quantizer, which transposes some of them, does not correct these.
    model.graph.ClearField("value_info")
    library.save(model, whole)
    empty = {one.name for one in model.graph.initializer if 0 in one.dims}  # of layers without neurons
    left_out = [node.name for node in model.graph.node if empty & set(node.input)]  # they cannot be quantized
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
            use_external_data_format=size_of(whole.parent) > LARGEST_FILE,
            extra_options={"DefaultTensorType": 1},
        )
    finally:
        root.setLevel(level)


def _texts(config: Any, batch: int, length: int) -> dict[str, Tensor]:
    """Return random tokens; the last text is padded from its middle on."""
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


def _session(file: Path) -> Callable[[Mapping[str, Tensor]], Sequence[np.ndarray[Any, Any]]]:
    """Return a function that runs a file on named inputs, and returns all of its outputs."""
    onnxruntime = importlib.import_module("onnxruntime")  # an extra, which type checkers need not have
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Tensor]) -> Sequence[np.ndarray[Any, Any]]:
        found: Sequence[np.ndarray[Any, Any]] = session.run(None, {name: one.numpy() for name, one in inputs.items()})
        return found

    return run


def _rows(
    config: Any, run: Callable[[Mapping[str, Tensor]], Sequence[np.ndarray[Any, Any]]]
) -> list[np.ndarray[Any, Any]]:
    """Return each output for texts of two batch sizes and two lengths other than those of the export.

    One row per text, or one per token without those of padding, which mean nothing.
    """
    parts = []
    for batch, length in ((1, 5), (1, 16), (3, 5), (3, 16)):
        inputs = _texts(config, batch, length)
        real = inputs["attention_mask"].bool().numpy()
        parts.append([one[real] if one.shape[:2] == real.shape else one for one in run(inputs)])
    return [np.concatenate(one) for one in zip(*parts, strict=True)]


def _largest_difference(config: Any, model: WithNames, file: Path) -> float:
    """Return the largest difference between onnxruntime and PyTorch."""

    @torch.no_grad()
    def run(inputs: Mapping[str, Tensor]) -> Sequence[np.ndarray[Any, Any]]:
        return [one.numpy() for one in model(*inputs.values())]

    pairs = zip(_rows(config, _session(file)), _rows(config, run), strict=True)
    return max(float(np.abs(found - expected).max()) for found, expected in pairs)


def _cosines(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the cosine of each row; of all rows together if a row has one number, whose cosine is always 1 or -1."""
    if found.ndim == 1 or found.shape[-1] == 1:
        found, expected = found.reshape(1, -1), expected.reshape(1, -1)
    one, other = torch.from_numpy(found), torch.from_numpy(expected)
    return functional.cosine_similarity(one, other, dim=-1).flatten().numpy()


def _relative_error(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Return the norm of the difference as a share of the norm of what was expected."""
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-12))
