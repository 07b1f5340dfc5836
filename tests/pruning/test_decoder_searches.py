"""Every method on decoders: exact counts, resumption by what is read, and what is refused."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from samples.tiny_decoders import make_decoder
from samples.tiny_models import TEXT, make_model
from winning_tickets import Runtime, SearchConfig, Ticket, search, search_all
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.token_cache import tokenize
from winning_tickets.models.architectures import prunable_views
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import ContentError, UsageError

QUIET = Runtime(quiet=True)
SMALL = {"segments": "packed:16", "batch_tokens": 64}
TRAINED = SMALL | {"method": "mask-training", "steps": 2}
ROUNDS = SMALL | {"method": "imp", "round_steps": 2, "objective": "clm"}
METHODS = {
    "random": {"method": "random"},
    "global": {"method": "magnitude", "ranking": "global"},
    "wanda": SMALL | {"method": "wanda"},
    "snip": SMALL | {"method": "snip", "objective": "clm", "steps": 2},
    "movement": SMALL | {"method": "movement", "objective": "clm", "steps": 2},
    "imp": ROUNDS | {"rewind": "step:1", "sparsity": (0.3, 0.5)},
    "kd": TRAINED | {"objective": "kd"},
    "clm, row": TRAINED | {"objective": "clm", "ranking": "row"},
    "logits, global": TRAINED | {"objective": "logits", "ranking": "global"},
    "all, 2:4": TRAINED | {"objective": "clm+kd+logits", "pattern": "2:4"},
    "ladder": TRAINED | {"objective": "clm+kd", "sparsity": (0.3, 0.5)},
    "embeddings": TRAINED | {"objective": "clm+logits", "scope": "encoder+embeddings", "train_embeddings": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    (folder / "text.txt").write_text("\n".join(TEXT))
    for kind in ("gpt2", "gpt_neox", "qwen2", "phi3"):
        make_decoder(folder / kind, kind)
    make_model(folder / "bert")
    return folder


def find(folder, out, kind, **settings):
    config = (
        SearchConfig(model=str(folder / kind), **{"sparsity": 0.5} | settings)
        if "pattern" not in settings
        else (SearchConfig(model=str(folder / kind), **settings))
    )
    if config.reads_corpus:
        config = config.model_copy(update={"corpus": str(folder / "text.txt")})
    return search_all(config, out, QUIET)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen2", "phi3"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_exact_tickets(folder, tmp_path, method, kind):
    settings = METHODS[method]
    for sparsity, ticket in find(folder, tmp_path / "t", kind, **settings).items():
        by_matrix = ticket.sparsity_by_matrix()
        assert len(by_matrix) == 12 + (kind in ("qwen2", "phi3")) * 2 + (method == "embeddings")
        if settings.get("ranking") == "global":
            assert ticket.sparsity == pytest.approx(sparsity, abs=1 / ticket.total)
        else:
            for name, found in by_matrix.items():
                entries = (
                    ticket.masks[name].shape[-1] if method in ("wanda", "clm, row") else ticket.masks[name].numel()
                )
                assert found == pytest.approx(int(sparsity * entries + 1e-9) / entries), name
        if method in ("wanda", "clm, row"):
            for mask in ticket.masks.values():
                assert mask.sum(-1).unique().numel() == 1
        if method == "all, 2:4":
            for mask in ticket.masks.values():
                assert (mask.unflatten(-1, (-1, 4)).sum(-1) == 2).all()


def test_wanda_is_the_published_one(folder, tmp_path):
    """|W| times the norm of the input, compared in each output row; inputs by hooks of its own on the plain model."""
    (ticket,) = find(folder, tmp_path / "t", "gpt2", **METHODS["wanda"]).values()
    plm = load_plm(str(folder / "gpt2"), head="clm")
    stream = tokenize(load_corpus(str(folder / "text.txt"), "train"), plm.tokenizer, end=plm.end_of_text)
    batches = CorpusBatches(stream, plm.tokenizer, **SMALL, n_batches=8, seed=0, shuffle=True, mlm_probability=None)
    seen = []
    block = plm.encoder.h[1].mlp.c_proj
    block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().flatten(0, 1)))
    for index in range(8):
        plm.model(batches[index]["input_ids"])
    norms = torch.cat(seen).double().square().sum(0).sqrt()
    scores = block.weight.detach().double().abs() * norms[:, None]  # Conv1D: (in, out)
    expected = torch.zeros_like(scores, dtype=torch.bool)
    expected.scatter_(0, scores.topk(len(norms) // 2, dim=0).indices, True)
    assert torch.equal(ticket.masks["h.1.mlp.c_proj.weight.T"], expected.t())


def test_magnitudes_of_a_part_are_compared_inside_it(folder, tmp_path):
    (ticket,) = find(folder, tmp_path / "t", "gpt_neox", method="magnitude").values()
    weight = (
        AutoModelForCausalLM.from_pretrained(folder / "gpt_neox").gpt_neox.layers[0].attention.query_key_value.weight
    )
    keys = weight.detach().view(4, 3, 4, 16)[:, 1].abs()
    kept = ticket.masks["layers.0.attention.query_key_value.weight[1/3x4]"]
    assert kept.sum() == kept.numel() // 2
    assert keys[kept].min() >= keys[~kept].max()


def test_documents_are_packed_with_the_end_of_text_between_them(folder):
    plm = load_plm(str(folder / "gpt2"))
    corpus = load_corpus(str(folder / "text.txt"), "train")
    tokens = tokenize(corpus, plm.tokenizer, end=plm.end_of_text).tokens
    assert (
        plm.tokenizer.decode(tokens[: len(TEXT[0]) + 1 + len(TEXT[1]) + 1])
        == f"{TEXT[0]}<|endoftext|>{TEXT[1]}<|endoftext|>"
    )
    assert (tokens == 0).sum() == len(TEXT)
    settings = SMALL | {"n_batches": 1, "seed": 0, "shuffle": False, "mlm_probability": None}
    batch = CorpusBatches.read(corpus, plm.tokenizer, end=plm.end_of_text, **settings)[0]
    assert batch["input_ids"].flatten().tolist() == tokens[:64].tolist()
    assert 0 not in tokenize(corpus, plm.tokenizer).tokens  # another entry of the cache


def test_imp_rewinds_and_a_search_leaves_the_dense_weights(folder, tmp_path):
    tickets = find(folder, tmp_path / "t", "gpt2", **METHODS["imp"])
    first, second = tickets.values()
    assert all((first.masks[name] | ~mask).all() for name, mask in second.masks.items())
    assert (tmp_path / "t" / "states" / "step-000001.safetensors").is_file()


def test_mask_training_lowers_the_loss_that_it_minimizes(folder, tmp_path):
    from winning_tickets import EvaluateConfig, evaluate

    def measured(ticket):
        config = EvaluateConfig(
            target=str(ticket),
            objectives=("clm", "kd", "logits"),
            corpus=str(folder / "text.txt"),
            segments="packed:16",
        )
        return evaluate(config, QUIET)

    find(folder, tmp_path / "magnitude", "qwen2", method="magnitude")
    before = measured(tmp_path / "magnitude")
    for name in ("clm", "kd", "logits"):
        settings = TRAINED | {"objective": name, "steps": 25, "learning_rate": 2e-3, "score_init": "rank"}
        find(folder, tmp_path / name, "qwen2", **settings)
        assert measured(tmp_path / name)[f"{name}_loss"] < 0.97 * before[f"{name}_loss"]


REFUSED = {
    "mlm of a decoder": (
        {"model": "gpt2", "objective": "mlm"},
        UsageError,
        "gpt2 is a decoder, which predicts the next",
    ),
    "clm of an encoder": (
        {"model": "bert", "objective": "clm"},
        UsageError,
        "bert is an encoder, which predicts masked",
    ),
    "both": ({"objective": "mlm+clm"}, UsageError, "mlm, which is for encoders, and clm, for decoders; give one"),
    "a pattern that does not divide": ({"pattern": "2:5"}, UsageError, "needs input dimensions that 5 divides"),
    "a short corpus": (
        {"corpus": "short.txt"},
        ContentError,
        r"The corpus is shorter than one segment: found 4 tokens, needed 16 \(--segments packed\)",
    ),
    "long segments": ({"segments": "packed:256", "batch_tokens": 256}, UsageError, "longer than the 128 tokens"),
    "a tokenizer without end": ({"model": "endless"}, UsageError, "has no end-of-text token to put between documents"),
    "tokens to mask": ({"kd_masked_tokens": 1}, UsageError, "no mask token"),
    "an unknown architecture": (
        {"model": "unknown"},
        UsageError,
        "Unknown architecture 'bloom'.*To add it, write one entry",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_search_refuses(folder, tmp_path, monkeypatch, name):
    from transformers import BloomConfig

    from samples.tiny_decoders import byte_tokenizer

    settings, error, message = REFUSED[name]
    monkeypatch.chdir(folder)
    (folder / "short.txt").write_text("abc")
    make_decoder(folder / "endless")
    byte_tokenizer(end=False).save_pretrained(folder / "endless")
    (folder / "unknown").mkdir(exist_ok=True)
    BloomConfig().save_pretrained(folder / "unknown")
    config = {"model": "gpt2", "corpus": "text.txt", "objective": "kd"} | TRAINED | settings
    with pytest.raises(error, match=message):
        search(SearchConfig(**config), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_a_ticket_survives_its_files(folder, tmp_path):
    for kind in ("gpt2", "gpt_neox", "phi3"):
        (ticket,) = find(folder, tmp_path / kind, kind, method="random").values()
        again = Ticket.from_pretrained(tmp_path / kind)
        assert again.id == ticket.id
        plm = load_plm(str(folder / kind))
        again.apply_(plm.model)
        for name, view in prunable_views(plm.encoder, list(again.masks)).items():
            assert torch.equal(view != 0, again.masks[name]), name
