"""TERMS: what a pre-training objective can be a sum of."""

from __future__ import annotations

from collections.abc import Iterable

from winning_tickets.objectives.attention import ATTENTION
from winning_tickets.objectives.base import Need, Term
from winning_tickets.objectives.contrastive import CONTRASTIVE
from winning_tickets.objectives.kd import KD
from winning_tickets.objectives.logits import LOGITS
from winning_tickets.objectives.mlm import MLM

TERMS: dict[str, Term] = {
    "mlm": MLM,
    "kd": KD,
    "attention": ATTENTION,
    "contrastive": CONTRASTIVE,
    "logits": LOGITS,
}


def needs_of(names: Iterable[str], teacher: bool = False) -> frozenset[Need]:
    """What the terms of a sum need of the student's forward pass, or of the teacher's."""
    chosen = [TERMS[name] for name in names]
    return frozenset().union(*(term.needs for term in chosen if term.teacher or not teacher))


def needs_mlm_head(names: Iterable[str]) -> bool:
    """Some term predicts masked tokens: it needs a trained MLM head, and text with masked tokens."""
    return "logits" in needs_of(names)
