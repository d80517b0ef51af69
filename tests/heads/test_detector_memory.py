"""Memory at detection's sizes: nothing in stages 1 to 3 grows with the square of the number of tokens."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import rmt
from rmt.model import RMT
from rmt.ops import dispatch


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operator returns, by the stage that runs."""

    def __init__(self, model: RMT) -> None:
        super().__init__()
        self.stage: int | None = None
        self.elements: dict[int | None, int] = {}
        self.tokens: dict[int, int] = {}
        for i, stage in enumerate(model.stages):
            stage.register_forward_pre_hook(lambda module, args, i=i: setattr(self, "stage", i))
            stage.register_forward_hook(self._leave)

    def _leave(self, module, args, out):
        self.tokens[self.stage] = out.shape[2] * out.shape[3]
        self.stage = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.elements[self.stage] = max(self.elements.get(self.stage, 0), tensor.numel())
        return out


def forward(backbone: RMT, height: int, width: int, train: bool) -> Largest:
    model = rmt.detector(
        "mask_rcnn", backbone, num_classes=2, fpn_channels=8, box_fc_width=8, mask_width=8, rois_per_image=8
    )
    target = dict(boxes=torch.tensor([[9.0, 9, 90, 99]]), labels=torch.tensor([1]), masks=torch.ones(1, height, width))
    with Largest(backbone) as largest, contextlib.nullcontext() if train else torch.no_grad():
        if train:
            sum(model.train()([torch.rand(3, height, width)], [target]).values()).backward()
        else:
            model.eval()([torch.rand(3, height, width)])
    return largest


NARROW = dict(
    depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_heads=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1), head_hidden_dim=None
)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("without_compiler", [False, True])
def test_full_attention_in_stage_3(train, without_compiler, monkeypatch):
    """RMT-T's stages 1 and 2 are decomposed, 3 and 4 full, here a narrow one. The rule's threshold is scaled down with
    the image (640² here, 800 × 1333 there), so that it decides as it does there."""
    monkeypatch.setattr(dispatch, "MAX_SCORES", 2**20)
    if without_compiler:
        monkeypatch.setitem(dispatch._UNUSABLE, "native", lambda call: "no compiler")
    largest = forward(RMT(**NARROW, decomposed=(True, True, False, False)), 640, 640, train)
    assert largest.tokens == {0: 160**2, 1: 80**2, 2: 40**2, 3: 20**2}
    # A stage's own activations are 16 per token at most; 2^20 scores are a block's.
    for stage in (0, 1, 2):
        assert largest.elements[stage] <= max(2**20, 32 * largest.tokens[stage]) < largest.tokens[stage] ** 2


def test_the_hook_sees_the_plain_form_s_scores(monkeypatch):
    monkeypatch.setattr(dispatch, "_forced", "plain")
    largest = forward(RMT(**NARROW, decomposed=(True, True, False, False)), 640, 640, False)
    assert largest.elements[2] >= largest.tokens[2] ** 2


@pytest.mark.slow
def test_rmt_tiny_at_coco_s_size():
    with torch.random.fork_rng():
        largest = forward(rmt.create_model("rmt_tiny"), 800, 1333, False)
    for stage in (0, 1, 2):
        assert largest.elements[stage] < largest.tokens[stage] ** 2 / 4
