"""Labels for new texts from a saved transfer."""

import json
import math
import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from samples.tiny_models import TEXT, make_model
from winning_tickets import Runtime, TransferConfig, predict, transfer
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.training import predict_files

QUIET = Runtime(quiet=True)
MOODS = ("bad", "good", "neutral")


@pytest.fixture
def trained(tmp_path):
    """Fine-tunes a tiny model on made-up data; returns the run's folder."""
    model = str(make_model(tmp_path / "m"))

    def train(columns, labels, name="run", **fields):
        rows = [
            {**{column: TEXT[(i + j) % 6] for j, column in enumerate(columns)}, "label": labels[i % len(labels)]}
            for i in range(30)
        ]
        (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
        file = str(tmp_path / "train.jsonl")
        settings = {"target": model, "train_file": file, "validation_file": file, "steps": 2, "save_model": True}
        transfer(
            TransferConfig.of(**settings | {"learning_rate": 1e-3, "text_columns": tuple(columns)} | fields),
            tmp_path / name,
            QUIET,
        )
        return tmp_path / name

    return train


def test_labels_and_probabilities(trained):
    run = trained(["text"], MOODS, seeds=(4, 2), steps=40)
    texts = [(text,) for text in (*TEXT[:3], TEXT[0] + " and " + TEXT[1])]
    result = predict(run, texts)
    assert [item["text"] for item in result["predictions"]] == [list(example) for example in texts]
    assert [item["label"] for item in result["predictions"][:3]] == list(MOODS)
    model = AutoModelForSequenceClassification.from_pretrained(run / "seed-2" / "model")  # the lowest seed
    tokenizer = AutoTokenizer.from_pretrained(run / "seed-2" / "model")
    for (text,), item in zip(texts, result["predictions"], strict=True):
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        assert list(item["scores"]) == list(MOODS) == list(model.config.id2label.values())
        assert list(item["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
        assert math.isclose(sum(item["scores"].values()), 1)
        assert item["label"] == max(item["scores"], key=item["scores"].get)


def test_every_way_to_name_the_model(trained):
    run = trained(["text"], MOODS, seeds=(0, 1))
    texts = [(TEXT[0],)]
    shutil.copytree(run / "seed-0", run / "seed-²")  # a digit, but no number
    assert predict(run, texts) == predict(run, texts, seed=0) == predict(run / "seed-0", texts)
    assert predict(run / "seed-0" / "model", texts) == predict(run, texts)
    other = predict(run, texts, seed=1)
    assert other["predictions"] != predict(run, texts)["predictions"]
    assert other["predictions"] == predict(run / "seed-1", texts)["predictions"]
    with pytest.raises(UsageError, match="has no model of seed 7; there are those of 0, 1"):
        predict(run, texts, seed=7)
    with pytest.raises(UsageError, match="--seed 1 chooses among the seeds of a run, and .*seed-0 is a single model"):
        predict(run / "seed-0", texts, seed=1)


def test_pairs_and_scores(trained):
    run = trained(["first", "second"], (0.5, 2.5, 4.75))
    result = predict(run, [(TEXT[0], TEXT[1]), (TEXT[1], TEXT[2])])
    assert [set(item) for item in result["predictions"]] == [{"text", "score"}] * 2
    model = AutoModelForSequenceClassification.from_pretrained(run / "seed-0" / "model")
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    tokenizer = AutoTokenizer.from_pretrained(run / "seed-0" / "model")
    with torch.no_grad():
        expected = float(model(**tokenizer(TEXT[0], TEXT[1], return_tensors="pt")).logits)
    assert result["predictions"][0]["score"] == pytest.approx(expected, abs=1e-5)
    message = r"takes 2 text\(s\) per example \(first, second\), found 1: .* first<TAB>second, or with --text-pair"
    with pytest.raises(UsageError, match=message):
        predict(run, [(TEXT[0],)])


def test_long_texts_are_cut_as_in_training(trained):
    run = trained(["text"], MOODS, max_length=6)
    words = TEXT[0].split()
    long, short = predict(run, [(" ".join(words),), (" ".join(words[:4]),)])["predictions"]
    assert list(long["scores"].values()) == pytest.approx(list(short["scores"].values()), abs=1e-6)


def test_refusals(tmp_path, trained):
    run = trained(["text"], MOODS)
    bare = trained(["text"], MOODS, name="bare", save_model=False)
    with pytest.raises(UsageError, match="bare has no saved model; run tickets transfer with --save-model"):
        predict(bare, [("x",)])
    with pytest.raises(UsageError, match="There is no run .*nowhere; give the --out of a tickets transfer"):
        predict(tmp_path / "nowhere", [("x",)])
    with pytest.raises(UsageError, match="No text was given; the task local needs text"):
        predict(run, [])
    with pytest.raises(UsageError, match="An example has an empty text"):
        predict(run, [(" ",)])
    with pytest.raises(UsageError, match=r"takes 1 text\(s\) per example \(text\), found 2: 'a \| b'"):
        predict(run, [("a", "b")])
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "ticket.json").write_text("{}")
    with pytest.raises(UsageError, match="t is a ticket, not a fine-tuned model; run tickets transfer .* --save-model"):
        predict(tmp_path / "t", [("x",)])


def test_a_damaged_model_is_refused(trained):
    run = trained(["text"], MOODS)
    model = run / "seed-0" / "model"
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-50])
    with pytest.raises(ContentError, match="Could not load .*model"):
        predict(run, [("x",)])
    (model / "model.safetensors").write_bytes(weights)
    (model / "task.json").write_text(json.dumps({"task": "local"}))
    with pytest.raises(ContentError, match=r"task.json is not a task description \('text_columns'\); it was edited"):
        predict(run, [("x",)])


def test_the_labels_of_a_cell_have_one_separator(tmp_path):
    labels = [["O", "B-PET"], ["O", "B-PET", None], [None, "O"], ["O"]]  # None: words that were cut off
    rows = iter([{"number": number, "prediction": row} for number, row in enumerate(labels)])
    predict_files._write(tmp_path / "p.csv", ".csv", rows)
    assert (tmp_path / "p.csv").read_text().split() == ["number,prediction", "0,O|B-PET", "1,O|B-PET|", "2,|O", "3,O"]
