"""Signals during a training: none is lost, none is taken for another."""

import signal
from types import SimpleNamespace

import pytest

from winning_tickets.runs import distributed
from winning_tickets.training.trainer import StopOnSignal


class ToldError(Exception):
    """Raised by a handler of the command."""


def step_of(stop, step=3):
    """Whether a step's end asks for a stop, after a checkpoint."""
    trainer = SimpleNamespace(step=step, max_steps=9, should_save=False, should_stop=False)
    stop.on_step_end(trainer)
    assert trainer.should_save == trainer.should_stop
    return trainer.should_stop


def test_a_signal_that_comes_while_all_agree_stops_at_the_next_step(monkeypatch):
    def agree(value):
        signal.raise_signal(signal.SIGTERM)
        return value

    with StopOnSignal() as stop:
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "all_reduce_max", agree)
            assert not step_of(stop)
        assert step_of(stop)
        assert stop.signal_number == signal.SIGTERM


def test_the_first_signal_of_a_process_after_the_others_is_no_second_one(monkeypatch):
    monkeypatch.setattr(distributed, "all_reduce_max", lambda value: 15)
    with StopOnSignal() as stop:
        assert step_of(stop)
        signal.raise_signal(signal.SIGTERM)  # as launchers send to all
        assert step_of(stop)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, None), (signal.SIGTERM, 143)])
def test_a_second_signal_stops_at_once(first, number, code):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells may have it ignored
    try:
        with StopOnSignal():
            signal.raise_signal(first)
            with pytest.raises(KeyboardInterrupt if code is None else SystemExit) as caught:
                signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGINT, before)
    assert getattr(caught.value, "code", None) == code


def test_a_second_signal_does_what_the_command_wants():
    def tell(number, frame):
        raise ToldError

    before = signal.signal(signal.SIGTERM, tell)
    try:
        with StopOnSignal():
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(ToldError):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is tell
    finally:
        signal.signal(signal.SIGTERM, before)
