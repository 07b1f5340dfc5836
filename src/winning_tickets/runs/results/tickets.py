"""Results of searches, and of what makes one ticket of others."""

from __future__ import annotations

from typing import Any

from winning_tickets.runs.results.base import Count, Share, Stored, StoredResult, always, told


class TicketSize(Stored):
    """The size of a ticket."""

    ticket_id: str = always("hash of its masks and its base")
    sparsity: Share = always("exact share of the prunable weights that are pruned")
    pruned: Count = always("exact number of pruned weights")
    total: Count = always("of prunable weights")


class FoundTicket(TicketSize):
    """A ticket of a search with several sparsity levels."""

    pruned_share_of_all_parameters: Share = always("of the encoder")
    steps: Count | None = told("training step of the ticket, or null")
    units: dict[str, Any] | None = told(
        "of structured tickets the numbers of pruned and of all heads, FFNs, neurons and layers"
    )
    folder: str | None = told("inside `out`")
    kept_inside_previous: Share | None = told(
        "share of its kept weights that the level below keeps too; null for the first"
    )
    skipped_steps: list[int] | None = told("as of the whole result")
    precision: str | None = told("as of the whole result")
    compiled: bool | None = told("as of the whole result")


class SearchResult(StoredResult):
    """A search; with several sparsity levels the sizes are those of the entries of `rungs`."""

    verbs = ("search",)

    method: str = always("as given")
    scope: str = always("which matrices were pruned")
    ticket_id: str | None = told("hash of its masks and its base")
    sparsity: Share | None = told("exact share of the prunable weights that are pruned")
    pruned: Count | None = told("exact number of pruned weights")
    total: Count | None = told("of prunable weights")
    pruned_share_of_all_parameters: Share | None = told("of the encoder")
    units: dict[str, Any] | None = told(
        "of structured tickets the numbers of pruned and of all heads, FFNs, neurons and layers"
    )
    steps: Count | None = told("training step of the ticket, or null; of several levels those of the whole search")
    saved_at: list[int] | None = told("steps of the tickets saved during training")
    rungs: list[FoundTicket] | None = told("one entry for each of several levels")
    nested: bool | None = told("of several levels: whether each ticket lies inside the one below")
    steps_of_separate_searches: Count | None = told(
        "what as many searches of one level would take; null for levels of units"
    )

    @property
    def tickets(self) -> list[FoundTicket]:
        """The tickets of all levels."""
        facts = {name: value for name, value in self.known() if name in FoundTicket.model_fields}
        return self.rungs or [FoundTicket.model_validate(facts)]


class DerivedTicketResult(TicketSize, StoredResult):
    """A ticket made of others."""

    verbs = ("combine", "perturb")

    method: str = always("the operation, or `perturb`")
    scope: str = always("which matrices are pruned")
    parents: list[str] = always("ids of the source tickets")


class ImportedTicketResult(TicketSize, StoredResult):
    """A ticket made of a file with masks."""

    verbs = ("import-mask",)

    method: str = always("`imported`, or as given")
    scope: str = always("which matrices are pruned")
    file_sha256: str | None = told("of the file")
    convention: str | None = told("`bert-tickets` or `tamt`")
    prefix: str | None = told("what the names in the file begin with")
    model: str | None = told("the dense model")
    base_hash: str | None = told("of its weights")
