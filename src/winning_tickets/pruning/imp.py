"""Iterative magnitude pruning (Chen et al. 2020; Frankle and Carbin 2019): train, prune, rewind, train ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from winning_tickets.config import Runtime, parse_rewind
from winning_tickets.config.settings import all_digits
from winning_tickets.config.weight_training import ImpSearch
from winning_tickets.models.architectures import present_in, prunable_views
from winning_tickets.models.loading import tensor_hash
from winning_tickets.models.weights import StateInfo, add_noise, load_state, reinitialize, save_state, write_state_
from winning_tickets.pruning.preparation import PreparedSearch
from winning_tickets.pruning.sources import Sources, load_sources
from winning_tickets.pruning.steps import train_in_order
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.tickets.holding import Held
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.multitask import SharedEncoder
from winning_tickets.training.trainer import Callback, TicketTrainer

STATES = "states"
"""Folder of the weights that a search saves: those that it rewinds to, and trained weights if requested."""


@dataclass(frozen=True)
class Rounds:
    """Train, prune, train, prune ...: nothing is trained after the last pruning, as a search returns masks only."""

    sparsities: Sequence[float]  # of the tickets, ascending
    steps: int  # optimizer steps of each training
    prune_first: bool  # the first ticket is pruned before any training

    @property
    def total(self) -> int:
        """Optimizer steps of all trainings."""
        return (len(self.sparsities) - self.prune_first) * self.steps

    def pruned(self, step: int) -> int:
        """Return the number of tickets that exist after `step` steps and the pruning that may follow them."""
        return step // self.steps + self.prune_first

    def ends(self, step: int) -> bool:
        """Return whether the training of a round ends with this step."""
        return step % self.steps == 0

    def decay(self, *, whole: bool) -> int:
        """Return the steps in which the learning rate decays: those of a round, or of the `whole` search."""
        return self.total if whole else self.steps

    def rate(self, warmup_steps: int, *, whole: bool, horizon: int | None = None) -> Callable[[int], float]:
        """Return the learning-rate factor by step: warm-up, then linear decay, by round or over the `whole` search."""
        # The released BERT-tickets code decays once over all rounds. With a longer `horizon` the rate does not reach
        # zero: before that, it starts again with the next round (the released TAMT code), or the search ends.
        length = self.decay(whole=whole)
        end = horizon or length

        def factor(step: int) -> float:
            place = step % length
            if place < warmup_steps:
                return place / warmup_steps
            return (end - place) / max(1, end - warmup_steps)

        return factor


def find_imp_ticket(prepared: PreparedSearch[ImpSearch], run: RunDirectory, runtime: Runtime) -> None:
    """Prune in rounds; the ticket of each sparsity is saved when its round ends."""
    config = prepared.config
    sources = load_sources(prepared)
    rounds = Rounds(config.sparsities, sources.round_steps(config), config.prune_first)
    length = rounds.decay(whole=config.rate_horizon == "total")
    if config.schedule_steps is not None and config.schedule_steps < length:
        raise UsageError(
            f"--schedule-steps {config.schedule_steps} would leave training steps without a learning rate: the decay "
            f"takes {length} steps here. Give {length} or more, or leave --schedule-steps out."
        )
    model = sources.model.to(prepared.device)
    train_in_order(
        f"iterative pruning, {100 * config.sparsities[0]:.0f} to {100 * config.sparsities[-1]:.0f} % sparsity",
        run,
        runtime,
        sources.dataset(config, rounds.total),
        learning={
            "learning_rate": sources.learning_rate,
            "weight_decay": config.weight_decay,
            "max_grad_norm": config.max_grad_norm,
            "seed": config.seed,
        },
        # It acts before the log and the checkpoint of a step, so that these see the pruned and rewound weights. It is
        # made before any training, while the model still has the weights that it may be rewound to.
        before=[IterativePruning(prepared, model, rounds, run)],
        model=model,
        objective=sources.objective,
        schedule=rounds.rate(
            config.warmup_steps, whole=config.rate_horizon == "total", horizon=_horizon(config, sources, length)
        ),
    )


def _horizon(config: ImpSearch, sources: Sources, length: int) -> int | None:
    """Return the steps after which the learning rate would be zero; None for the end of its decay."""
    if config.schedule_steps is not None or not config.schedule_passes:
        return config.schedule_steps
    return max(length, config.schedule_passes * max(part.size for part in sources.parts.values()))


class IterativePruning(Callback):
    """Holds the present ticket during training; at the end of a round, prunes, saves the new ticket and rewinds."""

    def __init__(
        self, prepared: PreparedSearch[ImpSearch], model: SharedEncoder, rounds: Rounds, run: RunDirectory
    ) -> None:
        self._prepared, self._model, self._rounds, self._run = prepared, model, rounds, run
        self._config = prepared.config
        self._policy = parse_rewind(self._config.rewind)
        self._kept_step = self._policy.step(rounds.steps)
        if self._kept_step is not None and self._kept_step > rounds.steps:
            raise UsageError(
                f"--rewind {self._config.rewind} is after the first round, which has {rounds.steps} steps."
            )
        # Clones: a state dict shares the memory of the weights, and would change as they are trained.
        self._heads = {name: value.detach().clone() for name, value in model.heads.items()}
        self._start = {name: value.detach().clone() for name, value in model.base_model.named_parameters()}
        self._target = self._rewind_target()
        # Hashed before training, so that a target that was changed by training is noticed.
        self._hashes = _hashes(self._target)
        self._held: Held | None = None

    def on_train_begin(self, trainer: TicketTrainer) -> None:
        """Hold the ticket of the round that begins or resumes."""
        if self._rounds.prune_first and trainer.step == 0:
            self._prune(0)
        elif trainer.step == self._kept_step == 0:
            self._keep_state(0)
        self._hold(self._rounds.pruned(trainer.step))

    def on_optimizer_step(self, trainer: TicketTrainer) -> None:
        """Zero the pruned weights again after the optimizer moved them."""
        if self._held is not None:
            self._held.zero_()

    @torch.no_grad()
    def on_step_end(self, trainer: TicketTrainer) -> None:
        """Keep the state to rewind to; prune and rewind at the end of a round."""
        step = trainer.step
        # The state of a step in the first round is kept when training passes it.
        if step == self._kept_step:
            self._keep_state(step)
        if not self._rounds.ends(step):
            return
        pruned = self._rounds.pruned(step)
        # Trained weights are saved before pruning and rewinding overwrite them.
        if self._config.save_trained:
            name = f"trained-{all_digits(self._rounds.sparsities[pruned - 1], 2)}"
            self._save(name, f"trained for {step} steps, before it was pruned to this sparsity", step)
        self._prune(pruned - 1)
        # The last pruning ends the search: nothing trains after it.
        if step < self._rounds.total:
            self._rewind()
            if self._config.reset_optimizer:
                trainer.optimizer.state.clear()
            self._hold(pruned)

    def _folder(self, index: int) -> Path:
        return self._prepared.folder(self._run, self._rounds.sparsities[index])

    def _prune(self, index: int) -> None:
        """Save the next ticket, which keeps the largest present weights among those that are not pruned yet."""
        # If no model here has the pooler, its pre-trained weights are ranked, as in the released MLM code.
        encoder, dense = self._model.base_model, self._prepared.weights
        present = prunable_views(encoder, present_in(encoder, dense))
        weights = {name: present.get(name, weight).abs() for name, weight in dense.items()}
        if index > 0:
            masks = Ticket.from_pretrained(self._folder(index - 1)).masks
            # -1 is below every magnitude, so that pruned weights stay pruned even if others are exactly zero.
            weights = {name: value.masked_fill(~masks[name].to(value.device), -1.0) for name, value in weights.items()}
        sparsity = self._rounds.sparsities[index]
        masks = self._prepared.keep(weights, sparsity)
        step = (index + 1 - self._rounds.prune_first) * self._rounds.steps
        ticket = self._prepared.ticket(masks, sparsity, step)
        distributed.on_main(lambda: ticket.save_pretrained(self._folder(index)))

    def _hold(self, pruned: int) -> None:
        if self._held is not None:
            self._held.remove()
        if pruned:
            ticket = Ticket.from_pretrained(self._folder(pruned - 1))
            self._held = Held(self._model, ticket, allow_other_weights=True)

    def _rewind_target(self) -> dict[str, Tensor]:
        """Return the weights to rewind to, if known before training; empty for `step:K`, `percent:P` and `none`."""
        prepared, kind = self._prepared, self._policy.kind
        if kind == "pretrained":
            return self._start
        if kind == "noise":
            weights = add_noise(prepared.plm, self._config.seed, self._policy.amount)
        elif kind == "reinit":
            weights = reinitialize(prepared.plm, self._config.seed)
        else:
            return {}
        # The pooler belongs to the heads that use it: if the checkpoint has none, it was initialized with them.
        return {name: value if "pooler." in name else weights[name] for name, value in self._start.items()}

    def _keep_state(self, step: int) -> None:
        """Save the weights of this step, for the rewinding of all rounds and for `transfer --start-from`."""
        self._save(f"step-{step:06d}", f"after {step} steps of the first round", step)

    def _save(self, name: str, what: str, step: int) -> None:
        info = StateInfo(base_hash=self._prepared.base.hash, what=what, step=step, seed=self._config.seed)
        heads = {key: value.detach() for key, value in self._model.heads.items()}
        path = self._run.path / STATES / f"{name}.safetensors"
        distributed.on_main(lambda: save_state(path, self._model.base_model, info=info, heads=heads))

    def _rewind(self) -> None:
        """Restore the weights of the rewind policy in place, and check by hash that they are restored."""
        if self._policy.kind == "none":
            return
        weights, heads, hashes = self._target, self._heads, self._hashes
        # The state of a step is read from its file, so that a resumed search rewinds to the same bits.
        if self._kept_step is not None:
            state = load_state(self._run.path / STATES / f"step-{self._kept_step:06d}.safetensors")
            weights, heads, hashes = state.tensors, state.heads, _hashes(state.tensors)
        encoder, scope = self._model.base_model, self._config.rewind_scope
        names = present_in(encoder, self._prepared.shapes) if scope == "prunable" else None
        write_state_(encoder, weights, names)
        if scope == "all":
            for name, parameter in self._model.heads.items():
                parameter.copy_(heads[name])
        # Without this check, wrong weights would silently give the tickets of another policy.
        if scope != "prunable" and _hashes(dict(encoder.named_parameters())) != hashes:
            raise TrainingError(
                f"Rewinding to {self._config.rewind} did not restore the weights; this is a bug of winning-tickets. "
                "The rounds so far are intact; please report it."
            )


def _hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: tensor_hash(value) for name, value in tensors.items()}
