"""Exporting a ticket or a fine-tuned model as a folder, in one of several formats."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from winning_tickets.config import ExportConfig
from winning_tickets.deploy.formats import compact, encoder, masked
from winning_tickets.deploy.mask_files import mask_pt
from winning_tickets.deploy.onnx import onnx, onnx_int8
from winning_tickets.deploy.source import Export
from winning_tickets.deploy.stored_weights import compare_sizes
from winning_tickets.runs import memory
from winning_tickets.runs.directory import remote_code_facts
from winning_tickets.runs.errors import UsageError, unknown
from winning_tickets.runs.files import build_directory, parse_json, write_json
from winning_tickets.runs.identity import digest
from winning_tickets.runs.locks import hold
from winning_tickets.runs.provenance import versions
from winning_tickets.tickets.cards import CARD, write_card
from winning_tickets.training.fine_tuned import EXPORT_FILE as EXPORT_FILE
from winning_tickets.training.source import FineTunedSource, Source, find_source


def check_export(config: ExportConfig, *, on_the_hub: bool = False) -> Source:
    """Return what is exported; refuse settings that contradict each other."""
    kind, dtype = config.format, config.dtype
    if kind not in FORMATS:
        raise unknown("format", kind, FORMATS)
    if config.convention is not None and kind != "mask-pt":
        raise UsageError(f"--convention {config.convention} needs --format mask-pt, and the format is {kind}.")
    if dtype is not None and kind == "mask-pt":
        raise UsageError(f"--dtype {dtype} is about weights, and a mask-pt has none; leave it out.")
    if dtype not in (None, "float32") and kind.startswith("onnx"):
        raise UsageError(
            f"--dtype {dtype} cannot be used with --format {kind}, whose file computes in float32; leave it out, or "
            "use masked or compact."
        )
    source = find_source(config.target)
    if config.task is not None and not on_the_hub and not isinstance(source, FineTunedSource):
        raise UsageError(f"--task {config.task} chooses a task of a shared model, and {source.where} is not one.")
    return source


def export(config: ExportConfig, out: Path | str, *, force: bool = False) -> dict[str, Any]:
    """Write a model in a format, and return its `export.json`; see `api.deploy_verbs.export`."""
    source, format_, out = check_export(config), config.format, Path(out)
    wanted = FORMATS[format_](source, config)
    identity = f"export-{format_}-{digest(wanted.facts)}"
    body = {"verb": "export", "id": identity, "format": format_, **wanted.facts, "versions": versions()}
    body |= remote_code_facts()
    stored = _find_stored(out, identity, force=force)
    if stored is not None:
        return stored | {"out": str(out)}

    def fill(staging: Path) -> None:
        body.update(wanted.fill(staging))
        sizes = ""
        if wanted.checkpoint is not None:
            name = memory.shown(wanted.checkpoint_name)
            facts, sizes = compare_sizes(staging, wanted.dtypes, wanted.checkpoint, name)
            body.update(facts)
        body["note"] = " ".join(text for text in (wanted.note, sizes, wanted.loading) if text)
        write_json(staging / EXPORT_FILE, body)
        if not (staging / CARD).is_file():  # else it came with the fine-tuned model
            write_card(staging, wanted.card | {"kind": format_})
        _find_stored(out, identity, force=force)  # refuse if another command has begun to write there meanwhile
        if out.exists():  # what --force replaces goes only when its successor is complete
            shutil.rmtree(out)

    with hold(out, beside=True):
        stored = _find_stored(out, identity, force=force)  # another launch may have written it meanwhile
        if stored is None:
            build_directory(out, fill)
    return (body if stored is None else stored) | {"out": str(out)}


def _find_stored(out: Path, identity: str, *, force: bool) -> dict[str, Any] | None:
    """Return the stored description if `out` has this same export already, None if it may be written."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found: dict[str, Any] = parse_json((out / EXPORT_FILE).read_text(encoding="utf-8"))
        known = str(found["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--out {out} holds files that are not an export of this tool; it was left untouched. "
            "Give a directory that is absent or empty."
        ) from error
    if force:
        return None
    if known == identity:
        return found
    raise UsageError(
        f"--out {out} holds another export ({known}), this one is {identity}; it was left untouched. "
        "Give another directory, or --force to replace that export."
    )


FORMATS: dict[str, Callable[[Source, ExportConfig], Export]] = {
    "masked": masked,
    "compact": compact,
    "onnx": onnx,
    "onnx-int8": onnx_int8,
    "encoder": encoder,
    "mask-pt": mask_pt,
}
"""The formats of `tickets export`."""
