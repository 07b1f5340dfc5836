"""The pretend GPU refuses what CUDA refuses, counts what it launches and waits for, and leaves torch as it was."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from tools.pretend_gpu import CUDA, Counts, PretendGPU, PretendTensor

THIS = "tools/test_pretend_gpu.py"


@pytest.fixture
def gpu() -> Iterator[PretendGPU]:
    with PretendGPU() as made:
        yield made


def numbers(gpu: PretendGPU, work: Callable[[], object]) -> tuple[int, int, int]:
    """Launches, syncs and uploads of some work."""
    with gpu.counting() as counts:
        work()
    return counts.numbers


def test_torch_is_as_before_after_the_block() -> None:
    before = torch.cuda.is_available, torch.cuda.device_count(), threading.Thread.run, nn.Module.to
    with PretendGPU():
        assert torch.cuda.is_available()
        assert torch.cuda.device_count() == 1
        assert torch.zeros(2, device="cuda").device == CUDA
    assert (torch.cuda.is_available, torch.cuda.device_count(), threading.Thread.run, nn.Module.to) == before
    assert not torch.cuda.is_available()
    assert PretendGPU.active is None
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(2, device="cuda")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(6.0).to("cuda"),
        lambda: torch.arange(6.0).to(CUDA),
        lambda: torch.arange(6.0).to(device="cuda:0", dtype=torch.float32),
        lambda: torch.arange(6.0).cuda(),
        lambda: torch.arange(6.0, device="cuda"),
        lambda: torch.tensor([0.0, 1, 2, 3, 4, 5], device="cuda"),
        lambda: torch.as_tensor([0.0, 1, 2, 3, 4, 5], device=CUDA),
        lambda: torch.zeros(1, device="cuda").new_tensor([0.0, 1, 2, 3, 4, 5]),
        lambda: torch.empty(6, device="cuda").copy_(torch.arange(6.0)),
    ],
)
def test_tensors_are_on_the_device_with_their_values(gpu: PretendGPU, make: Callable[[], Tensor]) -> None:
    found = make()
    assert isinstance(found, PretendTensor)
    assert (found.device, found.is_cuda, found.is_meta, found.get_device()) == (CUDA, True, False, 0)
    assert found.cpu().tolist() == [0.0, 1, 2, 3, 4, 5]
    assert not isinstance(found.cpu(), PretendTensor)
    assert found.to("cuda") is found
    assert (found * 2)[1:3].to("cpu").tolist() == [2.0, 4.0]


def refused() -> list[Callable[[Tensor, Tensor], object]]:
    """What mixes a tensor on the GPU with one on the CPU, both `(4,)`."""
    return [
        lambda here, there: here + there,
        lambda here, there: there + here.sum(),
        lambda here, there: here.mul_(there),
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.where(here > 0, here, there),
        lambda here, there: here.masked_fill(there > 0, 0.0),
        lambda here, there: there[(here > 0).nonzero().reshape(-1)],
        lambda here, there: there[here > 0],
        lambda here, there: nn.functional.linear(here, there),
        lambda here, there: torch._foreach_mul([here, here], [there, there]),
        lambda here, there: here.numpy(),
    ]


@pytest.mark.parametrize("number", range(len(refused())))
def test_tensors_of_two_devices_do_not_mix(gpu: PretendGPU, number: int) -> None:
    there = torch.arange(4.0)
    with pytest.raises((RuntimeError, TypeError), match=r"same device|convert cuda:0 device type tensor to numpy"):
        refused()[number](there.to("cuda"), there)


def test_numbers_without_dimensions_and_indices_on_the_cpu_do_mix(gpu: PretendGPU) -> None:
    here = torch.arange(4.0, device="cuda")
    assert (here * torch.tensor(2.0)).tolist() == [0.0, 2.0, 4.0, 6.0]
    assert here[torch.tensor([3, 1])].tolist() == [3.0, 1.0]
    assert here[torch.tensor([True, False, True, False])].tolist() == [0.0, 2.0]
    assert torch.arange(4.0).copy_(here * 3).tolist() == [0.0, 3.0, 6.0, 9.0]


def test_launches_are_operators_that_are_no_views(gpu: PretendGPU) -> None:
    matrix = torch.ones(4, 4, device="cuda")
    assert numbers(gpu, lambda: matrix.t().reshape(-1)[2:].view(7, 2).unsqueeze(0).detach()) == (1, 0, 0)  # a copy
    assert numbers(gpu, lambda: torch.empty_like(matrix)) == (0, 0, 0)
    assert numbers(gpu, lambda: (matrix * 2).add_(1).relu()) == (3, 0, 0)
    assert numbers(gpu, lambda: torch.zeros(3, device="cuda")) == (1, 0, 0)
    # A list is one launch, in clipping too: two norms, their stack, its norm.
    assert numbers(gpu, lambda: torch._foreach_mul([matrix, matrix, matrix], 2.0)) == (1, 0, 0)
    assert numbers(gpu, lambda: nn.utils.get_total_norm([matrix, matrix]))[0] == 3


@pytest.mark.parametrize(
    ("waits", "work"),
    [
        (1, lambda values: float(values.sum())),
        (1, lambda values: bool((values > 1).any())),
        (1, lambda values: values.tolist()),
        (1, lambda values: values.cpu()),
        (1, lambda values: values.to("cpu")),
        (0, lambda values: values.to("cpu", non_blocking=True)),
        (1, lambda values: torch.zeros(4).copy_(values)),
        (1, lambda values: values.nonzero()),
        (1, lambda values: values[values > 1]),
        (1, lambda values: torch.equal(values, values)),
        (1, lambda values: values.unique()),
        (1, lambda values: torch.cuda.synchronize()),
        (0, lambda values: values.kthvalue(2).values),
        (0, lambda values: values.masked_fill(values > 1, 0.0)),
        (0, lambda values: values.__setitem__(values > 1, 0.0)),
        (0, lambda values: values.argsort(stable=True)),
    ],
)
def test_what_the_host_waits_for(gpu: PretendGPU, waits: int, work: Callable[[Tensor], object]) -> None:
    values = torch.arange(4.0, device="cuda")
    assert numbers(gpu, lambda: work(values))[1:] == (waits, 0)


def test_uploads(gpu: PretendGPU) -> None:
    there = torch.arange(4.0)
    here = there.cuda()
    assert numbers(gpu, lambda: there.to("cuda"))[2] == 1
    assert numbers(gpu, lambda: there.to("cuda", non_blocking=True))[2] == 0
    assert numbers(gpu, lambda: there.pin_memory().to("cuda", non_blocking=True))[2] == 0
    assert numbers(gpu, lambda: torch.tensor([1.0], device="cuda"))[2] == 1
    assert numbers(gpu, lambda: here.copy_(there))[2] == 1
    assert numbers(gpu, lambda: here.copy_(there, non_blocking=True))[2] == 0
    assert numbers(gpu, lambda: here.__setitem__(torch.tensor([0, 1]), 5.0))[2] > 0
    assert here.tolist() == [5.0, 5.0, 2.0, 3.0]


def test_counts_know_their_lines(gpu: PretendGPU) -> None:
    values = torch.arange(4.0, device="cuda")
    with gpu.counting() as counts:
        float(values.sum())
    (line,) = counts.launches
    assert line.startswith(f"{THIS}:")
    assert list(counts.syncs) == [f"{line} _local_scalar_dense"]
    assert counts.operators["sum"] == 1
    assert counts.report().startswith("2 launches, 1 syncs, 0 uploads\n  launches: 2 tools/test_pretend_gpu.py:")
    assert Counts().numbers == (0, 0, 0)


def test_a_training_step_is_that_of_the_cpu(gpu: PretendGPU) -> None:
    def train(device: str) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 9))
        model[4].weight = model[0].weight  # tied
        model.to(device)
        assert model[4].weight is model[0].weight
        assert isinstance(model[4].weight, nn.Parameter)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        ids = torch.arange(8).to(device)
        for _ in range(3):
            loss = nn.functional.cross_entropy(model(ids), (ids + 1) % 9)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        return [parameter.detach().cpu() for parameter in model.parameters()]

    with gpu.counting() as counts:
        found = train("cuda")
    for here, there in zip(found, train("cpu"), strict=True):
        torch.testing.assert_close(here, there)
    launches, syncs, uploads = counts.numbers
    assert launches > 50
    assert (syncs, uploads) == (6, 7)  # six parameters are read at the end; they and a batch were uploaded


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(gpu: PretendGPU, mode: Callable[[], AbstractContextManager[None]]) -> None:
    model, inputs = nn.Linear(3, 3).to("cuda"), torch.ones(2, 3, device="cuda")
    with mode():
        found = model(inputs[:1, :])[0]
    assert not found.requires_grad
    torch.testing.assert_close(found.cpu(), model.cpu()(torch.ones(3)).detach())


def test_modules_move_in_place_and_back(gpu: PretendGPU) -> None:
    model = nn.BatchNorm1d(3)
    weight = model.weight
    model.to("cuda")
    assert model.weight is weight
    assert {value.device for value in (*model.parameters(), *model.buffers())} == {CUDA}
    copied = copy.deepcopy(model)
    assert copied.weight is not weight
    assert isinstance(copied.weight, nn.Parameter)
    assert copied.weight.device == CUDA
    model.cpu()
    assert not isinstance(model.weight, PretendTensor)


def test_files_have_the_values(gpu: PretendGPU) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.arange(3, device="cuda")}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["a"].tolist() == [0, 1, 2]


def test_a_thread_has_the_device_too(gpu: PretendGPU) -> None:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2).to("cuda") + 1))
    with gpu.counting() as counts:
        thread.start()
        thread.join()
    assert found[0].device == CUDA
    assert counts.numbers == (2, 0, 1)
