"""How several sources take turns: what each scheme promises, and that a step depends on its index alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winning_tickets.data.encode import EncodedSplit
from winning_tickets.data.mixing import MixedBatches, TaskBatches, epoch_steps

TURNS = ("proportional", "annealed", "ratio", "round-robin")
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


class Numbers:
    """Batch i of a source is its name and i."""

    def __init__(self, name):
        self._name = name

    def __getitem__(self, index):
        return (self._name, index)


def named(sizes):
    return {f"task{place}": size for place, size in enumerate(sizes)}


def mixed(sizes, mixing, steps, seed=0, main="task0", ratio=1.5):
    options = {"main": main, "ratio": ratio} if mixing == "ratio" else {}
    return MixedBatches({name: Numbers(name) for name in sizes}, sizes, mixing, steps, seed=seed, **options)


def sources(batches):
    """Who is heard at each step; every batch must be the next one of its source."""
    seen, heard = Counter(), []
    for step in range(len(batches)):
        ((name, batch),) = batches[step].items()
        assert batch == (name, seen[name])
        seen[name] += 1
        heard.append(name)
    return heard


@pytest.mark.parametrize("mixing", TURNS)
@given(sizes=SIZES, steps=st.integers(0, 50), seed=st.integers(0, 3), cut=st.integers(0, 50))
def test_every_scheme_takes_each_source_in_its_own_order_and_depends_on_nothing_but_the_index(
    mixing, sizes, steps, seed, cut
):
    whole = mixed(named(sizes), mixing, steps, seed)
    assert len(sources(whole)) == steps
    again = mixed(named(sizes), mixing, steps, seed)  # a new process that starts at some step
    for step in range(min(cut, steps), steps):
        assert again[step] == whole[step]


@given(SIZES, st.integers(0, 3))
def test_proportional_hears_every_batch_of_every_source_once_an_epoch(sizes, seed):
    sizes = named(sizes)
    steps = epoch_steps(sizes, "proportional")
    heard = sources(mixed(sizes, "proportional", 3 * steps, seed))
    for epoch in range(3):
        assert Counter(heard[epoch * steps : (epoch + 1) * steps]) == sizes


def test_each_epoch_is_in_an_order_of_its_own():
    sizes = {"task0": 20, "task1": 20}
    heard = sources(mixed(sizes, "proportional", 80))
    assert heard[:40] != heard[40:]
    assert heard != sources(mixed(sizes, "proportional", 80, seed=1))


def test_annealed_turns_from_proportional_to_nearly_equal():
    sizes = {"task0": 1000, "task1": 100, "task2": 10}
    steps = epoch_steps(sizes, "annealed")
    assert steps == 1110
    heard = sources(mixed(sizes, "annealed", 3 * steps))
    counts = [Counter(heard[epoch * steps : (epoch + 1) * steps]) for epoch in range(3)]
    assert counts[0] == sizes
    for epoch, power in ((1, 0.6), (2, 0.2)):
        total = sum(size**power for size in sizes.values())
        for name, size in sizes.items():
            assert abs(counts[epoch][name] - 1110 * size**power / total) < 1
    assert [counts[epoch]["task2"] for epoch in range(3)] == [10, 53, 218]


def test_annealing_of_a_single_epoch_is_proportional():
    sizes = {"task0": 7, "task1": 2}
    assert Counter(sources(mixed(sizes, "annealed", 9))) == sizes


@given(SIZES, st.integers(0, 3), st.sampled_from([0, 0.5, 1.0, 100.0]))
def test_ratio_hears_all_of_the_main_source_and_a_share_of_the_others(sizes, seed, ratio):
    sizes = named(sizes)
    main = list(sizes)[-1]
    others = sum(sizes.values()) - sizes[main]
    drawn = min(int(ratio * sizes[main]), others)
    steps = epoch_steps(sizes, "ratio", main, ratio)
    assert steps == sizes[main] + drawn
    heard = sources(mixed(sizes, "ratio", 2 * steps, seed, main, ratio))
    for epoch in range(2):
        counts = Counter(heard[epoch * steps : (epoch + 1) * steps])
        assert counts[main] == sizes[main]
        assert sum(counts.values()) == steps
        assert all(counts[name] <= size for name, size in sizes.items())  # drawn without replacement


def test_ratio_draws_afresh_each_epoch_and_counts_with_the_decimal_as_written():
    sizes = {"task0": 100, "task1": 300, "task2": 300}
    assert epoch_steps(sizes, "ratio", "task0", 0.29) == 129  # int(0.29 * 100) is 28
    heard = sources(mixed(sizes, "ratio", 20 * 129, ratio=0.29))
    draws = {heard[epoch * 129 : (epoch + 1) * 129].count("task1") for epoch in range(20)}
    assert len(draws) > 3


def test_round_robin_goes_round():
    sizes = {"a": 2, "b": 3, "c": 1}
    assert epoch_steps(sizes, "round-robin") == 9
    assert sources(mixed(sizes, "round-robin", 9)) == ["a", "b", "c"] * 3


def test_the_sum_hears_everybody_at_every_step():
    sizes = {"a": 2, "b": 3}
    assert epoch_steps(sizes, "sum") == 3
    assert mixed(sizes, "sum", 3)[2] == {"a": ("a", 2), "b": ("b", 2)}
    with pytest.raises(IndexError, match="Step 3 of 3"):
        mixed(sizes, "sum", 3)[3]


@pytest.mark.parametrize("options", [{}, {"main": "c", "ratio": 1.0}, {"main": "a"}, {"main": "a", "ratio": -1.0}])
def test_ratio_needs_a_source_and_a_number(options):
    with pytest.raises(ValueError, match="needs main, one of a, b, and ratio, 0 or more; found"):
        MixedBatches({"a": Numbers("a"), "b": Numbers("b")}, {"a": 1, "b": 1}, "ratio", 1, seed=0, **options)


def tasks(counts, batch_size, seed=0):
    """Tasks whose examples are numbered."""
    return {
        f"task{place}": TaskBatches(
            EncodedSplit({"input_ids": [[i] for i in range(count)]}, list(range(count))),
            lambda items: [item["labels"] for item in items],
            batch_size,
            seed,
        )
        for place, count in enumerate(counts)
    }


@pytest.mark.parametrize("mixing", TURNS)
def test_every_example_comes_once_in_each_pass_over_its_task(mixing):
    made = tasks((23, 7, 4), 4)
    sizes = {name: batches.per_epoch for name, batches in made.items()}
    options = {"main": "task1", "ratio": 2.0} if mixing == "ratio" else {}
    steps = 4 * epoch_steps(sizes, mixing, **options)
    batches = MixedBatches(made, sizes, mixing, steps, seed=0, **options)
    seen = {name: [] for name in sizes}
    for step in range(steps):
        for name, labels in batches[step].items():
            seen[name] += labels
    for (name, labels), count in zip(seen.items(), (23, 7, 4), strict=True):
        passes = [labels[start : start + count] for start in range(0, len(labels) - count + 1, count)]
        assert passes or name == "task0"  # of `ratio` the largest is not heard to its end
        assert all(sorted(one) == list(range(count)) for one in passes)
        assert len({tuple(one) for one in passes}) == len(passes) or count < 5  # shuffled afresh, example by example


@given(st.integers(1, 23), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_of_a_task_is_in_a_seeded_order(count, batch_size, seed):
    (batches,) = tasks((count,), batch_size, seed).values()
    for epoch in range(3):
        found = [batches[epoch * batches.per_epoch + index] for index in range(batches.per_epoch)]
        expected = np.random.default_rng([seed, 0, epoch]).permutation(count).tolist()
        assert [label for labels in found for label in labels] == expected


def test_batches_are_the_same_whenever_they_are_asked_for():
    (batches,) = tasks((10,), 3).values()
    forwards = [batches[index] for index in range(12)]
    assert [batches[index] for index in reversed(range(12))] == forwards[::-1]
