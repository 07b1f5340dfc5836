"""Signals end the program, also where their exception is dropped."""

import contextlib
import signal
import time

import pytest

from winning_tickets.runs import signals

ENDINGS = [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signals.stop_on_signals()
    yield
    signals.leave()
    for number, handler in before.items():
        signal.signal(number, handler)


def dropped(number):
    """Take a signal as some packages do, with a bare `except` around an import, and wait."""
    with contextlib.suppress(BaseException):
        signal.raise_signal(number)
    time.sleep(5)


@pytest.mark.parametrize(("number", "kind"), ENDINGS)
def test_a_dropped_signal_comes_again(number, kind):
    with pytest.raises(kind) as ended:
        dropped(number)
    signals.leave()
    assert kind is KeyboardInterrupt or ended.value.code == 143


def test_nothing_is_sent_once_the_program_ends(monkeypatch):
    sent = []
    monkeypatch.setattr(signals, "_send", lambda *what: sent.append(what))
    earlier = signals._Terminated(143)
    signals.leave()
    signals.stop_on_signals()  # of another program in this process
    del earlier
    time.sleep(3 * signals._PAUSE_SECONDS)
    assert sent == []
