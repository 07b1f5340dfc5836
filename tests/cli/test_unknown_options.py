"""Options of other programs are answered with ours, or with what to do instead."""

import pytest
from typer.main import get_command

from winning_tickets.cli import app
from winning_tickets.cli.unknown_options import _NAMES, _SENTENCES, advice


def context(verb):
    command = get_command(app).commands[verb]
    return command.context_class(command)


@pytest.mark.parametrize(
    ("verb", "name", "answer"),
    [
        ("search", "--amount", "Give --sparsity."),
        ("search", "--learning_rate", "Give --learning-rate."),
        ("search", "--epochs", "Give --steps."),
        ("search", "--dataset", "Give --task for a task, or --corpus for text."),
        (
            "search",
            "--density",
            "Give --sparsity, the share of weights that are pruned: a density of 0.3 is --sparsity 0.7.",
        ),
        ("search", "--model_name_or_path", "The model is the first argument, without an option."),
        ("transfer", "--num_train_epochs", "Give --epochs."),
        ("transfer", "--per_device_train_batch_size", "Give --batch-size."),
        ("transfer", "--do_train", "A run trains and evaluates without being asked."),
        ("transfer", "--resume-from-checkpoint", "The same command resumes a run that was stopped."),
        ("transfer", "--density", ""),
        ("compare", "--amount", ""),
        ("search", "--zzz", ""),
    ],
)
def test_a_name_of_another_program_is_answered(verb, name, answer):
    assert advice(name, context(verb)) == answer


def test_every_answer_is_given_somewhere():
    contexts = [context(verb) for verb in ("search", "transfer", "export", "evaluate")]
    for answer, names in [*((f"Give {option}.", names) for option, names in _NAMES.items()), *_SENTENCES.items()]:
        for name in names:
            assert any(advice(f"--{name}", one) for one in contexts), (answer, name)
