"""A ticket under LoRA: base weights stay masked, adapters are masked with them, and merging keeps the zeros."""

import copy

import pytest
import torch

from samples.held_models import batch, classifier
from samples.tickets import QUERY, make_ticket
from winning_tickets import TicketCallback, hold
from winning_tickets.models.given import GivenModel
from winning_tickets.runs.errors import ContentError, UsageError

VALUE = QUERY.replace("query", "value")


@pytest.fixture
def peft(library):
    return library("peft")


@pytest.fixture
def ticket():
    return make_ticket(classifier())


def adapted(peft, targets=("query", "value"), **settings):
    """A classifier with LoRA, whose adapters add something from the start."""
    torch.manual_seed(1)
    settings = {"r": 4, "task_type": "SEQ_CLS", "init_lora_weights": False} | settings
    return peft.get_peft_model(classifier(), peft.LoraConfig(target_modules=list(targets), **settings))


def train(model, optimizer, steps=3):
    model.train()
    for step in range(steps):
        model(**batch(step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model.eval()(**batch(9)).logits


@pytest.mark.parametrize("settings", [{}, {"lora_dropout": 0.3}, {"lora_bias": True, "bias": "lora_only"}])
def test_merging_keeps_the_zeros_and_the_function(peft, ticket, settings):
    model = adapted(peft, **settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    hold(model, ticket, optimizer)
    before = logits(model)
    train(model, optimizer)
    assert ticket.is_applied_to(model)
    trained = logits(model)
    assert not torch.allclose(before, trained)
    merged = model.merge_and_unload()
    assert ticket.is_applied_to(merged)
    torch.testing.assert_close(logits(merged), trained, atol=1e-6, rtol=1e-5)
    weight = merged.bert.get_parameter(QUERY)
    kept = ticket.masks[QUERY]
    assert (weight != classifier().bert.get_parameter(QUERY))[kept].float().mean() > 0.9, "the adapter is in it"


def test_without_hold_the_adapters_fill_the_zeros(peft, ticket):
    """The test above can fail."""
    merged = ticket.apply_(adapted(peft)).merge_and_unload()
    assert not ticket.is_applied_to(merged)


def test_gradients_are_those_of_the_masked_sum(peft, ticket):
    model = adapted(peft)
    hold(model, ticket)
    model.eval()(**batch(0)).loss.backward()
    layer = model.base_model.model.bert.encoder.layer[0].attention.self.query
    a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
    plain = classifier()
    ticket.apply_(plain)
    names = [name for name in ticket.masks if name.endswith(("query.weight", "value.weight"))]
    for name in names:
        adapter = model.base_model.model.bert.get_submodule(name.removesuffix(".weight"))
        scaled = adapter.scaling["default"] * adapter.lora_B["default"].weight @ adapter.lora_A["default"].weight
        plain.bert.get_parameter(name).data.add_(scaled.detach() * ticket.masks[name])
    plain.eval()(**batch(0)).loss.backward()
    of_matrix = plain.bert.get_parameter(QUERY).grad * ticket.masks[QUERY] * layer.scaling["default"]
    torch.testing.assert_close(a.grad, b.detach().T @ of_matrix, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(b.grad, of_matrix @ a.detach().T, atol=1e-6, rtol=1e-4)


def test_dense_adapters_if_asked_for(peft, ticket):
    dense, masked = adapted(peft), adapted(peft)
    hold(dense, ticket, mask_adapters=False)
    held = hold(masked, ticket)
    assert not torch.allclose(logits(dense), logits(masked))
    held.remove()
    assert ticket.is_applied_to(masked.merge_and_unload()), "what was trained is what is merged"


def test_holding_twice_masks_once(peft, ticket):
    model = adapted(peft)
    hold(model, ticket)
    once = logits(model)
    hold(model, ticket)
    layer = model.base_model.model.bert.encoder.layer[0].attention.self.query
    assert len(layer.lora_B["default"]._forward_hooks) == 1
    torch.testing.assert_close(logits(model), once)


def test_a_copy_has_adapters_of_its_own(peft, ticket):
    model = adapted(peft)
    hold(model, ticket)
    before = logits(model)
    other = copy.deepcopy(model)
    for name, parameter in other.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(3)
    assert not torch.allclose(logits(other), before)
    torch.testing.assert_close(logits(model), before)
    changed = logits(other)
    merged = other.merge_and_unload()
    assert ticket.is_applied_to(merged)
    torch.testing.assert_close(logits(merged), changed, atol=1e-6, rtol=1e-5)


def test_disabled_adapters_leave_the_ticket(peft, ticket):
    model = adapted(peft)
    hold(model, ticket)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), logits(ticket.apply_(classifier())))


def test_an_adapter_on_a_masked_embedding_is_refused(peft, ticket):
    with pytest.raises(UsageError, match=r"word_embeddings.weight would fill .* mask_adapters=False"):
        hold(adapted(peft, targets=["word_embeddings"]), ticket)
    hold(adapted(peft, targets=["word_embeddings"]), ticket, mask_adapters=False)


def test_in_a_trainer(peft, ticket, tmp_path):
    from transformers import Trainer, TrainingArguments

    model = adapted(peft)
    rows = [{name: value[row] for name, value in batch(0).items()} for row in range(4)]
    settings = TrainingArguments(
        tmp_path, max_steps=2, learning_rate=0.01, report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no"
    )
    trainer = Trainer(model, settings, train_dataset=rows, eval_dataset=rows, callbacks=[TicketCallback(ticket)])
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after != before
    merged = model.merge_and_unload().eval()
    assert ticket.is_applied_to(merged)
    with torch.no_grad():
        assert merged(**batch(0)).loss.item() == pytest.approx(after, rel=1e-5)


OTHERS = {
    "AdaLora": dict(init_r=4, target_r=2, total_step=20, tinit=1, tfinal=5),
    "LoHa": dict(r=4),
    "LoKr": dict(r=4),
    "Vera": dict(r=4),
    "OFT": dict(oft_block_size=8, r=0),
    "BOFT": dict(boft_block_size=4),
    "FourierFT": dict(n_frequency=10),
    "HRA": dict(r=4),
}


def with_other(peft, kind, model=None):
    config = getattr(peft, f"{kind}Config")(target_modules=["query"], task_type="SEQ_CLS", **OTHERS[kind])
    return peft.get_peft_model(classifier() if model is None else model, config)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_adapters_are_refused_by_name_or_stay_dense(peft, ticket, kind):
    refusal = rf"{QUERY} has an adapter that cannot be masked \(peft\.tuners\.{kind.lower()}\.layer\.\w+\), so a merged"
    with pytest.raises(ContentError, match=refusal):
        hold(with_other(peft, kind), ticket)
    hold(with_other(peft, kind), ticket, mask_adapters=False)
    plain = classifier()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01)
    hold(plain, ticket, optimizer)
    model = with_other(peft, kind, plain)
    with pytest.raises(ContentError, match=refusal):
        train(model, optimizer, steps=1)
    with pytest.raises(UsageError, match=r"has LoRA or other adapters \(peft\..*give the model after merge_and_unload"):
        GivenModel.of(with_other(peft, kind))


@pytest.mark.parametrize("variant", [{"use_dora": True}, {"use_rslora": True}, {"target_parameters": ["query.weight"]}])
def test_kinds_of_lora_and_ia3_keep_the_zeros(peft, ticket, variant):
    targets = [] if "target_parameters" in variant else ["query", "value"]
    ia3 = peft.IA3Config(target_modules=["query", "output.dense"], feedforward_modules=["output.dense"])
    for model in (adapted(peft, targets, **variant), peft.get_peft_model(classifier(), ia3)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        hold(model, ticket, optimizer)
        trained = logits(train(model, optimizer))
        merged = model.merge_and_unload()
        assert ticket.is_applied_to(merged)
        torch.testing.assert_close(logits(merged), trained, atol=1e-6, rtol=1e-5)


def test_another_variant_of_lora_is_refused(peft, ticket):
    settings = peft.VeloraConfig() if hasattr(peft, "VeloraConfig") else None
    if settings is None:
        pytest.skip("this version of PEFT has no such variant")
    with pytest.raises(ContentError, match=r"cannot be masked \(.*lora\.layer\.Linear, .*\.VeloraLinearVariant\)"):
        hold(adapted(peft, velora_config=settings), ticket)


def test_lora_that_comes_later_is_masked_from_then_on(peft, ticket):
    plain = classifier()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01)
    held = hold(plain, ticket, optimizer)
    model = peft.get_peft_model(plain, peft.LoraConfig(target_modules=["query"], r=4))
    model.add_adapter("second", peft.LoraConfig(target_modules=["query"], r=2, init_lora_weights=False))
    train(model, optimizer, steps=1)
    model.add_adapter("third", peft.LoraConfig(target_modules=["query"], r=2, init_lora_weights=False))
    held.zero_()
    model.set_adapter("third")
    assert ticket.is_applied_to(model.merge_and_unload())


@pytest.mark.parametrize(
    ("settings", "kind"),
    [({"modules_to_save": ["query"]}, "ModulesToSaveWrapper"),
     ({"trainable_token_indices": {"word_embeddings": [1]}}, "TrainableTokensWrapper")],
)  # fmt: skip
def test_copies_of_held_matrices_are_refused(peft, ticket, settings, kind):
    with pytest.raises(ContentError, match=rf"{kind}, on which no ticket .* Leave that module out of the adapter's"):
        hold(adapted(peft, ["value"], **settings), ticket)


def test_prompts_leave_the_ticket(peft, ticket):
    model = peft.get_peft_model(classifier(), peft.PromptTuningConfig(num_virtual_tokens=2, task_type="SEQ_CLS"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    hold(model, ticket, optimizer)
    train(model, optimizer, steps=1)
    assert ticket.is_applied_to(model)
