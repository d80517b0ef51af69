"""All steps from a model file to the exported one: deploy, capture, convert, quantise, check, write."""

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import rmt.inference
from rmt._version import __version__
from rmt.atomic import disk_errors_as_rmt_error, replace_together
from rmt.data.segmentation.transforms import fitted_size
from rmt.errors import RMTError
from rmt.export.check import check_sizes, compare, prepare_image
from rmt.export.formats import Name, Precision, format_named, fuses_attention
from rmt.export.graph import INPUT, network_graph
from rmt.export.quantize import quantize
from rmt.extras import require
from rmt.heads import RetinaNet
from rmt.heads.segmentation.sliding import pad_to_smallest
from rmt.inference import Predictor
from rmt.inference.exported import MIN_SIZE, PROGRAMS, open_exported
from rmt.inference.segment import inference_from
from rmt.model import read_metadata, resolve_checkpoint
from rmt.model.shipped import default_output
from rmt.output_folder import require_writable
from rmt.terminal import plural

LIBRARIES = {"onnx": ("torch", "onnx", "onnxscript"), "openvino": ("torch", "openvino")}


@dataclass(frozen=True)
class ExportOptions:
    """What to write.

    Attributes:
        format: "onnx", "openvino", "torch" (the program of torch.export) or "aoti" (compiled for this processor).
        dynamic: a graph for any batch, height and width; otherwise for one image of one size.
        precision: "fp32", "bf16" or "int8".
        image_size: height and width in pixels of the images, or one number for both; (): the network's own.
        max_drop: percentage points that int8 may lose of the accuracy.
    """

    format: Name = "onnx"
    dynamic: bool = False
    precision: Precision = "fp32"
    image_size: tuple[int, ...] = ()
    max_drop: float = 0.5

    def __post_init__(self) -> None:
        if len(self.image_size) > 2 or any(side < 32 for side in self.image_size):
            raise RMTError("--image-size needs one number, or height and width, of at least 32")
        if self.dynamic and self.precision == "int8":
            raise RMTError("--precision int8 needs a fixed size: leave out --dynamic")
        if self.max_drop < 0:
            raise RMTError(f"--max-drop must be at least 0, not {self.max_drop:g}")


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a model file or an exported file on some labelled images.

    Attributes:
        metric: its name.
        images: number of images.
        measure: a file, and its predictor if it is loaded, to the metric, in percent.
    """

    metric: str
    images: int
    measure: Callable[[Path, Predictor | None], float]


def export(
    checkpoint: str | Path,
    output: str | Path | None = None,
    options: ExportOptions = ExportOptions(),
    *,
    images: Sequence[Image.Image],
    calibration: Sequence[Image.Image] = (),
    accuracy: Accuracy | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Export a trained network from its deployed form, check the file on real images, and write it whole or not at all.

    Args:
        checkpoint: a model file or run folder.
        output: the file to write; by default the model file with the format's suffix, in the working folder for the
            weights in this package. OpenVINO writes two, with the weights in FILE.bin.
        options: format, sizes, precision.
        images: for the check.
        calibration: images for the ranges of int8.
        accuracy: measured before and after, and needed for int8.
        log: prints progress.
    Returns:
        the entry `exported` of the file's metadata, with what the check found.
    Raises:
        RMTError: the network or the options cannot be exported, the file differs from the network by more than the
            tolerance, or int8 loses more accuracy than allowed.
    """
    source = resolve_checkpoint(checkpoint)
    form = format_named(options.format)
    target = target_file(source, output, options, calibrated=bool(calibration), labelled=accuracy is not None)
    if not images:
        raise RMTError("no images to check the exported file on")
    task, sized = read_metadata(source)["task"], {}
    if task == "classify" and options.image_size:
        sized = {"image_size": (options.image_size[0], options.image_size[-1])}
    predictor = rmt.inference.load(source, device="cpu", precision="fp32", **sized)
    metadata = predictor.metadata
    preprocessing = metadata["preprocessing"]
    size = _image_size(options, task, preprocessing, predictor.model)
    sliding = task == "segment" and inference_from(metadata).sliding
    if sliding and size[0] != size[1]:
        raise RMTError(f"--image-size {size[0]} {size[1]}: the windows of this segmenter are square: give one number")
    if sliding:  # the predictor's windows are those of the file, also when its accuracy is measured
        preprocessing["size"] = list(size)
    if task == "segment" and not options.dynamic and not sliding:
        size = _size_of_whole_images(options.image_size, preprocessing, images, labelled=accuracy is not None)
    if task == "detect" and not isinstance(predictor.model, RetinaNet):
        _check_two_stages(options)
    fused = fuses_attention(options.format, options.precision)
    graph = network_graph(predictor.model, size, options.dynamic, fused=fused)
    prepare = partial(prepare_image, predictor)
    measured = accuracy if options.format not in PROGRAMS else None
    with _folder_beside(target) as folder, _step(log) as step:
        if measured is not None:  # first, because it also finds labels that the network does not know
            step(f"measuring {measured.metric} on {plural(measured.images, 'image')}")
            before = measured.measure(source, predictor)
        step(f"capturing {metadata['model']} at {'any size' if graph.dynamic else '×'.join(map(str, graph.shape[2:]))}")
        program = graph.capture()
        step(f"converting to {options.format}, which takes a minute or two for a large network")
        model = form.convert(graph, program, options.precision, folder)
        if options.precision == "int8":
            step(f"quantising to int8 by {plural(len(calibration), 'calibration image')}")
            model = quantize(model, calibration, partial(prepare, size=size), by_name=options.format == "onnx")
        exported: dict[str, Any] = {
            "format": options.format,
            "precision": options.precision,
            "input": {"name": INPUT, "shape": graph.input_shape},
            "outputs": list(graph.outputs),
            "num_classes": predictor.num_classes,
            "versions": {"rmt": __version__}
            | {name: version(name) for name in LIBRARIES.get(options.format, ("torch",))},
        }
        draft = folder / target.name
        form.save(model, json.dumps(metadata | {"exported": exported}), draft)
        step(f"checking on {plural(len(images), 'image')}")
        with torch.inference_mode():
            runtime = open_exported(draft, {"exported": exported}, trusted=True)
            sizes = check_sizes(graph, size)
            exported["check"] = compare(graph, runtime.named_outputs, images, sizes, prepare, options.precision)
        if measured is not None:
            step(f"measuring {measured.metric} of the file")
            after = measured.measure(draft, None)
            _check_drop(measured.metric, before, after, options)
            exported["accuracy"] = dict(metric=measured.metric, images=measured.images, before=before, after=after)
        form.save(model, json.dumps(metadata | {"exported": exported}), draft)
        replace_together([(draft.with_suffix(suffix), target.with_suffix(suffix)) for suffix in form.files])
    return exported


def target_file(
    source: Path, output: str | Path | None, options: ExportOptions, *, calibrated: bool, labelled: bool
) -> Path:
    """The file to write. Raises RMTError for all that is wrong without a look at images.

    Args:
        calibrated, labelled: whether there will be images for the ranges of int8, and labelled ones.
    """
    form = format_named(options.format)
    target = default_output(source, form.suffix) if output is None else Path(output)
    if target.suffix != form.suffix:
        raise RMTError(f"--output {target}: the file must end in {form.suffix}")
    require_writable(target)
    if options.precision not in form.precisions:
        offered = ", ".join(form.precisions)
        raise RMTError(f"--precision {options.precision}: --format {options.format} is offered in {offered}")
    if options.precision == "int8" and not calibrated:
        raise RMTError("--precision int8 needs --calibration FOLDER: some hundred images like those to come")
    if options.precision == "int8" and not labelled:
        raise RMTError("--precision int8 needs labelled images to measure what it loses: give --data")
    require(*LIBRARIES.get(options.format, ()), *(["nncf"] if options.precision == "int8" else []))
    return target


def _check_two_stages(options: ExportOptions) -> None:
    """Two-stage detectors compute with the corners of boxes and select inside the graph, which needs float32."""
    if options.precision != "fp32":
        raise RMTError(f"--precision {options.precision}: two-stage detectors are offered in fp32, RetinaNet in others")
    if options.format == "aoti":
        raise RMTError("--format aoti: two-stage detectors are offered in onnx, openvino and torch")


def _image_size(options: ExportOptions, task: str, preprocessing: dict[str, Any], model: Any) -> tuple[int, int]:
    """Height and width: as the options say, else the network's own; a detector's are square, for images of any shape,
    and multiples of its `size_divisor`."""
    own = preprocessing.get("size")
    sides = options.image_size or ((own, own) if isinstance(own, int) else tuple(own or ()))
    if not sides:
        raise RMTError("the model file does not say the size of its images: give --image-size")
    if task == "detect":
        divisor = model.options.size_divisor
        sides = tuple(-(-side // divisor) * divisor for side in (options.image_size or (max(sides),)))
    if options.dynamic and min(sides) < MIN_SIZE:
        raise RMTError(
            f"--dynamic: graphs of any size begin at {MIN_SIZE} pixels a side, and the images have {min(sides)}: leave "
            "it out, or give --image-size"
        )
    return sides[0], sides[-1]


def _size_of_whole_images(
    given: tuple[int, ...] | None, preprocessing: dict[str, Any], images: Sequence[Image.Image], *, labelled: bool
) -> tuple[int, int]:
    """Height and width for a segmenter that takes whole images, not windows: as given, else those of the images to
    check on after resizing.

    Raises RMTError if these differ from each other or, with labels, from what is given: the accuracy could not be
    measured.
    """
    fitted = [fitted_size(image.size, preprocessing["long_side"], preprocessing["short_side"]) for image in images]
    padded = {tuple(pad_to_smallest(torch.empty(1, 0, height, width)).shape[2:]) for width, height in fitted}
    height, width = (given[0], given[-1]) if given else min(padded)
    if padded != {(height, width)} and (labelled or not given):
        sizes = " and ".join(f"{height}×{width}" for height, width in sorted(padded)[:2])
        one = f", or with --image-size {min(padded)[0]} {min(padded)[1]}" if len(padded) == 1 else ""
        raise RMTError(
            f"this segmenter takes whole images, and those to check on have {sizes} pixels (height × width) after "
            f"resizing, which no graph of one size takes: export it with --dynamic{one}"
        )
    return height, width


def _check_drop(metric: str, before: float, after: float, options: ExportOptions) -> None:
    if options.precision == "int8" and before - after > options.max_drop:
        raise RMTError(
            f"int8 loses {before - after:.2f} points of {metric} ({before:.2f} to {after:.2f} %), more than "
            f"--max-drop {options.max_drop:g}: take more calibration images or another precision; nothing was written"
        )


@contextlib.contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A temporary folder in that of `target`, from which files are moved there in one step."""
    with disk_errors_as_rmt_error(target):
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.writing-", dir=target.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _step(log: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Prints each step with the time since the first."""
    started = time.monotonic()

    def step(text: str) -> None:
        log(f"[{time.monotonic() - started:3.0f} s] {text}")

    yield step
