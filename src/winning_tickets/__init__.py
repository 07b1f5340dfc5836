"""Find, transfer, compare and export winning tickets in pre-trained language models."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from winning_tickets.algebra import combine as combine
    from winning_tickets.algebra import perturb as perturb
    from winning_tickets.compact import load_compact as load_compact
    from winning_tickets.compare import compare as compare
    from winning_tickets.config import EvaluateConfig as EvaluateConfig
    from winning_tickets.config import FitHeadConfig as FitHeadConfig
    from winning_tickets.config import Runtime as Runtime
    from winning_tickets.config import SearchConfig as SearchConfig
    from winning_tickets.config import ShareConfig as ShareConfig
    from winning_tickets.config import SuperConfig as SuperConfig
    from winning_tickets.config import TransferConfig as TransferConfig
    from winning_tickets.errors import TicketsError as TicketsError
    from winning_tickets.evaluate import evaluate as evaluate
    from winning_tickets.export import export as export
    from winning_tickets.fit_head import fit_head as fit_head
    from winning_tickets.mask_files import import_mask as import_mask
    from winning_tickets.masking import TicketCallback as TicketCallback
    from winning_tickets.masking import hold as hold
    from winning_tickets.measure import measure as measure
    from winning_tickets.predict import predict as predict
    from winning_tickets.search import search as search
    from winning_tickets.search import search_all as search_all
    from winning_tickets.sharded import ShardedMaskOptimizer as ShardedMaskOptimizer
    from winning_tickets.shared_model import SharedModel as SharedModel
    from winning_tickets.sharing import share as share
    from winning_tickets.super_ticket import super_ticket as super_ticket
    from winning_tickets.ticket import Ticket as Ticket
    from winning_tickets.transfer import transfer as transfer

__version__ = "0.1.0"

_PUBLIC = {
    "EvaluateConfig": "config",
    "FitHeadConfig": "config",
    "Runtime": "config",
    "SearchConfig": "config",
    "ShardedMaskOptimizer": "sharded",
    "ShareConfig": "config",
    "SharedModel": "shared_model",
    "SuperConfig": "config",
    "Ticket": "ticket",
    "TicketCallback": "masking",
    "TicketsError": "errors",
    "TransferConfig": "config",
    "combine": "algebra",
    "compare": "compare",
    "evaluate": "evaluate",
    "export": "export",
    "fit_head": "fit_head",
    "hold": "masking",
    "import_mask": "mask_files",
    "load_compact": "compact",
    "measure": "measure",
    "perturb": "algebra",
    "predict": "predict",
    "search": "search",
    "search_all": "search",
    "share": "sharing",
    "super_ticket": "super_ticket",
    "transfer": "transfer",
}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    """Resolve public names on first use, so that `import winning_tickets` does not import torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]


class _Package(ModuleType):
    """Keeps a verb's function in front of its module: importing `winning_tickets.search` would rebind `search`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _PUBLIC or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
