"""A smaller vocabulary: the same tokens and outputs for texts that it was made for, and a tokenizer for all others."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from samples.tiny_models import TEXT, make_model
from winning_tickets.models.loading import load_plm
from winning_tickets.models.vocabulary import new_places, tokens_to_keep, trim_
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.saved_model import save_folder

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
FEW = TEXT[:2]
OTHER = "seven zebras jumped § twice"


def used(tokenizer, texts=FEW):
    return {number for text in texts for number in tokenizer(text)["input_ids"]}


def trained(kind):
    """A tokenizer of bytes (BPE) or of pieces (Unigram), as those of RoBERTa and XLM-R are."""
    names = list(SPECIAL.values())
    if kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=names, initial_alphabet=alphabet, show_progress=False
        )
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=names, unk_token="<unk>", show_progress=False)
    made.train_from_iterator([*TEXT, OTHER], trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_tokenizers_split_the_used_texts_as_before(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / "model", "bert", "none")))
    plm.tokenizer = trained(kind)
    plm.model.resize_token_embeddings(len(plm.tokenizer))
    kept = tokens_to_keep(plm.tokenizer, used(plm.tokenizer))
    before = [plm.tokenizer.tokenize(text) for text in FEW]
    long_ago = plm.tokenizer(OTHER)["input_ids"]
    trim_(plm, kept)
    assert len(plm.tokenizer) == len(kept) < len(trained(kind))
    assert [plm.tokenizer.tokenize(text) for text in FEW] == before
    ids = plm.tokenizer(OTHER)["input_ids"]
    assert len(ids) > len(long_ago)  # the words are spelled with smaller pieces
    assert plm.tokenizer.decode(ids, skip_special_tokens=True).strip() == OTHER
    assert ids[0] == plm.tokenizer.bos_token_id
    assert ids[-1] == plm.tokenizer.eos_token_id


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra", "deberta-v2", "modernbert"])
def test_a_saved_model_predicts_the_same_with_fewer_rows(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / "model", kind)), head="mlm")
    inputs = plm.tokenizer(FEW, padding=True, return_tensors="pt")
    with torch.no_grad():
        before = plm.model.eval()(**inputs).logits
    kept = tokens_to_keep(plm.tokenizer, used(plm.tokenizer))
    size = plm.model.config.vocab_size
    trim_(plm, kept)
    save_folder(plm.model, plm.tokenizer, tmp_path / "small")
    again = load_plm(str(tmp_path / "small"), head="mlm")
    assert again.model.config.vocab_size == len(kept) < size
    assert again.encoder.get_parameter(again.architecture.word_embeddings).shape[0] == len(kept)
    ours = AutoTokenizer.from_pretrained(tmp_path / "small")(FEW, padding=True, return_tensors="pt")
    assert torch.equal(ours["input_ids"], new_places(kept, size)[inputs["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(again.model.eval()(**ours).logits, before[..., kept])
    stored = json.loads((tmp_path / "small" / "config.json").read_text())
    assert stored["vocab_size"] == len(kept)


def test_pieces_without_an_unknown_token(tmp_path):
    plm = load_plm(str(make_model(tmp_path / "model", "bert", "none")))
    made = Tokenizer(models.Unigram([("<pad>", 0.0), ("a", -3.0), ("b", -3.0), ("ab", -1.0), ("ba", -1.0)]))
    plm.tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")
    plm.model.resize_token_embeddings(len(plm.tokenizer))
    trim_(plm, tokens_to_keep(plm.tokenizer, used(plm.tokenizer, ["ab"])))
    assert (plm.tokenizer.get_vocab(), plm.tokenizer("abba")["input_ids"]) == (
        {"<pad>": 0, "a": 1, "b": 2, "ab": 3},
        [3, 2, 1],
    )


def test_padding_that_counts_positions_keeps_its_number(tmp_path):
    plm = load_plm(str(make_model(tmp_path / "model", "roberta", "none")))
    kept = tokens_to_keep(plm.tokenizer, used(plm.tokenizer))
    with pytest.raises(UsageError, match="counts positions from the number of its padding token, 0"):
        trim_(plm, kept[1:])
    trim_(plm, kept)
    assert plm.model.config.pad_token_id == 0
