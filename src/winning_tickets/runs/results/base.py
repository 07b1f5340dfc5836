"""What all results have: the fields that a verb stores, the one check of a file, and the schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from winning_tickets.runs.errors import ContentError, explain
from winning_tickets.runs.statistics import LARGEST

Share = Annotated[float, Field(ge=0, le=1)]
Score = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
"""A number that a run can have measured."""
Count = Annotated[int, Field(ge=0)]


def required(description: str) -> Any:
    """Return a field that every result of a verb has."""
    return Field(description=description)


def optional(description: str) -> Any:
    """Return a field that results may lack, or have as null."""
    return Field(None, description=description)


class Stored(BaseModel):
    """An object in a result. Keys that newer versions add are kept; a key that is absent is None here."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)

    def known(self) -> Iterator[tuple[str, Any]]:
        """Yield the fields that the file has, with their values."""
        for name in type(self).model_fields:
            if name in self.model_fields_set:
                yield name, getattr(self, name)


class Execution(Stored):
    """How a training was computed, where that is not every step in plain float32."""

    precision: str | None = optional("`bf16`, `tf32`, or of a resumed run also `bf16 and float32`; absent for float32")
    compiled: bool | None = optional("true with `--compile`, else absent")
    skipped_steps: list[int] | None = optional(
        "with [`--non-finite skip`](../explanation/faults.md#non-finite-losses-and-gradients), if any was"
    )


class StoredResult(Execution):
    """What a run stores as `result.json`.

    Example:
        >>> read_result(Path("runs/rte"), TransferResult).metrics["accuracy"].final.mean
    """

    _by_verb: ClassVar[dict[str, type[StoredResult]]] = {}
    verbs: ClassVar[tuple[str, ...]] = ()

    verb: str | None = optional("what made the result")
    run_id: str | None = optional("of the run: its settings, data and weights")
    versions: dict[str, str] | None = optional("of Python and of libraries")
    machine: dict[str, Any] | None = optional("system, processor and cores")
    out: str | None = optional("the folder, in what a verb prints")
    trust_remote_code: bool | None = optional("true if models could run code of their own, else absent")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for verb in cls.verbs:
            StoredResult._by_verb[verb] = cls

    @classmethod
    def by_verb(cls) -> dict[str, type[StoredResult]]:
        """Return the classes of the results of all verbs, or those of them that are subclasses of this one."""
        return {verb: kind for verb, kind in StoredResult._by_verb.items() if issubclass(kind, cls)}

    @staticmethod
    def kind_of(content: Mapping[str, Any]) -> type[StoredResult]:
        """Return the class of a result, by its verb; `StoredResult` for a verb that has none of its own."""
        return StoredResult._by_verb.get(str(content.get("verb")), StoredResult)

    @classmethod
    def parse(cls, content: Any, path: object) -> Self:
        """Return the result that a parsed JSON file holds, by its verb.

        Raises:
            ContentError: another verb than those of this class, or a field that no run of the verb writes like this.
        """
        given: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
        kind = StoredResult.kind_of(given)
        if not issubclass(kind, cls):
            names = dict.fromkeys(verb.removesuffix("-seed") for verb in cls.by_verb())
            wanted = " or ".join(f"tickets {name}" for name in names)
            found = f"a result of tickets {given['verb']}" if given.get("verb") else "something else"
            raise ContentError(f"{path} is not a result of {wanted} but {found}; give a folder made by {wanted} --out.")
        try:
            return kind.model_validate(content)
        except ValidationError as error:
            raise ContentError(
                f"{path} was edited: {explain(error)} Copy it again, or delete it and run the same command."
            ) from error


def problem(content: Mapping[str, Any], kind: type[Stored] | None = None) -> str | None:
    """Return what no run writes in a parsed object, by default a result, in one sentence; None if it can be used."""
    try:
        (kind or StoredResult.kind_of(content)).model_validate(content)
    except ValidationError as error:
        return explain(error)
    return None
