"""A ticket that is held: exactly +0.0 whatever the optimizer did and wherever the model is moved, in any Trainer."""

import copy
import sys

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from transformers import Trainer, TrainingArguments

from samples.held_models import assert_exactly_zero, batch, classifier
from samples.tickets import QUERY, make_ticket
from winning_tickets import TicketCallback, hold
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets.holding import Mask, mask_gradient


def query_of(model):
    return model.base_model.get_parameter(QUERY)


def train(model, optimizer, steps=2):
    """Steps of an ordinary loop."""
    for step in range(steps):

        def closure(step=step):
            optimizer.zero_grad()
            loss = model(**batch(step)).loss
            loss.backward()
            return loss

        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()


class Named(torch.optim.Optimizer):
    """A wrapper that is an optimizer by name only, as schedule-free ones and those of accelerate are."""

    def __init__(self, base):
        self.base = base

    def step(self):
        self.base.step()

    def zero_grad(self):
        self.base.zero_grad()


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
    "wrapped": lambda p: Named(torch.optim.AdamW(p, lr=0.1, weight_decay=0.5)),
    "prepared": lambda p: Accelerator(cpu=True).prepare(torch.optim.AdamW(p, lr=0.1, weight_decay=0.5)),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_pruned_weights_stay_zero_under_any_optimizer(kind):
    model = classifier()
    ticket = make_ticket(model)
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer, 1)  # moments of pruned weights exist before the ticket is held
    held = hold(model, ticket, optimizer, allow_other_weights=True)
    before = model.classifier.weight.detach().clone()
    for _ in range(3):
        train(model, optimizer, 1)
        assert bool((query_of(model).grad[~ticket.masks[QUERY]] == 0).all())
        assert_exactly_zero(model, ticket)
    assert not torch.equal(before, model.classifier.weight)
    held.remove()
    train(model, optimizer, 1)
    assert bool((query_of(model).detach()[~ticket.masks[QUERY]] != 0).any())


def test_an_optimizer_without_hooks_is_refused_in_words():
    model = classifier()
    with pytest.raises(UsageError, match=r"Named calls no hooks after its steps; call held = hold\(model, ticket\)"):
        hold(model, make_ticket(model), Named(object()))


def test_holding_changes_no_names_and_no_classes():
    model = classifier()
    names, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    hold(model, make_ticket(model))
    assert list(model.state_dict()) == names
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("way", ["data", "overwrite", "swap"])
def test_a_held_model_is_converted(monkeypatch, way, dtype):
    """Under each of the rules by which torch converts the parameters of a module."""
    model = classifier()
    ticket = make_ticket(model)
    held = hold(model, ticket)
    before = query_of(model)
    if way != "data":
        setter = getattr(
            torch.__future__, f"set_{'overwrite' if way == 'overwrite' else 'swap'}_module_params_on_conversion"
        )
        setter(True)
        try:
            model.to(dtype)
        finally:
            setter(False)
    else:
        model.to(dtype)
    assert (query_of(model) is before) == (way != "overwrite")
    assert query_of(model).dtype == dtype
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    held.zero_()  # as after any step
    for step in range(2):
        model(**batch(step)).loss.backward()
        assert not query_of(model).grad[~ticket.masks[QUERY]].count_nonzero()
        optimizer.step()
        held.zero_()
        assert_exactly_zero(model, ticket)
        optimizer.zero_grad()


def test_masks_follow_the_model_to_another_device(monkeypatch):
    """That no devices are mixed is checked here: the parameters on `meta` are new ones, and have no memory."""
    module = sys.modules[hold.__module__]
    original, devices = module.write_masked_, []

    def checked(target, dense, mask):
        assert target.device == dense.device == mask.device
        devices.append(target.device.type)
        original(target, dense, mask)

    model = classifier()
    held = hold(model, make_ticket(model))
    monkeypatch.setattr(module, "write_masked_", checked)
    monkeypatch.setattr("winning_tickets.tickets.ticket.check_parameter", lambda *_, **__: None)  # refuses `meta`
    model.to("meta")
    held.zero_()
    (2 * query_of(model)).sum().backward()
    assert devices == ["meta"] * 3
    model.to_empty(device="cpu")
    held.zero_()
    assert devices == ["meta"] * 3 + ["cpu"] * 2


def test_the_mask_of_a_gradient_goes_to_the_device_of_the_gradient():
    moved = nn.Parameter(torch.ones(3, 2, device="meta"))
    moved.register_post_accumulate_grad_hook(mask_gradient(Mask(torch.tensor([[True, False]] * 3))))
    (2 * moved).sum().backward()
    assert moved.grad.device.type == "meta"


def test_what_was_frozen_and_is_trained_later_has_masked_gradients():
    model = classifier()
    ticket = make_ticket(model)
    model.base_model.requires_grad_(False)
    hold(model, ticket)
    assert not any(parameter.requires_grad for parameter in model.base_model.parameters())
    model.base_model.requires_grad_(True)
    model(**batch()).loss.backward()
    gradient = query_of(model).grad
    assert gradient[ticket.masks[QUERY]].count_nonzero()
    assert not gradient[~ticket.masks[QUERY]].count_nonzero()


def test_weights_that_have_the_zeros_already_need_no_permission():
    """Those of a run that resumes, or of a model whose ticket was held before."""
    model = classifier()
    ticket = make_ticket(model)
    other = classifier(seed=1)
    assert not ticket.is_applied_to(other)
    with pytest.raises(ContentError, match="The ticket was made for the weights of tiny; here .* holds other values"):
        hold(other, ticket)
    held = hold(model, ticket)
    assert ticket.is_applied_to(model)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    held.zero_()
    held.remove()
    hold(model, ticket)
    with pytest.raises(ContentError, match="holds other values"):
        ticket.apply_(model)


def test_weights_in_another_precision_and_quantized_weights_are_named():
    model = classifier()
    ticket = make_ticket(model)
    with pytest.raises(ContentError, match=r"holds other values, in torch\.bfloat16\. Load that model"):
        hold(copy.deepcopy(model).bfloat16(), ticket)
    query = model.base_model.encoder.layer[0].attention.self.query
    query.weight = nn.Parameter(query.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(ContentError, match=r"is quantized \(torch\.int8\); put the ticket on the model before"):
        hold(model, ticket)


ROWS = [{key: value[i % 4] for key, value in batch(i).items()} for i in range(12)]


def trainer(model, folder, callbacks, **options):
    args = TrainingArguments(
        output_dir=str(folder),
        **{"max_steps": 3, "save_strategy": "no"} | options,
        per_device_train_batch_size=2,
        learning_rate=0.05,
        weight_decay=0.1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return Trainer(model=model, args=args, train_dataset=ROWS, eval_dataset=ROWS, callbacks=callbacks)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_callback_holds_in_an_ordinary_trainer(tmp_path, accumulation):
    model = classifier()
    ticket = make_ticket(model)
    trainer(model, tmp_path, [TicketCallback(ticket)], gradient_accumulation_steps=accumulation).train()
    assert_exactly_zero(model, ticket)


def test_an_evaluation_before_the_training_measures_the_ticket(tmp_path):
    model = classifier()
    ticket = make_ticket(model)
    expected = trainer(ticket.apply_(copy.deepcopy(model)), tmp_path, []).evaluate()["eval_loss"]
    dense = trainer(copy.deepcopy(model), tmp_path, []).evaluate()["eval_loss"]
    measured = trainer(model, tmp_path, [TicketCallback(ticket)])
    assert measured.predict(ROWS).metrics["test_loss"] == pytest.approx(expected)
    assert measured.evaluate()["eval_loss"] == pytest.approx(expected)
    assert expected != pytest.approx(dense)


def test_a_callback_that_comes_late_does_not_measure_the_dense_model(tmp_path):
    model = classifier()
    ticket = make_ticket(model)
    late = trainer(model, tmp_path, [])
    late.add_callback(TicketCallback(ticket))
    with pytest.raises(UsageError, match=r"would measure the model without the ticket.*callbacks=\[\.\.\.\]"):
        late.evaluate()
    late.train()
    assert_exactly_zero(model, ticket)
    late.evaluate()


def test_a_trainer_trains_twice_and_then_again_in_another_one(tmp_path):
    model = classifier()
    ticket = make_ticket(model)
    callback = TicketCallback(ticket)
    first = trainer(model, tmp_path, [callback])
    for _ in range(2):
        first.train()
        assert_exactly_zero(model, ticket)
    trainer(model, tmp_path, [callback]).train()
    assert_exactly_zero(model, ticket)
    model(**batch()).loss.backward()  # no hook is left
    assert query_of(model).grad[~ticket.masks[QUERY]].count_nonzero()


def test_a_run_resumes_with_the_ticket_it_was_trained_with(tmp_path):
    ticket = make_ticket(classifier())
    trainer(classifier(), tmp_path / "held", [TicketCallback(ticket)], save_strategy="steps", save_steps=2).train()
    model = classifier()
    resumed = trainer(model, tmp_path / "held", [TicketCallback(ticket)])
    resumed.train(resume_from_checkpoint=str(tmp_path / "held" / "checkpoint-2"))
    assert resumed.state.global_step == 3
    assert_exactly_zero(model, ticket)
    # The weights of a run that was dense were not trained with the ticket.
    trainer(classifier(), tmp_path / "dense", [], save_strategy="steps", save_steps=2).train()
    checkpoint = str(tmp_path / "dense" / "checkpoint-2")
    with pytest.raises(ContentError, match="holds other values"):
        trainer(classifier(), tmp_path / "dense", [TicketCallback(ticket)]).train(resume_from_checkpoint=checkpoint)
    model = classifier()
    trainer(model, tmp_path / "dense", [TicketCallback(ticket, allow_other_weights=True)]).train(
        resume_from_checkpoint=checkpoint
    )
    assert_exactly_zero(model, ticket)


def test_each_trial_of_a_search_for_settings_holds_the_ticket(tmp_path):
    """The Trainer makes a new model for each training."""
    ticket = make_ticket(classifier())
    args = trainer(classifier(), tmp_path, []).args
    made = Trainer(
        model_init=lambda trial=None: classifier(), args=args, train_dataset=ROWS, callbacks=[TicketCallback(ticket)]
    )
    for _ in range(2):
        made.train()
        assert_exactly_zero(made.model, ticket)


def test_a_trainer_refuses_other_weights_as_soon_as_it_is_made(tmp_path):
    ticket = make_ticket(classifier())
    with pytest.raises(ContentError, match="holds other values"):
        trainer(classifier(seed=1), tmp_path, [TicketCallback(ticket)])
    trainer(classifier(seed=1), tmp_path, [TicketCallback(ticket, allow_other_weights=True)]).train()
