"""Every family of encoders alike: what is pruned, masked equals zeroed, heads, first layers, checkpoints of the hub."""

import json
import math
import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    DebertaV2ForMaskedLM,
)

from samples.settings import read_by_method
from samples.tiny_decoders import DECODERS
from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import (
    EvaluateConfig,
    Runtime,
    SearchConfig,
    Ticket,
    TransferConfig,
    evaluate,
    export,
    hold,
    search,
)
from winning_tickets.finetuning.setup import prepare_transfer as prepare_transfer
from winning_tickets.models.architectures import ARCHITECTURES, MatrixView, join_parts, prunable_views, split_name
from winning_tickets.models.loading import load_plm, prunable_names, set_dropout
from winning_tickets.pruning.one_shot import input_norms
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.masking import MaskedWeights, modes
from winning_tickets.tickets.selection import pruned_count
from winning_tickets.tickets.ticket import describe
from winning_tickets.training.objectives.terms import lm_logits

QUIET = Runtime(quiet=True)
IDS = torch.arange(5, 29).view(2, 12)
ATTENTION = torch.ones_like(IDS)
ATTENTION[1, 9:] = 0
HEADS = {"none": AutoModel, "mlm": AutoModelForMaskedLM, "classification": AutoModelForSequenceClassification}
OUTPUTS = {"none": "last_hidden_state", "mlm": "logits", "classification": "logits"}
WQKV, WI = "layers.0.attn.Wqkv.weight", "layers.0.mlp.Wi.weight"


def run(model, which="last_hidden_state", **options):
    with modes(model, training=False), torch.no_grad():
        return getattr(model(input_ids=IDS, attention_mask=ATTENTION, **options), which)


def random_ticket(plm, names=None, seed=0):
    """A ticket of random masks; about a third of the weights is pruned."""
    generator = torch.Generator().manual_seed(seed)
    views = prunable_views(plm.encoder, names or prunable_names(plm))
    masks = {name: torch.rand(view.shape, generator=generator) > 0.3 for name, view in views.items()}
    base = BaseModelInfo.of(plm.encoder, plm.name, plm.model.config.model_type, plm.revision, layers=plm.layers)
    return Ticket(masks, TicketInfo(method="test", scope="encoder+embeddings", config={}, applies_to=base))


def edit_weights(folder, change):
    """Rewrite the weights of a saved model as numpy arrays."""
    file = folder / "model.safetensors"
    weights = change(load_file(file))
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, file, {"format": "pt"})


def zero_by_hand(masks, prefix=""):
    """Zero pruned weights in a checkpoint, with an own reading of the names of parts."""

    def change(weights):
        for name, mask in masks.items():
            parameter, *part = re.split(r"[\[\]/]", name)
            whole = weights[prefix + parameter]
            index, count = (int(part[0]), int(part[1])) if part else (0, 1)
            rows = len(whole) // count
            block = whole[index * rows : (index + 1) * rows]
            block[~mask.numpy()] = 0.0
        return weights

    return change


def test_every_architecture_has_a_tiny_model_and_names_all_roles():
    assert {*CONFIGS, *DECODERS} == set(ARCHITECTURES)
    for architecture in ARCHITECTURES.values():
        assert list(architecture.matrices) == ["Q", "K", "V", "AO", "FI", "FO"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_scope_holds_all_matrices_of_the_layers_and_the_word_embeddings(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / "m", kind)))
    names = prunable_names(plm, "encoder")
    layers = 1 if kind == "albert" else 2
    assert len(names) == len(set(names)) == layers * (7 if kind == "modernbert" else 6)
    views = prunable_views(plm.encoder, names)
    a_layer = 4 * 32 * 32 + (3 if kind == "modernbert" else 2) * 32 * 64
    assert sum(view.numel() for view in views.values()) == layers * a_layer
    paths = tuple(f"{path}." for path in plm.architecture.layer_paths(plm.encoder))
    inside = {n for n, p in plm.encoder.named_parameters() if n.startswith(paths) and p.dim() == 2}
    assert inside == {split_name(name).parameter for name in names}
    embeddings = prunable_names(plm)[0]
    assert prunable_names(plm) == [embeddings, *names]
    width = 16 if kind in ("electra", "albert") else 32
    assert prunable_views(plm.encoder, [embeddings])[embeddings].shape == (plm.model.config.vocab_size, width)
    assert plm.encoder.get_input_embeddings().weight is plm.encoder.get_parameter(embeddings)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("head", HEADS)
def test_a_masked_model_equals_the_model_whose_weights_were_zeroed(tmp_path, kind, head):
    make_model(tmp_path / "start", kind)
    HEADS[head].from_pretrained(tmp_path / "start").save_pretrained(tmp_path / "dense")
    plm = load_plm(str(make_model(tmp_path / "start", kind)))
    ticket = random_ticket(plm)
    ticket.save_pretrained(tmp_path / "ticket")
    ticket = Ticket.from_pretrained(tmp_path / "ticket")
    masked = ticket.apply_(HEADS[head].from_pretrained(tmp_path / "dense"))
    prefix = "" if head == "none" else f"{masked.base_model_prefix}."
    dense = run(HEADS[head].from_pretrained(tmp_path / "dense"), OUTPUTS[head])
    edit_weights(tmp_path / "dense", zero_by_hand(ticket.masks, prefix))
    by_hand = HEADS[head].from_pretrained(tmp_path / "dense")
    assert torch.equal(run(masked, OUTPUTS[head]), run(by_hand, OUTPUTS[head]))
    assert not torch.allclose(run(masked, OUTPUTS[head]), dense, atol=1e-3)


@pytest.mark.parametrize("kind", CONFIGS)
def test_masks_are_written_bit_for_bit(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / "m", kind, "none")))
    ticket = random_ticket(plm)
    expected = ticket.apply_(AutoModel.from_pretrained(tmp_path / "m"), allow_other_weights=True).state_dict()
    masked = MaskedWeights(plm.encoder, list(ticket.masks))
    masked.write(ticket.masks)

    for name, value in plm.model.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value.view(torch.int32), expected[name].view(torch.int32)), name
    for name, view in prunable_views(plm.encoder, ticket.masks).items():
        assert torch.equal(view, masked.dense_weights[name] * ticket.masks[name]), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_holding_keeps_every_matrix_at_positive_zero(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / "m", kind)), head="classification")
    ticket = random_ticket(plm)
    optimizer = torch.optim.AdamW(plm.model.parameters(), lr=0.05, weight_decay=0.1)
    hold(plm.model, ticket, optimizer)
    before = {name: view.clone() for name, view in prunable_views(plm.encoder, ticket.masks).items()}
    gradients = {name: p.grad for name, p in plm.encoder.named_parameters()}
    for _ in range(2):
        cross_entropy(plm.model(IDS, ATTENTION).logits, torch.tensor([0, 1])).backward()
        gradients = {name: p.grad for name, p in plm.encoder.named_parameters()}
        for name, mask in ticket.masks.items():
            part = split_name(name)
            gradient = part.of(gradients[part.parameter])
            assert gradient[~mask].count_nonzero() == 0, name
            assert gradient[mask].count_nonzero() > 0, name
        optimizer.step()
        optimizer.zero_grad()
    for name, view in prunable_views(plm.encoder, ticket.masks).items():
        mask = ticket.masks[name]
        assert view.contiguous().view(torch.int32)[~mask].count_nonzero() == 0, name  # -0.0 has a bit set
        assert not torch.equal(view[mask], before[name][mask]), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_first_layer_alone_is_the_first_layer_of_the_whole(tmp_path, kind):
    path = str(make_model(tmp_path / "m", kind))
    whole, first = load_plm(path), load_plm(path, layers=1)
    states = run(whole.model, "hidden_states", output_hidden_states=True)
    found = run(first.model, "hidden_states", output_hidden_states=True)
    assert (len(states), len(found)) == (3, 2)  # the objective takes [1:] for the outputs of the layers
    assert torch.equal(found[0], states[0])
    with torch.no_grad():  # only ModernBERT has a norm after its last layer
        expected = whole.encoder.final_norm(states[1]) if kind == "modernbert" else states[1]
    assert torch.equal(found[1], expected)
    assert torch.equal(found[-1], run(first.model))
    assert torch.equal(states[-1], run(whole.model))


@pytest.mark.parametrize("kind", ["bert", "albert", "modernbert"])
def test_the_first_layer_is_searched_exported_and_loaded(tmp_path, kind):
    model = str(make_model(tmp_path / "m", kind))
    ticket = search(SearchConfig(model=model, method="magnitude", layers=1), tmp_path / "t", QUIET)
    export(tmp_path / "t", "masked", tmp_path / "e")
    loaded = AutoModel.from_pretrained(tmp_path / "e")
    assert loaded.config.num_hidden_layers == 1
    expected = ticket.apply_(load_plm(model, layers=1).model)
    assert torch.equal(run(loaded), run(expected))
    if kind == "modernbert":
        assert loaded.config.layer_types == ["full_attention"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_both_attention_kernels_give_the_same(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / "m", kind)))
    found = run(plm.model)
    plm.model.set_attn_implementation("eager")
    kept = ATTENTION.bool()
    assert torch.allclose(run(plm.model)[kept], found[kept], atol=1e-4)


# Checkpoints as they lie on the hub.


def hub_style(folder, kind, head, extra=()):
    """The same weights as older programs wrote them: tied copies and buffers included, no pooler."""
    prefix = f"{AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder)).base_model_prefix}."
    architecture = ARCHITECTURES[kind]

    def change(weights):
        inner = prefix if head == "mlm" else ""
        weights[f"{inner}embeddings.position_ids"] = np.arange(512)[None]
        if head == "mlm" and kind != "modernbert":
            weights[f"{architecture.lm_decoder}.weight"] = weights[prefix + architecture.word_embeddings].copy()
        return {n: v for n, v in weights.items() if "pooler." not in n} | {name: np.zeros(3, "f4") for name in extra}

    edit_weights(folder, change)


EXTRA = {
    "deberta-v2": ["mask_predictions.classifier.bias", "mask_predictions.LayerNorm.weight"],
    "albert": ["sop_classifier.classifier.bias"],
    "bert": ["cls.seq_relationship.bias"],
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("saved", ["mlm", "none"])
@pytest.mark.parametrize("head", HEADS)
def test_a_checkpoint_as_on_the_hub_loads_for_every_head(tmp_path, kind, saved, head):
    path = make_model(tmp_path / "m", kind, saved)
    expected = run(AutoModel.from_pretrained(path))
    hub_style(path, kind, saved, EXTRA.get(kind, ()))
    plm = load_plm(str(path), head=head)
    assert torch.equal(run(plm.model.base_model), expected)
    assert plm.has_mlm_head == (saved == head == "mlm")
    with_pooler = any(name.startswith("pooler.") for name, _ in plm.encoder.named_parameters())
    assert not (with_pooler and plm.has_pooler)
    if plm.has_mlm_head:
        decoder = plm.model.get_submodule(plm.architecture.lm_decoder)
        assert decoder.weight is plm.encoder.get_parameter(plm.architecture.word_embeddings)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_checkpoint_that_lacks_a_matrix_is_refused(tmp_path, kind):
    path = make_model(tmp_path / "m", kind)
    plm = load_plm(str(path), head="mlm")
    layer = plm.architecture.layer_matrices(plm.encoder)[0]
    name = f"{plm.model.base_model_prefix}.{split_name(layer['Q'][0]).parameter}"

    def without(weights):
        return {key: value for key, value in weights.items() if key != name} if name in weights else pytest.fail(name)

    edit_weights(path, without)
    for head in HEADS:
        with pytest.raises(ContentError, match="lacks encoder weights, for example .*weight; it cannot be used"):
            load_plm(str(path), head=head)


# Fused parameters.


def test_names_of_parts_are_read_and_false_ones_refused():
    assert split_name("a.weight") == MatrixView("a.weight")
    assert split_name("a.weight[2/3]") == MatrixView("a.weight", 2, 3, 3)
    tensor = torch.arange(12.0).view(6, 2)
    assert split_name("a").of(tensor) is tensor
    assert torch.equal(split_name("a[1/3]").of(tensor), torch.tensor([[4.0, 5.0], [6.0, 7.0]]))
    assert split_name("a[1/3]").of(tensor).data_ptr() == tensor[2:].data_ptr()
    for name in ("a[3/3]", "a[0/1]", "a[01/3]", "a[1]", "[0/3]", "a[-1/3]", "a[0/3][0/2]"):
        with pytest.raises(ContentError, match=re.escape(f"{name} is not the name of a matrix; parts are written")):
            split_name(name)
    with pytest.raises(ContentError, match="a has 6 rows, not 4 equal parts"):
        split_name("a[0/4]").of(tensor)


def test_masks_of_parts_are_joined_and_overlaps_refused():
    first, last = torch.tensor([[True, False]]), torch.tensor([[False, False]])
    whole = torch.tensor([True])
    joined = join_parts({"a[2/3]": last, "b": whole, "a[0/3]": first})
    assert list(joined) == ["a", "b"]
    assert joined["b"] is whole
    assert joined["a"].tolist() == [[True, False], [True, True], [False, False]]  # the middle part is not masked
    for masks in ({"a": first, "a[0/2]": last}, {"a[0/2]": first, "a[0/3]": last}):
        with pytest.raises(ContentError, match="The masks of a do not fit together: found parts of"):
            join_parts(masks)
    with pytest.raises(ContentError, match="expected parts of one number and shape"):
        join_parts({"a[0/2]": first, "a[1/2]": torch.ones(2, 2, dtype=torch.bool)})


@pytest.fixture
def modern(tmp_path):
    return str(make_model(tmp_path / "modern", "modernbert"))


def test_the_parts_are_query_key_value_and_input_gate(modern):
    plm = load_plm(modern)
    layer = plm.encoder.layers[0]
    views = prunable_views(plm.encoder, [f"{WQKV}[{i}/3]" for i in range(3)] + [f"{WI}[{i}/2]" for i in range(2)])
    states = torch.randn(2, 5, 32)
    with torch.no_grad():
        angles = torch.arange(5).float()[None, :, None].expand(1, 5, 16)
        rotated, still = (angles.cos(), angles.sin()), (torch.ones(1, 5, 16), torch.zeros(1, 5, 16))

        def attention(place):
            return layer.attn(states, position_embeddings=place, attention_mask=None)[0]

        fused = layer.attn.Wqkv.weight
        query, key, value = (states @ fused[i * 32 : (i + 1) * 32].T for i in range(3))
        heads = [t.view(2, 5, 2, 16).transpose(1, 2) for t in (query, key, value)]
        expected = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, 5, 32)
        assert torch.allclose(attention(still), expected @ layer.attn.Wo.weight.T, atol=1e-4)
        assert not torch.allclose(attention(rotated), attention(still), atol=1e-3)
        views[f"{WQKV}[2/3]"].zero_()
        assert attention(rotated).count_nonzero() == 0  # without values nothing comes out
        output = layer.mlp(states)
        views[f"{WI}[1/2]"].mul_(2.0)
        assert torch.equal(layer.mlp(states), 2 * output)  # the second half is the gate: outputs are linear in it
        views[f"{WI}[1/2]"].mul_(0.5)
        views[f"{WI}[0/2]"].mul_(2.0)
        assert not torch.allclose(layer.mlp(states), 2 * output, atol=1e-3)


@pytest.mark.parametrize("ranking", ["matrix", "global"])
@pytest.mark.parametrize("method", ["random", "magnitude", "mask-training"])
def test_each_part_is_a_group_of_its_own(tmp_path, modern, method, ranking):
    edit_weights(tmp_path / "modern", lambda w: {n: v * (9.0 if "Wi" in n else 1.0) for n, v in w.items()})
    (tmp_path / "corpus.txt").write_text("\n".join(TEXT))
    config = read_by_method(
        model=modern,
        method=method,
        ranking=ranking,
        sparsity=0.61,
        corpus=str(tmp_path / "corpus.txt") if method == "mask-training" else None,
        steps=3,
        batch_tokens=64,
        segments="packed:16",
    )
    ticket = search(config, tmp_path / "t", QUIET)
    assert len(ticket.masks) == 15
    counts = {name: mask.numel() - int(mask.sum()) for name, mask in ticket.masks.items()}
    if ranking == "matrix":
        assert counts == {name: pruned_count(mask.numel(), 0.61) for name, mask in ticket.masks.items()}
    else:
        assert sum(counts.values()) == pruned_count(ticket.total, 0.61)
        if method == "magnitude":
            assert counts[f"{WI}[0/2]"] < 0.2 * ticket.masks[f"{WI}[0/2]"].numel()


def test_a_part_that_is_not_masked_stays(modern):
    plm = load_plm(modern)
    before = plm.encoder.get_parameter(WQKV).detach().clone()
    ticket = random_ticket(plm, [f"{WQKV}[1/3]"])
    hold(plm.model, ticket)
    after = plm.encoder.get_parameter(WQKV).detach()
    assert torch.equal(after[:32], before[:32])
    assert torch.equal(after[64:], before[64:])
    assert torch.equal(after[32:64], before[32:64] * ticket.masks[f"{WQKV}[1/3]"])


def test_a_ticket_of_parts_is_refused_by_another_model(tmp_path, modern):
    ticket = random_ticket(load_plm(modern))
    bert = AutoModel.from_pretrained(make_model(tmp_path / "bert"))
    with pytest.raises(ContentError, match=r"masks embeddings\.tok_embeddings\.weight, which this model does not have"):
        ticket.apply_(bert)
    config = AutoConfig.from_pretrained(modern)
    config.intermediate_size = 48
    with pytest.raises(
        ContentError, match=r"mask of layers\.0\.mlp\.Wi\.weight\[0/2\] has shape \(64, 32\), .* has \(48, 32\)"
    ):
        ticket.apply_(AutoModel.from_config(config), allow_other_weights=True)
    other = make_model(tmp_path / "other", "modernbert", seed=1)
    with pytest.raises(ContentError, match="made for the weights of .* holds other values"):
        ticket.apply_(AutoModel.from_pretrained(other))


def test_parts_share_the_norms_of_their_input(modern):
    plm = load_plm(modern)
    names = prunable_names(plm)
    found = input_norms(plm.model, names, [{"input_ids": IDS, "attention_mask": ATTENTION}], torch.device("cpu"))
    assert set(found) == set(names[1:])
    seen = {}
    plm.encoder.layers[1].attn.Wqkv.register_forward_hook(lambda m, i, o: seen.update(x=i[0].detach()))
    run(plm.model)
    expected = seen["x"][ATTENTION.bool()].square().sum(0).sqrt()
    for part in range(3):
        assert torch.allclose(found[f"layers.1.attn.Wqkv.weight[{part}/3]"], expected, rtol=1e-5)


def test_relative_positions_are_no_tokens(tmp_path):
    plm = load_plm(str(make_model(tmp_path / "m", "deberta-v2")))
    name = "encoder.layer.0.attention.self.key_proj.weight"
    found = input_norms(plm.model, [name], [{"input_ids": IDS, "attention_mask": ATTENTION}], torch.device("cpu"))
    states = run(plm.model, "hidden_states", output_hidden_states=True)[0]
    assert torch.allclose(found[name], states[ATTENTION.bool()].square().sum(0).sqrt(), rtol=1e-5)


def test_the_students_dropout_reaches_the_attention_of_modernbert(modern, tmp_path):
    config = json.loads((tmp_path / "modern" / "config.json").read_text())
    (tmp_path / "modern" / "config.json").write_text(
        json.dumps(config | {"attention_dropout": 0.5, "mlp_dropout": 0.5})
    )
    plm = load_plm(modern)
    plm.model.train()
    assert not torch.equal(plm.model(IDS).last_hidden_state, plm.model(IDS).last_hidden_state)
    set_dropout(plm.model, 0.0)
    assert torch.equal(plm.model(IDS).last_hidden_state, plm.model(IDS).last_hidden_state)


# ALBERT: shared layers.


def albert(path, **fields):
    config = AutoConfig.from_pretrained(make_model(path, "albert", "none"))
    for name, value in fields.items():
        setattr(config, name, value)
    AutoModel.from_config(config).save_pretrained(path)
    return str(path)


def test_shared_layers_are_masked_once_and_said_so(tmp_path):
    model = str(make_model(tmp_path / "m", "albert"))
    ticket = search(SearchConfig(model=model, method="magnitude"), tmp_path / "t", QUIET)
    assert len(ticket.masks) == 7
    assert describe(ticket)["shared_layers"] is True
    bert = str(make_model(tmp_path / "bert"))
    other = search(SearchConfig(model=bert, method="magnitude"), tmp_path / "u", QUIET)
    assert describe(other)["shared_layers"] is False


def test_groups_and_inner_layers_of_albert_are_all_masked(tmp_path):
    model = albert(tmp_path / "m", num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2)
    plm = load_plm(model)
    assert plm.architecture.layer_paths(plm.encoder) == [
        f"encoder.albert_layer_groups.{group}.albert_layers.{layer}" for group in (0, 1) for layer in (0, 1)
    ]
    assert len(prunable_names(plm)) == 4 * 6 + 1


@pytest.mark.parametrize(("layers", "groups"), [(1, 1), (2, 1), (3, 1), (5, 2), (6, 2), (8, 3)])
def test_the_first_layers_of_albert_keep_their_groups(tmp_path, layers, groups):
    model = albert(tmp_path / "m", num_hidden_layers=9, num_hidden_groups=3)
    whole, first = load_plm(model), load_plm(model, layers=layers)
    assert first.model.config.num_hidden_groups == groups
    states = run(whole.model, "hidden_states", output_hidden_states=True)
    assert torch.equal(run(first.model), states[layers])


def test_first_layers_of_albert_that_are_not_evenly_shared_are_refused(tmp_path):
    model = albert(tmp_path / "m", num_hidden_layers=9, num_hidden_groups=3)
    with pytest.raises(
        UsageError, match=r"--layers 4 is impossible: .* shares 3 groups .* possible are 1, 2, 3, 5, 6, 8, 9"
    ):
        load_plm(model, layers=4)
    with pytest.raises(UsageError, match="--layers 10 is impossible: .* has 9 layers"):
        load_plm(model, layers=10)


# DeBERTa: two kinds of MLM heads.


@pytest.fixture
def borrowing(tmp_path):
    """A DeBERTa whose MLM head has no decoder and takes the word embeddings (`legacy: false`)."""
    path = make_model(tmp_path / "deberta", "deberta-v2")
    config = AutoConfig.from_pretrained(path)
    config.legacy, config.initializer_range = False, 0.3
    torch.manual_seed(0)
    model = DebertaV2ForMaskedLM(config)
    torch.nn.init.normal_(model.lm_predictions.lm_head.bias)
    torch.nn.init.normal_(model.lm_predictions.lm_head.LayerNorm.bias)
    model.save_pretrained(path)
    assert "lm_predictions.lm_head.dense.weight" in load_file(path / "model.safetensors")
    return path


def test_a_head_that_borrows_the_embeddings_gets_a_decoder_and_gives_the_same(borrowing, tmp_path):
    expected = run(DebertaV2ForMaskedLM.from_pretrained(borrowing), "logits")
    plm = load_plm(str(borrowing), head="mlm", require_mlm_head=True)
    assert torch.allclose(run(plm.model, "logits"), expected, atol=1e-5)
    positions = (torch.rand(IDS.numel()) < 0.4).nonzero().squeeze(1)
    logits = lm_logits(plm.model, plm.architecture, run(plm.encoder).flatten(0, 1).index_select(0, positions))
    assert torch.allclose(logits, expected.flatten(0, 1)[positions], atol=1e-5)
    plm.model.save_pretrained(tmp_path / "saved")
    again, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(run(again, "logits"), run(plm.model, "logits"))


def test_such_a_head_that_the_configuration_does_not_announce_counts_as_none(borrowing):
    config = json.loads((borrowing / "config.json").read_text())
    del config["legacy"]
    (borrowing / "config.json").write_text(json.dumps(config))
    assert not load_plm(str(borrowing), head="mlm").has_mlm_head
    with pytest.raises(UsageError, match=r"has no trained MLM head \(missing: cls\.predictions.* Use --objective kd"):
        load_plm(str(borrowing), head="mlm", require_mlm_head=True)


def test_such_a_head_keeps_the_dense_matrix_in_search_and_export(borrowing, tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(TEXT))
    corpus = str(tmp_path / "corpus.txt")
    config = SearchConfig.of(
        model=str(borrowing), objective="mlm", corpus=corpus, steps=3, batch_tokens=64, segments="packed:16"
    )
    ticket = search(config, tmp_path / "t", QUIET)
    assert ticket.mlm_head is not None
    target = EvaluateConfig(target=str(tmp_path / "t"), objectives=("mlm",), corpus=corpus, segments="packed:16")
    assert math.isfinite(evaluate(target, QUIET)["mlm_loss"])
    export(tmp_path / "t", "masked", tmp_path / "e")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "e")
    dense = AutoModel.from_pretrained(borrowing).embeddings.word_embeddings.weight
    assert torch.equal(loaded.cls.predictions.decoder.weight, dense)
    masked = ticket.masks["embeddings.word_embeddings.weight"]
    assert torch.equal(loaded.deberta.embeddings.word_embeddings.weight, dense * masked)


# Positions.


@pytest.mark.parametrize(("kind", "longest"), [("bert", 40), ("mpnet", 38), ("roberta", 39), ("modernbert", 40)])
def test_positions_before_the_first_are_not_counted(tmp_path, kind, longest):
    path = make_model(tmp_path / "m", kind, "none")
    config = AutoConfig.from_pretrained(path)
    config.max_position_embeddings = 40
    AutoModel.from_config(config).save_pretrained(path)
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"{t},{'ab'[i % 2]}\n" for i, t in enumerate(TEXT)))
    file = str(tmp_path / "train.csv")
    transfer = TransferConfig(target=str(path), train_file=file, validation_file=file, max_length=41)
    with pytest.raises(UsageError, match=f"--max-length 41 is impossible; .* reads 3 to {longest}"):
        prepare_transfer(transfer, QUIET)
    ids = torch.full((1, longest), 7)
    assert AutoModel.from_pretrained(path)(ids).last_hidden_state.shape[1] == longest
