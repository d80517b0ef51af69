"""Fuzz what reads files from anywhere, and report tracebacks, hangs and peak memory.

Eight kinds of input are changed at random, each in a process of its own: images, model files, COCO annotations, other
annotations (YOLO, VOC, labelme), tables (CSV files, class lists), recipes, checkpoints, shards. An input may be taken,
or refused by an RMTError of one line. Any other exception is a traceback, more than 20 seconds of processor time, or
200 of waiting, are a hang. The memory is the most that the process has had resident, PyTorch included.

    OMP_NUM_THREADS=1 python scripts/fuzz.py --minutes 10 --seed 1 --output benchmarks/hostile.json

That file is the committed result: writing it also writes the table of docs/reliability.md.
"""

import argparse
import contextlib
import copy
import io
import json
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RECORD, PAGE = ROOT / "benchmarks" / "hostile.json", ROOT / "docs" / "reliability.md"
TABLE = ("<!-- written by scripts/fuzz.py -->\n", "<!-- end of what scripts/fuzz.py writes -->\n")  # around it
HANG = 20  # seconds of processor time; ten times as many on the clock
EXTREMES: list[Any] = [None, True, False, 0, -1, 1.5, 33_000, 10**9, 2**64, -(2**70), 10**400, float("nan")]
EXTREMES += [
    float("inf"),
    "",
    "x",
    "\ud800",
    "\0",
    "../../x",
    "x" * 100_000,
    [],
    {},
    [[]],
    {"a": 1},
    [None],
    [0] * 1000,
]
Attempt = Callable[[random.Random], None]


class Hang(BaseException):
    """An input took longer than `HANG` seconds."""


def change_bytes(draw: random.Random, content: bytes) -> bytes:
    """Some bytes overwritten, cut, repeated or inserted."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        place, length = draw.randrange(len(data) + 1), draw.choice([1, 1, 2, 4, 64])
        kind = draw.choice(["overwrite", "overwrite", "number", "cut", "repeat", "insert"])
        if kind == "overwrite":
            data[place : place + length] = draw.randbytes(length)
        elif kind == "number":
            data[place : place + 4] = draw.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\0\1\0\0"])
        elif kind == "cut":
            del data[place : place + draw.choice([length, 500, len(data)])]
        elif kind == "repeat":
            data[place:place] = data[place : place + length * 50]
        else:
            data[place:place] = draw.randbytes(length)
        data = data or bytearray(b"\0")
    return bytes(data)


def change_values(draw: random.Random, content: Any) -> Any:
    """A copy with one to three values replaced, removed or added, at any depth."""
    content = copy.deepcopy(content)
    for _ in range(draw.randint(1, 3)):
        holder, key = None, None
        value = content
        while isinstance(value, dict | list) and value and (holder is None or draw.random() < 0.8):
            holder, key = value, draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
            value = holder[key]
        if holder is None:
            return draw.choice(EXTREMES)
        if draw.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(draw.choice(EXTREMES))
    return content


def images(folder: Path) -> Attempt:
    from PIL import Image

    from rmt.data.images import read_image, read_size
    from rmt.inference.inputs import open_image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 4), dtype=np.uint8)
    seeds = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"):
        for mode in ("L", "RGB", "RGBA", "P", "I;16", "F"):
            for options in ({}, {"progressive": True}, {"save_all": True}):
                picture = Image.fromarray(pixels[..., :3]).convert(mode if mode not in ("I;16", "F") else "L")
                try:
                    picture.convert(mode).save(file := io.BytesIO(), kind, **options)
                    seeds.append(file.getvalue())
                except (OSError, ValueError, KeyError):
                    continue

    def attempt(draw: random.Random) -> None:
        data = change_bytes(draw, draw.choice(seeds))
        if draw.random() < 0.3:
            (folder / "image").write_bytes(data)
            read_size(folder / "image")
        elif draw.random() < 0.5:
            read_image(data)
        else:
            open_image(Image.open(io.BytesIO(data)) if _opens(data) else data)

    return attempt


def _opens(data: bytes) -> bool:
    from PIL import Image

    try:
        Image.open(io.BytesIO(data))
    except Exception:  # whatever Pillow raises is the caller's, who opens it
        return False
    return True


def model_files(folder: Path) -> Attempt:
    import safetensors.torch
    import torch

    import rmt
    from rmt.heads import save_model
    from rmt.model import read_metadata
    from rmt.model.state_dicts import read_state_dict

    tiny = rmt.create_model("rmt_test", num_classes=3)
    names = dict(classes=["a", "b", "c"], metrics=dict(epoch=1, weights="raw", threshold=dict(score=0.5)))
    size = dict(size=[32, 32], mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", crop_pct=0.9)
    rmt.save_checkpoint(tiny, folder / "a.safetensors", **names, preprocessing=size)
    detector = rmt.detector("retinanet", "rmt_test", 3, fpn_channels=8, convs=1)
    save_model(detector, folder / "b.safetensors", **names, preprocessing=dict(size=[32, 64], category_ids=[1, 2, 3]))
    segmenter = rmt.segmenter("semantic_fpn", "rmt_test", 3, head_args=dict(channels=8, fpn_channels=8))
    save_model(segmenter, folder / "c.safetensors", **names, preprocessing=size | dict(long_side=64, short_side=32))
    torch.save({"model": tiny.state_dict(), "epoch": 3}, folder / "d.pth")
    files = sorted(folder.iterdir())
    parsed = [(read_metadata(file), safetensors.torch.load_file(file)) for file in files[:3]]
    whole = [file.read_bytes() for file in files]
    image = np.zeros((20, 30, 3), np.uint8)

    def attempt(draw: random.Random) -> None:
        if draw.random() < 0.6:
            metadata, tensors = draw.choice(parsed)
            if draw.random() < 0.2:
                name = draw.choice(list(tensors))
                tensors = tensors | {
                    name: draw.choice([tensors[name].half(), tensors[name].reshape(-1)[:1], torch.zeros(0)])
                }
            data = safetensors.torch.save(tensors, {"rmt": json.dumps(change_values(draw, metadata))})
        else:
            data = change_bytes(draw, draw.choice(whole))
        (folder / "changed").write_bytes(data)
        if draw.random() < 0.3:
            read_state_dict(folder / "changed")
        else:
            rmt.load(folder / "changed", device="cpu").predict(image)

    return attempt


def coco(folder: Path) -> Attempt:
    from PIL import Image

    from rmt.data.detection.layouts import coco_files, open_detection_split

    (folder / "images").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2}]}
    for number in range(6):
        Image.fromarray(np.full((40, 60, 3), number, np.uint8)).save(folder / "images" / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": 40, "width": 60})
        runs = {"size": [40, 60], "counts": [100, 200, 2100]}
        for shape in ([[5, 5, 20, 5, 20, 20.5]], runs, {"size": [40, 60], "counts": "T4X1h1"}, None):
            record = {"id": len(content["annotations"]), "image_id": number, "category_id": 1 + number % 2}
            record |= {"bbox": [2, 3, 30, 20], "iscrowd": 0, "area": 600, "segmentation": shape}
            content["annotations"].append(record)

    def attempt(draw: random.Random) -> None:
        text = json.dumps(change_values(draw, content)).encode()
        (folder / "changed.json").write_bytes(text if draw.random() < 0.8 else change_bytes(draw, text))
        files = coco_files((folder / "images", folder / "changed.json"))
        found, _ = open_detection_split(files, with_masks=True)
        for index in range(len(found)):
            found.load(index)
            found.objects(index)

    return attempt


def annotations(folder: Path) -> Attempt:
    from PIL import Image

    from rmt.data.detection.layouts import detection_layout, open_detection

    box = "".join(f"<{side}>{n}</{side}>" for side, n in dict(xmin=2, ymin=3, xmax=30, ymax=20).items())
    size = "<size><width>60</width><height>40</height></size>"
    xml = f"<annotation>{size}<object><name>a</name><bndbox>{box}</bndbox></object></annotation>"
    shape = {"label": "a", "points": [[2, 3], [30, 20]], "shape_type": "rectangle"}
    labelme = {"version": "5", "imagePath": "0.png", "imageHeight": 40, "imageWidth": 60, "shapes": [shape]}
    seeds = {
        "labels/0.txt": ("images", b"0 .5 .5 .4 .4\n1 .1 .1 .9 .1 .9 .9\n"),
        "data.yaml": ("images", b"train: images\nval: images\nnames: {0: a, 1: b}\n"),
        "Annotations/0.xml": ("JPEGImages", xml.encode()),
        "0.json": ("", json.dumps(labelme).encode()),
    }
    sets = {}
    for number, (file, (images, data)) in enumerate(seeds.items()):
        sets[file] = root = folder / str(number)
        for part in (images, str(Path(file).parent)):
            (root / part).mkdir(parents=True, exist_ok=True)
        if file == "data.yaml":
            (root / "labels").mkdir()
            (root / "labels" / "0.txt").write_bytes(seeds["labels/0.txt"][1])
        for image in range(3):
            Image.fromarray(np.full((40, 60, 3), image, np.uint8)).save(root / images / f"{image}.png")
        for image in range(3):  # those of the other images stay as they are
            (root / file.replace("0.", f"{image}.")).write_bytes(data.replace(b"0.png", b"%d.png" % image))

    def attempt(draw: random.Random) -> None:
        file, root = draw.choice(list(sets.items()))
        data = seeds[file][1]
        if file == "0.json" and draw.random() < 0.7:
            data = json.dumps(change_values(draw, labelme)).encode()
        else:
            data = change_bytes(draw, data)
        (root / file).write_bytes(data)
        options = dict(with_masks=None, empty_images=True, holdout=0.4)
        for part in open_detection(detection_layout(str(root)), **options)[:2]:
            for index in range(len(part)):
                part.objects(index)

    return attempt


def tables(folder: Path) -> Attempt:
    from PIL import Image

    from rmt.data.segmentation.masks import ClassList
    from rmt.data.sources.tables import TableSet

    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    rows = b"file,label,fold\n" + b"".join(b"%d.png,%s,1\n" % (n, (b"cat", b"dog")[n % 2]) for n in range(6))
    lists = [
        b"sky\nroad 7\nvoid 11\n",
        b"sky 1 2 3\nroad 4 5 6\nvoid 0 0 0\n",
        b"Idx Ratio Train\n1\t0.1\t9\twall, side\n",
    ]

    def attempt(draw: random.Random) -> None:
        if draw.random() < 0.5:
            (folder / "train.csv").write_bytes(change_bytes(draw, rows))
            found = TableSet(folder / "train.csv")
            for index in range(len(found)):
                found.load(index)
        else:
            (folder / "classes.txt").write_bytes(change_bytes(draw, draw.choice(lists)))
            ClassList.read(folder / "classes.txt")

    return attempt


def recipes(folder: Path) -> Attempt:
    from rmt.recipes import RECIPES
    from rmt.training.resolve import validate
    from rmt.training.run_folder import RunFolder

    known = [make().as_dict() for make in RECIPES.values()]

    def attempt(draw: random.Random) -> None:
        text = json.dumps(change_values(draw, draw.choice(known))).encode()
        (folder / "recipe.json").write_bytes(text if draw.random() < 0.8 else change_bytes(draw, text))
        validate(RunFolder.open(folder).read_recipe())

    return attempt


def states(folder: Path) -> Attempt:
    from rmt.training.checkpoints.contents import check_state
    from rmt.training.checkpoints.io import AtomicCheckpointIO, read_state

    earlier = ROOT / "tests" / "data" / "earlier"
    known = [read_state(earlier / task / "last.ckpt") for task in ("classify", "detect", "segment")]
    small = [{**state, "state_dict": dict(list(state["state_dict"].items())[:3])} for state in known]
    path = folder / "last.ckpt"

    def attempt(draw: random.Random) -> None:
        AtomicCheckpointIO().save_checkpoint(change_values(draw, draw.choice(small)), path)
        if draw.random() < 0.2:
            path.write_bytes(change_bytes(draw, path.read_bytes()))
        check_state(read_state(path), path)

    return attempt


def shards(folder: Path) -> Attempt:
    import os
    import tarfile

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    from rmt.data.sources.remote import list_folder
    from rmt.data.sources.shards import ShardSet

    os.environ["RMT_CACHE"] = str(folder / "cache")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file := io.BytesIO(), "PNG")
    table = pa.table({"image": pa.array([file.getvalue()] * 6, pa.binary()), "label": [0, 1, 0, 1, 0, 1]})
    pq.write_table(table, folder / "train.parquet")
    with tarfile.open(folder / "train.tar", "w") as tar:
        for number in range(6):
            for suffix, data in (("png", file.getvalue()), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    whole = {path.suffix: path.read_bytes() for path in (folder / "train.parquet", folder / "train.tar")}
    index = {"train-00000-of-00002.parquet": 500, "train-00001-of-00002.parquet": 600}

    def attempt(draw: random.Random) -> None:
        suffix = draw.choice([*whole, "index"])
        if suffix == "index":
            (folder / "index.json").write_bytes(json.dumps(change_values(draw, index)).encode())
            list_folder(f"file://{folder}")
            return
        path = folder / f"changed{suffix}"
        path.write_bytes(change_bytes(draw, whole[suffix]))
        found = ShardSet([path], buffer=draw.choice([None, 4]))
        for number in range(len(found)):
            found.load(number)

    return attempt


KINDS = {f.__name__: f for f in (images, model_files, coco, annotations, tables, recipes, states, shards)}


def run_kind(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Tries inputs of one kind for so many seconds of processor time, in this process."""
    from rmt.errors import RMTError

    counts: dict[str, Any] = {"inputs": 0, "taken": 0, "refused": 0, "tracebacks": 0, "hangs": 0, "faults": []}

    def stop(number: int, frame: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGPROF, stop)
    with tempfile.TemporaryDirectory() as folder:
        attempt = KINDS[name](Path(folder))
        with contextlib.suppress(Exception):  # imports that the first input would wait for
            attempt(random.Random("first"))
        end, slowest = time.process_time() + seconds, 0.0
        while time.process_time() < end:
            draw, began = random.Random(f"{seed} {counts['inputs']}"), time.process_time()
            signal.alarm(10 * HANG)
            signal.setitimer(signal.ITIMER_PROF, HANG)
            try:
                attempt(draw)
                outcome = "taken"
            except RMTError as error:
                outcome = "refused" if "\n" not in str(error) and len(str(error)) < 2000 else "tracebacks"
                if outcome == "tracebacks":
                    counts["faults"].append(f"input {counts['inputs']}: no line: {str(error)[:200]!r}")
            except Hang:
                outcome = "hangs"
                counts["faults"].append(f"input {counts['inputs']}: more than {HANG} s")
            except Exception:
                outcome = "tracebacks"
                counts["faults"].append(f"input {counts['inputs']}: {traceback.format_exc(limit=-4)}")
            finally:
                signal.alarm(0)
                signal.setitimer(signal.ITIMER_PROF, 0)
            slowest = max(slowest, time.process_time() - began)
            counts["inputs"] += 1
            counts[outcome] += 1
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return counts | {"slowest_s": round(slowest, 1), "peak_mb": round(peak / 1024)}


def table(content: dict[str, Any]) -> str:
    """The committed result as docs/reliability.md shows it."""
    about = content["about"]
    lines = [
        f"Last result: [`benchmarks/hostile.json`](../benchmarks/hostile.json), PyTorch {about['torch']}, "
        f"{about['minutes']:g} minutes of processor time in all (seed {about['seed']}):\n",
        "| kind | inputs | taken | refused | tracebacks | hangs | slowest | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, found in content["results"].items():
        numbers = " | ".join(f"{found[name]:,}" for name in ("inputs", "taken", "refused", "tracebacks", "hangs"))
        lines.append(f"| {kind.replace('_', ' ')} | {numbers} | {found['slowest_s']:.1f} s | {found['peak_mb']:,} MB |")
    return "\n".join(lines) + "\n"


def update_page(content: dict[str, Any], page: Path = PAGE) -> None:
    """Replace the table in the page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(TABLE[0])
    page.write_text(before + TABLE[0] + table(content) + TABLE[1] + rest.partition(TABLE[1])[2], encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of processor time, all kinds together (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (0)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what to fuzz (all)")
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    parser.add_argument("--run-kind", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    seconds = 60 * options.minutes / len(options.kinds)
    if options.run_kind:
        print(json.dumps(run_kind(options.run_kind, 60 * options.minutes, options.seed)))
        return 0
    results: dict[str, Any] = {}
    columns = {"taken": 9, "refused": 9, "tracebacks": 12, "hangs": 7}
    titles = "".join(f"{name:>{width}}" for name, width in columns.items())
    print(f"{'kind':<12}{'inputs':>9}{titles}{'slowest':>10}{'memory':>10}")
    for kind in options.kinds:
        command = [sys.executable, __file__, "--run-kind", kind]
        command += ["--minutes", str(seconds / 60), "--seed", str(options.seed)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20 * seconds + 600)
            found = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.TimeoutExpired, IndexError, ValueError) as error:  # stuck in C code, or killed
            found = dict(inputs=0, taken=0, refused=0, tracebacks=0, hangs=1, slowest_s=0.0, peak_mb=0)
            found["faults"] = [f"the process ended or hung: {type(error).__name__}"]
        results[kind] = found
        numbers = "".join(f"{found[name]:>{width},}" for name, width in {"inputs": 9, **columns}.items())
        print(f"{kind:<12}{numbers}{found['slowest_s']:>8.1f} s{found['peak_mb']:>7,} MB", flush=True)
        for fault in found["faults"][:3]:
            print(fault)
    if options.output:
        about = {"command": " ".join(["python", *sys.argv]), "python": platform.python_version()}
        about |= {"torch": version("torch"), "minutes": options.minutes, "seed": options.seed}
        content = {"about": about, "results": results}
        options.output.write_text(json.dumps(content, indent=2) + "\n")
        if options.output.resolve() == RECORD:
            update_page(content)
    bad = [kind for kind, found in results.items() if found["tracebacks"] or found["hangs"] or found["peak_mb"] > 2000]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
