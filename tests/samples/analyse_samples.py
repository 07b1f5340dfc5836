"""What the tests of analyses share: transfer folders written by hand, and the command line in this process."""

import json
import signal
import sys

import pytest

from winning_tickets import cli


def command_line(capsys, monkeypatch):
    """A function that runs a command line: (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["tickets", *map(str, words)])
        # Under `python -m pytest` the program would be called `python -m pytest.tickets`.
        monkeypatch.setattr(sys.modules["__main__"], "__package__", None, raising=False)
        before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
        with pytest.raises(SystemExit) as ended:
            cli.main()
        for number, handler in before:
            signal.signal(number, handler)
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def transfer_run(path, task, scores, *, ticket="t", sparsity=0.6, metric="accuracy", summary=True, **settings):
    """A transfer folder with a result for each seed; `best` is the final score plus 0.1."""
    common = {
        "task": task,
        "primary_metric": metric,
        "ticket_id": ticket,
        "sparsity": sparsity,
        "steps": 10,
        "train_examples": 100,
    }
    common |= settings
    for seed, score in scores.items():
        (path / f"seed-{seed}").mkdir(parents=True)
        own = {"verb": "transfer-seed", "seed": seed, "final": {metric: score}, "best": {metric: score + 0.1}}
        (path / f"seed-{seed}" / "result.json").write_text(json.dumps(common | own))
    if summary:
        final = list(scores.values())
        metrics = {metric: {"final": {"values": final}, "best": {"values": [score + 0.1 for score in final]}}}
        top = {"verb": "transfer", "seeds": list(scores), "metrics": metrics, "model": "m", "base_hash": "h"}
        (path / "result.json").write_text(json.dumps(common | {"learning_rate": 1e-4} | top | settings))
    return path
