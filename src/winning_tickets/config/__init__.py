"""Settings that are part of a run's identity, and others: device, precision and checkpoints (`Runtime`).

A field that is None takes its value from a profile: `paper`, `code` (the released code where it differs) or `tuned`
(the best values measured here; the default). An explicit field always wins.
"""

# mypy: implicit-reexport
# ruff: noqa: F401 - names for users

from winning_tickets.config.deploy import CompareConfig, ExportConfig, ImportConfig, MeasureConfig
from winning_tickets.config.levels import COUNT_FIELDS, UNIT_NAMES, Level
from winning_tickets.config.objective import OBJECTIVE_NAMES, TERM_NAMES, parse_objective
from winning_tickets.config.profiles import MODEL_DROPOUT, profile_values
from winning_tickets.config.search import METHOD_NAMES, METHODS, SCOPES, SearchConfig
from winning_tickets.config.settings import LAST_SEED, Runtime, Settings
from winning_tickets.config.share import AUTO, ShareConfig, SuperConfig
from winning_tickets.config.shrink import ShrinkConfig
from winning_tickets.config.sparsity import Pattern, check_sparsity
from winning_tickets.config.transfer import EvaluateConfig, FitHeadConfig, Smart, TransferConfig
from winning_tickets.config.weights import PRETRAINED, Start, parse_rewind, parse_start
from winning_tickets.config.yaml_files import load_config_file
