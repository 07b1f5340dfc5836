"""A model and its tokenizer: files that are missing, ids without embeddings, and the largest length of a text."""

import copy
import json
import shutil
from types import SimpleNamespace

import pytest
from transformers import AutoModel, AutoTokenizer

from samples.tiny import tiny_tokenizer
from samples.tiny_decoders import DECODERS, byte_tokenizer, make_decoder
from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets.models.given import GivenModel, NoTokenizer
from winning_tickets.models.loading import load_plm
from winning_tickets.models.tokenizers import longest_input
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError, UsageError

MISSING = r"The model {} has no tokenizer files .*: tokenizer\.save_pretrained\('{}'\)\."


@pytest.mark.parametrize("kind", [*CONFIGS, *DECODERS])
def test_a_folder_without_tokenizer_files_is_refused(tmp_path, kind):
    model = (make_decoder if kind in DECODERS else make_model)(tmp_path / "m", kind)
    (model / "tokenizer.json").unlink()
    for name in ("tokenizer_config.json", None):  # what is left of a tokenizer knows no word either
        with pytest.raises(ContentError, match=MISSING.format(model, model)):
            load_plm(str(model))
        if name is not None:
            (model / name).unlink()
    assert load_plm(str(model), with_tokenizer=False).tokenizer is None
    # A model in memory may be used without words.
    found = GivenModel.of(AutoModel.from_pretrained(model)).load_tokenizer()
    assert isinstance(found, NoTokenizer)
    with pytest.raises(UsageError, match="has no tokenizer; give one with tokenizer="):
        found("a text")


def test_other_files_of_a_vocabulary_are_enough(tmp_path):
    model, tokenizer = make_model(tmp_path / "m"), tiny_tokenizer(TEXT)
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").unlink()
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    (model / "vocab.txt").write_text("\n".join(words))
    assert load_plm(str(model)).tokenizer.tokenize("the cat") == ["the", "cat"]
    (model / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]")
    with pytest.raises(ContentError, match=MISSING.format(model, model)):
        load_plm(str(model))


def with_tokenizer(model, tokenizer):
    tokenizer.save_pretrained(model)
    return str(model)


def test_tokens_without_embeddings_are_refused_and_embeddings_without_tokens_are_not(tmp_path):
    model, tokenizer = make_model(tmp_path / "bert"), tiny_tokenizer(TEXT)
    size = len(tokenizer)
    tokenizer.add_tokens(["<extra>"])
    message = (
        rf"ids up to {size} \('<extra>'\), and the word embeddings have {size} rows, for ids up to {size - 1}\. .*"
        rf"call model\.resize_token_embeddings\({size + 1}\)"
    )
    with pytest.raises(ContentError, match=message):
        load_plm(with_tokenizer(model, tokenizer))
    encoder = AutoModel.from_pretrained(model)
    with pytest.raises(ContentError, match=message):
        GivenModel.of(encoder, tokenizer).load_tokenizer()
    encoder.resize_token_embeddings(128)
    encoder.save_pretrained(model)
    assert load_plm(str(model)).tokenizer.convert_tokens_to_ids("<extra>") == size
    decoder, added = make_decoder(tmp_path / "gpt2", "gpt2"), byte_tokenizer()
    added.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(ContentError, match=rf"ids up to {len(added) - 1} \('\[PAD\]'\)"):
        load_plm(with_tokenizer(decoder, added))


def test_ids_and_tokens_around_a_text_are_checked_too(tmp_path):
    model = make_model(tmp_path / "m")
    content = json.loads((model / "tokenizer.json").read_text())
    for change, message in (
        (lambda one: one["special_tokens"]["[SEP]"].update(ids=[900]), "puts the id 900 around a text"),
        (lambda one: one["special_tokens"].pop("[SEP]"), r"template has the special token '\[SEP\]', and no id"),
    ):
        changed = copy.deepcopy(content)
        change(changed["post_processor"])
        (model / "tokenizer.json").write_text(json.dumps(changed))
        with pytest.raises(ContentError, match=message):
            load_plm(str(model))


def test_a_placeholder_for_images_needs_no_embedding(tmp_path):
    """As in Gemma 3 1B."""
    model, tokenizer = make_decoder(tmp_path / "m", "gemma3_text"), byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.image_token = "<image>"
    GivenModel.of(AutoModel.from_pretrained(model), tokenizer).load_tokenizer()


@pytest.mark.parametrize(
    ("kind", "stated", "longest"),
    [
        *(("bert", 512, 512), ("bert", 10**30, 512), ("bert", 1000, 512), ("bert", 64, 64), ("bert", 64.0, 64)),
        *(("roberta", 10**6, 513), ("mpnet", 600, 512), ("llama", 10**30, 128), ("opt", 600, 128), ("gpt2", 5, 5)),
    ],
)
def test_the_largest_length_is_the_smaller_one_of_tokenizer_and_positions(tmp_path, kind, stated, longest):
    model = (make_decoder if kind in DECODERS else make_model)(tmp_path / "m", kind)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.model_max_length = stated
    assert load_plm(with_tokenizer(model, tokenizer)).tokenizer.model_max_length == longest
    assert GivenModel.of(AutoModel.from_pretrained(model), tokenizer).load_tokenizer().model_max_length == longest


def test_a_model_without_positions_has_the_length_of_its_tokenizer():
    encoder = SimpleNamespace(config=SimpleNamespace())
    assert longest_input(SimpleNamespace(model_max_length=77), encoder, "m") == 77
    for stated in ("x", None, True, 0, -5, float("nan"), float("inf")):
        with pytest.raises(ContentError, match=r"The tokenizer of m has model_max_length .*, expected a number from 1"):
            longest_input(SimpleNamespace(model_max_length=stated), encoder, "m")


def test_a_model_in_memory_takes_the_tokenizer_of_its_folder_with_its_limit(tmp_path):
    model = make_model(tmp_path / "m")
    shutil.copytree(model, tmp_path / "n")
    given = GivenModel.of(AutoModel.from_pretrained(model))
    with memory.given(given.name, given) as name:
        assert load_plm(name).tokenizer.model_max_length == 512
