"""Results in Python: attributes, tables, HTML, data frames and figures."""

import json
import pickle
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import winning_tickets as wt
from samples.tiny_models import TEXT, make_model
from winning_tickets.report.result import Result
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.store.store import Store

DATA = [{"text": text, "label": ("animal", "home")[i % 2]} for i, text in enumerate(TEXT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("models") / "bert"))


@pytest.fixture(scope="module")
def ticket(folder):
    return wt.search(folder, method="magnitude", sparsity=0.5)


@pytest.fixture(scope="module")
def evaluated(ticket):
    return wt.evaluate(ticket, corpus=TEXT, objectives=("kd", "mlm"), segments="lines", quiet=True)


@pytest.fixture(scope="module")
def transferred(ticket):
    return wt.transfer(
        ticket, train=DATA, validation=DATA[:12], steps=2, batch_size=8, max_length=32, seeds=(3, 5), quiet=True
    )


def is_drawn(figure, *texts):
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    words = [text.get_text() for text in figure.findobj(match=lambda one: hasattr(one, "get_text"))]
    assert [text for text in texts if text not in words] == []


def test_keys_are_attributes(evaluated):
    assert evaluated.kd_loss == evaluated["kd_loss"] > 0
    assert "mlm_loss" in dir(evaluated)
    with pytest.raises(AttributeError, match="The result of evaluate has no 'kd_los'. Did you mean 'kd_loss'"):
        _ = evaluated.kd_los
    assert json.loads(json.dumps(evaluated)) == evaluated
    again = pickle.loads(pickle.dumps(evaluated))
    assert again == evaluated
    assert repr(again) == repr(evaluated)


def test_an_evaluation(evaluated, ticket):
    frame = evaluated.to_frame()
    assert list(frame.columns) == ["target", "method", "sparsity", "kd_loss", "mlm_loss", "mlm_accuracy", "tokens"]
    assert frame.loc[0, "kd_loss"] == evaluated.kd_loss
    assert frame["kd_loss"].dtype == float
    assert frame.loc[0, "sparsity"] == ticket.sparsity
    assert f" {evaluated.kd_loss:.3f} |" in repr(evaluated)
    assert "<table" in evaluated._repr_html_()
    assert f"{evaluated.mlm_loss:.3f}" in evaluated._repr_html_()
    is_drawn(evaluated.plot(), "kd loss", "mlm accuracy")


def test_a_transfer(transferred):
    frame = transferred.to_frame()
    assert frame["seed"].tolist() == [3, 5]
    assert frame["accuracy_final"].tolist() == transferred.metrics["accuracy"]["final"]["values"]
    assert set(frame["method"]) == {"magnitude"}
    assert "magnitude" in repr(transferred)
    is_drawn(transferred.plot(), "accuracy", "local: seeds (dots) and mean")


def test_a_comparison(ticket, folder):
    other = wt.search(folder, method="random", sparsity=0.5)
    found = wt.compare(ticket, other)
    assert found.names == ["magnitude 50%", "random 50%"]
    assert found.kept_jaccard[0][1] == pytest.approx(found.chance_kept[0][1], abs=0.05)
    frame = found.to_frame()
    assert frame.loc[frame["value"] == "jaccard", "random 50%"].tolist() == [found.kept_jaccard[0][1], 1.0]
    is_drawn(found.plot(), "magnitude 50%", "random 50%")
    assert wt.compare([ticket, other]) == found
    assert wt.compare([ticket, other], "matrix") == wt.compare(ticket, other, average="matrix")
    assert wt.compare(ticket, ticket).names == [f"magnitude 50% {ticket.id}"] * 2
    with pytest.raises(UsageError, match="nothing to compare: 1 ticket"):
        wt.compare(ticket)


def test_analyses_take_tickets_and_give_results(ticket, folder, tmp_path):
    other = wt.search(folder, method="random", sparsity=0.5)
    found = wt.analysis.similarity([ticket, other])
    assert isinstance(found, Result)
    assert found.labels == ["magnitude 50%", "random 50%"]
    assert len(found.to_frame()) == 4
    is_drawn(found.plot(), "magnitude 50%")
    with pytest.raises(AttributeError, match="has no attribute 'similarty'"):
        _ = wt.analysis.similarty


def test_every_analysis_is_public():
    from winning_tickets.studies.analysis.kinds import ANALYSES

    assert set(wt.analysis.__all__) == set(ANALYSES)
    assert all(getattr(wt.analysis, name) is ANALYSES[name] for name in wt.analysis.__all__)
    assert "analysis" in dir(wt)


def test_gains_of_runs_in_folders(ticket, folder, tmp_path):
    options = dict(train=DATA, validation=DATA[:12], steps=2, batch_size=8, max_length=32, quiet=True)
    wt.transfer(ticket, tmp_path / "ticket", **options)
    wt.transfer(folder, tmp_path / "dense", **options)
    found = wt.analysis.gain([tmp_path / "ticket"], [tmp_path / "dense"])
    assert found.to_frame()["gain"].tolist() == [found.mean["gain"]] * 2
    is_drawn(found.plot())


STORED = Path(__file__).resolve().parents[2] / "docs" / "results"


def test_super_tickets_and_shared_models():
    found = Result(json.loads((STORED / "super_tickets/raw/super-stsb.json").read_text()), "super")
    frame = found.to_frame()
    assert len(frame) == 1 + sum(len(levels) for levels in found.selections.values())
    assert frame.loc[0, "mean"] == found.full["rest"]["mean"]
    assert "| full " in repr(found)
    is_drawn(found.plot(), "weight remaining (%)")
    shared = Result(json.loads((STORED / "sharing/raw/shared-s1.json").read_text()), "share")
    frame = shared.to_frame()
    assert frame["task"].tolist() == [name for name in shared.tasks for _ in shared.seeds]
    first = next(iter(shared.tasks.values()))["metrics"]
    metric, kinds = next(iter(first.items()))
    assert frame.loc[0, f"{metric}_final"] == kinds["final"]["values"][0]


def test_a_measurement_has_a_table_and_a_figure(folder):
    found = wt.measure(folder, [1], [8], repeats=1, threads=1, runtime=wt.Runtime(quiet=True))
    assert found.to_frame()["flops"].tolist() == [found.shapes[0]["flops"]]
    assert f"{found.shapes[0]['flops']:,}" in repr(found)
    assert len(found.plot().axes[0].patches) == 1  # of the dense model itself


def test_other_results_are_a_row_for_each_fact_and_have_no_figure(ticket, tmp_path):
    ticket.save_pretrained(tmp_path / "ticket")
    found = wt.export(str(tmp_path / "ticket"), "masked", tmp_path / "masked")
    frame = found.to_frame().set_index("fact")["value"]
    assert frame["format"] == "masked"
    assert frame["sparsity"] == found.sparsity
    assert wt.export.__doc__.startswith("Write")
    with pytest.raises(
        UsageError, match="Results of export have no figure; those of evaluate, .*measure, shrink have one"
    ):
        found.plot()


def test_a_ticket_is_a_table_by_matrix(ticket):
    frame = ticket.to_frame()
    assert frame["matrix"].tolist() == list(ticket.masks)
    assert frame["weights"].sum() - frame["kept"].sum() == ticket.pruned
    assert frame["sparsity"].tolist() == pytest.approx(list(ticket.sparsity_by_matrix().values()))
    assert "Ticket(magnitude, sparsity=0.5" in ticket._repr_html_()
    assert "<table" in ticket._repr_html_()


def test_runs_of_a_store_are_a_frame(tmp_path):
    store = Store(tmp_path / "store")
    for name, score in (("a", 0.5), ("b", 0.75)):
        store.describe(name, "transfer", {"task": "rte"})
        with store.claim(name):
            with RunDirectory.claim(store.folder(name), "transfer", name, {"task": "rte"}) as run:
                run.finish({"score": score})
            store.seal(name)
    frame = wt.stored_runs(tmp_path / "store")
    assert frame["result.score"].tolist() == [0.5, 0.75]
    assert wt.stored_runs(tmp_path / "store", "score>0.6")["id"].tolist() == ["b"]
    with pytest.raises(UsageError, match="There is no folder .*nowhere; give a store, or"):
        wt.stored_runs(tmp_path / "nowhere")


def test_html_of_names_is_escaped():
    found = Result({"kind": "x", "note": "<script>"}, "own")
    assert "<script>" not in found._repr_html_()
