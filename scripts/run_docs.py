"""Run every command and every Python block of the documentation, page by page, in the order of the page.

    python scripts/run_docs.py [docs/your-photos.md …] [--record benchmarks/documentation.json]

Each page runs in a folder of its own, with small data under the names that the pages use (FOLDER, photos, imagenet,
photo.jpg, RMT-S.pth …). Commands are those of the page; only what costs time is made small: networks, images, epochs
(`TINY`). So what is shown is that the words of the page work in this order, not its figures. Lines that start other
programs (make, pip, torchrun, srun) are not run: what they name has to exist, and the `rmt` command in them to be
understood. A block below `<!-- needs: MODULE -->` is left out where the module is not installed.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.documentation import parse_command  # noqa: E402 - after the folder of the tests is known

PROGRAMS = ("rmt", "curl", "make", "pip", "python", "torchrun", "srun")
ADDRESS = "127.0.0.1:8000"  # of the server, on pages that start one
TINY = {
    "classify": dict(
        model="rmt_test", image_size=32, epochs=1, warmup_epochs=0, batch_size=4, repeated_augmentation=False
    ),
    "detect": dict(model="rmt_test", short_side=64, long_side=96, fpn_channels=8, epochs=1, batch_size=2),
    "segment": dict(
        model="rmt_test",
        head_width=8,
        iterations=2,
        validate_every=1,
        batch_size=2,
        crop_size=32,
        short_side=32,
        long_side=64,
    ),
}
ALWAYS = dict(minutes=0, device="cpu", devices=1, nodes=1, workers=0, effective_batch=0, strategy="auto", compile=False)
NOT_RUN = {
    "s3://": "needs a server",
    "TIMM_NAME": "the reader's own teacher",
    "swin.safetensors": "weights of Swin",
    "RMT-B.pth": "a large file of the authors",
    "runs/ade20k-upernet-base": "a run with a large file of the authors",
    "SHARDS": "needs CIFAR-10",
    "rmt demo": "a server",
    "rmt bench": "a measurement",
}


class Block(NamedTuple):
    line: int
    kind: str  # "python" or "command"
    text: str
    needs: str = ""


def blocks_of(text: str) -> list[Block]:
    """The Python blocks and the command lines of a page, in their order."""
    found: list[Block] = []
    lines, needs, number = text.splitlines(), "", 0
    while number < len(lines):
        line, start = lines[number], number + 1
        number += 1
        if comment := re.match(r"<!-- needs: (\w+) -->", line):
            needs = comment[1]
        elif fence := re.match(r"(`{3,})(\w*)", line):
            end = next(i for i in range(number, len(lines)) if lines[i].startswith(fence[1]))
            content, number = "\n".join(lines[number:end]), end + 1
            if fence[2] == "python":
                found.append(Block(start, "python", content, needs))
            elif fence[2] in ("sh", "bash"):
                found += [Block(start, "command", command, needs) for command in commands_of(content)]
            needs = ""
        elif line.startswith("    ") and not (start > 1 and re.match(r"\s*(?:[-*]|\d+\.) |  \S", lines[start - 2])):
            end = next((i for i in range(number, len(lines)) if not lines[i].startswith("    ")), len(lines))
            content, number = "\n".join(lines[start - 1 : end]), end
            found += [Block(start, "command", command, needs) for command in commands_of(content)]
            needs = ""
    return found


def digest(text: str) -> str:
    """Of what the blocks of a page say, so that a record tells whether it is of the page as it is now."""
    return hashlib.sha256("\0".join(f"{b.kind} {b.text}" for b in blocks_of(text)).encode()).hexdigest()[:16]


def commands_of(text: str) -> Iterator[str]:
    """The command lines of a block, without comments; `NAME=value` may stand in front."""
    for line in text.replace("\\\n", " ").splitlines():
        command = line.partition(" #")[0].strip()
        words = [word for word in command.split() if not re.match(r"[A-Z_]+=", word)]
        if words and words[0] in PROGRAMS:
            yield " ".join(command.split())


class Workspace:
    """Small data and runs under the names that pages use, made once for all pages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data: dict[str, Callable[[Path], Any]] = {
            "photos": self._photos,
            "imagenet": self._imagenet,
            "boxes": self._boxes,
            "coco": self._annotated,
            "segments": self._masks,
            "ADEChallengeData2016": self._ade20k,
            "bccd": self._boxes,
            "camvid": self._scenes,
            **dict.fromkeys(("photo.jpg", "one.jpg", "two.jpg", "BloodImage_00019.jpg", "china.jpg"), self._photo),
            **dict.fromkeys(("0001TP_009870.jpg", "Seq05VD_f00660.jpg", "Seq05VD_f04260.jpg"), self._photo),
            **dict.fromkeys(("all.json", "train.json", "val.json", "mine.json"), self._annotations),
            "RMT-S.pth": lambda path: self._weights(path, "rmt_s"),
            "RMT-T.pth": lambda path: self._weights(path, "first_release_rmt_t"),
            "RMT-T-first-release.pth": lambda path: self._weights(path, "first_release_rmt_t"),
            "rmt_small.safetensors": self._model_file,
            "rmt_tiny.safetensors": self._model_file,
            "label_top5_train_nfnet": self._published_maps,
        }

    def path(self, name: str) -> Path:
        path = self.root / name
        if not path.exists():
            self.data[name](path)
        return path

    def run(self, task: str) -> Path:
        """The folder of a finished run of a task, not to be written to."""
        from helpers import detect_runs, runs, segment_runs

        made = {"classify": runs.finished_run, "detect": detect_runs.finished_run, "segment": segment_runs.finished}
        return made[task]()

    def _photos(self, path: Path) -> None:
        from helpers.runs import photos

        shutil.copytree(photos(), path)

    def _imagenet(self, path: Path) -> None:
        from PIL import Image

        for split, count in (("train", 8), ("val", 4)):
            for number, name in enumerate(("n01440764", "n01443537", "n01484850")):
                folder = path / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    Image.new("RGB", (40, 36), tuple(60 * (number == k) + 5 * i for k in range(3))).save(
                        folder / f"{name}_{i}.JPEG"
                    )

    def _boxes(self, path: Path) -> None:
        from helpers.detection_sets import make_yolo, splits

        make_yolo(path, splits(), polygons=True)

    def _masks(self, path: Path) -> None:
        from helpers.segment_data import make_segments

        make_segments(path)

    def _scenes(self, path: Path) -> None:
        self._masks(path)
        for part in ("images", "masks"):
            shutil.copytree(path / part / "val", path / part / "test")

    def _annotated(self, path: Path) -> None:
        from helpers.coco_sets import make_coco

        make_coco(path)

    def _annotations(self, path: Path) -> None:
        shutil.copy(self.path("coco") / "annotations" / "instances_train2017.json", path)

    def _ade20k(self, path: Path) -> None:
        from helpers.segment_data import make_segments

        make_segments(path, ade=True)

    def _photo(self, path: Path) -> None:
        from PIL import Image

        Image.new("RGB", (640, 480), (90, 120, 60)).save(path)

    def _weights(self, path: Path, case: str) -> None:
        import torch
        from helpers.networks import official_weights

        torch.save({"model": official_weights(case)}, path)

    def _model_file(self, path: Path) -> None:
        import rmt

        rmt.save_checkpoint(rmt.create_model(path.stem), path)

    def _published_maps(self, path: Path) -> None:
        import torch

        for image in sorted((self.path("imagenet") / "train").rglob("*.JPEG")):
            target = path / image.parent.name / f"{image.stem}.pt"
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.save(
                torch.stack([torch.rand(3, 7, 7), torch.arange(3.0)[:, None, None].expand(-1, 7, 7)]).half(), target
            )


def task_of(words: str, page: str) -> str:
    """The task that a command, or else the page, is about."""
    for task, signs in {"detect": ("detect", "coco", "boxes"), "segment": ("segment", "ade20k", "masks")}.items():
        if any(sign in words for sign in signs):
            return task
    return {"detection": "detect", "your-boxes": "detect", "segmentation": "segment", "your-masks": "segment"}.get(
        page, "classify"
    )


def with_paths(text: str, page: str, folder: Path, workspace: Workspace) -> str:
    """A command or block with what is the reader's own put in place: runs, data, files."""
    task = task_of(text, page)

    def run_folder(found: re.Match) -> str:
        runs = sorted((folder / "runs").glob(f"{found[1]}-2*"), key=lambda path: path.stat().st_mtime)
        if runs:
            return str(runs[-1])
        copy = folder / "runs" / f"{found[1]}-20260101-120000"
        shutil.copytree(workspace.run(task_of(found[1], page)), copy)
        return str(copy)

    text = re.sub(r"runs/([a-z][\w-]*?)-(?:…|\d{8}-\d{6})", run_folder, text)
    if re.search(r"\bRUN\b", text):
        run = folder / f"run-of-{task}"
        if not run.exists():
            shutil.copytree(workspace.run(task), run)
        text = re.sub(r"\bRUN\b", str(run), text)
    own = {"classify": "photos", "detect": "boxes", "segment": "segments"}[task]
    text = re.sub(r"\b(FOLDER|DATA)\b", str(workspace.path(own)), text)
    text = text.replace("--target cat", "--target red")  # a class of the small runs
    if "--annotations" in text:
        text = text.replace("--images photos", f"--images {workspace.path('coco') / 'train2017'}")
    for name in workspace.data:
        if re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w.-])", text) and not (folder / name).exists():
            if workspace.path(name).is_dir():
                (folder / name).symlink_to(workspace.path(name))
            else:
                shutil.copy(workspace.path(name), folder / name)
    return text


def made_small(argv: list[str]) -> list[str]:
    """A training command with the values of `TINY` in place of its own."""
    from rmt.recipes.choice import choose_recipe

    if argv[1] == "--resume":
        return [*argv[:3], *(("--minutes", "0.05") if "--minutes" in argv else ())]
    recipe, _ = choose_recipe(argv[1])
    values = dict(TINY[recipe.task], **ALWAYS)
    weights = argv[argv.index("--weights") + 1] if "--weights" in argv else ""
    if "--model" in argv or Path(weights).is_file():  # a run of the page is of the small network
        del values["model"]
    elif recipe.model.endswith("_tl"):
        values["model"] = "rmt_test_tl"
    if argv[1] == "quickstart":
        values |= dict(data="photos", selection=0)
    kept, skip = [], False
    for word in argv:
        name = word.removeprefix("--").removeprefix("no-").replace("-", "_")
        if word.startswith("--"):
            skip = name in values
        if not skip:
            kept.append(word)
    fields = set(recipe.as_dict())
    for name, value in values.items():
        if name in fields:
            option = name.replace("_", "-")
            kept += (
                [f"--{option}" if value is True else f"--no-{option}"]
                if isinstance(value, bool)
                else [f"--{option}", str(value)]
            )
    return kept


def run_command(command: str) -> str:
    """Runs one command line of `rmt`; of other programs checks what they name. Returns what was done."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "rmt":
        from rmt.commands.cli import main

        argv = made_small(words[1:]) if words[1] == "train" and len(words) > 2 and "--help" not in words else words[1:]
        try:
            code = main(argv)
        except SystemExit as end:  # after --help
            code = int(end.code or 0)
        if code:
            raise RuntimeError(f"exit code {code} of rmt {shlex.join(argv)}")
        return "ran"
    if "rmt" in words:
        parse_command(shlex.join(words[words.index("rmt") :]))
    elif words[0] == "make":
        if f"\n{words[1]}:" not in (ROOT / "Makefile").read_text(encoding="utf-8"):
            raise RuntimeError(f"the Makefile has no target {words[1]}")
    elif words[0] == "python" and words[1] != "-m" and not (ROOT / words[1]).exists():
        raise RuntimeError(f"no program {words[1]}")
    return "understood"


def run_page(path: Path, workspace: Workspace, only: str = "") -> Iterator[tuple[Block, str, str]]:
    """Runs the blocks of a page in a folder of its own: each block, what was done, and the error if it failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"{path.stem}-", dir=workspace.root))
    names: dict[str, Any] = {"__name__": "page", "_server": None}
    before = Path.cwd()
    os.chdir(folder)
    try:
        for block in blocks_of(path.read_text(encoding="utf-8")):
            if only and block.kind != only:
                continue
            output = io.StringIO()
            try:
                with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                    done = run_block(block, path.stem, folder, workspace, names)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                last = output.getvalue().strip().splitlines()[-3:]
                where = traceback.extract_tb(error.__traceback__)[-1]
                yield block, "failed", f"{type(error).__name__}: {error} ({where.name}); {' | '.join(last)}"
            else:
                yield block, done, ""
    finally:
        os.chdir(before)
        if names["_server"]:
            names["_server"].terminate()
            names["_server"].wait()
        shutil.rmtree(folder, ignore_errors=True)


def start_server(command: str) -> tuple[subprocess.Popen, int]:
    """Starts `rmt serve` on a free port, and waits until it answers. Returns the process and the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*shlex.split(command)[1:], "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen([sys.executable, "-m", "rmt.commands.cli", *words], stdout=subprocess.DEVNULL)
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return server, port
        if server.poll() is not None:
            break
        time.sleep(0.2)
    server.kill()
    raise RuntimeError(f"{command}: no server answered")


def run_block(block: Block, page: str, folder: Path, workspace: Workspace, names: dict[str, Any]) -> str:
    if block.needs and importlib.util.find_spec(block.needs) is None:
        return f"left out: needs {block.needs}"
    text = block.text.replace(ADDRESS, f"127.0.0.1:{names.get('_port')}")
    if block.kind == "python":
        exec(compile(with_paths(text, page, folder, workspace), page, "exec"), names)
        return "ran"
    for sign, reason in NOT_RUN.items():
        if sign in block.text:
            if block.text.startswith("rmt "):
                parse_command(block.text.replace("…", "20260101-120000"))
            return f"understood: {reason}"
    if text.startswith("rmt serve"):
        if names["_server"] is None:
            names["_server"], names["_port"] = start_server(with_paths(text, page, folder, workspace))
            return "ran"
        parse_command(block.text.replace("…", "20260101-120000"))
        return "understood: the first server of the page runs"
    if text.startswith("curl"):
        subprocess.run(
            [*shlex.split(with_paths(text, page, folder, workspace)), "--fail"], check=True, capture_output=True
        )
        return "ran"
    command = text.replace("--data sample", "--data photos")
    if command.startswith("rmt train quickstart"):
        with_paths("photos", page, folder, workspace)  # which take the place of the sample
    if command.startswith("rmt token-labels"):
        shutil.rmtree(folder / "maps", ignore_errors=True)  # of other images, made by a command before
    return run_command(with_paths(command, page, folder, workspace))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="*", help="by default the README and all pages of docs/")
    parser.add_argument(
        "--record", type=Path, help="also write what was run to this JSON file, in place of what it has of these pages"
    )
    args = parser.parse_args()
    pages = args.pages or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    result: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="rmt-docs-") as folder:
        workspace = Workspace(Path(folder))
        for page in pages:
            counts: dict[str, Any] = dict(ran=0, understood=0, left_out=0, failed=[])
            start = time.monotonic()
            for block, done, error in run_page(page.resolve(), workspace):
                if done == "failed":
                    counts["failed"].append(f"line {block.line}: {block.text.splitlines()[0]}: {error}")
                    print(f"{page}:{block.line}: {block.text.splitlines()[0]}: {error}", flush=True)
                else:
                    counts[done.partition(":")[0].replace(" ", "_")] += 1
            name = str(page.resolve().relative_to(ROOT))
            if sum(len(value) if isinstance(value, list) else value for value in counts.values()):
                result[name] = counts | {"digest": digest(page.read_text(encoding="utf-8"))}
                print(
                    f"{name}: {counts | {'failed': len(counts['failed'])}}, {time.monotonic() - start:.0f} s",
                    flush=True,
                )
    if args.record and args.record.exists() and args.pages:
        earlier = json.loads(args.record.read_text(encoding="utf-8"))["pages"]
        result = {name: page for name, page in earlier.items() if (ROOT / name).exists()} | result
    totals = {key: sum(page[key] for page in result.values()) for key in ("ran", "understood", "left_out")}
    totals["failed"] = sum(len(page["failed"]) for page in result.values())
    print(totals)
    if args.record:
        when = dict(date=time.strftime("%Y-%m-%d"), versions={name: version(name) for name in ("torch", "timm")})
        content = dict(totals=totals, **when, pages=dict(sorted(result.items())))
        args.record.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 1 if totals["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
