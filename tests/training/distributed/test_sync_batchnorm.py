"""Synchronised BatchNorm on CPU processes gives what one process gives on the whole batch."""

import copy

import torch
import torch.distributed as dist
from helpers.together import run_together
from timm.layers import BatchNormAct2d
from torch import nn

from rmt.training.distributed.sync_batchnorm import CPUSyncBatchNorm2d, convert_sync_batchnorm

SHARES = (slice(0, 3), slice(3, 4))  # unequal on purpose


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), BatchNormAct2d(5), nn.Conv2d(5, 2, 1), nn.BatchNorm2d(2)
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


def process(folder: str) -> None:
    dist.init_process_group("gloo")
    model = convert_sync_batchnorm(network(), torch.device("cpu"))
    torch.save(two_steps(model, SHARES[dist.get_rank()]), f"{folder}/{dist.get_rank()}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one_on_the_whole_batch(tmp_path):
    assert run_together(process, str(tmp_path), output=tmp_path) == [0, 0]
    expected = two_steps(network())
    got = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([g["out"] for g in got]), expected["out"], rtol=1e-10, atol=1e-12)
    for name, value in expected.items():
        if name != "out":
            for rank in range(2):
                torch.testing.assert_close(got[rank][name], value, rtol=1e-9, atol=1e-11, msg=f"{name} of {rank}")


def under_autocast(folder: str, share: slice | None = None) -> None:
    """A BatchNorm of bf16 maps large enough that bf16 can hold neither their number nor their sum."""
    rank = 0
    if share is None:
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        share = SHARES[rank]
    model = convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), torch.device("cpu")).train()
    generator = torch.Generator().manual_seed(2)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    x = torch.randn(4, 3, 45, 45, generator=generator) + 3
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x[share])
        loss = out.float().pow(3).sum()
    loss.backward()
    gradients = [p.grad for p in model.parameters()]
    if dist.is_initialized():
        for gradient in gradients:
            dist.all_reduce(gradient)
        dist.destroy_process_group()
    torch.save({"out": out.detach(), "gradients": gradients, "buffers": list(model.buffers())}, f"{folder}/{rank}.pt")


def test_under_autocast_the_statistics_are_in_full_precision(tmp_path):
    assert run_together(under_autocast, str(tmp_path), output=tmp_path) == [0, 0]
    got = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    under_autocast(str(tmp_path), slice(None))
    expected = torch.load(tmp_path / "0.pt")  # PyTorch's own BatchNorm, of the whole batch
    out = torch.cat([g["out"] for g in got])
    assert out.dtype == expected["out"].dtype == torch.bfloat16
    torch.testing.assert_close(out, expected["out"], rtol=2**-7, atol=2**-9)  # one step of bf16
    for g in got:
        torch.testing.assert_close(g["buffers"], expected["buffers"], rtol=1e-5, atol=1e-6)
        assert all(buffer.dtype != torch.bfloat16 for buffer in g["buffers"])
        torch.testing.assert_close(g["gradients"][2:], expected["gradients"][2:], rtol=1e-2, atol=1.0)


def test_alone_it_is_batchnorm_and_the_names_stay():
    plain = network()
    synced = convert_sync_batchnorm(copy.deepcopy(plain), torch.device("cpu"))
    assert isinstance(synced[1], CPUSyncBatchNorm2d)
    assert list(synced.state_dict()) == list(plain.state_dict())
    for model_step in (nn.Module.train, nn.Module.eval):
        for model in (plain, synced):
            model_step(model)
        torch.testing.assert_close(synced(batch()), plain(batch()))
    assert isinstance(convert_sync_batchnorm(network(), torch.device("cuda"))[1], nn.SyncBatchNorm)


def test_conversion_keeps_the_parameters_themselves():
    model = network()
    before = [id(p) for p in model.parameters()]
    assert [id(p) for p in convert_sync_batchnorm(model, torch.device("cpu")).parameters()] == before
