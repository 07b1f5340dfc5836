"""States of weights: round trips, refusals, and transforms that do what their names say."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from samples.tiny_models import CONFIGS, make_model
from winning_tickets.config import parse_start
from winning_tickets.models.architectures import matrices_of, prunable_views
from winning_tickets.models.loading import base_hash, load_plm, prunable_names, weight_hashes
from winning_tickets.models.weights import (
    StateInfo,
    add_noise,
    content_hash,
    copy_encoder_weights,
    load_start_weights,
    load_state,
    reinitialize,
    save_state,
    shuffle_layers,
    shuffle_within,
    write_state_,
)
from winning_tickets.runs.errors import ContentError, UsageError

LAYERED = [kind for kind in CONFIGS if kind != "albert"]
TRANSFORMS = {
    "noise": lambda plm, seed: add_noise(plm, seed, 0.1),
    "reinit": reinitialize,
    "shuffle-within": shuffle_within,
    "shuffle-layers": shuffle_layers,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A loaded model of each architecture; tests must leave it as it is."""
    folder, loaded = tmp_path_factory.mktemp("models"), {}

    def get(kind="bert"):
        if kind not in loaded:
            loaded[kind] = load_plm(str(make_model(folder / kind, kind, head="none")))
        return loaded[kind]

    return get


def info_of(plm, **fields):
    return StateInfo(base_hash=base_hash(weight_hashes(plm.encoder)), what="a test", **fields)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_state_comes_back_bit_for_bit(tmp_path, models, kind):
    plm = models(kind)
    heads = {"cls.weight": torch.randn(3, 4), "cls.bias": torch.zeros(3)}
    info = info_of(plm, step=7, seed=3)
    save_state(tmp_path / "deep" / "s.safetensors", plm.encoder, info=info, heads=heads)
    state = load_state(tmp_path / "deep" / "s.safetensors")
    assert same(state.tensors, dict(plm.encoder.named_parameters()))
    assert same(state.heads, heads)
    assert state.info == info
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"s.safetensors"}
    save_state(tmp_path / "again.safetensors", plm.encoder, info=info, heads=heads)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "deep" / "s.safetensors").read_bytes()


@pytest.mark.parametrize("kind", CONFIGS)
def test_writing_a_state_brings_the_weights_back_in_place(models, kind):
    plm = load_plm(models(kind).name)
    before = copy_encoder_weights(plm)
    where = {name: value.data_ptr() for name, value in plm.encoder.named_parameters()}
    with torch.no_grad():
        for value in plm.encoder.parameters():
            value.add_(1.0)
    assert not same(before, dict(plm.encoder.named_parameters()))  # copies: they did not follow
    names = prunable_names(plm)
    write_state_(plm.encoder, before, names)
    assert same(prunable_views(plm.encoder, names), matrices_of(before, names))
    assert not same(before, dict(plm.encoder.named_parameters()))
    write_state_(plm.encoder, before)
    assert same(before, dict(plm.encoder.named_parameters()))
    assert where == {name: value.data_ptr() for name, value in plm.encoder.named_parameters()}


def test_names_must_be_the_same_on_both_sides_and_nothing_is_written_otherwise(models):
    plm = load_plm(models().name)
    tensors = {name: value + 1 for name, value in copy_encoder_weights(plm).items()}
    before = copy_encoder_weights(plm)
    bias = "encoder.layer.0.output.dense.bias"
    for change, expected in (
        ({bias: None}, f"{bias} of the model are missing there; is it another architecture"),
        ({"new.weight": torch.ones(2)}, "new.weight there are unknown to the model;"),
        ({bias: torch.ones(3)}, rf"{bias} has shape \(3,\) there and \(32,\) in the model"),
        ({name: None for name in tensors if "layer.1." in name}, r"and 13 more of the model are missing there"),
    ):
        other = {name: value for name, value in (tensors | change).items() if value is not None}
        with pytest.raises(ContentError, match=expected):
            write_state_(plm.encoder, other)
        assert same(before, copy_encoder_weights(plm))


def test_a_pooler_may_be_missing_on_either_side(tmp_path):
    folder = str(make_model(tmp_path / "m", head="mlm+pooler"))
    with_pooler, without = load_plm(folder), load_plm(folder, head="mlm")
    kept = with_pooler.encoder.pooler.dense.weight.detach().clone()
    write_state_(with_pooler.encoder, {name: value + 1 for name, value in copy_encoder_weights(without).items()})
    assert torch.equal(with_pooler.encoder.pooler.dense.weight, kept)
    write_state_(without.encoder, copy_encoder_weights(with_pooler))
    assert same(
        copy_encoder_weights(without),
        {n: v for n, v in copy_encoder_weights(with_pooler).items() if not n.startswith("pooler.")},
    )


@pytest.mark.parametrize("word", TRANSFORMS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_transforms_are_seeded_and_leave_everything_else_alone(models, kind, word):
    if (kind, word) == ("albert", "shuffle-layers"):
        pytest.skip("refused, see below")
    plm, transform = models(kind), TRANSFORMS[word]
    before, drawn = content_hash(copy_encoder_weights(plm)), torch.get_rng_state()
    first, again, other = transform(plm, 1), transform(plm, 1), transform(plm, 5)
    assert same(first, again)
    if word != "shuffle-layers":  # two layers have one other order only
        assert not same(first, other)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert content_hash(copy_encoder_weights(plm)) == before
    assert first.keys() == copy_encoder_weights(plm).keys()
    live = {value.data_ptr() for value in plm.encoder.parameters()}
    assert live.isdisjoint(value.data_ptr() for value in first.values())
    assert same(first, load_start_weights(parse_start("noise:0.1" if word == "noise" else word), plm, 1))


def untouched(plm, tensors):
    """Names of the tensors that are bit for bit the model's."""
    return {name for name, value in plm.encoder.named_parameters() if torch.equal(value, tensors[name])}


def outside(plm):
    matrices = {name.partition("[")[0] for name in prunable_names(plm)}
    return {name for name, _ in plm.encoder.named_parameters() if name not in matrices}


@pytest.mark.parametrize("kind", CONFIGS)
def test_noise_has_the_asked_share_of_each_matrix_deviation(models, kind):
    plm = models(kind)
    names, changed = prunable_names(plm), add_noise(plm, 0, 0.5)
    assert untouched(plm, changed) == outside(plm)
    dense = prunable_views(plm.encoder, names)
    for name, noise in ((name, value - dense[name]) for name, value in matrices_of(changed, names).items()):
        assert float(noise.std() / dense[name].std()) == pytest.approx(0.5, rel=0.1)
        assert abs(float(noise.mean())) < 0.1 * float(dense[name].std())


@pytest.mark.parametrize("kind", CONFIGS)
def test_shuffling_within_keeps_the_multiset_of_every_matrix(models, kind):
    plm = models(kind)
    names, changed = prunable_names(plm), shuffle_within(plm, 0)
    assert untouched(plm, changed) == outside(plm)
    moved = matrices_of(changed, names)
    for name, dense in prunable_views(plm.encoder, names).items():
        assert torch.equal(dense.reshape(-1).sort().values, moved[name].reshape(-1).sort().values)
        assert float((dense == moved[name]).float().mean()) < 0.1


def test_the_encoder_is_shuffled_without_its_word_embeddings(models):
    plm = models()
    changed = load_start_weights(parse_start("shuffle-encoder"), plm, 0)
    before = dict(plm.encoder.named_parameters())
    moved = {name for name, value in changed.items() if not torch.equal(value, before[name])}
    assert moved == set(prunable_names(plm, "encoder"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", LAYERED)
def test_shuffling_layers_moves_whole_layers(models, kind, seed):
    plm = models(kind)
    changed = shuffle_layers(plm, seed)
    layers = [[n for names in layer.values() for n in names] for layer in plm.architecture.layer_matrices(plm.encoder)]
    assert len(layers) == 2
    dense = prunable_views(plm.encoder, prunable_names(plm, "encoder"))
    now = matrices_of(changed, list(dense))
    for there, here in zip(layers, reversed(layers), strict=True):  # the only order of two that is not the old one
        assert all(torch.equal(now[a], dense[b]) for a, b in zip(there, here, strict=True))
    assert untouched(plm, changed) == outside(plm) | {plm.architecture.word_embeddings}


def test_layers_that_cannot_change_places(tmp_path, models):
    with pytest.raises(UsageError, match="share their weights, so they have no order to shuffle"):
        shuffle_layers(models("albert"), 0)
    with pytest.raises(UsageError, match="has one layer, and shuffle-layers needs two or more"):
        shuffle_layers(load_plm(models().name, layers=1), 0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_reinitialisation_is_the_architectures_own_whatever_the_head(tmp_path, kind):
    folder = str(make_model(tmp_path / kind, kind, head="mlm"))
    plain, mlm = load_plm(folder), load_plm(folder, head="mlm")
    drawn, again = reinitialize(plain, 1), reinitialize(mlm, 1)  # the tiny models are of seed 0
    assert all(torch.equal(drawn[name], value) for name, value in again.items())
    for name, view in matrices_of(drawn, prunable_names(plain)).items():
        dense = prunable_views(plain.encoder, [name])[name]
        assert abs(float(torch.corrcoef(torch.stack([view.reshape(-1), dense.reshape(-1)]))[0, 1])) < 0.15
        assert 0.1 < float(view.std()) < 0.4  # the tiny models have an initializer_range of 0.3
    normalisations = [value for name, value in drawn.items() if "norm" in name.lower() and name.endswith("weight")]
    assert normalisations
    assert all(bool((value == 1).all()) for value in normalisations)


def test_what_is_no_state(tmp_path, models):
    plm = models()
    path = tmp_path / "state.safetensors"
    with pytest.raises(UsageError, match="There is no state .*state.safetensors; give a file such as states/step-"):
        load_state(path)
    save_state(path, plm.encoder, info=info_of(plm))
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ContentError, match="cannot be read .*it is truncated or not a state"):
        load_state(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ContentError, match="does not match its own checksum: it was changed"):
        load_state(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(
        ContentError, match="is a safetensors file, but not a state of this tool; give a file of DIR/states/"
    ):
        load_state(path)
    about = '{"base_hash":"x","content":"y","format_version":2,"what":"later"}'
    save_file({"a": torch.ones(2)}, path, {"winning_tickets_state": about})
    with pytest.raises(ContentError, match="has format version 2, this version reads 1; upgrade winning-tickets"):
        load_state(path)
    save_file({"a": torch.ones(2)}, path, {"winning_tickets_state": about.replace("2", "1").replace("what", "wat")})
    with pytest.raises(ContentError, match="The description of the state .* cannot be read"):
        load_state(path)


def test_a_state_holds_nothing_but_tensors(tmp_path, models):
    plm = models()
    save_state(tmp_path / "s.safetensors", plm.encoder, info=info_of(plm), heads={"a": torch.ones(1)})
    assert load_file(tmp_path / "s.safetensors").keys() == {*dict(plm.encoder.named_parameters()), "head.a"}


def test_words_and_paths(tmp_path):
    assert [parse_start(word).kind for word in ("pretrained", "reinit", "shuffle-within")] == [
        "pretrained", "reinit", "shuffle-within"
    ]  # fmt: skip
    assert (parse_start("noise:0.25").scale, parse_start("noise").scale) == (0.25, 0.1)
    assert parse_start(str(tmp_path)).path == tmp_path
    for text in ("noise:", "noise:-1", "noise:0", "noise:much"):
        with pytest.raises(UsageError, match="noise:SCALE needs a number above 0, such as noise:0.1"):
            parse_start(text)
    with pytest.raises(UsageError, match="There are no weights 'shuffle-layer'. Did you mean 'shuffle-layers'"):
        parse_start("shuffle-layer")
    with pytest.raises(UsageError, match="There are no weights 'nowhere/x'. Give pretrained, reinit"):
        parse_start("nowhere/x")


def test_a_folder_gives_its_encoder_and_only_what_it_has(tmp_path, models):
    plm = models()
    folder = make_model(tmp_path / "tuned", head="mlm", seed=4)
    drawn = torch.get_rng_state()
    tensors = load_start_weights(parse_start(str(folder)), plm, 0)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert same(
        tensors, copy_encoder_weights(load_plm(str(folder), head="mlm"))
    )  # no pooler that was drawn while loading
    with pytest.raises(ContentError, match="is a roberta, and .* a bert; give weights of the same architecture"):
        load_start_weights(parse_start(str(make_model(tmp_path / "other", "roberta"))), plm, 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UsageError, match=r"has no config.json; give .* are a state file, or the folder of a model, such as"
    ):
        load_start_weights(parse_start(str(tmp_path / "empty")), plm, 0)
    (tmp_path / "empty" / "config.json").write_text('{"verb": "transfer"}')  # a run of ours
    with pytest.raises(UsageError, match="Could not find the model .* such as RUN/seed-0/model of a transfer"):
        load_start_weights(parse_start(str(tmp_path / "empty")), plm, 0)


def test_a_state_of_another_base_is_named(tmp_path, models):
    plm = models()
    other = load_plm(str(make_model(tmp_path / "other", head="none", seed=9)))
    save_state(tmp_path / "s.safetensors", other.encoder, info=info_of(other))
    start, base = parse_start(str(tmp_path / "s.safetensors")), base_hash(weight_hashes(plm.encoder))
    with pytest.raises(
        ContentError, match=r"\(a test\) descends from other pre-trained weights .*--allow-other-weights"
    ):
        load_start_weights(start, plm, 0, base)
    assert same(load_start_weights(start, plm, 0), copy_encoder_weights(other))
