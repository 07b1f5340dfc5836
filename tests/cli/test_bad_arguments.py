"""Every command with every wrong argument: the right exit code, one message, nothing on stdout, nothing written."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import typing
from pathlib import Path
from typing import Any

import pytest
import torch

from samples.analyse_samples import transfer_run
from samples.bad_arguments import ANY_TEXT, BASE, ROWS, rows
from samples.bad_values import derived
from samples.tiny_models import TEXT, make_model
from tools.fuzz import seeds
from winning_tickets.cli.application import whole_application
from winning_tickets.models.loading import prunable_names
from winning_tickets.runs.store.store import Store


def leaves(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """All commands by their words."""
    if not hasattr(command, "commands"):
        return {" ".join(path): command}
    return {words: leaf for name, one in command.commands.items() for words, leaf in leaves(one, (*path, name)).items()}


APP = whole_application()
COMMANDS = leaves(APP)
GROUPS = sorted({words.split()[0] for words in COMMANDS if " " in words})


hints = functools.cache(typing.get_type_hints)


def kind_of(command: Any, parameter: Any) -> str:
    """`int`, `float`, `bool`, `str` or `Path`, whatever is around it."""
    text = str(hints(command.callback)[parameter.name])
    return next((kind for kind in ("bool", "str", "Path", "float", "int", "Literal") if kind in text), text)


def options(command: Any) -> list[Any]:
    return [one for one in command.params if one.param_type_name == "option"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Things of every kind, right and wrong."""
    place = tmp_path_factory.mktemp("world")
    seeds.run(place)
    seeds.study(place)
    seeds.task_file(place)
    seeds.importance(place)
    seeds.glue(place / "glue")
    make_model(place / "bert", head="mlm+pooler")  # instead of the model without a head that importances are of
    make_model(place / "roberta", "roberta")
    make_model(place / "plain", head="none")
    for file, row in {"RTE": "{}\ta cat\tb\t{}entailment", "CoLA": "x\t{}\t\ta cat"}.items():
        header = "index\tsentence1\tsentence2\tlabel\n" if file == "RTE" else ""
        text = "\n".join(row.format(i % 2, "not_" * (i % 2)) for i in range(20))
        for split in ("train", "dev"):
            seeds.write(place / "glue" / file / f"{split}.tsv", header + text)
    plm = seeds.load_plm(str(place / "bert"))
    for name in ("ticket", "other", "damaged"):
        ticket = seeds.ticket_of(plm)
        ticket.info = ticket.info.model_copy(
            update={"applies_to": ticket.base.model_copy(update={"name": str(place / "bert")})}
        )
        ticket.save_pretrained(place / name)
        (place / name / "config.json").write_text(json.dumps({"verb": "search", "id": f"search-{name}", "config": {}}))
    description = (place / "damaged" / "ticket.json").read_text()
    (place / "damaged" / "ticket.json").write_text(description.replace('"seed": 0', '"seed": 1'))
    seeds.ticket_of(plm, gates=True).save_pretrained(place / "structured")
    for name in ("run", "dense"):
        for file in (place / name).iterdir():
            file.unlink()
    transfer_run(place / "run", "rte", {0: 0.5, 1: 0.6}, batch_size=8, max_length=64, data_hash="d")
    transfer_run(place / "dense", "rte", {0: 0.7, 1: 0.8}, ticket=None, sparsity=0.0)
    made = Store(place / "store")
    made.describe("done", "transfer", {"task": "rte"})
    with made.claim("done"):
        pass
    for name, text in {
        "corpus.txt": "\n".join(TEXT),
        "file.txt": "one line",
        "empty.txt": "\n\n",
        "empty.csv": "text,label\n",
        "ragged.csv": "text,label\na\n",
        "rows.csv": "text,label\n" + "\n".join(f"{line},{'ab'[i % 2]}" for i, line in enumerate(TEXT[:6])),
        "wrong.yaml": "stps: 3\nstepz: 4\n",
        "foreign/notes.txt": "mine",
        "wrong/result.json": "[]",
    }.items():
        seeds.write(place / name, text)
    (place / "binary").write_bytes(b"\xff\xfe\x00")
    (place / "empty").mkdir()
    names = prunable_names(plm, "encoder")
    torch.save(
        {f"bert.{name}_mask": torch.ones(plm.encoder.get_parameter(name).shape) for name in names}, place / "mask.pt"
    )
    list(made.records())  # which reads them into the store's cache
    return place


def contents(place: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder."""
    found, folders = {}, [str(place)]
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                known = entry.stat()
                found[entry.path] = (known.st_size * entry.is_file(), known.st_mtime_ns)
                folders += [entry.path] if entry.is_dir() else []
    return {os.path.relpath(path, place): known for path, known in found.items()}


@pytest.fixture(scope="module")
def untouched(world):
    """The contents that no command may change; tests that add a file of their own update them."""
    return contents(world)


@pytest.fixture
def refused(world, untouched, tickets, monkeypatch):
    """Run a command line that must be refused."""
    monkeypatch.chdir(world)

    def run(command: str, line: str, code: int, message: str) -> str:
        before = dict(untouched)
        found, out, err = tickets(*command.split(), *shlex.split(line))
        after = contents(world)
        for name in {Path(path).parts[0] for path in after} - {Path(path).parts[0] for path in before}:
            shutil.rmtree(world / name) if (world / name).is_dir() else (world / name).unlink()
        if after != before:
            untouched.clear()
            untouched.update(contents(world))
        assert (found, out) == (code, ""), err
        assert [line[:7] for line in err.splitlines()].count("Error: ") == err.startswith("Error: ") == 1
        assert "Traceback" not in err
        assert message in err
        assert len(err) < 2500, "too long to be read"
        assert after == before, "something was written"
        return err

    return run


def test_every_command_has_a_valid_line_and_rows():
    assert BASE.keys() == ROWS.keys() == COMMANDS.keys()


@pytest.mark.parametrize(("command", "line", "code", "message"), rows())
def test_wrong_values(refused, command, line, code, message):
    refused(command, line, code, message)


PAIRS = [
    (command, *pair) for command, one in COMMANDS.items() for pair in derived(command, one.params, hints(one.callback))
]


@pytest.mark.parametrize(("command", "option", "value", "said"), PAIRS)
def test_values_that_the_type_of_an_option_excludes(refused, command, option, value, said):
    err = refused(command, f"{BASE[command]} {option} {value}", 2, said[0])
    assert [words for words in said if words not in err] == [], err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_with_a_value_has_a_row(command):
    spoilt = " ".join(line for name, line, _, _ in rows() if name == command)
    spoilt += " ".join(f" {option} {value}" for name, option, value, _ in PAIRS if name == command)
    for option in options(COMMANDS[command]):
        name = option.opts[0]
        if kind_of(COMMANDS[command], option) != "bool" and name not in ANY_TEXT:
            assert f"{name} " in f"{spoilt} ", f"tickets {command} {name}: add a row to tests/bad_arguments.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_arguments_and_values(refused, command):
    words = shlex.split(BASE[command])
    for one in COMMANDS[command].params:
        if one.param_type_name == "argument" and one.required:
            first = next(iter(one for one in COMMANDS[command].params if one.param_type_name == "argument"))
            if one is first:
                start = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
                refused(command, shlex.join(words[start:]), 2, "Missing argument")
        elif one.param_type_name == "option" and one.required:
            place = words.index(one.opts[0])
            refused(command, shlex.join(words[:place] + words[place + 2 :]), 2, f"Missing option '{one.opts[0]}'")
    valued = [one.opts[0] for one in options(COMMANDS[command]) if kind_of(COMMANDS[command], one) != "bool"]
    for name in valued[-1:]:
        refused(command, f"{BASE[command]} {name}", 2, name)


@pytest.mark.parametrize("command", COMMANDS)
def test_misspelt_options_are_answered_with_the_closest(refused, command):
    name = max((one.opts[0] for one in options(COMMANDS[command])), key=len)
    err = refused(command, f"{BASE[command]} {name[:-1]}x", 2, f"No such option: {name[:-1]}x")
    assert name in err


@pytest.mark.parametrize("command", COMMANDS)
def test_more_words_than_a_command_takes(refused, command):
    arguments = [one for one in COMMANDS[command].params if one.param_type_name == "argument"]
    if not any(one.nargs == -1 for one in arguments):
        refused(
            command, f"{BASE[command]} more words" if arguments else f"more {BASE[command]}", 2, "unexpected extra arg"
        )


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_unknown_commands_are_answered_with_the_closest(refused, group):
    known = next(words.split()[-1] for words in COMMANDS if words.startswith(group) and (" " in words) == bool(group))
    err = refused(group, known[:-1] + "x", 2, f"No such command '{known[:-1]}x'")
    assert known in err


def test_errors_keep_stdout_empty_with_json_too(refused):
    for command in COMMANDS:
        first = next(iter(rows_of(command)), None)
        if first is not None and "--json" in [one.opts[0] for one in options(COMMANDS[command])]:
            refused(command, f"{first[1]} --json", *first[2:])


def rows_of(command):
    return [row for row in rows() if row[0] == command and "exclude" not in row[3]]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(refused, world, untouched):
    (world / "locked.yaml").write_text("steps: 1")
    (world / "locked.yaml").chmod(0)
    untouched.update(contents(world))
    refused("search", f"{BASE['search']} --config locked.yaml", 2, "cannot be read")
