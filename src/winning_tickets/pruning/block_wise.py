"""Mask training one layer after the other: each layer learns the output of the same layer in the dense model.

The layers below the one in training are pruned already. Only the layer in training has gradients, scores and moments,
and keeps activations. The layers below it are computed again in every step, so that nothing is stored between layers;
the layers above it are not computed at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.config.mask_training import MaskTraining
from winning_tickets.data.batches import count_tokens
from winning_tickets.models.architectures import Architecture
from winning_tickets.pruning.mask_optimizer import MaskOptimizer
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.training.objectives.base import Batch
from winning_tickets.training.objectives.pretraining import run_encoder
from winning_tickets.training.objectives.terms import kd_sum


@dataclass(frozen=True)
class Turn:
    """A layer of the model, its matrices, and the optimizer steps in which their masks are trained."""

    path: str
    matrices: tuple[str, ...]
    start: int
    end: int


def turns_of(architecture: Architecture, encoder: nn.Module, names: Sequence[str], steps: int) -> list[Turn]:
    """Divide the steps evenly among the layers that have some of the named matrices, from the lowest layer up."""
    paths = architecture.layer_paths(encoder)
    found = {path: tuple(name for name in names if name.startswith(f"{path}.")) for path in paths}
    found = {path: matrices for path, matrices in found.items() if matrices}
    if architecture.shared_layers or sum(map(len, found.values())) < len(names):
        raise UsageError("--block-wise needs layers with weights of their own, and trains nothing outside of them.")
    if steps < len(found):
        raise UsageError(f"--block-wise divides --steps {steps} among {len(found)} layers; give one or more for each.")
    ends = [steps * (place + 1) // len(found) for place in range(len(found))]
    starts = [0, *ends[:-1]]
    return [Turn(path, found[path], *span) for path, *span in zip(found, starts, ends, strict=True)]


class _Reached(Exception):  # noqa: N818 - no error
    """Ends a forward pass at the output of the wanted layer: the rest of the model is not needed."""

    def __init__(self, states: Tensor) -> None:
        self.states = states


def output_of_layer(model: Any, batch: Batch, architecture: Architecture, path: str) -> Tensor:
    """Run a model up to a layer, and return the output of that layer, `(batch, seq, hidden)`."""

    def stop(module: nn.Module, inputs: Any, output: Any) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    handle = model.base_model.get_submodule(path).register_forward_hook(stop)
    try:
        run_encoder(model, batch, frozenset(), architecture)
    except _Reached as reached:
        return reached.states
    finally:
        handle.remove()
    raise AssertionError(f"The model does not run {path}.")


class LayerDistance:
    """Objective: 1 - cosine of the outputs of a layer and of the same dense layer, averaged over unpadded tokens."""

    def __init__(self, architecture: Architecture, teacher: Any) -> None:
        self.weights: Mapping[str, float] = {"kd": 1.0}
        self.teacher = teacher
        self.path = ""  # of the layer in training
        self._architecture = architecture

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return the number of unpadded tokens."""
        return {"kd": count_tokens(batch)}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the sum over the batch."""
        with torch.no_grad():
            dense = output_of_layer(self.teacher, batch, self._architecture, self.path)
        own = output_of_layer(model, batch, self._architecture, self.path)
        return {"kd": kd_sum((own,), (dense,), batch.get("attention_mask"))}


class BlockOptimizer(torch.optim.Optimizer):
    """Trains the masks of one layer after the other, each with a `MaskOptimizer` of its own.

    Args:
        masked: the dense weights, with the matrices of each layer next to each other, in the order of `turns`.
        turns: the layers, in the order of training.
        scores: function that returns the initial scores of the named matrices.
        begin: called with a turn before its first step, and again if training resumes in it.
        config: the resolved settings of the search.
    """

    def __init__(
        self,
        masked: MaskedWeights,
        turns: Sequence[Turn],
        scores: Callable[[Sequence[str]], Mapping[str, Tensor]],
        begin: Callable[[Turn], None],
        *,
        config: MaskTraining,
    ) -> None:
        self._masked, self._turns, self._scores = masked, turns, scores
        self._begin, self._config = begin, config
        self._done: dict[str, Tensor] = {}  # the masks of earlier layers, on the CPU
        self.moved = ""  # path of the layer that the last step trained
        self._start(0)
        super().__init__([{"params": self._params(), "lr": config.learning_rate}], {})

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of the last straight-through gradient, if it is clipped globally."""
        return self._now.grad_norm

    def _start(self, place: int) -> None:
        turn, self._place = self._turns[place], place
        self._begin(turn)
        part = self._masked.part(turn.matrices)
        self._now = MaskOptimizer(part, self._scores(part.names), {}, self._config)

    def _params(self) -> list[nn.Parameter]:
        return self._masked.trained(self._turns[self._place].matrices)

    def gradient_norm(self) -> Tensor:
        """Return the norm of the straight-through gradient, a scalar on the device."""
        return self._now.gradient_norm()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step for the present layer; after its last step, begin with the next layer."""
        self.moved = self._turns[self._place].path
        self._now.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self._now.step(closure)
        if self._steps == self._turns[self._place].end and self._place + 1 < len(self._turns):
            self._done |= {name: mask.cpu() for name, mask in self._now.masks(exact=True).items()}
            self._start(self._place + 1)
            self.param_groups[0]["params"] = self._params()

    @property
    def _steps(self) -> int:
        return self._turns[self._place].start + self._now.steps

    def masks(self) -> dict[str, Tensor]:
        """Return the masks of the layers up to the present one, with exactly the configured sparsity."""
        return self._done | self._now.masks(exact=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the scores and moments of the present layer, and the masks of earlier layers."""
        group = {key: value for key, value in self.param_groups[0].items() if key != "params"}
        return {"place": self._place, "done": self._done, "now": self._now.state_dict(), "group": group}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state, and write W * M of all its masks into the model."""
        self._done = state_dict["done"]
        self._masked.write(self._done)
        if state_dict["place"] != self._place:
            self._start(state_dict["place"])
            self.param_groups[0]["params"] = self._params()
        self._now.load_state_dict(state_dict["now"])
        self.param_groups[0] |= state_dict["group"]
