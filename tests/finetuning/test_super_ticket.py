"""`tickets super`: every stage, what is chosen on what, resuming, refusals."""

import importlib
import json
import shutil
import statistics
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from samples.results import transfer_result
from samples.tiny_models import make_model
from samples.tiny_tasks import task_data, tasks_fixture
from winning_tickets import (
    Runtime,
    SearchConfig,
    ShareConfig,
    SuperConfig,
    Ticket,
    TransferConfig,
    export,
    measure,
    predict,
    super_ticket,
    transfer,
)
from winning_tickets.cli import app, show
from winning_tickets.finetuning.super_ticket import count_trainings
from winning_tickets.models.loading import load_plm
from winning_tickets.models.weights import load_state
from winning_tickets.pruning.search import search_all
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import Interrupted, UsageError

QUIET = Runtime(quiet=True)
module = importlib.import_module("winning_tickets.finetuning.super_ticket")


_tiny_tasks = tasks_fixture(lambda name: task_data(name, validation=40))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    bert = make_model(tmp_path_factory.mktemp("models") / "bert", head="mlm+pooler")
    fine_tuning = TransferConfig(target=str(bert), task="rte", steps=3, seeds=(0, 1), select_on=0.25)
    return SuperConfig(fine_tuning=fine_tuning, level=(50, 75), learning_rates=(1e-3, 3e-3), batch_sizes=(4,))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("super") / "run"
    return super_ticket(config, out, QUIET), out


def stored(out, *parts):
    return json.loads(out.joinpath(*parts, "result.json").read_text())


def test_every_level_selection_seed_and_setting_is_fine_tuned_once(whole, config):
    result, out = whole
    assert count_trainings(config.resolved()) == (1 + 2 * 3) * 2 * 2 + 1 == result["trainings"]
    assert len(list(out.glob("**/seed-*/result.json"))) == result["trainings"]
    names = ["lr-0.001_batch-4", "lr-0.003_batch-4"]
    assert sorted(path.name for path in (out / "winning" / "level-50").iterdir()) == names
    for selection in ("winning", "losing", "random"):
        for level in ("50", "75"):
            facts = result["selections"][selection][level]
            assert facts["settings"] in names
            assert len(facts["rest"]["values"]) == 2
            assert facts["weight_remaining"] == pytest.approx(1 - _pruned(out, selection, level))
    assert result["full"]["weight_remaining"] == 1.0


def _pruned(out, selection, level):
    folder = out / "tickets" / (f"{selection}-0" if selection == "random" else selection)
    rungs = stored(folder)["rungs"]
    return next(rung["pruned_share_of_all_parameters"] for rung in rungs if rung["folder"] == f"level-{level}")


def test_settings_and_the_super_ticket_are_those_with_the_best_mean_on_the_selection(whole):
    result, out = whole
    means = {}
    for level in ("50", "75"):
        facts, by_settings = result["selections"]["winning"][level], {}
        for folder in (out / "winning" / f"level-{level}").iterdir():
            by_settings[folder.name] = stored(folder)["metrics"]["accuracy"]["best_selection"]["mean"]
        means[level] = max(by_settings.values())
        assert by_settings[facts["settings"]] == means[level]
        run = stored(out / "winning" / f"level-{level}" / facts["settings"])["metrics"]["accuracy"]
        assert facts["selection"]["values"] == run["best_selection"]["values"]
        assert facts["rest"]["values"] == run["best"]["values"]
        assert facts["whole"]["values"] == run["best_whole"]["values"]
        assert facts["rest"]["mean"] == statistics.fmean(facts["rest"]["values"])
    level = max(means, key=lambda name: (means[name], int(name)))  # of equals the smaller model
    assert result["super_ticket"]["level"] == float(level)
    kept = Ticket.from_pretrained(out / "super-ticket")
    assert [kept.id] == result["super_ticket"]["ticket_ids"] == result["selections"]["winning"][level]["ticket_ids"]


def test_random_tickets_differ_by_seed_and_losing_ones_lose_what_winning_ones_keep(whole):
    result, out = whole
    first, second = (Ticket.from_pretrained(out / "tickets" / f"random-{seed}" / "level-50") for seed in (0, 1))
    assert first.id != second.id
    runs = result["selections"]["random"]["50"]["runs"]
    assert [stored(out / run)["ticket_id"] for run in runs] == [first.id, second.id]
    assert [stored(out / run)["seeds"] for run in runs] == [[0], [1]]
    heads = [
        Ticket.from_pretrained(out / "tickets" / word / "level-50").gates["layers.0.heads"].tolist()
        + Ticket.from_pretrained(out / "tickets" / word / "level-50").gates["layers.1.heads"].tolist()
        for word in ("winning", "losing")
    ]
    assert [not gate for gate in heads[0]] == heads[1]


def test_what_tickets_keep_is_the_mean_over_seeds(config, tmp_path):
    """Where units overlap, random tickets of one level differ: a head may lie in a pruned layer or not."""
    for seed, (sparsity, share) in enumerate(((0.6, 0.25), (0.8, 0.375))):
        rung = {
            "folder": "level-50",
            "ticket_id": str(seed),
            "units": {},
            "sparsity": sparsity,
            "pruned": 1,
            "total": 2,
        }
        (tmp_path / str(seed)).mkdir()
        found = {"verb": "search", "method": "random", "scope": "encoder"}
        rungs = found | {"rungs": [rung | {"pruned_share_of_all_parameters": share}]}
        (tmp_path / str(seed) / "result.json").write_text(json.dumps(rungs))
    facts = module._ticket_facts(tuple(str(tmp_path / str(seed) / "level-50") for seed in (0, 1)), config)
    assert (facts["sparsity"], facts["weight_remaining"]) == pytest.approx((0.7, 1 - 0.3125))


def test_differences_are_paired_by_seed_and_two_seeds_have_no_interval(whole):
    result, _ = whole
    winning, random, full = (
        result["selections"]["winning"]["50"],
        result["selections"]["random"]["50"],
        result["full"],
    )
    assert set(winning["against"]) == {"full", "random", "losing"}
    assert set(random["against"]) == {"full"}
    for other, facts in (("full", full), ("random", random)):
        found = winning["against"][other]["rest"]
        assert found["mean"] == pytest.approx(winning["rest"]["mean"] - facts["rest"]["mean"])
        assert (found["n"], found["interval"], found["p"]) == (2, None, None)
        assert found["no_interval"] == "2 repetitions, and an interval needs 3"
        assert found["learning_rates"] == {"ticket": winning["learning_rate"], "other": facts["learning_rate"]}


def test_a_stopped_search_goes_on_and_ends_the_same(whole, config, tmp_path, monkeypatch):
    result, _ = whole
    real, calls = module.transfer, []

    def stops(*args, **how):
        calls.append(args)
        if len(calls) == 9:
            raise Interrupted(15, "stopped by the test")
        return real(*args, **how)

    monkeypatch.setattr(module, "transfer", stops)
    with pytest.raises(Interrupted):
        super_ticket(config, tmp_path / "run", QUIET)
    assert not (tmp_path / "run" / "result.json").exists()
    again = super_ticket(config, tmp_path / "run", QUIET)
    moved = {"levels", "metric", "seeds", "super_ticket", "full"}
    assert {name: again[name] for name in moved} == {name: result[name] for name in moved}
    done = len(calls)
    assert super_ticket(config, tmp_path / "run", QUIET) == again
    assert len(calls) == done


def test_importances_of_a_run_that_is_there(whole, config, tmp_path):
    _, out = whole
    given = config.model_copy(
        update={"importance_from": str(out / "fine-tuned"), "level": (50.0,), "selections": ("winning",)}
    )
    result = super_ticket(given, tmp_path / "run", QUIET)
    assert not (tmp_path / "run" / "fine-tuned").exists()
    first = Ticket.from_pretrained(out / "tickets" / "winning" / "level-50")
    assert Ticket.from_pretrained(tmp_path / "run" / "super-ticket").gates.keys() == first.gates.keys()
    assert result["super_ticket"]["level"] == 50.0
    assert result["trainings"] == 2 * 2 * 2


def test_the_best_settings_of_a_search_are_those_of_a_transfer(whole, config, tmp_path):
    """They are part of its id, the folder is not: the search's own fine-tuning is repeated to the bit."""
    found, out = whole
    best, seeds = found["super_ticket"], tuple(found["seeds"])
    plain = config.fine_tuning.model_copy(
        update={"target": str(out / "super-ticket"), "base": config.fine_tuning.target}
    )
    result = transfer(plain.model_copy(update={"settings_from": str(out), "seeds": seeds}), tmp_path / "again", QUIET)
    assert (result["learning_rate"], result["batch_size"]) == (best["learning_rate"], best["batch_size"])
    assert result["metrics"][found["metric"]]["best_whole"]["values"] == best["whole"]["values"]
    assert (found["stopped_early"], result["stopped_early"]) == (0, 0)


def test_the_profile_of_the_paper_brings_its_grid_and_optimiser():
    bare = SuperConfig(fine_tuning=TransferConfig(target="m", task="cola"), profile="paper").resolved()
    assert bare.level == (10, 20, 30, 40, 50, 60, 70, 80)
    assert [name for name, _ in bare.grid()] == [
        f"lr-{rate}_batch-{size}" for rate in ("5e-05", "0.0001", "0.0002") for size in (8, 16, 32)
    ]
    fine_tuning = bare.fine_tuning
    assert (fine_tuning.optimizer, fine_tuning.warmup_ratio) == ("adamax-mtdnn", 0.1)
    assert (fine_tuning.head_dropout, fine_tuning.max_length, fine_tuning.epochs) == (0.05, 512, 6)
    own = SuperConfig(
        fine_tuning=TransferConfig(target="m", task="rte", steps=5, optimizer="adamw"),
        learning_rates=(1e-4,),
        profile="paper",
    ).resolved()
    assert (own.fine_tuning.optimizer, own.fine_tuning.epochs, own.learning_rates) == ("adamw", None, (1e-4,))
    assert (own.fine_tuning.head_dropout, own.fine_tuning.select_on) == (0.1, 0.1)
    tuned = SuperConfig(fine_tuning=TransferConfig(target="m", task="rte")).resolved()
    assert (tuned.fine_tuning.optimizer, len(list(tuned.grid()))) == ("adamw", 1)


@pytest.mark.parametrize("profile", ["paper", "code"])
def test_a_profile_reaches_every_training(profile):
    """Six epochs, each evaluated; random batches, dropout, the metric and the padding of the paper."""
    found = SuperConfig(fine_tuning=TransferConfig(target="m", task="mnli"), profile=profile).resolved()
    shared = ShareConfig(tasks=("mnli", "rte"), model="m", profile=profile).resolved()
    for fine_tuning in (*(one for _, one in found.grid()), shared.alone("m", "mnli", 0.3)):
        one = fine_tuning.resolved()
        assert (one.profile, one.epochs, one.eval_steps, one.patience) == (profile, 6, "epoch", None)
        assert (one.group_by_length, one.dropout, one.padding, one.mnli_dev) == (False, "model", "longest", "matched")
        assert (one.best_includes_final, one.best_above_zero, one.best_by) == (True, False, "primary")
    assert shared.patience is None
    assert ShareConfig(tasks=("rte",), model="m", early_stopping=True).resolved().patience == 2
    alone = ShareConfig(tasks=("rte",), model="m").resolved().alone("m", "rte", None)
    assert (alone.profile, alone.epochs, alone.eval_steps) == ("tuned", None, None)


@pytest.mark.parametrize(
    ("fields", "fine_tuning", "message"),
    [
        ({"selections": ("losing",)}, {}, "--selections must name winning, which the super ticket is one of"),
        ({}, {"select_on": 0.0}, "the super ticket needs a part of the dev set to be chosen on"),
        ({"learning_rates": (1e-3, 1e-3)}, {}, "--learning-rates must name different numbers above 0."),
        ({"batch_sizes": (0,)}, {}, "--batch-sizes must name different numbers above 0."),
        ({"level": (0.0,)}, {}, "--level 0% is outside"),
        ({}, {"task": "rtee"}, "rtee"),
    ],
)
def test_what_cannot_be_meant_is_refused(config, fields, fine_tuning, message, tmp_path):
    changed = config.model_copy(update=fields | {"fine_tuning": config.fine_tuning.model_copy(update=fine_tuning)})
    with pytest.raises(UsageError, match=message):
        super_ticket(changed, tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_model_is_refused_before_anything_is_trained(config, tmp_path):
    (tmp_path / "ticket").mkdir()
    changed = config.model_copy(
        update={"fine_tuning": config.fine_tuning.model_copy(update={"target": str(tmp_path / "ticket")})}
    )
    with pytest.raises(UsageError, match="ticket has no config.json; give a model folder"):
        super_ticket(changed, tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


def test_a_level_that_prunes_nothing_is_refused_before_anything_is_trained(config, tmp_path):
    with pytest.raises(UsageError, match="--level 10% prunes nothing of this model"):
        super_ticket(config.model_copy(update={"level": (10.0, 50.0)}), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_the_command_line(config, tmp_path):
    words = ["super", config.fine_tuning.target, "--task", "rte", "--level", "50", "--seeds", "0", "--steps", "2"]
    words += ["--selections", "winning,losing", "--learning-rate", "1e-3", "--select-on", "0.25", "--quiet"]
    plan = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run"), "--dry-run"])
    assert plan.exit_code == 0, plan.output
    assert "trainings: 4" in plan.stdout
    assert "minutes: about " in plan.stdout
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "super ticket: level 50 %, in super-ticket;" in done.stdout
    for name in ("phases.svg", "phases.png", "super-ticket/ticket.json"):
        assert (tmp_path / "run" / name).is_file()


def test_a_super_ticket_among_scores_that_mean_nothing_says_so(whole, tmp_path):
    result, _ = whole
    runs = {flag: module.Runs(("run",), ({"degenerate": flag},), "settings") for flag in (True, False)}
    assert module._warnings(tmp_path, runs[False], {50.0: runs[False], 75.0: runs[True]}, 50.0) == []
    (warning,) = module._warnings(tmp_path, runs[True], {50.0: runs[True]}, 50.0)
    assert warning == (
        "The super ticket was chosen among scores that are no better than one answer for all examples: the full model "
        "and the tickets of level 50 %."
    )
    (tmp_path / "result.json").write_text(json.dumps(transfer_result(degenerate=True)))
    (warning,) = module._warnings(tmp_path, runs[False], {50.0: runs[False]}, 50.0)
    assert warning.startswith("The importances are of a model that is no better than one answer for all examples")
    full = result["full"] | {"degenerate": True}
    text = show.super_ticket(result | {"full": full, "warnings": [warning]}, Path("out"))
    informative = result | {
        "full": full | {"degenerate": False},
        "super_ticket": result["super_ticket"] | {"degenerate": False},
    }
    assert "means nothing" not in show.super_ticket(informative, Path("out"))
    assert "its gain over the full model means nothing" in text
    assert text.endswith(f"Warning: {warning}")


def test_a_super_run_is_its_best_model_to_other_commands(whole, config, tmp_path):
    with pytest.raises(UsageError, match=r"kept no fine-tuned model of its super ticket, which is .*super-ticket"):
        export(whole[1], "compact", tmp_path / "export")
    fine_tuning = config.fine_tuning.model_copy(update={"save_model": True, "seeds": (0,)})
    small = config.model_copy(update={"fine_tuning": fine_tuning, "selections": ("winning",), "level": (50.0,)})
    super_ticket(small, tmp_path / "run", QUIET)
    assert export(tmp_path / "run", "compact", tmp_path / "export")["task"] == "rte"
    label = [predict(tmp_path / name, [("a cat", "a dog")])["predictions"][0] for name in ("run", "export")]
    assert label[0]["scores"] == pytest.approx(label[1]["scores"], abs=1e-5)
    assert measure(str(tmp_path / "run"), (1,), (8,), repeats=1, runtime=QUIET)["kind"] == "run"


def test_every_metric_of_the_best_evaluation_is_kept(whole):
    result, _ = whole
    facts = result["selections"]["winning"]["50"]
    assert list(facts["metrics"]) == ["accuracy"]
    for part in ("selection", "rest", "whole"):
        assert facts["metrics"]["accuracy"][part]["values"] == facts[part]["values"]


def test_importances_of_a_model_that_learned_nothing_come_with_a_warning(whole, config, tmp_path, caplog):
    _, out = whole
    fields = {"model": config.fine_tuning.target, "method": "importance", "level": (50,)}
    for degenerate in (True, False):
        source = tmp_path / f"source-{degenerate}"
        shutil.copytree(out / "fine-tuned", source)
        for path in (source / "result.json", source / "seed-0" / "result.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"degenerate": degenerate}))
        search = SearchConfig.of(**fields, importance_from=str(source))
        search_all(search, tmp_path / f"ticket-{degenerate}", QUIET)
        text = "no better on rte than one answer for all examples; its importances say nothing"
        assert (text in caplog.text) is degenerate
        caplog.clear()


def test_tickets_recover_before_they_are_fine_tuned(config, tmp_path):
    fine_tuning = config.fine_tuning.model_copy(update={"target": str(make_model(tmp_path / "bert"))})
    fields = {"level": (50,), "selections": ("winning",), "learning_rates": (1e-3,), "recover": 2}
    one = config.model_copy(update=fields | {"fine_tuning": fine_tuning})
    result = super_ticket(one, tmp_path / "run", QUIET)
    (ticket_id,) = result["super_ticket"]["ticket_ids"]
    state = load_state(tmp_path / "run" / "recovered" / f"{ticket_id}.safetensors")
    plm = load_plm(one.fine_tuning.target)
    assert not plm.has_pooler  # a random one is not saved: it would depend on what the process computed before
    base = {name: value for name, value in plm.encoder.named_parameters() if not name.startswith("pooler.")}
    assert state.tensors.keys() == base.keys()
    assert any(not torch.equal(value, base[name]) for name, value in state.tensors.items())
    records = read_log(tmp_path / "run" / "recovered" / ticket_id)
    losses = [record["held_out"]["sum"] for record in records if "held_out" in record]
    assert losses[-1] < losses[0]
    # A kill right after the state was saved leaves the checkpoints of its training.
    (tmp_path / "run" / "recovered" / ticket_id / ".scratch").mkdir()
    (tmp_path / "run" / "result.json").unlink()
    assert super_ticket(one, tmp_path / "run", QUIET) == result
    assert not list(tmp_path.rglob(".scratch"))
    winning, full = (stored(tmp_path / "run", *parts) for parts in (("winning", "level-50", "lr-0.001_batch-4"),
                                                                    ("full", "lr-0.001_batch-4")))  # fmt: skip
    assert winning["start_from"].endswith(f"{ticket_id}.safetensors")
    assert full["start_from"] == "pretrained"
    fine_tuning = one.fine_tuning.model_copy(update={"start_from": "reinit"})
    with pytest.raises(UsageError, match="--recover makes the weights that fine-tuning starts from"):
        super_ticket(one.model_copy(update={"fine_tuning": fine_tuning}), tmp_path / "other", QUIET)
