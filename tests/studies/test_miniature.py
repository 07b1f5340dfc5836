"""The scale `miniature`: every recipe as its paper says, made small, and what must hold of its runs and of its page.

The default suite runs a handful of recipes. Which one is decided by the number of entries in CHANGELOG.md, or by the
environment variable MINIATURE, a number: `MINIATURE=2 pytest tests/studies/test_miniature.py`. The slow suite runs all
recipes as they are, in one store; with MINIATURE_STORE, a folder for it, tests that were stopped go on where they were.
Its proof.md then has a row for each recipe, with the version, the commit and the day that it belongs to.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from samples import miniature
from samples.behavior import check
from samples.miniature import miniature_parameters, miniature_settings, plan_miniature
from samples.recipes import RECIPES, planned
from samples.study_samples import InlineEngine
from winning_tickets import __version__
from winning_tickets.config import EvaluateConfig, SearchConfig, ShareConfig, SuperConfig, TransferConfig
from winning_tickets.runs.provenance import source
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.estimates import Estimator
from winning_tickets.studies.load import load_study
from winning_tickets.studies.report import report_study
from winning_tickets.studies.run import run_study
from winning_tickets.studies.tiny import tiny_folder

ROOT = Path(__file__).resolve().parents[2]
ONE = {"seeds": [0], "search_seeds": [0]}
HANDFULS = [
    {
        "tamt-table-1": {"tasks": ["mnli", "squad"]},
        "bert-tickets-figure-10": {  # one of its claims compares pairs of tasks
            "sources": {"cola": {"tasks": ["cola"]}, "stsb": {"tasks": ["stsb"]}},
            "names": ["cola", "stsb", "MLM"],
        },
    },
    {
        "tamt-table-2": {"sparsities": [0.9], "methods": ["TAMT-KD", "IMP"]},
        "super-tickets-table-9": {},
        "super-tickets-figure-5": {"seeds": [0], "sizes": ["10%"], "levels": [50]},
    },
    {"tamt-figure-7": ONE | {"tasks": ["cola"], "save_at": [20], "trained_steps": 40}},
    {"bert-tickets-figure-8": {"seeds": [0], "tasks": ["cola"], "sparsities": [0.7]}},
    {
        "tamt-figure-9": {"seeds": [0], "tasks": ["sst2"], "sizes": {"1000": {"train_size": "1000"}}},
        "super-tickets-figure-6": {"tasks": ["rte", "sst2"]},
    },
    {"bert-tickets-table-6": {"tasks": ["stsb"], "seeds": [0]}},
]
"""Recipes of the default suite with fewer values of their axes; each takes less than 25 seconds of one core."""


def handful():
    """The recipes that run in the default suite."""
    entries = len(re.findall(r"^- ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE))
    return HANDFULS[int(os.environ.get("MINIATURE", entries)) % len(HANDFULS)]


@pytest.fixture(scope="session")
def miniature_store(tmp_path_factory):
    """One store for all recipes of this process: equal runs are done once."""
    return Store(Path(os.environ.get("MINIATURE_STORE") or tmp_path_factory.mktemp("miniature") / "store"))


def prove(plan, store, out):
    """Run a recipe, write its page, and look for what is wrong."""
    result = run_study(plan, store, InlineEngine())
    assert (result["failed"], result["done"]) == ({}, len(plan.runs))
    report = report_study(plan, store, out, ["csv", "html"])
    problems = check(plan, store, report)
    write_row(plan, store, report, problems)
    return problems


def write_row(plan, store, report, problems):
    """Add a row to the table of recipes that were run and checked."""
    file, commit = store.path / "proof.md", source() or {"commit": "none", "dirty": False}
    if not file.exists():
        file.write_text(f"| recipe | runs | verdicts | checks | version | commit | date |\n{'|---' * 7}|\n", "utf-8")
    verdicts = Counter(claim["verdict"] for claim in report["claims"].values())
    cells = [
        plan.study.name,
        len(plan.runs),
        ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())) or "no claims",
        ", ".join(name for name, found in problems.items() if found) or "all hold",
        __version__,
        commit["commit"][:12] + ", changed" * commit["dirty"],
        datetime.now(UTC).date(),
    ]
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"| {' | '.join(map(str, cells))} |\n")


@pytest.mark.parametrize("name", handful())
def test_a_handful_of_recipes_behaves(name, miniature_store, tmp_path):
    plan = plan_miniature(load_study(name), handful()[name])
    problems = prove(plan, miniature_store, tmp_path / "report")
    del problems["verdicts"]  # with one seed some claims have too few pairs
    assert not any(problems.values()), problems


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_behaves(name, miniature_store, tmp_path):
    problems = prove(planned(name, "miniature"), miniature_store, tmp_path / "report")
    assert not any(problems.values()), problems


@pytest.mark.parametrize("handful", HANDFULS)
def test_every_handful_is_a_part_of_its_recipes(handful):
    for name, given in handful.items():
        plan = plan_miniature(load_study(name), given)
        assert plan.runs
        assert {run.verb for run in plan.runs.values()} == {
            run.verb for run in planned(name, "miniature").runs.values()
        }


@pytest.mark.parametrize(("name", "pooled"), [("bert-pretrained", True), ("roberta-pretrained", False)])
def test_tiny_models_are_trained_the_same_every_time(name, pooled, tmp_path, monkeypatch):
    """They know the sentences, and have the weights of a checkpoint of pre-training, a pooler too where it has one."""
    weights = []
    for folder, steps in ((tmp_path / "a", 3), (tmp_path / "b", 3), (tmp_path / "c", 1)):
        monkeypatch.setattr(miniature, "PRETRAINING_STEPS", steps)
        weights.append((tiny_folder(name, folder) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    assert (b"pooler.dense.weight" in weights[0]) is pooled
    tokens = (tmp_path / "a" / name / "tokenizer.json").read_text()
    assert all(f'"{piece}"' in tokens for piece in ("window", "their", "##z", "7", "?"))


@pytest.mark.parametrize("name", ["articles", "glue-more"])
def test_the_data_are_the_same_every_time(name, tmp_path):
    first, second = tiny_folder(name, tmp_path / "a"), tiny_folder(name, tmp_path / "b")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files
    assert [(first / file).read_bytes() for file in files] == [(second / file).read_bytes() for file in files]


def test_parameters_are_smaller_and_agree_with_each_other():
    made = miniature_parameters(
        {
            "model": "google-bert/bert-base-uncased",
            "models": {"LARGE": "google-bert/bert-large-uncased", "R": "FacebookAI/roberta-base"},
            "data_dir": None,
            "trained_steps": 25_000,
            "save_at": [1_000, 20_000],
            "imp_steps": {1_200: {"round_steps": 200}, 1_800: {"round_steps": 260}, 16_752: {"round_steps": 2_792}},
            "seeds": [0, 1, 2],
            "round_steps": None,
            "profile": "paper",
        }
    )
    assert made == {
        "model": "tiny:bert-pretrained",
        "models": {"LARGE": "tiny:bert-deep", "R": "tiny:roberta-pretrained"},
        "data_dir": "tiny:glue-more",
        "trained_steps": 125,
        "save_at": [5, 100],
        "imp_steps": {6: {"round_steps": 1}, 84: {"round_steps": 14}},
        "seeds": [0, 1, 2],
        "round_steps": None,
        "profile": "paper",
    }


def test_settings_are_smaller_and_rates_higher():
    transfer = miniature_settings(TransferConfig(target="m", task="rte", profile="paper", train_size="1%"))
    assert (transfer.batch_size, transfer.max_length, transfer.eval_steps, transfer.train_size) == (8, 32, 5, "10%")
    assert (transfer.learning_rate, transfer.epochs) == (pytest.approx(8e-4), None)
    stopping = miniature_settings(TransferConfig(target="m", task="squad", patience=1, train_size="1000"))
    assert (stopping.eval_steps, stopping.max_length, stopping.train_size) == (None, None, "8")
    found = miniature_settings(SuperConfig(fine_tuning=TransferConfig(target="m", task="rte"), profile="paper"))
    assert found.learning_rates == pytest.approx((2e-3, 8e-3))
    resolved = found.resolved().fine_tuning
    assert (found.batch_sizes, resolved.max_length, resolved.eval_steps, resolved.epochs) == ((4, 8), 128, "epoch", 6)
    trained = miniature_settings(SearchConfig(model="m", corpus="c", objective="kd", profile="code"))
    assert (trained.batch_tokens, trained.segments, trained.reselect_steps) == (512, "sections:128", 1)
    pruned = miniature_settings(SearchConfig(model="m", method="imp", tasks=("squad", "rte"), profile="paper"))
    assert (pruned.batch_size, pruned.ranking, pruned.batch_tokens) == (4, "global", None)
    share = miniature_settings(ShareConfig(tasks=("rte", "cola"), profile="paper"))
    assert (share.max_length, share.batch_size, share.resolved().best_by) == (128, 8, "average")
    loss = miniature_settings(EvaluateConfig(target="m", segments="packed:512"))
    assert (loss.segments, loss.max_tokens) == ("packed:128", 2_000)


def test_a_miniature_is_estimated_in_minutes():
    plan = planned("super-tickets-table-1", "miniature")
    assert Estimator(plan, {}).estimate(plan.runs, 2)["seconds"] < 600
