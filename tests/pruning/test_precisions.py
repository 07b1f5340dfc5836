"""Mask training and the fine-tuning of a ticket, however they are computed: as exact, and the same loss curve."""

import shutil
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence

from samples.launch import launched
from samples.learning import without_dropout
from samples.tiny_models import make_model
from winning_tickets import Runtime, SearchConfig, Ticket, hold
from winning_tickets.models.loading import load_plm, prunable_names
from winning_tickets.models.twin import make_twin
from winning_tickets.pruning.mask_optimizer import MaskOptimizer, rank_scores
from winning_tickets.runs import distributed
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.selection import keep_top, pruned_count
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.trainer import Callback, TicketTrainer, trainer_arguments

pytestmark = pytest.mark.usefixtures("one_thread")  # forks
STEPS, ROWS, SPARSITY = 10, 8, 0.6
SETTINGS = SearchConfig(model="m", threshold="reached", learning_rate=2e-4, clip="global").resolved()
compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler on a CPU"
)
quiet_torch = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor uses what torch deprecates


@dataclass(frozen=True)
class Way:
    """How a training is computed, and how near it must come to float32.

    Attributes:
        loss: relative difference allowed between the losses of any step.
        moved: share of the entries of a trained mask that may differ, by rounding near the threshold.
        weights: how far fine-tuned weights may be away, as a part of the way that they went.
        parts: micro-batches that each batch is cut into.
        processes: how many do the training together, each with its rows of every batch.
    """

    loss: float
    moved: float
    weights: float
    parts: int = 1
    bf16: bool = False
    compiled: bool = False
    processes: int = 1


WAYS = {
    "float32": Way(0, 0, 0),
    "bf16": Way(0.05, 5e-3, 0.25, bf16=True),
    "accumulated": Way(1e-5, 5e-4, 1e-3, parts=2),
    "accumulated by fours": Way(1e-5, 5e-4, 1e-3, parts=4),
    "two processes": Way(1e-5, 5e-4, 1e-3, processes=2),
    "compiled": Way(1e-5, 5e-4, 1e-3, compiled=True),
    "compiled bf16": Way(0.05, 5e-3, 0.25, bf16=True, compiled=True),
}
WITHOUT_GRADIENT = ("key.bias",)
"""Softmax does not see what is added to all scores: the gradient is nothing but rounding, which Adam makes steps of."""


def marks(way):
    return [pytest.mark.slow, pytest.mark.timeout(1500), compiler, quiet_torch] if way.compiled else []


WAY = [pytest.param(name, marks=marks(way), id=name) for name, way in WAYS.items()]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return without_dropout(make_model(tmp_path_factory.mktemp("models") / "bert"))


def batches(parts):
    """Texts of 4 to 17 tokens, so that micro-batches differ in how much they count; labels of three classes."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(STEPS):
        lengths = torch.randint(4, 18, (ROWS,), generator=generator).tolist()
        texts = [torch.randint(5, 60, (length,), generator=generator) for length in lengths]
        labels = torch.tensor([int(text[0]) % 3 for text in texts])
        for start in range(0, ROWS, ROWS // parts):
            chosen = texts[start : start + ROWS // parts]
            ids = pad_sequence(chosen, batch_first=True)
            attention = pad_sequence([torch.ones_like(text) for text in chosen], batch_first=True)
            made.append(
                {"input_ids": ids, "attention_mask": attention, "labels": labels[start : start + ROWS // parts]}
            )
    return made


class Losses(Callback):
    """Notes the loss of every step, and holds a ticket where there is one."""

    def __init__(self, ticket=None):
        self.ticket, self.found = ticket, []

    def on_train_begin(self, trainer):
        if self.ticket is not None:
            hold(trainer.model, self.ticket, trainer.optimizer)

    def on_step_end(self, trainer):
        self.found.append(sum(trainer.parts.values()))


def train(plm, way, folder, objective, losses, rate, **options):
    """The product's own loop on the batches above, cut up as the way says."""
    if way.compiled:
        torch.compiler.reset()
    args = trainer_arguments(
        folder,
        Runtime(device="cpu", bf16=way.bf16, torch_compile=way.compiled, quiet=True),
        max_steps=STEPS,
        gradient_accumulation_steps=way.parts,
        learning_rate=rate,
        weight_decay=0.1,
        max_grad_norm=0.0 if "build_optimizer" in options else 0.5,
    )
    trainer = TicketTrainer(
        model=plm.model,
        objective=objective,
        args=args,
        batches=batches(way.parts),
        callbacks=[losses],
        **options,
    )
    trainer.train()
    return losses.found


def dense_and_masks(plm):
    weights = MaskedWeights(plm.encoder, prunable_names(plm))
    importance = {name: weight.abs() for name, weight in weights.dense_weights.items()}
    return weights, importance, keep_top(importance, SPARSITY)


def search(bert, way, folder):
    """Losses and masks of a short KD search, whose parameters are exactly W * M at the end."""
    plm = load_plm(bert, head="mlm")
    masked, importance, masks = dense_and_masks(plm)
    teacher = make_twin(plm.model, masked.dense_weights)
    masked.write(masks)
    scores = rank_scores(importance, "matrix", 0.02)
    optimizer = MaskOptimizer(masked, scores, {}, SETTINGS)
    for parameter in set(plm.model.parameters()) - set(masked.parameters.values()):
        parameter.requires_grad_(False)
    losses = train(
        plm,
        way,
        folder,
        PretrainingObjective({"kd": 1.0}, plm.architecture, teacher),
        Losses(),
        SETTINGS.learning_rate,
        build_optimizer=lambda _: optimizer,
        save_weights=False,
    )
    found = optimizer.masks()
    for name, mask in found.items():
        parameter, dense = masked.parameters[name].detach(), masked.dense_weights[name]
        assert torch.equal(parameter.view(torch.int32), dense.view(torch.int32).masked_fill(~mask, 0))
    return losses, found


def classifier(bert):
    torch.manual_seed(0)  # of the fresh head
    return load_plm(bert, head="classification", num_labels=3)


def fine_tune(bert, way, folder):
    """Losses and weights of a fine-tuning with a ticket held, whose pruned weights are exactly +0.0 at the end."""
    plm = classifier(bert)
    _, _, masks = dense_and_masks(plm)
    base = BaseModelInfo.of(plm.encoder, bert, "bert", None, layers=None)
    ticket = Ticket(masks, TicketInfo(method="test", scope="encoder+embeddings", config={}, applies_to=base))
    losses = train(plm, way, folder, TaskObjective("classification"), Losses(ticket), 2e-3)
    parameters = dict(plm.encoder.named_parameters())
    for name, mask in ticket.masks.items():
        pruned = parameters[name].detach()[~mask]
        assert len(pruned) == pruned_count(mask.numel(), SPARSITY)
        assert not bool(pruned.view(torch.int32).any()), name
    return losses, {name: value.detach().clone() for name, value in plm.model.named_parameters()}


def computed(kind, bert, name, folder):
    """Losses and tensors of `search` or `fine_tune`, in this process or in as many as the way says.

    Of several processes every one must have come to the very same.
    """
    way, work = WAYS[name], {"search": search, "fine_tune": fine_tune}[kind]
    folder.mkdir()
    if way.processes == 1:
        return work(bert, way, folder)

    def one_of_them(rank):
        with distributed.together():
            losses, tensors = work(bert, way, folder)
        save_file({"losses": torch.tensor(losses, dtype=torch.float64)} | tensors, folder / f"rank-{rank}.safetensors")

    launched(folder, one_of_them, way.processes)
    first, *others = (load_file(folder / f"rank-{rank}.safetensors") for rank in range(way.processes))
    for other in others:
        assert all(torch.equal(value, other[key]) for key, value in first.items())
    return first.pop("losses").tolist(), first


@pytest.mark.parametrize("name", WAY)
def test_a_search_is_as_exact_and_learns_the_same(tmp_path, bert, name):
    """Counts to the entry, pruned weights +0.0 and kept ones W to the bit; masks and losses as those of float32."""
    way = WAYS[name]
    expected, expected_masks = computed("search", bert, "float32", tmp_path / "float32")
    losses, masks = computed("search", bert, name, tmp_path / "other")
    for key, mask in masks.items():
        assert mask.numel() - int(mask.sum()) == pruned_count(mask.numel(), SPARSITY), key
    assert losses == pytest.approx(expected, rel=way.loss, abs=0)
    assert expected[-1] < 0.9 * expected[0]
    start = dense_and_masks(load_plm(bert, head="mlm"))[2]
    total = sum(mask.numel() for mask in masks.values())
    differing = sum(int((mask != expected_masks[key]).sum()) for key, mask in masks.items())
    moved = sum(int((mask != start[key]).sum()) for key, mask in expected_masks.items())
    assert differing <= way.moved * total
    assert moved > 0.02 * total  # the search moved far more than that


@pytest.mark.parametrize("name", WAY)
def test_a_fine_tuning_is_as_exact_and_learns_the_same(tmp_path, bert, name):
    """With weight decay and clipping; pruned weights are +0.0 to the bit, the others those of float32."""
    way = WAYS[name]
    expected, expected_weights = computed("fine_tune", bert, "float32", tmp_path / "float32")
    losses, weights = computed("fine_tune", bert, name, tmp_path / "other")
    assert losses == pytest.approx(expected, rel=way.loss, abs=0)
    assert max(expected) - min(expected) > 0.2
    assert weights.keys() == expected_weights.keys()  # also where the encoder is compiled
    start = dict(classifier(bert).model.named_parameters())
    away, gone = 0.0, 0.0
    for key, value in weights.items():
        if not key.endswith(WITHOUT_GRADIENT):
            away += float((value - expected_weights[key]).square().sum())
            gone += float((start[key].detach() - expected_weights[key]).square().sum())
    assert away**0.5 <= way.weights * gone**0.5
