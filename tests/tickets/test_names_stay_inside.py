"""No file decides what is written, or read as its own part, outside of its folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from samples.study_report_samples import fill_store, sample_plan
from samples.study_samples import little
from samples.tiny_models import make_model
from tools.fuzz import seeds
from winning_tickets.config import TransferConfig
from winning_tickets.data.task_files import load_definitions
from winning_tickets.deploy.formats import copy_sentence_modules
from winning_tickets.deploy.verify import verify
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.identity import run_id
from winning_tickets.runs.store.records import check_id
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.load import load_study
from winning_tickets.studies.report import report_study
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.shared_model import SharedModel

OUTSIDE = ("../../x", "/tmp/x", "..", "a/../../x")


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_ticket_names_no_file_elsewhere(tmp_path, name):
    seeds.ticket(tmp_path)
    seeds.resealed(tmp_path / "ticket" / "ticket.json", lambda body: body["files"].update({name: "0" * 64}))
    with pytest.raises(ContentError, match=r"ticket.json is not the description of a ticket: files\."):
        Ticket.from_pretrained(tmp_path / "ticket")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_shared_model_names_no_file_and_no_task_elsewhere(tmp_path, name):
    seeds.shared(tmp_path)
    description = tmp_path / "shared" / "shared.json"
    valid = description.read_text()
    seeds.resealed(description, lambda body: body["files"].update({name: "0" * 64}))
    with pytest.raises(ContentError, match="only files in its own folder may be named"):
        SharedModel.open(tmp_path / "shared")
    description.write_text(valid)
    seeds.resealed(description, lambda body: body["tasks"].append(name))
    with pytest.raises(ContentError, match=r"shared.json is not the description of a shared model: tasks\.2: "):
        SharedModel.open(tmp_path / "shared")


@pytest.mark.parametrize("name", OUTSIDE)
def test_hashes_of_a_store_are_of_its_own_files(tmp_path, name):
    seeds.store(tmp_path)
    hashes = tmp_path / "store" / "about" / "done" / "files.json"
    body = json.loads(hashes.read_text())
    body["files"][name] = {"size": 1, "hash": "0"}
    hashes.write_text(json.dumps(body))
    (finding,) = verify([tmp_path / "store"])["findings"]
    assert (finding["kind"], finding["path"]) == ("damaged", str(hashes))
    assert "only files in its own folder may be named" in finding["detail"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_ids_of_runs_are_names_of_folders(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be the id of a run"):
        Store(tmp_path / "store").folder(name)
    with pytest.raises(UsageError, match="cannot be the id of a run"):
        Store(tmp_path / "store").describe(name, "transfer", {})
    assert {name.split("/")[0] for name in everything(tmp_path)} <= {"store"}
    assert not any("x" in name for name in everything(tmp_path))


@pytest.mark.parametrize("text", OUTSIDE)
def test_ids_that_are_made_of_settings_are_names_of_folders(text):
    made = run_id(TransferConfig(target=text, task=text), f"transfer-{text}")
    assert check_id(made) == made
    assert Path(made).name == made


@pytest.mark.parametrize("name", [*OUTSIDE, "A", "a b"])
def test_names_of_studies_and_tasks_are_words(tmp_path, name):
    with pytest.raises(UsageError, match="name: String should match pattern"):
        load_study(little(name=name))
    if name != "A":
        (tmp_path / "tasks.yaml").write_text(f"{name!r}: {{train_file: a.csv, validation_file: a.csv}}")
        with pytest.raises(UsageError, match="may hold letters, digits, dots, dashes and underscores only"):
            load_definitions(tmp_path / "tasks.yaml")


def test_tables_and_figures_of_a_study_are_files_in_the_report(tmp_path):
    def rename(body):
        body["tables"] = {"../../x": body["tables"]["main"], "/tmp/y": body["tables"]["metrics"]}
        body["figures"], body["claims"], body["published"] = {}, {}, []

    plan = sample_plan(rename)
    store = fill_store(tmp_path / "a" / "store", plan)
    (tmp_path / "a" / "keep").write_text("mine")
    before = everything(tmp_path)
    report_study(plan, store, tmp_path / "a" / "b" / "report", formats=("md", "csv"))
    new = everything(tmp_path) - before
    assert new
    assert all(name.startswith("a/b") or "cache" in name for name in new)


def test_a_report_removes_nothing_that_is_not_in_its_folder(tmp_path):
    plan = sample_plan()
    store = fill_store(tmp_path / "store", plan)
    report_study(plan, store, tmp_path / "report", formats=("md",))
    (tmp_path / "keep").write_text("mine")
    description = tmp_path / "report" / "report.json"
    body = json.loads(description.read_text())
    body["files"] += ["../keep", str(tmp_path / "keep"), "..", ".", 7]
    description.write_text(json.dumps(body))
    report_study(plan, store, tmp_path / "report", formats=("md",))
    assert (tmp_path / "keep").read_text() == "mine"


@pytest.mark.parametrize("path", OUTSIDE)
def test_modules_of_a_sentence_encoder_are_copied_from_its_own_folder(tmp_path, path):
    model = make_model(tmp_path / "a" / "model", head="none")
    (tmp_path / "x").mkdir()
    (model / "modules.json").write_text(json.dumps([{"path": "", "type": "t"}, {"path": path, "type": "t"}]))
    (tmp_path / "out").mkdir()
    with pytest.raises(ContentError, match="only files in its own folder may be named"):
        copy_sentence_modules(str(model), None, tmp_path / "out")
    (model / "modules.json").write_text('{"path": 1}')
    with pytest.raises(ContentError, match="modules.json is not one of sentence-transformers"):
        copy_sentence_modules(str(model), None, tmp_path / "out")
    assert everything(tmp_path / "out") <= {"modules.json"}


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_force_empties_a_linked_folder_and_leaves_what_is_linked_from_inside(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with RunDirectory.claim(tmp_path / "link", "search", "one", {}):
        pass
    (tmp_path / "real" / "inner").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "real" / "folder").mkdir()
    with RunDirectory.claim(tmp_path / "link", "search", "two", {}, force=True):
        pass
    assert everything(tmp_path / "real") == {"config.json"}
    assert (tmp_path / "elsewhere" / "notes").read_text() == "mine"


def test_what_is_written_replaces_a_link_and_not_what_it_leads_to(tmp_path):
    seeds.ticket(tmp_path)
    (tmp_path / "precious").write_text("mine")
    again = tmp_path / "again"
    again.mkdir()
    (again / "ticket.json").symlink_to(tmp_path / "precious")
    Ticket.from_pretrained(tmp_path / "ticket").save_pretrained(again)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (again / "ticket.json").is_symlink()


def test_a_link_to_another_file_is_read_and_does_not_pass_the_check(tmp_path):
    seeds.ticket(tmp_path)
    masks = tmp_path / "ticket" / "ticket.safetensors"
    masks.unlink()
    masks.symlink_to("/etc/hostname")
    with pytest.raises(ContentError, match="does not match its checksum"):
        Ticket.from_pretrained(tmp_path / "ticket")
