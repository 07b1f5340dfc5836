"""Tickets: masks by parameter name and gates on heads and FFNs, with their provenance, in small checked files."""

from winning_tickets.ticket.describe import describe
from winning_tickets.ticket.files import HEAD_FILE, INFO_FILE, MASK_FILE, children, is_ticket
from winning_tickets.ticket.info import BaseModelInfo, TicketInfo
from winning_tickets.ticket.masks import Ticket

__all__ = [
    "HEAD_FILE",
    "INFO_FILE",
    "MASK_FILE",
    "BaseModelInfo",
    "Ticket",
    "TicketInfo",
    "children",
    "describe",
    "is_ticket",
]
