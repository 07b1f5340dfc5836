"""Settings of the verbs that use tickets and models as they are: measure, export, compare and mask import."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

from pydantic import field_validator

from winning_tickets.config.settings import Count, Settings, WeightType, impossible, setting
from winning_tickets.runs.errors import unknown

IMPORTED = "imported"
"""Method of masks for which no method is given."""

_option = partial(setting, panel="Options")


class _OfTarget(Settings):
    """What `measure` and `export` ask of the thing that they use."""

    target: str = _option(
        ..., "A model, a ticket, an export, or a transfer with its model; its name, folder or hub id.", option=None
    )
    base: str | None = _option(None, "Base model of a ticket, if it has moved.")
    allow_other_weights: bool = _option(False, "Use a ticket on weights it was not made for.")
    seed: int | None = _option(
        None, "Seed of the model of a transfer or share. By default the first one saved.", option=None
    )


class MeasureConfig(_OfTarget):
    """Settings of `measure`."""

    batches: tuple[Count, ...] = _option((1, 8, 32), "Batch sizes, with commas.", option="--batch", min_length=1)
    lengths: tuple[Count, ...] = _option(
        (32, 128), "Tokens of each text, with commas.", option="--length", min_length=1
    )
    threads: Count | None = _option(None, "Threads of the processor. By default as many as PyTorch takes.")
    repeats: Count = _option(10, "Timed passes of each model for each batch and length.")
    revision: str | None = _option(None, "Hub revision of the model.")
    layers: int | None = _option(None, "Number of layers to keep, from the first. By default all.")


class ExportConfig(_OfTarget):
    """Settings of `export`."""

    target: str = _option(..., "A ticket, or a run with its model; its folder or hub id.", option=None)
    format: str = _option(
        ...,
        "Format: masked (a Hugging Face folder with zeros), compact (smaller matrices), onnx (runs without "
        "PyTorch), onnx-int8 (the same, quantized), encoder (a fine-tuned or shared encoder without its heads) or "
        "mask-pt (the masks alone, as the released code stores them).",
    )
    task: str | None = _option(None, "Task of a shared model.")
    convention: str | None = _option(None, "Convention of the names in a mask-pt: bert-tickets (default) or tamt.")
    dtype: WeightType | None = _option(
        None, "Type of the weights: float32, float16 or bfloat16. By default that of the checkpoint."
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """Take a `torch.dtype` as its name, and refuse other types."""
        name = None if value is None else str(value).removeprefix("torch.")
        if name is not None and name not in get_args(WeightType):
            raise impossible(str(unknown("dtype", name, get_args(WeightType))))
        return name


class CompareConfig(Settings):
    """Settings of `compare`; a study may give a pair as `reference` and `target`, so that each pair has a run."""

    targets: tuple[str, ...] = _option((), "Two or more tickets.", option=None)
    reference: str | None = _option(None, "The first ticket of a pair.", option=None)
    target: str | None = _option(None, "The other ticket of a pair.", option=None)
    average: str = _option("pooled", "Average: pooled over all weights, or the mean over matrices (matrix).")

    @property
    def tickets(self) -> tuple[str, ...]:
        return (*(ticket for ticket in (self.reference, self.target) if ticket is not None), *self.targets)


class ImportConfig(Settings):
    """Settings of `import_mask`."""

    file: str = _option(..., "A mask.pt of BERT-tickets or of TAMT.", option=None)
    base: str = _option(..., "The pre-trained model that the masks belong to.")
    method: str = _option(IMPORTED, "Name of the method, for tables and figures.")
    revision: str | None = _option(None, "Hub revision of the model.")
