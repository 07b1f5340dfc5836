"""Weights that PyTorch computes from other tensors, and heads removed in a configuration, are refused by name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm
from transformers import AutoModel, AutoTokenizer

from samples.tiny_models import make_model
from winning_tickets import Runtime, SearchConfig, Ticket, hold, import_mask, search
from winning_tickets.models.given import GivenModel
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import ContentError

QUERY = "encoder.layer.0.attention.self.query"


class Half(nn.Module):
    """A parametrization of a user's own."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


def weight_normed(module: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        weight_norm(module)


MADE: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "prune": (
        lambda module: prune.l1_unstructured(module, "weight", amount=0.5),
        r"torch\.nn\.utils\.prune made them; call torch\.nn\.utils\.prune\.remove\(module, 'weight'\)",
    ),
    "parametrize": (
        lambda module: nn.utils.parametrize.register_parametrization(module, "weight", Half()),
        r"torch\.nn\.utils\.parametrize made them; call torch\.nn\.utils\.parametrize\.remove_parametrizations",
    ),
    "new weight norm": (parametrizations.weight_norm, r"parametrize\.remove_parametrizations\(module, 'weight'\)"),
    "weight norm": (weight_normed, r"torch\.nn\.utils\.remove_weight_norm\(module, 'weight'\) for"),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_model(tmp_path_factory.mktemp("m") / "bert", head="none"))


@pytest.fixture(scope="module")
def ticket(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Ticket:
    config = SearchConfig(model=str(bert), method="magnitude", sparsity=0.5, scope="encoder")
    return search(config, tmp_path_factory.mktemp("t") / "ticket", Runtime(quiet=True))


def doors(model: nn.Module, folder: Path, ticket: Ticket, tmp_path: Path) -> dict[str, Callable[[], Any]]:
    """Ways of a model into the library; `folder` has it on disk."""
    mask = tmp_path / "mask.pt"
    torch.save({f"bert.{name}": value for name, value in ticket.masks.items()}, mask)
    return {
        "load": lambda: load_plm(str(folder)),
        "load with a head": lambda: load_plm(str(folder), head="classification"),
        "given": lambda: GivenModel.of(model),
        "from_masks": lambda: Ticket.from_masks(ticket.masks, model),
        "hold": lambda: hold(model, ticket),
        "hold inside": lambda: hold(nn.ModuleDict({"inside": model}), ticket),
        "import-mask": lambda: import_mask(mask, str(folder), tmp_path / "imported"),
    }


@pytest.mark.parametrize("made", MADE)
def test_computed_weights_are_refused_with_the_cure(bert: Path, ticket: Ticket, tmp_path: Path, made: str) -> None:
    change, message = MADE[made]
    model = AutoModel.from_pretrained(bert)
    change(model.get_submodule(QUERY))
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "model")
    for door, enter in doors(model, tmp_path / "model", ticket, tmp_path).items():
        expected = rf"other tensors in place of the weights .*{QUERY}\.weight: .*{message}"
        with pytest.raises(ContentError, match=expected):
            pytest.fail(f"{door} took it: {enter()}")


def test_after_the_cure_the_model_is_taken(bert: Path, ticket: Ticket) -> None:
    model = AutoModel.from_pretrained(bert)
    prune.identity(model.get_submodule(QUERY), "weight")
    prune.remove(model.get_submodule(QUERY), "weight")
    assert GivenModel.of(model).model is model
    hold(model, ticket).remove()


def test_a_computed_weight_outside_the_encoder_is_none_of_our_business(bert: Path, ticket: Ticket) -> None:
    model = nn.ModuleDict({"encoder": AutoModel.from_pretrained(bert), "head": nn.Linear(4, 2)})
    prune.identity(model["head"], "weight")
    hold(model, ticket).remove()


def test_removed_heads_are_refused_by_the_key(bert: Path, ticket: Ticket, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(bert)
    for heads in ({}, {"0": [1], "1": [0, 1]}):
        model.config.pruned_heads = heads
        model.save_pretrained(tmp_path / "model")
        AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "model")
        assert json.loads((tmp_path / "model" / "config.json").read_text())["pruned_heads"] == heads
        for door, enter in doors(model, tmp_path / "model", ticket, tmp_path).items():
            if not heads:
                found = enter()
                found.remove() if door.startswith("hold") else None
                continue
            with pytest.raises(ContentError, match=r"has pruned_heads \(3 heads in 2 layers\), which"):
                pytest.fail(f"{door} took it: {enter()}")
