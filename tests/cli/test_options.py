"""Options come from the fields of settings: all are there, old ones still work, unread ones are refused."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samples.settings import VERBS
from winning_tickets import cli
from winning_tickets.cli.application import whole_application
from winning_tickets.cli.commands import settings_of
from winning_tickets.cli.options import leaves
from winning_tickets.config import METHOD_NAMES, Runtime, SearchConfig, SuperConfig, TransferConfig
from winning_tickets.config.search import classes_of, readers_of
from winning_tickets.runs.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS: Any = whole_application().commands
SINGLE = {"learning_rate", "batch_size", "settings_from"}
"""Fields of the fine-tuning of `super` that its grid sets."""


def names_of(command: Any) -> set[str]:
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts)}


@pytest.mark.parametrize("verb", VERBS)
def test_every_field_has_an_option_or_is_the_argument_with_its_own_help(verb):
    parameters = {one.name: one for one in COMMANDS[verb].params}
    inline = "fine_tuning" if verb == "super" else ""
    for key, path, settings, options in leaves(VERBS[verb], inline):
        if options and not (inline and key in SINGLE):
            assert key in parameters, path
            assert parameters[key].help.startswith(settings.help_of(path[-1])) or len(path) > 1, path
            if parameters[key].param_type_name == "option":
                assert set(re.split("[ /]", options)) <= names_of(COMMANDS[verb]), path
    if verb != "evaluate":
        running = {Runtime.options_of(field) for field in Runtime.model_fields}
        absent = {"--compile"} if verb in ("share", "shrink") else set()
        assert running - names_of(COMMANDS[verb]) == absent | ({"--shard"} if verb != "search" else set())


def test_the_help_has_three_panels_whose_lines_are_whole():
    text = CliRunner().invoke(cli.app, ["--help"]).stdout
    panels = re.findall(r"^(\w[\w ]+):\n((?:  \S.*\n)+)", text, re.MULTILINE)
    assert [title for title, _ in panels][1:] == ["Every day", "Other searches and models", "Studies and housekeeping"]
    lines = [line for _, lines in panels[1:] for line in lines.splitlines()]
    assert {line.split()[0] for line in lines} == set(whole_application().commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines), text


def test_fields_without_an_option_come_from_a_file(tmp_path):
    """Profiles give their values; nobody needs them in a help."""
    hidden = {name for name, (kind, _) in SearchConfig.all_fields().items() if not kind.options_of(name)}
    assert {"cadence", "phi", "mixing", "kd_padding"} < hidden
    assert {option for name in hidden for option in (f"--{name.replace('_', '-')}",)} & names_of(
        COMMANDS["search"]
    ) == set()
    (tmp_path / "own.yaml").write_text("phi: 0.02\ncadence: before\n")
    found = settings_of(SearchConfig, tmp_path / "own.yaml", {"model": "m"})
    assert (found.phi, found.cadence) == (0.02, "before")
    with pytest.raises(UsageError, match="phi -1 is impossible"):
        settings_of(SearchConfig, None, {"model": "m", "phi": -1})


def test_every_field_is_explained_in_whole_sentences():
    for settings in (*VERBS.values(), Runtime, TransferConfig.part_of("smart")):
        for name, (_, field) in settings.all_fields().items():
            extra: Any = field.json_schema_extra
            assert extra["panel"], (settings, name)
            assert re.fullmatch(r"[A-Z].*\.", field.description or ""), (settings, name)


LINES = [
    ("search m --method imp --sparsities 0.5,0.7 --task rte,cola --prune-first",
     {"sparsity": (0.5, 0.7), "tasks": ("cola", "rte"), "prune_first": True}),
    ("search m --heads 1,2 --level 30%,10", {"prune_heads": (1, 2), "level": (10.0, 30.0)}),
    ("transfer m --seed 0,1 --text-columns a,b --smart 0.5 --smart-steps 2 --kind tokens",
     {"seeds": (0, 1), "text_columns": ("a", "b"), "kind": "tokens"}),
    ("share --tasks rte,cola --tickets a,none --level 30% --dropout-p rte=0.2 --no-save-model --fine-tune",
     {"tasks": ("rte", "cola"), "tickets": {"rte": "a"}, "level": {"rte": 30.0, "cola": 30.0},
      "dropout_p": {"rte": 0.2}, "save_model": False, "fine_tune": True}),
    ("super m --task rte --learning-rate 1e-4,1e-5 --batch-sizes 8 --level 10,20%",
     {"learning_rates": (1e-4, 1e-5), "batch_sizes": (8,), "level": (10.0, 20.0)}),
    ("evaluate m --objective kd,similarity --kd-masked-tokens 1", {"objectives": ("kd", "similarity")}),
    ("shrink m --speedup 3,1.5 --latency-on batch=1,length=32 --formats onnx,int8 --uniform",
     {"speedup": (1.5, 3.0), "shape": (1, 32), "formats": ("onnx", "int8"), "uniform": True}),
    ("fit-head m --train-encoder --steps 5", {"train_encoder": True, "steps": 5}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line.split()[0] for line, _ in LINES])
def test_options_become_fields(line, expected, monkeypatch):
    seen = []

    def stop(kind: Any, *rest: Any, inline: str) -> None:
        seen.append(settings_of(kind, *rest, inline=inline))
        raise KeyboardInterrupt

    monkeypatch.setattr("winning_tickets.cli.commands.settings_of", stop)
    out = [] if line.startswith("evaluate") else ["--out", "x"]
    CliRunner().invoke(cli.app, [*line.split(), *out])
    assert {name: getattr(seen[0], name) for name in expected} == expected
    if line.startswith("transfer"):
        assert (seen[0].smart.alpha, seen[0].smart.steps) == (0.5, 2)
    if line.startswith("super"):
        assert (seen[0].fine_tuning.task, seen[0].fine_tuning.seeds) == ("rte", (0, 1, 2))


def test_parts_of_settings_come_from_the_file_and_from_options(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("target: m\nsmart:\n  steps: 3\n  norm: l2\n")
    smart = settings_of(TransferConfig, file, {"smart": {"alpha": 2.0, "steps": 4}}).smart  # type: ignore[attr-defined]
    assert (smart.alpha, smart.steps, smart.norm) == (2.0, 4, "l2")
    file.write_text("fine_tuning: rte\n")
    with pytest.raises(UsageError, match="fine_tuning in .*c.yaml must be a mapping of fields .* found 'rte'"):
        settings_of(SuperConfig, file, {}, {}, inline="fine_tuning")
    file.write_text("? ''\n: ''\n")
    with pytest.raises(UsageError, match=r"Unknown field ''(.|\n)*come from .*c.yaml"):
        settings_of(TransferConfig, file, {})


def test_a_setting_that_the_method_does_not_read_is_refused_with_those_that_do():
    for method in METHOD_NAMES:
        (kind, *others) = classes_of(method)
        for name, (owner, _) in SearchConfig.all_fields().items():
            if any(name in one.model_fields for one in (kind, *others)):
                continue
            with pytest.raises(UsageError) as caught:
                SearchConfig.of(model="m", method=method, **{name: 1})
            (line,) = caught.value.lines
            assert line.startswith(f"--method {method} does not read {owner.option_of(name)}; it needs --method ")
            assert all(reader in line for reader in readers_of(name)), line


def test_settings_of_other_methods_without_a_value_say_nothing():
    config = SearchConfig.of(model="m", method="magnitude", corpus=None, tasks=(), level=[])
    assert config == SearchConfig(model="m", method="magnitude")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--method magnitude --steps 60",
            "--method magnitude does not read --steps; it needs --method mask-training",
        ),
        ("--method random --weights-from reinit", "does not read --weights-from; it needs --method magnitude."),
        ("--method imp --alpha 3", "--method imp does not read --alpha; it needs --method mask-training."),
        (
            "--level 30 --ranking row",
            "--method mask-training with --level trains gates and does not read --ranking; it",
        ),
        ("--method snip --rewind none --steps 3", "--method snip does not read --rewind; it needs --method imp."),
    ],
)
def test_such_an_option_ends_with_exit_code_two(line, message, tmp_path):
    for place in ("options", "file"):
        words = line.split()
        if place == "file":
            fields = {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)}
            (tmp_path / "c.yaml").write_text(json.dumps(fields))
            words = ["--config", str(tmp_path / "c.yaml")]
        for more in ([], ["--dry-run"]):
            done = CliRunner().invoke(cli.app, ["search", "m", *words, "--out", str(tmp_path / "out"), *more])
            assert isinstance(done.exception, UsageError), done.output
            assert message in str(done.exception)
            assert done.exception.exit_code == 2


def test_it_is_refused_together_with_other_problems(tmp_path):
    line = "m --method imp --objective mlm --steps 3 --alpha 2 --rewind back"
    done = CliRunner().invoke(cli.app, ["search", *line.split(), "--out", str(tmp_path / "out")])
    assert [line.split()[0:2] for line in str(done.exception).splitlines()] == [
        *(["--method", "imp"], ["--method", "imp"]),
        *(["The", "objective"], ["--method", "imp"], ["--rewind", "back"]),
    ]


def test_values_out_of_range_are_refused_together_with_other_problems(tmp_path):
    line = "m --corpus pydocs --objective kdd --sparsity 2 --steps 0 --scope foo"
    done = CliRunner().invoke(cli.app, ["search", *line.split(), "--out", str(tmp_path / "out")])
    found = str(done.exception).splitlines()
    assert [line.split()[:2] for line in found[:2]] == [["Sparsity", "2.0"], ["--steps", "0"]]
    assert [line.split("'")[0] for line in found[2:]] == ["Unknown objective ", "Unknown scope "]


SHORT_AND_WHOLE = ("--help", "--help-all")


def shown(words: list[str]) -> tuple[set[str], list[str]]:
    """The options and the panels of a help page."""
    before, heading, after = CliRunner().invoke(cli.app, words).output.partition("Arguments:")
    text = heading + after or before
    return set(re.findall(r"^  (--[a-z0-9-]+)", text, re.MULTILINE)), re.findall(r"^(\S.*):$", text, re.MULTILINE)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_help_of_a_method_shows_what_it_reads(method):
    options, panels = shown(["search", f"--method={method}", "--help-all"])
    everyday, _ = shown(["search", f"--method={method}", "--help"])
    assert everyday == options & shown(["search", "--help"])[0]
    for name, (kind, _) in SearchConfig.all_fields().items():
        if name != "model" and kind.options_of(name):
            assert (kind.option_of(name) in options) == (method in readers_of(name)), name
    assert {"--out", "--device", "--json"} <= options
    assert panels[:3] == ["Arguments", "Model and data", "Ticket"]
    assert ("Iterative pruning" in panels) == (method == "imp")


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_shows_everyday_options_and_help_all_shows_all(verb):
    options, _ = shown([verb, "--help"])
    every, _ = shown([verb, "--help-all"])
    assert len(options) <= 35
    assert options < every
    assert len(every) == len([one for one in COMMANDS[verb].params if one.param_type_name == "option"]) + 1


def test_the_whole_help_has_all_panels():
    options, panels = shown(["search", "--help-all"])
    assert panels == [
        *("Arguments", "Model and data", "Ticket", "Objective", "Mask training", "Memory", "Structured tickets"),
        *("Tasks of the objective", "Iterative pruning", "Running"),
    ]
    assert shown(["search", "--method", "nothing", "--help-all"]) == (options, panels)
    lines = CliRunner().invoke(cli.app, ["search", "--help"]).output.splitlines()
    more = len(options) - len(shown(["search", "--help"])[0])
    assert f"--help-all shows {more} more options, and all that there is to say about each." in lines


def test_the_help_has_the_first_sentence_about_an_option_and_help_all_every_one():
    rows = {word: " ".join(CliRunner().invoke(cli.app, ["search", word]).output.split()) for word in SHORT_AND_WHOLE}
    sparsity = "Fraction of the weights in scope to prune, in [0, 1), such as 0.6 or 60%. "
    assert f"{sparsity}[default: 0.6] --ranking" in rows["--help"]
    assert (
        f"{sparsity}Several values, such as 0.5,0.6, give one ticket for each sparsity level. [read by"
        in rows["--help-all"]
    )
    assert "[read by" not in rows["--help"]


def test_the_reference_is_current():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/reference/generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    stale = [path.name for path, text in generate.pages().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make reference`"


def test_resolved_settings_have_the_same_values_and_know_what_was_set():
    config = SearchConfig(model="m", alpha=3.0)
    assert config.resolved().model_fields_set == {"model", "alpha"}
    assert config.resolved().adam_epsilon == 1e-8
    assert config.resolved().resolved() == config.resolved()
    assert {*config.resolved().model_dump()} == {*config.model_dump()}
