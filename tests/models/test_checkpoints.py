"""Checkpoints whose files are damaged, hostile or do not belong together: one sentence, and no memory is allocated."""

import json
import os
import pickle
import re
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from samples.tiny_decoders import DECODERS, make_decoder
from samples.tiny_models import make_model
from winning_tickets.models.loading import load_plm, outline
from winning_tickets.runs.errors import ContentError

UNSAFE = ("weights_only", "ignore_mismatched_sizes", "trust_remote_code", "Traceback")


def changed(folder, **fields):
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    return str(folder)


def refusal(model, opened=load_plm, **options):
    with pytest.raises(ContentError) as found:
        opened(model, **options)
    message = str(found.value)
    assert model in message
    assert "\n" not in message
    assert not any(word in message for word in UNSAFE)
    return message


CANNOT, NOT_BUILT = "cannot be used", "describes no model that can be built"
FIELDS = [
    ("bert", {"num_hidden_layers": 10**7}, "num_hidden_layers 10000000, and its weights have 2"),
    ("bert", {"num_hidden_layers": 3}, "num_hidden_layers 3, and its weights have 2"),
    ("bert", {"num_hidden_layers": -1}, "num_hidden_layers -1, expected 1 to 1,000"),
    ("bert", {"num_hidden_layers": None}, "expected int, got NoneType"),
    ("bert", {"num_hidden_layers": [2]}, "expected int, got list"),
    ("albert", {"num_hidden_layers": 10**7}, "num_hidden_layers 10000000, expected 1 to 1,000"),
    ("albert", {"num_hidden_groups": 10**7}, "num_hidden_groups 10000000, and its weights have 1"),
    ("distilbert", {"n_layers": 10**9}, "n_layers 1000000000, and its weights have 2"),
    ("qwen2", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000, and its weights have 2"),
    ("gpt2", {"n_layer": 10**9}, "n_layer 1000000000, and its weights have 2"),
    ("bert", {"hidden_size": -32}, NOT_BUILT),
    ("bert", {"hidden_size": 2**40}, f"{NOT_BUILT}: Storage size"),
    ("bert", {"hidden_size": 2**20}, "of shape [0-9]+x32, and its config.json describes [0-9]+x1048576"),
    ("bert", {"hidden_size": "x"}, "'hidden_size' expected int, got str"),
    ("bert", {"vocab_size": 2**40}, "describes 1099511627776x32"),
    ("bert", {"vocab_size": -1}, NOT_BUILT),
    ("bert", {"intermediate_size": 2**40}, "describes 1099511627776x?"),
    ("bert", {"intermediate_size": None}, "expected int, got NoneType"),
    ("bert", {"num_attention_heads": 0}, "ZeroDivisionError"),
    ("bert", {"num_attention_heads": 5}, "not a multiple"),
    ("bert", {"hidden_act": "__import__"}, "KeyError '__import__'"),
    ("bert", {"hidden_dropout_prob": 5}, "dropout probability"),
    ("bert", {"type_vocab_size": 2**40}, "describes 1099511627776x32"),
    ("bert", {"max_position_embeddings": 2**40}, "describes 1099511627776x32"),
    ("bert", {"pad_token_id": 10**6}, r"padding id 1000000, .* have 101 rows.*resize_token_embeddings\(1000001\)"),
    ("bert", {"num_labels": 10**9}, "num_labels 1000000000, expected 1 to 1,000,000"),
    ("bert", {"intermediate_size": 0}, "and its config.json describes 0x32"),
    ("bert", {"add_cross_attention": True}, r"built: BertLayer\(\.\.\.\) should be used as a decoder model"),
    ("bert", {"model_type": ["bert"]}, CANNOT),
    ("bert", {"dtype": "float31"}, CANNOT),
    ("bert", {"id2label": 5}, CANNOT),
    ("llama", {"head_dim": 2**30}, "q_proj.weight of shape"),
    ("llama", {"num_key_value_heads": 0}, "ZeroDivisionError"),
    ("llama", {"rope_parameters": {"rope_type": "x"}}, NOT_BUILT),
    ("llama", {"max_position_embeddings": -5}, "-5 positions"),
    ("bert", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "'bitsandbytes'"),
    ("bert", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantized .* 'gptq'"),
    ("bert", {"quantization_config": {"quant_method": "mine"}}, "float weights; give the model that it was made from"),
    ("bert", {"quantization_config": 5}, "is quantized"),
    ("bert", {"compression_config": {}}, "is quantized"),
    ("bert", {"transformers_weights": "../model.safetensors"}, "only files in its own folder"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), FIELDS, ids=lambda value: str(value)[:60])
def test_a_configuration_that_describes_another_model_is_refused_at_once(tmp_path, kind, fields, message):
    folder = (make_decoder if kind in DECODERS else make_model)(tmp_path / "m", kind)
    model, before = changed(folder, **fields), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = refusal(model, head="lm")
    assert re.search(message, found), found
    if "positions" not in message:  # of which there is no matrix, and only a tokenizer is compared with them
        assert refusal(model, outline, head="lm") == found
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_outputs_are_read_by_name_and_for_any_length(tmp_path):
    model = make_model(tmp_path / "m")
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = load_plm(str(model)).model(ids).last_hidden_state
    assert torch.equal(load_plm(changed(model, return_dict=False, chunk_size_feed_forward=3)).model(ids)[0], plain)


def test_a_head_for_another_number_of_classes_is_named(tmp_path):
    model = make_model(tmp_path / "m", head="none")
    AutoModelForSequenceClassification.from_pretrained(model, num_labels=3).save_pretrained(model)
    assert load_plm(str(model), head="classification", num_labels=3).model.config.num_labels == 3
    message = refusal(str(model), head="classification", num_labels=2)
    assert "classifier.weight of shape 3x32, and 2x32 is needed here: its head was trained for another task" in message


class _Code:
    def __init__(self, file):
        self._file = file

    def __reduce__(self):
        return os.system, (f"touch {self._file}",)


def in_shards(model):
    AutoModelForMaskedLM.from_pretrained(model).save_pretrained(model, max_shard_size="30KB")
    (model / "model.safetensors").unlink()
    return model / "model.safetensors.index.json"


def pickled(content, save=pickle.dump):
    def damage(model):
        (model / "model.safetensors").unlink()
        with (model / "pytorch_model.bin").open("wb") as file:
            save(content(model.parent / "ran"), file)

    return damage


def cut_off(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])


def as_integers(model):
    weights = load_file(model / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    save_file(weights | {name: weights[name].to(torch.int8)}, model / "model.safetensors", {"format": "pt"})


def raw(content, file):
    file.write(content)


def written(name, content):
    return lambda model: (model / name).write_bytes(content)


_UNREAD, _UNKNOWN = "Could not load .*/pytorch_model.bin: ", "Could not load the tokenizer of "
DAMAGE = {
    "code": (pickled(_Code), f"{_UNREAD}.* none of these was run"),
    "code in a dict": (pickled(lambda ran: {"a": _Code(ran)}), f"{_UNREAD}.* with weights in safetensors"),
    "code in an archive": (pickled(lambda ran: {"a": _Code(ran)}, torch.save), f"{_UNREAD}its weights are damaged"),
    "random bytes": (pickled(lambda _: bytes(range(7, 256)) * 9, raw), _UNREAD),
    "no bytes": (pickled(lambda _: b"", raw), _UNREAD),
    "a list": (pickled(lambda _: [1], torch.save), _UNREAD),
    "cut off": (cut_off, "Could not load .*/model.safetensors: "),
    "integers": (as_integers, "query.weight as I8, and tickets need float weights"),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), r"has no weights \(model\.safetensors or "),
    "no object": (written("config.json", b"[]"), r"holds \[\], expected an object"),
    "no JSON": (written("config.json", b"{"), "is not valid JSON"),
    "bytes in a tokenizer": (written("tokenizer.json", b"\x80" * 99), _UNKNOWN),
    "a list as a tokenizer": (written("tokenizer.json", b"[]"), _UNKNOWN),
    "a number as its class": (written("tokenizer_config.json", b'{"tokenizer_class": 5}'), _UNKNOWN),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused_in_one_sentence_and_no_code_runs(tmp_path, damage):
    model = make_model(tmp_path / "m")
    damaged, message = DAMAGE[damage]
    damaged(model)
    found = refusal(str(model), head="mlm")
    assert re.search(message, found), found
    assert not (tmp_path / "ran").exists()


def test_shards_are_compared_too_and_their_index_names_files_of_the_folder_only(tmp_path):
    model = make_model(tmp_path / "m")
    index = in_shards(model)
    assert len(list(model.glob("model-*"))) > 1
    assert load_plm(str(model), head="mlm").has_mlm_head
    for fields, message in (
        ({"num_hidden_layers": 3}, "and its weights have 2"),
        ({"vocab_size": 7}, "describes 7x32"),
    ):
        before = (model / "config.json").read_text()
        assert message in refusal(changed(model, **fields))
        (model / "config.json").write_text(before)
    content, gone = (
        json.loads(index.read_text()),
        ({"a": "b.safetensors"}, "names the file 'b.safetensors', which is not"),
    )
    for names, message in (
        ({"a": "../m.safetensors"}, "its own folder"),
        ({"a": 5}, "must map"),
        (5, "must map"),
        gone,
    ):
        index.write_text(json.dumps(content | {"weight_map": names}))
        assert message in refusal(str(model))


def test_a_checkpoint_in_the_cache_of_the_hub_is_compared_with_its_configuration(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    make_model(snapshot)
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert load_plm("org/name", head="mlm").has_mlm_head
    changed(snapshot, num_hidden_layers=900)
    for opened in (load_plm, outline):
        assert "num_hidden_layers 900, and its weights have 2" in refusal("org/name", opened)
    changed(snapshot, num_hidden_layers=2)
    (snapshot / "tokenizer.json").unlink()
    assert "The model org/name has no tokenizer files" in refusal("org/name")
