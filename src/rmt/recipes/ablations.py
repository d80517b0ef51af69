"""The ablations of the paper's Tables 6, 7 and 8 on ImageNet-1k, and ours: one recipe per changed part of the network.

Each is the recipe of RMT-T or RMT-S (`imagenet-tiny`, `imagenet-small`) with another `--model-args`; the unchanged rows
of the tables are those recipes themselves, and `imagenet-deit-small`, `imagenet-swin-tiny` and `-small` the designs of
DeiT and Swin with MaSA. `--data` takes any images. The detection and segmentation columns of the tables are run by
`rmt train coco-mask-rcnn-tiny-1x` and `rmt train ade20k-semantic-fpn-tiny` with the same `--model-args` and the weights
of the ablation's run.
"""

from dataclasses import replace
from textwrap import fill

from rmt.recipes.imagenet import IMAGENET
from rmt.recipes.published import PUBLISHED
from rmt.recipes.recipe import named

#: name: (size, model_args, what is changed)
_ROWS = {
    # Table 6
    "attention": ("tiny", "decay=none", "attention without decay in MaSA's place"),
    "gate": ("tiny", "gate=true", "RetNet's gate in place of the softmax"),
    "no-lce": ("tiny", "lce=false", "no local context enhancement"),
    "no-cpe": ("tiny", "cpe=false", "no conditional positional encoding"),
    "no-stem": ("tiny", "conv_stem=false", "patches of 4×4 pixels in place of the convolutional stem"),
    # Table 7
    "full-stage3": ("small", "decomposed=[true,true,false,false]", "attention over all pairs of tokens in stage 3"),
    # Table 8
    "retention-parallel": ("small", "attention=retention", "RetNet's retention in parallel form in MaSA's place"),
    "retention-chunk4": (
        "small",
        "attention=retention_chunkwise,window_size=2",
        "RetNet's retention in chunks of 2×2 tokens in MaSA's place",
    ),
    "retention-chunk49": (
        "small",
        "attention=retention_chunkwise",
        "RetNet's retention in chunks of 7×7 tokens in MaSA's place",
    ),
    "retention-recurrent": (
        "small",
        "attention=retention_recurrent",
        "RetNet's retention in recurrent form in MaSA's place (slow: a loop over the tokens)",
    ),
    # ours
    "retention-bidirectional": (
        "small",
        "attention=retention_bidirectional",
        "retention in both directions of the row-major order (Eq. 3) in MaSA's place",
    ),
    "window": ("tiny", "attention=window", "attention inside 7×7 windows, without shift and decay, in MaSA's place"),
    "neighborhood": (
        "tiny",
        "attention=neighborhood",
        "attention to the 7×7 tokens around each query, without decay, in MaSA's place",
    ),
    "no-ffn-conv": ("tiny", "ffn_conv=false", "no convolution in the feed-forward network"),
    "no-phases": ("tiny", "phases=none", "no rotary phases"),
    "axial-phases": ("tiny", "phases=axial", "rotary phases of x and y in place of the row-major position"),
    "decay-after-softmax": ("tiny", "decay=paper", "the decay multiplies the result of the softmax"),
    "equation-5": ("tiny", "phases=none,decay=paper", "MaSA as Eq. 5 has it: no phases, the decay after the softmax"),
    "equal-decay": (
        "tiny",
        "decay_ranges=[[4,4],[4,4],[5,5],[5,5]]",
        "one decay rate for all heads of a stage, the middle of its range",
    ),
}
_NETWORKS = {"tiny": "RMT-T", "small": "RMT-S"}
#: What the tables say in other columns than those of ImageNet.
_MORE = {
    "attention": "On COCO (Mask R-CNN 1x) 44.6 box AP, 40.7 mask AP, on ADE20K (Semantic FPN) 43.9 mIoU.",
    "gate": "In the paper its loss becomes NaN.",
    "no-lce": "On COCO (Mask R-CNN 1x) 46.7 box AP, 42.3 mask AP, on ADE20K (Semantic FPN) 46.0 mIoU.",
    "no-cpe": "On COCO (Mask R-CNN 1x) 47.0 box AP, 42.4 mask AP, on ADE20K (Semantic FPN) 46.4 mIoU.",
    "no-stem": "On COCO (Mask R-CNN 1x) 46.8 box AP, 42.3 mask AP, on ADE20K (Semantic FPN) 46.2 mIoU.",
    "full-stage3": "On ADE20K (Semantic FPN) 49.7 mIoU with 246 G multiply-adds; decomposed 49.4 with 180 G.",
    "retention-parallel": "262 images/s where MaSA has 876 (the paper's GPU).",
    "retention-chunk4": "192 images/s where MaSA has 876 (the paper's GPU).",
    "retention-chunk49": "446 images/s where MaSA has 876 (the paper's GPU).",
    "retention-recurrent": "61 images/s where MaSA has 876 (the paper's GPU).",
}


def _row(row: str):
    size, model_args, what = _ROWS[row]
    name, network, base = f"ablation-{row}", _NETWORKS[size], PUBLISHED[f"imagenet-{size}"]
    recipe = replace(IMAGENET[f"imagenet-{size}"](), name=name, model_args=model_args)
    published = PUBLISHED.get(name)
    cost = "Cost: 300 epochs; GPU-hours not measured."
    if published and published.describe_cost():
        cost += f" {published.describe_cost()} in the paper, {base.describe_cost()} unchanged."
    figures = "published: none; an ablation of ours"
    if published:
        scores = f"published {published.describe_scores()}" if published.scores else "the paper gives none"
        figures = f"{scores}; {network} {base.describe_scores()} ({published.table})"
    accuracy = f"Accuracy: {figures}. {_MORE.get(row, '')}".rstrip()
    text = [f"{network} on ImageNet-1k, ablation: {what}.", "", fill(cost, 116), fill(accuracy, 116)]
    return named(recipe, "\n".join([*text, f"Command: rmt train {name} --data IMAGENET", ""]))


#: The ablations of Tables 6 to 8: name -> function that returns the recipe.
ABLATIONS = {f"ablation-{row}": _row(row) for row in _ROWS}
