"""The papers' mask.pt: both conventions there and back, and a message for everything that is not such a file."""

import hashlib
import json
import pickle
import warnings

import pytest
import torch

from samples.tiny_models import CONFIGS, make_model
from winning_tickets import Runtime, SearchConfig, Ticket, export, import_mask, search
from winning_tickets.deploy.mask_files import CONVENTIONS
from winning_tickets.models.architectures import ARCHITECTURES, join_parts
from winning_tickets.models.loading import load_plm
from winning_tickets.models.structure import structure_of
from winning_tickets.runs.errors import ContentError, UsageError

QUIET = Runtime(quiet=True)
QUERY = "encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("m") / "bert", head="none"))


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("m") / "roberta", "roberta", head="none"))


def ticket_of(model, out, scope="encoder+pooler", sparsity=0.7):
    return search(SearchConfig(model=model, method="magnitude", sparsity=sparsity, scope=scope), out, QUIET)


@pytest.fixture(scope="module")
def ticket(bert, tmp_path_factory):
    return ticket_of(bert, tmp_path_factory.mktemp("t") / "ticket")


def bert_tickets(ticket, prefix="bert."):
    """As their programs store a mask: every state_dict key with "mask" in it, floats, in a plain dictionary."""
    return {f"{prefix}{name.removesuffix('weight')}weight_mask": mask.float() for name, mask in ticket.masks.items()}


def tamt(ticket, prefix="bert."):
    return {f"{prefix}{name}": mask for name, mask in ticket.masks.items()}


def saved(path, content):
    torch.save(content, path)
    return path


def same(a, b):
    return list(a.masks) == list(b.masks) and all(torch.equal(a.masks[name], b.masks[name]) for name in a.masks)


@pytest.mark.parametrize(("write", "convention"), [(bert_tickets, "bert-tickets"), (tamt, "tamt")])
@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_a_file_becomes_a_ticket(tmp_path, bert, ticket, write, convention, prefix):
    file = saved(tmp_path / "mask.pt", write(ticket, prefix))
    result = import_mask(file, bert, tmp_path / "out")
    found = Ticket.from_pretrained(tmp_path / "out")
    assert same(found, ticket)
    assert found.id == ticket.id == result["ticket_id"]
    assert (found.info.method, found.info.scope, found.info.parents) == ("imported", "encoder+pooler", ())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert found.info.config == {"file_sha256": digest, "convention": convention, "prefix": prefix}
    assert result["sparsity"] == ticket.sparsity
    assert (result["pruned"], result["total"]) == (ticket.pruned, ticket.total)
    assert str(tmp_path) not in (tmp_path / "out" / "ticket.json").read_text().replace(bert, "")


@pytest.mark.parametrize("scope", ["encoder", "encoder+embeddings", "encoder+pooler", "encoder+embeddings+pooler"])
def test_the_scope_follows_from_the_names(tmp_path, bert, scope):
    own = ticket_of(bert, tmp_path / "t", scope)
    file = saved(tmp_path / "mask.pt", dict(reversed(tamt(own).items())))  # in whatever order
    assert import_mask(file, bert, tmp_path / "out")["scope"] == scope
    assert same(Ticket.from_pretrained(tmp_path / "out"), own)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_there_and_back_for_every_architecture(tmp_path, kind, convention):
    model = str(make_model(tmp_path / "m", kind, head="none"))
    own = ticket_of(model, tmp_path / "t", "encoder+embeddings", 0.37)
    result = export(tmp_path / "t", "mask-pt", tmp_path / "e", convention=convention)
    assert (result["convention"], result["ticket_id"]) == (convention, own.id)
    file = tmp_path / "e" / "mask.pt"
    stored = torch.load(file, weights_only=True)
    assert len(stored) == len(join_parts(own.masks))
    assert {mask.dtype for mask in stored.values()} == {CONVENTIONS[convention].dtype}
    import_mask(file, model, tmp_path / "out")
    assert same(Ticket.from_pretrained(tmp_path / "out"), own)
    assert Ticket.from_pretrained(tmp_path / "out").id == own.id
    export(tmp_path / "out", "mask-pt", tmp_path / "again", convention=convention)
    assert (tmp_path / "again" / "mask.pt").read_bytes() == file.read_bytes()


def test_names_and_values_are_those_of_the_code_bases(tmp_path, ticket, bert):
    ticket.save_pretrained(tmp_path / "t")
    export(tmp_path / "t", "mask-pt", tmp_path / "a")
    stored = torch.load(tmp_path / "a" / "mask.pt", weights_only=True)
    assert set(stored) == {
        *(f"bert.encoder.layer.{n}.{part}.weight_mask" for n in (0, 1) for part in (
            "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
            "intermediate.dense", "output.dense",
        )),
        "bert.pooler.dense.weight_mask",
    }  # fmt: skip
    assert torch.equal(stored[f"bert.{QUERY}.weight_mask"], ticket.masks[f"{QUERY}.weight"].float())
    result = export(tmp_path / "t", "mask-pt", tmp_path / "b", convention="tamt")
    assert "bert.pooler.dense.weight" in torch.load(tmp_path / "b" / "mask.pt", weights_only=True)
    assert result["note"] == (
        f"mask.pt holds masks, no weights; it belongs to {bert}. The paper's released code expects a mask of the "
        "embeddings too, which this ticket lacks."
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.uint8])
def test_other_types_are_read_too(tmp_path, bert, ticket, dtype):
    file = saved(tmp_path / "mask.pt", {key: mask.to(dtype) for key, mask in bert_tickets(ticket).items()})
    assert import_mask(file, bert, tmp_path / "out")["ticket_id"] == ticket.id


def test_the_format_of_the_versions_of_torch_that_the_papers_used(tmp_path, bert, ticket):
    torch.save(bert_tickets(ticket), tmp_path / "mask.pt", _use_new_zipfile_serialization=False)
    assert not (tmp_path / "mask.pt").read_bytes().startswith(b"PK")
    assert import_mask(tmp_path / "mask.pt", bert, tmp_path / "out")["ticket_id"] == ticket.id


def test_roberta_has_a_prefix_of_its_own(tmp_path, roberta, bert):
    own = ticket_of(roberta, tmp_path / "t")
    file = saved(tmp_path / "mask.pt", bert_tickets(own, "roberta."))
    assert import_mask(file, roberta, tmp_path / "out")["prefix"] == "roberta."
    assert same(Ticket.from_pretrained(tmp_path / "out"), own)
    with pytest.raises(
        ContentError, match=rf"has roberta.{QUERY}.weight_mask, a name of roberta, and .* is a bert model"
    ):
        import_mask(file, bert, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert "roberta.pooler.dense.weight" in torch.load(
        export_file(tmp_path / "t", tmp_path / "e", "tamt"), weights_only=True
    )


def export_file(ticket, out, convention):
    export(ticket, "mask-pt", out, convention=convention)
    return out / "mask.pt"


def test_a_file_that_needs_code_is_not_opened(tmp_path, bert):
    ran = tmp_path / "ran"

    class Harmful:
        def __reduce__(self):
            return (type(ran).touch, (ran,))

    for name, content in (("a.pt", {"x": Harmful()}), ("model.pt", torch.nn.Linear(2, 2))):
        file = saved(tmp_path / name, content)
        with pytest.raises(ContentError, match=f"{name} holds more than tensors .*could run any code") as caught:
            import_mask(file, bert, tmp_path / "out")
        assert "A whole model (model.pt) is such a file; give the mask.pt next to it." in str(caught.value)
    assert "it asks for torch.nn.modules.linear.Linear" in str(caught.value)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"x": Harmful()}))
    with pytest.raises(ContentError):
        import_mask(tmp_path / "plain.pt", bert, tmp_path / "out")
    assert not ran.exists()
    assert not (tmp_path / "out").exists()


def test_what_is_no_file_of_masks(tmp_path, bert, ticket):
    good = saved(tmp_path / "good.pt", bert_tickets(ticket)).read_bytes()
    for content in (b"", b"hello", good[:1000], good[: len(good) // 2]):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(ContentError, match=r"bad.pt (is not a file of torch.save, or it was cut off|holds more)"):
            import_mask(tmp_path / "bad.pt", bert, tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls both a thing of the past or of the future
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
        quantized = torch.quantize_per_tensor(torch.ones(2, 2), 1.0, 0, torch.quint8)
    for content, message in (
        ([1, 2], "holds a list, expected a dictionary of masks"),
        ({}, "holds nothing, expected a dictionary of masks"),
        ({"a.weight_mask": 3}, "has a int for a.weight_mask, expected a dense tensor of 0 and 1"),
        ({"a.weight_mask": torch.eye(2).to_sparse()}, "has a Tensor for a.weight_mask, expected a dense tensor"),
        ({"a.weight_mask": torch.ones(2, 2, device="meta")}, "has a Tensor for a.weight_mask, expected a dense tensor"),
        ({"a.weight_mask": nested}, "has a Tensor for a.weight_mask, expected a dense tensor"),
        ({"a.weight_mask": quantized}, "has a Tensor for a.weight_mask, expected a dense tensor"),
        (
            {"a.bias": torch.ones(2)},
            "has a.bias, which is not the name of a mask; those end in .weight_mask or .weight",
        ),
    ):
        with pytest.raises(ContentError, match=message):
            import_mask(saved(tmp_path / "bad.pt", content), bert, tmp_path / "out")
    with pytest.raises(UsageError, match="There is no mask file .*nowhere; give the path of a mask.pt"):
        import_mask(tmp_path / "nowhere", bert, tmp_path / "out")
    with pytest.raises(UsageError, match="There is no mask file"):
        import_mask(tmp_path, bert, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_masks_that_do_not_fit_the_model(tmp_path, bert, ticket):
    key = f"bert.{QUERY}.weight_mask"
    good = bert_tickets(ticket)

    def refused(change, message):
        content = dict(good)
        change(content)
        with pytest.raises(ContentError, match=message):
            import_mask(saved(tmp_path / "mask.pt", content), bert, tmp_path / "out")

    refused(lambda c: c.update({key: torch.ones(32, 16)}), rf"shape \(32, 16\) for {key}, whose weight has \(32, 32\)")
    refused(
        lambda c: c.pop(key),
        r"lacks the masks of 1 of 13 matrices of .*: encoder.layer.0.attention.self.query.weight\.",
    )
    refused(
        lambda c: [c.pop(name) for name in list(c) if "layer.1" in name],
        r"lacks the masks of 6 of 13 .*query.weight, .*key.weight, .*value.weight \.\.\.\. Was it made for a smaller",
    )
    refused(
        lambda c: c.update({"bert.encoder.layer.2.output.dense.weight_mask": torch.ones(32, 64)}),
        r"layer.2.output.dense.weight_mask, which is no matrix of .* closest names .* are bert.encoder.layer.\d.output",
    )
    refused(
        lambda c: c.update({f"{QUERY}.weight_mask": good[key]}), "two masks of .*query.weight, with and without bert."
    )
    refused(
        lambda c: c.update({f"bert.{QUERY}.weight": good[key]}),
        "mixes the names of both code bases: bert.*Keep the masks only",
    )
    scores = good[key].clone()
    scores[0, :3] = torch.tensor([0.5, float("nan"), -1.0])
    refused(
        lambda c: c.update({key: scores}), rf"has 3 entries of {key} that are neither 0 nor 1, such as -1, 0.5, nan;"
    )


def test_a_pooler_needs_a_pooler(tmp_path, bert, ticket):
    from transformers import AutoModel

    plain = make_model(tmp_path / "m", head="mlm")
    assert AutoModel.from_pretrained(plain).pooler is not None  # made fresh: the checkpoint has none
    with pytest.raises(ContentError, match="has a mask of the pooler, which .* lacks; give a --base with a pooler"):
        import_mask(saved(tmp_path / "mask.pt", bert_tickets(ticket)), str(plain), tmp_path / "out")


def test_the_contract_of_out(tmp_path, bert, ticket):
    file = saved(tmp_path / "mask.pt", bert_tickets(ticket))
    first = import_mask(file, bert, tmp_path / "out")
    assert import_mask(file, bert, tmp_path / "out") == first
    other = saved(tmp_path / "other.pt", tamt(ticket))
    with pytest.raises(UsageError, match="holds another run"):
        import_mask(other, bert, tmp_path / "out")
    assert import_mask(other, bert, tmp_path / "out", force=True)["convention"] == "tamt"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    with pytest.raises(UsageError, match="holds files that are not a run of this tool"):
        import_mask(file, bert, tmp_path / "mine", force=True)


def test_options_that_do_not_go_together(tmp_path, ticket, bert):
    ticket.save_pretrained(tmp_path / "t")
    for how, message in (
        ({"convention": "tam"}, "Unknown convention 'tam'. Did you mean 'tamt'?"),
        ({"base": bert}, "cannot be used with --format mask-pt; leave them out"),
    ):
        with pytest.raises(UsageError, match=message):
            export(tmp_path / "t", "mask-pt", tmp_path / "out", **how)
    with pytest.raises(UsageError, match="--convention tamt needs --format mask-pt, and the format is masked"):
        export(tmp_path / "t", "masked", tmp_path / "out", convention="tamt")
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="run is not a ticket"):
        export(tmp_path / "run", "mask-pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pruned_heads_are_no_masks(tmp_path, bert, ticket):
    structure = structure_of(load_plm(bert))
    Ticket({}, ticket.info, gates={"layers.0.heads": torch.tensor([True, False])}, structure=structure).save_pretrained(
        tmp_path / "t"
    )
    with pytest.raises(
        UsageError, match="prunes whole heads, neurons or FFNs with their biases, which a mask.pt cannot"
    ):
        export(tmp_path / "t", "mask-pt", tmp_path / "out")


def test_a_model_with_code_of_its_own_has_no_known_names(tmp_path, ticket):
    base = ticket.base.model_copy(update={"model_type": "my_bert"})
    Ticket(ticket.masks, ticket.info.model_copy(update={"applies_to": base})).save_pretrained(tmp_path / "t")
    with pytest.raises(
        UsageError, match=r"a model with code of its own \(my_bert\), whose names .* use --format masked"
    ):
        export(tmp_path / "t", "mask-pt", tmp_path / "out")


def test_the_command_line(tmp_path, bert, ticket, tickets):
    file = saved(tmp_path / "mask.pt", bert_tickets(ticket))
    words = ["mask", "import", file, "--base", bert, "--out", tmp_path / "out"]
    code, out, err = tickets(*words, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "out" / "result.json").read_text()) | {
        "out": str(tmp_path / "out")
    }
    code, out, err = tickets(*words)
    assert f"ticket {ticket.id} of {bert}, names as in bert-tickets" in out
    assert f"sparsity: {ticket.sparsity:.6f} ({ticket.pruned:,} of {ticket.total:,}, scope encoder+pooler)" in out
    words = [
        "export",
        tmp_path / "out",
        "--format",
        "mask-pt",
        "--convention",
        "tamt",
        "--out",
        tmp_path / "e",
        "--json",
    ]
    code, out, err = tickets(*words)
    assert (code, err, json.loads(out)["convention"]) == (0, "", "tamt")
    code, out, err = tickets(
        "mask", "import", tmp_path / "e" / "mask.pt", "--base", bert, "--out", tmp_path / "back", "--json"
    )
    assert json.loads(out)["ticket_id"] == ticket.id
    code, out, err = tickets("mask", "import", tmp_path / "no.pt", "--base", bert, "--out", tmp_path / "x", "--json")
    assert (code, out) == (2, "")
    (tmp_path / "bad.pt").write_bytes(b"x")
    code, out, err = tickets("mask", "import", tmp_path / "bad.pt", "--base", bert, "--out", tmp_path / "x", "--json")
    assert (code, out) == (1, "")


def test_all_architectures_are_there():
    assert CONFIGS.keys() == {kind for kind, one in ARCHITECTURES.items() if not one.causal}
