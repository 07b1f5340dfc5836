"""Tables of costs: exact where they are counted, monotone and kept on this machine where they are timed."""

import json

import numpy as np
import pytest

from samples.tiny_models import make_model
from winning_tickets import Runtime
from winning_tickets.deploy import costs, measure
from winning_tickets.deploy.costs import cost_table
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.errors import TrainingError

QUIET = Runtime(quiet=True, device="cpu")
DENSE = [(2, 64), (2, 64)]


@pytest.fixture
def bert(tmp_path):
    return load_plm(str(make_model(tmp_path / "bert", "bert", "none")))


@pytest.mark.parametrize("counted", ["flops", "size"])
def test_counted_costs_add_up_to_those_of_the_model(bert, counted):
    table = cost_table(bert, counted, 2, 8, runtime=QUIET)
    assert table.of(DENSE) == pytest.approx(1)
    assert table.sizes[0] == 0
    assert table.sizes[-1] == 64
    small = costs._variant(measure.dense_twin(bert), (1, table.sizes[3]))
    count = {
        "flops": lambda plm: measure.forward_flops(plm, 2, 8),
        "size": lambda plm: sum(value.numel() for value in plm.encoder.parameters()),
    }[counted]
    share = count(small) / count(measure.dense_twin(bert))
    # One bias of an FFN's output stays in the table where the FFN goes.
    assert table.of([(1, table.sizes[3])] * 2) == pytest.approx(share, rel=0.02)
    assert table.of([(2, 64), (0, 0)]) < 1 - (1 - table.base) / 2 + 1e-9


def test_times_never_fall_with_more_units_and_are_measured_once(bert, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("WINNING_TICKETS_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    calls, noise = [], 0.01

    def noisy(passes, repeats, device, bf16):
        # As many seconds as the encoder has parameters in its layers, and noise.
        calls.append(len(passes))
        numbers = [sum(value.numel() for value in one.func.parameters()) - 10_000 for one in passes]
        return np.array(numbers) * (1 + noise * generator.random((repeats, len(passes))))

    monkeypatch.setattr(measure, "take_turns", noisy)
    table = cost_table(bert, "latency", 2, 8, runtime=QUIET)
    assert calls
    for row in (table.heads, table.neurons):
        assert row[0] == 0
        assert np.all(np.diff(row) >= 0)
    assert table.of(DENSE) == pytest.approx(1)
    calls.clear()
    assert cost_table(bert, "latency", 2, 8, runtime=QUIET) == table
    assert not calls
    assert cost_table(bert, "latency", 2, 16, runtime=QUIET).about["length"] == 16
    assert calls
    # A table that was cut off is measured again.
    calls.clear()
    for file in (tmp_path / "cache" / "costs").iterdir():
        file.write_text(json.dumps({"counted": "latency"}))
    cost_table(bert, "latency", 2, 8, runtime=QUIET)
    assert calls
    # Times that contradict each other are used once, with a warning, and not kept.
    noise, once = 3, len(calls)
    calls.clear()
    monkeypatch.setenv("WINNING_TICKETS_CACHE", str(tmp_path / "busy"))
    assert cost_table(bert, "latency", 2, 8, runtime=Runtime(device="cpu")).about["scatter"] > 0.05
    assert "of a layer's time faster than fewer" in caplog.text
    assert len(calls) == 3 * once
    assert not (tmp_path / "busy" / "costs").exists()


def test_times_that_say_nothing_are_no_table(bert, monkeypatch, tmp_path):
    monkeypatch.setenv("WINNING_TICKETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "take_turns", lambda passes, repeats, *_, **__: np.ones((repeats, len(passes))))
    with pytest.raises(TrainingError, match="The measured times say nothing.* give --by flops"):
        cost_table(bert, "latency", 2, 8, runtime=QUIET)
    assert not (tmp_path / "cache" / "costs").exists()


def test_a_whole_structure_is_timed_next_to_the_dense_model(bert, monkeypatch):
    def by_size(passes, repeats, device, bf16):
        sizes = [sum(value.numel() for value in one.func.parameters()) for one in passes]
        return np.array([sizes] * repeats, dtype=float)

    monkeypatch.setattr(measure, "take_turns", by_size)
    assert costs.time_share(bert, DENSE, 2, 8, runtime=QUIET) == 1
    thin, fewer = (
        costs.time_share(bert, [(2, 64), (1, 5)], 2, 8, runtime=QUIET),
        costs.time_share(bert, [(2, 64), (0, 0)], 2, 8, runtime=QUIET),
    )
    assert fewer < thin < 1


def test_sizes_of_an_ffn_are_multiples_of_32_where_there_are_enough():
    assert [costs._neuron_step(neurons) for neurons in (1536, 3072, 1152, 64, 8)] == [128, 256, 96, 5, 1]


@pytest.mark.parametrize("content", [b'{"counted": ', b"\xff", b"[]"])
def test_a_damaged_table_is_measured_again(tmp_path, content):
    (tmp_path / "table.json").write_bytes(content)
    assert costs.stored_costs(tmp_path / "table.json") is None
