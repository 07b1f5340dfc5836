"""Sharing statistics and task shares: counts by hand, the paper's rule as the oracle, shared models, refusals."""

import json

import numpy as np
import pytest
import torch

from samples.tiny_models import make_model
from samples.tiny_shared import make_shared
from winning_tickets.models.loading import load_plm
from winning_tickets.models.structure import structure_of
from winning_tickets.pruning.importance import Importance
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.studies.analysis.shared_units import _spread
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.ticket import Ticket

sharing = ANALYSES["sharing"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A model of two layers with two heads each."""
    return make_model(tmp_path_factory.mktemp("models") / "bert", head="none")


@pytest.fixture(scope="module")
def encoder(bert):
    return load_plm(str(bert))


def ticket_of(plm, task, closed, method="importance", **base):
    """A ticket with some gates closed: `{"layers.0.heads": [1], "layers.1.ffn": [0]}`."""
    structure = structure_of(plm)
    gates = {f"layers.{i}.heads": torch.ones(2, dtype=torch.bool) for i in range(2)}
    gates |= {f"layers.{i}.ffn": torch.ones(1, dtype=torch.bool) for i in range(2)}
    for name, indices in closed.items():
        gates.setdefault(name, torch.ones(structure.intermediate_size, dtype=torch.bool))[indices] = False
    about = BaseModelInfo.of(plm.encoder, plm.name, "bert", None, layers=None).model_copy(update=base)
    source = None if task is None else f"{task}, fine-tuned with seed 0"
    info = TicketInfo(method=method, scope="encoder", config={}, applies_to=about, scores_from=source)
    return Ticket({}, info, gates=gates, structure=structure)


def importance_of(plm, heads, ffns, **about):
    values = {"heads": torch.tensor(heads, dtype=torch.float64), "ffns": torch.tensor(ffns, dtype=torch.float64)}
    names = ("sample", "token", "batch", "released")
    both = {name: {unit: value * (1 if name == "sample" else 0) for unit, value in values.items()} for name in names}
    return Importance(both, {}, structure_of(plm), {"source": "by hand"} | about)


CLOSED = {
    "rte": {"layers.0.heads": [1], "layers.1.ffn": [0]},
    "mrpc": {"layers.0.heads": [1], "layers.1.heads": [0]},
    "cola": {"layers.0.heads": [0], "layers.1.heads": [0], "layers.0.ffn": [0], "layers.1.ffn": [0]},
}
HEADS = {"rte": [[3.0, 4.0], [0.0, 2.0]], "mrpc": [[1.0, 0.0], [0.0, 1.0]], "cola": [[0.0, 5.0], [0.0, 7.0]]}
FFNS = {"rte": [[3.0], [4.0]], "mrpc": [[1.0], [0.0]], "cola": [[0.0], [0.5]]}


@pytest.fixture
def folders(encoder, tmp_path):
    for task, closed in CLOSED.items():
        ticket_of(encoder, task, closed).save_pretrained(tmp_path / task)
    return [tmp_path / task for task in CLOSED]


def add_importances(plm, folders):
    for folder in folders:
        importance_of(plm, HEADS[folder.name], FFNS[folder.name]).save(folder)


def test_counts_by_hand(folders, encoder):
    result = sharing(folders)
    assert [task["task"] for task in result["tasks"]] == ["rte", "mrpc", "cola"]
    assert [(task["heads"], task["ffns"]) for task in result["tasks"]] == [(3, 1), (2, 2), (2, 0)]
    # Heads: (0,0) rte mrpc; (0,1) cola; (1,0) rte; (1,1) all. FFNs: 0 rte mrpc; 1 mrpc.
    assert result["used_by"] == {"heads": [0, 2, 1, 1], "ffns": [0, 1, 1, 0]}
    assert result["layers"] == [
        {"layer": 0, "heads": [0, 1, 1, 0], "ffns": [0, 0, 1, 0]},
        {"layer": 1, "heads": [0, 1, 0, 1], "ffns": [0, 1, 0, 0]},
    ]
    kept = {(one["unit"], one["layer"], one["index"]): one["tasks"] for one in result["structures"]}
    assert kept == {
        ("heads", 0, 0): ["rte", "mrpc"],
        ("heads", 0, 1): ["cola"],
        ("ffns", 0, 0): ["rte", "mrpc"],
        ("heads", 1, 0): ["rte"],
        ("heads", 1, 1): ["rte", "mrpc", "cola"],
        ("ffns", 1, 0): ["mrpc"],
    }
    assert (result["union"]["heads"], result["union"]["ffns"]) == (4, 2)
    assert (result["intersection"]["heads"], result["intersection"]["ffns"]) == (1, 0)
    assert result["importance"] is None
    assert result["without_importance"] == ["rte", "mrpc", "cola"]


def test_weight_remaining_is_of_all_parameters_of_the_encoder(folders, encoder):
    result = sharing(folders)
    head, ffn = 4 * 32 * 16, 2 * 32 * 64  # four matrices of 32 x 16 a head, two of 32 x 64 an FFN
    everything = sum(parameter.numel() for parameter in encoder.encoder.parameters())
    matrices = 4 * head + 2 * ffn
    assert result["encoder"]["parameters"] == everything
    pruned = {"rte": head + ffn, "mrpc": 2 * head, "cola": 2 * head + 2 * ffn}
    for task in result["tasks"]:
        assert task["weight_remaining"] == pytest.approx(1 - pruned[task["task"]] / everything)
        assert task["kept_of_matrices"] == pytest.approx(1 - pruned[task["task"]] / matrices)
    assert result["union"]["weight_remaining"] == 1
    assert result["intersection"]["kept_of_matrices"] == pytest.approx(head / matrices)


def test_overlap_of_pairs(folders):
    first, second, third = sharing(folders)["overlap"]
    assert first["tasks"] == ["rte", "mrpc"]
    assert first["heads"] == 2 / 3
    assert first["heads_chance"] == pytest.approx(1.5 / 3.5)  # 3 * 2 / 4 in both, of 3 + 2
    assert first["ffns"] == 1 / 2
    assert second["ffns"] == 0
    assert third["heads"] == 1 / 3
    head, ffn = 4 * 32 * 16, 2 * 32 * 64
    assert first["weights"] == pytest.approx((2 * head + ffn) / (3 * head + 2 * ffn))


def test_importance_and_shares_are_those_of_the_paper(folders, encoder):
    add_importances(encoder, folders)
    result = sharing(folders)
    assert result["importance"]["definition"] == "sample"
    assert [one["task"] for one in result["importance"]["sources"]] == ["rte", "mrpc", "cola"]
    found = {(one["unit"], one["layer"], one["index"]): one for one in result["structures"]}
    for layer in range(2):
        norms = {task: np.linalg.norm(values[layer]) for task, values in HEADS.items()}
        for head in range(2):
            expected = {task: values[layer][head] / norms[task] for task, values in HEADS.items()}
            one = found["heads", layer, head]
            assert one["by_task"] == pytest.approx(expected)
            assert one["importance"] == pytest.approx(sum(expected.values()) / 3)
            total = sum(expected.values())
            share = {task: value / total for task, value in expected.items()} if total else None
            assert one["share"] == (share if share is None else pytest.approx(share))
        expected = {task: values[layer][0] / np.linalg.norm(values) for task, values in FFNS.items()}
        assert found["ffns", layer, 0]["by_task"] == pytest.approx(expected)
    assert found["heads", 1, 0]["share"] is None
    assert found["ffns", 1, 0]["by_task"]["rte"] == pytest.approx(0.8)  # 4 of (3, 4)
    nothing = sharing(folders, definition="token")["structures"]
    assert all(one["importance"] == 0 and one["share"] is None for one in nothing)


@pytest.mark.parametrize(
    ("shares", "even", "dominated"),
    [
        ([0.125] * 8, 1, 0),
        ([0.14] * 6 + [0.16, 0.0], 1, 0),  # all but one task
        ([0.18] * 5 + [0.1, 0.0, 0.0], 0, 0),  # five of eight are not more than five
        ([0.6] + [0.4 / 7] * 7, 1, 1),  # a single task has most, and the others are equal
        ([0.4, 0.4] + [0.2 / 6] * 6, 1, 1),  # two tasks together
    ],
)
def test_the_spread_of_shares(shares, even, dominated):
    values = np.array(shares).reshape(8, 1, 1)
    none = np.full((8, 1, 1), np.nan)  # of no importance to any task
    found = _spread([f"t{place}" for place in range(8)], {"heads": (none, none), "ffns": (values, values)})
    assert (found["structures"], found["even"], found["dominated"]) == (1, even, dominated)
    served = {f"t{place}": pytest.approx(8 * share) if even else None for place, share in enumerate(shares)}
    assert found["served"] == served


def test_importances_of_other_folders_and_of_levels(folders, encoder, tmp_path):
    for task in ("rte", "mrpc"):
        ticket_of(encoder, task, CLOSED[task]).save_pretrained(tmp_path / f"run-{task}" / "level-30")
        importance_of(encoder, HEADS[task], FFNS[task]).save(tmp_path / f"run-{task}")
    levels = [tmp_path / f"run-{task}" / "level-30" for task in ("rte", "mrpc")]
    assert sharing(levels)["importance"] is not None
    runs = [tmp_path / "run-rte", tmp_path / "run-mrpc"]
    assert sharing(folders[:2], importances=runs)["structures"] == sharing(levels)["structures"]
    one_alone = sharing([levels[0], folders[1]])
    assert one_alone["without_importance"] == ["mrpc"]
    assert "importance" not in one_alone["structures"][0]


def test_names(folders, encoder, tmp_path):
    assert [task["task"] for task in sharing(folders[:2], names=["a", "b"])["tasks"]] == ["a", "b"]
    for name in ("x", "y"):
        ticket_of(encoder, None, CLOSED["rte"], method="random").save_pretrained(tmp_path / name)
    assert [task["task"] for task in sharing([tmp_path / "x", tmp_path / "y"])["tasks"]] == ["x", "y"]
    with pytest.raises(UsageError, match="--names must name each of the 2 paths differently, found: a,a"):
        sharing(folders[:2], names=["a", "a"])


def test_neurons_and_whole_layers_count(encoder, tmp_path):
    ticket_of(encoder, "rte", {"layers.0.neurons": list(range(10))}).save_pretrained(tmp_path / "rte")
    other = ticket_of(encoder, "mrpc", {})
    gates = other.gates | {"layers.1.layer": torch.tensor([False])}
    Ticket({}, other.info, gates=gates, structure=other.structure).save_pretrained(tmp_path / "mrpc")
    result = sharing([tmp_path / "rte", tmp_path / "mrpc"])
    assert result["used_by"] == {"heads": [0, 2, 2], "ffns": [0, 1, 1], "neurons": [0, 10 + 64, 54]}
    assert [task["neurons"] for task in result["tasks"]] == [118, 64]


def test_a_shared_model(bert, encoder, tmp_path, tickets):
    own = {task: ticket_of(encoder, task, CLOSED[task]) for task in ("rte", "cola")}
    run = tmp_path / "run" / "seed-0"
    make_shared(run / "model", str(bert), ["rte", "mrpc", "cola"], own)
    result = sharing([run])
    assert [task["task"] for task in result["tasks"]] == ["rte", "mrpc", "cola"]
    assert [task["heads"] for task in result["tasks"]] == [3, 4, 2]
    assert result["tasks"][1]["ticket_id"] is None
    assert result["tasks"][1]["weight_remaining"] == 1
    assert result["used_by"]["heads"] == [0, 0, 3, 1]
    add = tmp_path / "importances"
    for task in ("rte", "mrpc", "cola"):
        importance_of(encoder, HEADS[task], FFNS[task]).save(add / task)
    words = ",".join(str(add / task) for task in ("rte", "mrpc", "cola"))
    code, out, _ = tickets("analyse", "sharing", run, "--importances", words, "--json", "--out", tmp_path / "out")
    assert code == 0
    assert json.loads(out)["importance"]["definition"] == "sample"
    assert (tmp_path / "out" / "structures.csv").read_text().count("\n") == 7
    for option in ({"names": ["a", "b", "c"]}, {"base": str(bert)}):
        with pytest.raises(UsageError, match=f"--{next(iter(option))} is for folders of tickets; the shared model"):
            sharing([run], **option)
    make_shared(tmp_path / "plain", str(bert), ["rte", "mrpc"], {})
    with pytest.raises(UsageError, match="has no tickets: every task uses the whole encoder"):
        sharing([tmp_path / "plain"])


def test_refusals(folders, encoder, bert, tmp_path):
    with pytest.raises(UsageError, match="There is nothing to share: 1 ticket was given, expected those of two"):
        sharing(folders[:1])
    masks = {"encoder.layer.0.output.dense.weight": torch.ones(32, 64, dtype=torch.bool)}
    single = Ticket(masks, ticket_of(encoder, "rte", {}, method="magnitude").info)
    single.save_pretrained(tmp_path / "single")
    with pytest.raises(
        ContentError, match=r"single is a ticket of single weights \(magnitude\); give tickets of heads and FFNs"
    ):
        sharing([folders[0], tmp_path / "single"])
    ticket_of(encoder, "mrpc", {}, hash="0", name="other").save_pretrained(tmp_path / "other")
    with pytest.raises(ContentError, match="other for other ones, those of other; tasks share one encoder"):
        sharing([folders[0], tmp_path / "other"])
    for name in ("gone-1", "gone-2"):
        ticket_of(encoder, name, {}, name=str(tmp_path / "moved")).save_pretrained(tmp_path / name)
    gone = [tmp_path / "gone-1", tmp_path / "gone-2"]
    with pytest.raises(UsageError, match="The parameters of the base model are counted; say where it is with --base"):
        sharing(gone)
    assert sharing(gone, base=str(bert))["used_by"]["heads"] == [0, 0, 4]


def test_refusals_of_importances(folders, encoder, tmp_path, tickets):
    add_importances(encoder, folders[:2])
    with pytest.raises(UsageError, match=r"cola has no importance.json for cola; give the --out of a tickets search"):
        sharing(folders, importances=folders)
    with pytest.raises(UsageError, match=r"needs a folder for each of rte, mrpc, cola, found 2"):
        sharing(folders, importances=folders[:2])
    with pytest.raises(UsageError, match="definition"):
        sharing(folders[:2], definition="tokn")
    importance_of(encoder, HEADS["rte"], FFNS["rte"], base_hash="0").save(tmp_path / "far")
    with pytest.raises(ContentError, match="far belongs to another encoder than the tickets, which are of"):
        sharing(folders[:2], importances=[folders[0], tmp_path / "far"])
    code, out, err = tickets("analyse", "sharing", folders[0])
    assert (code, out) == (2, "")
    assert "There is nothing to share" in err
