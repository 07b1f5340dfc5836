"""Iterative magnitude pruning (Chen et al. 2020; Frankle and Carbin 2019): train, prune, rewind, train ..."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from winning_tickets.config import Runtime, parse_rewind
from winning_tickets.models.architectures import present_in, prunable_views
from winning_tickets.models.loading import tensor_hash
from winning_tickets.models.weights import StateInfo, load_state, noisy, reinitialized, save_state, write_state_
from winning_tickets.pruning.base import Prepared
from winning_tickets.pruning.schedule import Rounds
from winning_tickets.pruning.sources import Sources, sources_of
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.runs.progress import progress
from winning_tickets.tickets.masking import Held
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.multitask import SharedEncoder
from winning_tickets.training.trainer import Checkpoints, StepLog, TicketTrainer, arguments, run_training

STATES = "states"
"""Folder of the weights that a search keeps: those it rewinds to, and trained ones where they were asked for."""


def find_imp_ticket(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Prune in rounds; the ticket of each sparsity is saved when its round ends.

    All rounds are one training, so that it can be stopped anywhere and go on to the same bits.

    Raises:
        UsageError: a step to rewind to that lies behind the first round, impossible lengths of texts.
        ContentError: the corpus is shorter than one segment.
        TrainingError: NaN loss, the disk is full, or rewinding did not bring back the weights it should.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    config = prepared.config
    sources = sources_of(prepared)
    rounds = Rounds(config.sparsities, sources.round_steps(config), bool(config.prune_first))
    model = sources.model.to(prepared.device)
    pruning = IterativePruning(prepared, model, rounds, run)
    wanted = f"{config.sparsities[0]:.0%} to {config.sparsities[-1]:.0%}"
    with progress(f"iterative pruning, {wanted}", rounds.total, runtime.quiet) as advance:
        log = StepLog(run, advance)
        trainer = _trainer(prepared, sources, rounds, run, runtime, [pruning, log, Checkpoints(runtime)])
        log.trainer = trainer
        run_training(trainer, run)


def _trainer(
    prepared: Prepared,
    sources: Sources,
    rounds: Rounds,
    run: RunDirectory,
    runtime: Runtime,
    callbacks: list[TrainerCallback],
) -> TicketTrainer:
    config = prepared.config
    return TicketTrainer(
        model=sources.model,
        objective=sources.objective,
        schedule=rounds.rate(config.warmup_steps or 0, config.rate_horizon == "total"),
        in_order=True,
        args=arguments(
            run.scratch,
            runtime,
            max_steps=rounds.total,
            per_device_train_batch_size=1,
            learning_rate=sources.learning_rate,
            weight_decay=config.weight_decay or 0.0,
            max_grad_norm=config.max_grad_norm,
            seed=config.seed,
        ),
        train_dataset=sources.dataset(config, rounds.total),
        data_collator=lambda items: items[0],
        callbacks=callbacks,
    )


class IterativePruning(TrainerCallback):  # type: ignore[misc]
    """Holds the present ticket during training; at the end of a round it prunes, saves the ticket and rewinds.

    Made before any training, when the model still has the weights that it may be rewound to.

    Args:
        prepared: the configuration and the base.
        model: all that is trained.
        rounds: when a round ends.
        run: where tickets and states go.

    Raises:
        UsageError: the step to rewind to lies behind the first round.
    """

    def __init__(self, prepared: Prepared, model: SharedEncoder, rounds: Rounds, run: RunDirectory) -> None:
        self._prepared, self._model, self._rounds, self._run = prepared, model, rounds, run
        self._config = prepared.config
        self._policy = parse_rewind(str(self._config.rewind))
        self._kept_step = self._policy.step(rounds.steps)
        if self._kept_step is not None and self._kept_step > rounds.steps:
            raise UsageError(
                f"--rewind {self._config.rewind} lies behind the first round, which has {rounds.steps} steps."
            )
        # Clones: a state dict would follow the weights it is meant to bring back.
        self._heads = {name: value.detach().clone() for name, value in model.heads.items()}
        self._start = {name: value.detach().clone() for name, value in model.base_model.named_parameters()}
        self._target = self._weights_to_return_to()
        self._hashes = _hashes(self._target)  # taken now: a target that followed the training would be noticed
        self._held: Held | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold the ticket of the round that begins or goes on."""
        if self._rounds.prune_first and state.global_step == 0:
            self._prune(0)
        elif state.global_step == self._kept_step == 0:
            self._keep_state(0)
        self._hold(self._rounds.pruned(state.global_step))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Zero the pruned weights again after the optimiser moved them."""
        if self._held is not None:
            self._held.zero_()

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Keep the state to rewind to; prune and rewind at the end of a round."""
        step = state.global_step
        if step == self._kept_step:
            self._keep_state(step)
        if not self._rounds.ends(step):
            return
        pruned = self._rounds.pruned(step)
        if self._config.save_trained:
            name = f"trained-{self._sparsity(pruned - 1):.2f}"
            self._save(name, f"trained for {step} steps, before it was pruned to this sparsity", step)
        self._prune(pruned - 1)
        if step < self._rounds.total:
            self._rewind()
            if self._config.reset_optimizer:
                optimizer.state.clear()
            self._hold(pruned)

    def _sparsity(self, index: int) -> float:
        return self._rounds.sparsities[index]

    def _folder(self, index: int) -> Path:
        return self._prepared.folder(self._run, self._sparsity(index))

    def _prune(self, index: int) -> None:
        """Save the ticket of the largest present weights among those that are left.

        A pooler that no head here has keeps its pre-trained weights, as in the released MLM program.
        """
        encoder, dense = self._model.base_model, self._prepared.weights
        present = prunable_views(encoder, present_in(encoder, dense))
        weights = {name: present.get(name, weight).abs().to(self._prepared.device) for name, weight in dense.items()}
        if index > 0:
            masks = Ticket.from_pretrained(self._folder(index - 1)).masks
            # Below every weight, so that what was pruned stays so even beside weights that are exactly zero.
            weights = {name: value.masked_fill(~masks[name].to(value.device), -1.0) for name, value in weights.items()}
        sparsity = self._sparsity(index)
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

    def _weights_to_return_to(self) -> dict[str, Tensor]:
        """The encoder's weights where they are known before training; nothing for those of a step, or for none."""
        prepared, kind = self._prepared, self._policy.kind
        if kind == "pretrained":
            return self._start
        if kind == "noise":
            weights = noisy(prepared.plm, self._config.seed, self._policy.amount)
        elif kind == "reinit":
            weights = reinitialized(prepared.plm, self._config.seed)
        else:
            return {}
        # A pooler belongs to the heads that use it: where the checkpoint has none, it was made afresh with them.
        return {name: value if "pooler." in name else weights[name] for name, value in self._start.items()}

    def _keep_state(self, step: int) -> None:
        """Keep this step's weights in a file, for the rewinding of all rounds and for `transfer --start-from`."""
        self._save(f"step-{step:06d}", f"after {step} steps of the first round", step)

    def _save(self, name: str, what: str, step: int) -> None:
        info = StateInfo(base_hash=self._prepared.base.hash, what=what, step=step, seed=self._config.seed)
        heads = {key: value.detach() for key, value in self._model.heads.items()}
        path = self._run.path / STATES / f"{name}.safetensors"
        distributed.on_main(lambda: save_state(path, self._model.base_model, info=info, heads=heads))

    def _rewind(self) -> None:
        """Put the weights back, in place, and make sure that they are the ones.

        Raises:
            TrainingError: they are not; the tickets after it would not be those of the policy.
        """
        if self._policy.kind == "none":
            return
        weights, heads, hashes = self._target, self._heads, self._hashes
        if self._kept_step is not None:
            state = load_state(self._run.path / STATES / f"step-{self._kept_step:06d}.safetensors")
            weights, heads, hashes = state.tensors, state.heads, _hashes(state.tensors)
        encoder, scope = self._model.base_model, self._config.rewind_scope
        names = present_in(encoder, self._prepared.weights) if scope == "prunable" else None
        write_state_(encoder, weights, names)
        if scope == "all":
            for name, parameter in self._model.heads.items():
                parameter.copy_(heads[name])
        if scope != "prunable" and _hashes(dict(encoder.named_parameters())) != hashes:
            raise TrainingError(
                f"Rewinding to {self._config.rewind} did not bring the weights back; this is a bug of "
                "winning-tickets. The rounds so far are intact; please report it."
            )


def _hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: tensor_hash(value) for name, value in tensors.items()}
