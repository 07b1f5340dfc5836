"""Dry runs check files, folders and columns, say what will run, and leave nothing behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from samples.tiny_decoders import make_decoder
from samples.tiny_models import make_model
from winning_tickets.cli import app
from winning_tickets.config import SearchConfig
from winning_tickets.data.loading import load_task
from winning_tickets.runs.errors import TicketsError, UsageError
from winning_tickets.studies.tiny import tiny_folder

Run = Callable[..., str]
OWN = "--train-file train.csv --validation-file dev.csv"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_model(folder / "bert")
    make_model(folder / "headless", head="none")
    make_decoder(folder / "gpt2", "gpt2")
    damage = {"deep": {"num_hidden_layers": 10**7}, "odd": {"hidden_size": "x"}, "wide": {"intermediate_size": 0}}
    for name, fields in damage.items():
        config = make_model(folder / name) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    (make_model(folder / "wordless") / "tokenizer.json").unlink()
    (make_model(folder / "weightless") / "model.safetensors").unlink()
    tiny_folder("glue", folder)
    (folder / "corpus.txt").write_text("some good text\n" * 2000, encoding="utf-8")
    (folder / "utf16.txt").write_bytes("some text\n".encode("utf-16-le") * 9)
    (folder / "blank.txt").write_text("\n \n", encoding="utf-8")
    for name, count in (("train", 70), ("dev", 10)):
        rows = [{"text": f"{name} {number}", "label": ("no", "yes")[number % 2]} for number in range(count)]
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    scores = pd.DataFrame({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [1.0, 2.0]})
    scores.to_csv(folder / "pairs.csv", index=False)
    copy = folder / "hub-copy" / "rte"
    copy.mkdir(parents=True)
    rows = [{"sentence1": "a", "sentence2": "b", "label": number % 2} for number in range(40)]
    for name in ("train", "validation"):
        pd.DataFrame(rows).to_parquet(copy / f"{name}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def plan(world: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command with `--dry-run` in the world, which it leaves as it was."""
    monkeypatch.chdir(world)

    def run(line: str, *more: str) -> str:
        words = line.split()
        out = [] if words[0] in ("evaluate", "measure") else ["--out", "out"]
        before = sorted(world.rglob("*"))
        done = CliRunner().invoke(app, [*words, *out, *more, "--dry-run"], catch_exceptions=False)
        assert (done.exit_code, sorted(world.rglob("*"))) == (0, before), done.output
        return done.stdout

    return run


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("transfer bert --train-file train.csv --validation-file dev.csv --seeds 0,1 --learning-rate 1e-3", (
            "bert (2 layers of width", "your files, 70 training and 10 validation examples, 2 classes (no, yes),",
            "batch size: 32 examples of at most 128 tokens", "steps: 9 (3 epochs of 3)", "seeds: 0,1 (2 runs)",
            "learning rate: 0.001 at its peak, then linearly to zero", "minutes: about 1 or less on two",
            "1 or less on one H100")),
        ("transfer bert --task rte --data-dir glue --epochs 2 --batch-size 8 --train-size 50%", (
            "rte, 48 training and 24 validation examples", "steps: 6 (2 epochs of 3)", "learning rate: 0.0003")),
        ("transfer bert --task rte --data-dir hub-copy", ("rte, 40 training and 40 validation examples",)),
        ("transfer bert --task rte --steps 5", ("steps: 5", "Not checked: the data of rte, which the run gets")),
        ("transfer org/model --task mnli", (
            "steps: 36,816 or so (3 epochs, by the usual size of its data)", "Not checked: the model org/model")),
        ("transfer bert --task mlm --corpus corpus.txt", ("corpus: corpus.txt", "steps: ")),
        ("search bert --method imp --corpus corpus.txt --sparsity 0.2,0.4,0.6 --round-steps 6", (
            "rounds: 3 of 6 steps each, 18 in all; rewinds to pretrained", "learning rate: 5e-05")),
        ("search bert --method imp --corpus corpus.txt --sparsity 0.6 --round-steps 6", (
            "rounds: 1 of 6 steps", "Warning: One sparsity level is one round", "such as --sparsity 0.2,0.4,0.6.")),
        ("search bert --method imp --task rte --data-dir glue --round-epochs 1", (
            "task: rte, 48 training examples", "rounds: 9 of about 2 steps each, about 18 in all")),
        ("search bert --method imp --train-file train.csv --sparsity 0.3,0.6", ("task: train.csv, 70 training",)),
        ("search bert --corpus corpus.txt --sparsity 0.5,0.7 --steps 40", (
            "objective kd", "steps: 60 (40, then 20 for each further level)", "learning rate: 0.0003")),
        ("search bert --corpus wikitext-103 --steps 4", ("Not checked: the corpus wikitext-103, which the run gets",)),
        ("search bert --method wanda --corpus corpus.txt", ("calibration batches: 8 (no training)",)),
        ("search bert --method magnitude", ("steps: none: the weights alone decide",)),
        ("search bert --method snip --corpus corpus.txt --steps 3", ("steps: 3 batches over which gradients are",)),
        ("search bert --corpus corpus.txt --heads 1 --steps 4", ("steps: 4",)),
        ("fit-head headless --corpus corpus.txt --steps 7", ("steps: 7", "learning rate: 0.001 at its peak")),
        ("evaluate bert --objective kd --corpus corpus.txt", ("corpus: corpus.txt, segments packed:128, all tokens",)),
        ("evaluate bert --objective similarity --pairs-file pairs.csv", ("pairs file: pairs.csv, 2 pairs",)),
        ("share --model bert --tasks rte,mrpc --data-dir glue", (
            "task rte: 48 training examples, batches of 32", "steps: 20 (5 epochs over all tasks)")),
        ("super bert --task rte --data-dir glue --level 50", ("trainings: ", "minutes: about")),
        ("shrink bert --corpus corpus.txt", ("corpus: corpus.txt", "dense_gflops: ", "minutes: about 1 or less on")),
        ("shrink bert --corpus corpus.txt --minutes 3", ("minutes: 3 for the recovery of each model, after",)),
        ("shrink gpt2 --corpus corpus.txt", ("gpt2 (2 layers of width 16)", "dense_gflops: ")),
    ],
)  # fmt: skip
def test_what_will_run_is_a_table(plan: Run, line: str, expected: tuple[str, ...]) -> None:
    shown = " ".join(plan(line).split())
    assert shown.startswith(f"Would run tickets {line.split()[0]}:")
    for words in expected:
        assert words in shown
    assert "{" not in shown


@pytest.mark.parametrize("line", [
    "transfer bert --train-file train.csv --validation-file dev.csv",
    "search bert --method imp --corpus corpus.txt --round-steps 2",
])  # fmt: skip
def test_unread_settings_are_not_listed(plan: Run, line: str) -> None:
    others = plan(line).partition("Other settings: ")[2]
    assert others
    for name in ("alpha", "phi", "steps 60", "teacher weight", "mnli dev", "score init", "temperature", "None"):
        assert name not in others


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("transfer bert --task rte --data-dir .", 2, "no folder RTE for the task rte.* Give --data-dir glue"),
        ("transfer bert --task rte --data-dir glue/SST-2", 2, "no folder RTE for the task rte.* Give --data-dir glue"),
        ("transfer bert --task mrpc --data-dir glue/RTE", 2, "no folder MRPC for the task mrpc.* Give --data-dir glue"),
        ("share --model bert --tasks rte,mrpc --data-dir glue/RTE", 2, "MRPC for the task mrpc.* Give --data-dir glue"),
        ("super bert --task rte --data-dir .", 2, "Give --data-dir glue"),
        ("transfer bert --task squad --data-dir .", 2, "Give --data-dir glue"),
        ("search bert --method imp --task rte --data-dir .", 2, "Give --data-dir glue"),
        ("search bert --corpus task:rte --data-dir .", 2, "Give --data-dir glue"),
        ("evaluate bert --objective similarity --task stsb --data-dir .", 2, "Give --data-dir glue"),
        ("transfer bert --task pydocs --data-dir glue", 2, "built in and reads no folder; leave --data-dir out"),
        ("transfer bert --task rte --data-dir nowhere", 2, "There is no folder nowhere"),
        ("transfer ./nobody --task rte", 2, "There is no model folder ./nobody"),
        ("transfer bert --train-file train.csv --validation-file no.csv", 2, "There is no file no.csv"),
        (
            "transfer bert --train-file train.csv --validation-file dev.csv --text-columns body",
            1,
            "lacks the columns body",
        ),
        ("transfer bert --train-file train.csv --validation-file dev.csv --label-column y", 1, "lacks the columns y"),
        (
            "transfer bert --train-file pairs.csv --validation-file train.csv --label-column score",
            1,
            "lacks the columns",
        ),
        ("transfer bert --task rte --data-dir glue --train-size 500", 2, "asks for more than the 48 training examples"),
        ("search bert --corpus nope.txt", 2, "There is no file or folder nope.txt"),
        ("search bert --corpus utf16.txt", 1, "UTF-16 without a byte-order mark"),
        ("search bert --corpus blank.txt", 1, "holds no line with text"),
        ("search bert --corpus train.csv:body", 1, "no text in a column 'body'"),
        ("search bert --method imp --train-file train.csv --label-column y", 1, "lacks the columns y"),
        ("fit-head bert --corpus nope.txt", 2, "There is no file or folder"),
        ("shrink bert --corpus nope.txt", 2, "There is no file or folder"),
        ("evaluate bert --corpus nope.txt", 2, "There is no file or folder"),
        ("evaluate bert --objective similarity --pairs-file train.csv", 1, "lacks the columns|Cannot tell"),
        (f"transfer deep {OWN}", 1, "num_hidden_layers 10000000, and its weights have 2"),
        (f"super odd {OWN}", 1, "config.json of odd cannot be used: .*hidden_size"),
        ("search wide --method magnitude", 1, r"intermediate\.dense\.weight of shape 64x32, .* describes 0x32"),
        (f"transfer wordless {OWN}", 1, "wordless has no tokenizer files with words"),
        ("fit-head weightless --corpus corpus.txt", 1, "weightless has no weights"),
        ("measure deep", 1, "and its weights have 2"),
        (f"transfer bert {OWN} --max-length 513", 2, "--max-length 513 is impossible; bert reads 3 to 512"),
        (f"transfer bert {OWN} --layers 3", 2, "--layers 3 is impossible: bert has 2 layers"),
        (f"transfer bert {OWN} --teacher ./nothing", 2, "There is no run ./nothing|There is no run nothing"),
        ("transfer bert --task clm --corpus corpus.txt", 2, "bert is an encoder, which predicts masked tokens"),
        ("search gpt2 --objective mlm --corpus corpus.txt", 2, "gpt2 is a decoder, which predicts the next token"),
        ("evaluate gpt2 --objective mlm --corpus corpus.txt", 2, "gpt2 is a decoder, which predicts the next token"),
        ("search bert --corpus corpus.txt --segments packed:513", 2, "longer than the 512 tokens of the model"),
        ("evaluate bert --corpus corpus.txt --segments packed:513", 2, "longer than the 512 tokens of the model"),
        ("search headless --objective mlm --corpus corpus.txt", 2, "headless has no trained MLM head"),
        ("evaluate headless --objective mlm --corpus corpus.txt", 2, "headless has no trained MLM head"),
        ("fit-head bert --corpus corpus.txt", 2, "bert has a trained MLM head; see tickets evaluate bert"),
        ("search bert --method magnitude --like ./nothing", 2, "There is no ticket ./nothing"),
        ("measure bert --length 513", 2, "bert takes texts of up to 512 tokens"),
        ("measure bert --batch 0", 2, "--batch 0 is impossible"),
        ("export bert --format onnx", 2, "bert has no saved model"),
        ("export bert --format pdf", 2, "Unknown format 'pdf'"),
    ],
)
def test_what_does_not_fit_is_refused(plan: Run, line: str, code: int, message: str) -> None:
    with pytest.raises(TicketsError, match=message) as refused:
        plan(line)
    assert refused.value.exit_code in {code, 2 if "|" in message else code}


def test_the_plan_for_machines(plan: Run) -> None:
    found = json.loads(plan("transfer bert --train-file train.csv --validation-file dev.csv", "--json"))
    assert found["plan"]["learning_rate"] is None
    expected = {"steps": 9, "epochs": 3, "batch_size": 32, "max_length": 128, "train_examples": 70}
    assert {name: found["will_run"][name] for name in expected} == expected
    assert 0 < found["will_run"]["learning_rate"] <= 3e-4
    assert (found["unchecked"], found["remarks"]) == ([], [])
    found = json.loads(plan("search bert --method imp --corpus corpus.txt --sparsity 0.6 --round-steps 6", "--json"))
    assert (found["will_run"]["rounds"], found["will_run"]["total_steps"]) == (1, 6)
    assert found["remarks"][0].startswith("One sparsity level is one round")


def test_sentences_about_tickets_say_what_they_mean(world: Path, plan: Run) -> None:
    line = ["search", "bert", "--method", "magnitude", "--sparsity", "0.5,0.6", "--out", str(world / "two"), "--quiet"]
    shown = CliRunner().invoke(app, line, catch_exceptions=False).stdout
    assert shown.endswith("nested: each ticket keeps only weights that the ticket before it keeps\n")
    shown = CliRunner().invoke(app, ["inspect", str(world / "two" / "sparsity-0.50")], catch_exceptions=False).stdout
    assert "  each of the 13 matrices: 0.5000\n" in shown
    shutil.rmtree(world / "two")


def test_a_real_run_names_the_right_folder_too(world: Path) -> None:
    with pytest.raises(UsageError, match=f"Give --data-dir {world}/glue"):
        load_task("rte", world)


def test_advice_on_rounds_is_for_one_round_of_imp() -> None:
    one = SearchConfig(model="m", method="imp", sparsity=0.7)
    assert str(one.advice_on_rounds).endswith("such as --sparsity 0.23,0.47,0.7.")
    assert SearchConfig(model="m", method="imp").advice_on_rounds is None
    assert SearchConfig(model="m", method="imp", sparsity=(0.3, 0.6), prune_first=True).advice_on_rounds is not None


@pytest.mark.parametrize(
    ("method", "option", "default"),
    [
        ("imp", "--sparsity", "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"),
        ("imp", "--objective", "mlm"),
        ("wanda", "--ranking", "row"),
        ("magnitude", "--sparsity", "0.6"),
        ("importance", "--scope", "encoder"),
    ],
)
def test_the_help_of_a_method_shows_its_own_defaults(method: str, option: str, default: str) -> None:
    shown = CliRunner().invoke(app, ["search", "--method", method, "--help"]).stdout
    section = " ".join(shown.partition("Ticket:" if option != "--objective" else "Objective:")[2].split())
    assert section.partition(f"{option}")[2].partition("[default: ")[2].startswith(f"{default}]")
