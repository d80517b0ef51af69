"""The Markdown table of `rmt bench --preset table11`: accuracy as published, cost as measured."""

import re
from collections.abc import Iterator
from statistics import median
from typing import Any

from rmt.benchmark.published import PUBLISHED

HEAD = (
    "network", "side", "parameters", "MACs", "speed", "speed, deployed", "speed, training",
    "memory", "memory, training", "top-1", "source",
)  # fmt: skip


def cost_lines(content: dict[str, Any]) -> Iterator[str]:
    """A row for each network that was measured; speeds divided by those of the reference network in the same run."""
    found = {(e["model"], e["step"], e["mode"]): e for e in content["results"] if "failed" not in e}
    yield f"| {' | '.join(HEAD)} |"
    yield "|---" * len(HEAD) + "|"
    for name, published in PUBLISHED.items():
        if (forward := found.get((name, "forward", "eager"))) is None:
            continue
        deployed, training = found.get((name, "forward", "deploy")), found.get((name, "train", "eager"))
        cells = [name.split("_patch")[0], str(forward["image_size"]), f"{forward['parameters'] / 1e6:.0f} M"]
        cells += ["–" if forward["macs"] is None else f"{forward['macs'] / 1e9:.1f} G"]
        cells += [_speed(entry) for entry in (forward, deployed, training)]
        cells += [_memory(forward), _memory(training), f"{published.top1:.1f}{' †' * published.teacher}"]
        yield f"| {' | '.join([*cells, _source(published.source)])} |"
    machine, reference = content["machine"], content["series"]["reference"]
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    types, batches = (", ".join(map(str, sorted({e[key] for e in found.values()}))) for key in ("dtype", "batch"))
    speeds = {
        step: median(e["reference_images_per_second"] for e in found.values() if e["step"] == step)
        for step in ("forward", "train")
        if any(e["step"] == step for e in found.values())
    }
    yield ""
    yield (
        f"Speed is that of the network ÷ that of {reference.split('_patch')[0]}, measured in turns: "
        + ", ".join(f"{speed:.1f} images/s {step}" for step, speed in speeds.items())
        + f" (median). {machine.get('gpu', machine['cpu'])}, {threads}, torch {machine['torch']},"
        f" timm {machine['timm']}, {types}, batches of {batches}, {content['started']}. Only RMT has a deployed form"
        " (`rmt.deploy`); timm's networks run in their reparameterised form if they have one. Side: of the images,"
        " in pixels. Memory: the peak of a step, without network and images. † Trained with the answers of another"
        " network."
    )
    yield from ("", *(f"{line[0].upper()}{line[1:]}." for line in content.get("warnings", [])))


def _speed(entry: dict[str, Any] | None) -> str:
    return "–" if entry is None else f"{entry['images_per_second'] / entry['reference_images_per_second']:.2f}"


def _memory(entry: dict[str, Any] | None) -> str:
    return "–" if entry is None or entry["peak_memory"] is None else f"{entry['peak_memory'] / 1e6:.0f} MB"


def _source(text: str) -> str:
    """The text with links to a paper and to the page that lists the figure."""
    text = re.sub(r"arXiv:([\w.]+)", r"[\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"((?:github\.com|huggingface\.co)/\S*?([^/\s]+))(?=,|$)", r"[\2](https://\1)", text)
