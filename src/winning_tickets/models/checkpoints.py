"""The files of a checkpoint: what its configuration states and its weights have, compared before memory is allocated.

Whatever a library raises while it reads them becomes one sentence, without that library's advice to load unsafely.
"""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.runs.errors import ContentError, TicketsError, page, shown
from winning_tickets.runs.files import inside, read_object

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of the weights, in the order in which transformers looks for them; `.index.json` names the files of shards."""
MOST_LAYERS = 1000
MOST_LABELS = 1_000_000
FEW = 10**7
"""Number of parameters that may be made at random without a look at the size of a checkpoint."""
_OTHER_NAMES = ("n_layer", "n_layers", "num_layers")  # of `num_hidden_layers` in some families
_LAYERS = ("num_hidden_layers", *_OTHER_NAMES, "num_hidden_groups", "inner_group_num")
_STRANGERS = page("explanation/faults.md#files-from-other-people")
_UNSAFE = re.compile(r"weights_only|ignore_mismatched_sizes|trust_remote_code|allow_dangerous|safe_globals")
"""Words of advice that our users are never given, because it runs code or keeps random weights."""
_QUANTIZED = ("quantization_config", "compression_config")
_FLOATS = ("F64", "F32", "F16", "BF16")
_LONGEST = 300  # characters of a library's own words

Shapes = dict[str, tuple[int, ...] | None]
"""Shapes of tensors by name; None where only the index of a checkpoint names a tensor, and its shard is not here."""
Find = Callable[[str], Path | None]
"""Return the local copy of a file of a checkpoint by its name; None if there is none."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a library raises into a ContentError of one sentence that begins with `what`."""
    try:
        yield
    except TicketsError:
        raise
    except BaseException as error:  # libraries have a class for each kind of damage, and no common one
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of a library in Rust
            raise
        raise ContentError(f"{what}: {cause(error)}") from error


def cause(error: BaseException) -> str:
    """Return what a library says went wrong in one line, without advice to load unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    if first.endswith("(") and len(lines) > 1:  # a printed module, with what is wrong with it at the end
        first = f"{first}...{lines[-1]}"
    if first.endswith(":") and len(lines) > 1:  # a validation error: the second line says what is wrong with the field
        first = lines[1].removeprefix("TypeError: ").removeprefix("ValueError: ")
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return (
            "its weights are damaged, or hold Python objects next to tensors, and none of these was run. Take a copy "
            f"with weights in safetensors, as model.save_pretrained(DIR) writes them. {_STRANGERS}"
        )
    if "trust_remote_code" in str(error):
        return f"it contains custom code. If you trust its author, --trust-remote-code runs it. {_STRANGERS}"
    if "ignore_mismatched_sizes" in str(error):
        return "its weights have other shapes than its config.json describes; take both from the same model."
    if _UNSAFE.search(first) or not first:
        return f"{type(error).__name__}."
    if not isinstance(error, OSError | ValueError | RuntimeError):
        first = f"{type(error).__name__} {first}"
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST]}..."


def check_sizes(content: Mapping[str, Any], name: str) -> None:
    """Refuse numbers in a `config.json` for which transformers would make lists before anything can be compared."""
    for key, most in (dict.fromkeys(_LAYERS, MOST_LAYERS) | {"num_labels": MOST_LABELS}).items():
        value = content.get(key, 1)
        if isinstance(value, int) and not 1 <= value <= most:
            raise ContentError(f"The config.json of {name} has {key} {shown(value)}, expected 1 to {most:,}.")
    padding, rows = content.get("pad_token_id"), content.get("vocab_size")
    if isinstance(padding, int) and isinstance(rows, int) and padding >= rows > 0:
        raise without_embedding(f"The config.json of {name} has the padding id {padding}", padding, rows)


def without_embedding(what: str, index: int, rows: int) -> ContentError:
    """Return the error for a token id that is beyond the rows of the word embeddings; `what` says where it is."""
    return ContentError(
        f"{what}, and the word embeddings have {rows} rows, for ids up to {rows - 1}. Take the tokenizer that the "
        f"model was trained with, or call model.resize_token_embeddings({index + 1}) and save model and tokenizer."
    )


def check_quantized(content: Mapping[str, Any], name: str) -> None:
    """Refuse a quantized checkpoint: a mask needs weights that are plain floats."""
    for key in _QUANTIZED:
        if (found := content.get(key)) is not None:
            method = found.get("quant_method") if isinstance(found, dict) else None
            raise ContentError(
                f"{name} is quantized (its config.json has a {key}{'' if method is None else f' of {shown(method)}'})"
                ", and tickets need float weights; give the model that it was made from, or model.dequantize() saved "
                "without that entry."
            )


def files_of(where: str, revision: str | None, access: Mapping[str, Any]) -> Find:
    """Return a function that finds the files of a folder or, by `access`, of a repository of the hub."""
    from transformers.utils import cached_file

    if Path(where).is_dir():
        return lambda file: path if (path := inside(Path(where), file)).is_file() else None

    def find(file: str) -> Path | None:
        try:
            found = cached_file(
                where,
                file,
                revision=revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **access,
            )
        except OSError:  # the repository is gated or absent, which `from_pretrained` says
            return None
        return None if found is None else Path(found)

    return find


def read_shapes(find: Find, content: Mapping[str, Any], shard: Find | None = None) -> Shapes | None:
    """Return the shapes of a checkpoint's tensors, from the headers of its files; None if no file is found.

    `shard` finds the files that an index names; by default they are found like all others.
    """
    own = content.get("transformers_weights")  # a file that the configuration names
    for file in [own] if isinstance(own, str) else [name + end for name in WEIGHTS for end in ("", ".index.json")]:
        if (path := find(file)) is None:
            continue
        if not file.endswith(".index.json"):
            return _shapes_in(path)
        names = read_object(path, "index of the weights").get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(one, str) for one in names.values()):
            raise ContentError(f"{path} is not an index of weights: weight_map must map names of tensors to files.")
        shapes: Shapes = dict.fromkeys(names)
        for one in sorted(set(names.values())):
            if (part := (shard or find)(one)) is not None:
                shapes |= _shapes_in(part)
            elif shard is None:
                raise ContentError(f"{path} names the file {shown(one)}, which is not there; copy all files again.")
        return shapes
    return None


def _shapes_in(path: Path) -> Shapes:
    """Return the shapes of the tensors in a file of weights; their values are not read."""
    if path.suffix != ".safetensors":
        with reading(f"Could not load {path}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on the pickles of others
            found = torch.load(path, map_location="meta", weights_only=True)
            return {str(name): tuple(value.shape) for name, value in found.items() if isinstance(value, torch.Tensor)}
    from safetensors import safe_open

    shapes: Shapes = {}
    with reading(f"Could not load {path}"), safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is not a dict
            part = file.get_slice(name)
            shapes[name] = tuple(part.get_shape())
            if name.endswith(".weight") and part.get_dtype() not in _FLOATS:
                raise ContentError(
                    f"{path} has {name} as {part.get_dtype()}, and tickets need float weights; give the model before "
                    "it was quantized."
                )
    return shapes


def check_weights(shapes: Shapes | None, where: str) -> None:
    """Refuse a folder without any file of weights."""
    if shapes is None and Path(where).is_dir():
        raise ContentError(
            f"The model folder {where} has no weights ({' or '.join(WEIGHTS)}, or the index of several files); copy "
            "them there, or save the model again with model.save_pretrained(DIR)."
        )


def check_layers(content: Mapping[str, Any], shapes: Shapes | None, name: str) -> None:
    """Refuse a `config.json` that states more layers than the weights have."""
    architecture = ARCHITECTURES.get(str(content.get("model_type")))
    if shapes is None or architecture is None:
        return
    field = "num_hidden_groups" if architecture.shared_layers else "num_hidden_layers"
    field = next((one for one in (field, *_OTHER_NAMES) if one in content), field)
    stated = content.get(field)
    before = re.escape(architecture.layers.partition(".*")[0])
    numbers = {found[1] for one in shapes if (found := re.search(rf"(?:^|\.){before}\.(\d+)\.", one))}
    count = len(numbers) or len(shapes)  # under names of another kind, a layer still is one tensor or more
    if isinstance(stated, int) and stated > count:
        raise ContentError(
            f"The config.json of {name} has {field} {shown(stated)}, and its weights have {count}; take both from the "
            "same model."
        )


def check_shapes(kind: Any, config: Any, shapes: Shapes, name: str) -> list[str]:
    """Refuse a checkpoint whose weights have other shapes than its configuration gives a model of this class.

    Returns the parameters of the head if certainly none of them is stored, be it under an earlier name.
    """
    prefix = f"{kind.base_model_prefix}."
    with reading(f"The config.json of {name} describes no model that can be built"):
        built = _built(_Description(kind, config.to_json_string(use_diff=False), config))
    missing, free, head = 0, dict(shapes), {own: shape for own, shape, in_encoder in built if not in_encoder}
    for own, shape, in_encoder in built:
        found = next((one for one in (own, own.removeprefix(prefix), prefix + own) if one in shapes), None)
        stored = shape if found is None else shapes[found]
        if found is None:
            missing += math.prod(shape)
            continue
        free.pop(found, None)
        if stored not in (None, shape):
            wanted = f"its config.json describes {_sizes(shape)}; take both from the same model"
            if not in_encoder:
                wanted = f"{_sizes(shape)} is needed here: its head was trained for another task; give a model without"
            raise ContentError(f"The weights of {name} have {found} of shape {_sizes(stored)}, and {wanted}.")
    # Each parameter that has no weights would be made at random: a head at most, never the bulk of a model.
    if missing > 2 * sum(math.prod(shape) for shape in shapes.values() if shape is not None) + FEW:
        raise ContentError(
            f"The config.json of {name} describes a model with {missing:,} parameters that its weights do not have; "
            "take both from the same model."
        )
    renamed = None in free.values() or all(shape in free.values() for shape in head.values())
    return [] if renamed or head.keys() & shapes.keys() else list(head)


def without_data(kind: Any, config: Any) -> Any:
    """Make a model on the device `meta`, where no memory is allocated."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as torch about a matrix without entries, which is refused later
        return kind(config)


@dataclass(frozen=True)
class _Description:
    """A class and a configuration; the text of the configuration stands for it where two are compared."""

    kind: Any
    text: str
    config: Any = field(compare=False)


@lru_cache(maxsize=32)
def _built(described: _Description) -> tuple[tuple[str, tuple[int, ...], bool], ...]:
    """Return name and shape of each parameter of a model, and whether it is in the encoder; no memory is allocated."""
    model = without_data(described.kind, copy.deepcopy(described.config))
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    return tuple((name, tuple(value.shape), id(value) in inside) for name, value in model.named_parameters())


def _sizes(shape: Any) -> str:
    return "x".join(map(str, shape))
