"""`rmt export CHECKPOINT`: a trained network as a file that runs without this package."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rmt.terminal import plural, say

CHECK_IMAGES = 32


def run(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    *,
    format: Literal["onnx", "openvino", "torch", "aoti", "hub"] = "onnx",
    dynamic: bool = False,
    precision: Literal["fp32", "bf16", "int8"] = "fp32",
    image_size: tuple[int, ...] = (),
    output: Path | None = None,
    data: str = "",
    images: Path | None = None,
    max_images: int = 500,
    calibration: Path | None = None,
    calibration_images: int = 300,
    max_drop: float = 0.5,
    license: str = "",
    data_license: str = "",
) -> None:
    """Export a trained network: its deployed form with labels and preprocessing, in one file that predicts by itself.

    The file is compared with the network on real images before it is written; if it differs, nothing is written.
    `rmt predict` and `rmt evaluate` take it like any checkpoint. PyTorch's formats (.pt2) are programs: those commands
    run one only with RMT_RUN_PROGRAMS=1 in the environment.

    Args:
        checkpoint: A `.safetensors` file, a run folder (meaning its best weights), or a network with weights in the
            package (rmt_micro), whose file is written to the current folder.
        format: onnx (FILE.onnx), openvino (FILE.xml with its weights in FILE.bin), torch (the program of torch.export,
            FILE.pt2) or aoti (compiled by AOTInductor for this processor, FILE.pt2; takes minutes). hub: a folder
            --output for the Hugging Face hub, which timm and transformers load; classifiers only, needs --license.
        dynamic: A graph for any number of images of any size from 33 pixels a side; otherwise for one image of one
            size, which runs faster.
        precision: fp32, bf16 (not onnx) or int8 (onnx and openvino; needs --calibration and labelled images).
        image_size: Height and width of the images in pixels, or one number for both; by default the checkpoint's own.
        output: The file to write; by default the checkpoint with the format's suffix.
        data: Labelled data to check on, as for training; by default those of the run, where they still exist. Uses the
            images that `rmt evaluate` would.
        images: A folder of images to check on, without labels, instead of `data`.
        max_images: Labelled images at most for the accuracy before and after, evenly spread.
        calibration: int8: a folder of images, from which the ranges of the activations are taken.
        calibration_images: int8: largest number of images to take from that folder.
        max_drop: int8: percentage points of accuracy (top-1, AP, mIoU) that it may lose; if more, nothing is written.
        license: hub: the licence of the weights, e.g. apache-2.0, for the model card.
        data_license: hub: the licence of the training images, for the model card.
    """
    from rmt.commands.options import require_unused
    from rmt.errors import RMTError
    from rmt.export import ExportOptions, export
    from rmt.export.images import folder_images, set_images
    from rmt.export.run import target_file
    from rmt.model import read_metadata, resolve_checkpoint

    source = resolve_checkpoint(checkpoint)
    metadata = read_metadata(source)
    if "exported" in metadata:
        raise RMTError(f"{source} is an exported file already: give the model file that it was made of")
    int8 = dict(calibration=calibration, calibration_images=calibration_images, max_drop=max_drop)
    if format == "hub":
        hub = "--format hub takes --output FOLDER, --license and --data-license, and no other option"
        if output is None:
            raise RMTError(hub)
        given = dict(dynamic=dynamic, precision=precision, image_size=image_size, data=data, images=images)
        require_unused(run, given | dict(max_images=max_images) | int8, hub)
        from rmt.export.hub import write_hub_folder

        write_hub_folder(source, output, license, data_license)
        say(f'{output}: timm.create_model("local-dir:{output}", pretrained=True)')
        return
    require_unused(run, dict(license=license, data_license=data_license), "no effect without --format hub")
    if precision != "int8":
        require_unused(run, int8, "no effect without --precision int8")
    if images is not None:
        require_unused(run, dict(data=data, max_images=max_images), "no effect with --images, which has no labels")
    if min(max_images, calibration_images) < 1:
        raise RMTError("--max-images and --calibration-images must be at least 1")
    options = ExportOptions(format, dynamic, precision, image_size, max_drop)
    target = target_file(source, output, options, calibrated=calibration is not None, labelled=images is None)
    accuracy = None
    if images is not None:
        photos = folder_images(images, CHECK_IMAGES, "--images")
    else:
        found, accuracy = _labelled(metadata, data, max_images)
        photos = set_images(found, CHECK_IMAGES)
    exported = export(
        source,
        output,
        options,
        images=photos,
        calibration=folder_images(calibration, calibration_images, "--calibration") if calibration else (),
        accuracy=accuracy,
    )
    for line in _report(exported, target):
        say(line)


def _labelled(metadata: dict[str, Any], data: str, max_images: int) -> tuple[Any, Any]:
    """The labelled images to check on, those of the run unless `data` is given, and how to measure the accuracy."""
    from rmt.data.sets import evenly_spread
    from rmt.errors import RMTError
    from rmt.export.run import Accuracy
    from rmt.tasks import task_named

    task = task_named(metadata["task"])
    own = metadata["recipe"].get("data")
    source = data or (own if isinstance(own, str) else "")
    remedy = "give --data (labelled data, as for training), or --images with a folder of images"
    if not source or task.open_evaluation is None or task.accuracy is None:
        raise RMTError(f"there are no images to check the exported file on: {remedy}")
    try:
        found, _ = task.open_evaluation(metadata, source, None)
    except RMTError as error:
        if data:
            raise
        raise RMTError(f"the run's own data cannot be opened to check the exported file ({error}): {remedy}") from error
    name, take = task.accuracy

    def measure(path: Path, predictor: Any) -> float:
        return take(task.evaluate(path, source, device="cpu", workers=0, max_images=max_images, predictor=predictor))

    return found, Accuracy(name, len(evenly_spread(len(found), max_images)), measure)


def _report(exported: dict[str, Any], path: Path) -> list[str]:
    check, accuracy = exported["check"], exported.get("accuracy")
    sizes = ", ".join("×".join(map(str, size)) for size in check["sizes"])
    bound = f" (tolerance {check['tolerance']:.0e})" if check["tolerance"] else ""
    if check["compared"] == "detections":
        found = (
            f"scores differ by {check['error']:.1e} at most{bound}, {check['agreement']:.2f} % of detections in common"
        )
    else:
        found = (
            f"largest error {check['error']:.1e} of the largest value{bound}, same likeliest class for "
            f"{check['agreement']:.2f} %"
        )
    lines = [f"{found}, on {plural(check['images'], 'image')} at {sizes}"]
    if accuracy:
        lines.append(
            f"{accuracy['metric']} {accuracy['before']:.2f} % before, {accuracy['after']:.2f} % after, on "
            f"{plural(accuracy['images'], 'image')}"
        )
    size = sum(file.stat().st_size for file in {path, path.with_suffix(".bin")} if file.exists()) / 1e6
    return [*lines, f"{path}: {exported['format']}, {exported['precision']}, {size:.1f} MB"]
