"""Analyses of tickets: numbers by hand on small masks, real searches on tiny models, refusals."""

import json

import pytest
import torch

from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import Runtime, SearchConfig, Ticket, compare, search, search_all
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.studies.analysis.masks import labels_of, places
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo

QUIET = Runtime(quiet=True)
similarity, distance = ANALYSES["similarity"], ANALYSES["distance"]
LAYER = "encoder.layer.0."
Q, FI = LAYER + "attention.self.query.weight", LAYER + "intermediate.dense.weight"


def ticket(masks, step=None, weights="w", **config):
    base = BaseModelInfo(name="/gone/m", model_type="bert", hash=weights, tensors={})
    info = TicketInfo(method="random", scope="encoder", config=config, applies_to=base, step=step)
    return Ticket({name: torch.tensor(mask, dtype=torch.bool) for name, mask in masks.items()}, info)


def save(path, masks, **more):
    ticket(masks, **more).save_pretrained(path)
    return path


@pytest.fixture
def pair(tmp_path):
    a = save(tmp_path / "a", {Q: [[1, 1, 0, 0]], FI: [[1, 0], [0, 0]]})
    return a, save(tmp_path / "b", {Q: [[1, 0, 1, 0]], FI: [[1, 1], [1, 1]]})


def test_similarity_by_hand(pair):
    result = similarity(pair)
    # Q: one of three; FI: one of four. Chance: 2 * 2 / 4 and 1 * 4 / 4 expected in common.
    assert result["jaccard"] == [[1.0, 2 / 7], [2 / 7, 1.0]]
    assert result["chance"][0][1] == 2 / (3 + 6 - 2)
    assert result["labels"] == ["a", "b"]
    assert result["sparsity"] == [5 / 8, 2 / 8]
    assert result["same_base"] is True
    macro = similarity(pair, average="matrix", labels=["x", "y"])
    assert macro["jaccard"][1][0] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert macro["chance"][1][0] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert macro["labels"] == ["x", "y"]
    pruned = similarity(pair, of="pruned")
    assert pruned["jaccard"][0][1] == 1 / 6
    assert pruned["chance"][0][1] == (8 - 7) / (8 - 2)


def test_similarity_agrees_with_compare_and_with_sets(tmp_path):
    generator = torch.Generator().manual_seed(0)
    paths = []
    for index, share in enumerate((0.2, 0.5, 0.9)):
        masks = {Q: torch.rand(7, 11, generator=generator) < share, FI: torch.rand(5, 3, generator=generator) < share}
        paths.append(save(tmp_path / str(index), {name: mask.tolist() for name, mask in masks.items()}))
    result, known = similarity(paths), compare(paths)
    assert result["jaccard"] == known["kept_jaccard"]
    assert result["chance"] == known["chance_kept"]
    kept = [
        {(name, i) for name, mask in ticket.masks.items() for i in mask.flatten().nonzero().flatten().tolist()}
        for ticket in map(Ticket.from_pretrained, paths)
    ]
    for i, first in enumerate(kept):
        for j, second in enumerate(kept):
            assert result["jaccard"][i][j] == len(first & second) / len(first | second)


def test_refusals_of_similarity(pair, tmp_path):
    with pytest.raises(UsageError, match="1 ticket was given, expected two or more"):
        similarity(pair[:1])
    with pytest.raises(UsageError, match="Unknown average 'macro'"):
        similarity(pair, average="macro")
    with pytest.raises(UsageError, match=r"Unknown kind of weights 'keptt'\. Did you mean 'kept'"):
        similarity(pair, of="keptt")
    with pytest.raises(UsageError, match="--labels must name each of the 2 paths differently, found: x,x"):
        similarity(pair, labels=["x", "x"])
    other = save(tmp_path / "other", {Q: [[1, 1, 0, 0]]})
    with pytest.raises(ContentError, match="have different scopes"):
        similarity([*pair, other])


def test_labels_are_as_short_as_they_can_be(tmp_path):
    paths = [tmp_path / "kd" / "sparsity-0.50", tmp_path / "mlm" / "sparsity-0.50"]
    assert labels_of(paths) == ["kd/sparsity-0.50", "mlm/sparsity-0.50"]
    assert labels_of(paths[:1]) == ["sparsity-0.50"]
    assert labels_of(["hub/a", "hub/b"]) == ["a", "b"]
    assert labels_of(["same", "same"]) == ["same", "same"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_matrix_of_every_architecture_has_its_place(tmp_path, kind):
    found = search(SearchConfig(model=str(make_model(tmp_path / "m", kind)), method="random"), tmp_path / "t", QUIET)
    where = list(places(found).values())
    assert where[0] == (None, "embeddings")
    layers = {layer for layer, _ in where[1:]}
    assert layers == set(range(len(layers)))
    for layer in layers:
        assert {kind for own, kind in where if own == layer} == {"Q", "K", "V", "AO", "FI", "FO"}


def test_matrices_of_unknown_models_are_other():
    one = ticket({"x": [[1]]})
    one.info = one.info.model_copy(update={"applies_to": one.base.model_copy(update={"model_type": "strange"})})
    assert places(one) == {"x": (None, "other")}


SEARCH = {"method": "mask-training", "steps": 6, "batch_tokens": 64, "segments": "packed:16", "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny model and searches on it: one with tickets along the way, one ladder."""
    path = tmp_path_factory.mktemp("analyse")
    (path / "corpus.txt").write_text("\n".join(TEXT))
    common = SEARCH | {"model": str(make_model(path / "m")), "corpus": str(path / "corpus.txt")}
    search(SearchConfig(**common, sparsity=0.6, save_at=(1, 4, 6)), path / "kd", QUIET)
    search_all(SearchConfig(**common, sparsity=(0.5, 0.7), save_at=(2, 7)), path / "ladder", QUIET)
    config = SearchConfig(model=common["model"], method="magnitude", sparsity=0.6)
    search(config, path / "omp", QUIET)
    return path


def test_distance_along_a_search(world):
    (one,) = distance([world / "kd"])["searches"]
    assert (one["label"], one["sparsity"], one["method"], one["objective"]) == ("kd", 0.6, "mask-training", "kd")
    points = one["checkpoints"]
    assert [point["step"] for point in points] == [1, 4, 6]  # the final ticket is that of step 6, shown once
    assert points[-1]["folder"] == str(world / "kd")
    folders = [world / "kd" / "step-000001", world / "kd" / "step-000004", world / "kd"]
    known = compare([world / "omp", *folders])["kept_jaccard"]
    assert [point["to_reference"] for point in points] == [1 - value for value in known[0][1:]]
    assert [point["to_first"] for point in points] == [1 - value for value in known[1][1:]]
    assert points[0]["to_previous"] is None
    assert [point["to_previous"] for point in points[1:]] == [1 - known[1][2], 1 - known[2][3]]
    assert points[-1]["to_reference"] > 0
    kinds = points[-1]["by_kind"]
    assert list(kinds) == ["embeddings", "Q", "K", "V", "AO", "FI", "FO"]
    a, b = Ticket.from_pretrained(world / "omp").masks, Ticket.from_pretrained(world / "kd").masks
    own = [name for name in a if name.endswith("query.weight")]
    both, either = (sum(int(op(a[n], b[n]).sum()) for n in own) for op in (torch.logical_and, torch.logical_or))
    assert kinds["Q"] == pytest.approx(1 - both / either)
    assert points[-1]["chance"] == pytest.approx(1 - 0.16 / (0.8 - 0.16), abs=1e-3)


def test_the_computed_reference_is_the_magnitude_ticket(world):
    computed = distance([world / "kd"])["searches"][0]["checkpoints"]
    given = distance([world / "kd"], reference=world / "omp")
    assert given["searches"][0]["checkpoints"] == computed
    assert given["reference"] == str(world / "omp")
    (one,) = distance([world / "omp"])["searches"]
    assert one["objective"] is None
    assert one["checkpoints"][0]["to_reference"] == 0.0


def test_a_ladder_has_one_line_a_sparsity(world):
    low, high = distance([world / "ladder"])["searches"]
    assert (low["sparsity"], high["sparsity"]) == (0.5, 0.7)
    assert [point["step"] for point in low["checkpoints"]] == [2, 6]
    assert [point["step"] for point in high["checkpoints"]] == [7, 9]
    assert high["checkpoints"][0]["to_first"] == 0.0
    omp = Ticket.from_pretrained(world / "ladder" / "sparsity-0.70")
    assert high["checkpoints"][1]["ticket_id"] == omp.id


def test_refusals_of_distance(world, tmp_path):
    with pytest.raises(UsageError, match="No search was given"):
        distance([])
    with pytest.raises(UsageError, match=r"nowhere holds no ticket; give folders made by tickets search"):
        distance([world / "nowhere"])
    alone = save(tmp_path / "alone", {"x": [[1, 0]]})
    with pytest.raises(ContentError, match=r"alone lacks its sparsity or ranking; .* --reference"):
        distance([alone])
    lost = save(tmp_path / "lost", {"x": [[1, 0]]}, sparsity=0.5, ranking="matrix")
    with pytest.raises(
        UsageError, match=r"lost was /gone/m, .*--base, or the OMP ticket with --reference\. There is no model folder"
    ):
        distance([lost])
    other = make_model(tmp_path / "other", seed=9)
    with pytest.raises(ContentError, match="was made for the weights of"):
        distance([world / "kd"], base=str(other))
    with pytest.raises(ContentError, match=r"kd/step-000001 and the reference have different scopes"):
        distance([world / "kd"], reference=alone)


def test_the_command_line(tickets, pair, world, tmp_path):
    code, out, err = tickets("compare", *pair, "--average", "matrix", "--labels", "x,y", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    for of in ("kept", "pruned"):
        same = similarity(pair, of=of, average="matrix", labels=["x", "y"])
        assert (found["labels"], found[f"{of}_jaccard"]) == (same["labels"], same["jaccard"])
        assert found[f"chance_{of}"] == same["chance"]
    code, out, err = tickets("compare", *pair)
    assert (code, err) == (0, "")
    assert out.startswith("a | b: kept 0.2857 (chance ")
    code, out, err = tickets("compare", *pair, pair[0], "--labels", "a,b,c", "--out", tmp_path / "o", "--width", "8")
    assert (code, err) == (0, "")
    assert "| b      | jaccard | 0.286 | 1.000 | 0.286 |" in out
    assert f"Saved in {tmp_path / 'o'}" in out
    table, page = (tmp_path / "o" / "table.csv").read_text(), (tmp_path / "o" / "index.html").read_text()
    assert table.startswith("ticket,value,a,b,c\na,jaccard,1.0,0.285")
    assert "Similarity of kept weights" in page
    assert 'width="226.' in (tmp_path / "o" / "figure.svg").read_text()
    pruned = tickets("compare", *pair, pair[0], "--labels", "a,b,c", "--of", "pruned", "--formats", "csv", "--force",
                     "--out", tmp_path / "o")  # fmt: skip
    assert pruned[0] == 0
    assert sorted(file.name for file in (tmp_path / "o").iterdir() if file.name[0] != ".") == [
        "analysis.json",
        "table.csv",
    ]
    assert (tmp_path / "o" / "table.csv").read_text() != table
    code, out, err = tickets("analyse", "distance", world / "kd", "--reference", world / "omp", "--out", tmp_path / "d")
    assert (code, err) == (0, "")
    assert f"Saved in {tmp_path / 'd'}" in out
    code, out, err = tickets("analyse", "distance", world / "kd", "--reference", world / "omp", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["kind"] == "distance"
    for wrong, message in (
        (["compare", pair[0]], "expected two or more"),
        (["analyse", "distances", *pair], "Did you mean 'distance'?"),
    ):
        code, out, err = tickets(*wrong)
        assert (code, out) == (2, ""), wrong
        assert message in err
        assert "Traceback" not in err
