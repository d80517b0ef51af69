"""Attack `rmt serve` as hostile and clumsy clients do, and report what was answered, what was lost, and the memory.

Parts, each with a share of the time: requests that schemathesis makes from the OpenAPI document, images changed at
random, slow senders, dropped connections, photographs of 50 megapixels, a thousand clients at once. All the while
well-behaved clients ask, too; at last SIGTERM comes while requests wait. A request counts as lost when it was sent
whole and got no answer. Of the 5xx, only 503 with Retry-After may be answered.

The server's memory may grow by USUAL in a part, and by ALLOWED in all: 256 MB of requests, two photographs of 50
megapixels at a time, each of which takes 150 MB decoded, as much again rotated, and up to 800 MB inside the decoder of
WebP, and the network.

    python scripts/attack_server.py --minutes 10 --output benchmarks/serve-hostile.json
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import platform
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import change_bytes
from PIL import Image

CROWD = 1000
SLOW = 200
LARGE = (8000, 6250)  # width and height of the largest photographs that are accepted
ALLOWED = 2000  # MB by which the server's memory may grow
USUAL = 1000  # the same in a part without photographs of 50 megapixels
ROTATED = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # by a quarter, which takes a copy
PATIENCE = 90.0  # seconds for an answer
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
CHECKS += ",response_headers_conformance,unsupported_method,allow_header_conformance"
HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"


@dataclass
class Counts:
    """What one part got back."""

    statuses: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    refused_connections: int = 0
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        found = {"answers": dict(sorted(self.statuses.items())), "lost": self.lost}
        found["connections_refused"] = self.refused_connections
        if self.seconds:
            found["seconds_p50"], found["seconds_p99"] = (
                round(float(np.quantile(self.seconds, share)), 3) for share in (0.5, 0.99)
            )
        return found | {"faults": self.faults[:10]}


def picture(draw: random.Random, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(draw.getrandbits(32)).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), kind)
    return file.getvalue()


def request(body: bytes, path: str = "/predict", kind: str = "application/octet-stream") -> bytes:
    return HEAD.format(path=path, kind=kind, length=len(body)).encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    headers = dict(re.findall(r"^([\w-]+): *(.*?)\r$", head.lower(), re.M))
    return int(head.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def ask(port: int, data: bytes, counts: Counts) -> int | None:
    """Send a whole request on a connection of its own, and count the answer; its status."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        counts.refused_connections += 1
        return None
    began = time.monotonic()
    try:
        writer.write(data)
        status, headers, body = await asyncio.wait_for(read_answer(reader), PATIENCE)
    except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
        counts.lost += 1
        counts.faults.append(f"no answer: {type(error).__name__}")
        return None
    finally:
        writer.close()
    counts.seconds.append(time.monotonic() - began)
    counts.statuses[str(status)] += 1
    if status >= 500 and (status != 503 or "retry-after" not in headers):
        counts.faults.append(f"{status}: {body[:200]!r}")
    return status


async def good_clients(port: int, counts: Counts, end: asyncio.Event, draw: random.Random) -> None:
    """Three clients that send a valid image again and again, and come back later when they are asked to."""

    async def one() -> None:
        while not end.is_set():
            status = await ask(port, request(picture(draw)), counts)
            if status not in (200, 503):
                counts.faults.append(f"a valid image was answered by {status}")
            await asyncio.sleep(0.5 if status != 200 else 0.05)

    await asyncio.gather(*(one() for _ in range(3)))


async def broken_images(port: int, end: float, draw: random.Random, counts: Counts) -> None:
    seeds = [picture(draw, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")]
    kinds = ["image/png", "application/octet-stream", "application/json", "multipart/form-data; boundary=x", "x/y"]

    async def one() -> None:
        while time.monotonic() < end:
            path = draw.choice(["/predict", "/embed", "/predict?top_k=3", "/nothing"])
            data = change_bytes(draw, draw.choice(seeds))
            await ask(port, request(data, path, draw.choice(kinds[:2] * 5 + kinds)), counts)

    await asyncio.gather(*(one() for _ in range(8)))


async def slow_senders(port: int, end: float, draw: random.Random, counts: Counts) -> None:
    """Connections that send a byte a second, of the headers or of the body, until the server closes them."""

    async def drip(writer: asyncio.StreamWriter, data: bytes, begun: int) -> None:
        writer.write(data[:begun])
        for place in range(begun, len(data)):
            await asyncio.sleep(1)
            writer.write(data[place : place + 1])

    async def one(number: int) -> None:
        data = request(picture(draw))
        while (left := end - time.monotonic()) > 0:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            begun = draw.choice([0, 20, 60]) if number % 2 else len(data) - 3000
            sender = asyncio.create_task(drip(writer, data, begun))
            content = b""
            try:
                content = await asyncio.wait_for(reader.read(), left)
                counts.statuses[content.split()[1].decode() if content else "closed"] += 1
            except TimeoutError:
                counts.statuses["open at the end"] += 1
            except OSError:
                counts.statuses["closed"] += 1
            sender.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await sender
            writer.close()

    await asyncio.gather(*(one(number) for number in range(SLOW)))


async def dropped_connections(port: int, end: float, draw: random.Random, counts: Counts) -> None:
    async def one() -> None:
        while time.monotonic() < end:
            data = request(picture(draw))
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(data[: draw.choice([0, 10, 100, 1000, len(data) - 1, len(data), len(data)])])
                await asyncio.sleep(draw.choice([0, 0.001, 0.02]))
                writer.transport.abort()
                counts.statuses["dropped"] += 1
            await asyncio.sleep(0.002)

    await asyncio.gather(*(one() for _ in range(16)))


async def large_photos(port: int, end: float, draw: random.Random, counts: Counts) -> None:
    began, bodies = time.monotonic(), []
    for kind in ("JPEG", "PNG", "WEBP"):  # smooth ones, whose files are small
        photo = Image.linear_gradient("L").resize(LARGE).convert("RGB")
        photo.save(file := io.BytesIO(), kind, **({"exif": ROTATED} if kind == "JPEG" else {}))
        bodies.append(request(file.getvalue()))
    end += time.monotonic() - began

    async def one() -> None:
        while time.monotonic() < end:
            status = await ask(port, draw.choice(bodies), counts)
            if status not in (200, 503):
                counts.faults.append(f"a large photograph was answered by {status}")
            await asyncio.sleep(0.0 if status == 200 else 1.0)

    await asyncio.gather(*(one() for _ in range(8)))


async def crowd(port: int, end: float, draw: random.Random, counts: Counts) -> None:
    bodies = [request(picture(draw)) for _ in range(20)]

    async def one() -> None:
        while time.monotonic() < end:
            if await ask(port, draw.choice(bodies), counts) != 200:
                await asyncio.sleep(draw.uniform(0.5, 1.5))

    await asyncio.gather(*(one() for _ in range(CROWD)))


async def from_the_document(port: int, end: float, draw: random.Random, counts: Counts) -> None:
    """schemathesis in a process of its own: the checks of `CHECKS` on requests made from the OpenAPI document."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json"]
        command += ["--checks", CHECKS, "--max-time", str(max(5, round(end - time.monotonic()))), "--no-color"]
        command += ["--continue-on-failure", "--no-shrink", "--request-timeout", str(PATIENCE), "--report", "ndjson"]
        command += ["--report-ndjson-path", str(report), "--seed", str(draw.getrandbits(30))]
        done = await asyncio.create_subprocess_exec(
            *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        text = (await done.communicate())[0].decode()
        content = report.read_text() if report.exists() else ""
    for status in re.findall(r'"status_code": ?(\d+)', content):
        counts.statuses[status] += 1
    if done.returncode:
        failures = text[text.find("FAILURES") :] if "FAILURES" in text else text[-1500:]
        counts.faults.append(f"schemathesis: {failures[:3000]}")


PARTS: dict[str, Callable[[int, float, random.Random, Counts], Awaitable[None]]] = {
    "requests from the OpenAPI document": from_the_document,
    "broken images": broken_images,
    "200 slow senders": slow_senders,
    "dropped connections": dropped_connections,
    "photographs of 50 megapixels": large_photos,
    "1,000 clients at once": crowd,
}


def save_network(path: Path, task: str) -> None:
    """A tiny network of three classes."""
    import torch

    import rmt
    from rmt.heads import save_model

    torch.manual_seed(0)
    size: dict[str, Any] = dict(size=[32, 32], mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", crop_pct=0.9)
    if task == "classify":
        rmt.save_checkpoint(rmt.create_model("rmt_test", num_classes=3), path, classes="abc", preprocessing=size)
    elif task == "detect":
        detector = rmt.detector("mask_rcnn", "rmt_test", 3, fpn_channels=8, detections=8)
        save_model(detector, path, classes="abc", preprocessing=dict(size=[32, 64], category_ids=[1, 2, 3]))
    else:
        segmenter = rmt.segmenter("semantic_fpn", "rmt_test", 3, head_args=dict(channels=8, fpn_channels=8))
        save_model(segmenter, path, classes="abc", preprocessing=size | dict(long_side=64, short_side=32))


class Server:
    """`rmt serve` in a process of its own."""

    def __init__(self, folder: Path, task: str) -> None:
        save_network(folder / "a.safetensors", task)
        self.log = folder / "log"
        command = [sys.executable, "-u", "-m", "rmt.commands.cli", "serve", str(folder / "a.safetensors")]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*command, "--port", "0", "--device", "cpu"], stdout=log, stderr=log)
        while not (found := re.search(r"http://127.0.0.1:(\d+)", self.log.read_text())):
            if self.process.poll() is not None:
                raise SystemExit(f"the server did not start: {self.log.read_text()}")
            time.sleep(0.1)
        self.port = int(found[1])

    def memory(self, kind: str = "VmRSS") -> float:
        """MB that are resident, or were at most (VmHWM); 0 once the process has ended."""
        with contextlib.suppress(OSError):
            found = re.search(rf"{kind}:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
            return int(found[1]) / 1024 if found else 0.0
        return 0.0


async def watch_memory(server: Server, readings: list[float], end: asyncio.Event) -> None:
    while not end.is_set():
        readings.append(server.memory())
        await asyncio.sleep(0.2)


async def gauges(port: int) -> dict[str, float]:
    """Whether anything is left behind."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    _, _, body = await read_answer(reader)
    writer.close()
    return {
        name: float(value)
        for name, value in re.findall(r"^(rmt_images_waiting|rmt_body_bytes) (\S+)", body.decode(), re.M)
    }


async def last_requests(server: Server, draw: random.Random) -> Counts:
    """SIGTERM while requests wait: those that were sent whole are answered."""
    counts = Counts()
    tasks = [asyncio.create_task(ask(server.port, request(picture(draw)), counts)) for _ in range(60)]
    await asyncio.sleep(0.5)
    late = Counts()
    server.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*tasks)
    while server.process.poll() is None:
        await asyncio.sleep(0.05)
    if await ask(server.port, request(picture(draw)), late) is not None:
        counts.faults.append("the server answers after its end")
    return counts


async def attack(server: Server, seconds: float, names: list[str], seed: int) -> dict[str, Any]:
    draw, end = random.Random(seed), asyncio.Event()
    memory: list[float] = []
    good, results = Counts(), {}
    beside = [asyncio.create_task(good_clients(server.port, good, end, draw))]
    beside.append(asyncio.create_task(watch_memory(server, memory, end)))
    await asyncio.sleep(3)
    before = memory[-1]
    for name in names:
        counts = results[name] = Counts()
        place = len(memory)
        share = max(
            seconds / len(names), 40.0 if PARTS[name] is slow_senders else 0.0
        )  # to see them refused, after 30 s
        await PARTS[name](server.port, time.monotonic() + share, draw, counts)
        grown = max(memory[place:]) - memory[place - 1]
        if grown > (ALLOWED if PARTS[name] is large_photos else USUAL):
            counts.faults.append(f"the server's memory grew by {grown:.0f} MB")
        print(f"{name}: {json.dumps(counts.as_dict())}, {max(memory[place:]):.0f} MB", flush=True)
    end.set()
    await asyncio.gather(*beside)
    await asyncio.sleep(1)
    left, peak = await gauges(server.port), server.memory("VmHWM")
    results["well-behaved clients beside them"] = good
    results["SIGTERM while 60 requests wait"] = await last_requests(server, draw)
    log = server.log.read_text()
    return {
        "parts": {name: counts.as_dict() for name, counts in results.items()},
        "left_behind": left,
        "memory_mb": {
            "before": round(before),
            "peak": round(peak),
            "after": round(memory[-1]),
            "allowed": round(before + ALLOWED),
        },
        "exit_code": server.process.returncode,
        "tracebacks_in_the_log": log.count("Traceback"),
        "log": log[-2000:] if "Traceback" in log else "",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of all parts together (10)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which attacks (all)")
    parser.add_argument("--task", choices=("classify", "detect", "segment"), default="classify", help="of the network")
    parser.add_argument("--seed", type=int, default=0, help="of the requests (0)")
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), options.task)
        try:
            result = asyncio.run(attack(server, 60 * options.minutes, options.parts, options.seed))
        finally:
            server.process.kill()
            server.process.wait()
    about = {"command": " ".join(["python", *sys.argv]), "python": platform.python_version(), "cores": os.cpu_count()}
    result = {"about": about, **result}
    print(json.dumps({key: value for key, value in result.items() if key != "parts"}, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    memory = result["memory_mb"]
    bad = [name for name, part in result["parts"].items() if part["faults"] or part["lost"]]
    bad += [name for name, value in result["left_behind"].items() if value]
    bad += ["exit code"] * (result["exit_code"] != 0) + ["log"] * bool(result["log"])
    bad += ["memory"] * (memory["peak"] > memory["allowed"])
    used = "the server's memory: {before} MB before, {peak} MB at most ({allowed} allowed), {after} MB after"
    print(f"{'held' if not bad else 'did not hold: ' + ', '.join(bad)}; {used.format(**memory)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
