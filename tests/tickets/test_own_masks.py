"""Masks of a method of one's own: exact checks, partial masks, and the method's name in tables."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

import winning_tickets as wt
from samples.tiny_models import TEXT, make_model
from winning_tickets import import_mask
from winning_tickets.runs.errors import ContentError, UsageError

QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("models") / "bert"))


@pytest.fixture
def model(folder):
    return AutoModelForMaskedLM.from_pretrained(folder)


def mask_of(model, name=QUERY):
    weight = model.base_model.get_parameter(name).detach()
    return weight.abs() > weight.abs().median()


def test_masks_of_some_matrices(model, folder, tmp_path):
    mask = mask_of(model)
    ticket = wt.Ticket.from_masks({QUERY: mask}, model, method="mine", settings={"rule": "median"}, seed=3)
    assert ticket.pruned == mask.numel() - mask.sum()
    assert ticket.sparsity == 0.5
    assert (ticket.info.method, ticket.info.scope, ticket.info.seed) == ("mine", "partial", 3)
    assert ticket.base.name == folder
    ticket.save_pretrained(tmp_path / "ticket")
    again = wt.Ticket.from_pretrained(tmp_path / "ticket")
    assert again.id == ticket.id
    assert torch.equal(again.masks[QUERY], mask)
    applied = again.apply_(AutoModel.from_pretrained(folder))
    assert torch.equal(applied.get_parameter(QUERY) != 0, mask)
    assert torch.equal(model.base_model.get_parameter(QUERY), AutoModel.from_pretrained(folder).get_parameter(QUERY))


def test_the_mask_is_a_copy(model):
    mask = mask_of(model)
    ticket = wt.Ticket.from_masks({QUERY: mask}, model)
    mask.fill_(False)
    assert ticket.sparsity == 0.5


def test_masks_of_a_whole_scope_have_its_name_and_order(folder):
    magnitude = wt.search(folder, method="magnitude", sparsity=0.5, scope="encoder")
    masks = dict(reversed(magnitude.masks.items()))
    ticket = wt.Ticket.from_masks(masks, folder, method="mine")
    assert ticket.info.scope == "encoder"
    assert list(ticket.masks) == list(magnitude.masks)
    assert ticket.id == magnitude.id


def test_partial_masks_of_a_model_in_a_folder_without_a_pooler(tmp_path):
    folder = make_model(tmp_path / "m", head="mlm")
    mask = torch.ones(32, 32, dtype=torch.bool)
    ticket = wt.Ticket.from_masks({QUERY: mask}, str(folder))
    assert (list(ticket), ticket.info.scope) == ([QUERY], "partial")


@pytest.mark.parametrize("ranking", ["matrix", "row", "global"])
def test_scores_keep_the_highest_ones(model, ranking):
    generator = torch.Generator().manual_seed(0)
    names = (QUERY, QUERY.replace("query", "key"))
    scores = {name: torch.randn(32, 32, generator=generator) for name in names}
    ticket = wt.Ticket.from_scores(scores, model, 0.75, ranking=ranking, method="mine", settings={"power": 2})
    assert ticket.info.config == {"sparsity": 0.75, "ranking": ranking, "power": 2}
    groups = {
        "matrix": [(scores[name].flatten(), ticket.masks[name].flatten()) for name in names],
        "row": [pair for name in names for pair in zip(scores[name], ticket.masks[name], strict=True)],
        "global": [tuple(torch.cat([of[name].flatten() for name in names]) for of in (scores, ticket.masks))],
    }
    for values, kept in groups[ranking]:
        assert kept.sum() == len(values) // 4
        assert values[kept].min() > values[~kept].max()


def test_scores_that_cannot_be_ranked(model):
    scores = torch.ones(32, 32)
    for values, sparsity, ranking, error, words in (
        (scores > 0, 0.5, "matrix", ContentError, "scores of .*query.weight must be a tensor of floats"),
        ([1.0], 0.5, "matrix", ContentError, r"must be a tensor of floats, found \[1.0\]"),
        (scores * torch.nan, 0.5, "matrix", ContentError, "contain NaN or infinity"),
        (scores[:3], 0.5, "matrix", ContentError, "shape"),
        (scores, 1.5, "matrix", UsageError, "1.5"),
        (scores, 0.5, "layer", UsageError, "Unknown ranking 'layer'. Known: global, matrix, row."),
    ):
        with pytest.raises(error, match=words):
            wt.Ticket.from_scores({QUERY: values}, model, sparsity, ranking=ranking)


def test_masks_without_provenance_are_answered_with_the_way(model):
    for make in (lambda masks: wt.Ticket(masks, {}), lambda masks: import_mask(masks, "m", "out")):
        with pytest.raises(UsageError, match=r"Ticket\.from_masks"):
            make({QUERY: mask_of(model)})


def test_names_of_a_model_with_a_head_and_of_wrappers(model):
    mask = mask_of(model)
    for wrapped, name in (
        (model, f"bert.{QUERY}"),
        (torch.nn.Sequential(model), f"0.bert.{QUERY}"),
        (torch.nn.DataParallel(model), f"module.bert.{QUERY}"),
        (model.base_model, QUERY),
    ):
        assert list(wt.Ticket.from_masks({name: mask}, wrapped)) == [QUERY]
    with pytest.raises(ContentError, match=f"There are two masks of {QUERY}, one of them as bert"):
        wt.Ticket.from_masks({QUERY: mask, f"bert.{QUERY}": mask}, model)


def test_fused_matrices_are_masked_in_parts(tmp_path):
    model = AutoModel.from_pretrained(make_model(tmp_path / "m", "modernbert", head="none"))
    name = "layers.0.attn.Wqkv.weight"
    mask = torch.ones(model.get_parameter(name).shape, dtype=torch.bool)
    mask[:4] = False
    ticket = wt.Ticket.from_masks({name: mask}, model)
    assert list(ticket) == [f"{name}[{i}/3]" for i in range(3)]
    assert torch.equal(ticket.masks_on(model)[name], mask)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "A ticket needs at least one mask, found none"),
        (
            {"encoder.layer.0.attention.self.qery.weight": torch.ones(32, 32, dtype=torch.bool)},
            "qery.weight is no parameter of .*Did you mean .*query.weight",
        ),
        ({"embeddings.LayerNorm.weight": torch.ones(32, dtype=torch.bool)}, "is no matrix that tickets prune"),
        ({QUERY: torch.ones(32, 32)}, "is torch.float32, expected a torch.bool tensor, True = kept"),
        ({QUERY: [[True]]}, "is list, expected a torch.bool tensor"),
        ({QUERY: torch.ones(32, 31, dtype=torch.bool)}, r"has shape \(32, 31\), its weight has \(32, 32\)"),
        (
            {"encoder.layer.7.attention.self.query.weight": torch.ones(32, 32, dtype=torch.bool)},
            "is no parameter of",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(masks, message, model):
    with pytest.raises(ContentError, match=message) as caught:
        wt.Ticket.from_masks(masks, model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["magnitude", "mask-training", " "])
def test_names_of_the_library_are_refused(method, model):
    with pytest.raises(UsageError, match="empty or one of the library; give yours a name of its own"):
        wt.Ticket.from_masks({QUERY: mask_of(model)}, model, method=method)


def test_the_name_is_in_every_table(model, folder, tmp_path):
    data = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXT)]
    options = dict(train=data, validation=data[:12], steps=2, batch_size=8, max_length=32, quiet=True)
    tickets = {}
    for method, name in (("mine", QUERY), ("theirs", QUERY.replace("query", "key"))):
        tickets[method] = wt.Ticket.from_masks({name: mask_of(model, name)}, model, method=method)
        found = wt.transfer(tickets[method], tmp_path / method, **options)
        assert set(found.to_frame()["method"]) == {method}
        kept = wt.evaluate(tickets[method], model, corpus=TEXT, segments="lines", quiet=True)
        assert kept.to_frame().loc[0, "method"] == method
    wt.transfer(folder, tmp_path / "dense", **options)
    winning = wt.analysis.winning([tmp_path / "mine", tmp_path / "theirs"], [tmp_path / "dense"])
    assert "mine" in repr(winning)
    assert "theirs" in repr(winning)


def test_held_ends_with_its_block(model):
    ticket = wt.Ticket.from_masks({QUERY: mask_of(model)}, model)
    weight = model.base_model.get_parameter(QUERY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        model(torch.tensor([[2, 7, 8, 3]]), labels=torch.tensor([[2, 7, 8, 3]])).loss.backward()
        optimizer.step()

    with wt.held(model, ticket, optimizer):
        step()
        assert torch.equal(weight == 0, ~ticket.masks[QUERY])
    step()
    assert (weight != 0).all()


@pytest.mark.parametrize("value", [np.int64(3), torch.tensor(1), object()])
def test_settings_that_cannot_be_stored_are_refused(value, model):
    message = f"The setting k is a {type(value).__name__}, which a ticket cannot store; give numbers, texts, lists"
    with pytest.raises(UsageError, match=message):
        wt.Ticket.from_masks({QUERY: mask_of(model)}, model, settings={"k": value})


@pytest.mark.parametrize(("tasks", "shown"), [("rte", "rte"), (["rte", "cola"], "rte, cola"), (3, "3"), (None, None)])
def test_settings_named_like_those_of_the_library(tasks, shown, model, tmp_path):
    wt.Ticket.from_masks({QUERY: mask_of(model)}, model, settings={"tasks": tasks}).save_pretrained(tmp_path)
    assert wt.Ticket.from_pretrained(tmp_path).info.config == {"tasks": tasks}
    assert (f"| corpus or task | {shown} |" in (tmp_path / "README.md").read_text()) == (shown is not None)


def test_a_model_in_place_of_a_ticket(model):
    with pytest.raises(UsageError, match="Found a BertForMaskedLM in place of a ticket; give a Ticket, its folder or"):
        wt.compare(model, model)
    with pytest.raises(UsageError, match="Found a dict in place of a ticket"):
        wt.hold(model, {})
