"""The named networks, registered with timm: after `import rmt`, `timm.create_model("rmt_small")` builds one.

| name | paper | parameters | MACs at 224² | maximum drop path in the paper's training |
|---|---|---|---|---|
| rmt_pico | – (ours, for small images and tests) | 1.3 M | 0.005 G at 32² | 0 |
| rmt_nano | – (ours, for images of 28 to 64 pixels) | 0.6 M | 0.017 G at 32² | 0 |
| rmt_micro | – (ours, trained on CIFAR-10: `pretrained=True`) | 1.6 M | 0.111 G at 64² | 0 |
| rmt_test | – (for tests of anything that trains a network) | 0.04 M | 0.0003 G at 32² | 0 |
| rmt_tiny | RMT-T | 14,334,216 | 2.64 G | 0.1 |
| rmt_small | RMT-S | 26,967,240 | 4.78 G | 0.15 |
| rmt_base | RMT-B | 54,154,896 | 10.37 G | 0.4 |
| rmt_large | RMT-L | 95,464,864 | 19.49 G | 0.5 |
| rmt_small_tl, rmt_base_tl, rmt_large_tl | RMT-{S,B,L}* | 27.5, 54.7, 96.1 M | 4.80, 10.40, 19.52 G | 0.15, 0.4, 0.5 |
| rmt_pico_tl | – (ours, rmt_pico with a token head) | 1.4 M | 0.006 G at 32² | 0 |
| rmt_deit_small, rmt_swin_tiny, rmt_swin_small | ablations | 22.1, 28.4, 49.8 M | 4.60, 4.59, 8.82 G | 0.1, 0.2, 0.3 |

The tl variants have a token head; the ablations are DeiT's and Swin's design with MaSA. Parameters are for 1,000
classes. MACs are `count_macs`'s: convolutions, linear layers and attention products, without norms and other
elementwise work.
"""

import functools
import inspect
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    register_notrace_module,
)

from rmt.errors import RMTError
from rmt.model.attention import REPLACEMENTS
from rmt.model.pretrained import complete_pretrained_cfg, filter_state_dict
from rmt.model.rmt import ATTENTIONS, RMT, PatchStem, Stage
from rmt.model.shipped import SHIPPED, shipped_weights

ATTENTIONS.update(REPLACEMENTS)
for _module in (Stage, PatchStem):  # what timm's feature_cls="fx" calls as a whole, see `rmt.ops.call.tracing`
    register_notrace_module(_module)

NARROW, MID, WIDE = (2, 6), (2, 7), (2, 8)  # decay_range (a, b), Eq. 8: a larger b sees farther

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "rmt_pico": dict(
        # One block per stage: on small images the time depends on the number of operations, not on their size.
        depths=(1, 1, 1, 1),
        dims=(32, 64, 128, 192),
        num_heads=(2, 4, 4, 6),
        mlp_ratios=(3, 3, 3, 3),
        decay_ranges=(NARROW, NARROW, NARROW, NARROW),
        head_hidden_dim=256,
    ),
    # Where images are small, tokens of 4×4 pixels are large: half of the work is convolutions of all pixels.
    "rmt_nano": dict(
        depths=(1, 1),
        dims=(64, 128),
        num_heads=(4, 8),
        mlp_ratios=(2, 2),
        decomposed=(True, True),
        decay_ranges=(NARROW, NARROW),
        layer_scales=(None, None),
        pool_stem=True,
        head_hidden_dim=256,
    ),
    # Deeper than rmt_nano, for the weights in the package (`shipped.py`).
    "rmt_micro": dict(
        depths=(2, 4, 1),
        dims=(64, 128, 192),
        num_heads=(4, 8, 12),
        mlp_ratios=(2, 2, 2),
        decomposed=(True, True, True),
        decay_ranges=(NARROW, NARROW, NARROW),
        layer_scales=(None, None, None),
        pool_stem=True,
        head_hidden_dim=256,
    ),
    # One narrow block per stage, for tests of training runs.
    "rmt_test": dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), num_heads=(2, 2, 2, 2), head_hidden_dim=16),
    "rmt_tiny": dict(depths=(2, 2, 8, 2), mlp_ratios=(3, 3, 3, 3), decomposed=(True, True, False, False)),
    "rmt_small": dict(),
    "rmt_base": dict(
        depths=(4, 8, 25, 8),
        dims=(80, 160, 320, 512),
        num_heads=(5, 5, 10, 16),
        decay_ranges=(MID, MID, WIDE, WIDE),
        layer_scales=(None, None, 1e-6, 1e-6),
    ),
    "rmt_large": dict(
        depths=(4, 8, 25, 8),
        dims=(112, 224, 448, 640),
        num_heads=(7, 7, 14, 20),
        decay_ranges=(WIDE, WIDE, WIDE, WIDE),
        layer_scales=(None, None, 1e-6, 1e-6),
    ),
}
ARCHITECTURES |= {
    f"{name}_tl": ARCHITECTURES[name] | dict(aux_head=True)
    for name in ("rmt_pico", "rmt_test", "rmt_small", "rmt_base", "rmt_large")
}
# The design of DeiT and Swin: patch embedding, no CPE, no convolution in the feed-forward, a head without hidden layer.
_plain = dict(conv_stem=False, cpe=False, ffn_conv=False, conv_downsample=False, head_hidden_dim=None)
_swin = _plain | dict(
    dims=(96, 192, 384, 768), num_heads=(3, 6, 12, 24), mlp_ratios=(4, 4, 4, 4), decay_ranges=(WIDE, WIDE, WIDE, WIDE)
)
ARCHITECTURES |= {
    "rmt_deit_small": _plain
    | dict(
        depths=(12,),
        dims=(384,),
        num_heads=(6,),
        mlp_ratios=(4,),
        decomposed=(False,),
        decay_ranges=(WIDE,),
        layer_scales=(None,),
        patch_size=16,
        patch_norm=False,
    ),
    "rmt_swin_tiny": _swin | dict(depths=(2, 2, 6, 2)),
    "rmt_swin_small": _swin | dict(depths=(2, 2, 18, 2)),
}

MAX_DROP_PATH = {
    "rmt_pico": 0.0,
    "rmt_nano": 0.0,
    "rmt_micro": 0.0,
    "rmt_test": 0.0,
    "rmt_tiny": 0.1,
    "rmt_small": 0.15,
    "rmt_base": 0.4,
    "rmt_large": 0.5,
    "rmt_deit_small": 0.1,
    "rmt_swin_tiny": 0.2,
    "rmt_swin_small": 0.3,
}
"""Name of a network -> its rate of stochastic depth in the paper's training (App. B).

The networks themselves default to 0, as timm's do."""
MAX_DROP_PATH |= {name: MAX_DROP_PATH[name.removesuffix("_tl")] for name in ARCHITECTURES if name.endswith("_tl")}

PAPER_TOP1 = {
    "rmt_tiny": 82.4,
    "rmt_small": 84.1,
    "rmt_base": 85.0,
    "rmt_large": 85.5,
    "rmt_small_tl": 84.8,
    "rmt_base_tl": 85.6,
    "rmt_large_tl": 86.1,
}
"""Top-1 accuracy on ImageNet-1k at 224² in percent, as the authors published it (Table 1); not measured by us."""


def _cfg(name: str) -> dict[str, Any]:
    small = name.startswith(("rmt_nano", "rmt_pico", "rmt_test", "rmt_micro"))
    side = 64 if name == "rmt_micro" else 32 if small else 224
    strides = {"rmt_nano": 8, "rmt_micro": 16, "rmt_deit_small": 16}
    return dict(
        num_classes=1000,
        input_size=(3, side, side),
        min_input_size=(3, 32, 32),
        pool_size=(side // strides.get(name, 32),) * 2,
        crop_pct=1.0 if small else 0.875,
        interpolation="bicubic",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        first_conv="stem.0" if ARCHITECTURES[name].get("conv_stem", True) else "stem.proj",
        classifier=("head.fc", "aux_head") if name.endswith("_tl") else "head.fc",
    )


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_WEIGHTS: dict[str, dict[str, Any]] = {
    "rmt_micro": dict(
        num_classes=10,
        label_names=_CIFAR10,
        file=str(shipped_weights("rmt_micro")),
        license="apache-2.0",
        description="90.91 % of the 10,000 test photographs of CIFAR-10, enlarged to 64×64; see docs/rmt_micro.md",
    )
}
_cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {
    f"{name}.{SHIPPED.get(name, 'untrained')}": _cfg(name) | _WEIGHTS.get(name, {}) for name in ARCHITECTURES
}
default_cfgs = generate_default_cfgs(_cfgs)


_PARAMETERS = inspect.signature(RMT).parameters
ARGUMENTS = frozenset(_PARAMETERS)
"""The keywords of `create_model` that describe the network; the others are timm's, about its weights and device."""


def build(name: str, pretrained: bool = False, **kwargs: Any) -> RMT:
    """Build variant `name`; kwargs are those of `RMT` and of timm's `create_model`."""
    if "img_size" in kwargs:  # many of timm's networks are built for one size
        raise RMTError("img_size: leave it out; the network takes images of any height and width when it is called")
    if (stride := kwargs.pop("output_stride", 32)) != 32:
        raise RMTError(
            f"output_stride={stride}: RMT's maps have strides 4, 8, 16 and 32, and its attention cannot be dilated; "
            "take Unet, FPN or UPerNet in place of DeepLabV3"
        )
    overlay = dict(kwargs.pop("pretrained_cfg_overlay", None) or {})
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    if pretrained:
        overlay, keywords = complete_pretrained_cfg(name, kwargs.get("pretrained_cfg"), overlay)
        kwargs = keywords | kwargs
    elif name in SHIPPED and not isinstance(kwargs.get("pretrained_cfg"), Mapping | PretrainedCfg):
        kwargs.setdefault("num_classes", 1000)  # timm would take the number of the weights
    stages = _check_stages(ARCHITECTURES[name] | kwargs)
    with torch.device(device or torch.get_default_device()):
        model = build_model_with_cfg(
            RMT,
            name,
            pretrained,
            pretrained_cfg_overlay=overlay,
            pretrained_filter_fn=functools.partial(
                filter_state_dict,
                headless=bool(kwargs.get("features_only")),
                name=str(overlay.get("file") or "the state dict"),
            ),
            feature_cfg=dict(out_indices=tuple(range(stages)), feature_cls="getter", flatten_sequential=True),
            **ARCHITECTURES[name] | kwargs,
        )
    if pretrained:  # the tensors are in the network now
        getattr(model, "model", model).pretrained_cfg.pop("state_dict", None)
    model.model_args = {key: value for key, value in kwargs.items() if key in ARGUMENTS}
    return model.to(dtype) if dtype is not None else model


def _check_stages(arguments: dict[str, Any]) -> int:
    """The number of stages. Raises RMTError for an argument that has not one entry per stage."""
    depths = arguments.get("depths", _PARAMETERS["depths"].default)
    stages = len(depths) if isinstance(depths, Sequence) else 4
    for key, value in arguments.items():
        per_stage = key in ARGUMENTS and isinstance(_PARAMETERS[key].default, tuple)
        if per_stage and (not isinstance(value, Sequence) or len(value) != stages):
            raise RMTError(f"{key} needs {stages} entries, one per stage, and is {str(value)[:40]}")
    return stages


def _register(name: str) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> RMT:
        return build(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"See the table in `{__name__}`."
    globals()[name] = entrypoint
    register_model(entrypoint)


for _name in ARCHITECTURES:
    _register(_name)


def list_models(filter: str | Sequence[str] = "", exclude_filters: str | Sequence[str] = "") -> list[str]:
    """The names that `create_model` takes, by default all.

    As in `timm.list_models`, `filter` is one shell pattern ("rmt_s*") or several, of which a name matches any, and
    `exclude_filters` removes names.
    """
    names = [name for name in ARCHITECTURES if not filter or _matches(name, filter)]
    return [name for name in names if not _matches(name, exclude_filters)]


def _matches(name: str, patterns: str | Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))


def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> RMT:
    """`timm.create_model` for our names: a network for images (B, in_chans, H, W), H and W from 32 up.

    Args:
        name: one of `list_models()`.
        pretrained: load weights, those in the package or of the file in `pretrained_cfg_overlay=dict(file=...)`.
        kwargs: `num_classes`, `in_chans`, `drop_path_rate` and the other arguments of `RMT`.
    Raises:
        RMTError: no network of that name, or no weights for it.
    """
    check_own_name(name)
    return cast(RMT, timm.create_model(name, pretrained=pretrained, **kwargs))


def check_own_name(name: str) -> None:
    """Raises RMTError for a name that is none of our networks; `networks.check_name` allows those of timm, too."""
    network, _, tag = name.partition(".")
    if network not in ARCHITECTURES or (tag and tag not in default_cfgs[network].cfgs):
        raise RMTError(f"no network named {name!r}; choose one of {', '.join(list_models())}")
