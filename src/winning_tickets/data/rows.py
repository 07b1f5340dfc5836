"""Read the rows of data in memory: of a `Dataset`, a DataFrame, a list of dicts or a dict of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from winning_tickets.runs.errors import UsageError

Row = tuple[str, dict[str, Any]]  # the place of a row (file and line), and its cells by column


def rows_of(data: Any, what: str) -> list[Row]:
    """Return the rows of data in memory, each with its place for messages; classes of a `Dataset` become their names.

    Raises:
        UsageError: neither a `Dataset`, a DataFrame, a list of dicts nor a dict of columns, or without rows.
    """
    rows: Any
    if hasattr(data, "select_columns") and not isinstance(data, Mapping):
        rows = named_classes(data)
    elif hasattr(data, "iloc") and hasattr(data, "columns"):
        if not data.columns.is_unique:
            names = ", ".join(dict.fromkeys(map(str, data.columns[data.columns.duplicated()])))
            raise UsageError(f"{what} has several columns of the name {names}; rename or drop all but one.")
        rows = data.to_dict("records")
    elif isinstance(data, Mapping) and all(_is_column(column) for column in data.values()):
        columns = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in data.items()}
        if len({len(column) for column in columns.values()}) > 1:
            lengths = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
            raise UsageError(f"The columns of {what} have different numbers of rows: {lengths}.")
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    else:
        rows = list(data) if isinstance(data, Iterable) and not isinstance(data, Mapping) else None
    if rows is None or not all(isinstance(row, Mapping) for row in rows):
        found = f"{type(data).__name__} of splits" if isinstance(data, Mapping) else type(data).__name__
        raise UsageError(
            f"{what} is a {found}; give a file, a Dataset, a DataFrame, a list of dicts or a dict of lists."
        )
    if not rows:
        raise UsageError(f"{what} has no rows.")
    return [
        (f"{what}, row {number}", {str(column): plain(cell) for column, cell in row.items()})
        for number, row in enumerate(rows)
    ]


def plain(cell: Any) -> Any:
    """Return a cell of Python's own types, as a file would have it: numpy's scalars and arrays are others."""
    if type(cell).__module__ == "numpy" and hasattr(cell, "tolist"):
        return cell.tolist()
    return list(cell) if type(cell) is tuple else cell


def _is_column(value: Any) -> bool:
    """Return whether a value is a list, an array or a Series."""
    is_array = hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0
    return is_array or (isinstance(value, Sequence) and not isinstance(value, str))


def named_classes(data: Any) -> list[dict[str, Any]]:
    """Return the rows of a `Dataset` with the names of classes in place of their numbers; -1 becomes None."""
    # A format such as that of torch would give tensors in place of labels and words.
    data = data.with_format(None)
    # If each word has a class, the feature is a list of classes.
    features = {column: getattr(feature, "feature", feature) for column, feature in (data.features or {}).items()}
    names = {column: feature.names for column, feature in features.items() if hasattr(feature, "int2str")}

    def cell(column: str, value: Any) -> Any:
        if column not in names:
            return value
        if isinstance(value, list):
            return [cell(column, one) for one in value]
        return names[column][value] if isinstance(value, int) and value >= 0 else None

    return [{column: cell(column, value) for column, value in row.items()} for row in data]
