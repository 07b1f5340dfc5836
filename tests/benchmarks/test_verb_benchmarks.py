"""Whole verbs beside what a user would pick instead do the same work, and the stages of a verb add up."""

import argparse
import importlib
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(tmp_path):
    """Both sides on a tiny random model."""
    import search_memory
    import side_by_side

    search_memory.make_models("tiny", tmp_path)
    options = argparse.Namespace(
        model=str(tmp_path / "none"), task="pydocs", data_dir=None, corpus="pydocs", batch=4, examples=24, dev=4
    )
    vars(options).update(max_tokens=1024, texts=8, bf16=False)
    (tmp_path / "work").mkdir()
    return side_by_side.SideBySide(options, tmp_path / "work")


def test_both_sides_of_a_fine_tuning_read_the_same_padded_tokens(bench):
    import side_by_side

    for variant in side_by_side.FINE_TUNINGS:
        bench.fine_tune(variant)
    random = {bench.padded_tokens[variant] for variant in ("dense", "held", "trainer", "trainer_prune")}
    assert len(random) == 1
    assert random.pop() > 24
    assert bench.padded_tokens["held_grouped"] <= bench.padded_tokens["held"]
    assert 0 < bench.watch.seconds < sum(map(sum, bench.whole_seconds.values()))


def test_both_sides_of_an_evaluation_find_the_same_loss(bench):
    bench.evaluate()
    bench.plain_evaluate()
    found = bench.found["kd_loss"]
    assert found["evaluate"] == pytest.approx(found["plain_evaluate"], rel=1e-5)
    assert found["evaluate"] > 0.001


def test_a_pair_of_variants_stands_for_each_row_of_the_table():
    import side_by_side
    from registry import BENCHMARKS as REGISTERED

    (registered,) = (one for one in REGISTERED if one.name == "side_by_side")
    assert {row.ratio for row in registered.rows if row.ratio} <= set(side_by_side.PAIRS)
    known = {*side_by_side.FINE_TUNINGS, *side_by_side.CALLS}
    assert {variant for pair in side_by_side.PAIRS.values() for variant in pair} <= known


def test_a_watch_leaves_out_what_it_is_told_to():
    import side_by_side

    def work(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    watch = side_by_side.Watch()
    work(0.02)
    with watch.running():
        work(0.02)
        with watch.stopped():
            work(0.2)
    assert 0.015 < watch.read() < 0.15


def test_a_stage_inside_another_counts_for_itself_alone():
    import verb_profile

    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    clock = argparse.Namespace(process_time=lambda: next(now))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb_profile, "time", clock)
        stages = verb_profile.Stages()
        inner = stages.timed("hashing", lambda: 7, "inner")
        assert stages.timed("loading", lambda: inner(), "outer")() == 7
        found = stages.end()
    # The rest until 1, loading until 3, hashing until 6, loading until 10, the rest until 15.
    assert found == {"rest": 1.0 + 5.0, "loading": 2.0 + 4.0, "hashing": 3.0}
    assert stages.calls == {"inner": 1, "outer": 1}


def test_every_stage_is_a_function_of_the_package():
    import verb_profile

    for place in (one for places in verb_profile.STAGES.values() for one in places):
        module, _, path = place.partition(":")
        found = importlib.import_module(f"winning_tickets.{module}")
        for name in path.split("."):
            found = getattr(found, name)
        assert callable(found)
