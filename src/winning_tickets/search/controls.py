"""Controls: counts taken from another ticket (`--like`), magnitudes of other weights (`--weights-from`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from winning_tickets.config import PRETRAINED, SearchConfig, parse_start
from winning_tickets.errors import ContentError, UsageError
from winning_tickets.origin import origin
from winning_tickets.parts import matrices_of
from winning_tickets.plm import PLM
from winning_tickets.states import content_hash, start_weights
from winning_tickets.ticket import Ticket


@dataclass(frozen=True)
class Ranked:
    """Weights whose magnitudes are ranked.

    Attributes:
        weights: by name of the matrix.
        source: what they are, for the ticket's description; None for the pre-trained ones.
        hash: of what was read from a file or folder; else None.
    """

    weights: Mapping[str, Tensor]
    source: str | None = None
    hash: str | None = None


def ticket_to_match(config: SearchConfig) -> Ticket | None:
    """The ticket of `--like`.

    Raises:
        UsageError: there is none, or `--scope` contradicts it.
        ContentError: it is damaged.
    """
    if config.like is None:
        return None
    like = Ticket.from_pretrained(config.like)
    if config.scope not in (None, like.info.scope):
        raise UsageError(
            f"--scope {config.scope} contradicts --like {config.like}, whose scope is {like.info.scope}; leave it out."
        )
    return like


def matched(config: SearchConfig, like: Ticket | None) -> SearchConfig:
    """The configuration with scope and sparsity of the ticket that is matched.

    Where the ticket lies is not worth keeping: a description names it among its parents, and here how it was found.
    """
    if like is None:
        return config
    found = origin(like)
    kind = " ".join(filter(None, (found["method"], found["search"].get("objective"))))
    return config.model_copy(update={"like": kind, "scope": like.info.scope, "sparsity": like.sparsity})


def check_match(like: Ticket | None, weights: Mapping[str, Tensor], model: str) -> None:
    """Make sure that a ticket covers the matrices in scope.

    Raises:
        ContentError: a matrix is missing on either side, or has another shape.
    """
    if like is None:
        return
    ours = {name: tuple(weight.shape) for name, weight in weights.items()}
    theirs = {name: tuple(mask.shape) for name, mask in like.masks.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ContentError(
                f"The ticket of --like does not fit {model}: {name} is {_shape(theirs.get(name))} there and "
                f"{_shape(ours.get(name))} in the model. Give a ticket of this model, with the same --layers."
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not masked" if shape is None else "x".join(map(str, shape))


def ranked(config: SearchConfig, plm: PLM, weights: Mapping[str, Tensor]) -> Ranked:
    """The weights of `--weights-from` in scope.

    Args:
        config: of the search.
        plm: the pre-trained model.
        weights: its matrices in scope.

    Raises:
        UsageError: the model cannot be transformed so.
        ContentError: weights of another architecture, an unreadable state.
    """
    if config.weights_from == PRETRAINED:
        return Ranked(weights)
    start = parse_start(config.weights_from)
    tensors = start_weights(start, plm, config.seed)
    found = matrices_of(tensors, list(weights))
    for name, weight in weights.items():
        if found[name].shape != weight.shape:
            raise ContentError(
                f"--weights-from {config.weights_from} does not fit {plm.name}: {name} has shape "
                f"{tuple(found[name].shape)} there and {tuple(weight.shape)} in the model."
            )
    if start.path is None:
        return Ranked(found, f"{config.weights_from}, seed {config.seed}")
    identity = content_hash(tensors)
    return Ranked(found, f"weights {identity}", identity)
