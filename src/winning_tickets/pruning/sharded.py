"""Mask training on weights that FSDP2 has sharded over ranks: each holds some rows, with their scores and moments.

The masks are the ones that a single process would select from the whole scores. Ranks exchange counts and the few
scores near the border between kept and pruned ones, never whole matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.config.mask_training import MaskTraining
from winning_tickets.data.segments import parse_segments
from winning_tickets.models.architectures import module_of, split_name
from winning_tickets.models.device import choose_device
from winning_tickets.models.loading import PLM
from winning_tickets.pruning.mask_optimizer import MaskOptimizer, buffer_order
from winning_tickets.runs import distributed
from winning_tickets.runs.ambient import neutral
from winning_tickets.runs.errors import UsageError, page
from winning_tickets.tickets.masking import MaskedWeights, own_rows
from winning_tickets.tickets.selection import Ranks


class ShardedMaskOptimizer(MaskOptimizer):
    """Trains the scores of an encoder's matrices after `torch.distributed.fsdp.fully_shard`.

    FSDP2 averages gradients over the ranks, whereas the loss of a step is a sum over them: if a rank divides its loss
    by the count of all ranks, it must also multiply it by the number of ranks. A teacher is a twin made before both
    models are sharded; shard it with `reshard_after_forward=True`, so that none of its whole weights stay in memory.
    `tickets search --shard` does all this; docs/how_to/run_on_several_processes.md also has a training loop.

    Args:
        encoder: an encoder that is sharded by rows over a mesh of one dimension.
        masks: initial masks by name, of whole matrices or of this rank's rows of them; each group of weights always
            keeps as many entries as in these masks.
        scores: initial scores by name of the matrices that are trained, as `initial_scores` returns them for the
            weights before they are sharded, or this rank's rows of them.
        config: the resolved settings of a search by mask training.
        dense: the encoder of the teacher, sharded as `encoder` is, from which the dense weights are copied; by default
            they are copied from `encoder`.
        head: trained parameters of an MLM head by name, whole in every process; their gradients are summed over all
            ranks.

    Raises:
        UsageError: a matrix is not sharded by rows, is part of a fused parameter, or leaves a rank without rows.
    """

    @neutral()
    def __init__(
        self,
        encoder: nn.Module,
        masks: Mapping[str, Tensor],
        scores: Mapping[str, Tensor],
        config: MaskTraining,
        *,
        dense: nn.Module | None = None,
        head: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        for module in (encoder,) if dense is None else (dense, encoder):
            parameters: dict[str, Any] = dict(module.named_parameters())
            for name in masks:
                _check(name, parameters.get(name))
        self._placed = {name: parameters[name] for name in masks}
        order = buffer_order({name: parameters[name].shape for name in scores}, config.ranking)
        masked = MaskedWeights(encoder, list(masks), order, dense)
        masked.write(masks)
        self._fixed = {name: own_rows(masks[name], self._placed[name]) for name in masks if name not in scores}
        mesh = next(iter(self._placed.values())).device_mesh
        self._is_main = mesh.get_local_rank() == 0
        sizes = [masked.dense_weights[name].numel() for name in order]
        super().__init__(
            masked,
            {name: own_rows(score, self._placed[name]) for name, score in scores.items()},
            head or {},
            config,
            ranks=Shards(mesh.get_group(), masked.flat.device, sizes),
        )

    def whole_masks(self, *, exact: bool | None = None) -> dict[str, Tensor]:
        """Return the masks of whole matrices, on the CPU of every rank; all ranks must call this."""
        masks = self._fixed | self.masks(exact=exact)
        return {name: self._whole(name, masks[name].byte()).bool().cpu() for name in self._placed}

    def whole_scores(self) -> dict[str, Tensor]:
        """Return the scores of whole matrices, on the CPU of every rank; all ranks must call this."""
        return {name: self._whole(name, score.detach()).cpu() for name, score in self.scores.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that one process with whole matrices would have, on the CPU of rank 0.

        All ranks must call this; the other ranks get an empty state.
        """
        state = super().state_dict()
        state["scores"] = self._gathered(state["scores"])
        for key in ("exp_avg", "exp_avg_sq"):
            for name, whole in self._gathered({name: state["moments"][name][key] for name in self.scores}).items():
                state["moments"][name] = state["moments"][name] | {key: whole}
        return state if self._is_main else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state of whole matrices, saved by any number of processes, and compute the masks."""

        def own(name: str, value: Any) -> Any:
            return own_rows(value, self._placed[name]) if isinstance(value, Tensor) and value.dim() else value

        known = self._placed.keys() & state_dict["scores"].keys()
        scores = {name: own(name, state_dict["scores"][name]) for name in known}
        moments = {name: {key: own(name, one) for key, one in state_dict["moments"][name].items()} for name in known}
        super().load_state_dict(state_dict | {"scores": scores, "moments": state_dict["moments"] | moments})

    def _gathered(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors on the CPU of rank 0; other ranks hold only one whole tensor at a time."""
        found = {}
        for name, own in rows.items():
            whole = self._whole(name, own)
            if self._is_main:
                found[name] = whole.cpu()
        return found

    def _whole(self, name: str, rows: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        like = self._placed[name]
        placed = DTensor.from_local(
            rows, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        whole: Tensor = placed.full_tensor()
        return whole


def _check(name: str, parameter: Any) -> None:
    placements: Any = getattr(parameter, "placements", ())
    if len(placements) != 1 or not placements[0].is_shard(0):
        raise UsageError(
            f"{name} is not sharded by rows over one dimension of processes; call fully_shard on the encoder and its "
            "layers first, with a mesh of one dimension. Parts of fused parameters are not supported."
        )
    _check_rows(name, len(parameter), parameter.device_mesh.size())


def _check_rows(name: str, rows: int, size: int) -> None:
    each = -(-rows // size)  # rows of a process, as torch.chunk gives them; the last processes may get none
    if each * (size - 1) >= rows:
        raise UsageError(f"{name} has {rows} rows for {size} processes, which leaves some without any; use fewer.")


def sharded_modules(plm: PLM) -> list[str]:
    """Return the paths of the modules of an encoder that are sharded: its layers, and the word embeddings.

    Word embeddings that are also the output embeddings stay whole: they would be gathered to compute the logits, when
    activations take the most memory.
    """
    name = plm.architecture.word_embeddings
    embeddings = plm.encoder.get_parameter(name)
    uses = sum(value is embeddings for _, value in plm.model.named_parameters(remove_duplicate=False))
    return [*([module_of(name)] if uses == 1 else []), *plm.architecture.layer_paths(plm.encoder)]


def shard_(plm: PLM, teacher: Any, device: torch.device) -> None:
    """Shard a model, and the twin that is its teacher, over all processes with FSDP2, and move both to the device.

    One module after the other is moved to the device whole, and only this process's rows of its parameters stay there.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    models = [plm.model] if teacher is None else [plm.model, teacher]
    world: Any = dist.group.WORLD
    mesh = DeviceMesh.from_group(world, device.type)
    for path in sharded_modules(plm):
        for model in models:
            fully_shard(model.base_model.get_submodule(path), mesh=mesh, reshard_after_forward=True)
    for model in models:
        model.to(device)


def check_sharding(config: SearchConfig, runtime: Runtime) -> None:
    """Refuse a search that cannot be sharded over the processes of the launch, without loading anything."""
    processes, device = distributed.launched(), choose_device(runtime.device)
    if processes == 1:
        raise UsageError(
            "--shard divides a model among the processes of a launch, and there is one: start several with torchrun "
            "--nproc-per-node N -m winning_tickets search ... --shard, or leave --shard out. "
            + page("how_to/run_on_several_processes.md#models-that-do-not-fit-on-one-gpu")
        )
    if not isinstance(config, MaskTraining):
        what = (
            "with --level or counts trains gates"
            if config.method == "mask-training"
            else f"is --method {config.method}"
        )
        raise UsageError(
            f"--shard is for --method mask-training of weights, and this search {what}; leave --shard out."
        )
    dtypes = {option: getattr(config, option) for option in ("weights_dtype", "score_dtype", "moment_dtype")}
    found = [f"{config.option_of(option)} {dtype}" for option, dtype in dtypes.items() if dtype != "float32"]
    found += ["--block-wise"] if config.block_wise else []
    if found:
        raise UsageError(
            f"--shard trains all layers at once in float32, and {found[0]} saves memory in another way; give one of "
            "them."
        )
    if runtime.torch_compile:
        raise UsageError("--compile is for models that are whole in each process; leave it out, or leave --shard out.")
    if runtime.bf16 and not runtime.gradient_checkpointing:
        raise UsageError(
            "--bf16 with --shard needs --gradient-checkpointing: without it each process would keep the weights of all "
            "layers in bfloat16 until the backward pass."
        )
    longest = parse_segments(config.segments).longest
    if config.batch_tokens // longest < processes:
        raise UsageError(
            f"--shard needs a segment of every batch for each of {processes} processes, and --batch-tokens "
            f"{config.batch_tokens} may hold {config.batch_tokens // longest} of {config.segments}; raise it to at "
            f"least {processes * longest}."
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--shard works on GPUs with CUDA and on CPUs, and the device is {device.type}.")
    if device.type == "cuda" and dist.is_initialized() and "nccl" not in dist.get_backend_config():
        raise UsageError("--shard needs a GPU for each process, and there are fewer; start as many as there are GPUs.")


def check_matrices(plm: PLM, shapes: Mapping[str, torch.Size]) -> None:
    """Refuse a model whose matrices, given by their shapes, cannot be sharded by rows over the processes."""
    parts = [name for name in shapes if str(split_name(name)) != split_name(name).parameter]
    if parts or plm.architecture.shared_layers:
        found = f"stores {parts[0]} inside a larger parameter" if parts else "applies the same layer several times"
        raise UsageError(
            f"--shard is for models in which every matrix is a parameter of one layer, as in BERT, Llama or Qwen, and "
            f"{plm.name} {found}; leave --shard out."
        )
    for name, shape in shapes.items():
        _check_rows(name, shape[0], distributed.launched())


class Shards(Ranks):
    """The ranks that hold rows of the same matrices; `sizes` counts the entries of each matrix on this rank."""

    def __init__(self, group: Any, device: torch.device, sizes: Sequence[int]) -> None:
        self._group, self._device = group, device
        self._ends = torch.tensor(list(itertools.accumulate(sizes)), device=device)

    def totals(self, counts: Tensor) -> Tensor:
        """Return counts `(n,)` summed over the ranks."""
        total = counts.to(self._device, copy=True)
        dist.all_reduce(total, group=self._group)
        return total

    def join(self, rows: Tensor) -> Tensor:
        """Return the rows `(n, ...)` of all ranks, one after the other."""
        numbers = self._numbers(rows)
        padded = rows.new_zeros(max(numbers), *rows.shape[1:])
        padded[: len(rows)] = rows
        everyone = [torch.empty_like(padded) for _ in numbers]
        dist.all_gather(everyone, padded, group=self._group)
        return torch.cat([one[:number] for one, number in zip(everyone, numbers, strict=True)])

    def gather(
        self, places: Tensor, scores: Tensor, ties: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor | None], Tensor]:
        """Return the entries of all ranks, ordered by matrix and then rank, and the places of this rank's entries."""
        matrices = torch.bucketize(places, self._ends, right=True)
        order = torch.sort(self.join(matrices), stable=True).indices
        placed = torch.empty_like(order)
        placed[order] = torch.arange(len(order), device=order.device)
        start = sum(self._numbers(places)[: dist.get_rank(self._group)])
        joined = None if ties is None else self.join(ties)[order]
        return (self.join(scores)[order], joined), placed[start : start + len(places)]

    def _numbers(self, rows: Tensor) -> list[int]:
        """Return the number of rows of each rank."""
        own = torch.tensor([len(rows)], device=self._device)
        everyone = [torch.empty_like(own) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(everyone, own, group=self._group)
        return [int(one) for one in torch.cat(everyone).tolist()]
