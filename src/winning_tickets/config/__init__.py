"""What changes the numbers (frozen, in a run's identity) and, apart from it, where and how a run is executed.

A field that is None takes its value from the profile: `paper` (what the papers say), `code` (what their released
programs do, where they differ) or `tuned` (what measured best here; the default). An explicit field always wins.
"""

from winning_tickets.config.evaluate import EvaluateConfig
from winning_tickets.config.fit_head import FitHeadConfig
from winning_tickets.config.methods import METHOD_NAMES, METHOD_NEEDS
from winning_tickets.config.objective import OBJECTIVE_NAMES, TERM_NAMES, parse_objective
from winning_tickets.config.pattern import Pattern
from winning_tickets.config.profiles import MODEL_DROPOUT, PROFILES, Profile, profile_values
from winning_tickets.config.rewinding import Rewind, parse_rewind
from winning_tickets.config.search import SCOPES, SearchConfig
from winning_tickets.config.settings import LAST_SEED, Runtime, Settings, load_config_file
from winning_tickets.config.share import AUTO, ShareConfig
from winning_tickets.config.smart import Smart
from winning_tickets.config.sparsity import check_sparsity
from winning_tickets.config.start import PRETRAINED, Start, parse_start
from winning_tickets.config.structured import COUNT_FIELDS, UNIT_NAMES, Level, StructuredSettings
from winning_tickets.config.super_ticket import SELECTIONS, SuperConfig
from winning_tickets.config.task_file import TaskDefinition
from winning_tickets.config.transfer import TransferConfig

__all__ = [
    "AUTO",
    "COUNT_FIELDS",
    "LAST_SEED",
    "METHOD_NAMES",
    "METHOD_NEEDS",
    "MODEL_DROPOUT",
    "OBJECTIVE_NAMES",
    "PRETRAINED",
    "PROFILES",
    "SCOPES",
    "SELECTIONS",
    "TERM_NAMES",
    "UNIT_NAMES",
    "EvaluateConfig",
    "FitHeadConfig",
    "Level",
    "Pattern",
    "Profile",
    "Rewind",
    "Runtime",
    "SearchConfig",
    "Settings",
    "ShareConfig",
    "Smart",
    "Start",
    "StructuredSettings",
    "SuperConfig",
    "TaskDefinition",
    "TransferConfig",
    "check_sparsity",
    "load_config_file",
    "parse_objective",
    "parse_rewind",
    "parse_start",
    "profile_values",
]
