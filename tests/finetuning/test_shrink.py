"""A model made faster: the folders load, a stopped run goes on to the same bits, budgets that cannot be kept say so."""

import json
import shutil
from importlib import import_module
from itertools import pairwise

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from samples.analyse_samples import command_line
from samples.tiny_models import TEXT, make_model
from winning_tickets import Runtime, ShrinkConfig, Ticket, TransferConfig, predict, push, shrink, transfer
from winning_tickets.data.encode import EncodedSplit
from winning_tickets.deploy.costs import cost_table
from winning_tickets.finetuning.shrink_source import example_batches
from winning_tickets.models.loading import load_plm
from winning_tickets.models.modeling_compact import COMPACT, WAYS_OUT
from winning_tickets.runs.directory import RESULT, read_log
from winning_tickets.runs.errors import Interrupted, TrainingError, UsageError

QUIET = Runtime(quiet=True, device="cpu")
MODULE = import_module("winning_tickets.finetuning.shrink")
RESULTS = import_module("winning_tickets.finetuning.shrink_results")
RECOVERY = import_module("winning_tickets.finetuning.recovery")
LITTLE = {"by": "flops", "steps": 4, "eval_steps": 2, "batch_tokens": 64, "max_tokens": 128, "segments": "mixed:4-16",
          "importance_batches": 2, "removal_batches": 1, "repeats": 2, "latency_on": "batch=2,length=8"}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "corpus.txt").write_text("\n".join(TEXT))
    rows = [f"{first},{second},{number}" for number, (first, second) in enumerate(pairwise(TEXT[:6]))]
    (folder / "pairs.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]))
    for kind, head in (("bert", "none"), ("roberta", "mlm"), ("albert", "none")):
        make_model(folder / kind, kind, head)
    return folder


def settings(world, kind="bert", **fields):
    corpus = str(world / "corpus.txt")
    little = {name: value for name, value in LITTLE.items() if not (name == "by" and "size" in fields)}
    return ShrinkConfig.of(**{"model": str(world / kind), "corpus": corpus} | little | fields)


@pytest.fixture(scope="module")
def ladder(world, tmp_path_factory):
    """Two speed-ups of one model, and the result."""
    out = tmp_path_factory.mktemp("ladder") / "out"
    return out, shrink(settings(world, speedup=(1.5, 2.5), pairs_file=str(world / "pairs.csv")), out, QUIET)


def weights(folder):
    return load_plm(str(folder)).model.state_dict()


def test_small_models_keep_their_budget_and_load_everywhere(ladder):
    out, result = ladder
    for one, factor in zip(result["models"], (1.5, 2.5), strict=True):
        folder = out / f"speedup-{factor:g}"
        assert one["flops"] <= result["dense"]["flops"] / factor
        assert one["flops"] >= 0.85 * result["dense"]["flops"] / factor
        assert one["predicted_cost"] == pytest.approx(one["flops"] / result["dense"]["flops"], rel=0.01)
        assert one["parameters"] < result["dense"]["parameters"]
        own = load_plm(str(folder / "model"))
        ids = torch.tensor([[2, 9, 11, 3]])
        with torch.no_grad():
            states = own.model.eval()(ids, torch.ones_like(ids)).last_hidden_state
            remote = AutoModel.from_pretrained(folder / "model", trust_remote_code=True).eval()
            torch.testing.assert_close(remote(ids, torch.ones_like(ids)).last_hidden_state, states)
        ticket = Ticket.from_pretrained(folder / "ticket")
        assert ticket.id == one["ticket_id"]
        assert {layer["layer"]: layer["heads"] for layer in one["layers"]}.items() <= {
            int(name.split(".")[1]): int(gate.sum()) for name, gate in ticket.gates.items() if name.endswith("heads")
        }.items()
    assert [one["recovery"]["steps"] for one in result["models"]] == [4, 4]
    assert result["dense"]["quality"]["kd_loss"] == pytest.approx(0, abs=1e-5)
    assert all("similarity_spearman" in one["quality"] for one in (result["dense"], *result["models"]))


def test_the_recovery_lowers_the_loss_on_text_that_was_not_trained_on(ladder):
    for one in ladder[1]["models"]:
        assert one["recovery"]["after"]["sum"] < one["recovery"]["before"]["sum"]
        assert one["recovery"]["before"].keys() == {"states", "pooled", "sum"}


def test_report_and_cards_have_the_table(ladder):
    out, result = ladder
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert page.count("speedup-2.5") >= 2
    losses = json.loads((out / "removal_losses.json").read_text())
    assert all(curve[0] > curve[-1] == 0 for curve in (*losses["heads"], *losses["neurons"]))
    card = (out / "speedup-1.5" / "model" / "README.md").read_text()
    assert "trust_remote_code=True" in card
    assert f"{result['dense']['parameters']:,}" in card


def test_a_finished_run_returns_its_result_and_another_one_is_refused(ladder, world):
    out, result = ladder
    again = settings(world, speedup=(1.5, 2.5), pairs_file=str(world / "pairs.csv"))
    assert shrink(again, out, QUIET) == result
    with pytest.raises(UsageError, match="holds another run"):
        shrink(settings(world, speedup=(1.5,)), out, QUIET)


@pytest.mark.parametrize("budget", [{}, {"size": (0.7,)}])
def test_words_that_the_own_texts_never_have_are_left_out(world, tmp_path, budget):
    own = tmp_path / "own.csv"
    own.write_text("\n".join(["sentence1,sentence2,label", *(f"{TEXT[0]},{TEXT[1]} {word},x" for word in "ab")]))
    config = settings(world, train_file=str(own), corpus=None, segments="lines:20", vocabulary=True, **budget)
    result = shrink(config, tmp_path / "out", QUIET)
    dense, small = result["dense"], result["models"][0]
    plm = load_plm(str(tmp_path / "out" / "model"))
    assert plm.model.config.vocab_size == small["vocabulary"] == len(plm.tokenizer) < dense["vocabulary"]
    assert plm.tokenizer.tokenize(TEXT[0]) == load_plm(str(world / "bert")).tokenizer.tokenize(TEXT[0])
    assert small["recovery"]["after"]["states"] == pytest.approx(small["quality"]["kd_loss"], rel=1e-4)
    if budget:  # the rows that are left out are part of the budget
        assert small["predicted_cost"] == pytest.approx(small["parameters"] / dense["parameters"], rel=0.01)
        assert 0.6 < small["predicted_cost"] <= 0.7


class StoppedError(Exception):
    """Ends a training as a kill would."""


def test_a_stopped_run_goes_on_to_the_same_bits(world, tmp_path, monkeypatch):
    config, often = settings(world), Runtime(quiet=True, device="cpu", checkpoint_steps=1)
    whole = shrink(config, tmp_path / "whole", often)
    original = RECOVERY._Recovery.on_step_end

    def stop(self, trainer):
        original(self, trainer)
        if trainer.step == 3:
            raise StoppedError

    monkeypatch.setattr(RECOVERY._Recovery, "on_step_end", stop)
    with pytest.raises(StoppedError):
        shrink(config, tmp_path / "again", often)
    assert not (tmp_path / "again" / RESULT).exists()
    monkeypatch.undo()
    computed = []
    monkeypatch.setattr(MODULE.importance, "add_up", lambda *_, **__: computed.append(1))
    monkeypatch.setattr(MODULE, "measure_losses", lambda *_, **__: computed.append(1))
    monkeypatch.setattr(MODULE, "cost_table", lambda *_, **__: computed.append(1))  # another time would choose others
    again = shrink(config, tmp_path / "again", often)
    assert not computed
    first, second = (weights(tmp_path / name / "model") for name in ("whole", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [one["step"] for one in read_log(tmp_path / "again") if "learning_rate" in one] == [1, 2, 3, 4]
    assert again["models"][0]["recovery"]["after"] == whole["models"][0]["recovery"]["after"]
    assert not (tmp_path / "again" / ".scratch").exists()


def test_a_loss_on_held_out_text_that_is_not_finite_is_an_error(world, tmp_path, monkeypatch):
    monkeypatch.setattr(RECOVERY, "held_out_losses", lambda *_, **__: {"sum": float("nan")})
    with pytest.raises(TrainingError, match="loss on held-out text is nan after step 0; use another model"):
        shrink(settings(world), tmp_path / "out", QUIET)


def test_a_stop_by_a_signal_is_an_interruption(world, tmp_path, monkeypatch):
    def interrupted(*_):
        raise Interrupted(15, "Stopped by SIGTERM")

    monkeypatch.setattr(RECOVERY, "run_training", interrupted)
    with pytest.raises(Interrupted):
        shrink(settings(world), tmp_path / "out", QUIET)
    assert not (tmp_path / "out" / RESULT).exists()


def test_patience_and_minutes_end_a_recovery_with_its_best_weights(world, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(RECOVERY, "held_out_losses", lambda *_, **__: {"sum": next(losses)})
    result = shrink(settings(world, steps=50, eval_steps=1, patience=2), tmp_path / "patient", QUIET)
    recovery = result["models"][0]["recovery"]
    assert (recovery["steps"], recovery["best_step"], recovery["after"]) == (3, 1, {"sum": 1.0})
    monkeypatch.undo()
    result = shrink(settings(world, steps=None, minutes=1e-6), tmp_path / "hasty", QUIET)
    assert result["models"][0]["recovery"]["steps"] == 1


def test_an_mlm_model_keeps_its_head(world, tmp_path):
    result = shrink(settings(world, "roberta"), tmp_path / "out", QUIET)
    assert result["losses"] == {"states": 1.0, "logits": 1.0}
    model, report = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "out" / "model", trust_remote_code=True, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert len(getattr(model.config, COMPACT)["layers"]) == len(result["models"][0]["layers"])


def test_uniform_models_need_no_remote_code_and_steps_0_no_training(world, tmp_path):
    result = shrink(settings(world, uniform=True, steps=0, speedup=(1.4,)), tmp_path / "out", QUIET)
    assert result["models"][0]["remote_code"] is False
    AutoModel.from_pretrained(tmp_path / "out" / "model")
    assert result["models"][0]["recovery"]["before"] == result["models"][0]["recovery"]["after"]


def test_whole_layers_keep_the_budget_too(world, tmp_path):
    result = shrink(settings(world, choice="depth", steps=1, speedup=(1.9,)), tmp_path / "out", QUIET)
    assert result["models"][0]["flops"] <= result["dense"]["flops"] / 1.9
    assert Ticket.from_pretrained(tmp_path / "out" / "ticket").info.method == "importance"


def test_a_structure_that_is_slower_than_its_parts_gets_a_smaller_budget(world, tmp_path, monkeypatch):
    table = cost_table(load_plm(str(world / "bert")), "flops", 2, 8, runtime=QUIET)
    monkeypatch.setattr(MODULE, "cost_table", lambda *_, **__: table)
    monkeypatch.setattr(MODULE, "time_share", lambda plm, sizes, *_, **__: 1.1 * table.of(sizes))
    result = shrink(settings(world, by="latency", steps=0, speedup=(1.5,)), tmp_path / "out", QUIET)
    assert 0.85 / 1.5 / 1.1 <= result["models"][0]["predicted_cost"] <= 1.011 / 1.5 / 1.1


def test_the_size_is_a_budget_too(world, tmp_path):
    result = shrink(settings(world, size=(0.7,), steps=0), tmp_path / "out", QUIET)
    one = result["models"][0]
    assert one["name"] == "size-0.7"
    assert one["parameters"] <= 0.7 * result["dense"]["parameters"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"speedup": (50.0,)}, r"--speedup 50 cannot be reached at batch=2,length=8: .* operations, and the fastest"),
        ({"size": (0.01,)}, r"--size 0.01 cannot be reached: embeddings and pooler alone take .*; the least is 0\.\d+"),
        ({"corpus": None}, "shrink needs text to learn from"),
    ],
)
def test_what_cannot_be_reached_says_what_can(world, tmp_path, fields, message):
    with pytest.raises(UsageError, match=message) as error:
        shrink(settings(world, **fields), tmp_path / "out", QUIET)
    if "speedup" in fields:  # the advice can be followed
        fastest = float(str(error.value).rpartition("give --speedup ")[2].split()[0])
        assert shrink(settings(world, speedup=(fastest,), steps=0), tmp_path / "fast", QUIET)["models"]


def test_one_example_cannot_be_held_out(world):
    plm, rows = load_plm(str(world / "bert")), [[2, 9, 3], [2, 10, 11, 3]]
    with pytest.raises(UsageError, match="There is 1 training example, so none can be held out; give two or more"):
        example_batches(plm, EncodedSplit({"input_ids": rows[:1]}, [0]), 64, 0)
    train, held_out = example_batches(plm, EncodedSplit({"input_ids": rows}, [0, 0]), 64, 0)
    assert (train.per_epoch, len(held_out)) == (1, 1)


def test_a_model_and_texts_in_memory(tmp_path, world):
    model = AutoModel.from_pretrained(world / "bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokenizer = AutoTokenizer.from_pretrained(world / "bert")
    fields = {name: value for name, value in LITTLE.items() if name != "steps"}
    result = shrink(model, tmp_path / "out", QUIET, speedup=2, corpus=TEXT, steps=1, tokenizer=tokenizer, **fields)
    assert len(result.to_frame()) == 2
    assert result.plot() is not None
    assert "speedup-2" in repr(result)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(UsageError, match="whose end is not known; give steps="):
        shrink(model, tmp_path / "stream", QUIET, corpus=iter(TEXT), tokenizer=tokenizer, minutes=1)
    fields |= {"steps": 1, "tokenizer": tokenizer}
    assert shrink(model, tmp_path / "stream", QUIET, corpus=iter(TEXT), **fields).models
    with pytest.raises(UsageError, match="give out="):
        shrink(model, corpus=TEXT, tokenizer=tokenizer)


def test_albert_says_what_it_can_do(world, tmp_path):
    with pytest.raises(UsageError, match="same stored weights.* faster with fewer layers"):
        shrink(settings(world, "albert"), tmp_path / "out", QUIET)


def test_a_dry_run_shows_the_arithmetic(world, capsys, monkeypatch, tmp_path):
    words = ("shrink", world / "bert", "--corpus", world / "corpus.txt", "--speedup", "2,4", "--out", tmp_path / "out")
    code, out, _ = command_line(capsys, monkeypatch)(*words, "--dry-run")
    assert code == 0
    assert "speedup-4: 0." in out or "speedup-4: 0.00 GFLOPs" in out
    assert "2 layers of about 0.5 heads and 16 neurons" in out
    assert "recovery_tokens: 2048000" in out
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_table(world, capsys, monkeypatch, tmp_path):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in LITTLE.items()]
    command = command_line(capsys, monkeypatch)
    out = tmp_path / "out"
    code, printed, err = command("shrink", world / "bert", "--corpus", world / "corpus.txt", *words, "--quiet",
                                 "--formats", "onnx,int8", "--out", out)  # fmt: skip
    assert code == 0, err
    assert "speedup-2, int8" in printed
    assert (out / "int8" / "model.onnx").stat().st_size < (out / "onnx" / "model.onnx").stat().st_size
    result = json.loads((out / RESULT).read_text())
    assert result["models"][0]["int8"]["speedup"]["median"] > 0
    shutil.rmtree(out)


def test_a_format_that_fails_takes_nothing_else_with_it(world, capsys, monkeypatch, tmp_path):
    """`onnx` and `int8` are words in files here; what onnxruntime would run is the small model itself."""
    trained, broken = [], ["int8"]

    def write(form):
        def write_form(first, *rest, **how):
            if form in broken:
                raise RuntimeError(f"{form} is broken\nand more")
            ((first if form == "int8" else rest[0]) / "model.onnx").write_text(form)

        return write_form

    class FromFile(torch.nn.Module):
        def __init__(self, file, config):
            super().__init__()
            self.config, self.inner = config, load_plm(str(file.parent.parent / "model")).model

        def forward(self, **inputs):
            return self.inner(**inputs)

    monkeypatch.setattr(RESULTS, "write_onnx", write("onnx"))
    monkeypatch.setattr(RESULTS, "write_int8", write("int8"))
    monkeypatch.setattr(RESULTS, "OnnxModel", FromFile)
    monkeypatch.setattr(MODULE, "recover", lambda *args, **how: trained.append(1) or recover(*args, **how))
    recover = RECOVERY.recover
    words = [f"--{name.replace('_', '-')}={value}" for name, value in LITTLE.items()]
    out, command = tmp_path / "out", command_line(capsys, monkeypatch)

    def shrunk(*more):
        code, printed, err = command("shrink", world / "bert", "--corpus", world / "corpus.txt", *words, "--quiet",
                                     "--out", out, *more)  # fmt: skip
        return code, printed, err, json.loads((out / RESULT).read_text())

    code, printed, err, first = shrunk("--formats", "onnx,int8")
    assert (code, printed) == (1, "")
    assert (
        "1 of 2 formats failed. int8 of speedup-2: RuntimeError: int8 is broken. The models, the report and all" in err
    )
    assert "the same command tries what failed again" in err
    assert first["failed_formats"] == {"speedup-2": {"int8": "RuntimeError: int8 is broken"}}
    assert first["models"][0]["onnx"]["speedup"]["median"] > 0
    assert "The format int8 of speedup-2 failed: RuntimeError: int8 is broken" in (out / "report.html").read_text()
    code, printed, _, without = shrunk()  # left out
    assert code == 0
    assert printed.rstrip().endswith(WAYS_OUT)
    assert without == {key: value for key, value in first.items() if key != "failed_formats"}
    assert "is broken" not in (out / "report.html").read_text()
    broken.clear()
    (out / "onnx" / "model.onnx").write_text("as it was")
    code, printed, _, last = shrunk("--formats", "int8,onnx")
    assert (code, "speedup-2, int8" in printed) == (0, True)
    assert (out / "onnx" / "model.onnx").read_text() == "as it was"
    assert last["models"][0].pop("int8")["speedup"]["median"] > 0
    assert (last, trained) == (without, [1])
    assert shrunk()[3]["models"][0]["int8"]


ROWS = {
    "classification": [{"text": text, "label": "cat" if "cat" in text else "none"} for text in TEXT[:24]],
    "regression": [{"text": text, "label": len(text) / 10} for text in TEXT[:24]],
    "tokens": [{"words": text.split(), "label": ["N" if word == "the" else "O" for word in text.split()]}
               for text in TEXT[:24]],
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_a_fine_tuned_model_keeps_its_head_and_its_task(world, tmp_path, kind):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS[kind])))
    own = TransferConfig.of(
        target=str(world / "bert"), train_file=str(file), validation_file=str(file), kind=kind, steps=2, save_model=True
    )
    transfer(own, tmp_path / "run", QUIET)
    config = settings(world, corpus=None, speedup=(1.5,)).model_copy(update={"model": str(tmp_path / "run")})
    result = shrink(config, tmp_path / "out", QUIET)
    assert result["losses"] == {"states": 1.0, "logits": 1.0}
    metrics = result["dense"]["quality"].keys() - {"kd_loss", "embedding_distance"}
    assert metrics
    assert metrics <= result["models"][0]["quality"].keys()
    if kind == "tokens":
        return
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(json.dumps({"text": text}) for text in TEXT[:2] * 4))
    unlabelled = config.model_copy(update={"train_file": str(few), "vocabulary": True})
    own = shrink(unlabelled, tmp_path / "own", QUIET)
    assert own["models"][0]["vocabulary"] < own["dense"]["vocabulary"]
    if kind == "classification":
        found = predict(tmp_path / "own", [(row["text"],) for row in ROWS[kind]], runtime=QUIET)
        right = [one["label"] == row["label"] for one, row in zip(found["predictions"], ROWS[kind], strict=True)]
        assert own["models"][0]["quality"]["accuracy"] == pytest.approx(sum(right) / len(right))
    two = unlabelled.model_copy(update={"text_columns": ("text", "text")})
    with pytest.raises(UsageError, match="--text-columns names 2 column"):
        shrink(two, tmp_path / "two", QUIET)
    made = predict(tmp_path / "out" / "model", [(TEXT[0],)], runtime=QUIET)
    assert len(made["predictions"]) == 1


def test_a_small_model_is_pushed_with_its_card(ladder, world, tmp_path, monkeypatch):
    out, _ = ladder
    pushed = {}
    monkeypatch.setattr("winning_tickets.runs.hub.check_access", lambda repo, token: repo)
    monkeypatch.setattr(
        "winning_tickets.runs.hub.push", lambda repo, content, *_, **__: pushed.setdefault(repo, content)
    )
    small = out / "speedup-1.5" / "model"
    with pytest.raises(UsageError, match=r"has 2 models; push one of .*speedup-1.5/model, .*speedup-2.5/model\."):
        push(out, "me/fast")
    push(small, "me/fast")
    assert set(pushed["me/fast"]) >= {"config.json", "model.safetensors", "README.md"}
    card = pushed["me/fast"]["README.md"].decode()
    assert "# bert, made faster" in card
    assert str(world) not in card
    shrink(settings(world), tmp_path / "one", QUIET)
    push(tmp_path / "one", "me/one")
    assert set(pushed["me/one"]) == {path.name for path in (tmp_path / "one" / "model").iterdir()}
