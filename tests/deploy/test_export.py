"""Exports: what others load equals the masked model exactly, for every architecture and kind of checkpoint."""

import importlib
import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import Runtime, SearchConfig, Ticket, TransferConfig, export, search, transfer
from winning_tickets.models.architectures import ARCHITECTURES, prunable_views
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError

QUIET = Runtime(quiet=True)
IDS = torch.arange(5, 25).view(2, 10)


def magnitude(model, out, **fields):
    return search(SearchConfig(model=str(model), method="magnitude", **fields), out, QUIET)


@torch.no_grad()
def outputs(model, which="last_hidden_state"):
    return getattr(model.eval()(IDS), which)


def randomise_biases(path, loader=AutoModelForMaskedLM):
    """Fresh models have biases of zero, whose loss no test would see."""
    model = loader.from_pretrained(path)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(path)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("head", "scope"),
    [
        ("mlm", "encoder+embeddings"),
        ("none", "encoder"),
        pytest.param("mlm", "encoder", marks=pytest.mark.slow),
        pytest.param("none", "encoder+embeddings", marks=pytest.mark.slow),
    ],
)
def test_a_reloaded_export_is_the_masked_model(tmp_path, kind, head, scope):
    model = make_model(tmp_path / "m", kind, head)
    randomise_biases(model, AutoModelForMaskedLM if head == "mlm" else AutoModel)
    ticket = magnitude(model, tmp_path / "t", scope=scope)
    result = export(tmp_path / "t", "masked", tmp_path / "e")
    assert result["model_class"].endswith("ForMaskedLM" if head == "mlm" else "Model")
    expected = ticket.apply_(AutoModel.from_pretrained(model))
    loaded = AutoModel.from_pretrained(tmp_path / "e")
    assert torch.equal(outputs(loaded), outputs(expected))
    for name, weight in prunable_views(loaded, ticket.masks).items():
        assert torch.equal(weight != 0, ticket.masks[name])
        assert not torch.signbit(weight[~ticket.masks[name]]).any()
    assert AutoTokenizer.from_pretrained(tmp_path / "e")(TEXT[0]) == AutoTokenizer.from_pretrained(model)(TEXT[0])
    if head == "mlm":
        untied = "embeddings" in scope
        reloaded, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "e", output_loading_info=True)
        assert not any(report.values())
        assert reloaded.config.tie_word_embeddings is not untied
        assert torch.equal(outputs(reloaded, "logits"), dense_decoder_logits(model, ticket))


def dense_decoder_logits(model, ticket):
    """What evaluation computes: masked encoder, decoder with the dense embedding matrix."""
    plm = load_plm(str(model), head="mlm")
    decoder = plm.model.get_submodule(plm.architecture.lm_decoder)
    decoder.weight = torch.nn.Parameter(decoder.weight.detach().clone())
    ticket.apply_(plm.model)
    return outputs(plm.model, "logits")


@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_a_pooler_stays_beside_the_mlm_head(tmp_path, kind):
    model = make_model(tmp_path / "m", kind, "mlm+pooler")
    ticket = magnitude(model, tmp_path / "t", scope="encoder+embeddings+pooler")
    export(tmp_path / "t", "masked", tmp_path / "e")
    expected = ticket.apply_(AutoModel.from_pretrained(model))
    assert torch.equal(outputs(AutoModel.from_pretrained(tmp_path / "e"), "pooler_output"), expected(IDS).pooler_output)
    pooler = expected.get_parameter(ARCHITECTURES[kind].pooler)
    assert float((pooler == 0).float().mean()) == pytest.approx(0.6, abs=0.01)


def test_an_mlm_head_without_bias_is_exported(tmp_path):
    model = make_model(tmp_path / "m", "modernbert")
    config = AutoConfig.from_pretrained(model)
    config.decoder_bias = False
    AutoModelForMaskedLM.from_config(config).save_pretrained(model)
    ticket = magnitude(model, tmp_path / "t")
    export(tmp_path / "t", "masked", tmp_path / "e")
    reloaded, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "e", output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(outputs(reloaded, "logits"), dense_decoder_logits(model, ticket))


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_mlm_head_that_a_ticket_trained_is_exported(tmp_path, kind):
    model = make_model(tmp_path / "m", kind)
    (tmp_path / "corpus.txt").write_text("\n".join(TEXT))
    config = SearchConfig(
        model=str(model), objective="mlm", corpus=str(tmp_path / "corpus.txt"), steps=3, head_learning_rate=0.1
    )
    ticket = search(config.model_copy(update={"batch_tokens": 64, "segments": "packed:16"}), tmp_path / "t", QUIET)
    result = export(tmp_path / "t", "masked", tmp_path / "e")
    assert result["mlm_head"] == "ticket"
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "e")
    parameters, before = (
        dict(loaded.named_parameters()),
        dict(AutoModelForMaskedLM.from_pretrained(model).named_parameters()),
    )
    for name, value in ticket.mlm_head.items():
        assert torch.equal(parameters[name], value)
        assert not torch.equal(before[name], value)
    decoder = load_plm(str(tmp_path / "e"), head="mlm")
    bias = decoder.model.get_submodule(decoder.architecture.lm_decoder).bias
    assert any(torch.equal(bias, value) for value in ticket.mlm_head.values())


def test_an_exported_model_can_be_searched_and_exported_again(tmp_path):
    model = make_model(tmp_path / "m")
    magnitude(model, tmp_path / "t")
    export(tmp_path / "t", "masked", tmp_path / "e")
    once = outputs(AutoModelForMaskedLM.from_pretrained(tmp_path / "e"), "logits")
    magnitude(tmp_path / "e", tmp_path / "u")
    export(tmp_path / "u", "masked", tmp_path / "f")
    assert torch.equal(outputs(AutoModelForMaskedLM.from_pretrained(tmp_path / "f"), "logits"), once)


def test_the_first_layers_alone_are_exported(tmp_path):
    ticket = magnitude(make_model(tmp_path / "m"), tmp_path / "t", layers=1)
    export(tmp_path / "t", "masked", tmp_path / "e")
    loaded = AutoModel.from_pretrained(tmp_path / "e")
    assert loaded.config.num_hidden_layers == 1
    assert set(ticket.masks) <= set(dict(loaded.named_parameters()))


def sentence_model(path):
    make_model(path, head="none")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": False}))
    (path / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return path


def test_the_modules_of_a_sentence_encoder_come_along(tmp_path):
    model = sentence_model(tmp_path / "m")
    magnitude(model, tmp_path / "t")
    export(tmp_path / "t", "masked", tmp_path / "e")
    for file in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        assert (tmp_path / "e" / file).read_text() == (model / file).read_text()
    assert not (tmp_path / "e" / "2_Normalize").exists()


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_text("mine alone")
    return tmp_path / "home" / "id_rsa"


@pytest.mark.parametrize("place", ["1_Pooling/key", "1_Pooling/more", "sentence_bert_config.json", "2_Normalize"])
def test_links_out_of_a_sentence_encoder_are_not_followed(tmp_path, secret, place):
    model = sentence_model(tmp_path / "m")
    magnitude(model, tmp_path / "t")
    (model / place).unlink(missing_ok=True)
    (model / place).symlink_to(secret if place.endswith(("key", "json")) else secret.parent)
    with pytest.raises(ContentError, match=f"{place}.* is a link out of .*, or no file, so nothing was exported"):
        export(tmp_path / "t", "masked", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_the_links_of_the_hub_cache_are_followed(tmp_path):
    """Its snapshots are links to files beside them."""
    made = sentence_model(tmp_path / "m")
    cache = tmp_path / "models--me--mine"
    model = cache / "snapshots" / "0123abcd"
    (cache / "blobs").mkdir(parents=True)
    for number, file in enumerate(path for path in made.rglob("*") if path.is_file()):
        link = model / file.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        file.rename(cache / "blobs" / str(number))
        link.symlink_to(cache / "blobs" / str(number))
    magnitude(model, tmp_path / "t")
    export(tmp_path / "t", "masked", tmp_path / "e")
    copied = tmp_path / "e" / "1_Pooling" / "config.json"
    assert copied.read_text() == (model / "1_Pooling" / "config.json").read_text()
    assert not copied.is_symlink()
    blobs = cache.rename(tmp_path / "other") / "blobs"
    model.parent.mkdir(parents=True)
    (tmp_path / "other" / "snapshots" / "0123abcd").rename(model)
    for link in (path for path in model.rglob("*") if path.is_symlink()):
        there = blobs / link.readlink().name
        link.unlink()
        link.symlink_to(there)
    with pytest.raises(ContentError, match="is a link out of"):
        export(tmp_path / "t", "masked", tmp_path / "f")


@pytest.mark.ecosystem
@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_loads_the_export_of_the_real_encoder(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    ticket = magnitude("builtin:minilm", tmp_path / "t")
    export(tmp_path / "t", "masked", tmp_path / "e")
    found = sentence_transformers.SentenceTransformer(str(tmp_path / "e"), device="cpu").encode(TEXT[:3])
    plm = load_plm("builtin:minilm")
    ticket.apply_(plm.model)
    batch = plm.tokenizer(TEXT[:3], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = plm.model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    torch.testing.assert_close(torch.from_numpy(found), pooled, atol=1e-5, rtol=0)


@pytest.fixture
def fine_tuned(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"{t},{'ab'[i % 2]}\n" for i, t in enumerate(TEXT)))
    ticket = magnitude(make_model(tmp_path / "m"), tmp_path / "t")
    file = str(tmp_path / "train.csv")
    config = TransferConfig(
        target=str(tmp_path / "t"), train_file=file, validation_file=file, seeds=(0, 1), steps=2, save_model=True
    )
    transfer(config, tmp_path / "run", QUIET)
    return ticket, tmp_path / "run"


def test_a_fine_tuned_ticket_is_exported_with_its_labels(tmp_path, fine_tuned):
    ticket, run = fine_tuned
    result = export(run, "masked", tmp_path / "e")
    assert (result["ticket_id"], result["task"], result["sparsity"]) == (ticket.id, "local", ticket.sparsity)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "e")
    assert loaded.config.id2label == {0: "a", 1: "b"}
    first, second = (AutoModelForSequenceClassification.from_pretrained(run / f"seed-{i}" / "model") for i in (0, 1))
    assert torch.equal(outputs(loaded, "logits"), outputs(first, "logits"))
    export(run, "masked", tmp_path / "f", seed=1)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "f")
    assert torch.equal(outputs(loaded, "logits"), outputs(second, "logits"))
    parameters = dict(loaded.base_model.named_parameters())
    for name, mask in ticket.masks.items():
        assert torch.count_nonzero(parameters[name][~mask]) == 0


def test_links_out_of_a_saved_model_are_not_followed(tmp_path, fine_tuned, secret):
    model = fine_tuned[1] / "seed-0" / "model"
    (model / "more").mkdir()
    (model / "more" / "config.json").symlink_to(model / "config.json")
    export(model, "masked", tmp_path / "e")
    assert (tmp_path / "e" / "more" / "config.json").read_text() == (model / "config.json").read_text()
    (model / "more" / "key").symlink_to(secret)
    with pytest.raises(ContentError, match="more/key is a link out of"):
        export(model, "masked", tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_damaged_weights_of_a_run_are_refused(tmp_path, fine_tuned):
    _, run = fine_tuned
    weights = run / "seed-0" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        ContentError, match="The weights in .* cannot be read .* run tickets transfer with --save-model"
    ):
        export(run, "masked", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_the_directory_belongs_to_one_export(tmp_path):
    model = make_model(tmp_path / "m")
    magnitude(model, tmp_path / "t")
    magnitude(model, tmp_path / "u", sparsity=0.5)
    first = export(tmp_path / "t", "masked", tmp_path / "e")
    before = (tmp_path / "e" / "model.safetensors").stat()
    assert export(tmp_path / "t", "masked", tmp_path / "e") == first
    with pytest.raises(UsageError, match=r"holds another export \(export-masked-.*it was left untouched.*--force"):
        export(tmp_path / "u", "masked", tmp_path / "e")
    assert (tmp_path / "e" / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    assert export(tmp_path / "u", "masked", tmp_path / "e", force=True)["sparsity"] == pytest.approx(0.5, abs=1e-3)
    for foreign in ("t", "m"):
        with pytest.raises(UsageError, match="holds files that are not an export of this tool; it was left untouched"):
            export(tmp_path / "t", "masked", tmp_path / foreign, force=True)
        assert (tmp_path / foreign / ("ticket.json" if foreign == "t" else "config.json")).exists()
    (tmp_path / "e" / "export.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="holds files that are not an export of this tool; it was left untouched"):
        export(tmp_path / "t", "masked", tmp_path / "e", force=True)


def test_refusals(tmp_path):
    model = make_model(tmp_path / "m")
    magnitude(model, tmp_path / "t")
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match=r"Unknown format 'mask'. Did you mean 'masked' or 'mask-pt'\? Known: "):
        export(tmp_path / "t", "mask", tmp_path / "e")
    with pytest.raises(UsageError, match="m has no saved model; run tickets transfer with --save-model"):
        export(model, "masked", tmp_path / "e")
    with pytest.raises(UsageError, match="There is no run .*nowhere"):
        export(tmp_path / "nowhere", "masked", tmp_path / "e")
    with pytest.raises(ContentError, match="made for the weights of .* pass --allow-other-weights"):
        export(tmp_path / "t", "masked", tmp_path / "e", base=str(other))
    assert not (tmp_path / "e").exists()
    result = export(tmp_path / "t", "masked", tmp_path / "e", base=str(other), allow_other_weights=True)
    assert result["base"]["name"] == str(other)
    assert "stored as zeros in matrices of full size, so the model is as fast" in result["note"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    magnitude(make_model(tmp_path / "m"), tmp_path / "t")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importlib.import_module("winning_tickets.deploy.formats"), "save_folder", full)
    with pytest.raises(
        TrainingError, match="Could not write .*: No space left on device. Nothing was left half-written"
    ):
        export(tmp_path / "t", "masked", tmp_path / "e")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "t"]


def test_the_description_says_where_it_came_from(tmp_path):
    model = make_model(tmp_path / "m")
    ticket = magnitude(model, tmp_path / "t")
    result = export(tmp_path / "t", "masked", tmp_path / "e")
    stored = json.loads((tmp_path / "e" / "export.json").read_text())
    assert stored | {"out": str(tmp_path / "e")} == result
    assert stored["ticket_id"] == Ticket.from_pretrained(tmp_path / "t").id
    assert stored["base"] == {"name": str(model), "revision": None, "layers": None, "hash": ticket.base.hash}
    assert (stored["pruned"], stored["total"], stored["format"]) == (ticket.pruned, ticket.total, "masked")
    assert stored["versions"]["torch"]
