"""Gates of heads, FFNs, neurons and layers that are trained, against a plain loop with gates that autograd knows."""

import json
import signal
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from samples.batches import plain
from samples.learning import Killed, corpus_of, killed_after
from samples.structures import IDS, PADDED, SEPARATE, tiny_plm
from samples.tiny_models import make_model
from winning_tickets import EvaluateConfig, Runtime, SearchConfig, Ticket, evaluate, search, search_all
from winning_tickets.cli import app
from winning_tickets.config import Pattern
from winning_tickets.config.structured import GateTraining
from winning_tickets.models.structure import UNITS, count_units, gated, structure_of
from winning_tickets.models.twin import make_twin
from winning_tickets.pruning import structured
from winning_tickets.pruning.importance import close_gates
from winning_tickets.pruning.mask_optimizer import MaskOptimizer
from winning_tickets.pruning.preparation import prepare_search
from winning_tickets.pruning.search import check_search
from winning_tickets.pruning.structured import GateParameters, close_by_level, gate_scores
from winning_tickets.runs.errors import Interrupted, UsageError
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.ticket import search_settings_of
from winning_tickets.training.objectives.pretraining import PretrainingObjective

QUIET = Runtime(quiet=True)
COUNTS = {"heads": 2, "ffns": 1, "neurons": 40}


@pytest.fixture
def bert(tmp_path):
    return str(make_model(tmp_path / "bert", head="mlm+pooler"))


@pytest.fixture
def corpus(tmp_path):
    return corpus_of(tmp_path)


def gates_of(model, corpus, **fields):
    defaults = {"steps": 6, "batch_tokens": 64, "segments": "packed:16", "learning_rate": 2e-3}
    given = any(name in fields for name in ("level", "units", "prune_heads", "prune_neurons"))
    level = {} if given else {"prune_heads": (2,), "prune_ffns": (1,), "prune_neurons": (40,)}
    return SearchConfig.of(model=model, corpus=corpus, **(defaults | level | fields))


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def plainly_gated(plm, gates):
    """Multiplies by gates that autograd knows, at places found without `Structure`."""
    handles = []
    for index, roles in enumerate(plm.architecture.layer_matrices(plm.encoder)):
        context, ffn = (plm.encoder.get_submodule(roles[role][0].removesuffix(".weight")) for role in ("AO", "FO"))
        size = context.in_features // plm.encoder.config.num_attention_heads
        found = {unit: gates.get(f"layers.{index}.{gate}") for unit, gate in UNITS.items()}

        def before_context(module, inputs, heads=found["heads"], layer=found["layers"], size=size):
            states = inputs[0]
            if heads is not None:
                states = states * heads.repeat_interleave(size)
            return (states if layer is None else states * layer,)

        def before_ffn(module, inputs, neurons=found["neurons"]):
            return (inputs[0] if neurons is None else inputs[0] * neurons,)

        def after_ffn(module, inputs, output, ffn=found["ffns"], layer=found["layers"]):
            for gate in (ffn, layer):
                output = output if gate is None else output * gate
            return output

        handles += [context.register_forward_pre_hook(before_context), ffn.register_forward_pre_hook(before_ffn)]
        handles.append(ffn.register_forward_hook(after_ffn))
    yield
    for handle in handles:
        handle.remove()


def plain_kd(plm, batch, gates):
    """1 - cosine over layers and unpadded tokens, summed; the teacher has no gates at all."""

    def states():
        return plm.encoder(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)

    with torch.no_grad():
        theirs = states().hidden_states[1:]
    with plainly_gated(plm, gates):
        ours = states().hidden_states[1:]
    distance = sum(1 - torch.cosine_similarity(a, b, dim=-1) for a, b in zip(ours, theirs, strict=True)) / len(ours)
    return (distance * batch["attention_mask"]).sum()


def closed_by_sorting(scores, counts, min_heads=0):
    """The oracle of the selection: one unit after the other goes, unless it must stay."""
    gates = {name: torch.ones(values.shape, dtype=torch.bool) for name, values in scores.items()}
    for unit, count in counts.items():
        names = [name for name in scores if name.endswith(f".{UNITS[unit]}")]
        found = [
            (value, -place, -index, name, index)
            for place, name in enumerate(names)
            for index, value in enumerate(scores[name].tolist())
        ]
        for _, _, _, name, index in sorted(found):
            if count and not (unit == "heads" and _among_highest(scores[name], index, min_heads)):
                gates[name][index] = False
                count -= 1
    return gates


def _among_highest(values, index, number):
    listed = values.tolist()
    order = sorted(range(len(listed)), key=lambda i: (-listed[i], i))
    return index in order[:number]


@pytest.mark.parametrize("kind", SEPARATE)
@pytest.mark.parametrize("units", [("heads", "ffns", "neurons"), ("layers", "heads")])
def test_the_gradient_of_scores_is_that_of_real_gates_closed_ones_included(kind, units):
    plm = tiny_plm(kind)
    plm.model.requires_grad_(False)
    structure = structure_of(plm)
    counts = {"heads": 5, "ffns": 1, "neurons": 70, "layers": 1}
    counts = {unit: counts[unit] for unit in units}
    parameters = GateParameters(structure, units).double()
    named = dict(parameters.named_parameters())
    masked = MaskedWeights(parameters, list(named))
    generator = torch.Generator().manual_seed(4)
    scores = {name: torch.rand(gate.shape, generator=generator) for name, gate in named.items()}
    update = SearchConfig(model="m", level=(50,)).resolved().as_masks()
    choose = partial(close_by_level, structure=structure, counts=counts, min_heads_per_layer=0)
    optimizer = MaskOptimizer(masked, scores, {}, update, choose=choose)
    batch = {"input_ids": IDS, "attention_mask": PADDED}
    objective = PretrainingObjective({"kd": 1.0}, plm.architecture, make_twin(plm.model, {}))
    with gated(plm.encoder, structure, named):
        objective(plm.model, batch)["kd"].backward()

    real = {name: gate.double().requires_grad_() for name, gate in closed_by_sorting(scores, counts).items()}
    plain_kd(plm, batch, real).backward()
    found = {}
    optimizer._inner.step = lambda: found.update({n: score.grad.clone() for n, score in optimizer.scores.items()})
    optimizer.step()
    reached = 0
    for name, gate in real.items():
        assert torch.equal(named[name].bool(), gate.bool())
        scale = gate.grad.abs().max()
        reached += int((gate.grad[gate == 0] != 0).sum())
        torch.testing.assert_close(found[name].double(), gate.grad, rtol=1e-4, atol=1e-5 * float(scale) + 1e-9)
    assert reached >= 3


@pytest.mark.parametrize("min_heads", [0, 1])
@pytest.mark.parametrize("schedule", [{}, {"warmup_steps": 2, "weight_decay": 0.1, "clip": "global"}])
def test_a_search_is_a_plain_loop_over_scores(bert, corpus, tmp_path, min_heads, schedule):
    steps = 6
    config = gates_of(bert, corpus, save_at=tuple(range(1, steps + 1)), min_heads_per_layer=min_heads, **schedule)
    search(config, tmp_path / "out", QUIET)
    prepared = prepare_search(config, QUIET)
    plm, structure = prepared.plm, structure_of(prepared.plm)
    plm.model.eval().requires_grad_(False)
    batches = prepared.batches(
        prepared.config.total_steps, predicts=False, masked_tokens=prepared.config.kd_masked_tokens
    )
    importances = structured._start_importances(prepared, structure, batches, QUIET)
    scores = gate_scores(importances, "rank", COUNTS, structure, min_heads_per_layer=min_heads, top=0.02, seed=0)
    scores = {name: torch.nn.Parameter(value.clone()) for name, value in scores.items()}
    optimizer = torch.optim.AdamW(scores.values(), lr=2e-3, weight_decay=config.weight_decay or 0.0)
    warmup = config.warmup_steps or 0
    changed, open_now = set(), closed_by_sorting(scores, COUNTS, min_heads)
    for step, record in enumerate(logged(tmp_path / "out"), start=1):
        gates = {name: gate.float().requires_grad_() for name, gate in open_now.items()}
        batch = plain(batches[step - 1])
        loss = plain_kd(plm, batch, gates) / batch["attention_mask"].sum()
        loss.backward()
        assert record["kd"] == pytest.approx(float(loss.detach()), rel=1e-4)
        norm = torch.stack([gate.grad.norm() for gate in gates.values()]).norm()
        for name, score in scores.items():
            score.grad = gates[name].grad * (min(1.0, 1.0 / float(norm)) if config.clip == "global" else 1.0)
        done = step - 1
        factor = done / warmup if done < warmup else (steps - done) / (steps - warmup)
        assert record["learning_rate"] == pytest.approx(2e-3 * factor)
        optimizer.param_groups[0]["lr"] = 2e-3 * factor
        optimizer.step()
        expected = closed_by_sorting(scores, COUNTS, min_heads)
        ticket = Ticket.from_pretrained(tmp_path / "out" / f"step-{step:06d}")
        assert ticket.gates.keys() == expected.keys()
        # Another formula rounds differently, which may exchange units whose scores are all but equal, but no others.
        for unit in COUNTS:
            names = [name for name in expected if name.endswith(f".{UNITS[unit]}")]
            exchanged = torch.cat([scores[n].detach()[ticket.gates[n] != expected[n]] for n in names])
            assert not exchanged.numel() or exchanged.max() - exchanged.min() < 1e-6, (step, unit)
        open_now = ticket.gates
        pruned = {unit: units["pruned"] for unit, units in count_units(ticket.gates, structure).items()}
        assert pruned == COUNTS
        assert ticket.info.step == step
        changed.add(record["changed_gates"])
    assert record["step"] == steps
    assert max(changed) > 2


@pytest.mark.parametrize("objective", ["kd", "mlm", "kd+mlm:0.5"])
def test_a_ticket_has_gates_alone_and_lowers_the_loss_it_was_trained_on(bert, corpus, tmp_path, objective):
    def ticket_of(name, **fields):
        config = gates_of(bert, corpus, level=("50%",), units=("heads", "neurons"), objective=objective, **fields)
        search(config, tmp_path / name, QUIET)
        wanted = EvaluateConfig(
            target=str(tmp_path / name), objectives=("kd", "mlm"), corpus=corpus, segments="packed:16"
        )
        return Ticket.from_pretrained(tmp_path / name), evaluate(wanted, QUIET)

    _, before = ticket_of("start", steps=1, learning_rate=1e-9)
    ticket, after = ticket_of("trained", steps=40, learning_rate=1e-3)
    losses = [term.partition(":")[0] + "_loss" for term in objective.split("+")]
    assert sum(after[name] for name in losses) < 0.97 * sum(before[name] for name in losses)
    assert ticket.mlm_head is None
    assert after["mlm_head"] == "base"
    assert count_units(ticket.gates, ticket.structure) == {
        "heads": {"pruned": 2, "total": 4},
        "neurons": {"pruned": 64, "total": 128},
    }
    info = ticket.info
    assert (info.method, info.scope, info.step, info.seed) == ("mask-training", "encoder", 40, 0)
    assert info.config["sparsity"] == ticket.sparsity == 0.5
    assert info.config["level"] == [50.0]
    assert search_settings_of(ticket)["search"]["objective"] == {"kd+mlm:0.5": "mlm:0.5+kd"}.get(objective, objective)
    assert not {"scope", "score_init", "min_heads_per_layer"} & search_settings_of(ticket)["search"].keys()


@pytest.mark.parametrize("objective", ["kd", "mlm"])
def test_scores_start_at_the_ticket_of_importance(bert, corpus, tmp_path, objective):
    common = {"objective": objective, "level": ("50%",), "units": ("heads", "neurons", "layers"), "seed": 3}
    start = search(gates_of(bert, corpus, steps=1, learning_rate=1e-9, **common), tmp_path / "start", QUIET)
    text = {"steps": 8, "batch_tokens": 64, "segments": "packed:16"}
    config = SearchConfig.of(model=bert, method="importance", corpus=corpus, **(common | text))
    short = config.model_copy(update={"steps": 1})  # a search of one step has one batch to start from
    expected = search(short, tmp_path / "one", QUIET)
    assert all(torch.equal(gate, expected.gates[name]) for name, gate in start.gates.items())
    longer = gates_of(bert, corpus, steps=8, learning_rate=1e-9, **common)
    expected = search(config, tmp_path / "eight", QUIET)
    found = search(longer, tmp_path / "longer", QUIET)
    assert all(torch.equal(gate, expected.gates[name]) for name, gate in found.gates.items())


def test_start_scores():
    structure = structure_of(tiny_plm("bert"))
    heads = torch.tensor([[5.0, 1.0, 3.0, 3.0], [2.0, 9.0, 8.0, 0.0], [7.0, 6.0, 4.0, 10.0]], dtype=torch.float64)
    ranks = gate_scores({"heads": heads}, "rank", {"heads": 3}, structure, min_heads_per_layer=0, top=11.0, seed=0)
    assert {name: values.tolist() for name, values in ranks.items()} == {
        "layers.0.heads": [6, 1, 4, 3],  # of equal ones the lower index is higher
        "layers.1.heads": [2, 10, 9, 0],
        "layers.2.heads": [8, 7, 5, 11],
    }
    plateau = gate_scores({"heads": heads}, "plateau", {"heads": 3}, structure, min_heads_per_layer=2, top=0.02, seed=0)
    assert plateau["layers.1.heads"].tolist() == pytest.approx([0, 0.02, 0.02, 0])
    assert plateau["layers.0.heads"].tolist() == pytest.approx([0.02, 0, 0.02, 0.02])
    one, other = (
        gate_scores({}, "random", {"heads": 5}, structure, min_heads_per_layer=0, top=0.02, seed=seed)
        for seed in (0, 1)
    )
    assert sum(int((values == 0).sum()) for values in one.values()) == 5
    assert any(not torch.equal(values, other[name]) for name, values in one.items())


def test_closed_gates_open_again_where_they_matter(corpus, tmp_path):
    """One head's columns of the attention output are zero: whatever the start, it is the one to close."""
    folder = make_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.attention.output.dense.weight"][:, 16:] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    fields = {"prune_heads": (1,), "score_init": "random", "seed": 1, "learning_rate": 2e-3}
    start = search(gates_of(str(folder), corpus, steps=1, **fields), tmp_path / "start", QUIET)
    assert start.gates["layers.1.heads"].tolist() == [False, True]
    found = search(gates_of(str(folder), corpus, steps=40, **fields), tmp_path / "found", QUIET)
    assert {name: gate.tolist() for name, gate in found.gates.items()} == {
        "layers.0.heads": [True, True],
        "layers.1.heads": [True, False],
    }
    losses = [record["kd"] for record in logged(tmp_path / "found")]
    assert losses[0] > 0.01
    assert losses[-1] == 0
    assert [record["changed_gates"] for record in logged(tmp_path / "found")][-1] == 2


def test_killed_searches_of_several_levels_resume_to_the_same_bits(bert, corpus, tmp_path):
    fields = {"level": ("25%", "50%"), "units": ("heads", "neurons"), "objective": "mlm+kd", "save_at": (5,)}
    config = gates_of(bert, corpus, **fields)
    whole = search_all(config, tmp_path / "whole", QUIET)
    assert list(whole) == ["level-25", "level-50"]
    checkpoints = Runtime(quiet=True, checkpoint_steps=3)
    with pytest.raises(Killed), killed_after(5):
        search_all(config, tmp_path / "killed", checkpoints)
    assert not (tmp_path / "killed" / "level-25" / "ticket.json").exists()
    with pytest.MonkeyPatch.context() as patch:  # the first level ends; the second dies
        train = structured._train_gates
        patch.setattr(structured, "_train_gates", lambda s, *rest: _killed_in("level-50", train, s, *rest))
        with pytest.raises(Killed):
            search_all(config, tmp_path / "killed", checkpoints)
    first = (tmp_path / "killed" / "level-25" / "ticket.json").stat().st_mtime_ns
    resumed = search_all(config, tmp_path / "killed", checkpoints)
    assert (tmp_path / "killed" / "level-25" / "ticket.json").stat().st_mtime_ns == first
    for name, ticket in whole.items():
        assert resumed[name].id == ticket.id
        at = [Ticket.from_pretrained(tmp_path / run / name / "step-000005").id for run in ("whole", "killed")]
        assert at[0] == at[1]
        records = [logged(tmp_path / run / name) for run in ("whole", "killed")]
        keys = ("step", "mlm", "kd", "changed_gates", "learning_rate")
        assert [[r[k] for k in keys] for r in records[0]] == [[r[k] for k in keys] for r in records[1]]
        assert [r["step"] for r in records[1]] == list(range(1, 7))
        assert not (tmp_path / "killed" / name / ".scratch").exists()
    # Each level starts anew: alone it gives the same gates.
    alone = search(config.model_copy(update={"level": (50.0,)}), tmp_path / "alone", QUIET)
    assert all(torch.equal(gate, whole["level-50"].gates[name]) for name, gate in alone.gates.items())
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert [rung["steps"] for rung in result["rungs"]] == [6, 6]
    assert (result["steps"], result["steps_of_separate_searches"]) == (None, None)


def _killed_in(folder, train, state, *rest):
    if state.level.folder != folder:
        return train(state, *rest)
    with killed_after(5):
        return train(state, *rest)


def test_a_signal_in_the_last_step_of_a_level_stops_before_the_next(bert, corpus, tmp_path, monkeypatch):
    config = gates_of(bert, corpus, level=("25%", "50%"), units=("heads",), steps=2)
    original = structured.GateSearch.record

    def record(self):
        if self.optimizer.steps == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(structured.GateSearch, "record", record)
        with pytest.raises(Interrupted, match="Stopped by SIGTERM before the next training began"):
            search_all(config, tmp_path / "out", QUIET)
    assert not (tmp_path / "out" / "level-50" / "ticket.json").exists()
    assert list(search_all(config, tmp_path / "out", QUIET)) == ["level-25", "level-50"]


def test_the_seed_and_the_start_count_in_the_id(bert, corpus, tmp_path):
    config = gates_of(bert, corpus, level=("50%",), units=("heads",))
    ids = {
        prepare_search(config.model_copy(update=fields), QUIET).run_id
        for fields in ({}, {"seed": 1}, {"score_init": "plateau"}, {"units": ("neurons",)}, {"level": (30.0,)})
    }
    assert len(ids) == 5
    assert prepare_search(config, QUIET).run_id.startswith("mask-training-kd-level-50-")


def test_masks_of_weights_are_what_they_were():
    plain = SearchConfig(model="m")
    assert (isinstance(plain, GateTraining), plain.rungs, plain.resolved().score_init) == (False, (0.6,), "activation")
    filled = SearchConfig(model="m", level=("30%",)).resolved()
    assert (isinstance(filled, GateTraining), filled.rungs, filled.scope) == (True, ("level-30",), "encoder")
    assert (filled.score_init, filled.importance, filled.min_heads_per_layer) == ("rank", "sample", 0)
    assert (filled.segments, filled.batch_tokens, filled.student_dropout) == ("mixed", 2048, 0.0)
    assert Pattern.parse("2:4") == SearchConfig(model="m", pattern="2:4").n_of_m


GATES = r"--method mask-training with --level trains gates and does not read"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sparsity": 0.5}, f"{GATES} --sparsity; it needs --method "),
        ({"ranking": "row"}, f"{GATES} --ranking; it needs --method "),
        ({"rung_steps": 5}, f"{GATES} --rung-steps; it needs --method "),
        ({"head_learning_rate": 0.1}, f"{GATES} head_learning_rate; it needs --method "),
        ({"reselect_steps": 3}, f"{GATES} reselect_steps; it needs --method "),
        (
            {"pattern": "2:4"},
            f"^{GATES} --pattern; it needs --method random, magnitude, wanda, mask-training, snip or movement.$",
        ),
        (
            {"scope": "encoder+pooler"},
            "--scope encoder.pooler cannot be used with tickets of whole units, which prune the encoder",
        ),
        ({"profile": "paper"}, "--profile paper is a recipe for masks of weights, and none of the papers trains"),
        ({"score_init": "activation"}, "--score-init activation is about weights; for gates give rank, plateau or"),
        ({"selection": "losing"}, f"{GATES} --selection; it needs --method importance"),
        ({"importance_from": "r"}, f"{GATES} --importance-from; it needs --method importance"),
        ({"objective": "attention"}, "Unknown objective 'attention'. Known: clm, kd, mlm."),
        ({"objective": "task"}, "Unknown objective 'task'. Known: clm, kd, mlm."),
        ({"corpus": None}, "--method mask-training needs --corpus: pydocs, wikitext-103, task:NAME, a text file"),
        ({"steps": 0}, "--steps 0 is impossible; it must be at least 1"),
        ({"save_at": (61,)}, "--save-at 61 is outside the search of 60 steps"),
        ({"level": (0,)}, r"--level 0% is outside \(0, 100\]"),
        ({"level": (), "units": ("heads",)}, r"Say what is pruned with --level .* or with counts .*; found neither"),
        ({"prune_heads": (2,)}, "found both"),
    ],
)
def test_impossible_searches_are_refused_in_words(fields, message):
    with pytest.raises(UsageError, match=message):
        check_search(SearchConfig.of(**({"model": "m", "level": ("30%",), "corpus": "pydocs"} | fields)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"min_heads_per_layer": 1},
            "does not read --min-heads-per-layer; it needs --method importance or mask-training w",
        ),
        (
            {"selection": "losing"},
            r"--method mask-training does not read --selection; it needs --method importance",
        ),
        (
            {"method": "random", "level": (30,)},
            "random does not read --level; it needs --method importance or",
        ),
    ],
)
def test_options_of_gates_without_gates(fields, message):
    with pytest.raises(UsageError, match=message):
        check_search(SearchConfig.of(**({"model": "m", "corpus": "pydocs"} | fields)))


def test_levels_that_a_model_cannot_have(bert, corpus, tmp_path):
    albert = str(make_model(tmp_path / "albert", "albert"))
    with pytest.raises(UsageError, match="apply the same stored weights, so a head, neuron or FFN cannot be pruned"):
        search(gates_of(albert, corpus), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="5 heads cannot be pruned: the model has 4"):
        search(gates_of(bert, corpus, prune_heads=(5,)), tmp_path / "out", QUIET)
    with pytest.raises(UsageError, match="with --min-heads-per-layer 1 at most 2 can be pruned"):
        search(gates_of(bert, corpus, prune_heads=(3,), min_heads_per_layer=1), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(bert, corpus, tmp_path):
    line = ["search", bert, "--corpus", corpus, "--segments", "packed:16", "--batch-tokens", "64", "--steps", "2"]
    line += ["--heads", "1,2", "--neurons", "10,20", "--quiet", "--out", str(tmp_path / "out")]
    plan = CliRunner().invoke(app, [*line, "--dry-run", "--json"])
    assert plan.exit_code == 0, plan.output
    assert not (tmp_path / "out").exists()
    shown = CliRunner().invoke(app, line)
    assert shown.exit_code == 0, shown.output
    assert "heads-1-neurons-10: Ticket(mask-training" in shown.output
    assert "separate searches" not in shown.output
    refused = CliRunner().invoke(app, [*line, "--sparsity", "0.5"])
    assert "with --heads trains gates and does not read --sparsity" in str(refused.exception)


def test_close_gates_is_what_the_selection_says():
    structure = structure_of(tiny_plm("bert"))
    heads = torch.tensor([[1.0, 1.0, 1.0, 1.0]] * 3)
    named = {f"layers.{i}.heads": row for i, row in enumerate(heads)}
    found = close_gates({"heads": heads}, {"heads": 5}, structure)
    assert all(torch.equal(found[name], gate) for name, gate in closed_by_sorting(named, {"heads": 5}).items())
