"""`tickets share` on the command line, and the whole pipeline of the paper behind `--tickets auto`."""

import importlib
import json

import pytest

from samples.tiny_tasks import task_data, transfers_read
from winning_tickets import Runtime, SearchConfig, ShareConfig, SharedModel, Ticket
from winning_tickets.pruning.search import search
from winning_tickets.runs.identity import digest, run_id

QUIET = Runtime(quiet=True)
SHORT = ("--steps", "2", "--batch-size", "4", "--quiet")


@pytest.fixture(autouse=True)
def _tiny_tasks(monkeypatch):
    transfers_read(monkeypatch, lambda name: task_data(name, 8, 6))


@pytest.fixture(scope="module")
def ticket(bert, tmp_path_factory):
    path = tmp_path_factory.mktemp("tickets") / "ticket"
    config = SearchConfig(model=bert, method="importance", selection="random", prune_heads=(2,), objective="kd")
    search(config, path, QUIET)
    return str(path)


def test_tickets_by_order_and_the_table(tickets, tmp_path, ticket):
    words = ("share", "--tasks", "rte,cola", "--tickets", f"{ticket},none", "--out", tmp_path / "run", *SHORT)
    code, out, err = tickets(*words, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert {name: task["ticket_id"] for name, task in result["tasks"].items()} == {
        "rte": Ticket.from_pretrained(ticket).id,
        "cola": None,
    }
    code, out, _ = tickets(*words)  # the stored result
    lines = out.splitlines()
    accuracy = result["tasks"]["rte"]["metrics"]["accuracy"]
    kept = result["tasks"]["rte"]["weight_remaining"]
    assert lines[0].startswith("2 tasks on ")
    assert lines[1] == (
        f"  rte accuracy: final {100 * accuracy['final']['mean']:.1f}, best {100 * accuracy['best']['mean']:.1f} "
        f"(one answer for all examples: 50.0); ticket keeps {kept:.1%} of the encoder"
    )
    assert lines[2].startswith("  cola matthews: final ")
    assert lines[2].count("ticket") == 0
    assert lines[3].startswith("  task_average: final ")
    assert "weight remaining: 100.0% of the encoder is kept by at least one task" in lines[4:]
    flat = [name for name, task in result["tasks"].items() if task["degenerate"]]
    warned = f"Warning: on {', '.join(flat)} the final model of a seed is no better than one answer for all examples. "
    assert [line.startswith(warned) for line in lines if line.startswith("Warning")] == [True] * bool(flat)


@pytest.mark.slow
def test_the_pipeline_of_the_paper(tickets, tmp_path, bert, monkeypatch):
    words = ("share", "--model", bert, "--tasks", "rte,cola,mrpc", "--tickets", "auto", "--single-epochs", "1",
             "--level", "rte=50%,cola=60%,mrpc=0%", "--fine-tune", "--out", tmp_path / "run", *SHORT)  # fmt: skip
    code, out, err = tickets(*words, "--json")
    assert code == 0
    assert all("is no better on" in line for line in err.splitlines())  # so short a training may learn nothing
    result, run = json.loads(out), tmp_path / "run"
    assert sorted(path.name for path in (run / "stages").iterdir()) == ["cola", "rte"]  # 0 % makes no ticket
    found = {task: Ticket.from_pretrained(run / "stages" / task / "ticket") for task in ("rte", "cola")}
    assert {task: result["tasks"][task]["ticket_id"] for task in found} == {t: one.id for t, one in found.items()}
    assert result["tasks"]["mrpc"]["ticket_id"] is None
    assert found["rte"].info.scores_from == "rte, fine-tuned with seed 0"
    stage = json.loads((run / "stages" / "rte" / "fine-tuned" / "result.json").read_text())
    assert (stage["epochs"], stage["learning_rate"], stage["batch_size"]) == (1.0, 3e-4, 4)
    shared = SharedModel.open(run / "seed-0" / "model")
    assert shared.ticket("cola").id == found["cola"].id
    for task in ("rte", "cola", "mrpc"):
        alone = json.loads((run / "fine-tuned" / "seed-0" / task / "result.json").read_text())
        assert alone["head"] == "kept"
        assert alone["ticket_id"] == result["tasks"][task]["ticket_id"]
        for metric, kinds in result["fine_tuned"]["tasks"][task]["metrics"].items():
            assert kinds["final"]["values"] == [alone["metrics"][metric]["final"]["mean"]]
    assert result["fine_tuned"]["averages"]["task_average"]["final"]["mean"] is not None

    (run / "result.json").unlink()  # stages and seeds that are done are not done again
    train = importlib.import_module("winning_tickets.training.trainer")
    monkeypatch.setattr(train.TicketTrainer, "train", lambda *_, **__: pytest.fail("trained again"))
    code, out, _ = tickets(*words, "--json")
    assert (code, json.loads(out)) == (0, result)
    code, out, _ = tickets(*words)
    assert "fine-tuned on each task alone:" in out.splitlines()


def test_auto_prunes_three_tenths_where_nothing_else_is_asked_for(bert):
    config = ShareConfig.of(model=bert, tasks="rte,cola", tickets="auto")
    assert (config.level, config.level_of("cola")) == (None, 30.0)


def test_ids_are_frozen():
    """A default that moves without a new `defaults_version` would make old results look like new ones."""
    config = ShareConfig.of(model="builtin:minilm", tasks="rte,mrpc", tickets="auto", level="30%", profile="paper")
    assert run_id(config, "share", base="b") == "share-65bf8465044c"
    values = [ShareConfig(tasks=("cola",), profile=p) for p in ("tuned", "paper", "code")]
    assert (
        digest([[v.resolved().model_dump(mode="json"), v.dropout_of("cola", None)] for v in values]) == "13a0fb58660c"
    )


def test_a_configuration_file_says_the_same_as_options(tickets, tmp_path, ticket, bert):
    (tmp_path / "share.yaml").write_text(
        f"tasks: [rte, cola]\ntickets: {{rte: {ticket}}}\ndropout_p: {{cola: 0.2}}\nsteps: 2\nweight_decay: 0.0\n"
    )
    code, out, err = tickets("share", "--config", tmp_path / "share.yaml", "--out", "x", "--dry-run", "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)["plan"]
    assert (plan["tasks"], plan["tickets"]) == (["rte", "cola"], {"rte": ticket})
    assert (plan["weight_decay"], plan["dropout_p"]) == (0.0, {"cola": 0.2})
    words = ("--tickets", f"rte={ticket}", "--dropout-p", "cola=0.2", "--steps", 2, "--out", "x", "--dry-run", "--json")
    assert json.loads(tickets("share", "--tasks", "rte,cola", *words)[1])["plan"] == plan | {"weight_decay": None}
    (tmp_path / "wrong.yaml").write_text("tasks: [rte]\nmixng: annealed\n")
    code, out, err = tickets("share", "--config", tmp_path / "wrong.yaml", "--model", bert, "--out", "x")
    assert (code, out) == (2, "")
    assert "Unknown field 'mixng'. Did you mean 'mixing' or" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "{model}"], 2, "No task was given: use --tasks, such as rte,mrpc, or --train-file"),
        (["--tasks", "rte"], 2, "No model was given: use --model"),
        (
            ["--tasks", "rte,cola,rte", "--model", "{model}"],
            2,
            "--tasks names rte twice; two tasks cannot have one name",
        ),
        (["--tasks", "rte,colla", "--model", "{model}"], 2, "Unknown task 'colla'. Did you mean 'cola'?"),
        (
            ["--tasks", "rte,cola,mrpc", "--tickets", "a,b"],
            2,
            "--tickets gives 2 folder(s) for 3 tasks (rte, cola, mrpc); give one for each, in their order, or by name: "
            "rte=FOLDER,...",
        ),
        (["--tasks", "rte,cola", "--tickets", "rte=a,b"], 2, "--tickets gives 2 folder(s) for 2 tasks (rte, cola)"),
        (
            ["--tasks", "rte,cola", "--tickets", "ret=a"],
            2,
            "Unknown task 'ret'. Did you mean 'rte'? Known: cola, rte. --tickets names it",
        ),
        (["--tasks", "rte,cola", "--tickets", "rte=a,rte=b"], 2, "--tickets names rte twice; give it one folder."),
        (["--tasks", "rte", "--tickets", "{nowhere}"], 2, "The ticket of rte: "),
        (["--tasks", "rte", "--model", "{model}", "--level", "30%"], 2, "--level needs --tickets auto"),
        (["--tasks", "rte", "--model", "{model}", "--mixing", "sum"], 2, "mixing: Input should be 'proportional'"),
        (
            ["--tasks", "rte", "--model", "{model}", "--tickets", "auto", "--level", "x"],
            2,
            "--level rte: Input should be",
        ),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_mistakes_get_one_message_and_an_empty_stdout(tickets, tmp_path, bert, words, code, message, dry):
    if dry and "{nowhere}" in words:
        pytest.skip("a plan opens no tickets")
    names = {"model": bert, "nowhere": str(tmp_path / "nowhere")}
    more = ("--dry-run",) if dry else ()
    found, out, err = tickets("share", *(w.format(**names) for w in words), "--out", tmp_path / "run", *more)
    assert (found, out) == (code, ""), err
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
