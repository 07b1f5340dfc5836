"""bfloat16 autocast: it is really used, and teacher and student never share its copies of the weights."""

import pytest
import torch

from samples.tiny_models import TEXT, make_model
from winning_tickets import EvaluateConfig, Runtime, SearchConfig, evaluate, search
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.directory import read_log
from winning_tickets.training.execution import attention_for_training

QUIET = Runtime(quiet=True)
BF16 = Runtime(quiet=True, bf16=True)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXT))
    return str(path)


@pytest.fixture
def bert(tmp_path):
    return str(make_model(tmp_path / "bert"))


def test_the_kd_loss_of_a_ticket_is_the_same_in_bfloat16(tmp_path, corpus, bert):
    """Autocast's cache would give the student the teacher's weights, and a loss of zero."""
    config = SearchConfig(model=bert, method="magnitude", sparsity=0.7, scope="encoder")
    search(config, tmp_path / "t", QUIET)
    asked = EvaluateConfig(target=str(tmp_path / "t"), corpus=corpus, segments="packed:16")
    exact, rounded = evaluate(asked, QUIET)["kd_loss"], evaluate(asked, BF16)["kd_loss"]
    assert exact > 0.01
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact


@pytest.mark.parametrize("objective", ["kd", "mlm", "mlm+kd"])
def test_a_search_computes_in_bfloat16_and_learns_the_same(tmp_path, corpus, bert, monkeypatch, objective):
    seen = set()
    linear = torch.nn.functional.linear

    def spy(*args, **options):
        out = linear(*args, **options)
        seen.add(out.dtype)
        return out

    # Not `activation`, whose norms are taken in float32 before training.
    fields = {"objective": objective, "steps": 5, "batch_tokens": 64, "segments": "packed:16", "score_init": "rank"}
    config = SearchConfig(model=bert, corpus=corpus, sparsity=0.5, **fields)
    search(config, tmp_path / "exact", QUIET)
    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    search(config, tmp_path / "rounded", BF16)
    assert seen == {torch.bfloat16}
    for exact, rounded in zip(read_log(tmp_path / "exact"), read_log(tmp_path / "rounded"), strict=True):
        for part in objective.split("+"):
            # CPUs sum products of bfloat16 differently, and masks that differ amplify it: 6 % were seen.
            assert rounded[part] == pytest.approx(exact[part], rel=0.12)


def test_fused_attention_is_replaced_in_training_and_comes_back(bert):
    """On a CPU, in bfloat16, its backward pass is slow; float32 keeps it."""
    model = load_plm(bert, head="mlm").model
    kinds = []
    for bf16 in (True, False):
        with attention_for_training(model, torch.device("cpu"), bf16=bf16):
            kinds.append(model.bert.encoder.layer[0].attention.self.config._attn_implementation)
        kinds.append(model.config._attn_implementation)
    assert kinds == ["eager", "sdpa", "sdpa", "sdpa"]
