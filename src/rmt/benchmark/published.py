"""Published top-1 accuracy of networks on ImageNet-1k, and where it was published."""

from typing import NamedTuple

from rmt.model.variants import PAPER_TOP1


class Published(NamedTuple):
    """Of training on the images of ImageNet-1k alone; without a teacher, where both were published.

    `source` is the paper with its table, or with the page of the authors that lists the figure, or such a page alone.
    """

    top1: float  # percent
    source: str
    teacher: bool = False  # trained with the answers of another network: distillation, or its label maps
    side: int = 224  # of the images, in pixels


_SOURCES: dict[str, dict[str, float]] = {
    # The authors' repository has 81.2 and 83.2 for the first two, as their released weights reach.
    "arXiv:2103.14030, Table 1": {
        "swin_tiny_patch4_window7_224": 81.3,
        "swin_small_patch4_window7_224": 83.0,
        "swin_base_patch4_window7_224": 83.5,
    },
    "arXiv:2201.03545, github.com/facebookresearch/ConvNeXt": {"convnext_tiny": 82.1, "convnext_small": 83.1},
    "arXiv:2204.01697, github.com/google-research/maxvit": {"maxvit_tiny_tf_224": 83.62, "maxvit_small_tf_224": 84.45},
    # timm's own variant of MaxViT, trained there.
    "github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv": {"maxvit_tiny_rw_224": 83.5},
    # Of the last version of the paper (ICML 2023); timm's weights are earlier ones, with 83.4 and 83.9.
    "arXiv:2206.09959, huggingface.co/nvidia/GCViT": {"gcvit_tiny": 83.5, "gcvit_small": 84.3},
    "arXiv:2204.03645, github.com/dingmyu/davit": {"davit_tiny": 82.8, "davit_small": 84.2},
    "arXiv:2210.13452, github.com/sail-sg/metaformer": {
        "caformer_s18": 83.6,
        "caformer_s36": 84.5,
        "caformer_m36": 85.2,
        "convformer_s18": 83.0,
        "convformer_s36": 84.1,
        "convformer_m36": 84.5,
    },
    "arXiv:2405.07992, github.com/yuweihao/MambaOut": {
        "mambaout_tiny": 82.7,
        "mambaout_small": 84.1,
        "mambaout_base": 84.2,
    },
    "arXiv:2303.16900, github.com/sail-sg/inceptionnext": {"inception_next_tiny": 82.3, "inception_next_small": 83.5},
    "arXiv:2207.05501, github.com/bytedance/Next-ViT": {"nextvit_small": 82.5, "nextvit_base": 83.2},
    # 84.8 with a teacher and the images of ImageNet-22k.
    "arXiv:2207.10666, github.com/microsoft/Cream/tree/main/TinyViT": {"tiny_vit_21m_224": 83.1},
    "arXiv:2205.14756, github.com/mit-han-lab/efficientvit/tree/master/applications/efficientvit_cls": {
        "efficientvit_b2": 82.1,
        "efficientvit_b3": 83.5,
    },
}
_WITH_TEACHER: dict[str, dict[str, float]] = {
    "arXiv:2106.13112, github.com/sail-sg/volo": {"volo_d1_224": 84.2, "volo_d2_224": 85.2},  # token labels
    # Of 300 epochs, as the other networks were trained; 81.2 and 83.7 after 450.
    "arXiv:2307.09283, github.com/THU-MIG/RepViT": {"repvit_m1_1": 80.7, "repvit_m2_3": 83.3},
}
_FASTVIT = "github.com/apple/ml-fastvit"  # 81.9 and 83.4 with a teacher
_EFFICIENTNET = "arXiv:1905.11946v5, Table 2"  # the first version has other figures
PUBLISHED: dict[str, Published] = {
    **{n: Published(top1, "arXiv:2309.11523, Table 1", n.endswith("_tl")) for n, top1 in PAPER_TOP1.items()},
    **{n: Published(top1, source) for source, rows in _SOURCES.items() for n, top1 in rows.items()},
    **{n: Published(top1, source, True) for source, rows in _WITH_TEACHER.items() for n, top1 in rows.items()},
    "fastvit_sa12": Published(80.9, _FASTVIT, side=256),
    "fastvit_sa24": Published(82.7, _FASTVIT, side=256),
    "tf_efficientnet_b4": Published(82.9, _EFFICIENTNET, side=380),
    "tf_efficientnet_b5": Published(83.6, _EFFICIENTNET, side=456),
}
"""By the name in `rmt.model` or timm."""
