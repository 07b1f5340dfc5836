"""The base of all configurations, how a run is executed (`Runtime`), and configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from winning_tickets.errors import UsageError, unknown


class Settings(BaseModel):
    """Base of all configurations: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, **fields: Any) -> Self:
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
            lines.append(f"{field.replace('_', '-')}: {item['msg']} (found {item['input']!r}).")
    return "\n".join(lines)


class Runtime(Settings):
    """How a run is executed; never part of its identity.

    Attributes:
        device: `auto` (a GPU where there is one), `cpu` or `cuda`; CUDA_VISIBLE_DEVICES says which GPU.
        bf16: bfloat16 autocast; weights and scores stay float32.
        checkpoint_steps: optimiser steps between checkpoints; None means by time.
        checkpoint_seconds: seconds between checkpoints where `checkpoint_steps` is None.
        quiet: no progress on stderr.
    """

    device: str = "auto"
    bf16: bool = False
    checkpoint_steps: int | None = None
    checkpoint_seconds: float = 120.0
    quiet: bool = False


def load_config_file(path: Path) -> dict[str, Any]:
    """Fields from a YAML or JSON file, for `--config`.

    Raises:
        UsageError: no such file, or not a mapping of field names to values.
    """
    import yaml

    if not path.is_file():
        raise UsageError(f"There is no configuration file {path}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"The configuration file {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"The configuration file {path} must map field names to values, such as 'steps: 60'.")
    return {key.replace("-", "_"): value for key, value in content.items()}
