"""The twin of a masked model: the dense model, to the bit, on memory that is there anyway."""

import copy

import pytest
import torch

from samples.batches import batch_of
from samples.tiny_models import CONFIGS, make_model
from winning_tickets.models.architectures import prunable_views
from winning_tickets.models.lm_head import head_without_decoder, untie_decoder
from winning_tickets.models.loading import load_plm, prunable_names, set_dropout
from winning_tickets.models.twin import make_twin
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.training.objectives.pretraining import PretrainingObjective, run_encoder

ALL = dict.fromkeys(("mlm", "kd", "contrastive", "logits"), 1.0)


def masked_model(folder, kind="bert", head="mlm"):
    """A model of which a random half is masked, the dense weights, and a plain copy of the dense model."""
    plm = load_plm(str(make_model(folder / "m", kind, head)), head=head)
    plm.model.eval()
    dense = copy.deepcopy(plm.model)
    masked = MaskedWeights(plm.encoder, prunable_names(plm))
    generator = torch.Generator().manual_seed(1)
    masked.write(
        {name: torch.rand(weight.shape, generator=generator) > 0.5 for name, weight in masked.dense_weights.items()}
    )
    return plm, masked, dense


def outputs(model, plm, batch=None):
    with torch.no_grad():
        return run_encoder(model, batch or batch_of(), {"states", "logits"}, plm.architecture)


def storages(tensors):
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("untied", [False, True])
def test_a_twin_computes_as_the_dense_model_and_takes_no_memory(tmp_path, kind, untied):
    plm, masked, dense = masked_model(tmp_path, kind)
    if untied:
        untie_decoder(plm, masked.dense_weights[plm.architecture.word_embeddings])
    twin = make_twin(plm.model, masked.dense_weights)
    found, expected, student = (outputs(model, plm) for model in (twin, dense, plm.model))
    assert all(map(torch.equal, found.states, expected.states))
    assert torch.equal(found.logits, expected.logits)
    assert not any(map(torch.equal, student.states, expected.states))
    # Every tensor of the twin is one of the student, or of the dense weights.
    there = storages([*plm.model.parameters(), *plm.model.buffers(), *masked.dense_weights.values()])
    assert storages([*twin.parameters(), *twin.buffers()]) <= there
    for name, weight in masked.dense_weights.items():
        view = prunable_views(twin.base_model, [name])[name]
        assert view.data_ptr() == weight.data_ptr()
        assert view.shape == weight.shape
    names = {name: parameter.shape for name, parameter in dense.named_parameters(remove_duplicate=False)}
    assert {n: p.shape for n, p in twin.named_parameters(remove_duplicate=False)} == names


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_a_twin_stays_dense_while_the_student_changes(tmp_path, kind):
    plm, masked, dense = masked_model(tmp_path, kind)
    untie_decoder(plm, masked.dense_weights[plm.architecture.word_embeddings])
    twin = make_twin(plm.model, masked.dense_weights, head_without_decoder(plm))
    before = outputs(plm.model, plm).states
    masked.write({name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in masked.dense_weights.items()})
    with torch.no_grad():
        for parameter in head_without_decoder(plm).values():
            parameter.add_(1.0)
    found, expected = outputs(twin, plm), outputs(dense, plm)
    assert all(map(torch.equal, found.states, expected.states))
    assert torch.equal(found.logits, expected.logits)
    assert not any(map(torch.equal, outputs(plm.model, plm).states, before))


def test_a_step_writes_no_weight_and_may_run_the_teacher_at_any_time(tmp_path):
    plm, masked, _ = masked_model(tmp_path)
    untie_decoder(plm, masked.dense_weights[plm.architecture.word_embeddings])
    twin = make_twin(plm.model, masked.dense_weights, head_without_decoder(plm))
    tensors = [*plm.model.parameters(), *masked.dense_weights.values(), *twin.parameters()]
    versions = [tensor._version for tensor in tensors]
    objective = PretrainingObjective(ALL, plm.architecture, twin)

    def gradients(between):
        loss = sum(objective(plm.model, batch_of()).values())
        between()
        loss.backward()
        found = [p.grad.clone() for p in plm.encoder.parameters() if p.grad is not None]
        plm.model.zero_grad()
        return found

    plain = gradients(lambda: None)
    # Between the forward and the backward pass of the student.
    assert all(map(torch.equal, gradients(lambda: outputs(twin, plm)), plain))
    assert len(plain) > 10
    assert [tensor._version for tensor in tensors] == versions
    assert all(parameter.grad is None for parameter in twin.parameters())


def test_what_happens_to_the_student_later_does_not_reach_the_twin(tmp_path):
    plm, masked, dense = masked_model(tmp_path)
    older = plm.model.gradient_checkpointing_enable  # its name in older versions of transformers
    getattr(plm.model, "activation_checkpointing_enable", older)()
    outputs(plm.model, plm)  # transformers installs hooks that collect the states
    plm.encoder.compile(backend="eager")
    twin = make_twin(plm.model, masked.dense_weights)
    assert twin.config is plm.model.config
    found, own = (
        [m.gradient_checkpointing for m in each.modules() if hasattr(m, "gradient_checkpointing")]
        for each in (twin, plm.model)
    )
    assert any(own)
    assert not any(found)
    assert twin.base_model._compiled_call_impl is None
    plm.model.train()
    set_dropout(plm.model, 0.5)
    plm.encoder.encoder.layer[0].register_forward_hook(lambda module, inputs, output: output * 0)
    assert not any(module.training for module in twin.modules())
    assert all(map(torch.equal, outputs(twin, plm).states, outputs(dense, plm).states))
    set_dropout(plm.model, 0.0)
    twin.train()  # has the dropout of the checkpoint
    noisy = [outputs(twin, plm).states[-1] for _ in range(2)]
    assert not torch.equal(*noisy)


def test_the_twin_of_a_compiled_model_is_a_plain_module(tmp_path):
    plm, masked, dense = masked_model(tmp_path)
    twin = make_twin(torch.compile(plm.model, backend="eager"), masked.dense_weights)
    assert type(twin) is type(plm.model)
    assert all(map(torch.equal, outputs(twin, plm).states, outputs(dense, plm).states))


@pytest.mark.parametrize("given", [slice(None), slice(0, 2), slice(1, None)])
def test_slices_that_lie_apart_or_are_missing_are_joined(tmp_path, given):
    plm, masked, dense = masked_model(tmp_path, "modernbert")
    names = [name for name in masked.dense_weights if "Wqkv" in name and name.startswith("layers.0.")]
    masked.write(
        {
            name: torch.ones_like(weight, dtype=torch.bool)
            for name, weight in masked.dense_weights.items()
            if name not in names[given]
        }
    )
    apart = {name: masked.dense_weights[name].clone() for name in reversed(names[given])}
    twin = make_twin(plm.model, apart)
    assert all(map(torch.equal, outputs(twin, plm).states, outputs(dense, plm).states))
