"""Synchronised BatchNorm on CPU processes gives what one process gives on the whole batch."""

import copy
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from rmt.training.sync_batchnorm import CPUSyncBatchNorm2d, synchronise_batchnorm

SHARES = (slice(0, 3), slice(3, 4))  # unequal on purpose


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1), nn.BatchNorm2d(2)
    ).double()


def batch() -> torch.Tensor:
    return torch.randn(4, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3 + 1


def two_steps(model: nn.Module, share: slice = slice(None)) -> dict[str, torch.Tensor]:
    """Two forward passes, so that the running statistics move twice, and the gradients of a sum over all samples."""
    model.train()
    model(batch().flip(0)[share])
    out = model(batch()[share])
    (out.pow(3).sum() + out[:, 0].sum()).backward()
    if dist.is_initialized():
        for p in model.parameters():
            dist.all_reduce(p.grad)
    return {
        "out": out.detach(),
        **{f"gradient of {name}": p.grad for name, p in model.named_parameters()},
        **dict(model.named_buffers()),
    }


def process(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = synchronise_batchnorm(network(), torch.device("cpu"))
    torch.save(two_steps(model, SHARES[rank]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture
def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_equal_one_on_the_whole_batch(tmp_path, free_port):
    mp.spawn(process, args=(free_port, str(tmp_path)), nprocs=2)
    expected = two_steps(network())
    got = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([g["out"] for g in got]), expected["out"], rtol=1e-10, atol=1e-12)
    for name, value in expected.items():
        if name != "out":
            for rank in range(2):
                torch.testing.assert_close(got[rank][name], value, rtol=1e-9, atol=1e-11, msg=f"{name} of {rank}")


def test_alone_it_is_batchnorm_and_the_names_stay():
    plain = network()
    synced = synchronise_batchnorm(copy.deepcopy(plain), torch.device("cpu"))
    assert isinstance(synced[1], CPUSyncBatchNorm2d)
    assert list(synced.state_dict()) == list(plain.state_dict())
    for model_step in (nn.Module.train, nn.Module.eval):
        for model in (plain, synced):
            model_step(model)
        torch.testing.assert_close(synced(batch()), plain(batch()))
    assert isinstance(synchronise_batchnorm(network(), torch.device("cuda"))[1], nn.SyncBatchNorm)


def test_conversion_keeps_the_parameters_themselves():
    model = network()
    before = [id(p) for p in model.parameters()]
    assert [id(p) for p in synchronise_batchnorm(model, torch.device("cpu")).parameters()] == before
