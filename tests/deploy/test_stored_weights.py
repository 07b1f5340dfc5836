"""Exports keep the types of the checkpoint's weights, and say the sizes of both as their files have them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from samples.structured_tickets import structured_ticket
from samples.tiny_decoders import make_decoder
from samples.tiny_models import make_model
from winning_tickets import Runtime, SearchConfig, Ticket, export, measure, search
from winning_tickets.data.tasks import TASKS
from winning_tickets.deploy.stored_weights import StoredWeights
from winning_tickets.models.heads import load_for_task
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.training.saved_model import TaskInfo, save_model

QUIET = Runtime(quiet=True, device="cpu")
SHORT = [torch.bfloat16, torch.float16]


def rewrite(folder, change):
    """Change the stored tensors of a checkpoint, and the type that its configuration names to the first one's."""
    tensors = {name: change(name, value) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def short(folder, dtype):
    return rewrite(folder, lambda name, value: value.to(dtype))


def files(folder):
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def check_masked(folder, base, ticket):
    """Every weight of an export is that of the base, or +0.0, to the bit and in its type."""
    dense, found = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    for name, value in dense.items():
        mask = next((one for own, one in ticket.masks.items() if name.endswith(own)), torch.tensor(True))
        expected = torch.where(mask, value, torch.zeros((), dtype=value.dtype))
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name].view(torch.uint8), expected.view(torch.uint8)), name


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("kind", ["encoder", "MLM", "tied decoder", "untied decoder"])
def test_every_export_has_the_type_of_the_checkpoint(tmp_path, kind, dtype):
    if "decoder" in kind:
        base = make_decoder(tmp_path / "m", tie_word_embeddings=kind.startswith("tied"))
    else:
        base = make_model(tmp_path / "m", head="mlm" if kind == "MLM" else "none")
    structured_ticket(short(base, dtype), tmp_path / "t")
    search(SearchConfig(model=str(base), method="magnitude", scope="encoder"), tmp_path / "u", QUIET)
    name = str(dtype).removeprefix("torch.")
    for form in ("masked", "compact"):
        result = export(tmp_path / "t", form, tmp_path / form)
        assert result["checkpoint"] == {"bytes": files(base), "dtype": name}
        assert (result["bytes"], result["dtype"]) == (files(tmp_path / form), name)
        assert (
            f"Its weights take {result['bytes']:,} bytes ({name}); those of {base} take {files(base):,} bytes ("
            in (result["note"])
        )
        assert {value.dtype for value in load_file(tmp_path / form / "model.safetensors").values()} == {dtype}
        assert json.loads((tmp_path / form / "config.json").read_text())["dtype"] == name
    check_masked(tmp_path / "masked", base, Ticket.from_pretrained(tmp_path / "t"))
    assert files(tmp_path / "compact") < files(base)
    export(tmp_path / "u", "masked", tmp_path / "v")
    check_masked(tmp_path / "v", base, Ticket.from_pretrained(tmp_path / "u"))
    assert files(tmp_path / "v") < 1.02 * files(base)


def test_an_mlm_head_whose_embeddings_are_masked_keeps_its_type(tmp_path):
    base = short(make_model(tmp_path / "m"), torch.bfloat16)
    ticket = search(SearchConfig(model=str(base), method="magnitude"), tmp_path / "t", QUIET)
    export(tmp_path / "t", "masked", tmp_path / "e")
    check_masked(tmp_path / "e", base, ticket)
    model, dense = (AutoModelForMaskedLM.from_pretrained(folder) for folder in (tmp_path / "e", base))
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.cls.predictions.decoder.weight, dense.cls.predictions.decoder.weight)


def test_several_types_stay_as_they_are_exact(tmp_path):
    mixed = {True: torch.float32, False: torch.bfloat16}
    base = rewrite(make_model(tmp_path / "m", head="none"), lambda name, value: value.to(mixed["key" in name]))
    ticket = search(SearchConfig(model=str(base), method="magnitude"), tmp_path / "t", QUIET)
    result = export(tmp_path / "t", "masked", tmp_path / "e")
    assert (result["dtype"], result["checkpoint"]["dtype"]) == ("bfloat16 and float32", "bfloat16 and float32")
    dense, found = load_file(base / "model.safetensors"), load_file(tmp_path / "e" / "model.safetensors")
    for name, value in dense.items():
        mask = ticket.masks.get(name, torch.tensor(True))
        assert torch.equal(found[name].float(), torch.where(mask, value.float(), 0.0))
    assert files(tmp_path / "e") <= files(base)
    assert AutoModel.from_pretrained(tmp_path / "e").dtype == AutoModel.from_pretrained(base).dtype


def test_another_type_is_chosen_by_name(tmp_path):
    base = short(make_model(tmp_path / "m", head="none"), torch.bfloat16)
    structured_ticket(base, tmp_path / "t")
    ids = {export(tmp_path / "t", "masked", tmp_path / "b")["id"]}
    for dtype, size in (("float32", 4), (torch.float16, 2)):
        result = export(tmp_path / "t", "masked", tmp_path / f"e{size}", dtype=dtype)
        ids.add(result["id"])
        found = load_file(tmp_path / f"e{size}" / "model.safetensors").values()
        assert {value.element_size() for value in found} == {size}
        assert result["checkpoint"]["dtype"] == "bfloat16"
    assert len(ids) == 3
    with pytest.raises(UsageError, match=r"Unknown dtype 'float8'.*Known: bfloat16, float16, float32"):
        export(tmp_path / "t", "masked", tmp_path / "f", dtype="float8")
    with pytest.raises(UsageError, match="--dtype float16 cannot be used with --format onnx, whose file"):
        export(tmp_path / "t", "onnx", tmp_path / "f", dtype="float16")
    with pytest.raises(UsageError, match="--dtype float16 is about weights, and a mask-pt has none; leave it out"):
        export(tmp_path / "t", "mask-pt", tmp_path / "f", dtype="float16")
    rewrite(base, lambda name, value: value * 1e9)
    with pytest.raises(ContentError, match=r"has values up to .*e\+\d+, which float16 cannot hold; use --dtype bf"):
        export(tmp_path / "t", "masked", tmp_path / "f", dtype="float16", allow_other_weights=True)
    assert not (tmp_path / "f").exists()


def test_a_fine_tuned_model_is_float32_as_it_was_trained(tmp_path):
    base = short(make_model(tmp_path / "m", head="none"), torch.bfloat16)
    plm = load_for_task(lambda **options: load_plm(str(base), **options), TASKS["rte"])
    ticket = structured_ticket(base, tmp_path / "t")
    ticket.apply_(plm.model)
    save_model(plm, TaskInfo.of(TASKS["rte"], 32, None, ticket.id, sparsity=ticket.sparsity), ticket, tmp_path / "run")
    for form in ("masked", "compact", "encoder"):
        result = export(tmp_path / "run", form, tmp_path / form)
        halved = export(tmp_path / "run", form, tmp_path / f"{form}-16", dtype="bfloat16")
        assert (result["dtype"], halved["dtype"]) == ("float32", "bfloat16")
        assert halved["bytes"] < 0.6 * result["bytes"]
        assert halved["checkpoint"] == {"bytes": files(tmp_path / "run"), "dtype": "float32"}
    again = export(tmp_path / "masked-16", "compact", tmp_path / "again")  # a checkpoint of the shorter type
    assert again["dtype"] == again["checkpoint"]["dtype"] == "bfloat16"
    assert (tmp_path / "masked-16" / "held" / "ticket" / "ticket.json").is_file()


@pytest.mark.parametrize("form", ["shards", "pytorch_model.bin", "in memory"])
def test_sizes_are_those_of_the_files_that_are_loaded(tmp_path, form):
    whole = short(make_model(tmp_path / "m", head="none"), torch.bfloat16)
    model, base = AutoModel.from_pretrained(whole), tmp_path / "b"
    AutoTokenizer.from_pretrained(whole).save_pretrained(base)
    if form == "shards":
        model.save_pretrained(base, max_shard_size="20KB")
        size = files(base)
        save_file({"x": torch.zeros(10_000)}, base / "other.safetensors")  # which nothing loads
    elif form == "in memory":
        size = sum(value.numel() * 2 for value in model.parameters())
    else:
        shutil.copy(whole / "config.json", base)
        torch.save(model.state_dict(), base / form)
        size = (base / form).stat().st_size
    structured_ticket(whole, tmp_path / "t")
    given = {"base": base}
    if form == "in memory":
        given = {"base": model, "tokenizer": AutoTokenizer.from_pretrained(whole)}
    result = export(tmp_path / "t", "masked", tmp_path / "e", **given)
    assert result["dtype"] == result["checkpoint"]["dtype"] == "bfloat16"
    assert result["checkpoint"]["bytes"] == size
    if form != "in memory":
        assert measure(str(base), (1,), (8,), repeats=1, runtime=QUIET)["bytes_on_disk"] == size
        assert StoredWeights.of(str(base)).size == size
