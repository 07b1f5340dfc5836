"""What a study needs and is not there."""

from __future__ import annotations

import importlib

import pytest

from samples.study_samples import little, planned
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.hub import unreachable
from winning_tickets.runs.store.store import Store
from winning_tickets.studies import needs
from winning_tickets.studies.needs import list_hub_problems, list_problems, unmet_needs
from winning_tickets.studies.plan import part_of
from winning_tickets.studies.worker import TINY


def done_in(store):
    return lambda run: store.status(run) == "done"


def test_missing_data_is_told(tmp_path):
    content = little(
        needs={"model": "a model", "data": "a folder", "far": "text", "hub": "a corpus"},
        parameters={"data": None, "far": str(tmp_path / "no"), "hub": "org/name"},
    )
    content["stages"]["evaluate"]["with"]["corpus"] = "${far}/text"
    content["stages"]["transfer"]["with"]["task_file"] = "${data}"
    plan = planned(content)
    unset, missing = (
        "data is not set; it has to be a folder: --set data=...",
        f"far: there is no {tmp_path / 'no'}; it has to be text: --set far=...",
    )
    assert list_problems(plan, done_in(Store(tmp_path / "store")))[:2] == [unset, missing]
    assert unmet_needs(part_of(plan, ("stage=evaluate",))) == [missing], "a part is asked for what it uses only"
    assert unmet_needs(part_of(plan, ("stage=transfer",))) == [unset]
    assert plan.parameters["model"].startswith(TINY)


def test_all_that_is_not_set_is_told_at_once():
    content = little(
        needs={"encoder": "a model", "text": "a folder", "data_dir": "a folder, or the hub"},
        parameters={"encoder": None, "text": None, "data_dir": None},
    )
    content["stages"]["evaluate"]["with"] |= {"target": "${encoder}", "corpus": "${text}"}
    with pytest.raises(UsageError) as told:
        planned(content)
    assert str(told.value).splitlines()[:2] == [
        "encoder is not set; it has to be a model: --set encoder=...",
        "text is not set; it has to be a folder: --set text=...",
    ]
    with pytest.raises(UsageError, match="text is not set(.|\n)*Unknown task 'rtte'. Did you mean 'rte'"):
        planned(content, encoder="tiny:bert", tasks=["rtte"])


@pytest.fixture
def fields(tmp_path, monkeypatch):
    """What is missing for the fields of an evaluation, here and now; and the plan."""
    monkeypatch.chdir(tmp_path)

    def missing(**given):
        stage = {"verb": "evaluate", "with": {"target": "tiny:bert", "corpus": "tiny:text"} | given}
        needs = {"data": "a folder of tasks"}
        plan = planned(little(needs=needs, parameters={"data": "glue"}, stages={"evaluate": stage}))
        return list_problems(plan, done_in(Store("store"))), plan

    return missing


def test_missing_paths_of_fields_are_told(fields, tmp_path):
    assert fields(data_dir="${data}")[0] == ["data=glue: there is no folder glue."]
    assert fields(data_dir="/no/glue")[0] == ["data_dir=/no/glue: there is no folder /no/glue."]
    assert fields(corpus="wikitxt")[0] == ["corpus=wikitxt: there is no corpus, file or folder wikitxt."]
    assert fields(corpus="~nobody/text")[0] == ["corpus=~nobody/text: there is no corpus, file or folder ~nobody/text."]
    assert fields(pairs_file="p.csv")[0] == ["pairs_file=p.csv: there is no file p.csv."]
    assert fields(target="./no")[0] == ["target=./no: there is no file or folder ./no."]
    (tmp_path / "glue").touch()
    assert fields(data_dir="${data}")[0] == ["data=glue: there is no folder glue."]
    (tmp_path / "glue").unlink()
    (tmp_path / "glue").mkdir()
    nothing = "corpus: The folder glue holds no text file (.txt, .tokens, .raw, .md)."
    assert fields(corpus="glue", data_dir="${data}", target="org/name")[0] == [nothing]
    (tmp_path / "glue" / "text.txt").write_text("A line.\n")
    for known in ("wikitext-2", "pydocs", "task:pydocs", "glue"):
        assert fields(corpus=known, data_dir="${data}", target="org/name")[0] == []


def test_tasks_whose_files_are_not_in_the_folder_are_told_before_the_first_run(tmp_path):
    glue, squad = tmp_path / "glue", tmp_path / "squad"
    (glue / "RTE").mkdir(parents=True)
    squad.mkdir()
    stages = {
        name: {"verb": "transfer", "with": {"target": "tiny:bert", "task": name, "data_dir": str(folder)}}
        for name, folder in {"rte": glue, "mrpc": glue, "squad": squad}.items()
    }
    stages["text"] = {
        "verb": "search",
        "with": {"model": "tiny:bert", "corpus": "task:cola", "data_dir": str(glue), "steps": 2},
    }
    plan = planned(little(needs={}, parameters={}, stages=stages))

    def problems():
        return [line.partition(";")[0] for line in list_problems(plan, lambda run: False)]

    assert problems() == [
        f"data_dir: {glue / 'RTE'} lacks train.tsv and dev.tsv of the task rte",
        f"data_dir: {glue} has no folder MRPC for the task mrpc, and no train.tsv or Parquet files of its own",
        f"data_dir: {squad} must hold one train*.json of squad (as train-v1.1.json and dev-v1.1.json) or Parquet "
        "files of its own",
        f"data_dir: {glue} has no folder CoLA for the task cola, and no train.tsv or Parquet files of its own",
    ]
    assert list_problems(plan, lambda run: True) == []
    for split in ("train", "dev"):
        (glue / "RTE" / f"{split}.tsv").touch()
        (squad / f"{split}-v1.1.json").touch()
    assert len(problems()) == 2


def test_a_missing_path_is_told_once(fields):
    plan = fields(data_dir="${data}")[1]
    both = planned(plan.study.model_dump(by_alias=True, exclude_none=True), data="./glue")
    told = "data: there is no ./glue; it has to be a folder of tasks: --set data=..."
    assert list_problems(both, done_in(Store("store"))) == unmet_needs(both) == [told]


def test_what_the_hub_has_is_looked_for_before_the_first_run(monkeypatch):
    monkeypatch.setattr(
        needs, "unreachable", lambda name, kind: None if name == "known/model" else f"is no {kind} here"
    )
    glue = {
        "verb": "transfer",
        "with": {"target": "${models[plm]}", "data_dir": "${data_dir}"},
        "over": {"plm": ["A", "B"]},
    }
    stages = {
        "t": glue | {"over": {"plm": ["A", "B"], "task": ["rte", "mrpc"]}},
        "s": {"verb": "search", "with": {"model": "tiny:bert", "method": "imp", "corpus": "wikitext-103"}},
        "m": {"verb": "search", "with": {"model": "un/known", "method": "magnitude", "sparsity": 0.5}},
    }
    models = {"A": "known/model", "B": "un/known"}
    content = little(
        needs={"data_dir": "a folder of tasks"}, parameters={"models": models, "data_dir": None}, stages=stages
    )
    plan = planned(content)
    assert list_hub_problems(plan, lambda run: False) == [
        "data_dir is not set, and nyu-mll/glue is no dataset here; --set data_dir=FOLDER, a folder of tasks.",
        "un/known is no model here; --set 'models={A: known/model, B: FOLDER}', a folder with the model.",
        "wikitext-103: Salesforce/wikitext is no dataset here; "
        "give another one in the study, a folder with text or Parquet files.",
    ]
    assert list_hub_problems(plan, lambda run: True) == []
    assert unmet_needs(plan) == []  # the hub is read without a folder


def test_a_machine_without_a_network_has_what_its_cache_has(tmp_path, monkeypatch):
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    unreachable.cache_clear()
    assert unreachable("org/name", "model") == "is not on this machine, and HF_HUB_OFFLINE is set"
    (tmp_path / "models--org--name" / "snapshots" / "1").mkdir(parents=True)
    unreachable.cache_clear()
    assert unreachable("org/name", "model") is None
    unreachable.cache_clear()


def test_data_of_runs_that_are_done_may_be_gone(fields):
    problems, plan = fields(data_dir="${data}")
    assert len(problems) == 1
    (run,) = plan.runs
    store = Store("store")
    store.describe(run, "evaluate", {})
    assert list_problems(plan, done_in(store)) == problems
    RunDirectory.claim(store.folder(run), "evaluate", run, {}).finish({"verb": "evaluate"})
    assert list_problems(plan, done_in(store)) == []
