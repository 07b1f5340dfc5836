"""`export --format compact`: a Hugging Face folder whose matrices are really smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from torch import Tensor

from winning_tickets.compact import compact_
from winning_tickets.compact_modeling import MODEL_FILE, PREFIX
from winning_tickets.export_masked import FineTuned, OnBase, copy_sentence_modules
from winning_tickets.export_source import Export, Source
from winning_tickets.plm import CLASSES, PLM
from winning_tickets.predict import save_folder
from winning_tickets.ticket import is_ticket

NOTE = (
    "Pruned heads, neurons and FFNs are gone: of the encoder's {dense:,} parameters {compact:,} are left. Other pruned "
    "weights are zeros. Load it with "
    "winning_tickets.load_compact(DIR), or without this package with AutoModel.from_pretrained(DIR, "
    "trust_remote_code=True); tickets measure DIR says how fast it is."
)


def compact(source: Source) -> Export:
    """A folder with smaller matrices and the code that builds its uneven layers.

    Raises:
        UsageError: nothing is pruned as a whole, or the architecture's layers share weights.
        ContentError: a damaged ticket or model, or a ticket for other weights.
    """
    return _ticket(source) if is_ticket(source.name) else _fine_tuned(source)


def _ticket(source: Source) -> Export:
    base = OnBase.load(source)
    extra = base.put_on()
    sizes = _shrink(base.plm)

    def fill(staging: Path) -> dict[str, Any]:
        _save(base.plm, staging, extra)
        copy_sentence_modules(base.target.model, base.target.revision, staging)
        return {}

    return Export(base.facts | sizes, fill, NOTE.format(**sizes["parameters"]))


def _fine_tuned(source: Source) -> Export:
    found = FineTuned.find(source)
    plm = found.load()
    sizes = _shrink(plm)

    def fill(staging: Path) -> dict[str, Any]:
        _save(plm, staging, {})
        found.info.write(staging)
        return {}

    return Export(found.facts | sizes, fill, NOTE.format(**sizes["parameters"]))


def _shrink(plm: PLM) -> dict[str, Any]:
    """Remove what contributes nothing; the sizes before and after."""
    before = _parameters(plm)
    layers = compact_(plm.model)["layers"]
    return {
        "layers": [layer | {"heads": len(layer["heads"])} for layer in layers],
        "parameters": {"dense": before, "compact": _parameters(plm)},
    }


def _parameters(plm: PLM) -> int:
    """Of the encoder."""
    return sum(parameter.numel() for parameter in plm.encoder.parameters())


def _save(plm: PLM, folder: Path, extra: dict[str, Tensor]) -> None:
    """Write the model; `auto_map` names the class of each kind of head in the code beside it."""
    config = plm.model.config
    classes = ((auto, getattr(transformers, auto)._model_mapping.get(type(config), None)) for auto in CLASSES.values())
    stem = Path(MODEL_FILE).stem
    config.auto_map = {auto: f"{stem}.{PREFIX}{found.__name__}" for auto, found in classes if found is not None}
    save_folder(plm.model, plm.tokenizer, folder, extra)
