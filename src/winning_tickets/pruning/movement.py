"""Movement pruning (Sanh et al. 2020): keep the weights that fine-tuning moves away from zero, whatever their size."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from winning_tickets.config import Runtime
from winning_tickets.config.weight_training import MovementSearch
from winning_tickets.models.architectures import present_in, split_name
from winning_tickets.pruning.imp import Rounds
from winning_tickets.pruning.preparation import PreparedSearch
from winning_tickets.pruning.sources import load_sources
from winning_tickets.pruning.steps import train_in_order
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory

MOVEMENT = "movement"


def find_movement_ticket(prepared: PreparedSearch[MovementSearch], run: RunDirectory, runtime: Runtime) -> None:
    """Fine-tune the dense model for `steps` steps and keep the weights with the largest -sum of W * dL/dW.

    This is the score of section 4 of the paper, used as a one-shot criterion: nothing is pruned during training.
    """
    config = prepared.config
    sources = load_sources(prepared)
    model = sources.model.to(prepared.device)
    parameters = dict(model.base_model.named_parameters())
    names = present_in(model.base_model, prepared.shapes)
    followed = {id(parameters[split_name(name).parameter]) for name in names}
    optimizers: list[FollowedAdamW] = []

    def build(trained: Any) -> torch.optim.Optimizer:
        optimizers.append(FollowedAdamW(trained.parameters(), followed, sources.learning_rate))
        return optimizers[-1]

    train_in_order(
        "fine-tuning for movement scores",
        run,
        runtime,
        sources.dataset(config, config.steps),
        learning={"learning_rate": sources.learning_rate, "max_grad_norm": config.max_grad_norm, "seed": config.seed},
        model=model,
        objective=sources.objective,
        build_optimizer=build,
        schedule=Rounds(config.sparsities, config.steps, prune_first=False).rate(config.warmup_steps, whole=False),
    )
    # A matrix that the loss does not reach has scores of zero, and keeps its largest weights.
    scores = {name: torch.zeros_like(weight) for name, weight in prepared.weights.items()}
    for name in names:
        part = split_name(name)
        state = optimizers[-1].state.get(parameters[part.parameter], {})
        if MOVEMENT in state:
            scores[name] = part.of(state[MOVEMENT])
    distributed.on_main(partial(prepared.save_tickets, run, scores, config.steps))


class FollowedAdamW(torch.optim.AdamW):
    """AdamW whose state adds up -W * dL/dW, with clipped gradients, for the parameters with the ids `followed`."""

    def __init__(self, parameters: Any, followed: set[int], learning_rate: float) -> None:
        super().__init__(parameters, lr=learning_rate, weight_decay=0.0)
        self._followed = followed

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step of AdamW, and update the scores with the weights from before the step."""
        products = {
            parameter: parameter * parameter.grad
            for group in self.param_groups
            for parameter in group["params"]
            if id(parameter) in self._followed and parameter.grad is not None
        }
        result = super().step(closure)
        for parameter, product in products.items():  # after the step: AdamW fills a state only where it is empty
            state = self.state[parameter]
            state[MOVEMENT] = product.neg_() if MOVEMENT not in state else state[MOVEMENT].sub_(product)
        return result
