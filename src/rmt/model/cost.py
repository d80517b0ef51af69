"""Multiply-accumulates of a network, by PyTorch's FLOP counter, and a description of its stages."""

import copy
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from rmt.model.rmt import ATTENTIONS, RMT, Block, Stage
from rmt.ops import decay_rates


def count_macs(model: RMT, height: int, width: int) -> int:
    """The number of multiply-adds for one image of `height` × `width` pixels.

    Convolutions, linear layers and both products of attention are counted; elementwise operations (norms, softmax,
    activations, rotary phases) are not. The network runs on the meta device, where only shapes are computed.
    """
    meta = copy.deepcopy(model).to("meta").eval()
    image = torch.empty(1, getattr(model, "in_chans", 3), height, width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(image)
    return counter.get_total_flops() // 2


def describe(model: RMT, height: int, width: int) -> dict[str, Any]:
    """Stages, parameters, MACs and decay rates, as JSON values."""
    stages = []
    own = cast(Iterable[Stage], model.stages) if isinstance(model, RMT) else ()  # timm's networks have no such stages
    for info, stage in zip(model.feature_info, own, strict=False):
        block = cast(Block, stage.blocks[0])
        attn = block.attn
        stages.append(
            dict(
                stride=info["reduction"],
                grid=[-(-height // info["reduction"]), -(-width // info["reduction"])],
                blocks=len(stage.blocks),
                channels=info["num_chs"],
                heads=attn.num_heads,
                head_dim=attn.head_dim,
                attention=next(name for name, kind in ATTENTIONS.items() if kind is type(attn)),
                decomposed=attn.decomposed,
                decay_form=attn.decay,
                phases=attn.phases,
                decay=decay_rates(attn.num_heads, attn.decay_range) if attn.decay != "none" else [],
                parameters=sum(p.numel() for p in stage.parameters()),
            )
        )
    return dict(
        model=model.pretrained_cfg["architecture"],
        image_size=[height, width],
        parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(model, height, width),
        classes_out=model.num_classes,
        stages=stages,
    )
