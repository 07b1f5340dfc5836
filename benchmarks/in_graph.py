"""The baseline of the step benchmark: masked modules inside the graph and a full MLM head.

This is the straightforward way to train masks, as in the released code: each forward pass binarizes the
scores, multiplies, and lets autograd keep mask and product; logits are computed at every position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Binarise(torch.autograd.Function):
    """1 where the score exceeds the threshold; the gradient passes straight through (TAMT eq. 3 and 4)."""

    @staticmethod
    def forward(ctx: object, scores: Tensor, threshold: Tensor) -> Tensor:
        """The mask as floats."""
        return (scores > threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Identity."""
        return gradient, None


class _Masked(nn.Module):
    def __init__(self, weight: Tensor, sparsity: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        magnitude = self.weight.abs()
        self.pruned = int(self.weight.numel() * sparsity)
        kept = magnitude > magnitude.reshape(-1).kthvalue(self.pruned).values
        self.scores = nn.Parameter(kept.to(self.weight.dtype) * 0.02)
        self.register_buffer("threshold", torch.tensor(0.01))

    def reset_threshold(self) -> None:
        """The k-th smallest score, so that the sparsity is met."""
        self.threshold.copy_(self.scores.detach().reshape(-1).kthvalue(self.pruned).values)

    def masked(self) -> Tensor:
        """W * M inside the graph."""
        product: Tensor = self.weight * Binarise.apply(self.scores, self.threshold)
        return product


class MaskedLinear(_Masked):
    """A linear layer with a trained mask."""

    def __init__(self, linear: nn.Linear, sparsity: float) -> None:
        super().__init__(linear.weight, sparsity)
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        return nn.functional.linear(inputs, self.masked(), self.bias)


class MaskedEmbedding(_Masked):
    """An embedding with a trained mask."""

    def __init__(self, embedding: nn.Embedding, sparsity: float) -> None:
        super().__init__(embedding.weight, sparsity)
        self.padding_idx = embedding.padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        """`(...)` to `(..., hidden)`."""
        return nn.functional.embedding(ids, self.masked(), self.padding_idx)


def mask_in_graph(model: nn.Module, names: list[str], sparsity: float, fixed: set[str]) -> list[_Masked]:
    """Replace the modules that own the named weights of a model's encoder by masked ones.

    Args:
        model: with a base model.
        names: of the weights.
        sparsity: of each.
        fixed: those whose mask is not trained.

    Returns:
        The modules whose masks are trained.
    """
    encoder = model.base_model
    made: list[_Masked] = []
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name in names:
        path, _, attribute = name.removesuffix(".weight").rpartition(".")
        parent = encoder.get_submodule(path)
        module = getattr(parent, attribute)
        kind = MaskedLinear if isinstance(module, nn.Linear) else MaskedEmbedding
        masked = kind(module, sparsity)
        setattr(parent, attribute, masked)
        if name in fixed:
            masked.scores.requires_grad_(False)
        else:
            made.append(masked)
    return made
