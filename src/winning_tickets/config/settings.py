"""The base of all configurations, how a run is executed (`Runtime`), and configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from winning_tickets.errors import UsageError, shown, unknown

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LAST_SEED = 2**32 - 1
"""Any generator takes seeds up to this one; NumPy's take no others."""
Seed = Annotated[int, Field(ge=0, lt=LAST_SEED + 1)]


class Settings(BaseModel):
    """Base of all configurations: frozen, numbers are finite, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, /, **fields: Any) -> Self:
        """Build one, reporting every problem at once.

        Raises:
            UsageError: one or more fields are unknown or have impossible values.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UsageError(_problems(cls, error)) from error


def _problems(cls: type[BaseModel], error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(str(unknown("field", field, cls.model_fields)))
        else:
            lines.append(f"{field.replace('_', '-')}: {item['msg']} (found {shown(item['input'])}).")
    return "\n".join(lines)


class Runtime(Settings):
    """How a run is executed; never part of its identity.

    Attributes:
        device: `auto` (a GPU where there is one), `cpu` or `cuda`; CUDA_VISIBLE_DEVICES says which GPU.
        bf16: bfloat16 autocast; weights and scores stay float32.
        checkpoint_steps: optimiser steps between checkpoints; None means by time.
        checkpoint_seconds: seconds between checkpoints where `checkpoint_steps` is None.
        quiet: no progress on stderr.
        non_finite: at a step whose loss or gradients are NaN or infinite `stop`, or `skip` it; it changes no number of
            a run that has no such step, and one that has gives none without it.
        report_to: names of `tracking.TRACKERS` that are told of losses and scores while a run trains.
    """

    device: str = "auto"
    bf16: bool = False
    checkpoint_steps: int | None = None
    checkpoint_seconds: float = 120.0
    quiet: bool = False
    non_finite: Literal["stop", "skip"] = "stop"
    report_to: tuple[str, ...] = ()


def load_config_file(path: Path) -> dict[str, Any]:
    """Fields from a YAML or JSON file, for `--config`.

    Raises:
        UsageError: no such file, or not a mapping of field names to values.
    """
    import yaml

    from winning_tickets.config.yaml_text import parse_yaml

    if not path.is_file():
        raise UsageError(f"There is no configuration file {path}.")
    try:
        _, content = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"The configuration file {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"The configuration file {path} must map field names to values, such as 'steps: 60'.")
    return {key.replace("-", "_"): value for key, value in content.items()}
