"""The comparison of an exported file with the network that it was made of, on real images."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from rmt.data.segmentation.transforms import resize_to_size
from rmt.data.transforms import Normalize, eval_transform
from rmt.errors import RMTError
from rmt.export.graph import Graph
from rmt.inference.exported import MIN_SIZE

TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest error of an output, as a fraction of the largest value of that output. int8 is bounded by its accuracy."""
Size = tuple[int, int]
Prepare = Callable[[Image.Image, Size], Tensor]


def check_sizes(graph: Graph, size: Size) -> list[Size]:
    """The sizes (height, width) to check: that of a fixed graph; of a dynamic one its own and two odd ones."""
    if not graph.dynamic:
        return [size]
    height, width = (max(side, MIN_SIZE) for side in size)
    return [(height, width), (max(MIN_SIZE, 3 * height // 4) | 1, width + 32), (height + 13, max(MIN_SIZE, width // 2))]


def normalisation(model: Any, preprocessing: dict[str, Any]) -> dict[str, Any]:
    """mean and std of the graph's input. A detector normalises by itself, so its model file has none."""
    if "mean" in preprocessing:
        return {key: preprocessing[key] for key in ("mean", "std")}
    return {"mean": model.options.image_mean, "std": model.options.image_std}


def prepare_image(task: str, preprocessing: dict[str, Any], image: Image.Image, size: Size) -> Tensor:
    """An image as the graph takes it, float32 (3, *size): as in evaluation, but of this size."""
    if task == "classify":
        return eval_transform(**preprocessing | {"size": list(size)})(image)
    return Normalize(preprocessing["mean"], preprocessing["std"])(resize_to_size(image, size))


def compare(
    graph: Graph,
    runtime: Callable[[Tensor], dict[str, Tensor]],
    images: Sequence[Image.Image],
    sizes: Sequence[Size],
    prepare: Prepare,
    precision: str,
) -> dict[str, Any]:
    """Compare the file's outputs with the network's, on every image at the first size and on four at the others.

    Returns images, sizes, error (the largest, as a fraction of the output's largest value), agreement (percent of the
    images, pixels or boxes whose likeliest class is the same) and tolerance, as JSON values.

    Raises:
        RMTError: the error is larger than `TOLERANCE` allows, or not a number.
    """
    error, same, total = 0.0, 0, 0
    for number, size in enumerate(sizes):
        for image in images if number == 0 else images[:4]:
            x = prepare(image, size)[None]
            theirs = runtime(x)
            for name, ours in graph(x).items():
                if theirs[name].shape != ours.shape:
                    raise RMTError(f"the file returns {name} of {tuple(theirs[name].shape)}, not {tuple(ours.shape)}")
                found = ((theirs[name] - ours).abs().max() / ours.abs().max().clamp(min=1e-12)).item()
                error = found if not found <= error else error  # NaN too
                if name == graph.outputs[0]:
                    equal = theirs[name].argmax(graph.class_dim) == ours.argmax(graph.class_dim)
                    same, total = same + int(equal.sum()), total + equal.numel()
    tolerance = TOLERANCE.get(precision)
    if not error <= (float("inf") if tolerance is None else tolerance):
        raise RMTError(
            f"the exported file's outputs differ from the network's by {error:.1e} of the largest value, more than "
            f"{tolerance:.0e}: nothing was written"
        )
    facts = {"images": len(images), "sizes": [list(size) for size in sizes], "error": error}
    return {**facts, "agreement": round(100 * same / total, 3), "tolerance": tolerance}
