"""Predictions for the test sets of GLUE, in the files that the GLUE server accepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from winning_tickets.config import Runtime, Settings
from winning_tickets.data.encode import Array
from winning_tickets.data.glue import DIAGNOSTIC, SERVER_FILES, TestSet, read_tests
from winning_tickets.data.readers import fingerprint
from winning_tickets.data.records import Task
from winning_tickets.data.tasks import TASKS
from winning_tickets.models.device import choose_device
from winning_tickets.models.heads import KINDS
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError
from winning_tickets.runs.files import write_text
from winning_tickets.runs.identity import run_id
from winning_tickets.training.predict import encode_split, predict_split
from winning_tickets.training.saved_model import TaskInfo, find_model, load_fine_tuned

ALL_FILES = (*(name for files in SERVER_FILES.values() for name in files), DIAGNOSTIC)
WEIGHTS = "model.safetensors"
_IN_WORDS = ("mnli", "qnli", "rte")
"""Tasks whose classes the server expects by name; it expects the classes of other tasks by number."""
_ALIASES = {"sst": "sst2"}
_MAX_SCORE = 5.0


@dataclass(frozen=True)
class _Part:
    """One task of a submission: the run, its saved model and the test sets to predict."""

    run: str
    folder: Path
    info: TaskInfo
    task: Task
    classes: list[str]
    tests: dict[str, TestSet]


def glue_submission(
    runs: Sequence[Path | str],
    data_dir: Path | str,
    out: Path | str,
    *,
    seed: int | None = None,
    runtime: Runtime | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write files for the GLUE server with `index` and `prediction`: classes as the server names them, scores 0 to 5.

    Args:
        runs: one transfer per task, made with `--save-model`.
        data_dir: a GLUE download with the test files.
        out: a directory that is absent or empty, or has this same submission.
        seed: seed of the model of each transfer; None takes the first model that was saved.
        runtime: device and precision.
        force: replace another submission in `out`.

    Returns:
        `files` by name (`run`, `task`, `rows`, `ticket_id`), `missing` names of files, `notes`, `out`.

    Raises:
        UsageError: no saved model, a task that is not in GLUE or comes twice, missing test files, another run in `out`.
        ContentError: the labels of a model, or a test file, do not fit the task.
        TrainingError: a model's outputs are not finite.

    Example:
        >>> glue_submission(["rte-transfer", "mrpc-transfer"], "glue", "submission")["missing"]
    """
    runtime = runtime or Runtime()
    # All runs are checked before anything is predicted.
    device = choose_device(runtime.device)
    parts = [_part(run, seed, Path(data_dir)) for run in runs]
    for part in parts:
        others = [other.run for other in parts if other.task.name == part.task.name]
        if len(others) > 1:
            raise UsageError(f"{' and '.join(others)} are both runs of {part.task.name}; give one run per task.")
    # The run id contains the weights and the texts, so that the same submission is made once.
    marker = {"runs": [str(run) for run in runs], "data_dir": str(data_dir), "seed": seed}
    content = {part.task.name: _identity(part) for part in parts}
    identity = run_id(Settings(), "glue-submission", **content)
    with RunDirectory.claim(Path(out), "glue-submission", identity, marker, force=force) as directory:
        if directory.status != "done":
            directory.finish(_write(parts, directory.path, device, runtime) | {"out": str(out)})
        return directory.result()


def _write(parts: list[_Part], folder: Path, device: torch.device, runtime: Runtime) -> dict[str, Any]:
    """Write the files of a submission; return which these are, and which are missing."""
    # One model is in memory at a time.
    files = {}
    for part in parts:
        plm = load_fine_tuned(part.folder, part.info)
        plm.model.to(device)
        for name, test in part.tests.items():
            split = KINDS[part.info.kind].unlabelled(test.texts)
            encoded = encode_split(plm, split, part.info.max_length, part.info.kind)
            predictions = _predictions(part, np.stack(predict_split(plm, encoded, bf16=runtime.bf16)))
            rows = [f"{index}\t{value}\n" for index, value in sorted(zip(test.indices, predictions, strict=True))]
            write_text(folder / f"{name}.tsv", "index\tprediction\n" + "".join(rows))
            facts = {"run": part.run, "task": part.task.name, "rows": len(rows), "ticket_id": part.info.ticket_id}
            files[f"{name}.tsv"] = facts
    missing, notes = [f"{name}.tsv" for name in ALL_FILES if f"{name}.tsv" not in files], []
    if "MNLI-m.tsv" in files and f"{DIAGNOSTIC}.tsv" in missing:
        notes = ["The diagnostic set (AX, diagnostic/diagnostic.tsv) is not in --data-dir, so AX.tsv was not written."]
    return {"files": files, "missing": missing, "notes": notes}


def _part(run: Path | str, seed: int | None, data_dir: Path) -> _Part:
    folder = find_model(run, seed)
    info = TaskInfo.read(folder)
    name = _ALIASES.get(info.task, info.task)
    if name not in SERVER_FILES:
        raise UsageError(f"{run} is a run of {info.task}, not a task of the GLUE server: {', '.join(SERVER_FILES)}.")
    task = TASKS[name]
    if info.kind != task.kind or len(info.text_columns) != len(task.text_columns):
        raise ContentError(
            f"{run} predicts {info.kind} of {len(info.text_columns)} text(s), and {name} of GLUE is {task.kind} of "
            f"{len(task.text_columns)}; a task file may have given it that name."
        )
    return _Part(str(run), folder, info, task, _classes(run, info, task), read_tests(task, data_dir))


def _classes(run: Path | str, info: TaskInfo, task: Task) -> list[str]:
    by_name = set(info.labels) == set(task.labels)
    by_number = info.labels == tuple(map(str, range(len(task.labels))))
    in_words = task.name in _IN_WORDS
    if not by_name and (in_words or not by_number):
        raise ContentError(
            f"{run} has the labels {', '.join(info.labels)}, and {task.name} of GLUE has {', '.join(task.labels)}; "
            "name them in the task file and fine-tune again."
        )
    if in_words:
        return list(info.labels)
    return [str(task.labels.index(label)) for label in info.labels] if by_name else list(info.labels)


def _identity(part: _Part) -> str:
    """Return a hash of the model's weights and of the texts."""
    import xxhash

    weights = part.folder / WEIGHTS
    if not weights.is_file():
        raise ContentError(f"{part.folder} has no {WEIGHTS}; run tickets transfer with --save-model again.")
    state = xxhash.xxh3_128()
    with weights.open("rb") as file:
        while chunk := file.read(1 << 20):
            state.update(chunk)
    texts = [text for test in part.tests.values() for column in test.texts for text in column]
    return fingerprint([state.hexdigest(), *texts])


def _predictions(part: _Part, outputs: Array) -> list[str]:
    """Return predictions in the server's form, from outputs of shape `(examples, outputs)`."""
    if not np.isfinite(outputs).all():
        raise TrainingError(f"The outputs of {part.run} are not finite; fine-tune again with a lower --learning-rate.")
    if part.task.is_regression:
        return [f"{score:.3f}" for score in outputs[:, 0].clip(0, _MAX_SCORE)]
    return [part.classes[index] for index in outputs.argmax(-1)]
