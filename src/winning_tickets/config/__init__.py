"""Settings: those in a run's identity, and apart from them device, precision and checkpoints (`Runtime`).

A field that is None takes its value from the profile: `paper`, `code` (the released code where it differs) or `tuned`
(the best values measured here; the default). An explicit field always wins.
"""

from winning_tickets.config.objective import OBJECTIVE_NAMES, TERM_NAMES, parse_objective
from winning_tickets.config.profiles import METHOD_NAMES, METHOD_NEEDS, MODEL_DROPOUT, PROFILES, Profile, profile_values
from winning_tickets.config.search import SCOPES, ResolvedSearch, SearchConfig
from winning_tickets.config.settings import LAST_SEED, Runtime, Settings, load_config_file
from winning_tickets.config.share import AUTO, SELECTIONS, ResolvedShare, ShareConfig, SuperConfig
from winning_tickets.config.sparsity import Pattern, check_sparsity
from winning_tickets.config.structured import COUNT_FIELDS, UNIT_NAMES, Level, StructuredSettings
from winning_tickets.config.transfer import EvaluateConfig, FitHeadConfig, ResolvedTransfer, Smart, TransferConfig
from winning_tickets.config.weights import PRETRAINED, Rewind, Start, parse_rewind, parse_start

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
    "ResolvedSearch",
    "ResolvedShare",
    "ResolvedTransfer",
    "Rewind",
    "Runtime",
    "SearchConfig",
    "Settings",
    "ShareConfig",
    "Smart",
    "Start",
    "StructuredSettings",
    "SuperConfig",
    "TransferConfig",
    "check_sparsity",
    "load_config_file",
    "parse_objective",
    "parse_rewind",
    "parse_start",
    "profile_values",
]
