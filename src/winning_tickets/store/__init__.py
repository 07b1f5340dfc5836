"""The store of runs: what is done, what failed and why, who works on what; nothing here imports torch."""

from winning_tickets.store.claims import Claim as Claim
from winning_tickets.store.claims import ClaimedError as ClaimedError
from winning_tickets.store.index import Record as Record
from winning_tickets.store.index import Status as Status
from winning_tickets.store.layout import is_store as is_store
from winning_tickets.store.seal import Finding as Finding
from winning_tickets.store.seal import left_behind as left_behind
from winning_tickets.store.store import STATUSES as STATUSES
from winning_tickets.store.store import Store as Store
