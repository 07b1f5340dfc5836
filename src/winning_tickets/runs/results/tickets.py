"""Results of searches, and of what makes one ticket of others."""

from __future__ import annotations

from typing import Any

from winning_tickets.runs.results.base import Count, Execution, Share, Stored, StoredResult, optional, required


class TicketSize(Stored):
    """The size of a ticket."""

    ticket_id: str = required("hash of its masks and its base")
    sparsity: Share = required("exact share of the prunable weights that are pruned")
    pruned: Count = required("exact number of pruned weights")
    total: Count = required("of prunable weights")


class FoundTicket(TicketSize, Execution):
    """A ticket of a search with several sparsity levels."""

    pruned_share_of_all_parameters: Share = required("of the encoder")
    steps: Count | None = optional("training step of the ticket, or null")
    units: dict[str, Any] | None = optional(
        "of structured tickets the numbers of pruned and of all heads, FFNs, neurons and layers"
    )
    folder: str | None = optional("inside `out`")
    kept_inside_previous: Share | None = optional(
        "share of its kept weights that the level below keeps too; null for the first"
    )


class SearchResult(StoredResult):
    """A search; with several sparsity levels the sizes are those of the entries of `rungs`."""

    verbs = ("search",)

    method: str = required("as given")
    scope: str = required("which matrices were pruned")
    ticket_id: str | None = optional("hash of its masks and its base")
    sparsity: Share | None = optional("exact share of the prunable weights that are pruned")
    pruned: Count | None = optional("exact number of pruned weights")
    total: Count | None = optional("of prunable weights")
    pruned_share_of_all_parameters: Share | None = optional("of the encoder")
    units: dict[str, Any] | None = optional(
        "of structured tickets the numbers of pruned and of all heads, FFNs, neurons and layers"
    )
    steps: Count | None = optional("training step of the ticket, or null; of several levels those of the whole search")
    saved_at: list[int] | None = optional("steps of the tickets saved during training")
    rungs: list[FoundTicket] | None = optional("one entry for each of several levels")
    nested: bool | None = optional("of several levels: whether each ticket lies inside the one below")
    steps_of_separate_searches: Count | None = optional(
        "what as many searches of one level would take; null for levels of units"
    )

    @property
    def tickets(self) -> list[FoundTicket]:
        """The tickets of all levels."""
        facts = {name: value for name, value in self.known() if name in FoundTicket.model_fields}
        return self.rungs or [FoundTicket.model_validate(facts)]


class MadeTicket(TicketSize, StoredResult):
    """A ticket that no search found."""

    method: str = required("the operation, `perturb`, `imported`, or as given")
    scope: str = required("which matrices are pruned")


class DerivedTicketResult(MadeTicket):
    """A ticket made of others."""

    verbs = ("combine", "perturb")

    parents: list[str] = required("ids of the source tickets")


class ImportedTicketResult(MadeTicket):
    """A ticket made of a file with masks."""

    verbs = ("import-mask",)

    file_sha256: str | None = optional("of the file")
    convention: str | None = optional("`bert-tickets` or `tamt`")
    prefix: str | None = optional("what the names in the file begin with")
    model: str | None = optional("the dense model")
    base_hash: str | None = optional("of its weights")
