"""What results say about how their tickets were found, from the search to the analysis."""

import json

import pytest
import torch

from samples.tiny_models import make_model
from samples.tiny_tasks import transfers_read
from winning_tickets import Runtime, SearchConfig, TransferConfig, search, transfer
from winning_tickets.runs.directory import RESULT
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.ticket import Ticket, search_settings_of

QUIET = Runtime(quiet=True)
BASE = BaseModelInfo(name="m", model_type="bert", hash="h", tensors={})


def found(method, config, seed=None):
    info = TicketInfo(method=method, scope="encoder", config=config, applies_to=BASE, seed=seed)
    return search_settings_of(Ticket({"w": torch.ones(2, 2, dtype=torch.bool)}, info))


def test_only_what_makes_another_kind_of_ticket():
    own = SearchConfig(
        model="m", method="mask-training", corpus="c", sparsity=0.7, seed=3, save_at=(1, 2), data_dir="d"
    )
    assert found("mask-training", own.model_dump(mode="json"), 3) == {
        "method": "mask-training",
        "search": {"objective": "kd", "corpus": "c"},
        "search_seed": 3,
        "asked": None,
    }
    other = own.model_copy(update={"sparsity": 0.5, "seed": 4, "model": "elsewhere"})
    assert found("mask-training", other.model_dump(mode="json"))["search"] == {"objective": "kd", "corpus": "c"}
    assert found("magnitude", SearchConfig(model="m", method="magnitude", ranking="global").model_dump(mode="json"))[
        "search"
    ] == {"ranking": "global"}
    for like in ("imp/sparsity-0.50", "imp/sparsity-0.60"):
        matched = SearchConfig(model="m", method="random", like=like).model_dump(mode="json")
        assert found("random", matched)["search"] == {"like": True}
    imported = found("imported", {"file_sha256": "0", "convention": "tamt", "sparsity": 0.5})
    assert imported == {"method": "imported", "search": {"convention": "tamt"}, "search_seed": None, "asked": None}
    units = SearchConfig.of(model="m", method="importance", selection="random", level=(50,), seed=1)
    assert found("importance", units.model_dump(mode="json"))["asked"] == {"level": [50.0]}
    counts = SearchConfig.of(model="m", method="importance", prune_heads=(4,), prune_ffns=(0,))
    assert found("importance", counts.model_dump(mode="json"))["asked"] == {"prune_heads": [4], "prune_ffns": [0]}
    assert search_settings_of(None) == {"method": None, "search": None, "search_seed": None, "asked": None}


def test_from_the_search_to_the_analysis(tmp_path, monkeypatch):
    transfers_read(monkeypatch)
    model = str(make_model(tmp_path / "m"))
    for ranking in ("matrix", "global"):
        search(SearchConfig(model=model, method="magnitude", ranking=ranking, sparsity=0.5), tmp_path / ranking, QUIET)
    for target in (tmp_path / "matrix", tmp_path / "global", model):
        config = TransferConfig(target=str(target), task="sst2", steps=1, seeds=(0, 1))
        result = transfer(config, tmp_path / f"{target}-run", QUIET)
        assert result["method"] == (None if target == model else "magnitude")
    runs = [tmp_path / f"{name}-run" for name in ("matrix", "global")]
    result = ANALYSES["winning"](runs, [f"{model}-run"])
    assert [one["group"] for one in result["groups"]] == ["magnitude", "magnitude (ranking=global)"]
    assert result["groups"][1]["search"] == {"ranking": "global"}
    assert result["tasks"][0]["majority"] == 0.5
    for run in runs:
        (run / RESULT).unlink()  # as if the last seed were still running
    assert [one["group"] for one in ANALYSES["winning"](runs, [f"{model}-run"])["groups"]] == [
        "magnitude",
        "magnitude (ranking=global)",
    ]


@pytest.mark.parametrize("part", ["seed-0/result.json", "result.json"])
def test_a_seed_and_a_summary_say_the_same(tmp_path, part, monkeypatch):
    transfers_read(monkeypatch)
    model = str(make_model(tmp_path / "m"))
    search(SearchConfig(model=model, method="random", sparsity=0.5, seed=5), tmp_path / "t", QUIET)
    transfer(TransferConfig(target=str(tmp_path / "t"), task="sst2", steps=1), tmp_path / "run", QUIET)
    stored = json.loads((tmp_path / "run" / part).read_text())
    assert (stored["method"], stored["search"], stored["search_seed"]) == ("random", {}, 5)
