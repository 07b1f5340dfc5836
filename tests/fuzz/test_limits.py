"""What small files may ask for, and what edited ones are answered with."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError

from samples.results import transfer_result
from tools.fuzz import seeds
from tools.fuzz.seeds import resealed
from winning_tickets.config import SearchConfig, TransferConfig
from winning_tickets.config.settings import parse_size
from winning_tickets.data.segments import parse_segments
from winning_tickets.data.user_files import load_files
from winning_tickets.pruning.importance import Importance
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.store import query
from winning_tickets.runs.store.records import shape_problem
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import plan_study
from winning_tickets.tickets.ticket import Ticket


def study_of(**stage):
    body = {"verb": "search", "with": {"model": "tiny:bert"}} | stage
    return load_study({"name": "a", "title": "A", "scales": {"smoke": {"all": [1]}}, "stages": {"search": body}})


def test_a_study_of_more_runs_than_there_is_memory():
    axes = {name: list(range(1000)) for name in ("seed", "steps", "layers")}
    with pytest.raises(
        UsageError, match="Stage search: its axes make 1,000,000,000 places, and a stage may have 100,000"
    ):
        plan_study(study_of(over=axes), "smoke")
    labels = {name: list(range(1000)) for name in "abc"}
    with pytest.raises(UsageError, match="Stage search: its labels make more than 100,000 places; split the study"):
        plan_study(study_of(label=labels), "smoke")


@pytest.mark.parametrize("skip", ["${all}", "all"])
def test_conditions_that_are_none(skip):
    with pytest.raises(UsageError, match="skip, only and where take a list of conditions, such as .* found"):
        plan_study(study_of(skip=skip), "smoke")


def test_a_structure_of_more_weights_than_any_model_has(tmp_path):
    seeds.structured(tmp_path)
    resealed(tmp_path / "ticket" / "ticket.json", lambda body: body["structure"].update(hidden_size=2**40))
    with pytest.raises(ContentError, match=r"ticket.json is not .*: structure: .*more than 2,147,483,648 weights"):
        Ticket.from_pretrained(tmp_path / "ticket")
    resealed(tmp_path / "ticket" / "ticket.json", lambda body: body["structure"].update(hidden_size=0))
    with pytest.raises(
        ContentError, match=r"structure.hidden_size: Input should be greater than or equal to 1 \(found 0\)"
    ):
        Ticket.from_pretrained(tmp_path / "ticket")


@pytest.mark.parametrize("shape", [[2**40, 2**40], [2**32, 2**32], [1, 10**30], [33, 32], [-32, -32], [0, 5], []])
def test_shapes_that_a_ticket_claims_are_compared_with_its_bytes(tmp_path, shape):
    seeds.ticket(tmp_path)
    resealed(tmp_path / "ticket" / "ticket.json", lambda body: body["shapes"].update({seeds.QUERY: shape}))
    with pytest.raises(ContentError, match="cannot hold a mask of shape|is not the description of a ticket: shapes"):
        Ticket.from_pretrained(tmp_path / "ticket")


def test_gates_that_do_not_fit_name_their_ticket(tmp_path):
    seeds.structured(tmp_path)
    resealed(tmp_path / "ticket" / "ticket.json", lambda body: body["structure"].update(num_heads=4))
    with pytest.raises(
        ContentError, match=r"The ticket .*ticket cannot be used: The gate layers.0.heads is torch.bool"
    ):
        Ticket.from_pretrained(tmp_path / "ticket")


def test_importances_are_as_many_as_the_structure_has_units(tmp_path):
    seeds.importance(tmp_path)
    found = Importance.load(tmp_path / "importance")
    values = {name: {"heads": torch.rand(3, 2).double()} for name in found.values}
    Importance(values, {}, found.structure, found.about).save(tmp_path / "other")
    with pytest.raises(ContentError, match=r"has heads of shape \(3, 2\) for 'sample', expected \(2, 2\)"):
        Importance.load(tmp_path / "other")
    Importance({"sample": values["sample"]}, {}, found.structure, found.about).save(tmp_path / "one")
    with pytest.raises(ContentError, match="The importance in .*one has"):
        Importance.load(tmp_path / "one")


def test_lines_of_a_log_that_are_no_records_are_passed_over(tmp_path):
    lines = ['{"step": 1, "loss": 2.0}', "[]", '{"loss": 1}', '{"step": "2"}', '{"step": 3}', '{"step": 4, "lo']
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\xff")
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 3}]
    RunDirectory(tmp_path, "unfinished", "x").forget_after(1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 2.0}\n'


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("description", {"labels": []}, "labels: Input should be a valid dictionary (found [])."),
        ("marker", {"config": 3}, "config: Input should be a valid dictionary (found 3)."),
        ("provenance", {"seconds": "1"}, "seconds: Input should be a valid number (found '1')."),
        ("provenance", {"seconds": True}, "seconds: Input should be a valid number (found True)."),
        (
            "error",
            {"provenance": {"versions": []}},
            "provenance.versions: Input should be a valid dictionary (found []).",
        ),
        ("result", transfer_result(seeds=[0.5]), "seeds.0: Input should be a valid integer (found 0.5)."),
        ("result", transfer_result(failed_seeds=["a"]), "failed_seeds.0: Input should be a valid integer (found 'a')."),
        ("result", {"verb": "average"}, "tasks: Field required (found {'verb': 'average'})."),
        (
            "result",
            transfer_result(metrics={"f1": 3}),
            "metrics.f1: Input should be a valid dictionary or instance of ByEvaluation (found 3).",
        ),
        (
            "result",
            transfer_result(metrics={"f1": {"final": {"mean": "x"}, "best": {}}}),
            "metrics.f1.final.mean: Input should be a valid number (found 'x').",
        ),
        ("result", transfer_result(seeds=[0, 1]), "metrics.accuracy.final has 1 values for 2 seeds."),
        ("result", transfer_result({0: 0.5, 1: 0.6}, seeds=[1, 1]), "a seed comes twice."),
        ("result", transfer_result(), None),
        ("result", transfer_result(of_a_newer_version=3), None),
        ("result", {"verb": "evaluate", "kd_loss": 0.5, "metrics": None}, None),
        ("result", {"verb": "of a newer version", "metrics": 3}, None),
        ("error", {"message": "x", "provenance": None}, None),
        ("description", {}, None),
    ],
)
def test_files_of_a_run_that_cannot_be_worked_with(file, content, problem):
    assert shape_problem(file, content) == problem


def test_an_edited_result_is_a_failed_run_with_its_reason(tmp_path):
    seeds.store(tmp_path)
    path = tmp_path / "store" / "runs" / "done" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seeds": "none"}))
    record = Store(tmp_path / "store").record("done")
    assert record.status == "failed"
    assert record.error["message"] == (
        f"{path} was edited: seeds: Input should be a valid list (found 'none'). "
        "Copy it again, or delete the run and repeat it."
    )


@pytest.mark.parametrize(
    "metrics",
    [{}, {"accuracy": None}, {"accuracy": {"final": "high"}}, {"accuracy": {"final": {"mean": "high"}}}]
    + [{"accuracy": {"final": {"mean": mean, "std": mean}}} for mean in (10**308, True, [])],
)
def test_a_result_of_another_verb_may_hold_anything(tmp_path, metrics):
    seeds.store(tmp_path)
    path = tmp_path / "store" / "runs" / "done" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"verb": "measure", "metrics": metrics}))
    records = Store(tmp_path / "store").records()
    line = next(line for line in query.as_text(list(records), "store").splitlines() if line.startswith("done"))
    assert "accuracy" not in line


@pytest.mark.parametrize("size", ["1e99999999", "9" * 5000, "1/3", "", "%", "nan", "1_000", "0x10"])
def test_sizes_that_are_none(size):
    with pytest.raises(UsageError, match="is not a size; use a number of examples such as 1000, or a percentage"):
        parse_size(size)


@pytest.mark.parametrize("text", ["packed:0", "packed:" + "9" * 5000, "mixed:0-5", "mixed:9-3", "lines:-1"])
def test_segments_that_are_none(text):
    with pytest.raises(UsageError, match="Unknown segments"):
        parse_segments(text)


def test_a_kind_of_task_that_is_none(tmp_path):
    seeds.tables(tmp_path)
    with pytest.raises(UsageError, match="Unknown kind 'spam'. Did you mean 'span'?"):
        load_files(tmp_path / "rows.csv", tmp_path / "rows.csv", None, kind="spam")


@pytest.mark.parametrize("name", ["cls", "self", "fields"])
def test_fields_with_the_names_of_parameters(name):
    with pytest.raises(UsageError, match=f"Unknown field '{name}'"):
        SearchConfig.of(model="x", **{name: 1})


@pytest.mark.parametrize("field", ["max_grad_norm", "weight_decay", "mlm_probability", "learning_rate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_are_finite(field, value):
    with pytest.raises(UsageError, match="Input should be a finite number"):
        SearchConfig.of(model="x", **{field: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), (0.5, float("nan"))])
def test_sparsities_that_are_not_finite_have_their_own_message(value):
    with pytest.raises(UsageError, match=r"is outside \[0, 1\); it is the fraction removed"):
        SearchConfig.of(model="x", sparsity=value)


def test_seeds_are_those_that_every_generator_takes():
    for seed in (-1, 2**32):
        with pytest.raises(UsageError, match="--seed .* is impossible"):
            SearchConfig.of(model="x", seed=seed)
    with pytest.raises(ValidationError):
        TransferConfig(target="x", train_size_seed=-1)
    assert SearchConfig.of(model="x", seed=2**32 - 1).seed == 2**32 - 1
