"""Every family of decoders alike: what is pruned, by its meaning; search, hold, transfer, export, reload."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from samples.tiny_decoders import DECODERS, make_decoder
from samples.tiny_models import TEXT
from winning_tickets import Runtime, SearchConfig, Ticket, export, hold, search
from winning_tickets.models.architectures import join_parts, prunable_views, split_name
from winning_tickets.models.loading import load_plm, prunable_names
from winning_tickets.models.structure import structure_of
from winning_tickets.models.twin import make_twin
from winning_tickets.tickets.masking import MaskedWeights

QUIET = Runtime(quiet=True)
IDS = torch.arange(5, 29).view(2, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    (folder / "text.txt").write_text("\n".join(TEXT[:12]))
    return folder


@pytest.fixture(scope="module", params=DECODERS)
def model(request, folder):
    """One tiny model of each family."""
    return make_decoder(folder / request.param, request.param)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def magnitude(model, out, **settings):
    return search(SearchConfig(model=str(model), method="magnitude", sparsity=0.5, **settings), out, QUIET)


def test_the_scope_has_all_matrices_of_the_layers_and_nothing_else(model):
    plm = load_plm(str(model), head="clm")
    names = prunable_names(plm, "encoder")
    views = prunable_views(plm.encoder, names)
    layers = tuple(f"{path}." for path in plm.architecture.layer_paths(plm.encoder))
    inside = {n: p for n, p in plm.encoder.named_parameters() if n.startswith(layers) and p.dim() == 2}
    assert {split_name(name).parameter for name in names} == set(inside)
    assert sum(view.numel() for view in views.values()) == sum(p.numel() for p in inside.values())
    assert all(str(split_name(name)) == name for name in names)
    embeddings = prunable_names(plm)[0]
    assert plm.encoder.get_parameter(embeddings) is plm.encoder.get_input_embeddings().weight
    # Every entry belongs to one matrix, and masks of matrices are joined to where their entries lie.
    masks = {name: torch.rand(view.shape) > 0.5 for name, view in views.items()}
    for parameter, mask in join_parts(masks).items():
        assert mask.shape == inside[parameter].shape
        assert mask.is_contiguous()
    for name, view in prunable_views_of(join_parts(masks), names).items():
        assert torch.equal(view, masks[name])


def prunable_views_of(tensors, names):
    return {name: split_name(name).of(tensors[split_name(name).parameter]) for name in names}


def test_a_matrix_is_what_its_role_says(model):
    """Rows of Q, K and V, by head, change the output of that part of the attention alone, and AO reads the contexts."""
    plm = load_plm(str(model), head="clm", attention="eager")
    structure = structure_of(plm)
    matrices = plm.architecture.layer_matrices(plm.encoder)[0]
    maps = plm.encoder(IDS, output_attentions=True).attentions[0]
    groups, heads = structure.num_heads, maps.shape[1]
    contexts = []
    handle = plm.encoder.get_submodule(structure.context_module(0)).register_forward_hook(
        lambda module, inputs, output: contexts.append(inputs[0].view(*IDS.shape, groups, -1))
    )
    plm.encoder(IDS)

    def changed(role, factor):
        """Which heads have other maps, and which groups another context, with the rows of the last group changed."""
        with torch.no_grad():
            view = prunable_views(plm.encoder, matrices[role])[matrices[role][0]]
            rows = view if view.dim() == 3 else view.unflatten(0, (groups, -1))
            kept = rows[-1].clone()
            rows[-1] *= factor
            output = plm.encoder(IDS, output_attentions=True)
            rows[-1] = kept
        other = (output.attentions[0] - maps).abs().amax((0, 2, 3)) > 1e-6
        context = (contexts[-1] - contexts[0]).abs().amax((0, 1, 3)) > 1e-6
        return other.tolist(), context.tolist()

    last = [head >= heads - heads // groups for head in range(heads)]
    only_last = [False] * (groups - 1) + [True]
    if plm.model.config.model_type not in ("qwen3", "gemma3_text"):  # there the keys are normalized
        assert changed("K", 3.0) == (last, only_last)
    rotated = changed("K", -1.0)
    assert rotated == (last, only_last)
    assert changed("Q", -1.0) == (last, only_last)
    assert changed("V", 3.0) == ([False] * heads, only_last)
    handle.remove()


def test_the_input_of_a_matrix_is_its_last_dimension(model):
    """Zeroed columns make the layer blind to that input: rows and N:M groups run along it."""
    plm = load_plm(str(model), head="clm")
    structure = structure_of(plm)
    module = plm.encoder.get_submodule(structure.ffn_module(0))
    states = torch.randn(3, structure.intermediate_size)
    with torch.no_grad():
        (name,) = structure.names(0, "FO")
        prunable_views(plm.encoder, [name])[name][:, 5] = 0.0
        before = module(states)
        states[:, 5] += 1.0
        assert torch.equal(module(states), before)
        states[:, 6] += 1.0
        assert not torch.allclose(module(states), before)


@pytest.mark.parametrize("settings", [{}, {"pattern": "2:4"}, {"ranking": "row"}], ids=["matrix", "2:4", "row"])
def test_search_hold_export_and_reload(model, tmp_path, settings):
    ticket = (
        magnitude(model, tmp_path / "t", **settings)
        if "pattern" not in settings
        else search(SearchConfig(model=str(model), method="magnitude", **settings), tmp_path / "t", QUIET)
    )
    assert ticket.info.scope == "encoder"
    for mask in ticket.masks.values():
        if settings:
            assert (mask.unflatten(-1, (-1, 4)).sum(-1) == 2).all() or settings == {"ranking": "row"}
            assert (mask.sum(-1) == mask.shape[-1] // 2).all()
    again = Ticket.from_pretrained(tmp_path / "t")
    masked = again.apply_(AutoModelForCausalLM.from_pretrained(model))
    # An own reading of where a matrix lies: the weights below the median of each matrix are zero in the file.
    dense = AutoModelForCausalLM.from_pretrained(model)
    assert not torch.allclose(logits(masked), logits(dense), atol=1e-3)
    export(tmp_path / "t", "masked", tmp_path / "e")
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "e", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(logits(loaded), logits(masked))
    assert loaded.config.tie_word_embeddings == dense.config.tie_word_embeddings
    AutoTokenizer.from_pretrained(tmp_path / "e")
    # Held in a loop of its own.
    optimizer = torch.optim.AdamW(masked.parameters(), lr=0.05, weight_decay=0.1)
    hold(masked, again, optimizer, allow_other_weights=True)
    cross_entropy(masked(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
    optimizer.step()
    for name, mask in again.masks_on(masked).items():
        assert masked.base_model.get_parameter(name)[~mask].count_nonzero() == 0
        assert masked.base_model.get_parameter(name)[mask].count_nonzero() > 0


def test_the_embeddings_are_pruned_on_request_and_the_output_stays_dense(model, tmp_path):
    magnitude(model, tmp_path / "t", scope="encoder+embeddings")
    export(tmp_path / "t", "masked", tmp_path / "e")
    dense, loaded = (AutoModelForCausalLM.from_pretrained(where) for where in (model, tmp_path / "e"))
    head = loaded.get_output_embeddings().weight
    assert torch.equal(head, dense.get_output_embeddings().weight)
    assert (loaded.get_input_embeddings().weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)


def test_a_twin_computes_as_the_dense_model(model):
    plm = load_plm(str(model), head="clm")
    expected = logits(plm.model)
    names = prunable_names(plm, "encoder")
    masked = MaskedWeights(plm.encoder, names)
    twin = make_twin(plm.model, masked.dense_weights)
    masked.write({name: torch.rand(weight.shape) > 0.5 for name, weight in masked.dense_weights.items()})
    assert torch.equal(logits(twin), expected)
    assert not torch.allclose(logits(plm.model), expected, atol=1e-3)
    shared = {weight.untyped_storage().data_ptr() for weight in masked.dense_weights.values()}
    parameters = {
        split_name(name).parameter: twin.base_model.get_parameter(split_name(name).parameter) for name in names
    }
    copied = [name for name, value in parameters.items() if value.untyped_storage().data_ptr() not in shared]
    alternate = plm.model.config.model_type == "gpt_neox"
    assert bool(copied) == alternate
    assert all("query_key_value" in name for name in copied)
