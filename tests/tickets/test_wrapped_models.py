"""A ticket finds the encoder inside wrapped models, sentence-transformers and modules of one's own, or says why not."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModel

from samples.held_models import assert_exactly_zero, batch, classifier
from samples.launch import launched
from samples.tickets import QUERY, make_ticket
from samples.tiny_models import make_model
from winning_tickets import SearchConfig, Ticket, TicketCallback, hold, search
from winning_tickets.config import Runtime
from winning_tickets.models.encoders import find_encoder
from winning_tickets.runs.errors import ContentError, UsageError

pytestmark = pytest.mark.usefixtures("one_thread")  # forks


class Own(nn.Module):
    """An encoder somewhere inside."""

    def __init__(self, encoder):
        super().__init__()
        self.parts = nn.ModuleDict({"text": encoder})
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.parts["text"](input_ids, attention_mask).last_hidden_state
        return self.head(hidden.mean(1))


class Compiled(nn.Module):
    """Has the names of what `torch.compile` returns, which takes seconds."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module

    def forward(self, *args, **kwargs):
        return self._orig_mod(*args, **kwargs)


def really_compiled(model):
    return torch.compile(model, backend="eager")


def inside(model, wrap):
    layers = model.base_model.encoder.layer
    for index, layer in enumerate(layers):
        layers[index] = wrap(layer)
    return model


WRAPPERS = {
    "data parallel": nn.DataParallel,
    "compiled": Compiled,
    "compiled inside": lambda model: inside(model, Compiled),
    "twice": lambda model: nn.DataParallel(Compiled(model)),
    "sequence": lambda model: nn.Sequential(model),
    "shared": lambda model: nn.ModuleList([model, model]),
    "really compiled": really_compiled,
    "really compiled inside": lambda model: inside(model, really_compiled),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if "really" in kind else []) for kind in WRAPPERS]
)
def test_a_ticket_is_held_on_a_wrapped_model(kind):
    model = classifier()
    ticket = make_ticket(model)
    wrapped = WRAPPERS[kind](model)
    assert ticket.masks_on(wrapped).keys() == ticket.masks.keys()
    ticket.apply_(copy.deepcopy(wrapped))
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.1, weight_decay=0.5)
    hold(wrapped, ticket, optimizer)
    for step in range(2):
        call = wrapped[0] if kind in ("sequence", "shared") else wrapped
        call(**batch(step)).loss.backward()
        encoder = find_encoder(wrapped, ticket.masks).parameters
        assert not encoder[QUERY].grad[~ticket.masks[QUERY]].count_nonzero()
        optimizer.step()
        optimizer.zero_grad()
        for name, mask in ticket.masks.items():
            assert not encoder[name].detach().view(torch.int32)[~mask].count_nonzero()
            assert encoder[name].detach()[mask].count_nonzero()


def test_the_encoder_in_a_module_of_ones_own():
    model = classifier()
    ticket = make_ticket(model)
    own = Own(model.base_model)
    optimizer = torch.optim.AdamW(own.parameters(), lr=0.1, weight_decay=0.5)
    hold(own, ticket, optimizer)
    own(batch()["input_ids"]).sum().backward()
    assert not model.base_model.get_parameter(QUERY).grad[~ticket.masks[QUERY]].count_nonzero()
    optimizer.step()
    assert_exactly_zero(model, ticket)


def test_two_encoders_or_none_are_named():
    student, teacher = classifier(), classifier()
    ticket = make_ticket(student)
    both = nn.ModuleDict({"student": student, "teacher": teacher})
    with pytest.raises(
        ContentError,
        match=r"has 2 encoders that the ticket fits, student\.bert and teacher\.bert; give one of them, such as "
        r"model\.student\.bert\.",
    ):
        hold(both, ticket)
    hold(both["student"], ticket)
    assert not ticket.is_applied_to(teacher)
    for other in (
        nn.Linear(3, 3),
        nn.Sequential(),
        nn.ModuleDict({"bert": nn.ModuleDict({"pooler": nn.Linear(2, 2)})}),
    ):
        with pytest.raises(ContentError, match=r"The ticket masks .*, which this model does not have; is it another"):
            hold(other, ticket)


def test_a_model_is_not_taken_for_an_encoder_within_it():
    """The model itself comes first, whatever it holds besides."""
    model = classifier().base_model
    ticket = make_ticket(model)
    model.add_module("teacher", copy.deepcopy(model))
    hold(model, ticket)
    assert model.get_parameter(QUERY).detach()[~ticket.masks[QUERY]].count_nonzero() == 0
    assert model.teacher.get_parameter(QUERY).detach()[~ticket.masks[QUERY]].count_nonzero()


def test_flattened_parameters_are_refused_in_words():
    class FullyShardedDataParallel(nn.Module):
        """Named like the first kind of FSDP, which needs a process group."""

        def __init__(self, module):
            super().__init__()
            self._fsdp_wrapped_module = module

    model = classifier()
    with pytest.raises(
        UsageError, match=r"has flattened the model's matrices.*use torch\.distributed\.fsdp\.fully_shard"
    ):
        hold(FullyShardedDataParallel(model), make_ticket(model))


def loss_of(model, rank):
    ids = batch(rank)["input_ids"]
    found = model(input_ids=ids)
    return found.last_hidden_state.square().mean() + found.pooler_output.sum()


def test_ddp_and_sharded_models_over_processes(tmp_path):
    """Hold before and after `fully_shard`; after wrapping with DDP. The weights are those of every process."""
    encoder = classifier().base_model.eval()
    ticket = make_ticket(encoder)

    def work(rank):
        from torch.distributed.fsdp import fully_shard

        torch.distributed.init_process_group("gloo")
        found = {}
        for way in ("ddp", "after", "before"):
            model = copy.deepcopy(encoder)
            if way == "before":
                held = hold(model, ticket)
            if way == "ddp":
                model = nn.parallel.DistributedDataParallel(model)
            else:
                for layer in model.encoder.layer:
                    fully_shard(layer)
                fully_shard(model)
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
            if way != "before":
                assert not ticket.is_applied_to(model)
                hold(model, ticket, optimizer)
            assert ticket.is_applied_to(model)
            for step in range(3):
                loss_of(model, rank).backward()
                gradient = find_encoder(model, ticket.masks).parameters[QUERY].grad
                whole = gradient.full_tensor() if way != "ddp" else gradient
                if way != "before" or step:  # the parameters are other ones since it was held
                    assert not whole[~ticket.masks[QUERY]].count_nonzero()
                optimizer.step()
                if way == "before":
                    held.zero_()
                optimizer.zero_grad()
            parameters = find_encoder(model, ticket.masks).parameters
            found[way] = {
                name: (parameters[name].full_tensor() if way != "ddp" else parameters[name]).detach()
                for name in ticket.masks
            }
            for name, mask in ticket.masks.items():
                assert not found[way][name].contiguous().view(torch.int32)[~mask].count_nonzero()
                assert found[way][name][mask].count_nonzero()
        for name, value in found["ddp"].items():
            torch.testing.assert_close(found["after"][name], value, atol=1e-5, rtol=1e-4)
        torch.distributed.destroy_process_group()

    launched(tmp_path, work)


@pytest.fixture
def found(tmp_path):
    """The folder of an encoder, and a ticket of it."""
    model = make_model(tmp_path / "m", head="none")
    search(SearchConfig(model=str(model), method="magnitude", sparsity=0.6), tmp_path / "t", Runtime(quiet=True))
    return model, Ticket.from_pretrained(tmp_path / "t")


@pytest.mark.ecosystem
def test_a_sentence_transformer_and_its_trainer(tmp_path, found):
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed"
    )
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    folder, ticket = found
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    expected = ticket.apply_(AutoModel.from_pretrained(folder)).state_dict()
    rows = {"one": ["the cat sat", "a dog ran"] * 4, "other": ["a dog", "the hill"] * 4, "score": [0.1, 0.9] * 4}
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model=model,
        args=sentence_transformers.SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "run"), max_steps=2, learning_rate=0.01, weight_decay=0.5, report_to="none",
            use_cpu=True, disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_dict(rows),
        loss=CosineSimilarityLoss(model),
        callbacks=[TicketCallback(ticket)],
    )  # fmt: skip
    parameters = ticket.encoder_of(model).parameters
    for name in ticket.masks:
        assert torch.equal(parameters[name], expected[name])
    trainer.train()
    for name, mask in ticket.masks.items():
        assert not parameters[name].detach().view(torch.int32)[~mask].count_nonzero()
    assert not torch.equal(parameters[QUERY], expected[QUERY])


@pytest.mark.ecosystem
def test_a_cross_encoder(found):
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed"
    )
    folder, ticket = found
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", num_labels=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    hold(model, ticket, optimizer)
    before = ticket.encoder_of(model).parameters[QUERY].detach().clone()
    tokens = model.tokenizer(["the cat"], ["a dog"], return_tensors="pt")
    model(dict(tokens))["scores"].sum().backward()
    optimizer.step()
    parameters = ticket.encoder_of(model).parameters
    for name, mask in ticket.masks.items():
        assert not parameters[name].detach().view(torch.int32)[~mask].count_nonzero()
    assert not torch.equal(parameters[QUERY], before)
