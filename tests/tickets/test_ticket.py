"""Tickets on disk: small, complete or refused, never silently wrong."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from samples.tickets import CONFIG, QUERY, make_ticket
from winning_tickets import Ticket
from winning_tickets.models.loading import weight_hashes
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.ticket import count_empty


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BertModel(BertConfig(**CONFIG))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 17), seed=st.integers(0, 99))
def test_any_mask_survives_the_round_trip(tmp_path_factory, rows, columns, seed):
    folder = tmp_path_factory.mktemp("ticket")
    base = BaseModelInfo(name="x", model_type="bert", hash="0", tensors={})
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) > 0.5
    ticket = Ticket({"w": mask}, TicketInfo(method="test", scope="encoder", config={"a": 1}, applies_to=base))
    ticket.save_pretrained(folder)
    again = Ticket.from_pretrained(folder)
    assert torch.equal(again.masks["w"], mask)
    assert (again.id, again.sparsity) == (ticket.id, ticket.sparsity)
    assert again.info.config == {"a": 1}


def test_a_ticket_takes_one_bit_a_weight(tmp_path):
    base = BaseModelInfo(name="x", model_type="bert", hash="0", tensors={})
    masks = {f"layer.{i}": torch.rand(300, 400) > 0.6 for i in range(10)}
    Ticket(masks, TicketInfo(method="test", scope="encoder", config={}, applies_to=base)).save_pretrained(tmp_path)
    weights = 10 * 300 * 400
    assert (tmp_path / "ticket.safetensors").stat().st_size <= weights / 8 * 1.01


def test_one_ticket_fits_every_head(model, tmp_path):
    model.save_pretrained(tmp_path)
    ticket = make_ticket(model)
    for kind in (BertModel, BertForMaskedLM, BertForSequenceClassification):
        loaded = kind.from_pretrained(tmp_path)
        ticket.apply_(loaded)
        weight = dict(loaded.base_model.named_parameters())[QUERY]
        assert bool((weight[~ticket.masks[QUERY]] == 0).all())
        assert not bool(torch.signbit(weight[~ticket.masks[QUERY]]).any())
        assert torch.equal(weight[ticket.masks[QUERY]], dict(model.named_parameters())[QUERY][ticket.masks[QUERY]])


def test_other_weights_are_refused_unless_meant(model):
    ticket = make_ticket(model)
    other = BertModel(BertConfig(**CONFIG))
    before = weight_hashes(other)
    with pytest.raises(ContentError, match="made for the weights of tiny; here .* holds other values"):
        ticket.apply_(other)
    assert weight_hashes(other) == before
    ticket.apply_(other, allow_other_weights=True)
    assert weight_hashes(other) != before


def test_another_architecture_or_shape_is_named(model):
    ticket = make_ticket(model)
    wide = BertModel(BertConfig(**CONFIG | {"hidden_size": 32}))
    with pytest.raises(ContentError, match=r"has shape \(16, 16\), the model's weight has \(32, 32\)"):
        ticket.apply_(wide, allow_other_weights=True)
    shallow = make_ticket(model, names=("encoder.layer.1.output.dense.weight",))
    with pytest.raises(
        ContentError, match=r"masks encoder\.layer\.1\.output\.dense\.weight, which this model does not"
    ):
        shallow.apply_(BertModel(BertConfig(**CONFIG | {"num_hidden_layers": 1})))


def test_a_truncated_mask_file_is_noticed(model, tmp_path):
    make_ticket(model).save_pretrained(tmp_path)
    path = tmp_path / "ticket.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(
        ContentError, match=r"does not match its checksum in ticket\.json: the file was cut off or edited"
    ):
        Ticket.from_pretrained(tmp_path)


def test_one_flipped_bit_is_noticed(model, tmp_path):
    make_ticket(model).save_pretrained(tmp_path)
    path = tmp_path / "ticket.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ContentError, match="cut off or edited"):
        Ticket.from_pretrained(tmp_path)


@pytest.mark.parametrize("field", ["sparsity", "shapes", "files"])
def test_an_edited_description_is_noticed(model, tmp_path, field):
    make_ticket(model).save_pretrained(tmp_path)
    path = tmp_path / "ticket.json"
    body = json.loads(path.read_text())
    body[field] = 0.5 if field == "sparsity" else {}
    path.write_text(json.dumps(body))
    with pytest.raises(ContentError, match="does not match its own checksum: it was edited or cut off"):
        Ticket.from_pretrained(tmp_path)


def test_a_cut_off_description_and_a_lost_mask_file_are_noticed(model, tmp_path):
    make_ticket(model).save_pretrained(tmp_path)
    text = (tmp_path / "ticket.json").read_text()
    (tmp_path / "ticket.json").write_text(text[: len(text) // 2])
    with pytest.raises(ContentError, match="is not valid JSON"):
        Ticket.from_pretrained(tmp_path)
    (tmp_path / "ticket.json").write_text(text)
    (tmp_path / "ticket.safetensors").unlink()
    with pytest.raises(ContentError, match=r"lacks ticket\.safetensors; copy the whole folder again"):
        Ticket.from_pretrained(tmp_path)


def test_where_there_is_no_ticket_the_answer_says_so(model, tmp_path):
    with pytest.raises(UsageError, match="There is no ticket"):
        Ticket.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"is not a ticket: it has no ticket\.json"):
        Ticket.from_pretrained(tmp_path)
    for step in ("step-000010", "step-000020"):
        make_ticket(model).save_pretrained(tmp_path / step)
    with pytest.raises(UsageError, match="holds several tickets, give one of them: .*step-000010, .*step-000020"):
        Ticket.from_pretrained(tmp_path)


def test_a_trained_mlm_head_travels_with_the_ticket(model, tmp_path):
    head = {"cls.predictions.bias": torch.arange(5.0)}
    make_ticket(model, head=head).save_pretrained(tmp_path)
    assert torch.equal(Ticket.from_pretrained(tmp_path).mlm_head["cls.predictions.bias"], torch.arange(5.0))


def test_a_full_disk_leaves_no_description(model, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(TrainingError, match="No space left on device"):
        make_ticket(model).save_pretrained(tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_masks_must_be_bool():
    base = BaseModelInfo(name="x", model_type="bert", hash="0", tensors={})
    info = TicketInfo(method="test", scope="encoder", config={}, applies_to=base)
    with pytest.raises(ContentError, match=r"has type torch\.float32, expected torch\.bool \(True = kept\)"):
        Ticket({"w": torch.ones(2)}, info)
    with pytest.raises(ContentError, match="at least one mask"):
        Ticket({}, info)


def test_rows_and_columns_without_a_kept_weight():
    mask = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
    assert count_empty(mask) == {"rows": 1, "columns": 1}
    assert count_empty(torch.ones(2, 3, dtype=torch.bool)) == {"rows": 0, "columns": 0}
