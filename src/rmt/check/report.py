"""What a look at data found, as text and as JSON: facts per split, problems with their remedies, what to run next."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from rmt.check.opened import OpenedData, Where
from rmt.check.scan import Scan, box_facts
from rmt.data.detection.table import DIFFICULT, NO_LABELS, ROOT
from rmt.data.sets import FEW_FROM_SCRATCH, listed, preview
from rmt.data.split_names import Split
from rmt.terminal import plural

_FEW = 10  # images or objects of a class in training below which it is named
_UNBALANCED = 20  # largest class over smallest
_SMALL_BOX = 0.03  # of the short side
Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """A problem (or something to know) and its remedy; training refuses the data for an error."""

    level: Level
    text: str
    remedy: str = ""

    @property
    def line(self) -> str:
        return f"{self.level}: {self.text}" + (f" → {self.remedy}" if self.remedy else "")


@dataclass
class Report:
    """Everything that `rmt check` says."""

    data: str
    task: str
    layout: str
    choices: list[str]
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    command: str = ""

    @property
    def usable(self) -> bool:
        """Whether training would take the data."""
        return not any(finding.level == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        findings = [{"level": f.level, "text": f.text, "remedy": f.remedy} for f in self.findings]
        facts = {key: getattr(self, key) for key in ("data", "task", "layout", "choices", "splits")}
        return {**facts, "findings": findings, "command": self.command, "usable": self.usable}

    def lines(self) -> list[str]:
        lines = [f"{self.data}: {self.layout}, for {_TASK_TEXT[self.task]}", *(f"  {text}" for text in self.choices)]
        for split, facts in self.splits.items():
            lines += ["", *_split_lines(split, facts, self.task)]
        if self.findings:
            lines += ["", *(finding.line for finding in self.findings)]
        last = f"next: {self.command}" if self.usable else "training would refuse these data, see the errors"
        return [*lines, "", last]


_TASK_TEXT = {
    "classify": "classification (rmt train finetune)",
    "detect": "detection (rmt train finetune-detect)",
    "segment": "segmentation (rmt train finetune-segment)",
}


_USUAL = (ROOT, DIFFICULT, NO_LABELS)  # what many tools write, and no fault


_ABSENT = {  # remedies for classes without training images
    "classify": "add images, or remove the classes",
    "detect": "none needed: they stay classes, which are never found",
    "segment": "in the class list replace the line of each by void and its value, such as: void 7",
}


_PER_CLASS = {
    "classify": "images per class",
    "detect": "objects per class",
    "segment": "images that show each class",
}


def build_report(where: Where, opened: OpenedData, scans: dict[Split, Scan]) -> Report:
    """The report of data that were opened and scanned."""
    report = Report(where.data, opened.task, opened.layout, opened.choices)
    report.findings += [Finding("error", text) for text in opened.errors]
    report.findings += [
        Finding("note" if any(kind in text for kind in _USUAL) else "warning", text) for text in opened.notes
    ]
    for split, images in opened.splits.items():
        report.splits[split] = _facts(opened.task, images, scans[split])
        report.findings += _image_findings(split, scans[split])
    if "val" not in opened.splits:
        text = "no validation split: training holds out a part of train"
        report.findings.append(Finding("note", text, "--holdout 0.1 for a smaller one than a fifth"))
    report.findings += _across(scans)
    report.findings += _class_findings(opened.task, report.splits)
    if opened.task == "segment":
        report.findings += _mask_findings(opened, scans)
    if opened.task == "detect":
        report.findings += _box_findings(report.splits)
    report.command = _command(where, opened)
    return report


def _facts(task: str, images: Any, scan: Scan) -> dict[str, Any]:
    facts: dict[str, Any] = {"images": scan.total, "looked_at": scan.looked, "unreadable": scan.unreadable}
    if task == "classify":
        counts = np.bincount(images.labels, minlength=len(images.classes)).tolist()
        facts["classes"] = dict(zip(images.classes, counts, strict=True))
    elif task == "detect":
        facts |= {"classes": images.class_counts(), **box_facts(images)}
    elif scan.pixels is not None and scan.shown is not None:
        names, total = images.classes.names, max(int(scan.pixels.sum()), 1)
        facts["classes"] = dict(zip(names, scan.shown.tolist(), strict=True))
        facts["pixel_shares"] = {name: n / total for name, n in zip(names, scan.pixels.tolist(), strict=False)}
        facts["ignored_share"] = int(scan.pixels[-1]) / total
        facts["mask_values"] = {str(value): pixels for value, pixels in sorted(scan.values.items())}
    if scan.sizes:
        sizes = np.array(scan.sizes)
        order = np.argsort(sizes.prod(axis=1), kind="stable")
        facts["median_size"] = np.median(sizes, axis=0).astype(int).tolist()
        facts["smallest"], facts["largest"] = sizes[order[0]].tolist(), sizes[order[-1]].tolist()
        facts["different_sizes"] = len(np.unique(sizes, axis=0))
    facts["exif_rotated"] = len(scan.rotated)
    facts["repeated"] = len(scan.repeated)
    return facts


def _split_lines(split: str, facts: dict[str, Any], task: str) -> list[str]:
    looked, total = facts["looked_at"], facts["images"]
    lines = [
        f"{split}: {plural(total, 'image')}" + (f" (looked at {looked:,}, evenly spread)" if looked < total else "")
    ]
    lines.append(f"  {_PER_CLASS[task]}: {listed(facts.get('classes', {}))}")
    if facts.get("pixel_shares"):
        shares = sorted(facts["pixel_shares"].items(), key=lambda pair: -pair[1])
        text = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares[:12]) + ", …" * (len(shares) > 12)
        lines.append(f"  pixels: {text}, ignored {100 * facts['ignored_share']:.1f} %")
        if values := facts["mask_values"]:
            lines.append(f"  values in the masks: {preview(list(values), 20)}")
    if quantiles := facts.get("size_quantiles"):
        small, middle, large = (100 * value for value in quantiles)
        lines.append(
            f"  {plural(facts['objects'], 'object')}, {facts['objects'] / max(total, 1):.1f} per image; "
            f"{plural(facts['images_without_objects'], 'image')} without; size (√area, % of the short side) "
            f"{middle:.0f}, from {small:.0f} (tenth percentile) to {large:.0f} (ninetieth)"
        )
    if "median_size" in facts:
        median, least, most = ("×".join(map(str, facts[key])) for key in ("median_size", "smallest", "largest"))
        same = facts["different_sizes"] == 1
        lines.append(f"  sizes: all {median}" if same else f"  sizes: median {median}, from {least} to {most}")
    return lines


def _image_findings(split: str, scan: Scan) -> list[Finding]:
    found = []
    if scan.looked and not scan.sizes:
        found.append(Finding("error", f"{split}: no image can be read, e.g. {_named(scan.unreadable, 1)}"))
    elif scan.unreadable:
        text = f"{split}: {plural(len(scan.unreadable), 'unusable file')}: {_named(scan.unreadable)}"
        found.append(Finding("warning", text, "repair or delete them; training takes other images instead"))
    if scan.rotated:
        text = f"{split}: {plural(len(scan.rotated), 'photo')} stored rotated (EXIF), e.g. {scan.rotated[0]}"
        found.append(Finding("note", text, "they are turned upright; labels must belong to the upright photo"))
    if scan.repeated:
        pairs = [f"{a} = {b}" for a, b in scan.repeated]
        text = f"{split}: {plural(len(pairs), 'image')} repeated: {preview(pairs, 3)}"
        found.append(Finding("warning", text, "delete the copies"))
    return found


def _across(scans: dict[Split, Scan]) -> list[Finding]:
    """Images that are in two splits."""
    found = []
    for one, other in combinations(scans, 2):
        both = scans[one].names.keys() & scans[other].names.keys()
        pairs = sorted(f"{scans[other].names[key]} = {scans[one].names[key]}" for key in both)
        if pairs:
            sampled = any(scan.looked < scan.total for scan in (scans[one], scans[other]))
            among = " among those looked at" if sampled else ""
            text = f"{plural(len(pairs), 'image')} of {other} found in {one}, too{among}: {preview(pairs, 3)}"
            found.append(Finding("warning", text, f"delete them from {one}; scores on {other} would be too good"))
    return found


def _class_findings(task: str, splits: dict[str, dict[str, Any]]) -> list[Finding]:
    counts: dict[str, int] = splits.get("train", {}).get("classes", {})
    if not counts:
        return []
    found, unit = [], {"classify": "images", "detect": "objects", "segment": "images that show it"}[task]
    present = {name: count for name, count in counts.items() if count}
    if absent := [name for name in counts if name not in present]:
        looked = splits["train"]["looked_at"] < splits["train"]["images"] and task == "segment"
        text = f"classes without {unit} in the training images{' looked at' if looked else ''}: {preview(absent)}"
        found.append(Finding("warning", text, _ABSENT[task]))
    if few := [f"{name} ({count})" for name, count in present.items() if count < _FEW]:
        found.append(Finding("warning", f"classes with fewer than {_FEW} training {unit}: {preview(few)}", "add more"))
    if present and max(present.values()) > _UNBALANCED * min(present.values()):
        low, high = min(present, key=present.__getitem__), max(present, key=present.__getitem__)
        text = f"unbalanced: {high} {present[high]:,}, {low} {present[low]:,} {unit}"
        found.append(Finding("note", text, "--class-weights" if task != "detect" else ""))
    if task == "classify" and (median := int(np.median([*present.values()] or [0]))) < FEW_FROM_SCRATCH:
        text = f"few images to train from scratch: a median of {median} per class"
        found.append(Finding("note", text, "--weights rmt_micro starts from the weights in the package"))
    for split, facts in splits.items():
        missing = [name for name in present if not facts.get("classes", {}).get(name)]
        if split != "train" and missing and facts.get("classes"):
            found.append(Finding("warning", f"{split} has no {unit.split()[0]} of {preview(missing)}", "divide anew"))
    return found


def _mask_findings(opened: OpenedData, scans: dict[Split, Scan]) -> list[Finding]:
    """Values of masks that stand for no class."""
    found = []
    for split, scan in scans.items():
        classes = opened.splits[split].classes
        if classes.colours:
            continue
        if finding := _ignored_finding(split, classes.names, scan):
            found.append(finding)
        known = {*classes.values, *classes.ignored_values}
        unknown = {value: pixels for value, pixels in scan.values.items() if value not in known}
        if unknown:
            total = sum(scan.values.values())
            shares = [
                f"{value} ({100 * count / total:.2g} % of the pixels)" for value, count in sorted(unknown.items())
            ]
            remedy = "name the classes in the list, or ignore a value by a line such as " + f"void {min(unknown)}"
            found.append(Finding("warning", f"{split}: mask values of no class: {preview(shares)}", remedy))
    return found


def _ignored_finding(split: str, names: Sequence[str], scan: Scan) -> Finding | None:
    """For masks of 0 and 255 under two classes, and the like: a class is absent, and 255 is ignored."""
    counts = [] if scan.shown is None else scan.shown.tolist()
    absent = [name for name, count in zip(names, counts, strict=False) if not count]
    if not absent or not scan.values[255]:
        return None
    share = 100 * scan.values[255] / sum(scan.values.values())
    text = f"{split}: {share:.2g} % of the pixels have the value 255, which is ignored, and none is {preview(absent)}"
    return Finding("warning", text, f"if 255 means {absent[0]}, write its line in the class list as: {absent[0]} 255")


def _box_findings(splits: dict[str, dict[str, Any]]) -> list[Finding]:
    found = []
    facts = splits.get("train", {})
    if facts.get("images_without_objects"):
        text = f"train: {plural(facts['images_without_objects'], 'image')} without an object, left out of training"
        found.append(Finding("note", text, "--empty-images trains on them, too"))
    if (quantiles := facts.get("size_quantiles")) and quantiles[0] < _SMALL_BOX:
        text = f"train: a tenth of the objects are smaller than {100 * quantiles[0]:.1f} % of the short side"
        found.append(Finding("note", text, "train on larger images (--short-side), or cut the photos into tiles"))
    return found


def _command(where: Where, opened: OpenedData) -> str:
    data = shlex.quote(where.data)
    if opened.task == "classify":
        return f"rmt train finetune {data}"
    if opened.task == "segment":
        options = f" --classes {shlex.quote(where.classes)}" if where.classes else ""
        options += " --zero-is-ignored" if where.zero_is_ignored else ""
        return f"rmt train finetune-segment {data}{options}"
    if where.annotations:
        data = f"--images {data} --annotations {shlex.quote(str(where.annotations))}"
    boxes = "" if where.boxes == "auto" else f" --boxes {where.boxes}"
    return f"rmt train finetune-detect {data}{boxes}"


def _named(faults: dict[str, str], most: int = 5) -> str:
    return preview([f"{name} ({reason})" for name, reason in faults.items()], most)
