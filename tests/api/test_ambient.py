"""Nothing that a caller switched on or off around a call changes its result, and after the call all is as before.

The command lines of `samples.commands` are compared so in `pruning/test_same_bits.py`.
"""

import functools
import subprocess
import sys
import threading
from contextlib import nullcontext

import accelerate
import pytest
import torch
from transformers import initialization

import winning_tickets as wt
from samples.ambient_states import STATES, everything, seen
from samples.held_models import batch, classifier
from samples.tickets import make_ticket
from samples.tiny_models import TEXT, make_model
from winning_tickets.runs import ambient
from winning_tickets.runs.errors import UsageError

LABELED = [{"text": text, "label": ("animal", "home")["cat" in text]} for text in TEXT]
TRAINED = dict(corpus=TEXT, steps=2, batch_tokens=64, segments="packed:16", quiet=True)
KD = dict(objective="kd", sparsity=0.5, steps=2, batch_tokens=64, segments="packed:16", quiet=True)
DATA = dict(train=LABELED, validation=LABELED[:20], steps=2, batch_size=8, max_length=16, seeds=(0,), quiet=True)


class World:
    """A model, a ticket and a run, for verbs that need one."""

    def __init__(self, folder):
        self.model = str(make_model(folder / "bert", head="mlm+pooler"))
        self.headless = str(make_model(folder / "headless", head="none"))
        self.ticket = wt.search(self.model, folder / "ticket", method="magnitude", sparsity=0.5)
        self.other = wt.search(self.model, method="random", sparsity=0.5)
        wt.transfer(self.ticket, folder / "run", save_model=True, **DATA)
        self.run = folder / "run"
        wt.export(self.ticket, "mask-pt", folder / "masks")
        self.masks = folder / "masks" / "mask.pt"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")} | {
        path.name: path.read_bytes() for path in folder.rglob("*.onnx")
    }


def trained_with_hold(folder, around):
    """The ticket is opened and held in a state, and the loop is outside of it."""
    model = classifier()
    make_ticket(model).save_pretrained(folder)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with around():
        ticket = wt.Ticket.from_pretrained(folder)
        wt.hold(model, ticket, optimizer)
    model.eval()(**batch()).loss.backward()
    optimizer.step()
    assert ticket.is_applied_to(model)
    return [value.tolist() for value in model.parameters()]


def shrunk(w, out):
    wt.shrink(w.model, out, by="flops", speedup=1.2, importance_batches=2, repeats=1, **TRAINED)
    return files(out)


VERBS = {
    "search": lambda w, out: wt.search(w.model, corpus=TEXT, **KD).id,
    "search of low precision": lambda w, out: wt.search(w.model, corpus=TEXT, bf16=True, **KD).id,
    "search_all": lambda w, out: [
        one.id for one in wt.search_all(w.model, corpus=TEXT, **KD | {"sparsity": (0.3, 0.5)}).values()
    ],
    "evaluate": lambda w, out: wt.evaluate(
        w.ticket, corpus=TEXT, objectives=("kd", "mlm"), max_tokens=256, segments="packed:16", quiet=True
    ),
    "transfer": lambda w, out: wt.transfer(w.ticket, **DATA)["metrics"],
    "predict": lambda w, out: wt.predict(w.run, TEXT[:3]).predictions,
    "export": lambda w, out: (wt.export(w.ticket, "masked", out), files(out))[1],
    "measure": lambda w, out: [
        one["flops"]
        for one in wt.measure(w.ticket, (1,), (8,), repeats=1, threads=1, runtime=wt.Runtime(quiet=True)).shapes
    ],
    "import_mask": lambda w, out: wt.import_mask(w.masks, w.model, out).ticket_id,
    "compare": lambda w, out: wt.compare(w.ticket, w.other),
    "combine": lambda w, out: wt.combine("union", [w.ticket, w.other]).id,
    "perturb": lambda w, out: wt.perturb(w.ticket, 0.1, 3).id,
    "similarity": lambda w, out: wt.analysis.similarity([w.ticket, w.other]),
    "from_masks": lambda w, out: wt.Ticket.from_masks(w.ticket.masks, w.model).id,
    "from_pretrained": lambda w, out: wt.Ticket.from_pretrained(w.run.parent / "ticket").id,
}
SLOW_VERBS = {
    "shrink": shrunk,
    "onnx": lambda w, out: (wt.export(w.run, "onnx", out), files(out))[1],
    "fit_head": lambda w, out: wt.fit_head(w.headless, out, **TRAINED)["final"],
}
EVERY_VERB = VERBS | SLOW_VERBS


@functools.cache
def plain(world, verb, out):
    return EVERY_VERB[verb](world, out)


def check(world, verb, out, state):
    expected = plain(world, verb, world.run.parent / verb)
    with state():
        before = seen()
        found = EVERY_VERB[verb](world, out)
        after = seen()
    assert found == expected
    assert before == after


@pytest.mark.parametrize("verb", [*VERBS, *(pytest.param(verb, marks=pytest.mark.slow) for verb in SLOW_VERBS)])
def test_nothing_around_a_verb_changes_its_result(world, verb, tmp_path):
    check(world, verb, tmp_path / "out", everything)


@pytest.mark.parametrize("state", STATES)
def test_no_state_changes_a_search(world, state, tmp_path):
    check(world, "search", tmp_path / "out", STATES[state])


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", EVERY_VERB)
def test_no_state_changes_any_verb(world, verb, state, tmp_path):
    check(world, verb, tmp_path / "out", STATES[state])


@pytest.mark.parametrize("around", [torch.inference_mode, STATES["default type"], STATES["default device"]])
def test_a_ticket_that_is_held_in_a_state_is_held_outside(around, tmp_path):
    assert trained_with_hold(tmp_path, around) == trained_with_hold(tmp_path, nullcontext)


def test_a_call_that_fails_leaves_all_as_before(world):
    with everything():
        before = seen()
        with pytest.raises(UsageError, match="Could not find the model no-such-model"):
            wt.search("no-such-model", method="magnitude", sparsity=0.5)
        assert seen() == before


def test_a_model_in_memory_may_be_of_inference_mode_and_in_any_mode(world):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    def found(model):
        return wt.search(model, tokenizer=AutoTokenizer.from_pretrained(world.model), corpus=TEXT, **KD).id

    expected = found(AutoModelForMaskedLM.from_pretrained(world.model))
    with torch.inference_mode():
        made = AutoModelForMaskedLM.from_pretrained(world.model).train().requires_grad_(False)
    assert found(made) == expected
    assert made.training
    assert not any(value.requires_grad for value in made.parameters())


def test_two_verbs_in_threads_keep_the_process_neutral_until_both_have_ended():
    first, second, seen_types = threading.Event(), threading.Event(), []

    def other():
        with ambient.neutral():
            first.set()
            second.wait(10)
            seen_types.append(torch.get_default_dtype())

    with STATES["default type"]():
        with ambient.neutral():
            thread = threading.Thread(target=other)
            thread.start()
            first.wait(10)
        assert torch.get_default_dtype() == torch.float32, "the other thread is still inside"
        second.set()
        thread.join()
        assert seen_types == [torch.float32]
        assert torch.get_default_dtype() == torch.float64


@pytest.mark.parametrize(
    ("around", "what"),
    [
        (accelerate.init_empty_weights, r"Module\.register_parameter by accelerate\.big_modeling.*have no data"),
        (initialization.no_init_weights, r"torch\.nn\.init\.normal_ by transformers\.initialization.*have no data"),
    ],
)
def test_contexts_that_empty_new_models_are_refused(around, what, world):
    with around(), pytest.raises(UsageError, match=what):
        wt.search(world.model, method="magnitude", sparsity=0.5)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated:DeprecationWarning")
def test_transforms_are_refused(world):
    def call(value):
        wt.search(world.model, method="magnitude", sparsity=0.5)
        return value

    with pytest.raises(UsageError, match=r"inside a transform of torch\.func, such as vmap or grad"):
        torch.func.vmap(call)(torch.ones(2))
    with pytest.raises(UsageError, match=r"inside torch\.jit\.trace, which would change what it computes; make it"):
        torch.jit.trace(call, torch.ones(2))


@pytest.mark.slow  # the import of the compiler takes seconds
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
def test_compiled_functions_are_refused_and_settings_of_the_compiler_are_put_back(world):
    import torch._dynamo as dynamo

    def call(value):
        wt.search(world.model, method="magnitude", sparsity=0.5)
        return value + 1

    with pytest.raises(UsageError, match=r"inside a function that torch\.compile has compiled, which would change"):
        torch.compile(call, backend="eager")(torch.ones(2))
    with dynamo.config.patch(disable=True, suppress_errors=True), torch.compiler.set_stance("force_eager"):
        with ambient.neutral():
            assert not dynamo.config.disable
            assert not dynamo.config.suppress_errors
            assert dynamo.eval_frame._stance.stance == "default"
        assert dynamo.config.disable
        assert dynamo.eval_frame._stance.stance == "force_eager"


def test_every_public_function_is_protected():
    elsewhere = {"hold", "held"}  # in the class that they return
    elsewhere |= {"glue_submission"}  # as analyses
    elsewhere |= {"stored_runs"}  # computes nothing
    functions = {name for name in wt.__all__ if type(getattr(wt, name)).__name__ == "function"}
    for name in functions - elsewhere:
        assert getattr(wt, name).__code__.co_filename.endswith("contextlib.py"), name


@pytest.mark.slow
def test_the_usual_values_are_those_of_a_new_process():
    code = """if True:
        from winning_tickets.runs.ambient import _KEPT, _process_switches, _thread_switches
        import torch, torch._dynamo
        for switch in (*_process_switches(), *_thread_switches()):
            assert switch.usual is _KEPT or switch.get() == switch.usual, (switch, switch.get())
    """
    subprocess.run([sys.executable, "-c", code], check=True)
