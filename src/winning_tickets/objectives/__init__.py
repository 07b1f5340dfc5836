"""What is minimised, as sums and counts, so that micro-batches of any size average correctly; one file a term."""

from winning_tickets.objectives.attention import attention_sum
from winning_tickets.objectives.base import IGNORED, Batch, Objective, Outputs, Term, TermSettings
from winning_tickets.objectives.contrastive import check_negatives, contrastive_sum
from winning_tickets.objectives.kd import kd_squared_sum, kd_sum
from winning_tickets.objectives.logits import logits_sum
from winning_tickets.objectives.mlm import check_mlm_tokenizer, frozen_head, mlm_logits
from winning_tickets.objectives.passes import check_attention_maps
from winning_tickets.objectives.pretraining import PretrainingObjective
from winning_tickets.objectives.probe import StateProbe
from winning_tickets.objectives.smart import SmartObjective, check_precision, check_smart, task_losses
from winning_tickets.objectives.soft_labels import SoftLabelLoss
from winning_tickets.objectives.task import TaskObjective, task_logits
from winning_tickets.objectives.terms import TERMS, needs_mlm_head, needs_of

__all__ = [
    "IGNORED",
    "TERMS",
    "Batch",
    "Objective",
    "Outputs",
    "PretrainingObjective",
    "SmartObjective",
    "SoftLabelLoss",
    "StateProbe",
    "TaskObjective",
    "Term",
    "TermSettings",
    "attention_sum",
    "check_attention_maps",
    "check_mlm_tokenizer",
    "check_negatives",
    "check_precision",
    "check_smart",
    "contrastive_sum",
    "frozen_head",
    "kd_squared_sum",
    "kd_sum",
    "logits_sum",
    "mlm_logits",
    "needs_mlm_head",
    "needs_of",
    "task_logits",
    "task_losses",
]
