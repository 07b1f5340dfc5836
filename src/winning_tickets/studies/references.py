"""References of a stage to runs of other stages: matching runs, their axes, paths of their tickets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from winning_tickets.config import SearchConfig, Settings
from winning_tickets.config.mask_training import ScoreTraining
from winning_tickets.config.structured import UnitSearch
from winning_tickets.runs.errors import UsageError
from winning_tickets.studies import expressions
from winning_tickets.studies.expressions import LADDERS, Reference, is_reference, parse_reference, references_in, same
from winning_tickets.studies.verbs import VERBS

Row = tuple[dict[str, Any], dict[str, str]]  # axes, and the target of each reference


@dataclass(frozen=True)
class Run:
    """A run of a study; `needs` are the ids of the runs that must be done before."""

    id: str  # also the name of its folder in the store
    verb: str
    stage: str  # the first stage with this run
    config: dict[str, Any]  # settings that differ from their defaults; references are `@ID/path`
    needs: tuple[str, ...]
    settings: Settings


@dataclass(frozen=True)
class Point:
    """A place in the grid of a stage, with the values of all axes; several places may share a run."""

    stage: str
    axes: dict[str, Any]
    run: str


@dataclass(frozen=True)
class Candidate:
    """A possible target of a reference: `@ID/path`, and the axes that this target adds."""

    axes: dict[str, Any]
    target: str


Index = dict[tuple[str, ...], list[Candidate]]  # candidates by their values on some axes


def target_id(target: str) -> str:
    """Return the id in `@ID/path`."""
    return target.removeprefix("@").partition("/")[0]


def rungs_of(settings: Settings, ladder: str) -> list[tuple[Any, str]]:
    """Return the tickets of one run by sparsity, level or step: the value and the folder (empty for the run itself)."""
    if not isinstance(settings, SearchConfig):
        raise UsageError(f"[{ladder}] opens the tickets of a search, and this stage is not one.")
    if ladder == "step":
        if not isinstance(settings, ScoreTraining):
            raise UsageError(f"[step] opens the tickets of steps, and {settings.method} saves none.")
        last = settings.first_steps
        inner = [(step, f"/step-{step:06d}") for step in sorted(settings.save_at) if step != last]
        return [*inner, (last, "")]
    if ladder == "level" and not isinstance(settings, UnitSearch):
        raise UsageError(f"[level] opens tickets of heads and FFNs, and {settings.method} finds others.")
    rungs = settings.rungs
    if len(rungs) == 1:
        return [(rungs[0], "")]
    return [(rung, f"/{settings.rung_folder(rung)}") for rung in rungs]


class Resolver:
    """Finds the targets of references among the runs of earlier stages."""

    def __init__(
        self, placed: Mapping[str, list[Point]], runs: Mapping[str, Run], parameters: Mapping[str, Any]
    ) -> None:
        self._placed = placed
        self._runs = runs
        self._parameters = parameters
        self._indexes: dict[tuple[str, tuple[str, ...]], dict[tuple[str, ...], Index]] = {}

    def rows(
        self, own: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield the axes and the fields of each combination of targets for one grid point."""
        # Parameters may hold references; each reference multiplies the rows by its matching targets.
        known = {**self._parameters, **own}
        fields = {field: _write_out(value, known) for field, value in fields.items()}
        rows: list[Row] = [(dict(own), {})]
        single = {reference.text: reference for reference, in_list in references_in(fields) if not in_list}
        for reference in single.values():
            rows = [joined for row in rows for joined in self._join(row, reference)]
        for axes, targets in rows:
            # The axes of earlier stages come first.
            ordered = {name: axes[name] for name in (*(name for name in axes if name not in own), *own)}
            yield ordered, {field: self._resolve(value, targets, axes) for field, value in fields.items()}

    def _join(self, row: Row, reference: Reference) -> Iterator[Row]:
        axes, targets = row
        for candidate in self._matching(reference, axes):
            yield {**axes, **candidate.axes}, {**targets, reference.text: candidate.target}

    def _matching(self, reference: Reference, axes: Mapping[str, Any]) -> list[Candidate]:
        """Return the candidates that agree with `axes` on all shared axes; refuse a reference that has none."""
        if reference.stage not in self._placed:
            raise UsageError(f"{reference.text} refers to a stage whose runs are not known before this one's.")
        # Candidates with the same axes are indexed by their values on the shared axes, so that large grids are fast.
        groups = self._indexes.setdefault((reference.text, tuple(axes)), {})
        if not groups:
            for one in _candidates(reference, self._placed[reference.stage], self._runs):
                index = groups.setdefault(tuple(one.axes), {})
                index.setdefault(tuple(str(one.axes[name]) for name in one.axes if name in axes), []).append(one)
        found = []
        for names, index in groups.items():
            found += index.get(tuple(str(axes[name]) for name in names if name in axes), [])
        if not found:
            raise UsageError(f"{reference.text} finds no run.")
        return found

    def _resolve(self, value: Any, targets: Mapping[str, str], axes: Mapping[str, Any]) -> Any:
        if is_reference(value):
            return targets[value]
        if isinstance(value, Mapping):
            return {key: self._resolve(item, targets, axes) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [made for item in value for made in self._gather(item, targets, axes)]
        return value

    def _gather(self, item: Any, targets: Mapping[str, str], axes: Mapping[str, Any]) -> Iterable[Any]:
        if not is_reference(item):
            return [self._resolve(item, targets, axes)]
        return dict.fromkeys(one.target for one in self._matching(parse_reference(item), axes))


def _candidates(reference: Reference, placed: list[Point], runs: Mapping[str, Run]) -> Iterator[Candidate]:
    """Yield the targets of a reference: fixed axes removed, tickets of ladders opened, only named axes kept."""
    axes = {name for one in placed for name in one.axes}
    ladder = _ladder(reference, axes)
    matched = [name for name in reference.names if name in axes]
    seen: dict[str, str] = {}
    for one in placed:
        if any(name in axes and not same(one.axes.get(name), value) for name, value in reference.fixed.items()):
            continue
        kept = {
            name: value
            for name, value in one.axes.items()
            if name not in reference.fixed and (not matched or name in matched)
        }
        for rung, folder in [(None, "")] if ladder is None else rungs_of(runs[one.run].settings, ladder):
            if ladder in reference.fixed and not same(rung, reference.fixed[str(ladder)]):
                continue
            place = kept if ladder is None or ladder in reference.fixed else {**kept, ladder: rung}
            output = VERBS[runs[one.run].verb].output
            target = f"@{one.run}{f'/{output}' if output else ''}{folder}{reference.rest}"
            before = seen.setdefault(str(place), target)
            if matched and before != target:
                raise UsageError(f"{reference.text}: several runs have {place}; name or fix more axes.")
            if before is target:
                yield Candidate(place, target)


def _ladder(reference: Reference, axes: set[str]) -> str | None:
    """Return the ladder that a reference opens; None if it opens none."""
    asked = [name for name in (*reference.names, *reference.fixed) if name not in axes]
    for name in asked:
        if name not in LADDERS:
            known = ", ".join([*sorted(axes), *LADDERS])
            raise UsageError(f"{reference.text}: {reference.stage} has no axis {name!r}; known: {known}.")
    if len(asked) > 1:
        raise UsageError(f"{reference.text} opens {' and '.join(asked)}; open one of them.")
    return asked[0] if asked else None


def _write_out(value: Any, known: Mapping[str, Any], inside: tuple[str, ...] = ()) -> Any:
    """Fill in `${...}` in references, and parameters that are references; other `${...}` wait for further axes."""

    def fill_in(text: str) -> Any:
        if not expressions.names_in(text) <= known.keys():
            return text
        try:
            filled = expressions.substitute(text, known)
        except UsageError:  # no entry for this run, which a condition may skip; otherwise reported later
            return text
        if isinstance(filled, Mapping):  # such as a ticket for each task
            if text in inside:
                raise UsageError(f"{text} holds itself; a parameter cannot.")
            return _write_out(filled, known, (*inside, text))
        return filled if is_reference(filled) else text

    return expressions.map_strings(value, fill_in)
