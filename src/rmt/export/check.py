"""The comparison of an exported file with the network that it was made of, on real images."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from rmt.data.segmentation.transforms import resize_to_size
from rmt.data.transforms import Normalize, eval_transform
from rmt.errors import RMTError
from rmt.export.graph import Graph
from rmt.inference import Predictor
from rmt.inference.exported import MIN_SIZE

TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest error of an output, as a fraction of the largest value of that output. int8 is bounded by its accuracy."""
DETECTION_TOLERANCE = 1e-3
"""Largest difference of the scores of one detection, and of its mask on average."""
AGREEMENT = 99.0
"""Percent of the detections that both have. A near tie in a suppression may exchange one."""
Size = tuple[int, int]
Prepare = Callable[[Image.Image, Size], Tensor]


def check_sizes(graph: Graph, size: Size) -> list[Size]:
    """The sizes (height, width) to check: that of a fixed graph; of a dynamic one its own and two odd ones."""
    if not graph.dynamic:
        return [size]
    height, width = (max(side, MIN_SIZE) for side in size)
    return [(height, width), (max(MIN_SIZE, 3 * height // 4) | 1, width + 32), (height + 13, max(MIN_SIZE, width // 2))]


def prepare_image(predictor: Predictor, image: Image.Image, size: Size) -> Tensor:
    """An image as the graph takes it, float32 (3, *size): as in evaluation, but of this size."""
    preprocessing = predictor.preprocessing
    if predictor.task == "classify":
        return eval_transform(**preprocessing | {"size": list(size)})(image)
    if predictor.task == "detect":  # the network itself normalises, so its model file has no mean
        options: Any = predictor.model.options
        mean, std = options.image_mean, options.image_std
    else:
        mean, std = preprocessing["mean"], preprocessing["std"]
    return Normalize(mean, std)(resize_to_size(image, size))


def compare(
    graph: Graph,
    runtime: Callable[[Tensor], dict[str, Tensor]],
    images: Sequence[Image.Image],
    sizes: Sequence[Size],
    prepare: Prepare,
    precision: str,
) -> dict[str, Any]:
    """Compare the file's outputs with the network's, on every image at the first size and on four at the others.

    Returns compared ("outputs" or "detections"), images, sizes, error (the largest, as a fraction of the output's
    largest value; of detections the largest difference of scores), agreement (percent of the images, pixels or boxes
    whose likeliest class is the same; of detections that both have) and tolerance, as JSON values.

    Raises:
        RMTError: the error is larger than `TOLERANCE` allows, or not a number.
    """
    error, same, total = 0.0, 0, 0
    for number, size in enumerate(sizes):
        for image in images if number == 0 else images[:4]:
            x = prepare(image, size)[None]
            theirs, wanted = runtime(x), graph(x)
            if graph.detections:
                found, pairs, count = compare_detections(theirs, wanted)
                error, same, total = max(error, found), same + pairs, total + count
                continue
            for name, ours in wanted.items():
                if theirs[name].shape != ours.shape:
                    raise RMTError(f"the file returns {name} of {tuple(theirs[name].shape)}, not {tuple(ours.shape)}")
                found = ((theirs[name] - ours).abs().max() / ours.abs().max().clamp(min=1e-12)).item()
                error = found if not found <= error else error  # NaN too
                if name == graph.outputs[0]:
                    equal = theirs[name].argmax(graph.class_dim) == ours.argmax(graph.class_dim)
                    same, total = same + int(equal.sum()), total + equal.numel()
    tolerance = DETECTION_TOLERANCE if graph.detections else TOLERANCE.get(precision)
    if graph.detections and 100 * same < AGREEMENT * total:
        raise RMTError(
            f"the exported file has {same} of the network's and its own {total} detections in common, fewer than "
            f"{AGREEMENT:g} %: nothing was written"
        )
    if not error <= (float("inf") if tolerance is None else tolerance):
        raise RMTError(
            f"the exported file's outputs differ from the network's by {error:.1e} of the largest value, more than "
            f"{tolerance:.0e}: nothing was written"
        )
    compared = "detections" if graph.detections else "outputs"
    facts = {"compared": compared, "images": len(images), "sizes": [list(size) for size in sizes], "error": error}
    return {**facts, "agreement": round(100 * same / total, 3) if total else 100.0, "tolerance": tolerance}


def compare_detections(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> tuple[float, int, int]:
    """Pair the detections of one image, outputs of `TwoStageDetector`, by class and box (IoU of at least 0.95).

    Returns:
        the largest difference of the scores of a pair; the number of pairs whose scores and masks agree; the number of
        detections of the side that has more.
    """
    sides = []
    for side in (theirs, ours):
        if not all(bool(value.isfinite().all()) for value in side.values()):
            return 0.0, 0, 1  # nothing agrees
        sides.append({name: value[0][side["scores"][0] >= 0] for name, value in side.items()})
    a, b = sides
    error, pairs = 0.0, 0
    overlaps = box_iou(a["boxes"], b["boxes"]) * (a["labels"][:, None].long() == b["labels"].long())
    for i, row in enumerate(overlaps if len(b["boxes"]) else ()):
        j = int(row.argmax())
        score = (a["scores"][i] - b["scores"][j]).abs().item()
        mask = (a["masks"][i] - b["masks"][j]).abs().mean().item() if "masks" in a else 0.0
        if row[j] >= 0.95 and max(score, mask) <= DETECTION_TOLERANCE:
            overlaps[:, j] = 0  # one partner for each
            error, pairs = max(error, score), pairs + 1
    return error, pairs, max(len(a["scores"]), len(b["scores"]))
