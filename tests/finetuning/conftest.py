"""A ticket that several files of this folder fine-tune."""

import pytest

from winning_tickets import Runtime, SearchConfig, search


@pytest.fixture(scope="module")
def ticket_path(bert, tmp_path_factory):
    path = tmp_path_factory.mktemp("tickets") / "ticket"
    search(SearchConfig(model=bert, method="magnitude", sparsity=0.6), path, Runtime(quiet=True))
    return path
