"""Label maps by several teachers on Ray: each task is one file, which this process writes."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from rmt.data.sets import ImageSet
from rmt.data.token_labels.label_maps import Arrays, LabelMapSpec
from rmt.device import choose_device, choose_precision
from rmt.inference.bulk.ray_engine import run_chunks
from rmt.tasks.classify.token_labelling.map_files import TokenLabelReport
from rmt.tasks.classify.token_labelling.maps import label
from rmt.tasks.classify.token_labelling.teacher import Teacher

_COUNTS = "counts"  # the tensor of bytes that has the counts of a file as JSON


def label_on_ray(
    teacher: Teacher,
    images: ImageSet,
    report: TokenLabelReport,
    todo: Sequence[int],
    show_progress: Callable[[int], None],
    *,
    replicas: int,
    **options: Any,
) -> Iterator[tuple[int, Arrays]]:
    """Yields number and arrays of each file of `todo`, as they come; see `label`, whose options these are."""
    if not todo:
        return
    teacher.model.cpu()
    # "auto" would be another precision on a machine with a GPU than on one without
    options["precision"] = choose_precision(options["precision"], choose_device(options["device"]))
    results = run_chunks(
        _Replica,
        (teacher, images, report.spec, options),
        [np.array([number]) for number in todo],
        replicas=replicas,
        cores=options["workers"] + 1,
        gpu=options["device"] in ("auto", "cuda"),
    )
    seen = 0
    for result in results:
        arrays = load(result)
        counts = json.loads(arrays.pop(_COUNTS).tobytes())
        report.maps += counts["maps"]
        report.agree += counts["agree"]
        report.unreadable.update(counts["unreadable"])
        seen += len(report.spec.rows(counts["number"]))
        show_progress(seen)
        yield counts["number"], arrays


class _Replica:
    """One teacher in a process of Ray."""

    def __init__(self, teacher: Teacher, images: ImageSet, spec: LabelMapSpec, options: dict[str, Any]) -> None:
        self.teacher, self.images, self.spec, self.options = teacher, images, spec, options

    def __call__(self, numbers: np.ndarray) -> bytes:
        report = TokenLabelReport(self.spec)
        made = label(self.teacher, self.images, report, numbers.tolist(), lambda count: None, **self.options)
        ((number, arrays),) = made
        counts = {key: getattr(report, key) for key in ("maps", "agree", "unreadable")}
        text = json.dumps({"number": number, **counts}).encode()
        return save({**arrays, _COUNTS: np.frombuffer(text, np.uint8)})
