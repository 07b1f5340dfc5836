"""Super tickets, sharing, exports, measurements and predictions of objects in memory, as of folders."""

import json
import shutil
import tempfile
from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import winning_tickets as wt
from samples.sentence_models import make_sentence_transformer
from samples.tiny_models import TEXT, make_model
from winning_tickets.runs.errors import ContentError, UsageError

LABELED = [{"text": text, "label": ("animal", "home")["cat" in text]} for text in TEXT]
DATA = dict(train=LABELED, validation=LABELED[:20])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("models") / "bert"))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A transfer with its model."""
    out = tmp_path_factory.mktemp("runs") / "run"
    wt.transfer(folder, out, **DATA, steps=2, batch_size=8, max_length=32, seeds=(0,), save_model=True, quiet=True)
    return out


@pytest.fixture
def nothing_left(tmp_path, monkeypatch):
    """Temporary folders, which have to be empty again after the test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert not list((tmp_path / "temporary").iterdir())


def loaded(folder, kind=AutoModelForMaskedLM):
    """A model as if it were built in memory, and its tokenizer."""
    model = kind.from_pretrained(folder)
    model.name_or_path = model.config._name_or_path = ""
    return model, AutoTokenizer.from_pretrained(folder)


def scores(content):
    """All scores of a result, without the names of its files and of its model."""
    names = ("out", "run_id", "runs", "model", "versions", "seconds")
    if isinstance(content, dict):
        return {key: scores(value) for key, value in content.items() if key not in names}
    return content


def test_a_super_ticket_of_a_model_and_rows_in_memory_is_that_of_folder_and_files(folder, tmp_path, nothing_left):
    model, tokenizer = loaded(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = dict(level=50, selections=("winning", "random"), seeds=(0,), select_on=0.5, steps=2, batch_sizes=8)
    settings |= dict(learning_rates=1e-3, max_length=32, quiet=True)
    found = wt.super_ticket(model, tmp_path / "a", tokenizer=tokenizer, **DATA, **settings)
    for name, rows in DATA.items():
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {name: tmp_path / f"{name}.csv" for name in DATA}
    other = wt.super_ticket(folder, tmp_path / "b", **files, **settings)
    assert scores(found) == scores(other)
    assert wt.Ticket.from_pretrained(tmp_path / "a" / "super-ticket").id == found.super_ticket["ticket_ids"][0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # The same objects are the same run, other rows are another one.
    assert wt.super_ticket(model, tmp_path / "a", tokenizer=tokenizer, **DATA, **settings) == found
    with pytest.raises(UsageError, match="holds another run"):
        wt.super_ticket(model, tmp_path / "a", tokenizer=tokenizer, **DATA | {"train": LABELED[1:]}, **settings)
    with pytest.raises(UsageError, match="This verb saves what it makes; give out="):
        wt.super_ticket(model, tokenizer=tokenizer, **DATA, **settings)


def test_a_model_tickets_and_rows_in_memory_are_shared_as_folders_and_files_are(folder, tmp_path, nothing_left):
    model, tokenizer = loaded(folder)
    tickets = {
        task: wt.search(folder, method="importance", selection="random", seed=seed, prune_heads=2, objective="kd")
        for seed, task in enumerate(("support", "mood"))
    }
    rows = {"support": datasets.Dataset.from_list(LABELED), "mood": pd.DataFrame(LABELED[::-1])}
    settings = dict(steps=3, batch_size=8, max_length=32, save_model=False, quiet=True)
    found = wt.share(
        model=model, tokenizer=tokenizer, tickets=tickets, train_file=rows, validation_file=rows, **settings
    )
    files = {}
    for task in rows:
        pd.DataFrame(rows[task]).to_csv(tmp_path / f"{task}.csv", index=False)
        tickets[task].save_pretrained(tmp_path / task)
        files[task] = str(tmp_path / f"{task}.csv")
    other = wt.share(
        model=folder,
        tickets={task: str(tmp_path / task) for task in rows},
        train_file=files,
        validation_file=files,
        out=tmp_path / "out",
        **settings,
    )
    assert {task: one["metrics"] for task, one in found.tasks.items()} == {
        task: one["metrics"] for task, one in other.tasks.items()
    }
    assert [one["ticket_id"] for one in found.tasks.values()] == [ticket.id for ticket in tickets.values()]
    in_order = wt.share(
        model=model, tokenizer=tokenizer, tickets=list(tickets.values()), train_file=rows, validation_file=rows,
        **settings,
    )  # fmt: skip
    assert in_order.tasks == found.tasks
    assert [text.get_text() for text in found.plot().axes[0].get_xticklabels()] == ["support", "mood"]
    with pytest.raises(UsageError, match="train_file is a list; give a dict with the data of each task"):
        wt.share(model=model, tasks=("support", "mood"), train_file=LABELED, validation_file=rows, **settings)
    with pytest.raises(UsageError, match="share saves the shared models in out; give out=, or save_model=False"):
        wt.share(model=model, tokenizer=tokenizer, train_file=rows, validation_file=rows, tickets="none")


class SentenceTransformer(torch.nn.Module):
    """Known by its name, as the library may not be installed; saves what it has besides the model."""

    def __init__(self, model, tokenizer):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def save_pretrained(self, path):
        modules = [{"path": ""}, {"path": "1_Pooling"}]
        (Path(path) / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
        (Path(path) / "1_Pooling").mkdir()
        (Path(path) / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}', encoding="utf-8")
        (Path(path) / "model.safetensors").write_bytes(b"not copied")


def test_an_export_of_a_sentence_transformer_in_memory_keeps_its_modules(folder, tmp_path, nothing_left):
    model = SentenceTransformer(*loaded(folder, AutoModel))
    ticket = wt.search(model, method="magnitude", sparsity=0.5)
    wt.export(ticket, "masked", tmp_path / "out", base=model)
    assert json.loads((tmp_path / "out" / "modules.json").read_text())[1] == {"path": "1_Pooling"}
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    assert AutoModel.from_pretrained(tmp_path / "out").num_parameters() == model.model.num_parameters()


def test_an_export_of_a_sentence_transformer_in_memory_has_its_own_modules(folder, tmp_path):
    """Not those of the folder that it was loaded from, which may differ or be gone."""
    source = make_sentence_transformer(tmp_path / "source")
    model = SentenceTransformer(AutoModel.from_pretrained(source), AutoTokenizer.from_pretrained(source))
    ticket = wt.search(model, method="magnitude", sparsity=0.5)
    plain = model.model
    wt.export(ticket, "masked", tmp_path / "a", base=model)
    assert json.loads((tmp_path / "a" / "1_Pooling" / "config.json").read_text()) == {"pooling_mode_cls_token": True}
    wt.export(ticket, "masked", tmp_path / "b", base=plain, tokenizer=model.tokenizer)
    assert json.loads((tmp_path / "b" / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    shutil.rmtree(source)
    wt.export(ticket, "masked", tmp_path / "c", base=plain, tokenizer=model.tokenizer)
    assert not (tmp_path / "c" / "modules.json").exists()


def test_an_export_of_objects_in_memory_has_the_files_of_an_export_of_folders(folder, tmp_path, nothing_left):
    model, tokenizer = loaded(folder)
    ticket = wt.search(model, method="magnitude", sparsity=0.5)
    found = wt.export(ticket, "masked", tmp_path / "a", base=model, tokenizer=tokenizer)
    ticket.save_pretrained(tmp_path / "ticket")
    wt.export(tmp_path / "ticket", "masked", tmp_path / "b", base=folder)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()
    assert "| base model | a model in memory |" in (tmp_path / "a" / "README.md").read_text()
    assert found.base["hash"] == ticket.base.hash
    # The same objects are the same export.
    assert wt.export(ticket, "masked", tmp_path / "a", base=model, tokenizer=tokenizer) == found
    with pytest.raises(UsageError, match="built in memory, and no folder or hub id has it; give base= too"):
        wt.export(ticket, "masked", tmp_path / "c")
    with pytest.raises(UsageError, match="A model in memory is saved by its own save_pretrained"):
        wt.export(model, "masked", tmp_path / "c")
    assert wt.export(ticket, "mask-pt", tmp_path / "masks").ticket_id == ticket.id  # holds no weights


def test_a_ticket_in_memory_knows_the_folder_of_its_model(folder, tmp_path):
    ticket = wt.search(folder, method="magnitude", sparsity=0.5)
    found = wt.export(ticket, "masked", tmp_path / "a")
    ticket.save_pretrained(tmp_path / "ticket")
    assert wt.export(tmp_path / "ticket", "masked", tmp_path / "b").id == found.id


def test_models_and_tickets_in_memory_are_measured(folder, tmp_path, nothing_left):
    model, _ = loaded(folder)
    ticket = wt.search(model, method="importance", selection="random", prune_ffns=1, objective="kd")
    ticket.save_pretrained(tmp_path / "ticket")
    settings = dict(batches=(2,), lengths=(8,), repeats=1, threads=1, runtime=wt.Runtime(quiet=True))
    for one, other in [((ticket, model), (tmp_path / "ticket", folder)), ((model, None), (folder, None))]:
        found, same = (wt.measure(target, base=base, **settings) for target, base in (one, other))
        assert found.kind == same.kind
        assert found.parameters | {"all": None} == same.parameters | {"all": None}
        assert [shape["flops"] for shape in found.shapes] == [shape["flops"] for shape in same.shapes]
        assert found.bytes_on_disk is None
    assert list(found.to_frame()["batch"]) == [2]
    assert found.plot().axes[0].get_ylabel() == "milliseconds"
    with pytest.raises(UsageError, match="give base= too"):
        wt.measure(ticket, **settings)


def test_a_model_in_memory_predicts_what_its_folder_predicts(run, nothing_left):
    saved = run / "seed-0" / "model"
    expected = wt.predict(run, TEXT[:3])
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    found = wt.predict(model, TEXT[:3])
    assert found.predictions == expected.predictions
    assert found.task == expected.task  # the folder that it was loaded from says so
    built, tokenizer = loaded(saved, AutoModelForSequenceClassification)
    found = wt.predict(built, TEXT[:3], tokenizer=tokenizer)
    assert found.predictions == expected.predictions
    assert found.task == "BertForSequenceClassification"
    encoder, tokenizer = loaded(saved, AutoModel)
    with pytest.raises(UsageError, match="The BertModel in memory is not a classifier, so it labels no texts"):
        wt.predict(encoder, TEXT[:3], tokenizer=tokenizer)


@pytest.mark.parametrize(
    "make",
    [
        list,
        iter,
        lambda texts: [(text,) for text in texts],
        pd.Series,
        lambda texts: pd.DataFrame({"text": texts}),
        lambda texts: {"text": texts},
        lambda texts: [{"text": text, "id": 3} for text in texts],
        lambda texts: datasets.Dataset.from_dict({"text": texts}),
        lambda texts: datasets.Dataset.from_dict({"text": texts})["text"],
    ],
)
def test_every_kind_of_texts_is_labeled_alike(make, run):
    assert wt.predict(run, make(TEXT[:3])).predictions == wt.predict(run, [(text,) for text in TEXT[:3]]).predictions


def test_what_is_no_model_is_refused():
    with pytest.raises(UsageError, match="target: Input should be a valid string .found 7"):
        wt.measure(7)
    with pytest.raises(UsageError, match="The columns of train have different numbers of rows: text 2, label 1"):
        wt.transfer("x", train={"text": ["a", "b"], "label": ["c"]}, validation=LABELED)
    with pytest.raises(UsageError, match="train is a dict of splits; give a file, a Dataset"):
        wt.transfer("x", train={"text": "a", "label": "b"}, validation=LABELED)


def test_texts_of_files_and_of_other_columns(run, tmp_path):
    expected = wt.predict(run, TEXT[:2]).predictions
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXT[:2]))
    assert wt.predict(run, tmp_path / "rows.jsonl", text_columns=["body"]).predictions == expected
    assert wt.predict(run, TEXT[0]).predictions[0]["label"] == expected[0]["label"]
    with pytest.raises(UsageError, match="texts, row 0 lacks the columns text: found body"):
        wt.predict(run, [{"body": "x"}])
    with pytest.raises(UsageError, match="--text-columns names 2 column"):
        wt.predict(run, [{"body": "x"}], text_columns=["body", "text"])
    with pytest.raises(ContentError, match="texts, row 0: column 'text' must be a text, found 3"):
        wt.predict(run, [{"text": 3}])


def test_one_value_stands_for_a_list_of_one(folder):
    ticket = wt.search(folder, method="importance", selection="random", level="50%", units="heads", objective="kd")
    assert ticket.info.config["units"] == ["heads"]
    assert wt.search(folder, method="magnitude", sparsity=0.5).info.config["sparsity"] == 0.5


def test_the_base_of_imported_masks_may_be_in_memory(folder, tmp_path):
    model, _ = loaded(folder)
    ticket = wt.search(model, method="magnitude", sparsity=0.5)
    wt.export(ticket, "mask-pt", tmp_path / "masks")
    found = wt.import_mask(tmp_path / "masks" / "mask.pt", model, tmp_path / "ticket")
    assert found.ticket_id == ticket.id
    assert found.model == ticket.base.name
