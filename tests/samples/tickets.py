"""Tickets of tiny matrices."""

import torch

from winning_tickets import Ticket
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo

CONFIG = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50)
QUERY = "encoder.layer.0.attention.self.query.weight"


def make_ticket(model, names=(QUERY, "embeddings.word_embeddings.weight"), seed=0, head=None):
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.base_model.named_parameters())
    masks = {name: torch.rand(parameters[name].shape, generator=generator) > 0.6 for name in names}
    base = BaseModelInfo.of(model.base_model, "tiny", "bert", None, layers=None)
    return Ticket(masks, TicketInfo(method="test", scope="encoder+embeddings", config={}, applies_to=base), head)
