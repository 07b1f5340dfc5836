"""A shared model on disk: what comes back is what was saved, and what is damaged is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from samples.tiny_models import make_model
from samples.tiny_tasks import split
from winning_tickets import SearchConfig
from winning_tickets.data.tasks import TASKS
from winning_tickets.deploy.verify import verify
from winning_tickets.models.heads import load_for_task
from winning_tickets.models.loading import base_hash, load_plm, weight_hashes
from winning_tickets.pruning.search import search
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import sha256
from winning_tickets.runs.identity import digest
from winning_tickets.training.multitask import SharedEncoder
from winning_tickets.training.objectives.task import task_logits
from winning_tickets.training.predict import encode_split, predict_split
from winning_tickets.training.saved_model import TaskInfo
from winning_tickets.training.shared_model import SharedModel, find_shared, save_shared

NAMES = ("stsb", "mnli", "squad")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("models") / "bert", head="mlm+pooler"))


@pytest.fixture(scope="module")
def ticket(base, tmp_path_factory):
    config = SearchConfig(
        model=base, method="importance", selection="random", prune_heads=(1,), prune_ffns=(1,), objective="kd"
    )
    return search(config, tmp_path_factory.mktemp("tickets") / "ticket")


@pytest.fixture(scope="module")
def made(base, ticket, tmp_path_factory):
    """Three tasks of three kinds on one encoder that has moved from its base; one has a ticket."""
    torch.manual_seed(0)
    plms = {name: load_for_task(lambda **options: load_plm(base, **options), TASKS[name]) for name in NAMES}
    hashed = base_hash(weight_hashes(plms["mnli"].encoder))
    model = SharedEncoder({name: plm.model for name, plm in plms.items()}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    infos = {
        name: TaskInfo.of(TASKS[name], 64, None, ticket.id if name == "mnli" else None, sparsity=0.0) for name in NAMES
    }
    folder = tmp_path_factory.mktemp("shared") / "model"
    save_shared(folder, model, plms["mnli"].tokenizer, infos, tickets={"mnli": ticket}, base_hash=hashed)
    return folder, model, plms, infos, hashed


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "model")


def test_everything_comes_back(made, ticket):
    folder, _, _, infos, hashed = made
    shared = SharedModel.open(folder)
    assert (shared.tasks, shared.base_hash) == (NAMES, hashed)
    assert {name: shared.info(name) for name in NAMES} == infos
    assert [shared.ticket(name) is None for name in NAMES] == [True, False, True]
    assert shared.ticket("mnli").id == ticket.id
    assert sorted(path.name for path in folder.iterdir()) == ["encoder", "shared.json", "tasks"]
    assert not (folder / "tasks" / "stsb" / "ticket").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_an_ordinary_model_with_the_shared_weights_and_its_head(made, name):
    folder, model, plms, _, _ = made
    plm = SharedModel.open(folder).load_task(name)
    assert type(plm.model) is type(plms[name].model)
    encoder = dict(model.base_model.named_parameters())
    for key, value in plm.encoder.named_parameters():
        assert torch.equal(value, encoder[key]), key
    assert list(plm.model.config.id2label.values()) == (
        list(TASKS[name].labels) or list(plm.model.config.id2label.values())
    )
    encoded = encode_split(plm, split(name, 4), 64, TASKS[name].kind, doc_stride=32)
    found, expected = predict_split(plm, encoded), predict_split(plms[name], encoded)
    assert all((a == b).all() for a, b in zip(found, expected, strict=True))
    assert task_logits(plm.model(torch.tensor([[2, 5, 3]]))).shape[-1] == {"stsb": 1, "mnli": 3, "squad": 2}[name]


def test_the_encoder_is_a_hugging_face_folder_that_knows_no_task(made):
    folder, model, _, _, _ = made
    found, expected = AutoModel.from_pretrained(folder / "encoder").state_dict(), model.base_model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    config = json.loads((folder / "encoder" / "config.json").read_text())
    assert not {"id2label", "label2id", "problem_type"} & set(config)
    plm = SharedModel.open(folder).load_encoder()
    assert plm.tokenizer("the cat")["input_ids"]
    assert torch.equal(plm.encoder.get_parameter("pooler.dense.weight"), expected["pooler.dense.weight"])


def test_finding_it(made, tmp_path):
    folder = made[0]
    run = tmp_path / "run"
    for seed in (3, 11):
        (run / f"seed-{seed}").mkdir(parents=True)
        shutil.copytree(folder, run / f"seed-{seed}" / "model")
    (run / "seed-11" / "result.json").write_text("{}")
    assert find_shared(run) == run / "seed-11" / "model"  # seed 3 is not finished
    (run / "seed-3" / "result.json").write_text("{}")
    assert find_shared(run) == find_shared(run / "seed-3") == find_shared(run / "seed-3" / "model")
    assert find_shared(run, 11) == run / "seed-11" / "model"
    with pytest.raises(UsageError, match="no model of seed 4; there are those of 3, 11"):
        find_shared(run, 4)
    with pytest.raises(UsageError, match="--seed 3 chooses among the seeds of a run, and .* is a single model"):
        find_shared(run / "seed-3", 3)
    with pytest.raises(UsageError, match="There is no folder .*nowhere; give the --out of a tickets share"):
        find_shared(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no shared model; give the --out of a tickets share that has saved"):
        find_shared(tmp_path / "empty")


def test_unknown_tasks_are_answered_with_the_closest(made):
    shared = SharedModel.open(made[0])
    for asked in (shared.info, shared.ticket, shared.load_task):
        with pytest.raises(UsageError, match="Unknown task 'mnlli'. Did you mean 'mnli'.*Known: mnli, squad, stsb"):
            asked("mnlli")


def test_what_is_no_shared_model(tmp_path):
    with pytest.raises(UsageError, match=r"is no shared model: it has no shared\.json"):
        SharedModel.open(tmp_path)


def spoil(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("part", "act"),
    [
        ("tasks/mnli/task.json", lambda shared: shared.info("mnli")),
        ("tasks/mnli/head.safetensors", lambda shared: shared.load_task("mnli")),
        ("encoder/model.safetensors", lambda shared: shared.load_task("stsb")),
        ("encoder/model.safetensors", lambda shared: shared.load_encoder()),
        ("tasks/mnli/ticket/ticket.safetensors", lambda shared: shared.ticket("mnli")),
    ],
)
def test_damaged_parts_are_named(copy, part, act):
    spoil(copy / part)
    with pytest.raises(ContentError, match=f"{part}.* does not match its checksum"):
        act(SharedModel.open(copy))


@pytest.mark.parametrize("part", ["tasks/squad/head.safetensors", "encoder/config.json", "tasks/stsb/task.json"])
def test_missing_parts_are_named(copy, part):
    (copy / part).unlink()
    with pytest.raises(ContentError, match=f"lacks {part}; copy the whole folder again"):
        SharedModel.open(copy)


def test_verify_compares_its_files_with_their_checksums(copy):
    whole = verify([copy])
    assert whole["ok"]
    head = copy / "tasks" / "mnli" / "head.safetensors"
    save_file({name: value + 1 for name, value in load_file(head).items()}, head)
    changed = verify([copy])
    assert [Path(one["path"]).name for one in changed["findings"]] == ["shared.json"]
    assert "tasks/mnli/head.safetensors does not match its checksum" in changed["findings"][0]["detail"]


def test_a_missing_ticket_is_no_task_without_one(copy):
    shutil.rmtree(copy / "tasks" / "mnli" / "ticket")
    with pytest.raises(ContentError, match="lacks the ticket of mnli; copy the whole folder again"):
        SharedModel.open(copy).ticket("mnli")


def test_an_edited_description_and_another_version(copy):
    body = json.loads((copy / "shared.json").read_text())
    (copy / "shared.json").write_text(json.dumps(body | {"tasks": ["stsb"]}))
    with pytest.raises(ContentError, match=r"shared\.json does not match its own checksum: it was edited or cut off"):
        SharedModel.open(copy)
    (copy / "shared.json").write_text(json.dumps(body | {"format_version": 7}))
    with pytest.raises(ContentError, match="has format version 7, this version reads 1; upgrade winning-tickets"):
        SharedModel.open(copy)


def test_nothing_is_left_where_saving_failed(made, tmp_path, monkeypatch):
    _, model, plms, infos, hashed = made
    monkeypatch.setattr(TaskInfo, "write", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        save_shared(tmp_path / "out", model, plms["mnli"].tokenizer, infos, tickets={}, base_hash=hashed)
    assert list(tmp_path.iterdir()) == []


def test_a_head_of_another_shape_is_refused(copy):
    path = copy / "tasks" / "mnli" / "head.safetensors"
    save_file({"classifier.weight": load_file(path)["classifier.weight"]}, path)
    body = json.loads((copy / "shared.json").read_text())
    body.pop("checksum")
    body["files"]["tasks/mnli/head.safetensors"] = sha256(path)
    (copy / "shared.json").write_text(json.dumps(body | {"checksum": digest(body, 64)}))
    with pytest.raises(ContentError, match=r"holds classifier.weight, and a model for mnli has classifier.bias, class"):
        SharedModel.open(copy).load_task("mnli")
