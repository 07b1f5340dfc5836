"""Every export format of every kind of model: what can be written computes the same, all else is refused by name."""

import functools
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from samples.structured_tickets import structured_ticket
from samples.tiny_decoders import make_decoder
from samples.tiny_models import make_model
from samples.tiny_shared import make_shared
from winning_tickets import Ticket, export
from winning_tickets.data.records import METRICS_OF, Task
from winning_tickets.deploy.export import FORMATS
from winning_tickets.models.heads import load_for_task
from winning_tickets.models.loading import load_plm
from winning_tickets.models.modeling_compact import WAYS_OUT
from winning_tickets.models.onnx_runtime import load_onnx
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.saved_model import TaskInfo, save_model
from winning_tickets.training.source import open_fine_tuned

TASKS = {
    "two classes": ("classification", ("no", "yes")),
    "three classes": ("classification", ("a", "b", "c")),
    "many classes": ("classification", tuple(f"class {index}" for index in range(20))),
    "regression": ("regression", ()),
    "multi-label": ("multilabel", ("a", "b", "c")),
    "tokens": ("tokens", ("O", "B-X", "I-X")),
    "span": ("span", ()),
}
TICKETS = {"encoder": "none", "MLM": "mlm", "decoder": "decoder", "even decoder": "decoder"}  # with their base models
RUNS = (*TASKS, "decoder with classes", "super run", "shared run", "masked export", "compact export")
REFUSED = {
    **{(kind, "mask-pt"): "is not a ticket: it has no ticket.json" for kind in RUNS},
    **{(kind, "encoder"): "takes the encoder out of a transfer or share with its model" for kind in TICKETS},
    **{
        (kind, form): "--format onnx is for encoders, and .* is a decoder; use masked or compact"
        for kind in ("decoder", "even decoder", "decoder with classes")
        for form in ("onnx", "onnx-int8")
    },
    ("compact export", "compact"): "is a compact export, whose layers differ in size; start from the full model",
}
QUICK = ("two classes", "three classes", "many classes", "regression", "tokens", "span")
"""Kinds whose int8 export is always tested; the other exports to ONNX, of two seconds each, are slow tests."""
CELLS = [
    pytest.param(
        kind,
        form,
        marks=[pytest.mark.slow]
        * ("onnx" in form and (kind, form) not in REFUSED and (form == "onnx" or kind not in QUICK)),
    )
    for kind in (*TICKETS, *RUNS)
    for form in FORMATS
]
IDS = torch.tensor([[2, 9, 11, 13, 3], [2, 8, 3, 0, 0]])
REAL = IDS != 0


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Make what is exported, by kind, once; nothing is trained."""
    root = tmp_path_factory.mktemp("sources")

    @functools.cache
    def base(kind):
        return make_decoder(root / kind) if kind == "decoder" else make_model(root / kind, head=kind)

    @functools.cache
    def ticket(kind):
        return structured_ticket(base(kind), root / f"ticket-{kind}")

    def saved(folder, kind, labels, on="none"):
        task = Task("own", ("text",), labels, METRICS_OF[kind][:1], kind=kind)
        torch.manual_seed(0)
        plm = load_for_task(functools.partial(load_plm, str(base(on))), task)
        ticket(on).apply_(plm.model)
        save_model(plm, TaskInfo.of(task, 32, None, ticket(on).id, sparsity=ticket(on).sparsity), ticket(on), folder)

    @functools.cache
    def made(kind):
        out = root / kind.replace(" ", "-")
        if kind == "even decoder":
            structured_ticket(base("decoder"), out, even=True)
        elif kind in TICKETS:
            ticket(TICKETS[kind])
            return root / f"ticket-{TICKETS[kind]}"
        elif kind in TASKS:
            saved(out, *TASKS[kind])
        elif kind == "decoder with classes":
            saved(out, "classification", ("no", "yes"), "decoder")
        elif kind == "shared run":
            make_shared(out / "model", str(base("none")), ("rte", "stsb"), {"rte": ticket("none")})
        elif kind == "super run":
            saved(out / "best" / "seed-0" / "model", *TASKS["two classes"])
            (out / "best" / "seed-0" / "result.json").write_text("{}")
            best = {"level": 50.0, "folder": "super-ticket", "runs": ["best"]}
            about = {"model": "m", "task": "rte", "metric": "accuracy", "seeds": [0], "levels": [50.0]}
            (out / "config.json").write_text(json.dumps({"verb": "super", "id": "super-1", "config": {}}))
            (out / "result.json").write_text(
                json.dumps({"verb": "super", **about, "full": {}, "selections": {}, "super_ticket": best})
            )
        else:
            export(made("three classes"), kind.split()[0], out)
        return out

    return made


@torch.no_grad()
def computed(model):
    found = model.eval()(input_ids=IDS, attention_mask=REAL.long())
    named = [found[name] for name in ("logits", "start_logits", "end_logits", "last_hidden_state") if name in found]
    return [value[REAL] if value.shape[:2] == REAL.shape else value for value in named]


@pytest.mark.parametrize(("kind", "form"), CELLS)
def test_every_format_of_every_kind(tmp_path, sources, kind, form):
    source, out = sources(kind), tmp_path / "e"
    options = {"task": "rte"} if kind == "shared run" and form != "encoder" else {}
    if (kind, form) in REFUSED:
        with pytest.raises(UsageError, match=REFUSED[kind, form]):
            export(source, form, out, **options)
        assert not out.exists()
        return
    if "onnx" in form:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
    result = export(source, form, out, **options)
    if form == "mask-pt":
        return
    # What the model computes with its pruned weights at zero.
    if kind in TICKETS:
        plm = load_plm(str(sources(kind).parent / TICKETS[kind]))
        whole, again = Ticket.from_pretrained(source).apply_(plm.model), load_plm
    else:
        run = open_fine_tuned(source, **options, default="rte")
        whole, again = run.load().model, lambda folder: open_fine_tuned(folder).load()
    if form == "encoder":
        whole, again = whole.base_model if kind != "shared run" else None, load_plm
    model = (load_onnx(out) if "onnx" in form else again(str(out))).model
    assert result["bytes"] > 0
    assert result["note"].endswith(WAYS_OUT) == (form == "compact" and kind != "even decoder")
    if whole is None:  # the shared encoder has the weights of all tasks
        return
    if kind in TASKS and form != "encoder":
        labels = json.loads((out / "config.json").read_text()).get("id2label", {}).values()
        assert not TASKS[kind][1] or tuple(labels) == TASKS[kind][1]
        assert json.loads((out / "task.json").read_text())["labels"] == list(TASKS[kind][1])
    for found, expected in zip(computed(model), computed(whole), strict=True):
        if form == "onnx-int8":
            share = result["int8"]["relative_difference"]
            assert 0 < share < 0.1
            assert torch.linalg.norm(found - expected) < 0.2 * torch.linalg.norm(expected)
        else:
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    if form == "compact" and kind == "even decoder":
        AutoModelForCausalLM.from_pretrained(out)
