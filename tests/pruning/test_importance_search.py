"""`search --method importance` from end to end: from a fine-tuned model, from text, from an earlier search."""

import json

import pytest
import torch
from typer.testing import CliRunner

from samples.learning import corpus_of
from samples.tiny_models import TEXT, make_model
from samples.tiny_tasks import tasks_fixture
from winning_tickets import Runtime, SearchConfig, Ticket, TransferConfig, search, search_all, transfer
from winning_tickets.cli import app
from winning_tickets.models.structure import structure_of
from winning_tickets.pruning import importance as importance_module
from winning_tickets.pruning.importance import IMPORTANCE_FILE, Importance, ImportanceModel, add_up, in_order
from winning_tickets.pruning.search import check_search
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets.ticket import search_settings_of
from winning_tickets.training.objectives.task import TaskObjective

QUIET = Runtime(quiet=True)


_tiny_tasks = tasks_fixture()


@pytest.fixture(scope="module")
def run(bert, tmp_path_factory):
    """A model fine-tuned on 36 examples, the last batch of 4 of them."""
    out = tmp_path_factory.mktemp("runs") / "run"
    config = TransferConfig(target=bert, task="rte", steps=4, batch_size=8, save_model=True, seeds=(3,))
    transfer(config, out, QUIET)
    return out


def levels(bert, run=None, **fields):
    settings = {"level": (50, 75), "importance_from": None if run is None else str(run)}
    return SearchConfig.of(model=bert, method="importance", **(settings | fields))


def pruned(ticket):
    return {(name, int(index)) for name, gate in ticket.gates.items() for index in (~gate).nonzero()}


def test_winning_losing_and_random_tickets_of_a_task(bert, run, tmp_path):
    out = {word: tmp_path / word for word in ("winning", "losing", "random")}
    found = {word: search_all(levels(bert, run, selection=word), out[word], QUIET) for word in out}
    for word, tickets in found.items():
        assert list(tickets) == ["level-50", "level-75"]
        for ticket, (heads, ffns) in zip(tickets.values(), ((2, 0), (3, 1)), strict=True):
            kinds = [name.rpartition(".")[2] for name, _ in pruned(ticket)]
            assert (kinds.count("heads"), kinds.count("ffn")) == (heads, ffns)
            assert ticket.info.config["selection"] == word
            assert ticket.info.config["sparsity"] == ticket.sparsity
        assert pruned(tickets["level-50"]) < pruned(tickets["level-75"])
        result = json.loads((out[word] / "result.json").read_text())
        assert [rung["folder"] for rung in result["rungs"]] == ["level-50", "level-75"]
        assert result["rungs"][1]["units"] == {"heads": {"pruned": 3, "total": 4}, "ffns": {"pruned": 1, "total": 2}}
        assert result["nested"]
        assert [ticket.info.config["level"] for ticket in tickets.values()] == [[50.0], [75.0]]
    importance = Importance.load(out["winning"])
    scores = importance.scores("sample", "heads").flatten()
    order = [(f"layers.{int(i) // 2}.heads", int(i) % 2) for i in scores.argsort()]
    assert pruned(found["winning"]["level-50"]) == set(order[:2])
    assert pruned(found["losing"]["level-50"]) == set(order[2:])
    assert not (out["random"] / IMPORTANCE_FILE).exists()
    assert found["winning"]["level-50"].info.scores_from == "rte, fine-tuned with seed 3"
    kind = search_settings_of(found["losing"]["level-75"])["search"]
    assert kind == {"selection": "losing", "importance_from": "task rte", "objective": "task"}


def test_the_importance_is_that_of_the_examples_the_model_was_trained_on(bert, run, tmp_path):
    search(levels(bert, run, level=(50,)), tmp_path / "out", QUIET)
    stored = Importance.load(tmp_path / "out")
    model = ImportanceModel.find(run, None)
    plm = model.load()
    batches = list(in_order(plm, model.examples(plm, levels(bert)), 32))
    assert [len(batch["labels"]) for batch in batches] == [32, 4]
    expected = add_up(plm.model, structure_of(plm), TaskObjective("classification"), batches).finish({})
    for definition, units in expected.values.items():
        torch.testing.assert_close(stored.values[definition]["heads"], units["heads"])
    assert tuple(stored.samples["heads"].shape) == (36, 2, 2)
    assert tuple(stored.samples["ffns"].shape) == (36, 2, 1)
    text = json.loads((tmp_path / "out" / IMPORTANCE_FILE).read_text())
    assert text["importance"]["sample"]["ffns"] == stored.values["sample"]["ffns"].tolist()
    assert text["about"]["kind"] == "task rte"
    assert text["about"]["ticket_id"] is None


def test_another_level_takes_the_saved_importance(bert, run, tmp_path, monkeypatch):
    first = search(levels(bert, run, level=(50,)), tmp_path / "first", QUIET)
    monkeypatch.setattr(importance_module, "add_up", lambda *_, **__: pytest.fail("computed twice"))
    again = search(levels(bert, tmp_path / "first", level=(50,)), tmp_path / "second", QUIET)
    assert again.id == first.id
    assert again.info.scores_from == first.info.scores_from
    assert search_settings_of(again)["search"] == search_settings_of(first)["search"]
    more = search(levels(bert, tmp_path / "second", level=(75,)), tmp_path / "third", QUIET)
    assert pruned(first) < pruned(more)
    definitions = {
        word: search(levels(bert, tmp_path / "first", level=(50,), importance=word), tmp_path / word, QUIET).info.config
        for word in ("token", "batch", "released")
    }
    assert {config["importance"] for config in definitions.values()} == {"token", "batch", "released"}


def test_a_search_that_was_stopped_takes_up_its_importance(bert, run, tmp_path, monkeypatch):
    config = levels(bert, run, level=(50,))
    with monkeypatch.context() as patch:
        patch.setattr(importance_module, "close_gates", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            search(config, tmp_path / "out", QUIET)
    monkeypatch.setattr(importance_module, "add_up", lambda *_, **__: pytest.fail("computed twice"))
    assert search(config, tmp_path / "out", QUIET).gates


@pytest.mark.parametrize("objective", ["mlm", "kd"])
def test_importance_without_a_task(bert, objective, tmp_path):
    settings = {"objective": objective, "corpus": corpus_of(tmp_path), "segments": "packed:16", "batch_tokens": 64}
    config = levels(bert, level=(50,), steps=3, **settings)
    ticket = search(config, tmp_path / "out", QUIET)
    found = Importance.load(tmp_path / "out")
    assert tuple(found.samples["heads"].shape) == (12, 2, 2)
    assert all(float(value.min()) > 0 for value in found.values["sample"].values())
    assert ticket.info.config["objective"] == objective
    assert ticket.info.scores_from == f"{objective} on text"
    assert search(config, tmp_path / "again", QUIET).id == ticket.id


def test_batches_without_a_known_word_count_nothing(bert, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(["\u03b1\u03b2\u03b3 \u03b4\u03b5\u03b6 " * 6, *TEXT[:2]]))
    settings = {"objective": "mlm", "segments": "lines:16", "batch_tokens": 16, "importance": "released"}
    config = levels(bert, level=(50,), steps=3, corpus=str(text), **settings)
    search(config, tmp_path / "out", QUIET)
    found = Importance.load(tmp_path / "out")
    signed = found.samples["heads"].flatten(1)
    assert sorted(bool(row.any()) for row in signed) == [False, True, True]
    assert all(value.isfinite().all() for units in found.values.values() for value in units.values())


def test_neurons_and_layers_and_counts(bert, run, tmp_path):
    ticket = search(levels(bert, run, level=(), prune_neurons=(40,), prune_layers=(1,)), tmp_path / "a", QUIET)
    closed = [name for name, _ in pruned(ticket)]
    assert sum(name.endswith("neurons") for name in closed) == 40
    assert sum(name.endswith("layer") for name in closed) == 1
    assert set(ticket.gates) == {f"layers.{i}.{gate}" for i in range(2) for gate in ("neurons", "layer")}
    several = levels(bert, tmp_path / "a", level=(), prune_heads=(1, 2), prune_ffns=(0, 1))
    assert list(search_all(several, tmp_path / "b", QUIET)) == ["heads-1-ffns-0", "heads-2-ffns-1"]
    assert (tmp_path / "b" / "heads-2-ffns-1" / "ticket.json").is_file()
    with pytest.raises(UsageError, match="search finds one ticket and was given 2 levels; use search_all"):
        search(several, tmp_path / "c", QUIET)


def test_a_layer_can_keep_heads(bert, run, tmp_path):
    config = levels(bert, run, level=(50,), min_heads_per_layer=1, selection="losing")
    gates = search(config, tmp_path / "out", QUIET).gates
    assert [int(gates[f"layers.{layer}.heads"].sum()) for layer in range(2)] == [1, 1]
    with pytest.raises(UsageError, match=r"--level 75% prunes 3 of 4 heads, .*min-heads-per-layer 1 at most 2"):
        search(levels(bert, run, level=(75,), min_heads_per_layer=1), tmp_path / "no", QUIET)
    assert not (tmp_path / "no").exists()


def test_profiles_choose_the_definition():
    def chosen(profile, selection="winning"):
        config = SearchConfig(model="m", method="importance", profile=profile, selection=selection).resolved()
        return config.importance, config.min_heads_per_layer

    assert (chosen("paper"), chosen("code"), chosen("tuned")) == (("sample", 0), ("released", 1), ("sample", 0))
    assert chosen("code", "random") == ("released", 0)


def test_profile_fields_are_explained():
    from pathlib import Path

    page = (Path(__file__).resolve().parents[2] / "docs" / "explanation" / "profiles.md").read_text(encoding="utf-8")
    assert "| `importance` | sample | released | sample |" in page
    assert "| `min_heads_per_layer` | 0 | 1" in page


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"level": ()}, r"Say what is pruned with --level .* or with counts .*; found neither"),
        ({"prune_heads": (2,)}, "found both"),
        ({"level": (0,)}, r"--level 0% is outside \(0, 100\]"),
        ({"level": (120,)}, r"--level 120% is outside \(0, 100\]"),
        (
            {"level": (), "prune_heads": (1, 2), "prune_ffns": (1,)},
            "needs a number of every unit; found 2 of heads, 1 of",
        ),
        ({"level": (), "prune_heads": (-1,)}, "must not be negative"),
        ({"level": (), "prune_heads": (1,), "units": ("heads",)}, "--units needs --level"),
        ({"level": (), "prune_heads": (1, 1)}, "lose the same numbers of units; give each combination once"),
        ({"sparsity": 0.5}, "--method importance does not read --sparsity; it needs --method random, magnitude"),
        ({"ranking": "global"}, "--method importance does not read --ranking"),
        ({"scope": "encoder+embeddings"}, "--scope encoder.embeddings cannot be used with tickets of whole units"),
        ({"objective": "mlm+kd"}, "Importance is about one loss, mlm, clm, kd or task, and the objective is mlm.kd"),
        (
            {"objective": "task"},
            "needs a model fine-tuned on it: tickets transfer --save-model, then --importance-from",
        ),
        ({"objective": "mlm", "importance_from": "x"}, "--objective mlm contradicts --importance-from"),
        ({}, "Importance by kd needs --corpus: .* For that of a task give --importance-from RUN"),
        ({"corpus": "pydocs", "steps": 0}, "--steps 0 is impossible; it must be at least 1"),
        ({"corpus": "pydocs", "pattern": "2:4"}, "--method importance does not read --pattern"),
        (
            {"method": "magnitude", "level": (30,)},
            "--method magnitude does not read --level; it needs --method importance",
        ),
        ({"method": "random", "prune_layers": (1,), "level": ()}, "--method random does not read --whole-layers"),
    ],
)
def test_impossible_searches_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        check_search(SearchConfig.of(**({"model": "m", "method": "importance", "level": (30,)} | fields)))


def test_more_than_there_is_is_refused_before_any_work(bert, run, tmp_path):
    for fields, message in (
        ({"prune_heads": (5,)}, "5 heads cannot be pruned: the model has 4"),
        ({"prune_ffns": (3,)}, "3 ffns cannot be pruned: the model has 2"),
        ({"level": (10,)}, "--level 10% prunes nothing of this model"),
    ):
        with pytest.raises(UsageError, match=message):
            search(levels(bert, run, **({"level": ()} | fields)), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_importances_of_another_model_are_refused(bert, run, tmp_path):
    other = str(make_model(tmp_path / "other", head="mlm+pooler", seed=1))
    with pytest.raises(ContentError, match="fine-tuned from other weights"):
        search(levels(other, run, level=(50,)), tmp_path / "out", QUIET)
    search(levels(bert, run, level=(50,)), tmp_path / "saved", QUIET)
    with pytest.raises(ContentError, match="belong to a model fine-tuned from other weights"):
        search(levels(other, tmp_path / "saved", level=(50,)), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="importance of neurons was not computed, only that of heads, ffns, layers"):
        search(levels(bert, tmp_path / "saved", level=(), prune_neurons=(3,)), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match=r"--importance-from: There is no run .*tickets search --method importance"):
        search(levels(bert, tmp_path / "nowhere", level=(50,)), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_a_model_without_its_run_is_refused(bert, run, tmp_path):
    import shutil

    shutil.copytree(run / "seed-3" / "model", tmp_path / "model")
    with pytest.raises(UsageError, match="is a model without its run, so its training data is unknown"):
        search(levels(bert, tmp_path / "model", level=(50,)), tmp_path / "out", QUIET)


@pytest.mark.parametrize("file", ["importance.json", "importance.safetensors"])
def test_an_edited_importance_is_noticed(bert, run, tmp_path, file):
    search(levels(bert, run, level=(50,)), tmp_path / "out", QUIET)
    path = tmp_path / "out" / file
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ContentError, match=r"does not match its checksums|is not valid|cannot be read"):
        Importance.load(tmp_path / "out")


def test_the_command_line(bert, run, tmp_path):
    words = ["search", bert, "--method", "importance", "--importance-from", str(run), "--level", "50%,75%"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--quiet", "--json"])
    assert done.exit_code == 0, done.output
    assert [rung["folder"] for rung in json.loads(done.stdout)["rungs"]] == ["level-50", "level-75"]
    counts = ["--heads", "1", "--ffns", "1", "--selection", "random", "--seed", "4"]
    done = CliRunner().invoke(app, [*words[:4], *counts, "--out", str(tmp_path / "r"), "--quiet"])
    assert done.exit_code == 0, done.output
    assert "1 of 4 heads and 1 of 2 ffns pruned" in done.stdout
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "r")])
    assert "  heads: 1 of 4 pruned" in done.stdout
    assert Ticket.from_pretrained(tmp_path / "r").info.seed == 4


def test_the_data_of_a_fine_tuned_model_is_where_data_dir_says(run, tmp_path):
    assert ImportanceModel.find(run, None).transfer.data_dir is None
    assert ImportanceModel.find(run, str(tmp_path)).transfer.data_dir == str(tmp_path)
