"""The cache of spatial priors: bounded, shared, and absent from copies, pickles and graphs."""

import copy
import io
import pickle

import pytest
import torch
from helpers.networks import TINY
from torch._subclasses.fake_tensor import FakeTensorMode

from rmt.model import RMT, create_model
from rmt.ops import prior_cache


@pytest.fixture(autouse=True)
def _empty_cache():
    prior_cache._cache.clear()
    yield
    prior_cache._cache.clear()


def test_eager_calls_share_the_tables():
    x = torch.zeros(1)
    first = prior_cache.spatial_prior(6, 5, 2, 8, (2.0, 6.0), x)
    assert prior_cache.spatial_prior(6, 5, 2, 8, (2.0, 6.0), x).sin is first.sin
    assert prior_cache.spatial_prior(5, 6, 2, 8, (2.0, 6.0), x).sin is not first.sin
    assert prior_cache.spatial_prior(6, 5, 2, 8, (2.0, 6.0), x.double()).sin.dtype == torch.float64
    assert prior_cache.spatial_prior(6, 5, 2, 8, (2.0, 6.0), x.bfloat16()).sin is first.sin  # float32 for low precision


def test_cache_is_bounded_by_bytes(monkeypatch):
    monkeypatch.setattr(prior_cache, "CACHE_BYTES", 200_000)
    for size in range(8, 60):
        prior_cache.spatial_prior(size, size, 4, 16, (2.0, 6.0), torch.zeros(1))
        held = sum(table.nbytes for prior in prior_cache._cache.priors.values() for table in prior)
        assert held == prior_cache._cache.bytes <= 200_000
    assert 0 < len(prior_cache._cache.priors) < 52


def test_what_a_graph_reads_is_not_evicted(monkeypatch):
    """A captured CUDA graph has its address only. One that is not known yet is computed by the graph."""
    monkeypatch.setattr(prior_cache, "CACHE_BYTES", 200_000)
    monkeypatch.setattr(prior_cache, "_capturing", lambda like: capturing)
    size, capturing = (8, 8, 4, 16, (2.0, 6.0), torch.zeros(1)), False
    prior = prior_cache.spatial_prior(*size)
    capturing = True
    assert prior_cache.spatial_prior(*size).sin is prior.sin
    prior_cache.spatial_prior(9, *size[1:])
    assert len(prior_cache._cache.priors) == len(prior_cache._cache.captured) == 1
    capturing = False
    for side in range(10, 60):
        prior_cache.spatial_prior(side, side, *size[2:])
    assert [kept.sin is prior.sin for kept in prior_cache._cache.captured.values()] == [True]


def test_predict_in_inference_mode_then_train_the_same_network():
    model = RMT(**TINY)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        model.eval()(x)
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_copies_and_pickles_do_not_carry_the_tables():
    model = create_model("rmt_pico")
    empty = len(pickle.dumps(model))
    model.eval()(torch.randn(1, 3, 256, 256))
    assert prior_cache._cache.bytes > 100_000
    assert len(pickle.dumps(model)) == empty
    assert not [name for name, _ in model.named_buffers() if "running" not in name and "batches" not in name]
    clone = copy.deepcopy(model)
    assert {k for k in vars(clone)} == {k for k in vars(model)}
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    assert buffer.tell() < 1.1 * sum(t.nbytes for t in model.state_dict().values()) + 200_000


def test_fake_and_meta_tensors_leave_the_cache_alone():
    model = RMT(**TINY)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model(torch.empty(1, 3, 64, 64))
    RMT(**TINY).to("meta")(torch.empty(1, 3, 64, 64, device="meta"))
    assert not prior_cache._cache.priors


def test_export_leaves_the_cache_alone_and_eager_works_after():
    model = RMT(**TINY).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        assert not prior_cache._cache.priors
        torch.testing.assert_close(program.module()(x), model(x))
    assert prior_cache._cache.priors
    model.train()(x).sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_networks_keep_exact_positions(dtype):
    """A network cast to half precision is off by rounding alone, not by collapsed positions."""
    torch.manual_seed(0)
    model = RMT(**TINY).eval()
    x = torch.randn(1, 3, 256, 256)  # 4,096 tokens, more than bfloat16 can count
    with torch.no_grad():
        expected = model.forward_features(x)
        got = copy.deepcopy(model).to(dtype).forward_features(x.to(dtype)).float()
    assert (got - expected).norm() / expected.norm() < (0.02 if dtype == torch.bfloat16 else 0.003)
