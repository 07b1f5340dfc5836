"""Models that bring code of their own are refused; nobody is asked, and nothing of theirs runs."""

import builtins
import json

import pytest

from samples.tiny_models import make_model
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import UsageError

CODE = {"AutoConfig": "custom.Config", "AutoModel": "custom.Model", "AutoModelForMaskedLM": "custom.Model"}


@pytest.fixture
def bringing_code(tmp_path, monkeypatch):
    """Make a tiny BERT whose files are changed so that they ask for the code beside them."""

    def asked(*words):
        pytest.fail("somebody was asked")

    def make(file="config.json", **changes):
        model = make_model(tmp_path / "m", head="none")
        content = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps(content | changes))
        (model / "custom.py").write_text("raise SystemExit('it ran')")
        return str(model)

    monkeypatch.setattr(builtins, "input", asked)
    return make


@pytest.mark.parametrize("head", ["none", "mlm", "classification"])
def test_a_model_of_an_unknown_kind_with_code_is_refused(bringing_code, head):
    model = bringing_code(model_type="mine", auto_map=CODE)
    with pytest.raises(UsageError, match="Could not find the model .* contains custom code"):
        load_plm(model, head=head)


def test_the_code_of_a_model_of_a_known_kind_is_passed_over(bringing_code):
    assert type(load_plm(bringing_code(auto_map=CODE)).model).__name__ == "BertModel"


def test_so_is_that_of_its_tokenizer(bringing_code):
    code = {"AutoTokenizer": ["custom.Tokenizer", "custom.Tokenizer"]}
    model = bringing_code("tokenizer_config.json", tokenizer_class="Mine", auto_map=code)
    assert load_plm(model).tokenizer.is_fast
