"""Every verb opens a model through one door, which refuses a model and a tokenizer that do not go together."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from samples.analyse_samples import command_line
from samples.commands import CASES, make_world, words_of
from samples.tiny import tiny_tokenizer
from winning_tickets import Runtime, TransferConfig, transfer

command_line = pytest.fixture(command_line)
WITHOUT_TEXT = ("random", "magnitude")
OTHERS = {
    "evaluate kd": "evaluate {bert} --objective kd --corpus {text} --segments packed:16",
    "evaluate mlm": "evaluate {bert} --objective mlm --corpus {text} --segments lines",
    "evaluate similarity": "evaluate {bert} --objective similarity --task stsb --data-dir {glue}",
    "shrink": "shrink {bert} --corpus {text} --segments lines --by flops --steps 1 --out {out}",
    "measure": "measure {bert} --batch 1 --length 8 --repeats 1",
    "predict": "predict {run} --text x --text-pair y",
    "fine-tuned": "transfer {run} --task rte --data-dir {glue} --steps 1 --out {out}",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    found = make_world(folder)
    found["run"] = folder / "run"
    config = TransferConfig(
        target=str(found["bert"]), task="rte", data_dir=str(found["glue"]), steps=1, save_model=True
    )
    transfer(config, found["run"], Runtime(quiet=True))
    return found


def copied(world, folder, change):
    """The same data with the tokenizer of each model changed."""
    copies = {name: folder / name for name in ("bert", "plain", "run")}
    for name, copy in copies.items():
        shutil.copytree(world[name], copy)
        change(copy / "seed-0" / "model" if name == "run" else copy)
    return {**world, **copies}


def words_for(case, world, out):
    if case in CASES:
        return words_of(case, world, out)
    words = OTHERS[case].format(**world, out=out).split()
    return words if case == "predict" else [*words, "--quiet"]


@pytest.mark.parametrize("case", [*CASES, *OTHERS])
def test_no_verb_takes_a_model_without_its_tokenizer(world, tmp_path, command_line, case):
    found = copied(world, tmp_path, lambda model: (model / "tokenizer.json").unlink())
    code, out, err = command_line(*words_for(case, found, tmp_path / "out"))
    assert (code, out) == (1, "")
    assert "has no tokenizer files with words" in err
    assert "tokenizer.save_pretrained(" in err
    assert len(err.strip().splitlines()) == 1
    assert str(tmp_path) in err


def of_other_words(model):
    """Give a model a tokenizer of no more words than its own, all of them Greek."""
    size = len(AutoTokenizer.from_pretrained(model))
    tiny_tokenizer(["\u03b1\u03b2 \u03b3\u03b4"]).save_pretrained(model)
    assert size >= len(AutoTokenizer.from_pretrained(model))


@pytest.mark.parametrize("case", [case for case in [*CASES, *OTHERS] if case not in (*WITHOUT_TEXT, "measure")])
def test_every_verb_that_reads_text_refuses_one_of_unknown_words(world, tmp_path, command_line, case):
    found = copied(world, tmp_path, of_other_words)
    code, out, err = command_line(*words_for(case, found, tmp_path / "out"))
    assert (code, out) == (1, "")
    assert "are unknown: the tokenizer knows none of the words. Use other text, or a model of its language." in err


def test_segments_beyond_the_positions_are_a_wrong_argument_and_similarity_is_cut(world, tmp_path, command_line):
    def more_tokens(model):
        file = model / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 10**6}))

    found = copied(world, tmp_path, more_tokens)
    for verb in ("search", "evaluate"):
        words = f"{verb} {found['bert']} --objective kd --corpus {found['text']} --segments packed:600 --quiet".split()
        code, out, err = command_line(*words, *(["--steps", "1", "--out", tmp_path / "o"] if verb == "search" else []))
        assert (code, out) == (2, "")
        assert "Segments packed:600 are longer than the 512 tokens of the model" in err
    rows = [{"text1": "the cat " * 400, "text2": "a dog", "score": float(score)} for score in range(3)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = f"evaluate {found['bert']} --objective similarity --pairs-file {tmp_path / 'pairs.jsonl'} --quiet".split()
    assert command_line(*words)[0] == 0
