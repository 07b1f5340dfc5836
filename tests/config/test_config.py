"""Configurations: profiles, identities that never move by accident, problems reported together."""

from pkgutil import resolve_name

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samples.settings import read_by_method
from winning_tickets.config import (
    METHOD_NAMES,
    OBJECTIVE_NAMES,
    TERM_NAMES,
    EvaluateConfig,
    SearchConfig,
    ShareConfig,
    SuperConfig,
    TransferConfig,
    load_config_file,
)
from winning_tickets.config.levels import Level
from winning_tickets.config.profiles import tuned_rate
from winning_tickets.config.search import classes_of
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.identity import run_id
from winning_tickets.training.objectives.terms import TERMS


def test_names_and_tables_agree():
    for name in METHOD_NAMES:
        for kind in classes_of(name):
            assert kind.method_name() == name
            assert callable(resolve_name(kind.finder))
    assert tuple(TERMS) == TERM_NAMES


def filled(profile, objective="kd", **fields):
    return read_by_method(model="m", profile=profile, objective=objective, **fields).resolved()


OPTIONAL = {
    *("revision", "layers", "pattern", "like", "logits_top_k", "corpus", "data_dir", "train_size", "importance_from"),
    *("rung_steps", "schedule_steps", "train_file", "text_columns", "kind", "batch_size", "max_length"),
    *("round_steps", "round_epochs", "round_examples"),
}
"""Settings that no profile gives."""


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("profile", ["paper", "code", "tuned"])
def test_every_open_field_is_filled_by_every_profile(method, profile):
    objectives = ("mlm", "task", "mlm+task") if method in ("imp", "snip", "movement") else OBJECTIVE_NAMES
    without_teacher = {"student_dropout", "teacher_dropout", "kd_padding"} if method == "imp" else set()
    for objective in objectives:
        empty = {name for name, value in filled(profile, objective, method=method) if value is None}
        learned = {"learning_rate", "schedule_passes"} if method in ("imp", "movement") else set()
        assert empty <= OPTIONAL | learned | without_teacher, objective


def test_an_explicit_field_wins():
    assert filled("paper", learning_rate=1.0).learning_rate == 1.0
    assert filled("tuned", score_init="plateau").score_init == "plateau"


@pytest.mark.parametrize(
    ("field", "tuned", "paper", "code"),
    [
        ("score_init", "activation", "plateau", "plateau"),
        ("rank_by", "signed", "signed", "signed"),
        ("teacher_dropout", False, False, True),
        ("reselect_steps", 1, 1, 100),
        ("optimizer", "adamw", "adamw", "bertadam"),
        ("clip", "none", "global", "tensor"),
        ("adam_epsilon", 1e-8, 1e-8, 1e-6),
        ("weight_decay", 0.0, 0.0, 0.01),
        ("learning_rate", 3e-4, 2e-5, 2e-5),
        ("adam_beta1", 0.6, 0.9, 0.9),
        ("adam_beta2", 0.8, 0.999, 0.999),
        ("scope", "encoder+embeddings", "encoder+embeddings", "encoder+embeddings+pooler"),
        ("train_embeddings", False, True, True),
        ("batch_tokens", 1024, 8192, 8192),
    ],
)
def test_profiles_of_the_kd_objective(field, tuned, paper, code):
    assert [getattr(filled(profile), field) for profile in ("tuned", "paper", "code")] == [tuned, paper, code]


def test_the_released_mlm_program_differs_from_the_kd_one():
    config = filled("code", "mlm")
    assert (config.learning_rate, config.reselect_steps, config.teacher_dropout) == (5e-5, 1000, False)
    assert (config.optimizer, config.clip) == ("adamw-hf", "global")
    assert filled("code", method="magnitude").count_rounding == "nearest"


@pytest.mark.parametrize(
    ("objective", "follows"),
    [
        *(("kd", True), ("logits", True), ("kd+logits", True), ("kd:0.5", True)),
        *(("mlm", False), ("mlm+kd", False), ("clm+logits", False), ("kd+attention", False)),
    ],
)
def test_tuned_takes_small_batches_for_searches_that_only_follow_the_dense_model(objective, follows):
    config = filled("tuned", objective, corpus="c")
    assert (config.batch_tokens, config.betas) == ((1024, (0.6, 0.8)) if follows else (2048, (0.9, 0.999)))
    assert config.defaults_version == (2 if follows else 1)
    assert filled("tuned", objective, corpus="c", block_wise=True).batch_tokens == 2048
    for other in ({"profile": "paper"}, {"profile": "tuned", "block_wise": True}):
        assert filled(objective=objective, corpus="c", **other).defaults_version == 1, other


def test_ids_are_frozen():
    """A default that moves without a new `defaults_version` would make old results look like new ones."""
    search = SearchConfig(model="builtin:minilm", corpus="pydocs", sparsity=0.7)
    assert run_id(search, "mask training 0.7", base="b", corpus="c") == "mask-training-0.7-e1a5ca825f32"
    transfer = TransferConfig(target="builtin:minilm", task="rte", seeds=(0, 1))
    assert run_id(transfer, "rte", base="b") == "rte-07923ecdd5ed"
    kinds = (SearchConfig, EvaluateConfig, TransferConfig)
    defaults = {name: repr(field.default) for kind in kinds for name, (_, field) in kind.all_fields().items()}
    from winning_tickets.config import profile_values
    from winning_tickets.config.transfer import transfer_profile
    from winning_tickets.runs.identity import digest

    profiles = [
        profile_values(p, m, o) for p in ("tuned", "paper", "code") for m in METHOD_NAMES for o in OBJECTIVE_NAMES
    ]
    profile_names = ("tuned", "paper", "code")
    assert {kind.model_construct().defaults_version for kind in (EvaluateConfig, TransferConfig)} == {1}
    transfers = [transfer_profile(profile, task) for profile in ("tuned", "paper", "code") for task in (None, "squad")]
    assert digest([defaults, profiles, transfers]) == "5ff87ddd32c3"
    shares = [ShareConfig(tasks=("cola", "mnli"), model="m", profile=one).resolved() for one in profile_names]
    supers = [SuperConfig(fine_tuning=TransferConfig(target="m", task="mnli"), profile=one) for one in profile_names]
    values = [one.model_dump(mode="json", exclude_defaults=True) for one in shares]
    values += [one.alone("m", "mnli", None).model_dump(mode="json", exclude_defaults=True) for one in shares]
    values += [one.resolved().model_dump(mode="json", exclude_defaults=True) for one in supers]
    assert digest(values) == "e62d9808fb5b"


def test_the_tuned_rate_falls_with_width_and_steps():
    assert [tuned_rate(384, steps) for steps in (1, 79, 1000)] == [1e-4] * 3
    assert [tuned_rate(width, 300) for width in (32, 256, 768, 1024)] == pytest.approx([3e-4, 1.5e-4, 5e-5, 3.75e-5])
    assert tuned_rate(768, 4000) == pytest.approx(2.5e-5)
    tickets = [tuned_rate(384, 300, sparsity) for sparsity in (0.0, 0.3, 0.6, 0.9)]
    assert tickets == pytest.approx([1e-4, 1.5e-4, 2e-4, 2e-4])
    assert tuned_rate(256, 300, 0.7) == pytest.approx(3e-4), "the highest rate"
    widths, lengths = (64, 384, 768), (100, 1000, 5000, 50_000)
    for rates in (
        *([tuned_rate(w, s) for s in lengths] for w in widths),
        *([tuned_rate(w, s) for w in widths] for s in lengths),
    ):
        assert rates == sorted(rates, reverse=True)


def test_a_shared_training_takes_the_tuned_rate_and_never_less_than_that_of_the_paper():
    tuned, paper = (ShareConfig(model="m", tasks=("rte", "mrpc"), profile=profile) for profile in ("tuned", "paper"))
    assert [tuned.peak_rate(384, steps) for steps in (10, 1000, 4000, 9000)] == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5])
    assert [tuned.peak_rate(width, 300) for width in (32, 768, 1024)] == pytest.approx([3e-4, 5e-5, 5e-5])
    assert paper.peak_rate(384, 10) == 5e-5
    assert tuned.model_copy(update={"learning_rate": 2e-5}).peak_rate(384, 10) == 2e-5


def test_long_mask_trainings_of_tuned_have_a_lower_rate():
    def rate(steps, **fields):
        return SearchConfig(model="m", corpus="c", steps=steps, **fields).resolved().learning_rate

    mlm = {"objective": "mlm"}
    assert [rate(steps, **mlm) for steps in (1, 240, 300)] == [2e-4] * 3
    assert [rate(steps, **mlm) for steps in (301, 1200, 30_000)] == pytest.approx([1.9967e-4, 1e-4, 2e-5], rel=1e-4)
    assert rate(1200, sparsity=[0.5, 0.6], rung_steps=60, **mlm) == pytest.approx(1e-4), (
        "the first level is the longest"
    )
    assert rate(1200, ranking="global", **mlm) == pytest.approx(1e-4)
    assert [rate(steps) for steps in (1, 200, 800, 20_000)] == pytest.approx([3e-4, 3e-4, 1.5e-4, 3e-5])
    assert rate(1200, learning_rate=2e-4) == 2e-4
    assert rate(1200, block_wise=True) == 2e-4, "each layer has a part of the steps"
    gates = {"units": ["heads"], "level": ["50%"]}
    assert rate(1200, **gates) == rate(60, **gates)
    assert rate(1200, profile="paper", objective="mlm") == 5e-5


def test_only_mask_training_with_global_ranking_starts_from_ranks():
    assert SearchConfig(model="m", corpus="c", ranking="global").resolved().score_init == "rank"
    assert SearchConfig(model="m", corpus="c", ranking="row").resolved().score_init == "activation"


def test_a_default_spelled_out_changes_nothing_and_another_value_does():
    same = [run_id(c, "x") for c in (SearchConfig(model="m"), SearchConfig(model="m", sparsity=0.6, seed=0))]
    assert same[0] == same[1]
    assert run_id(SearchConfig(model="m", seed=1), "x") != same[0]
    assert run_id(SearchConfig(model="m"), "x", base="other") != same[0]


def test_all_problems_come_at_once_with_the_closest_names():
    with pytest.raises(UsageError) as caught:
        SearchConfig.of(model="m", sparsty=0.5, ranking="rows", steps="many")
    text = str(caught.value)
    assert "Unknown field 'sparsty'. Did you mean 'sparsity'?" in text
    assert "ranking: Input should be 'matrix', 'row' or 'global' (found 'rows')." in text
    assert "steps: Input should be a valid integer" in text


def test_a_config_file_is_yaml_or_json(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("steps: 60\nbatch-tokens: 512\n")
    assert load_config_file(path) == {"steps": 60, "batch_tokens": 512}
    path.write_text('{"steps": 7}')
    assert load_config_file(path) == {"steps": 7}
    path.write_text("- 1\n")
    with pytest.raises(UsageError, match="must map field names to values"):
        load_config_file(path)
    path.write_text("a: [")
    with pytest.raises(UsageError, match="c.yaml, line 1: not valid YAML"):
        load_config_file(path)
    with pytest.raises(UsageError, match="There is no configuration file"):
        load_config_file(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("field", "written", "value"),
    [
        ("select_on", "10%", 0.1),
        ("warmup_ratio", "6%", 0.06),
        ("head_dropout", "0.2", 0.2),
        ("dropout", "10%", 0.1),
        ("select_on", 0.29, 0.29),
    ],
)
def test_a_fraction_may_carry_a_percent_sign(field, written, value):
    assert getattr(TransferConfig.of(target="m", **{field: written}), field) == value


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("all", "--train-size all is not a size; use a number of examples such as 1000, or a percentage such as 10%"),
        (True, "--train-size True is not a size"),
        (2.5, "--train-size 2.5 is not a whole number"),
    ],
)
def test_a_size_of_a_training_set_is_checked_with_the_settings(size, message):
    with pytest.raises(UsageError, match=message):
        TransferConfig.of(target="m", task="rte", train_size=size)


def test_a_size_may_be_a_number():
    number = TransferConfig.of(target="m", task="rte", train_size=1000)
    assert number == TransferConfig.of(target="m", task="rte", train_size="1000")
    with pytest.raises(UsageError, match="--importance-train-size 0 is not a whole number"):
        SuperConfig.of(fine_tuning={"target": "m", "task": "rte"}, importance_train_size=0)


def test_sparsities_may_carry_a_percent_sign():
    assert SearchConfig.of(model="m", sparsity="60%").sparsity == 0.6
    assert SearchConfig.of(model="m", sparsity=("70%", "57.5%")).sparsity == (0.575, 0.7)


def test_a_percentage_without_its_sign_is_refused_with_the_readings():
    with pytest.raises(
        UsageError, match=r"--select-on 10 is impossible; it must be below 1. For 10 % write 0.1 or 10%."
    ):
        TransferConfig.of(target="m", select_on=10)
    for level in (0.5, "0.5", (30, 0.5)):
        with pytest.raises(UsageError, match=r"--level 0.5 can be read as 0.5 % and as 50 %: write 0.5% or 50%."):
            SearchConfig.of(model="m", method="importance", level=level)
    with pytest.raises(UsageError, match=r"--level 1 can be read as 1 % and as 100 %: write 1% or 100%."):
        ShareConfig.of(model="m", tasks=("rte",), tickets="auto", level="1")


@given(sparsities=st.sets(st.decimals("0.001", "0.999", places=4), min_size=2, max_size=2))
def test_every_sparsity_and_level_has_a_folder_of_its_own(sparsities):
    numbers = [float(one) for one in sparsities]
    folders = [SearchConfig.rung_folder(one) for one in numbers]
    assert [float(folder.removeprefix("sparsity-")) for folder in folders] == numbers
    levels = [Level(("heads",), 100 * one).folder for one in numbers]
    assert [float(folder.removeprefix("level-")) for folder in levels] == [100 * one for one in numbers]


def test_folders_are_padded():
    assert [SearchConfig.rung_folder(one) for one in (0.6, 0.625, 1e-5)] == [
        *("sparsity-0.60", "sparsity-0.625", "sparsity-0.00001"),
    ]
    assert [Level(("heads",), one).folder for one in (5.0, 30.0, 31.25, 100.0)] == [
        *("level-05", "level-30", "level-31.25", "level-100"),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("schedule_steps", 0), ("warmup_steps", -1), ("student_dropout", 1.0), ("student_dropout", -0.5)),
        *(("adam_epsilon", 0.0), ("weight_decay", -1.0), ("max_grad_norm", -1.0)),
        *(("mlm_probability", 0.0), ("mlm_probability", 1.0)),
    ],
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(UsageError, match=f"--{field.replace('_', '-')} {value:g}.* is impossible"):
        SearchConfig.of(model="m", objective="mlm", **{field: value})


@pytest.mark.parametrize("profile", ["tuned", "paper", "code"])
def test_resolved_settings_may_be_read_again(profile):
    resolved = SearchConfig.of(model="m", objective="mlm", corpus="c", profile=profile).resolved()
    assert SearchConfig.of(**resolved.model_dump()).student_dropout == resolved.student_dropout


def test_a_super_ticket_of_the_released_code_has_its_head_dropout():
    def dropout(profile):
        config = SuperConfig.of(fine_tuning={"target": "m", "task": "mnli"}, profile=profile)
        return config.resolved().fine_tuning.head_dropout

    assert (dropout("paper"), dropout("code")) == (0.3, 0.2)


@pytest.mark.parametrize("written", ["0.5%", "1%", "30%", 30])
def test_levels_are_read_again_as_they_were_stored(written):
    config = SearchConfig.of(model="m", method="importance", level=written)
    assert SearchConfig.of(**config.model_dump(mode="json", exclude_defaults=True)) == config
    share = ShareConfig.of(model="m", tasks=("rte",), tickets="auto", level=written)
    assert ShareConfig.of(**share.model_dump(mode="json", exclude_defaults=True)) == share
