"""Models, texts and data sets in memory: the same tickets and scores as from folders and files, and nothing is left."""

import copy
import tempfile
from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import winning_tickets as wt
from samples.tiny_models import TEXT, make_model
from winning_tickets.models.given import NoTokenizer
from winning_tickets.runs.errors import ContentError, UsageError

KD = dict(method="mask-training", objective="kd", sparsity=0.5, steps=3, batch_tokens=256, quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("models") / "bert"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "corpus.txt"
    path.write_text("\n".join(TEXT) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def of_files(folder, corpus, tmp_path_factory):
    """The ticket of a folder and a file."""
    return wt.search(folder, tmp_path_factory.mktemp("out"), corpus=corpus, **KD)


@pytest.fixture
def nothing_left(tmp_path, monkeypatch):
    """An empty working folder, temporary folder and cache, which have to be empty again after the test."""
    places = [tmp_path / name for name in ("work", "temporary", "cache")]
    for place in places:
        place.mkdir()
    monkeypatch.chdir(places[0])
    monkeypatch.setattr(tempfile, "tempdir", str(places[1]))
    monkeypatch.setenv("WINNING_TICKETS_CACHE", str(places[2]))
    yield
    assert [path for place in places for path in place.rglob("*")] == []


def loaded(folder, kind=AutoModelForMaskedLM, origin=""):
    model = kind.from_pretrained(folder)
    model.name_or_path = model.config._name_or_path = origin
    return model, AutoTokenizer.from_pretrained(folder)


def test_a_model_and_texts_in_memory_give_the_ticket_of_a_folder_and_a_file(folder, of_files, nothing_left):
    model, tokenizer = loaded(folder)
    ticket = wt.search(model, tokenizer=tokenizer, corpus=TEXT, **KD)
    assert ticket.id == of_files.id
    assert ticket.base.hash == of_files.base.hash
    assert all(torch.equal(ticket.masks[name], of_files.masks[name]) for name in of_files.masks)


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForSequenceClassification])
def test_a_model_without_the_head_gives_the_same_ticket(kind, folder, of_files, nothing_left):
    model, tokenizer = loaded(folder, kind)
    assert wt.search(model.to(torch.float32), tokenizer=tokenizer, corpus=TEXT, **KD).id == of_files.id


def test_the_objective_mlm_uses_the_head_of_the_model_in_memory(folder, corpus, nothing_left):
    model, tokenizer = loaded(folder)
    settings = KD | {"objective": "mlm+kd"}
    ticket = wt.search(model, tokenizer=tokenizer, corpus=TEXT, **settings)
    same = wt.search(folder, corpus=TEXT, **settings)
    assert ticket.id == same.id
    assert all(torch.equal(ticket.mlm_head[name], same.mlm_head[name]) for name in same.mlm_head)
    encoder, _ = loaded(folder, AutoModel)
    with pytest.raises(UsageError, match="has no trained MLM head"):
        wt.search(encoder, tokenizer=tokenizer, corpus=TEXT, **settings)


def data_sets():
    rows = [{"text": text} for text in TEXT]
    yield "Dataset", lambda: datasets.Dataset.from_list(rows)
    yield "IterableDataset", lambda: datasets.Dataset.from_list(rows).to_iterable_dataset()
    yield "generator data set", lambda: datasets.IterableDataset.from_generator(lambda: iter(rows))
    yield "column", lambda: datasets.Dataset.from_list(rows)["text"]
    yield "Series", lambda: pd.Series(TEXT)
    yield "generator", lambda: (text for text in TEXT)
    yield "texts of two lines", lambda: ["\n".join(TEXT[i : i + 2]) for i in range(0, len(TEXT), 2)]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in data_sets()])
def test_every_kind_of_corpus_is_the_same_text(make, folder, of_files, nothing_left):
    before = wt.search(folder, corpus=make(), **KD)
    assert before.id == of_files.id


def test_of_a_stream_no_more_is_read_than_the_run_can_use(folder, monkeypatch):
    monkeypatch.setattr("winning_tickets.api.arguments.LEAST_CHARACTERS", 0)
    count = 0

    def endless():
        nonlocal count
        while True:
            count += 1
            yield {"text": TEXT[count % len(TEXT)]}

    stream = datasets.IterableDataset.from_generator(endless)
    wt.search(folder, corpus=stream, **KD)
    assert count < 500  # the corpus of the run has 768 tokens
    with pytest.raises(UsageError, match="The corpus is a stream, whose end is not known; give max_tokens="):
        wt.evaluate(folder, corpus=stream, quiet=True)
    assert wt.evaluate(folder, corpus=stream, max_tokens=256, segments="lines", quiet=True).tokens <= 256


def test_the_model_is_left_as_it_was(folder):
    model, tokenizer = loaded(folder)
    model.train()
    model.base_model.embeddings.requires_grad_(False)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    tokenizer.backend_tokenizer.enable_truncation(20)
    before = copy.deepcopy(model.state_dict())
    flags = [(name, value.requires_grad) for name, value in model.named_parameters()]
    state = tokenizer.backend_tokenizer.to_str()
    ticket = wt.search(model, tokenizer=tokenizer, corpus=TEXT, **KD)
    wt.evaluate(ticket, model, tokenizer=tokenizer, corpus=TEXT, segments="lines", quiet=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [(name, value.requires_grad) for name, value in model.named_parameters()] == flags
    assert model.training
    assert not calls
    assert not model.base_model._forward_hooks
    assert model._forward_hooks == {handle.id: model._forward_hooks[handle.id]}
    assert tokenizer.backend_tokenizer.to_str() == state


def test_attention_of_the_loaded_model_changes_nothing(folder, of_files, nothing_left):
    model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager")
    assert wt.search(model, corpus=TEXT, **KD).id == of_files.id  # the tokenizer is that of the folder


def test_a_ticket_names_the_folder_that_its_model_was_loaded_from(folder, nothing_left):
    model = AutoModel.from_pretrained(folder)
    ticket = wt.search(model, method="magnitude", sparsity=0.5)
    assert ticket.base.name == folder
    assert wt.evaluate(ticket, corpus=TEXT, segments="lines", quiet=True).kd_loss > 0


def test_a_ticket_of_a_model_that_was_built_in_memory_asks_for_it(folder, nothing_left):
    model, tokenizer = loaded(folder, AutoModel)
    ticket = wt.search(model, method="magnitude", sparsity=0.5)  # without a tokenizer, as it needs none
    assert ticket.base.name.startswith("memory:model-")
    with pytest.raises(UsageError, match="built in memory, and no folder or hub id has it; give model= too"):
        wt.evaluate(ticket, corpus=TEXT)
    with pytest.raises(UsageError, match="The model in memory has no tokenizer"):
        NoTokenizer()("a text")
    with pytest.raises(UsageError, match="The model in memory has no tokenizer; give one with tokenizer="):
        wt.evaluate(ticket, model, corpus=TEXT, quiet=True)
    found = wt.evaluate(ticket, model, tokenizer=tokenizer, corpus=TEXT, segments="lines", quiet=True)
    assert found.kd_loss > 0
    assert found.method == "magnitude"
    assert f"| ticket {ticket.id[:8]} |" in repr(found)  # and not the whole hash


def test_a_run_in_a_folder_resumes_by_the_hash_of_the_weights(folder, tmp_path):
    model, tokenizer = loaded(folder)
    first = wt.search(model, tmp_path / "out", tokenizer=tokenizer, corpus=TEXT, **KD)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again, _ = loaded(folder)
    assert wt.search(again, tmp_path / "out", tokenizer=tokenizer, corpus=list(TEXT), **KD).id == first.id
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == files
    with torch.no_grad():
        again.base_model.encoder.layer[0].attention.self.query.weight[0, 0] += 1
    with pytest.raises(UsageError, match=r"holds another run .*model: 'memory:model-"):
        wt.search(again, tmp_path / "out", tokenizer=tokenizer, corpus=TEXT, **KD)
    with pytest.raises(UsageError, match=r"holds another run .*corpus: 'memory:text-"):
        wt.search(model, tmp_path / "out", tokenizer=tokenizer, corpus=TEXT[:20], **KD)


def test_settings_work_as_before(folder, of_files, corpus, tmp_path):
    settings = {name: value for name, value in KD.items() if name != "quiet"}
    config = wt.SearchConfig(model=folder, corpus=corpus, **settings)
    assert wt.search(config, tmp_path / "a", wt.Runtime(quiet=True)).id == of_files.id
    assert wt.search(config=config, out=tmp_path / "b", runtime=wt.Runtime(quiet=True)).id == of_files.id
    assert wt.search(config, quiet=True).id == of_files.id
    with pytest.raises(UsageError, match="Give a SearchConfig or its fields, not both; found also sparsity"):
        wt.search(config, sparsity=0.7)
    with pytest.raises(UsageError, match="Give config= or the model or target, not both"):
        wt.search(folder, config=config)
    with pytest.raises(UsageError, match="Unknown field 'sparcity'. Did you mean 'sparsity'"):
        wt.search(folder, sparcity=0.7)


def test_a_tokenizer_without_a_model_in_memory_is_refused(folder, tmp_path):
    _, tokenizer = loaded(folder)
    ticket = wt.search(folder, method="magnitude", sparsity=0.5)
    config = wt.SearchConfig(model=folder, method="magnitude")
    for call in (
        lambda: wt.search(folder, tokenizer=tokenizer, method="magnitude"),
        lambda: wt.search(config=config, tokenizer=tokenizer),
        lambda: wt.evaluate(ticket, folder, tokenizer=tokenizer, corpus=TEXT, quiet=True),
        lambda: wt.export(ticket, "masked", tmp_path / "out", base=folder, tokenizer=tokenizer),
    ):
        with pytest.raises(
            UsageError, match="tokenizer= goes with a model in memory, and none was given; a model that"
        ):
            call()


def test_several_sparsities(folder, nothing_left):
    tickets = wt.search_all(folder, method="magnitude", sparsity=(0.5, 0.7))
    assert [round(ticket.sparsity, 2) for ticket in tickets.values()] == [0.5, 0.7]
    with pytest.raises(UsageError, match="search finds one ticket and was given 2 sparsities; use search_all"):
        wt.search(folder, method="magnitude", sparsity=(0.5, 0.7))


def test_a_ticket_in_memory_is_matched(folder, nothing_left):
    ticket = wt.search(folder, method="magnitude", sparsity=0.5, ranking="global")
    matched = wt.search(folder, method="random", like=ticket)
    assert matched.sparsity_by_matrix() == ticket.sparsity_by_matrix()
    assert matched.info.parents == (ticket.id,)


@pytest.mark.ecosystem
def test_sentence_transformers(folder, of_files, nothing_left):
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(folder, device="cpu")  # with mean pooling
    ticket = wt.search(model, corpus=TEXT, **KD)
    assert ticket.id == of_files.id
    vectors = model.encode(TEXT[:2])
    with torch.no_grad():
        ticket.apply_(model)
    assert abs(model.encode(TEXT[:2]) - vectors).max() > 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.nn.Linear(2, 2), "The Linear that was given has 0 Hugging Face models inside; give one model"),
        (3, "model: Input should be a valid string"),
        (None, "--model is missing"),
    ],
)
def test_what_is_no_model_is_refused(model, message):
    with pytest.raises(UsageError, match=message):
        wt.search(model, method="magnitude", sparsity=0.5)


def test_two_models_are_refused(folder):
    two = torch.nn.ModuleList([AutoModel.from_pretrained(folder), AutoModel.from_pretrained(folder)])
    with pytest.raises(UsageError, match="has 2 Hugging Face models inside"):
        wt.search(two, method="magnitude", sparsity=0.5)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([], "The corpus given in memory .train. is empty"),
        ([1, 2], "Text 0 of corpus is a int; a corpus is a list of str"),
        (["a", "b \ud800"], r"Text 1 of corpus has half of a surrogate pair, no character: 'b \\ud800'"),
        (pd.DataFrame({"a": ["x"]}), "corpus is a DataFrame of several parts; give one column of it"),
        ({"train": TEXT}, r"corpus is a dict of several parts; give corpus\['train'\], or a list of str"),
        (
            datasets.Dataset.from_dict({"a": ["x"], "b": ["y"]}),
            "has the columns a, b, and none of them is 'text'; give one, such as dataset.select_columns",
        ),
        (7, "corpus: Input should be a valid string"),
    ],
)
def test_what_is_no_corpus_is_refused(corpus, message, folder):
    with pytest.raises((UsageError, ContentError), match=message):
        wt.search(folder, corpus=corpus, **KD)


LABELED = [{"text": text, "label": ("animal", "home")[("cat" in text or "dog" in text) + 0]} for text in TEXT]
TRAINING = dict(steps=2, batch_size=8, max_length=32, seeds=(0, 1), quiet=True)


def classes(rows):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["home", "animal"])}
    )
    return datasets.Dataset.from_list(rows, features=features)


@pytest.mark.parametrize(
    "make",
    [
        list,
        pd.DataFrame,
        datasets.Dataset.from_list,
        classes,
        lambda rows: {"text": [row["text"] for row in rows], "label": [row["label"] for row in rows]},
        lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    ],
    ids=["list", "DataFrame", "Dataset", "ClassLabel", "dict", "IterableDataset"],
)
def test_data_in_memory_give_the_scores_of_files(make, folder, tmp_path, nothing_left):
    ticket = wt.search(folder, method="magnitude", sparsity=0.5)
    found = wt.transfer(ticket, train=make(LABELED), validation=make(LABELED[:12]), **TRAINING)
    assert len(found.metrics["accuracy"]["final"]["values"]) == 2
    assert found.method == "magnitude"
    if make is list:
        for name, rows in (("train", LABELED), ("validation", LABELED[:12])):
            pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
        files = wt.transfer(
            ticket, tmp_path / "out", train=tmp_path / "train.csv", validation=tmp_path / "validation.csv", **TRAINING
        )
        assert found.metrics == files.metrics
        assert found.data_hash == files.data_hash


def test_a_dense_model_in_memory_is_fine_tuned(folder, nothing_left):
    model, tokenizer = loaded(folder)
    data = dict(train=LABELED, validation=LABELED[:12])
    found = wt.transfer(model, tokenizer=tokenizer, **data, **TRAINING)
    assert found.ticket_id is None
    assert found.metrics == wt.transfer(folder, **data, **TRAINING).metrics
    with pytest.raises(UsageError, match="save_model saves models in out; give out= too"):
        wt.transfer(folder, save_model=True, **data, **TRAINING)


def test_a_transfer_in_a_folder_resumes(folder, tmp_path):
    ticket = wt.search(folder, method="magnitude", sparsity=0.5)
    data = dict(train=LABELED, validation=LABELED[:12])
    first = wt.transfer(ticket, tmp_path / "out", **data, **TRAINING)
    assert wt.transfer(ticket, tmp_path / "out", **data, **TRAINING) == first
    with pytest.raises(UsageError, match="holds another run"):
        wt.transfer(ticket, tmp_path / "out", **data | {"train": LABELED[:-1]}, **TRAINING)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "train has no rows"),
        ("text", "There is no file text|has none of the suffixes"),
        (["a", "b"], "train is a list; give a file, a Dataset, a DataFrame, a list of dicts or a dict of lists"),
        ({"train": classes(LABELED)}, "train is a dict"),
        ([{"text": "x", "label": None}], "train, row 0: column 'label' must be a class or a number, found None"),
        ([{"text": 3, "label": "a"}], "train, row 0: column 'text' must be a text, found 3"),
    ],
)
def test_what_are_no_rows_is_refused(data, message, folder):
    with pytest.raises((UsageError, ContentError), match=message):
        wt.transfer(folder, train=data, validation=LABELED[:12], **TRAINING)


def test_a_name_in_memory_means_nothing_to_another_run(folder):
    with pytest.raises(UsageError, match="memory:model-12 was given in memory, and is not there any more"):
        wt.search("memory:model-12", method="magnitude", sparsity=0.5)


def test_verbs_that_make_something_need_a_folder(folder):
    with pytest.raises(UsageError, match="This verb saves what it makes; give out="):
        wt.fit_head(folder, corpus=TEXT, steps=1)


def test_a_head_is_fitted_to_a_model_in_memory(tmp_path):
    folder = make_model(tmp_path / "bert", head="none")
    found = wt.fit_head(
        AutoModel.from_pretrained(folder), tmp_path / "out", corpus=TEXT, steps=2, segments="lines", quiet=True
    )
    assert found.steps == 2
    assert list(found.to_frame()["head"]) == ["untrained", "fitted"]
    assert Path(tmp_path / "out" / "config.json").is_file()


def test_temporary_folders_are_gone_after_an_error(folder, nothing_left):
    with pytest.raises(ContentError):
        wt.search(folder, corpus=["short"], **KD)
