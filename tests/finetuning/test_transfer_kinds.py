"""Fine-tuning on answers in texts, labels for words and sets of classes: losses, resuming, predictions."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification, AutoTokenizer

from samples.tiny_models import CONFIGS, TEXT, make_model
from winning_tickets import Runtime, SearchConfig, TransferConfig, export, predict, search, transfer
from winning_tickets.cli import show
from winning_tickets.config.objective import TEXT_NAMES
from winning_tickets.data.encode import make_collator
from winning_tickets.data.records import METRICS_OF, Kind, Split, Task
from winning_tickets.data.squad import Answers
from winning_tickets.data.tasks import get_task
from winning_tickets.finetuning.evaluation import Evaluations, evaluate_dev_splits
from winning_tickets.finetuning.setup import load_base, prepare_transfer
from winning_tickets.models.architectures import present_in, prunable_views, split_name
from winning_tickets.models.heads import KINDS
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets.masking import modes
from winning_tickets.training.objectives.task import TASK_LOSSES, TaskObjective, task_logits
from winning_tickets.training.predict import encode_split

QUIET = Runtime(quiet=True)
NEW = ("multilabel", "tokens", "span")
METRICS = {
    "multilabel": ("micro_f1", "macro_f1", "exact_match"),
    "tokens": ("f1", "accuracy"),
    "span": ("f1", "exact_match"),
}


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Thirty examples whose labels can be learnt."""
    if kind == "multilabel":
        return [{"text": text, "label": [x for x in ("the", "a") if x in text.split()]} for text in TEXT[:30]]
    labels = {"cat": "B-PET", "dog": "B-PET", "small": "I-PET", "tree": "B-PLACE"}
    return [{"words": text.split(), "label": [labels.get(w, "O") for w in text.split()]} for text in TEXT[:30]]


def questions(count: int = 12) -> dict[str, Any]:
    """SQuAD's JSON: the second word of a text, which is long enough for several windows."""
    paragraphs = []
    for index in range(count):
        context = f"{TEXT[index % 6]} and {TEXT[(index + 1) % 6]}"
        answers = [{"text": context.split()[1], "answer_start": context.index(" ") + 1}]
        paragraphs.append({"context": context, "qas": [{"question": "the ball", "answers": answers}]})
    return {"data": [{"paragraphs": paragraphs}]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    for kind in ("multilabel", "tokens"):
        (folder / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, rows_of(kind))), encoding="utf-8")
    (folder / "span.json").write_text(json.dumps(questions()), encoding="utf-8")
    return {kind: str(next(folder.glob(f"{kind}.*"))) for kind in NEW}


@pytest.fixture(scope="module")
def ticket(bert: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tickets") / "ticket"
    scope = "encoder+embeddings+pooler"
    search(SearchConfig(model=bert, method="magnitude", sparsity=0.6, scope=scope), path, QUIET)
    return str(path)


def config_of(kind: str, target: str, files: dict[str, str], **fields: Any) -> TransferConfig:
    settings = {"target": target, "train_file": files[kind], "validation_file": files[kind], "learning_rate": 1e-3}
    short = {"max_length": 20, "doc_stride": 6} if kind == "span" else {"kind": kind}
    return TransferConfig.of(**settings | short | {"batch_size": 8} | fields)


def batch_of(kind: str, plm: Any) -> dict[str, torch.Tensor]:
    """Three padded examples of a kind."""
    words = [text.split() for text in ("the cat sat", "a dog ran over the green hill", "rain fell")]
    texts = [" ".join(row) for row in words]
    answers = [Answers((text.split()[1],), (text.index(" ") + 1,)) for text in texts]
    splits = {
        "multilabel": Split((texts,), [(1.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0)]),
        "tokens": Split((words,), [[index % 3 for index in range(len(row))] for row in words]),
        "span": Split((["who", "what", "the mat"], texts), answers),
    }
    encoded = encode_split(plm, splits[kind], 32, kind, doc_stride=8)  # type: ignore[arg-type]
    return make_collator(plm.tokenizer)([encoded[index] for index in range(3)])


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_losses_are_those_of_the_library(tmp_path: Path, kind: Any, architecture: str) -> None:
    """The model's own loss on the same batch, whether or not it has segments."""
    model = str(make_model(tmp_path / "m", architecture))
    plm = load_plm(model, head=KINDS[kind].head, num_labels=2 if kind == "span" else 3)
    plm.model.config.problem_type = KINDS[kind].problem_type
    batch = batch_of(kind, plm)
    objective = TaskObjective(kind)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    theirs = {"labels": batch["labels"]}
    if kind == "span":
        assert isinstance(plm.model, type(AutoModelForQuestionAnswering.from_pretrained(model)))
        theirs = {"start_positions": batch["labels"][:, 0], "end_positions": batch["labels"][:, 1]}
    if kind == "tokens":
        assert isinstance(plm.model, type(AutoModelForTokenClassification.from_pretrained(model)))
    with modes(plm.model, training=False), torch.no_grad():
        expected = plm.model(**inputs, **theirs).loss
        found = objective(plm.model, batch)["loss"] / objective.counts(batch)["loss"]
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert int(objective.counts(batch)["loss"]) == {"multilabel": 9, "tokens": 12, "span": 3}[kind]


def test_every_kind_is_complete() -> None:
    assert set(KINDS) == set(TASK_LOSSES) == set(METRICS_OF) - set(TEXT_NAMES)
    assert set(METRICS_OF) == set(get_args(Kind)) > set(TEXT_NAMES)  # text has no head of its own and no examples


@pytest.fixture(scope="module")
def trained(ticket: str, files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved transfer of each kind, long enough to learn something."""
    folder = tmp_path_factory.mktemp("trained")
    settings = {"learning_rate": 5e-3, "eval_steps": 1000, "save_model": True, "group_by_length": False}
    for kind in NEW:
        transfer(config_of(kind, ticket, files, epochs=20, **settings), folder / kind, QUIET)
    return folder


@pytest.mark.parametrize("kind", NEW)
def test_it_learns_and_stores(trained: Path, kind: str) -> None:
    result = json.loads((trained / kind / "result.json").read_text())
    assert tuple(result["metrics"]) == METRICS[kind]
    assert result["primary_metric"] == METRICS[kind][0]
    log = [record["evaluation"] for record in read_log(trained / kind / "seed-0") if "evaluation" in record]
    assert len(log) == 20
    assert all(set(record) == set(METRICS[kind]) for record in log)
    best = result["metrics"][METRICS[kind][0]]["best"]["mean"]
    assert best == max(record[METRICS[kind][0]] for record in log)
    assert best > {"multilabel": 0.9, "tokens": 0.9, "span": 0.6}[kind]
    assert not result["degenerate"]
    assert result["train_examples"] == result["validation_examples"]["validation"] == (12 if kind == "span" else 30)


def test_majority_of_words(tmp_path: Path, bert: str, files: dict[str, str]) -> None:
    labels = [label for row in rows_of("tokens") for label in row["label"]]
    result = transfer(config_of("tokens", bert, files, steps=1), tmp_path / "run", QUIET)
    assert result["majority"] == pytest.approx(labels.count("O") / len(labels))
    assert transfer(config_of("span", bert, files, steps=1), tmp_path / "span", QUIET)["majority"] is None


ONE_EACH = set(zip(CONFIGS, itertools.cycle(NEW), strict=False))


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        pytest.param(*pair, marks=[] if pair in ONE_EACH else [pytest.mark.slow])
        for pair in itertools.product(CONFIGS, NEW)
    ],
)
def test_pruned_weights_stay_positive_zero(tmp_path: Path, kind: str, architecture: str, files: dict[str, str]) -> None:
    model = str(make_model(tmp_path / "model", architecture))
    found = search(SearchConfig(model=model, method="magnitude", sparsity=0.7), tmp_path / "t", QUIET)
    config = config_of(kind, str(tmp_path / "t"), files, steps=3, weight_decay=0.1, save_model=True)
    transfer(config, tmp_path / "run", QUIET)
    weights = load_file(tmp_path / "run" / "seed-0" / "model" / "model.safetensors")
    plm = load_base(prepare_transfer(config, QUIET).target, prepare_transfer(config, QUIET).task)
    assert present_in(plm.encoder, found.masks) == list(found.masks)
    for name, dense in prunable_views(plm.encoder, list(found.masks)).items():
        mask, part = found.masks[name], split_name(name)
        value = part.of(weights[f"{plm.model.base_model_prefix}.{part.parameter}"])
        assert value.view(torch.int32)[~mask].count_nonzero() == 0, name
        assert not torch.equal(value[mask], dense[mask]), name


class Killed(BaseException):
    """A power cut."""


@pytest.mark.parametrize("kind", NEW)
def test_a_killed_run_resumes_to_the_same_bits(
    tmp_path: Path, kind: str, ticket: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(kind, ticket, files, steps=8, eval_steps=2, save_model=True)
    runtime = Runtime(quiet=True, checkpoint_steps=3)
    transfer(config, tmp_path / "whole", runtime)
    original = Evaluations.on_step_end

    def kill(self: Any, trainer: Any) -> None:
        original(self, trainer)
        if trainer.step == 5:
            raise Killed

    monkeypatch.setattr(Evaluations, "on_step_end", kill)
    with pytest.raises(Killed):
        transfer(config, tmp_path / "killed", runtime)
    monkeypatch.setattr(Evaluations, "on_step_end", original)
    transfer(config, tmp_path / "killed", runtime)
    runs = [tmp_path / name / "seed-0" for name in ("whole", "killed")]
    logs = [[{**record, "seconds": None} for record in read_log(run)] for run in runs]
    assert logs[0] == logs[1]
    weights = [load_file(run / "model" / "model.safetensors") for run in runs]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_train_size_counts_questions_and_windows_fill_the_batches(
    tmp_path: Path, bert: str, files: dict[str, str]
) -> None:
    config = config_of("span", bert, files, train_size="5", epochs=1, batch_size=4)
    prepared = prepare_transfer(config, QUIET)
    assert (prepared.train_examples, prepared.doc_stride) == (5, 6)
    assert prepared.train_windows is not None
    assert prepared.train_windows > 10
    assert prepared.steps == prepared.steps_per_epoch == -(-prepared.train_windows // 4)
    result = transfer(config, tmp_path / "run", QUIET)
    assert (result["train_examples"], result["train_windows"]) == (5, prepared.train_windows)
    assert (result["max_length"], result["doc_stride"], result["validation_examples"]) == (20, 6, {"validation": 12})
    wide = prepare_transfer(config.model_copy(update={"max_length": 64, "doc_stride": None}), QUIET)
    assert (wide.train_windows, wide.doc_stride) == (5, 128)


def test_scores_of_answers_are_per_question(bert: str, files: dict[str, str]) -> None:
    """Perfect logits in the right window of each question, noise in the others."""
    prepared = prepare_transfer(config_of("span", bert, files), QUIET)
    encoded = prepared.validation["validation"]
    split = prepared.data.validation["validation"]
    outputs = []
    for ids, (first, last) in zip(encoded.columns["input_ids"], encoded.labels, strict=True):
        logits = np.random.default_rng(0).normal(size=(len(ids), 2))
        if first:
            logits[first, 0] = logits[last, 1] = 50.0
        outputs.append(logits)
    assert KINDS["span"].score(prepared.task, outputs, encoded, split) == ({"f1": 1.0, "exact_match": 1.0}, False)
    for places in encoded.places or []:
        places[:] = -1
    assert KINDS["span"].score(prepared.task, outputs, encoded, split) == ({"f1": 0.0, "exact_match": 0.0}, True)


@pytest.mark.parametrize(("kind", "expected"), [("multilabel", 0.0), ("tokens", 0.0)])
def test_constant_predictions_are_degenerate(kind: str, expected: float, bert: str, files: dict[str, str]) -> None:
    prepared = prepare_transfer(config_of(kind, bert, files), QUIET)
    plm = load_base(prepared.target, prepared.task)
    with torch.no_grad():
        plm.model.classifier.weight.zero_()
        plm.model.classifier.bias.copy_(torch.arange(len(prepared.task.labels)) * (1.0 if kind == "tokens" else -1.0))
        plm.model.classifier.bias[0] = -1.0
    found = evaluate_dev_splits(prepared, plm)
    assert found["degenerate"]
    assert found["evaluation"][METRICS[kind][0]] == expected


def test_labels_for_new_texts(trained: Path) -> None:
    """What the saved model itself gives, read by its own class."""
    folder = trained / "tokens" / "seed-0" / "model"
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    (found,) = predict(trained / "tokens", [(TEXT[0],)])["predictions"]
    with torch.no_grad():
        best = model(**tokenizer(TEXT[0], return_tensors="pt")).logits[0, 1:-1].argmax(-1).tolist()
    assert found["labels"] == [model.config.id2label[index] for index in best]
    assert (found["words"], found["labels"][1]) == (TEXT[0].split(), "B-PET")
    (found,) = predict(trained / "multilabel", [(TEXT[1],)])["predictions"]
    assert found["labels"] == ["a", "the"]
    assert list(found["scores"]) == ["a", "the"]
    assert all(0.5 < value < 1 for value in found["scores"].values())
    context = questions()["data"][0]["paragraphs"][1]["context"]
    (found,) = predict(trained / "span", [("the ball", context)])["predictions"]
    assert found["text"] == ["the ball", context]
    assert found["answer"] == context[found["start"] :][: len(found["answer"])] != ""
    message = r"takes 2 text\(s\) per example \(question, context\), found 1: 'the ball'"
    with pytest.raises(UsageError, match=message):
        predict(trained / "span", [("the ball",)])


def test_exports_predict_the_same(trained: Path, tmp_path: Path) -> None:
    classes = {"multilabel": "SequenceClassification", "tokens": "TokenClassification", "span": "QuestionAnswering"}
    for kind in NEW:
        body = export(trained / kind, "masked", tmp_path / kind)
        assert body["model_class"] == f"BertFor{classes[kind]}"
        texts = [(TEXT[2], TEXT[3])] if kind == "span" else [(TEXT[2],)]
        assert predict(tmp_path / kind, texts)["predictions"] == predict(trained / kind, texts)["predictions"]


def test_what_people_read(trained: Path) -> None:
    shown = show.predictions(predict(trained / "tokens", [(TEXT[0],)]))
    assert shown.startswith("the/O cat/B-PET sat/O on/O")
    assert shown.endswith("dog/B-PET\t" + TEXT[0])
    assert show.predictions(predict(trained / "multilabel", [(TEXT[1],)])).startswith("a (0.")
    assert show.predictions(predict(trained / "span", [("who", TEXT[0])])).endswith(f"\twho | {TEXT[0]}")
    nothing = [{"text": ["x"], "answer": ""}, {"text": ["x"], "labels": [], "scores": {}}]
    nothing.append({"text": ["x"], "words": ["x"], "labels": [None]})
    assert show.predictions({"predictions": nothing}) == "(no answer)\tx\n(no label)\tx\nx/(cut off)\tx"
    result = json.loads((trained / "span" / "result.json").read_text())
    assert f"  trained on 12 questions, {result['train_windows']} windows" in show.transfer(result, Path("out"))


def test_words_behind_the_maximum_have_no_label(tmp_path: Path, bert: str, files: dict[str, str]) -> None:
    transfer(config_of("tokens", bert, files, steps=1, max_length=5, save_model=True), tmp_path / "run", QUIET)
    (found,) = predict(tmp_path / "run", [("the cat sat on the mat",)])["predictions"]
    assert [label is None for label in found["labels"]] == [False] * 3 + [True] * 3


def test_an_edited_model_is_refused(tmp_path: Path, bert: str, files: dict[str, str]) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "\n".join(f"{t},{i % 2}" for i, t in enumerate(TEXT[:6])))
    own = {"train_file": str(tmp_path / "a.csv"), "validation_file": str(tmp_path / "a.csv")}
    transfer(TransferConfig(target=bert, steps=1, save_model=True, **own), tmp_path / "run", QUIET)
    path = tmp_path / "run" / "seed-0" / "model" / "task.json"
    content = json.loads(path.read_text())
    assert (content["kind"], content["doc_stride"]) == ("classification", None)
    path.write_text(json.dumps(content | {"kind": "poem"}))
    with pytest.raises(ContentError, match=r"task.json is not a task description \(kind: .*, found 'poem'\); it"):
        predict(tmp_path / "run", [(TEXT[0],)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "tokens"}, "--kind needs --train-file; --task sst2 has its own"),
        ({"doc_stride": 0}, "--doc-stride 0 is impossible; it must be at least 1"),
        ({"kind": "word"}, "kind"),
    ],
)
def test_refused_settings(bert: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare_transfer(TransferConfig.of(**{"target": bert, "task": "sst2"} | fields), QUIET)


def test_refused_strides(bert: str, files: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"--doc-stride needs answers in texts, .*; local has none"):
        prepare_transfer(config_of("tokens", bert, files, doc_stride=4), QUIET)
    with pytest.raises(UsageError, match="--doc-stride 20 is impossible: 20 tokens would leave gaps"):
        prepare_transfer(config_of("span", bert, files, doc_stride=20), QUIET)
    with pytest.raises(UsageError, match="--max-length 4 is impossible; .* reads 5 to 512"):
        prepare_transfer(config_of("span", bert, files, max_length=4, doc_stride=1), QUIET)


def test_outputs_of_a_model_with_two_heads() -> None:
    """Start and end become the last dimension."""
    from transformers.modeling_outputs import QuestionAnsweringModelOutput

    start, end = torch.zeros(2, 3), torch.ones(2, 3)
    found = task_logits(QuestionAnsweringModelOutput(start_logits=start, end_logits=end))
    assert found.shape == (2, 3, 2)
    assert torch.equal(found[..., 1], end)


def test_the_record_of_squad() -> None:
    assert isinstance(get_task("squad"), Task)
    assert get_task("squad").hub == ("rajpurkar/squad", None)
