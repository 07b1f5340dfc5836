"""The plan that `--dry-run` prints, in words and numbers, and the model in it as far as this machine has it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from winning_tickets.config import Settings
from winning_tickets.data.records import Task
from winning_tickets.report.costs import DEVICES, Cost, ModelSize, Speed, size_of
from winning_tickets.runs.escapes import escaped

if TYPE_CHECKING:
    from winning_tickets.models.loading import PLM, Head

_WIDTH = 118


@dataclass
class Plan:
    """What a command would do: settings, rows of a table, numbers by name, and what was not checked."""

    settings: Settings
    filled: Settings | None = None  # with the values of the profile, which are shown
    rows: dict[str, str] = field(default_factory=dict)  # what runs, by its name in the table
    numbers: dict[str, Any] = field(default_factory=dict)  # `will_run` of the JSON object
    facts: dict[str, Any] = field(default_factory=dict)  # further fields of `plan` of the JSON object
    unchecked: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    reads: Callable[[str], bool] = lambda name: True  # whether the command reads a setting

    def add(self, name: str, value: str, **numbers: Any) -> None:
        """Add a row, and the numbers in it."""
        self.rows[name] = value
        self.numbers |= numbers

    def estimate(self, cost: Cost, model: ModelSize, *, bf16: bool) -> None:
        """Add a row with the estimated time on each kind of device."""
        minutes = {name: round(Speed(name, bf16).seconds(cost, model) / 60, 1) for name in DEVICES}
        words = [
            f"{f'about {count:,.0f}' if count >= 1 else 'about 1 or less'} on {Speed(name, bf16).words}"
            for name, count in minutes.items()
        ]
        self.add("minutes", f"{', '.join(words)} (estimates)", minutes=minutes["cpu"], minutes_on=minutes)

    def as_json(self, out: object) -> dict[str, Any]:
        """Return the plan for machines."""
        return {
            "plan": self.settings.model_dump(mode="json") | self.facts,
            "out": None if out is None else str(out),
            "will_run": self.numbers,
            "unchecked": self.unchecked,
            "remarks": self.remarks,
        }

    def text(self, verb: str) -> str:
        """Return the plan for people: a table, the other settings that are read, and what was not checked."""
        rows = {name.replace("_", " "): value for name, value in self.rows.items()}
        facts = {name: written(value) if isinstance(value, dict) else str(value) for name, value in self.facts.items()}
        rows = escaped(rows | {name: value for name, value in facts.items() if name not in rows})
        width = max(map(len, rows), default=0)
        lines = [f"Would run tickets {verb}:"]
        for name, value in rows.items():
            lines += textwrap.wrap(
                f"{name:>{width}}: {value}",
                _WIDTH,
                initial_indent="  ",
                subsequent_indent=" " * (width + 4),
                break_long_words=False,
                break_on_hyphens=False,
            )
        if others := escaped(self._others()):
            lines += textwrap.wrap(
                f"Other settings: {', '.join(others)}.", _WIDTH, break_long_words=False, break_on_hyphens=False
            )
        for notice in (
            *(f"Warning: {one}" for one in escaped(self.remarks)),
            *(f"Not checked: {one}." for one in escaped(self.unchecked)),
        ):
            lines += textwrap.wrap(notice, _WIDTH, break_long_words=False, break_on_hyphens=False)
        return "\n".join(lines)

    def _others(self) -> list[str]:
        """Return the settings in effect that no row names."""
        named = {*self.rows, *self.numbers}
        found: list[str] = []
        for name, value in (self.filled or self.settings).model_dump(mode="json").items():
            if name in named or not self.reads(name):
                continue
            inner = value.items() if isinstance(value, dict) else ()
            found += [f"{name}.{key} {written(one)}" for key, one in inner if one not in _NOTHING]
            if not isinstance(value, dict) and value not in _NOTHING:
                found.append(f"{name.replace('_', ' ')} {written(value)}")
        return found


_NOTHING: tuple[Any, ...] = (None, [], {}, False, "")


def written(value: Any) -> str:
    """Return a value of a setting as the plan prints it."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {written(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(written, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


@dataclass(frozen=True)
class PlannedModel:
    """The model of a plan, as far as its configuration is on this machine."""

    words: str
    size: ModelSize
    plm: PLM | None  # without weights; None if it could not be looked at
    sparsity: float = 0.0  # of a ticket of single weights

    def cut(self, asked: int | None, task: Task) -> int:
        """Return the most tokens of a text; refuse a number that the model does not take."""
        from winning_tickets.models.heads import choose_max_length

        if self.plm is None or self.plm.tokenizer is None:
            return asked or task.max_length
        return choose_max_length(asked, task, self.plm)

    def check_segments(self, segments: str, batch_tokens: int) -> None:
        """Refuse segments that the model does not take."""
        from winning_tickets.data.batches import check_segments

        if self.plm is not None and self.plm.tokenizer is not None:
            check_segments(segments, batch_tokens, self.plm.tokenizer)


def model_of(
    plan: Plan,
    name: str,
    base: str | None = None,
    revision: str | None = None,
    *,
    layers: int | None = None,
    head: Head = "none",  # one that the model cannot have is refused
    onnx: bool = False,  # whether the command takes an ONNX export
    require_mlm_head: bool = False,
) -> PlannedModel:
    """Find a model, ticket or fine-tuned model, and check all of its files but the values of its weights."""
    from winning_tickets.models.loading import examine
    from winning_tickets.tickets.target import Target
    from winning_tickets.training.source import FineTunedSource, OnnxSource, TicketSource, find_source

    where, words, sparsity, source = name, name, 0.0, find_source(name)
    if isinstance(source, OnnxSource):
        source.refuse(base=base, revision=revision, layers=layers)
    if isinstance(source, TicketSource):
        target = Target.find(name, base, revision, layers)
        assert target.ticket is not None
        sparsity = 0.0 if target.ticket.gates else target.ticket.sparsity
        where, plm = target.model, target.examine(head, require_mlm_head=require_mlm_head)
        words = f"{name}, a ticket of {where} with {target.ticket.sparsity:.1%} of its scope pruned"
    else:
        if isinstance(source, FineTunedSource):
            where, words = str(source.open().folder), f"{name}, a fine-tuned model"
        plm = examine(where, head, revision, layers, onnx=onnx, require_mlm_head=require_mlm_head)
    if plm is None:
        reason = "which may run code of its own" if Path(where).is_dir() else "which is not on this machine"
        plan.unchecked.append(f"the model {where}, {reason}")
        return PlannedModel(words, size_of(where), None, sparsity)
    config = plm.model.config
    depth, width, vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
    size = ModelSize(depth, width, config.num_attention_heads, vocabulary, vocabulary * width + 12 * depth * width**2)
    return PlannedModel(f"{words} ({depth} layers of width {width})", size, plm, sparsity)


def check_given(plan: Plan, option: str, name: str | None, find: Callable[[str], object]) -> None:
    """Check that a run or ticket that an option names is there; the hub is not asked."""
    from winning_tickets.runs.hub import may_be_id

    if name is not None and "/" in name and may_be_id(name):
        plan.unchecked.append(f"{option} {name}, which the run gets from the hub")
    elif name is not None:
        find(name)
