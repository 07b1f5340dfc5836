"""Predictions for every row of a file: CSV, TSV or JSON Lines in, the same rows with predictions out."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from winning_tickets.config import Runtime
from winning_tickets.data.readers import FORMATS
from winning_tickets.data.rows import Row
from winning_tickets.data.user_files import SEPARATOR
from winning_tickets.runs.directory import remote_code_facts
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import write_atomic
from winning_tickets.runs.progress import progress
from winning_tickets.training.predict import Predictor, texts_of_row

CHUNK = 1024  # rows that are read, labeled and written at a time
WRITTEN = (".csv", ".tsv", ".jsonl")  # formats of predictions
PREDICTION = "prediction"
PROBABILITY = "probability"


def predict_file(
    run: Path | str,
    input_file: Path | str,
    out: Path | str,
    *,
    text_columns: Sequence[str] | None = None,
    probabilities: bool = False,
    seed: int | None = None,
    runtime: Runtime | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Label every row of a file with a fine-tuned model, and write the rows with their predictions.

    Args:
        run: a transfer, one of its seeds, a super run, a saved model or an export of one, ONNX included.
        input_file: `.csv`, `.tsv` or `.jsonl`, with a header or with keys, or `.parquet`.
        out: `.csv`, `.tsv` or `.jsonl` to write; it may be of another format than the input.
        text_columns: the columns of the texts; None takes those that the model was trained on.
        probabilities: write the probability of every class too, as columns `p(CLASS)`.
        seed: seed of the model in a transfer; None takes the first saved one.
        runtime: device and precision.
        force: replace an existing file.

    Returns:
        `task`, `model`, `rows`, `out`, and `counts`: the number of rows by prediction, for classes.

    Raises:
        UsageError: no saved model, no such file, another format, missing columns, a file that is there already.
        ContentError: a row without a text, or a file that cannot be read.
    """
    runtime, source, out = runtime or Runtime(), Path(input_file), Path(out)
    if not source.is_file():
        raise UsageError(f"There is no file {source}.")
    for path, formats in ((source, tuple(FORMATS)), (out, WRITTEN)):
        if path.suffix.lower() not in formats:
            raise UsageError(f"{path} has none of the suffixes {', '.join(formats)}.")
    if out.exists() and not force:
        raise UsageError(f"--out {out} is there already and was left untouched; give another file, or --force.")
    # The whole file is checked before the model is loaded, so that an error in its last row comes at once.
    predictor = Predictor.find(run, seed)
    columns = predictor.columns(text_columns)
    total = sum(1 for _ in _rows(source, columns))
    if not total:
        raise ContentError(f"{source} is empty: it holds no row to label.")
    predictor.load(runtime)
    counts: Counter[str] = Counter()

    def labelled(advance: Callable[[int, str], None]) -> Iterator[dict[str, Any]]:
        rows, done = _rows(source, columns), 0
        while chunk := list(islice(rows, CHUNK)):
            found = predictor.predict([texts for _, texts in chunk])
            for (cells, _), prediction in zip(chunk, found, strict=True):
                added = _added(prediction, probabilities=probabilities)
                counts.update([added[PREDICTION]] if "label" in prediction else [])
                yield cells | added
            done += len(chunk)
            advance(done, "")

    with progress(f"labeling {source.name}", total, quiet=runtime.quiet) as advance:
        write_atomic(out, lambda path: _write(path, out.suffix.lower(), labelled(advance)))
    return {
        "task": predictor.info.task,
        "model": str(predictor.folder),
        "ticket_id": predictor.info.ticket_id,
        "input": str(source),
        "out": str(out),
        "rows": total,
        "counts": dict(sorted(counts.items(), key=lambda item: -item[1])),
        **remote_code_facts(),
    }


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Yield the cells of each row, and its texts."""
    rows: Iterable[Row] = FORMATS[path.suffix.lower()](path)
    for where, cells in rows:
        yield cells, texts_of_row(where, cells, columns)


def _added(prediction: dict[str, Any], *, probabilities: bool) -> dict[str, Any]:
    """Return the columns of a prediction: `prediction`, and others by kind, such as `probability` and `p(CLASS)`."""
    if "answer" in prediction:
        return {PREDICTION: prediction["answer"], "start": prediction["start"]}
    if "words" in prediction:
        return {PREDICTION: prediction["labels"]}
    if "score" in prediction:
        return {PREDICTION: prediction["score"]}
    scores = prediction["scores"]
    found: dict[str, Any] = {PREDICTION: prediction["labels"] if "labels" in prediction else prediction["label"]}
    if "label" in prediction:
        found[PROBABILITY] = scores[prediction["label"]]
    return found | ({f"p({name})": value for name, value in scores.items()} if probabilities else {})


def _write(path: Path, suffix: str, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        header: list[str] = []
        for number, row in enumerate(rows, 1):
            if not header:
                header = list(row)
                file.write(_line(header, suffix, number))
            if list(row) != header:
                raise ContentError(
                    f"Row {number} has other columns than the first ({', '.join(row)}), and a table has the same in "
                    "all rows; write --out as .jsonl."
                )
            file.write(_line([_cell(value) for value in row.values()], suffix, number))


def _cell(value: Any) -> str:
    if isinstance(value, list):  # words that were cut off have None as their label
        return SEPARATOR.join("" if one is None else str(one) for one in value)
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def _line(cells: Sequence[str], suffix: str, number: int) -> str:
    if suffix == ".tsv":
        if any(character in cell for cell in cells for character in "\t\n\r"):
            raise ContentError(
                f"Row {number} holds a tab or a line break, which a tsv cannot; write --out as .csv or .jsonl."
            )
        return "\t".join(cells) + "\n"
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
