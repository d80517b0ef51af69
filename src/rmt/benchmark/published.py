"""Published top-1 accuracy of networks on ImageNet-1k, and where it was published."""

from typing import NamedTuple

from rmt.model.variants import PAPER_TOP1


class Published(NamedTuple):
    """Of training on the images of ImageNet-1k alone."""

    top1: float  # percent
    source: str
    teacher: bool = False  # trained with the answers of another network: distillation, or its label maps
    side: int = 224  # of the images, in pixels


_SOURCES: dict[str, dict[str, float]] = {
    "arXiv:2103.14030": {
        "swin_tiny_patch4_window7_224": 81.3,
        "swin_small_patch4_window7_224": 83.0,
        "swin_base_patch4_window7_224": 83.5,
    },
    "arXiv:2201.03545": {"convnext_tiny": 82.1, "convnext_small": 83.1},
    "arXiv:2204.01697": {"maxvit_tiny_tf_224": 83.62, "maxvit_small_tf_224": 84.45},
    "timm's results": {"maxvit_tiny_rw_224": 83.5},
    "arXiv:2206.09959": {"gcvit_tiny": 83.5, "gcvit_small": 84.3},
    "arXiv:2204.03645": {"davit_tiny": 82.8, "davit_small": 84.2},
    "arXiv:2210.13452": {
        "caformer_s18": 83.6,
        "caformer_s36": 84.5,
        "caformer_m36": 85.2,
        "convformer_s18": 83.0,
        "convformer_s36": 84.1,
        "convformer_m36": 84.5,
    },
    "arXiv:2405.07992": {"mambaout_tiny": 82.7, "mambaout_small": 84.1, "mambaout_base": 84.2},
    "arXiv:2303.16900": {"inception_next_tiny": 82.3, "inception_next_small": 83.5},
    "arXiv:2207.05501": {"nextvit_small": 82.5, "nextvit_base": 83.2},
    "arXiv:2207.10666": {"tiny_vit_21m_224": 83.1},
    "arXiv:2205.14756": {"efficientvit_b2": 82.1, "efficientvit_b3": 83.5},
}
_WITH_TEACHER: dict[str, dict[str, float]] = {
    "arXiv:2106.13112": {"volo_d1_224": 84.2, "volo_d2_224": 85.2},
    "arXiv:2307.09283": {"repvit_m1_1": 80.7, "repvit_m2_3": 83.3},
}
PUBLISHED: dict[str, Published] = {
    **{name: Published(top1, "arXiv:2309.11523", name.endswith("_tl")) for name, top1 in PAPER_TOP1.items()},
    **{name: Published(top1, source) for source, rows in _SOURCES.items() for name, top1 in rows.items()},
    **{name: Published(top1, source, True) for source, rows in _WITH_TEACHER.items() for name, top1 in rows.items()},
    "fastvit_sa12": Published(81.9, "arXiv:2303.14189", True, 256),
    "fastvit_sa24": Published(83.4, "arXiv:2303.14189", True, 256),
    "tf_efficientnet_b4": Published(82.9, "arXiv:1905.11946", side=380),
    "tf_efficientnet_b5": Published(83.6, "arXiv:1905.11946", side=456),
}
"""By the name in `rmt.model` or timm."""
