"""The method that docs/how_to/add_a_method.md adds."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from samples.tiny_models import make_model
from winning_tickets import Runtime, SearchConfig, search, search_all
from winning_tickets.config import METHODS
from winning_tickets.config.search import _all_fields
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.selection import keep_top

PAGE = Path(__file__).resolve().parents[2] / "docs/how_to/add_a_method.md"
QUIET = Runtime(quiet=True)


@pytest.fixture
def relative(tmp_path, monkeypatch):
    """The module of the page, with its entry in the table of methods."""
    code, entry = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (name, path) = re.findall(r'"([^"]+)"', entry)
    module = path.partition(":")[0]
    (tmp_path / "relative.py").write_text(code)
    spec = importlib.util.spec_from_file_location(module, tmp_path / "relative.py")
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module, made)
    spec.loader.exec_module(made)
    monkeypatch.setitem(METHODS, name, path)
    _all_fields.cache_clear()
    yield made
    _all_fields.cache_clear()


def test_the_method_of_the_page_finds_tickets(relative, tmp_path):
    model = str(make_model(tmp_path / "m"))
    tickets = search_all(
        model, tmp_path / "t", QUIET, method="relative", sparsity=(0.5, 0.7), power=0.5, scope="encoder"
    )
    from winning_tickets.models.loading import load_plm

    weights = dict(load_plm(model).encoder.named_parameters())
    scores = {name: relative.relative_importance(weights[name].detach(), 0.5) for name in tickets[0.5].masks}
    for sparsity, ticket in tickets.items():
        expected = keep_top(scores, sparsity)
        assert all(torch.equal(mask, expected[name]) for name, mask in ticket.masks.items())
    assert tickets[0.7].info.config["power"] == 0.5
    pattern = search(model, tmp_path / "p", QUIET, method="relative", pattern="2:4")
    assert pattern.sparsity == 0.5


def test_other_methods_refuse_its_setting_and_it_refuses_theirs(relative):
    with pytest.raises(UsageError, match=r"--method magnitude does not read --power; it needs --method relative\."):
        SearchConfig.of(model="m", method="magnitude", power=2.0)
    with pytest.raises(UsageError, match="--method relative does not read --steps; it needs --method mask-training"):
        SearchConfig.of(model="m", method="relative", steps=3)
    with pytest.raises(UsageError, match=r"--power -1.0 is impossible; it must be at least 0\."):
        SearchConfig.of(model="m", method="relative", power=-1.0)
