"""Fine-tuning a ticket against `torch.nn.utils.prune`, which multiplies by the mask inside the graph."""

import importlib

import pytest
import torch
from torch.nn.utils import prune
from transformers import Trainer, TrainingArguments

from samples.held_models import assert_exactly_zero, batch, classifier
from samples.tickets import QUERY, make_ticket
from samples.tiny_models import make_model
from samples.tiny_tasks import task_data, tasks_fixture
from winning_tickets import Runtime, SearchConfig, Ticket, TicketCallback, TransferConfig, hold, search, transfer
from winning_tickets.runs.directory import read_log

STEPS = 20
NAMES = (QUERY, "encoder.layer.1.output.dense.weight", "embeddings.word_embeddings.weight")
transfer_module = importlib.import_module("winning_tickets.finetuning.transfer")

_tiny_tasks = tasks_fixture(lambda name: task_data(name, train=48))


def prune_in_the_graph(model, masks):
    """Each masked matrix becomes `weight_orig * weight_mask`; the optimiser moves `weight_orig`, pruned or not."""
    for name, mask in masks.items():
        module, _, parameter = name.rpartition(".")
        prune.custom_from_mask(model.base_model.get_submodule(module), parameter, mask.float())


def weights_of(model):
    """What the forward pass computes with, whichever way it was pruned."""
    found = {}
    for name, module in model.named_modules():
        for parameter in ("weight", "bias"):
            value = getattr(module, parameter, None)
            if isinstance(value, torch.Tensor):
                found[f"{name}.{parameter}"] = value.detach().clone()
    return found


def assert_the_same(found, expected):
    """But for what softmax does not see: there the gradient is nothing but rounding, which Adam makes steps of."""
    for name, value in found.items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=2e-5, msg=name)


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.1),
    "adamw, unmasked decay would show": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.9),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, lr=2e-3, weight_decay=0.01),
}


@pytest.mark.parametrize("max_norm", [None, 0.05], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_plain_loop_loses_what_one_with_torch_prune_loses(kind, max_norm):
    """Dropout is on: both draw the same numbers."""
    losses, norms, weights = {}, {}, {}
    for way in ("hold", "prune"):
        model = classifier().train()
        ticket = make_ticket(model, NAMES)
        if way == "prune":
            prune_in_the_graph(model, ticket.masks)
        optimizer = OPTIMIZERS[kind](model.parameters())
        if way == "hold":
            hold(model, ticket, optimizer)
        torch.manual_seed(1)
        losses[way], norms[way] = [], []
        for step in range(STEPS):
            loss = model(**batch(step % 3)).loss
            optimizer.zero_grad()
            loss.backward()
            limit = float("inf") if max_norm is None else max_norm
            norms[way].append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit)))
            optimizer.step()
            losses[way].append(loss.item())
        if way == "hold":
            assert_exactly_zero(model, ticket)
        else:
            model(**batch(0))  # `prune` multiplies before a forward pass, so this shows the last step
        weights[way] = weights_of(model)
    assert losses["hold"] == pytest.approx(losses["prune"], abs=1e-5)
    assert norms["hold"] == pytest.approx(norms["prune"], rel=1e-4)
    assert max_norm is None or min(norms["hold"]) > max_norm  # every step was clipped
    assert max(losses["hold"]) - min(losses["hold"]) > 5e-3  # there was something to agree on
    assert weights["hold"].keys() == weights["prune"].keys()
    assert_the_same(weights["hold"], weights["prune"])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_trainer_of_transformers_loses_what_it_loses_with_torch_prune(tmp_path, accumulation):
    """With its AdamW, warm-up, linear decay, weight decay, clipping and dropout."""
    losses, weights = {}, {}
    for way in ("callback", "prune"):
        model = classifier()
        ticket = make_ticket(model, NAMES)
        seen = losses.setdefault(way, [])

        class Recording(Trainer):
            def compute_loss(self, *args, seen=seen, **options):
                loss = super().compute_loss(*args, **options)
                seen.append(loss.item())
                return loss

        if way == "prune":
            prune_in_the_graph(model, ticket.masks)
        args = TrainingArguments(
            output_dir=str(tmp_path / way),
            max_steps=STEPS,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=accumulation,
            learning_rate=5e-3,
            warmup_steps=3,
            weight_decay=0.1,
            max_grad_norm=0.1,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            dataloader_pin_memory=False,
        )
        rows = [{key: value[i % 4] for key, value in batch(i).items()} for i in range(32)]
        callbacks = [TicketCallback(ticket)] if way == "callback" else []
        Recording(model=model, args=args, train_dataset=rows, callbacks=callbacks).train()
        if way == "callback":
            assert_exactly_zero(model, ticket)
        else:
            model(**batch(0))
        weights[way] = weights_of(model)
    assert len(losses["prune"]) == STEPS * accumulation
    assert losses["callback"] == pytest.approx(losses["prune"], abs=1e-5)
    assert_the_same(weights["callback"], weights["prune"])


@pytest.mark.parametrize("ranking", ["matrix", "global"])
def test_transfer_of_a_ticket_loses_what_transfer_of_a_torch_pruned_model_loses(tmp_path, monkeypatch, ranking):
    """The verb itself, twenty steps on a task; the second time without ticket, on a model that torch pruned."""
    quiet = Runtime(quiet=True)
    bert = str(make_model(tmp_path / "bert", head="mlm+pooler"))
    search(SearchConfig(model=bert, method="magnitude", sparsity=0.6, ranking=ranking), tmp_path / "ticket", quiet)
    masks = Ticket.from_pretrained(tmp_path / "ticket").masks
    common = {"task": "rte", "steps": STEPS, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.1}
    original, weights = transfer_module.run_training, {}

    def kept(way):
        def training(trainer, run):
            if way == "prune":
                prune_in_the_graph(trainer.model, masks)
            signal = original(trainer, run)
            if way == "prune":
                with torch.no_grad():
                    trainer.model(torch.tensor([[2, 3]]))
            weights[way] = weights_of(trainer.model)
            return signal

        return training

    logs = {}
    for way, target in (("hold", str(tmp_path / "ticket")), ("prune", bert)):
        monkeypatch.setattr(transfer_module, "run_training", kept(way))
        transfer(TransferConfig(target=target, **common), tmp_path / way, quiet)
        logs[way] = [record["loss"] for record in read_log(tmp_path / way / "seed-0") if "loss" in record]
    assert len(logs["hold"]) == STEPS
    assert logs["hold"] == pytest.approx(logs["prune"], abs=1e-5)
    assert weights["hold"].keys() == weights["prune"].keys()
    assert_the_same(weights["hold"], weights["prune"])
