"""The figures that the paper publishes, by the name of the recipe that trains the same network in the same way.

Of ImageNet-1k (Tables 1, 6, 7, 8), COCO (Tables 2 to 4, 6) and ADE20K (Tables 5 to 7); none of them was measured here.
Those of ImageNet are of the best epoch, raw or averaged weights, chosen on the validation images themselves.
"""

from dataclasses import dataclass
from typing import NamedTuple

#: The names of scores in `metrics.json`, and what they are called in a sentence.
SCORES = {"top1": "top-1", "box_ap": "box AP", "mask_ap": "mask AP", "miou": "mIoU"}


class Dataset(NamedTuple):
    """What published runs of a task were trained and evaluated on."""

    name: str
    classes: int
    train: int  # images
    val: int


DATASETS = {
    "classify": Dataset("ImageNet-1k", 1_000, 1_281_167, 50_000),
    "detect": Dataset("COCO", 80, 117_266, 5_000),  # without the images of train2017 that show no objects
    "segment": Dataset("ADE20K", 150, 20_210, 2_000),
}


@dataclass(frozen=True)
class Published:
    """A row of the paper's tables.

    Attributes:
        table: where it is published.
        scores: in percent, under the names of `metrics.json`; empty where the paper gives none.
        parameters: in millions; None where the paper gives none, as for the next.
        flops: in billions, as the paper counts them: multiply-adds.
        size: height and width of the image that they are of.
    """

    table: str
    scores: dict[str, float]
    parameters: float | None = None
    flops: float | None = None
    size: tuple[int, int] = (224, 224)

    def describe_scores(self) -> str:
        """The scores as text: "47.1 box AP (AP50 68.8, AP75 51.7), 42.6 mask AP (AP50 65.8, AP75 45.9)"."""
        parts = []
        for name, title in SCORES.items():
            if name in self.scores:
                more = [
                    f"AP{key.removeprefix(name).replace('_', ' ')} {value}"
                    for key, value in self.scores.items()
                    if key.startswith(name) and key != name
                ]
                percent = " %" if name == "top1" else ""
                parts.append(f"{self.scores[name]}{percent} {title}" + (f" ({', '.join(more)})" if more else ""))
        return ", ".join(parts)

    def describe_cost(self) -> str:
        """Parameters and multiply-adds as text; empty where the paper gives none."""
        size = f"{self.size[0]}²" if self.size[0] == self.size[1] else f"{self.size[0]}×{self.size[1]}"
        parts = [f"{self.parameters:g} M parameters"] if self.parameters else []
        return ", ".join(parts + ([f"{self.flops:g} G multiply-adds at {size}"] if self.flops else []))


def _top1(table: str, top1: float | None, parameters: float | None = None, flops: float | None = None) -> Published:
    return Published(table, {} if top1 is None else {"top1": top1}, parameters, flops)


def _coco(scores: tuple[float, ...], parameters: float, flops: float, *names: str) -> Published:
    return Published("Tables 2 to 4", dict(zip(names, scores, strict=True)), parameters, flops, (800, 1280))


def _boxes(*scores: float, parameters: float, flops: float) -> Published:
    names = ("box_ap", "box_ap50", "box_ap75", "box_ap_small", "box_ap_medium", "box_ap_large")
    return _coco(scores, parameters, flops, *names)


def _masks(*scores: float, parameters: float, flops: float) -> Published:
    names = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")
    return _coco(scores, parameters, flops, *names)


def _miou(miou: float, parameters: float, flops: float, *size: int) -> Published:
    return Published("Table 5", {"miou": miou}, parameters, flops, size or (512, 2048))  # type: ignore[arg-type]


#: By the name of the recipe.
PUBLISHED: dict[str, Published] = {
    "imagenet-tiny": _top1("Table 1", 82.4, 14.3, 2.5),
    "imagenet-small": _top1("Table 1", 84.1, 27.0, 4.5),
    "imagenet-base": _top1("Table 1", 85.0, 54.2, 9.7),
    "imagenet-large": _top1("Table 1", 85.5, 95.5, 18.2),
    "imagenet-deit-small": _top1("Table 6", 81.7, 22, 4.6),
    "imagenet-swin-tiny": _top1("Table 6", 83.6, 29, 4.7),
    "imagenet-swin-small": _top1("Table 6", 84.5, 50, 9.1),
    "imagenet-small-tl": _top1("Table 1", 84.8),
    "imagenet-base-tl": _top1("Table 1", 85.6),
    "imagenet-large-tl": _top1("Table 1", 86.1),
    "ablation-attention": _top1("Table 6", 81.6, 14.3, 2.5),
    "ablation-gate": _top1("Table 6", None, 15.6, 2.7),  # does not train
    "ablation-no-lce": _top1("Table 6", 82.1, 14.2, 2.4),
    "ablation-no-cpe": _top1("Table 6", 82.2, 14.3, 2.5),
    "ablation-no-stem": _top1("Table 6", 82.2, 14.3, 2.2),
    "ablation-full-stage3": _top1("Table 7", 84.1, None, 4.8),
    "ablation-retention-parallel": _top1("Table 8", None, None, 10.9),
    "ablation-retention-chunk4": _top1("Table 8", None, None, 4.5),
    "ablation-retention-chunk49": _top1("Table 8", 82.1, None, 4.7),
    "ablation-retention-recurrent": _top1("Table 8", None, None, 4.5),
    "coco-retinanet-tiny-1x": _boxes(45.1, 66.2, 48.1, 28.8, 48.9, 61.1, parameters=23, flops=199),
    "coco-retinanet-small-1x": _boxes(47.8, 69.1, 51.8, 32.1, 51.8, 63.5, parameters=36, flops=244),
    "coco-retinanet-base-1x": _boxes(49.1, 70.3, 53.0, 32.9, 53.2, 64.2, parameters=63, flops=355),
    "coco-retinanet-large-1x": _boxes(49.4, 70.6, 53.1, 34.2, 53.9, 65.2, parameters=104, flops=537),
    "coco-mask-rcnn-tiny-1x": _masks(47.1, 68.8, 51.7, 42.6, 65.8, 45.9, parameters=33, flops=218),
    "coco-mask-rcnn-small-1x": _masks(49.0, 70.8, 53.9, 43.9, 67.8, 47.4, parameters=46, flops=262),
    "coco-mask-rcnn-base-1x": _masks(51.1, 72.5, 56.1, 45.5, 69.7, 49.3, parameters=73, flops=373),
    "coco-mask-rcnn-large-1x": _masks(51.6, 73.1, 56.5, 45.9, 70.3, 49.8, parameters=114, flops=557),
    "coco-mask-rcnn-swin-tiny-1x": Published("Table 6", {"box_ap": 47.8, "mask_ap": 43.1}),
    "coco-mask-rcnn-swin-small-1x": Published("Table 6", {"box_ap": 49.5, "mask_ap": 44.2}),
    "coco-mask-rcnn-small-3x": _masks(50.7, 71.9, 55.6, 44.9, 69.1, 48.4, parameters=46, flops=262),
    "coco-mask-rcnn-base-3x": _masks(52.2, 72.9, 57.0, 46.1, 70.4, 49.9, parameters=73, flops=373),
    "coco-cascade-mask-rcnn-small-3x": _masks(53.2, 72.0, 57.8, 46.1, 69.8, 49.8, parameters=83, flops=741),
    "coco-cascade-mask-rcnn-base-3x": _masks(54.5, 72.8, 59.0, 47.2, 70.5, 51.4, parameters=111, flops=852),
    "ade20k-semantic-fpn-tiny": _miou(46.4, 17.0, 33.7, 512, 512),
    "ade20k-semantic-fpn-small": _miou(49.4, 30, 180),
    "ade20k-semantic-fpn-base": _miou(50.4, 57, 294),
    "ade20k-semantic-fpn-large": _miou(51.4, 98, 482),
    "ade20k-semantic-fpn-swin-tiny": Published("Table 6", {"miou": 49.1}),
    "ade20k-semantic-fpn-swin-small": Published("Table 6", {"miou": 51.0}),
    "ade20k-upernet-small": _miou(49.8, 56, 937),
    "ade20k-upernet-base": _miou(52.0, 83, 1051),
    "ade20k-upernet-large": _miou(52.8, 125, 1241),
}
