"""The contracts with the papers: the settings that each paper gives, and what planned runs have instead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from typing import Any

import yaml
from pydantic import Field, model_validator

from winning_tickets.config import Settings
from winning_tickets.runs.errors import unknown
from winning_tickets.studies.expressions import matches, same
from winning_tickets.studies.facts import Facts, facts_of
from winning_tickets.studies.plan import Plan, shown_setting
from winning_tickets.studies.references import Point
from winning_tickets.studies.schema import Condition, Deviation

PAPERS = "winning_tickets.studies.papers"
FORMS = ("paper", "all", "grid", "count")
_MISSING = "not set"


class Rule(Settings):
    """What a paper says on one setting: exactly one of `FORMS`, and where it says so, or what is assumed."""

    paper: Any = None  # the value of every run
    all: tuple[Any, ...] | None = None  # the values of all runs together
    grid: tuple[Any, ...] | None = None  # values that are tried for each combination of all other axes
    count: int | None = None  # how many different values all runs together have
    by: dict[str, dict[str | int | float, Any]] = Field(default_factory=dict)  # setting -> its value -> `paper`
    source: str = ""  # table, section or page
    assumed: str = ""  # why this value, where the paper is silent

    @model_validator(mode="after")
    def _one_form(self) -> Rule:
        if len(self.model_fields_set & set(FORMS)) != 1:
            raise ValueError(f"give exactly one of {', '.join(FORMS)}")
        if bool(self.source) == bool(self.assumed):
            raise ValueError("give either the source of the value, or why it is assumed")
        return self

    @property
    def form(self) -> str:
        return next(form for form in FORMS if form in self.model_fields_set)

    @property
    def text(self) -> str:
        """The value as text, with the exceptions."""
        value = getattr(self, self.form)
        if self.form == "count":
            return _different(value)
        exceptions = [f"{shown(own)} for {name}" for values in self.by.values() for name, own in values.items()]
        return "; ".join([*([shown(value)] if value != [] else []), *exceptions])

    def value_for(self, facts: Mapping[str, Any]) -> Any:
        """Return the value that a run with these other settings has in the paper."""
        for name, values in self.by.items():
            for key, value in values.items():
                if same(facts.get(name), key):
                    return value
        return self.paper


class Training(Settings):
    """A kind of training of a paper, and its settings."""

    title: str
    runs: tuple[Condition, ...]  # settings that planned runs of this kind have
    settings: dict[str, Rule]


class Artefact(Settings):
    """A table or figure: the kinds of training behind it, each with settings of its own that come first."""

    like: str | None = None  # the artefact whose settings it shares
    trainings: dict[str, dict[str, Rule]] = Field(default_factory=dict)


class Contract(Settings):
    """The settings of a paper."""

    papers: tuple[str, ...]  # names of the paper in studies
    trainings: dict[str, Training]
    artefacts: dict[str, Artefact]

    def rules_of(self, artefact: str) -> dict[str, dict[str, Rule]]:
        """Return the rules of each kind of training behind a table or figure."""
        if artefact not in self.artefacts:
            raise unknown("table or figure of the contract", artefact, self.artefacts)
        found = self.artefacts[artefact]
        below = self.rules_of(found.like) if found.like else {}
        return below | {
            name: self.trainings[name].settings | below.get(name, {}) | own for name, own in found.trainings.items()
        }

    def training_of(self, facts: Mapping[str, Any]) -> str | None:
        """Return the kind of training with these settings; the first that matches counts."""
        return next((name for name, one in self.trainings.items() if matches(one.runs, facts)), None)


@cache
def contracts() -> dict[str, Contract]:
    """Return the contract of each paper, by the name of the paper in studies."""
    found: dict[str, Contract] = {}
    for file in sorted(resources.files(PAPERS).iterdir(), key=lambda one: one.name):
        if file.name.endswith(".yaml"):
            contract = Contract.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
            found |= dict.fromkeys(contract.papers, contract)
    return found


def shown(value: Any) -> str:
    """Return a value of a setting as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else shown_setting(value)


def equal(first: Any, second: Any) -> bool:
    """Return whether two values of a setting are the same, whatever their types; the order of a list counts."""
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, bool | None) or isinstance(second, bool | None):
        return first is second
    return not isinstance(first, list | tuple) and not isinstance(second, list | tuple) and same(first, second)


@dataclass(frozen=True)
class Place:
    """A planned run at one place of the grid, for one of its tasks."""

    point: Point
    training: str | None
    facts: Facts


@dataclass(frozen=True)
class Difference:
    """A setting of planned runs that is not the paper's."""

    training: str
    setting: str
    here: Any
    rule: Rule | None  # none where the contract does not have this training or setting
    places: tuple[Place, ...]

    @property
    def text(self) -> str:
        runs = len({place.point.run for place in self.places})
        paper = "nothing" if self.rule is None else f"{self.rule.text}, {self.rule.source or self.rule.assumed}"
        return f"{self.training}: {self.setting} is {shown(self.here)} in {runs} runs (paper: {paper})"


def places_of(plan: Plan, contract: Contract) -> list[Place]:
    """Return every planned run, once for each stage and task; one that trains nothing has no facts."""
    by_run: dict[str, list[Facts]] = {}
    seen: set[tuple[str, str]] = set()
    found = []
    for point in plan.points:
        if (point.stage, point.run) not in seen:
            seen.add((point.stage, point.run))
            if point.run not in by_run:
                by_run[point.run] = facts_of(plan.runs[point.run], plan.runs) or [{}]
            found += [
                Place(point, contract.training_of(facts) if facts else None, facts) for facts in by_run[point.run]
            ]
    return found


def differences(rules: Mapping[str, Mapping[str, Rule]], places: Sequence[Place]) -> list[Difference]:
    """Return the settings of planned runs that differ from the rules of a table or figure of the paper, by training."""
    by_training: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        by_training[place.training or str(place.facts["verb"])].append(place)
    found = []
    for training, own in by_training.items():
        if training not in rules:
            found.append(Difference(training, "training", "planned", None, tuple(own)))
            continue
        settings = dict.fromkeys(name for place in own for name in place.facts)
        for setting in settings | dict.fromkeys(rules[training]):
            if setting not in _KINDS:
                found += _of_setting(training, setting, rules[training].get(setting), own)
    absent = [training for training in rules if training not in by_training]
    return found + [Difference(training, "training", "not planned", None, ()) for training in absent]


_KINDS = ("verb", "method", "starts_from")  # they say which training it is


def _of_setting(training: str, setting: str, rule: Rule | None, own: Sequence[Place]) -> Iterator[Difference]:
    wrong: dict[str, tuple[Any, list[Place]]] = {}
    for here, places in _values(setting, rule, own):
        if not _agrees(rule, here, places[0].facts):
            wrong.setdefault(shown(here), (here, []))[1].extend(places)
    for here, places in wrong.values():
        yield Difference(training, setting, here, rule, tuple(places))


def _values(setting: str, rule: Rule | None, own: Sequence[Place]) -> list[tuple[Any, list[Place]]]:
    """Return the values that a rule is about, each with its runs: of each run, of each combination, or of all."""
    groups: dict[Any, list[Place]] = defaultdict(list)
    form = "paper" if rule is None else rule.form
    if form == "paper":
        others = () if rule is None else tuple(rule.by)
        for place in own:
            facts = place.facts
            groups[repr((facts.get(setting, _MISSING), *map(facts.get, others)))].append(place)
        return [(places[0].facts.get(setting, _MISSING), places) for places in groups.values()]
    for place in own:
        axes = [(name, value) for name, value in place.point.axes.items() if name not in (setting, "seed")]
        groups[(place.facts.get("task"), repr(axes)) if form == "grid" else ""].append(place)
    found = []
    for places in groups.values():
        values: dict[str, Any] = {}
        for place in places:
            value = place.facts.get(setting, _MISSING)
            tried = value if form == "grid" and isinstance(value, tuple | list) else [value]
            values |= {shown(one): one for one in tried}
        found.append((len(values) if form == "count" else _sorted([*values.values()]), places))
    return found


def _sorted(values: list[Any]) -> Any:
    """Return values in an order of their own; a single one alone."""
    ordered = sorted(values, key=lambda one: (0, one, "") if isinstance(one, int | float) else (1, 0, str(one)))
    return ordered[0] if len(ordered) == 1 else tuple(ordered)


def _agrees(rule: Rule | None, here: Any, facts: Facts) -> bool:
    if rule is None:
        return False
    if rule.form == "paper":
        return equal(rule.value_for(facts), here)
    wanted = getattr(rule, rule.form)
    return equal(wanted if rule.form == "count" else _sorted(list(wanted)), here)


def unexplained(found: Difference, deviations: Iterable[Deviation]) -> Difference | None:
    """Return the part of a difference that no deviation names with its value; None if there is no such part."""
    named = [one for one in deviations if found.setting in one.settings and _names(one, found.setting, found.here)]
    left = tuple(place for place in found.places if not any(is_about(one, place) for one in named))
    return replace(found, places=left) if left or not found.places else None


def _names(deviation: Deviation, setting: str, here: Any) -> bool:
    """Return whether a deviation gives this value of a setting, alone, as a grid or as one of several."""
    value = deviation.settings[setting]
    several = value if isinstance(value, list | tuple) else [value]
    return equal(_sorted(list(several)), here) or any(equal(one, here) for one in several)


def is_about(deviation: Deviation, place: Place) -> bool:
    """Return whether a planned run is at one of the places that a deviation names."""
    known = {"stage": place.point.stage} | place.facts | place.point.axes
    return (
        (not deviation.trainings or place.training in deviation.trainings)
        and (not deviation.stages or place.point.stage in deviation.stages)
        and (not deviation.where or matches(deviation.where, known))
    )


@dataclass(frozen=True)
class Row:
    """A setting of a kind of training: what the paper has, and what planned runs have."""

    training: str
    setting: str
    paper: str
    source: str
    here: str
    differs: bool

    @property
    def text(self) -> str:
        return f"{self.training}, {self.setting}: {self.here} (paper: {self.paper})"


class Held:
    """A plan held against the contract with its paper; a study without a contract has no rows."""

    def __init__(self, plan: Plan) -> None:
        self._deviations = plan.study.deviations
        contract = contracts().get(plan.study.paper or "", Contract(papers=(), trainings={}, artefacts={}))
        artefact = next((name for name in (plan.study.name, plan.study.base) if name in contract.artefacts), None)
        self._rules = {} if artefact is None else contract.rules_of(artefact)
        self._titles = {name: training.title for name, training in contract.trainings.items()}
        self._all = places_of(plan, contract)
        added = [one for one in self._deviations.values() if one.added]
        self._places = [place for place in self._all if place.facts and not any(is_about(one, place) for one in added)]

    @cached_property
    def differences(self) -> list[Difference]:
        """The settings of the runs that are not those of the paper; series that are added to it do not count."""
        return differences(self._rules, self._places) if self._rules else []

    @property
    def unexplained(self) -> list[Difference]:
        """The differences, and their parts, that no deviation names."""
        found = [unexplained(one, self._deviations.values()) for one in self.differences]
        return [one for one in found if one is not None]

    @property
    def notes(self) -> dict[str, str]:
        """The texts of the deviations that are about planned runs, and whose settings these have."""
        return {name: one.text for name, one in self._deviations.items() if self._holds(one)}

    def _holds(self, deviation: Deviation) -> bool:
        about = [place for place in self._all if is_about(deviation, place)]
        differing = {(one.setting, shown(one.here)) for one in self.differences if self._shares(one, deviation)}
        for setting, value in deviation.settings.items():
            values = {shown(one) for one in (value, *(value if isinstance(value, list | tuple) else ()))}
            usual = any(setting in place.facts and shown(place.facts[setting]) in values for place in about)
            tried = any(self._is_tried(setting, place) for place in about)
            if not any((setting, one) in differing for one in values) and (tried or not usual):
                return False
        return bool(about)

    @staticmethod
    def _shares(difference: Difference, deviation: Deviation) -> bool:
        return any(is_about(deviation, place) for place in difference.places)

    def _is_tried(self, setting: str, place: Place) -> bool:
        """Return whether the paper tries several values of a setting, of which a run has one."""
        rule = self._rules.get(place.training or "", {}).get(setting)
        return rule is not None and rule.form == "grid"

    @property
    def rows(self) -> list[Row]:
        """Every setting of every kind of training of the table or figure."""
        wrong = {(one.training, one.setting) for one in self.differences}
        found = []
        for training, rules in self._rules.items():
            own = [place for place in self._places if place.training == training]
            for setting, rule in rules.items() if own else ():
                source = rule.source or f"assumed: {rule.assumed}"
                title, here = self._titles[training], _here(setting, rule, own)
                if rule.text != here or here != _MISSING:
                    found.append(Row(title, setting, rule.text, source, here, (training, setting) in wrong))
        return found


def _different(count: int) -> str:
    return "one" if count == 1 else f"{count} different ones"


def _here(setting: str, rule: Rule, own: Sequence[Place]) -> str:
    """Return the values that runs have, the most frequent one first, the others with what they are for."""
    found: dict[str, list[Place]] = defaultdict(list)
    for here, places in _values(setting, rule, own):
        found[_different(here) if rule.form == "count" else shown(here)] += places
    first, *others = sorted(found, key=lambda value: -len(found[value]))
    exceptions = [f"{value} for {which}" if (which := _told_apart(rule, found, value)) else value for value in others]
    return "; ".join([first, *exceptions])


def _told_apart(rule: Rule, found: Mapping[str, Sequence[Place]], value: str) -> str:
    """Return the values of a setting by which the runs with one value differ from all others, if there is one."""
    for name in (*rule.by, "task", "train_size", "sparsity", "objective"):
        own = {shown(place.facts.get(name)) for place in found[value]}
        rest = {shown(place.facts.get(name)) for other, places in found.items() if other != value for place in places}
        if not own & rest:
            return ", ".join(sorted(own))
    return ""
