"""Models that bring code of their own are refused unless the user trusts it; nobody is asked, and nothing runs."""

import builtins
import json

import pytest
import torch

from samples.tiny_models import TEXT, make_model
from winning_tickets import Runtime, SearchConfig, Ticket, measure, search, transfer
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.directory import is_trusted, trusting
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


OWN = """
from transformers import BertConfig, BertModel

class Config(BertConfig):
    model_type = "mine"

class Model(BertModel):
    config_class = Config
"""


CLASSIFIER = """
from transformers import BertForSequenceClassification

class Classifier(BertForSequenceClassification):
    config_class = Config
"""


@pytest.fixture
def own_kind(bringing_code, tmp_path):
    """A model of a kind that is in no table, whose code makes layers like BERT's."""
    code = {"AutoConfig": "custom.Config", "AutoModel": "custom.Model"}
    model = bringing_code(model_type="mine", auto_map=code)
    (tmp_path / "m" / "custom.py").write_text(OWN)
    return model


def test_trusted_code_runs_and_the_record_says_so(own_kind, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    settings = {"method": "magnitude", "sparsity": 0.5}
    with pytest.raises(UsageError, match="contains custom code. If you trust its author, --trust-remote-code runs it"):
        search(own_kind, out=tmp_path / "no", **settings)
    ticket = search(own_kind, out=tmp_path / "t", trust_remote_code=True, device="cpu", quiet=True, **settings)
    assert ticket.base.model_type == "mine"
    assert len(ticket.masks) == 1 + 2 * 6
    assert json.loads((tmp_path / "t" / "result.json").read_text())["trust_remote_code"] is True
    plain = search(SearchConfig(model=str(make_model(tmp_path / "p")), **settings), tmp_path / "u", Runtime(quiet=True))
    assert plain.pruned == ticket.pruned
    assert "trust_remote_code" not in json.loads((tmp_path / "u" / "result.json").read_text())


def test_trust_ends_with_its_run(own_kind, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with trusting(remote_code=True):
        assert type(load_plm(own_kind).model).__name__ == "Model"
    with pytest.raises(UsageError, match="--trust-remote-code"):
        load_plm(own_kind)


@pytest.fixture
def tickets(tickets, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tickets


REFUSED = "contains custom code. If you trust its author, --trust-remote-code runs it"


def test_other_commands_trust_only_where_they_are_told(own_kind, tmp_path, tickets):
    made = tmp_path / "t"
    search(own_kind, out=made, method="magnitude", sparsity=0.5, trust_remote_code=True, quiet=True)
    commands = {
        "measure": [made, "--batch", "1", "--length", "8", "--repeats", "1", "--threads", "1", "--quiet"],
        "export": [made, "--format", "masked", "--out", tmp_path / "masked"],
        "mask import": [tmp_path / "masks" / "mask.pt", "--base", own_kind, "--out", tmp_path / "imported"],
    }
    (tmp_path / "masks").mkdir()
    ticket = Ticket.from_pretrained(made)
    masks = {f"bert.{name.removesuffix('.weight')}.weight_mask": mask.float() for name, mask in ticket.masks.items()}
    torch.save(masks, tmp_path / "masks" / "mask.pt")
    for command, words in commands.items():
        code, out, err = tickets(*command.split(), *words, "--json")
        assert (code, out) == (2, "")
        assert REFUSED in err
        code, out, err = tickets(*command.split(), *words, "--trust-remote-code", "--json")
        assert code == 0, err
        assert json.loads(out)["trust_remote_code"] is True
        assert not is_trusted()
    assert Ticket.from_pretrained(tmp_path / "imported").id == ticket.id
    assert json.loads((tmp_path / "masked" / "export.json").read_text())["trust_remote_code"] is True
    measured = measure(tmp_path / "masked", (1,), (8,), repeats=1, runtime=Runtime(trust_remote_code=True, quiet=True))
    assert measured.parameters["non_zero"] < measured.parameters["encoder"]


def test_a_fine_tuned_model_with_code_predicts_where_it_is_trusted(bringing_code, tmp_path, tickets):
    code = {
        "AutoConfig": "custom.Config",
        "AutoModel": "custom.Model",
        "AutoModelForSequenceClassification": "custom.Classifier",
    }
    model = bringing_code(model_type="mine", auto_map=code)
    (tmp_path / "m" / "custom.py").write_text(OWN + CLASSIFIER)
    rows = [{"text": text, "label": "ab"["cat" in text]} for text in TEXT]
    settings = dict(steps=1, batch_size=8, max_length=32, save_model=True, quiet=True)
    transfer(model, tmp_path / "run", train=rows, validation=rows[:8], trust_remote_code=True, **settings)
    words = ("predict", tmp_path / "run", "--text", TEXT[0], "--json")
    code, out, err = tickets(*words)
    assert (code, out) == (2, "")
    assert REFUSED in err
    code, out, err = tickets(*words, "--trust-remote-code")
    assert code == 0, err
    assert json.loads(out)["trust_remote_code"] is True
