"""A smaller vocabulary: word embeddings, language-model head and tokenizer keep only the tokens that a text needs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.models.loading import PLM
from winning_tickets.runs.errors import UsageError


def tokens_to_keep(tokenizer: Any, used: Iterable[int]) -> list[int]:
    """Return ascending ids: used tokens, special tokens, and the pieces from which any other word is spelled.

    A text whose tokens are all used is tokenized the same afterwards.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model, ids = state["model"], tokenizer.get_vocab()
    find = _CLOSURES.get(model["type"])
    if find is None:
        raise UsageError(
            f"--vocabulary knows tokenizers of the kinds {', '.join(_CLOSURES)}, and {type(tokenizer).__name__} is of "
            f"the kind {model['type']}; leave it out."
        )
    by_id = {number: token for token, number in ids.items()}
    kept = {by_id[number] for number in used} | {token["content"] for token in state["added_tokens"]}
    kept |= {token for token in (model.get("unk_token"), *tokenizer.all_special_tokens) if token in ids}
    if model.get("unk_id") is not None:
        kept.add(by_id[model["unk_id"]])
    return sorted(ids[token] for token in find(model, kept))


def _with_characters(model: dict[str, Any], kept: set[str]) -> set[str]:
    """Add all single characters, and single bytes such as `<0x0A>`."""
    prefix = model.get("continuing_subword_prefix") or ""
    tokens = model["vocab"] if isinstance(model["vocab"], dict) else [piece for piece, _ in model["vocab"]]
    return kept | {
        token
        for token in tokens
        if len(token.removeprefix(prefix)) == 1 or (token.startswith("<0x") and token.endswith(">"))
    }


def _with_merges(model: dict[str, Any], kept: set[str]) -> set[str]:
    """Add the tokens that the kept tokens of a BPE are merged from, down to characters."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for first, second in map(_merge, model["merges"]):
        parts.setdefault(first + second, []).append((first, second))
    found = _with_characters(model, kept)
    waiting = list(found)
    while waiting:
        new = {part for pair in parts.get(waiting.pop(), ()) for part in pair} - found
        found |= new
        waiting += new
    return found


def _merge(pair: str | Sequence[str]) -> tuple[str, str]:
    first, second = pair.split(" ") if isinstance(pair, str) else pair
    return first, second


_CLOSURES: Mapping[str, Callable[[dict[str, Any], set[str]], set[str]]] = {
    "WordPiece": _with_characters,
    "Unigram": _with_characters,
    "BPE": _with_merges,
}


def trim_(plm: PLM, kept: Sequence[int]) -> None:
    """Keep the tokens `kept` of a loaded model, in place: rows of matrices, the tokenizer and the configuration."""
    model, config = plm.model, plm.model.config
    rows = torch.tensor(kept)
    places = {number: place for place, number in enumerate(kept)}
    _check_positions(plm, places)
    size, words = config.vocab_size, plm.encoder.get_parameter(plm.architecture.word_embeddings)
    decoder = model.get_output_embeddings()
    # A head may share its matrix with the word embeddings, and have its bias under two names: both stay shared.
    found: dict[int, nn.Parameter] = {}

    def smaller(value: nn.Parameter) -> nn.Parameter:
        if id(value) not in found:
            chosen = value.detach().index_select(0, rows.to(value.device))
            found[id(value)] = nn.Parameter(chosen, requires_grad=value.requires_grad)
        return found[id(value)]

    inside = {id(module) for module in plm.encoder.modules()}
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            of_head = id(module) not in inside and len(value) == size
            if value is words or (of_head and (value.dim() == 1 or module is decoder)):
                setattr(module, name, smaller(value))
                if isinstance(module, nn.Embedding):
                    module.num_embeddings = len(kept)
                    module.padding_idx = places.get(module.padding_idx) if module.padding_idx is not None else None
                elif isinstance(module, nn.Linear):
                    module.out_features = len(kept)
    for owner in (config, getattr(model, "generation_config", None)):
        for name, value in list(vars(owner).items()) if owner is not None else ():
            if name.endswith("_token_id") and value is not None:
                numbers = [places.get(number) for number in value] if isinstance(value, list) else places.get(value)
                setattr(owner, name, numbers)
    config.vocab_size = len(kept)
    plm.tokenizer = _trimmed(plm.tokenizer, places)


def _check_positions(plm: PLM, places: Mapping[int, int]) -> None:
    """Refuse another number for the padding token if the model counts positions from that number."""
    counted = any(
        isinstance(module, nn.Embedding) and module.padding_idx is not None and "position" in name
        for name, module in plm.encoder.named_modules()
    )
    padding = plm.model.config.pad_token_id
    if counted and places.get(padding) != padding:
        raise UsageError(
            f"{plm.name} counts positions from the number of its padding token, {padding}, which --vocabulary would "
            "change; leave it out."
        )


def _trimmed(tokenizer: Any, places: Mapping[int, int]) -> Any:
    """Return a tokenizer that has the tokens of `places` only, with these new numbers."""
    from tokenizers import Tokenizer

    made = copy.deepcopy(tokenizer)
    state = json.loads(made.backend_tokenizer.to_str())
    model, ids = state["model"], made.get_vocab()
    kept = {token: places[number] for token, number in ids.items() if number in places}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: kept[token] for token in model["vocab"] if token in kept}
    else:
        model["vocab"] = [pair for pair in model["vocab"] if pair[0] in kept]
        if model.get("unk_id") is not None:
            model["unk_id"] = places[model["unk_id"]]
    if "merges" in model:
        merges = [(merge, _merge(merge)) for merge in model["merges"]]
        model["merges"] = [
            merge for merge, (first, second) in merges if first in kept and second in kept and first + second in kept
        ]
    for token in state["added_tokens"]:
        token["id"] = kept[token["content"]]
    if state.get("padding"):
        state["padding"]["pad_id"] = places[state["padding"]["pad_id"]]
    _renumber(state.get("post_processor"), kept)
    made._tokenizer = Tokenizer.from_str(json.dumps(state))
    return made


def _renumber(processor: Any, kept: Mapping[str, int]) -> None:
    """Write new numbers into a post-processor, which puts special tokens around a text."""
    if processor is None:
        return
    for part in processor.get("processors", ()):
        _renumber(part, kept)
    for special in (processor.get("special_tokens") or {}).values():
        special["ids"] = [kept[token] for token in special["tokens"]]
    for name in ("sep", "cls"):
        if name in processor:
            processor[name][1] = kept[processor[name][0]]


def new_places(kept: Sequence[int], size: int) -> Tensor:
    """Return the place of each of `size` tokens in the smaller vocabulary, `(size,)`; -1 where it is left out."""
    places = torch.full((size,), -1)
    places[torch.tensor(kept)] = torch.arange(len(kept))
    return places
