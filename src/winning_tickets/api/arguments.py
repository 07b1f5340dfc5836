"""Turn the arguments of a verb into its settings.

Keyword arguments become fields. Objects in memory get names that are made from their content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType, UnionType
from typing import Any, Generic, Union, get_args, get_origin

from winning_tickets.config import (
    EvaluateConfig,
    FitHeadConfig,
    Runtime,
    Settings,
    ShrinkConfig,
    TransferConfig,
)
from winning_tickets.config.search import TextSearch
from winning_tickets.config.settings import AnySettings
from winning_tickets.data.corpora import CorpusText
from winning_tickets.data.examples import is_text
from winning_tickets.data.readers import fingerprint, split_lines
from winning_tickets.data.rows import rows_of
from winning_tickets.data.tasks import MLM
from winning_tickets.runs import distributed, memory
from winning_tickets.runs.directory import trusting
from winning_tickets.runs.errors import UsageError, shown
from winning_tickets.runs.files import check_working_directory

ROWS = ("train_file", "validation_file", "pairs_file")
"""Fields that take rows: a `Dataset`, a DataFrame, a list of dicts, or a dict of columns."""
CHARACTERS_A_TOKEN = 8  # characters of a stream that are read for each token; English has about half as many
LEAST_CHARACTERS = 1 << 20
_ROWS_AT_A_TIME = 100


@dataclass(frozen=True)
class Call(Generic[AnySettings]):
    """The settings, output folder and runtime of one call of a verb."""

    config: AnySettings
    out: Path  # a temporary folder where none was given
    runtime: Runtime
    lasting: bool  # whether `out` was given


@contextmanager
def called(
    kind: type[AnySettings],
    field: str,  # the field that the first argument gives
    first: Any,
    fields: Mapping[str, Any],
    *,
    out: Path | str | None = None,
    runtime: Runtime | None = None,
    tokenizer: Any = None,
    writes: bool = True,  # whether the verb works in `out`
    inline: str = "",  # a field with settings of its own, whose fields may be given as if they were those of `kind`
) -> Iterator[Call[AnySettings]]:
    """Yield the settings of a call; the names of objects and the temporary folder are valid inside the block only.

    Raises:
        UsageError: settings together with fields, unknown fields, objects that cannot be used, or several processes
            without `out`.
    """
    check_working_directory()
    how = {name: value for name, value in fields.items() if name in Runtime.model_fields}
    fields = {name: value for name, value in fields.items() if name not in how}
    if how:
        runtime = Runtime.of(**(runtime or Runtime()).model_dump(exclude_unset=True) | how)
    if writes and out is None and distributed.world_size() > 1:
        raise UsageError("Several processes work in one folder; give out=.")
    with ExitStack() as stack:
        stack.enter_context(trusting(remote_code=(runtime or Runtime()).trust_remote_code))
        temporary = Path(stack.enter_context(TemporaryDirectory(prefix="winning-tickets-")))
        names = Names(stack, tokenizer, temporary / "cache" if out is None else None)
        if isinstance(first, kind):
            if fields:
                raise UsageError(f"Give a {kind.__name__} or its fields, not both; found also {', '.join(fields)}.")
            config = first
        else:
            values = dict(({} if first is None else {field: first}) | fields)
            part = kind.part_of(inline) if inline and inline not in values else None
            if part is not None:
                inner = {
                    name: values.pop(name) for name in part.model_fields.keys() - kind.model_fields if name in values
                }
                values[inline] = part.of(**names.settings(part, inner))
            config = kind.of(**names.settings(kind, values))
        names.check_tokenizer()
        where = temporary / "run" if out is None else Path(out)
        yield Call(config, where, runtime or Runtime(), lasting=out is not None)


@contextmanager
def named(*values: Any, tokenizer: Any = None, trust_remote_code: bool = False) -> Iterator[list[Any]]:
    """Yield the names of models and tickets; names of objects in memory are valid inside the block only."""
    check_working_directory()
    with ExitStack() as stack:
        stack.enter_context(trusting(remote_code=trust_remote_code))
        names = Names(stack, tokenizer)
        found = [names.of_model(value) for value in values]
        for value in found:
            if not isinstance(value, str | None):
                raise UsageError(f"Found a {type(value).__name__}; give a name, a folder, a model or a Ticket.")
        names.check_tokenizer()
        yield found


def check_base(target: Any, base: Any, keyword: str) -> None:
    """Refuse a ticket whose base model was built in memory if that model is not given."""
    name = getattr(getattr(target, "base", None), "name", "")
    if base is None and str(name).startswith(memory.PREFIX):
        raise UsageError(
            f"The ticket's model was built in memory, and no folder or hub id has it; give {keyword}= too."
        )


@dataclass
class Names:
    """Gives objects in memory names that `memory.find` knows while the exit stack is open."""

    stack: ExitStack
    tokenizer: Any = None  # the tokenizer of models in memory
    cache: Path | None = None  # folder of the token cache; None takes the usual folder
    has_model: bool = False  # whether a model in memory was named

    def check_tokenizer(self) -> None:
        """Refuse a tokenizer without a model in memory, as a model that is loaded by its name has its own."""
        if self.tokenizer is not None and not self.has_model:
            raise UsageError(
                "tokenizer= goes with a model in memory, and none was given; a model that is given by its name has its "
                "own, so leave it out."
            )

    def settings(self, kind: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of fields with names in place of objects."""
        found, kind = dict(values), kind.kind_of(values)
        # A corpus comes last: the other fields say how much of a stream is read.
        for field in sorted(values, key=lambda name: name == "corpus"):
            value = values[field]
            if field == "corpus":
                found[field] = self._of_corpus(kind, found)
                continue
            one = partial(self._of_rows, field) if field in ROWS else self.of_model
            types = _types(kind, field)
            if dict not in types:
                found[field] = one(value)
            elif isinstance(value, Mapping):  # by task
                found[field] = {task: one(item) for task, item in value.items()}
            elif field in ROWS and not isinstance(value, str | None):
                raise UsageError(f"{field} is a {type(value).__name__}; give a dict with the data of each task.")
            elif isinstance(value, list | tuple):
                found[field] = [one(item) for item in value]
            if types and types <= {tuple, NoneType} and isinstance(found[field], str | int | float):
                found[field] = (found[field],)  # one value where several may be given
        return found

    def of_model(self, value: Any) -> Any:
        """Return the name of a model or ticket in memory; return any other value, such as a name, unchanged."""
        if _is_setting(value):
            return _written(value)

        from torch import nn

        from winning_tickets.models.given import GivenModel
        from winning_tickets.tickets.files import IN_MEMORY
        from winning_tickets.tickets.ticket import Ticket

        if isinstance(value, Ticket):
            return self._name(IN_MEMORY + value.id, value)
        if isinstance(value, nn.Module):
            model = GivenModel.of(value, self.tokenizer)
            self.has_model = True
            return self._name(model.name, model)
        return value  # the settings refuse it

    def _of_rows(self, field: str, value: Any) -> Any:
        if _is_setting(value):
            return _written(value)
        rows = rows_of(value, field.removesuffix("_file"))
        return self._name(f"{memory.PREFIX}rows-{fingerprint(repr(row) for _, row in rows)}", rows)

    def _of_corpus(self, kind: type[Settings], values: Mapping[str, Any]) -> Any:
        value = values["corpus"]
        if _is_setting(value):
            return _written(value)
        lines = _lines(value)
        if not hasattr(value, "__len__"):
            lines = list(_first(lines, _characters(kind.of(**{**values, "corpus": "stream"}))))
        text = CorpusText.of("given in memory", "train", lambda: lines, self.cache)
        return self._name(f"{memory.PREFIX}text-{text.fingerprint}", text)

    def _name(self, name: str, value: Any) -> str:
        return self.stack.enter_context(memory.given(name, value))


def _types(kind: type[Settings], field: str) -> set[Any]:
    """Return the outermost types that a field takes, such as dict; an unknown field has none."""
    if field not in kind.model_fields:
        return set()
    annotation: Any = kind.model_fields[field].annotation
    each = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return {get_origin(one) or one for one in each}


def _is_setting(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | Path | Settings)


def _written(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


class _Lines:
    """The lines of texts, split as in a file; each iteration starts again from the first text."""

    def __init__(self, texts: Any) -> None:
        self._texts = texts

    def __iter__(self) -> Iterator[str]:
        for number, text in enumerate(_texts(self._texts)):
            if not isinstance(text, str):
                raise UsageError(f"Text {number} of corpus is a {type(text).__name__}; a corpus is a list of str.")
            if not is_text(text):
                raise UsageError(f"Text {number} of corpus has half of a surrogate pair, no character: {shown(text)}.")
            yield from split_lines(text)


def _lines(corpus: Any) -> Iterable[str]:
    """Return the lines of a list of texts, a `Dataset` or an `IterableDataset`; a text may have several lines."""
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
    """Return how many characters of a stream to read, which are enough for all tokens of the run."""
    if isinstance(config, EvaluateConfig):
        if config.max_tokens is None:
            raise UsageError("The corpus is a stream, whose end is not known; give max_tokens=.")
        tokens = config.max_tokens
    elif isinstance(config, TextSearch):
        tokens = config.most_steps * config.resolved().batch_tokens
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
