"""Arguments of a verb as its settings: keyword arguments are fields, and objects get names made from their content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic

from winning_tickets.config import (
    EvaluateConfig,
    FitHeadConfig,
    Runtime,
    SearchConfig,
    Settings,
    ShrinkConfig,
    TransferConfig,
)
from winning_tickets.config.settings import AnySettings
from winning_tickets.data.corpora import CorpusText
from winning_tickets.data.readers import fingerprint, split_lines
from winning_tickets.data.rows import rows_of
from winning_tickets.data.tasks import MLM
from winning_tickets.runs import distributed, memory
from winning_tickets.runs.directory import trusting
from winning_tickets.runs.errors import UsageError

ROWS = ("train_file", "validation_file", "pairs_file")
"""Fields that take rows: a `Dataset`, a DataFrame, a list of dicts, or a dict of columns."""
CHARACTERS_A_TOKEN = 8  # of a stream, about twice as many as English has
LEAST_CHARACTERS = 1 << 20
_ROWS_AT_A_TIME = 100


@dataclass(frozen=True)
class Call(Generic[AnySettings]):
    """A call of a verb with the settings that its arguments stand for."""

    config: AnySettings
    out: Path  # a temporary folder where none was given
    runtime: Runtime
    lasting: bool  # whether `out` was given


@contextmanager
def called(
    kind: type[AnySettings],
    field: str,  # that the first argument gives
    first: Any,
    fields: Mapping[str, Any],
    out: Path | str | None = None,
    runtime: Runtime | None = None,
    tokenizer: Any = None,
    writes: bool = True,  # whether the verb works in `out`
) -> Iterator[Call[AnySettings]]:
    """Yield the settings of a call; objects are known by their names, and a temporary folder is there, inside only.

    Raises:
        UsageError: settings and fields at once, unknown fields, objects that cannot be used.
    """
    how = {name: value for name, value in fields.items() if name in Runtime.model_fields}
    fields = {name: value for name, value in fields.items() if name not in how}
    if how:
        runtime = Runtime.of(**(runtime or Runtime()).model_dump(exclude_unset=True) | how)
    if writes and out is None and distributed.world_size() > 1:
        raise UsageError("Several processes work in one folder; give out=.")
    with ExitStack() as stack:
        stack.enter_context(trusting((runtime or Runtime()).trust_remote_code))
        temporary = Path(stack.enter_context(TemporaryDirectory(prefix="winning-tickets-")))
        cache = temporary / "cache" if out is None else None
        if isinstance(first, kind):
            if fields:
                raise UsageError(f"Give a {kind.__name__} or its fields, not both; found also {', '.join(fields)}.")
            config = first
        else:
            values = dict(({} if first is None else {field: first}) | fields)
            # A corpus comes last: the other fields say how much of a stream is read.
            for name in sorted(values, key=lambda name: name == "corpus"):
                if isinstance(values[name], Path):
                    values[name] = str(values[name])
                elif (known := _in_memory(kind, name, values, tokenizer, cache)) is not None:
                    values[name] = stack.enter_context(memory.given(*known))
            config = kind.of(**values)
        where = temporary / "run" if out is None else Path(out)
        yield Call(config, where, runtime or Runtime(), lasting=out is not None)


def _in_memory(
    kind: type[Settings], field: str, values: Mapping[str, Any], tokenizer: Any, cache: Path | None
) -> tuple[str, Any] | None:
    """Name and object of a model, a ticket, rows or a text; None for a value that is a setting as it is."""
    value = values[field]
    if value is None or isinstance(value, str | int | float | Settings):
        return None
    if field in ROWS:
        rows = rows_of(value, field.removesuffix("_file"))
        return f"{memory.PREFIX}rows-{fingerprint(repr(row) for _, row in rows)}", rows
    if field == "corpus":
        lines = _lines(value)
        if not hasattr(value, "__len__"):
            lines = list(_first(lines, _characters(kind.of(**{**values, field: "stream"}))))
        text = CorpusText.of("given in memory", "train", lambda: lines, cache)
        return f"{memory.PREFIX}text-{text.fingerprint}", text

    from torch import nn

    from winning_tickets.models.given import GivenModel
    from winning_tickets.tickets.files import IN_MEMORY
    from winning_tickets.tickets.ticket import Ticket

    if isinstance(value, Ticket):
        return IN_MEMORY + value.id, value
    if isinstance(value, nn.Module):
        model = GivenModel.of(value, tokenizer)
        return f"{memory.PREFIX}model-{model.hash}", model
    return None


class _Lines:
    """The lines of texts, anew in each iteration, as a file with these texts has them."""

    def __init__(self, texts: Any) -> None:
        self._texts = texts

    def __iter__(self) -> Iterator[str]:
        for number, text in enumerate(_texts(self._texts)):
            if not isinstance(text, str):
                raise UsageError(f"Text {number} of corpus is a {type(text).__name__}; a corpus is a list of str.")
            yield from split_lines(text)


def _lines(corpus: Any) -> Iterable[str]:
    """The lines of a list of texts, of a `Dataset` or an `IterableDataset`; a text may have several."""
    if isinstance(corpus, Mapping) or (hasattr(corpus, "iloc") and hasattr(corpus, "columns")):
        hint = "corpus['train'], or a list of str" if isinstance(corpus, Mapping) else "one column of it"
        raise UsageError(f"corpus is a {type(corpus).__name__} of several parts; give {hint}.")
    if not isinstance(corpus, Iterable):
        raise UsageError(
            f"corpus is a {type(corpus).__name__}; give a name, a file, a list of str, a Dataset or an IterableDataset."
        )
    return _Lines(corpus)


def _texts(corpus: Any) -> Iterator[Any]:
    if not hasattr(corpus, "select_columns"):
        yield from corpus
        return
    # A stream may not know its columns before its first row.
    columns = corpus.column_names or list(next(iter(corpus), {}))
    column = "text" if "text" in columns else columns[0] if len(columns) == 1 else None
    if column is None:
        raise UsageError(
            f"The data set of corpus has the columns {', '.join(columns) or 'none'}, and none of them is 'text'; give "
            "one, such as dataset.select_columns('sentence')."
        )
    for part in corpus.select_columns(column).iter(_ROWS_AT_A_TIME):
        yield from part[column]


def _first(lines: Iterable[str], characters: int) -> Iterator[str]:
    for line in lines:
        yield line
        characters -= len(line)
        if characters <= 0:
            return


def _characters(config: Settings) -> int:
    """Characters of a stream that a run reads: enough for all its tokens."""
    if isinstance(config, EvaluateConfig):
        if config.max_tokens is None:
            raise UsageError("The corpus is a stream, whose end is not known; give max_tokens=.")
        tokens = config.max_tokens
    elif isinstance(config, SearchConfig):
        settings = config.resolved()
        steps = max(
            settings.total_steps, settings.calibration_batches, (settings.round_steps or 0) * len(settings.rungs)
        )
        tokens = steps * settings.batch_tokens
    elif isinstance(config, TransferConfig):
        if config.steps is None:
            raise UsageError("The corpus is a stream, whose end is not known; give steps=.")
        tokens = config.steps * (config.batch_size or MLM.batch_size) * (config.max_length or MLM.max_length)
    elif isinstance(config, ShrinkConfig):
        if config.most_batches is None:
            raise UsageError("The corpus is a stream, whose end is not known; give steps=.")
        tokens = config.most_batches * config.batch_tokens
    else:
        assert isinstance(config, FitHeadConfig)
        tokens = config.steps * config.batch_tokens
    return max(LEAST_CHARACTERS, CHARACTERS_A_TOKEN * tokens)
