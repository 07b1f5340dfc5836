"""Mask training on weights that are sharded over processes: the masks are those of one process."""

import dataclasses
import itertools
import math
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from samples.launch import launched
from samples.learning import corpus_of, learning, without_dropout
from samples.tiny_models import make_model
from winning_tickets import SearchConfig, ShardedMaskOptimizer
from winning_tickets.config import Runtime
from winning_tickets.models.architectures import prunable_views
from winning_tickets.models.loading import load_plm, prunable_names
from winning_tickets.models.twin import make_twin
from winning_tickets.pruning.mask_optimizer import MaskOptimizer, initial_scores
from winning_tickets.pruning.preparation import prepare_search
from winning_tickets.pruning.sharded import Shards, _check
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets import selection
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.selection import Block, Selector, groups_of, keep_top, pruned_count
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.parallel import shard_batch

pytestmark = pytest.mark.usefixtures("one_thread")  # forks
SETTINGS = SearchConfig(model="m", learning_rate=1e-3, max_grad_norm=0.5).resolved()


def whole_selection(seed, ranking):
    """Scores of three matrices with many ties, their weights, the sparsity."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"a": (7, 5), "b": (3, 4), "c": (6, 6)}
    ties = 1 + seed % 4  # distinct values of scores and weights; none are few, some are all
    scores, weights = {}, {}
    for name, shape in shapes.items():
        scores[name] = torch.randn(shape, generator=random)
        weights[name] = torch.randn(shape, generator=random)
        if seed % 3:
            scores[name] = (scores[name] * ties).round() / 7
        if seed % 2:
            weights[name] = (weights[name] * ties).round()
    return scores, weights, (0.0, 0.3, 0.5, 0.9)[seed % 4], ranking


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_selection_over_processes_is_that_of_one_tie_for_tie(tmp_path, monkeypatch, count):
    monkeypatch.setattr(selection, "_SAMPLE", 16)  # so that there are bands, which hit and miss

    def work(rank):
        torch.distributed.init_process_group("gloo")
        for seed in range(24):
            ranking = "global" if seed % 5 < 2 else "matrix"
            scores, weights, sparsity, _ = whole_selection(seed, ranking)
            rows = {name: slice(*_bounds(len(value), count, rank)) for name, value in scores.items()}
            own = {name: value[rows[name]].numel() for name, value in scores.items()}
            blocks = []
            for group in groups_of(tuple(scores), ranking):
                total = sum(scores[name].numel() for name in group)
                kept = total - pruned_count(total, sparsity)
                blocks.append(Block(1, sum(own[name] for name in group), (kept,)))
            selector = Selector(blocks, Shards(None, torch.device("cpu"), list(own.values())))
            for step in range(4):
                expected = keep_top(scores, sparsity, ranking, weights)
                here, ties = (
                    torch.cat([values[name][rows[name]].reshape(-1) for name in values]) for values in (scores, weights)
                )
                wanted = torch.cat([expected[name][rows[name]].reshape(-1) for name in scores])
                assert torch.equal(selector.select(here, ties), wanted), (seed, step)
                scores = {name: value + 0.001 * torch.randn_like(value) for name, value in _same(scores, step).items()}

    launched(tmp_path, work, count)


def _bounds(length, count, rank):
    ends = [0]
    for part in torch.arange(length).chunk(count):
        ends.append(ends[-1] + len(part))
    return ends[rank], ends[rank + 1]


def _same(scores, step):
    """The generator's next numbers are the same in all processes."""
    torch.manual_seed(step)
    return scores


@dataclasses.dataclass
class Start:
    """What both kinds of search start from."""

    plm: object
    batches: object
    scores: dict
    masks: dict


def start(config):
    """The dense model, batches, and scores and masks at the sparsity."""
    prepared = prepare_search(config, Runtime(quiet=True))
    plm = load_plm(config.model)
    names = prunable_names(plm, "encoder+embeddings")
    weights = {name: view.clone() for name, view in prunable_views(plm.encoder, names).items()}
    keep = partial(keep_top, sparsity=0.5, ranking=config.ranking, pattern=config.n_of_m)
    importance = {name: value.abs() for name, value in weights.items()}
    scores = initial_scores(importance, config.score_init or "rank", keep, config.ranking, top=0.02, seed=0)
    masks = keep_top(scores, 0.5, config.ranking, weights, pattern=config.n_of_m)
    scores.pop(plm.architecture.word_embeddings)
    for name, parameter in plm.encoder.named_parameters():
        parameter.requires_grad_(name in scores)
    return Start(plm, prepared.batches(5), scores, masks)


def train(found, teacher, optimizer, shares, factor):
    """Five steps of KD; each of the shares of a batch is computed after the other."""
    objective = PretrainingObjective({"kd": 1.0}, found.plm.architecture, teacher)
    for index in range(5):
        batch = found.batches[index]
        total = objective.counts(batch)["kd"]
        for rank, count in shares:
            loss = objective(found.plm.model, shard_batch(batch, rank, count))["kd"] / total * factor
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def alone(config, update):
    """Masks and scores that one process finds, and the norm of the last gradient."""
    found = start(config)
    masked = MaskedWeights(found.plm.encoder, list(found.masks), list(found.scores))
    teacher = make_twin(found.plm.model, masked.dense_weights)
    masked.write(found.masks)
    optimizer = MaskOptimizer(masked, found.scores, {}, update)
    train(found, teacher, optimizer, [(0, 2), (1, 2)], 1.0)
    return optimizer


def sharded(config, update, rank, expected):
    """The same by two processes, compared in each."""
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo")
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    found = start(config)
    encoder = found.plm.encoder
    teacher = make_twin(found.plm.model, {n: w.clone() for n, w in prunable_views(encoder, found.masks).items()})
    for owner in (encoder, teacher.base_model):
        for module in (owner.embeddings, *owner.encoder.layer):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    optimizer = ShardedMaskOptimizer(encoder, found.masks, found.scores, update, dense=teacher.base_model)
    held = sum(score.numel() for score in optimizer.scores.values())
    assert held == sum(score.numel() for score in found.scores.values()) // 2
    for name, rows in optimizer.masked.dense_weights.items():
        assert torch.equal(rows, teacher.base_model.get_parameter(name).to_local())
    with pytest.raises(UsageError, match=r"are sharded.* make the twin before fully_shard, and shard both"):
        make_twin(found.plm.model, {})
    train(found, teacher, optimizer, [(rank, 2)], 2.0)
    masks, scores = optimizer.whole_masks(), optimizer.whole_scores()
    # Fused AdamW rounds the last few entries of a tensor in another way than those in its middle.
    for name, score in expected.scores.items():
        torch.testing.assert_close(scores[name], score.detach(), rtol=0, atol=1e-3 * update.learning_rate)
    # So a few weights may cross the threshold.
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((masks[name] != mask).sum()) for name, mask in expected.masks().items()) <= total * 5e-4
    if update.clip == "global":
        assert float(optimizer.grad_norm) == pytest.approx(float(expected.grad_norm), rel=1e-5)
    for name, parameter in found.plm.encoder.named_parameters():
        if name in masks:
            whole = parameter.detach().full_tensor()
            assert not torch.count_nonzero(whole[~masks[name]])
            assert torch.equal(whole, expected.masked.dense_weights[name] * masks[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"clip": "global"},
        {"clip": "tensor", "rank_by": "absolute"},
        {"ranking": "global"},
        {"ranking": "global", "score_init": "plateau", "reselect_steps": 2, "threshold": "reached"},
        {"score_init": "plateau", "reselect_steps": 3, "cadence": "before", "learning_rate": 8e-3},
        {"ranking": "row"},
        {"pattern": "2:4"},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())) or "plain",
)
def test_masks_of_two_processes_are_those_of_one(tmp_path, fields):
    bert = without_dropout(make_model(tmp_path / "bert", head="mlm+pooler"))
    given = {key: fields[key] for key in ("ranking", "pattern", "score_init") if key in fields}
    config = learning(bert, "mask-training", corpus_of(tmp_path), objective="kd", sparsity=0.5, **given)
    other = {key: value for key, value in fields.items() if key not in ("pattern", "score_init")}
    update = SETTINGS.model_copy(update={**other, "pattern": config.pattern})
    expected = alone(config, update)
    first = start(config).masks
    changed = sum(int((mask != first[name]).sum()) for name, mask in expected.masks().items())
    assert changed > 20  # a search that moves nothing would prove nothing
    launched(tmp_path, lambda rank: sharded(config, update, rank, expected))


@pytest.mark.parametrize(
    ("rows", "size", "leaves"), [(5, 4, True), (6, 4, True), (3, 4, True), (4, 4, False), (5, 3, False)]
)
def test_a_process_without_rows_is_refused(rows, size, leaves):
    placement = SimpleNamespace(is_shard=lambda dimension: dimension == 0)
    parameter = MagicMock(placements=(placement,), device_mesh=SimpleNamespace(size=lambda: size))
    parameter.__len__.return_value = rows
    assert (len(torch.chunk(torch.zeros(rows, 1), size)) < size) == leaves
    refused = pytest.raises(UsageError, match=f"w has {rows} rows for {size} processes, which leaves some without any")
    with refused if leaves else nullcontext():
        _check("w", parameter)


def thresholds_of(rows, kept_at, ranking, sparsity, ranks=None):
    """The thresholds of two matrices before a search, and after a step that moves the scores."""
    torch.manual_seed(0)
    scores = {name: torch.randn(8, 4) for name in "ab"}
    masks = keep_top(scores, sparsity, ranking)
    layer = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.ones(8, 4)[rows]) for name in scores})
    masked = MaskedWeights(layer, list(scores))
    masked.write({name: mask[rows] for name, mask in masks.items()})
    fields = {"ranking": ranking, "threshold": kept_at, "reselect_steps": 2, "learning_rate": 0.5}
    update = SETTINGS.model_copy(update=fields)
    own = {name: score[rows] for name, score in scores.items()}
    optimizer = MaskOptimizer(masked, own, {}, update, ranks=None if ranks is None else ranks(masked))
    found = [optimizer.state_dict()["thresholds"].tolist()]
    for _ in range(2):
        torch.stack([parameter[::4].sum() for parameter in layer.values()]).sum().backward()
        optimizer.step()
        found.append(optimizer.state_dict()["thresholds"].tolist())
    return found


def test_thresholds_over_processes_are_those_of_one(tmp_path):
    cases = list(itertools.product(("reached", "exceeded"), ("matrix", "global"), (0.0, 0.5)))

    def shards(masked):
        return Shards(None, torch.device("cpu"), [weight.numel() for weight in masked.dense_weights.values()])

    def work(rank):
        torch.distributed.init_process_group("gloo")
        for case in cases:
            expected = thresholds_of(slice(None), *case)
            assert thresholds_of(slice(4 * rank, 4 * rank + 4), *case, shards) == expected, case
            assert (case[2] == 0.0) == (expected[0][0] == -math.inf)
            assert expected[1] == expected[0]
            assert (expected[2] == expected[1]) == (case[2] == 0.0)

    launched(tmp_path, work)


def test_the_code_of_the_docs_runs(tmp_path):
    """As it stands there, on another model."""
    page = Path(__file__).resolve().parents[2] / "docs/how_to/run_on_several_processes.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    bert = str(without_dropout(make_model(tmp_path / "bert", head="mlm+pooler")))
    assert code.count('"bert-base-uncased"') == 1
    batches = start(learning(bert, "mask-training", corpus_of(tmp_path), objective="kd", sparsity=0.6)).batches

    def work(rank):
        found = {}
        exec(code.replace("bert-base-uncased", bert), found)
        for index in range(5):
            found["step"](batches[index])
        assert found["optimizer"].steps == 5
        masks, first = found["optimizer"].whole_masks(), found["masks"]
        assert masks.keys() == first.keys()
        for name, mask in masks.items():
            assert torch.count_nonzero(~mask) == pruned_count(mask.numel(), 0.6), name
        assert sum(int((mask != first[name]).sum()) for name, mask in masks.items()) > 0
        everyone = [None, None]
        torch.distributed.all_gather_object(everyone, {name: mask.tolist() for name, mask in masks.items()})
        assert everyone[0] == everyone[1]

    launched(tmp_path, work)


def test_matrices_that_are_not_sharded_are_refused(tmp_path):
    config = learning(
        str(make_model(tmp_path / "bert")), "mask-training", corpus_of(tmp_path), objective="kd", sparsity=0.5
    )
    found = start(config)
    with pytest.raises(UsageError, match="is not sharded by rows over one dimension of processes; call fully_shard"):
        ShardedMaskOptimizer(found.plm.encoder, found.masks, found.scores, SETTINGS)
