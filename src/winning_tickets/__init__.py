"""Find, transfer, compare and export winning tickets in pre-trained language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from winning_tickets.api.deploy_verbs import export as export
    from winning_tickets.api.deploy_verbs import glue_submission as glue_submission
    from winning_tickets.api.deploy_verbs import import_mask as import_mask
    from winning_tickets.api.deploy_verbs import measure as measure
    from winning_tickets.api.deploy_verbs import predict as predict
    from winning_tickets.api.verbs import compare as compare
    from winning_tickets.api.verbs import evaluate as evaluate
    from winning_tickets.api.verbs import fit_head as fit_head
    from winning_tickets.api.verbs import search as search
    from winning_tickets.api.verbs import search_all as search_all
    from winning_tickets.api.verbs import share as share
    from winning_tickets.api.verbs import shrink as shrink
    from winning_tickets.api.verbs import stored_runs as stored_runs
    from winning_tickets.api.verbs import super_ticket as super_ticket
    from winning_tickets.api.verbs import transfer as transfer
    from winning_tickets.config import EvaluateConfig as EvaluateConfig
    from winning_tickets.config import FitHeadConfig as FitHeadConfig
    from winning_tickets.config import Runtime as Runtime
    from winning_tickets.config import SearchConfig as SearchConfig
    from winning_tickets.config import ShareConfig as ShareConfig
    from winning_tickets.config import ShrinkConfig as ShrinkConfig
    from winning_tickets.config import SuperConfig as SuperConfig
    from winning_tickets.config import TransferConfig as TransferConfig
    from winning_tickets.deploy.publish import push as push
    from winning_tickets.models.compact import load_compact as load_compact
    from winning_tickets.pruning.sharded import ShardedMaskOptimizer as ShardedMaskOptimizer
    from winning_tickets.report.result import Result as Result
    from winning_tickets.runs.errors import TicketsError as TicketsError
    from winning_tickets.studies import analysis as analysis
    from winning_tickets.tickets.algebra import combine as combine
    from winning_tickets.tickets.algebra import perturb as perturb
    from winning_tickets.tickets.holding import TicketCallback as TicketCallback
    from winning_tickets.tickets.holding import held as held
    from winning_tickets.tickets.holding import hold as hold
    from winning_tickets.tickets.ticket import Ticket as Ticket
    from winning_tickets.training.shared_model import SharedModel as SharedModel

__version__ = "0.1.0"

_PUBLIC = {
    name: module
    for module, names in {
        "report.result": "Result",
        "api.deploy_verbs": "export glue_submission import_mask measure predict",
        "api.verbs": "compare evaluate fit_head search search_all share shrink stored_runs super_ticket transfer",
        "config": "EvaluateConfig FitHeadConfig Runtime SearchConfig ShareConfig ShrinkConfig SuperConfig "
        "TransferConfig",
        "deploy.publish": "push",
        "models.compact": "load_compact",
        "pruning.sharded": "ShardedMaskOptimizer",
        "runs.errors": "TicketsError",
        "tickets.algebra": "combine perturb",
        "tickets.holding": "TicketCallback held hold",
        "tickets.ticket": "Ticket",
        "training.shared_model": "SharedModel",
    }.items()
    for name in names.split()
}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    """Resolve public names on first use, so that `import winning_tickets` does not import torch."""
    if name not in (*_PUBLIC, "analysis"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name != "TicketsError":  # which a caller catches
        importlib.import_module(f"{__name__}.runs.files").check_working_directory()  # torch would end the process
    if name == "analysis":  # its functions are public too
        return importlib.import_module(f"{__name__}.studies.analysis")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return ["analysis", *__all__]
