"""The server against the same predictor in a loop: throughput, latency at half load, and the time to a first answer.

    python benchmarks/serve.py benchmarks/serve.json

`rmt_nano` (random weights) at 224² in PyTorch, onnxruntime and OpenVINO int8. The loop calls `predict` on the bytes of
the same JPEG photographs, at the batch size that is fastest in it; the server measures its own. Server and client share
the machine, which the loop has alone, so the ratio is that of images per second of processor time of the two processes:
what a client on another machine would find.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import rmt
from rmt.benchmark.machine import describe

MODEL, SIDE = "rmt_nano", 224
BATCHES = (1, 2, 4, 8)
SECONDS = 10.0  # of each measurement
CLIENTS = 16


def photos(folder: Path, count: int) -> list[bytes]:
    """JPEGs of 500×375 pixels: smooth noise, which decodes like a photograph of this size."""
    folder.mkdir()
    found = []
    for number in range(count):
        small = np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        found.append((folder / f"{number}.jpg").read_bytes())
    return found


def make_files(folder: Path) -> dict[str, Path]:
    """The three files of one network."""
    torch.manual_seed(0)
    size = dict(size=[SIDE, SIDE], mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], interpolation="bicubic")
    names = [f"class {number}" for number in range(1000)]
    source = folder / "torch.safetensors"
    rmt.save_checkpoint(rmt.create_model(MODEL), source, classes=names, preprocessing=size | dict(crop_pct=0.9))
    from rmt.export import ExportOptions, export
    from rmt.export.images import folder_images
    from rmt.export.run import Accuracy

    images = folder_images(folder / "photos", 16, "photos")
    export(source, folder / "model.onnx", ExportOptions("onnx"), images=images)
    options = ExportOptions("openvino", precision="int8", max_drop=100)
    unknown = Accuracy("top1", 1, lambda path: 0.0)  # of random weights
    export(source, folder / "model.xml", options, images=images, calibration=images, accuracy=unknown)
    return {"torch": source, "onnxruntime": folder / "model.onnx", "OpenVINO int8": folder / "model.xml"}


def loop(path: Path, data: list[bytes]) -> dict[int, tuple[float, float]]:
    """Batch size -> images per second of `predict`, and per second of processor time; the better of two rounds."""
    predictor = rmt.load(path, device="cpu")
    found: dict[int, tuple[float, float]] = {}
    for batch in BATCHES * 2:
        predictor.predict(data[:batch], batch_size=batch)
        began, cpu, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < SECONDS / 2:
            start = count % (len(data) - batch + 1)
            predictor.predict(data[start : start + batch], batch_size=batch)
            count += batch
        rates = count / (time.perf_counter() - began), count / (time.process_time() - cpu)
        found[batch] = tuple(map(max, rates, found.get(batch, rates)))  # type: ignore[assignment]
    return found


def served(path: Path, data: list[bytes], log: Path) -> dict[str, Any]:
    """Throughput at full load, latency at half of it, the time from start to the first answer, and the batch that the
    server has chosen."""
    began = time.perf_counter()
    command = [sys.executable, "-u", "-m", "rmt.commands.cli", "serve", str(path), "--port", "0", "--device", "cpu"]
    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # those of the loop
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=threads)
    try:
        while not (found := re.search(r"http://127.0.0.1:(\d+)", log.read_text())):
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.05)
        port = int(found[1])
        Client(port).ask(data[0])
        first = time.perf_counter() - began
        rate, cpu_rate, _ = load(port, process.pid, data, CLIENTS, None)
        _, _, seconds = load(port, process.pid, data, CLIENTS, rate / 2)
        chosen = re.search(r"together: at most (\d+)", log.read_text())
        return {
            "server_batch": int(chosen[1]) if chosen else None,
            "images_per_s": round(rate, 2),
            "images_per_cpu_s": round(cpu_rate, 2),
            "half_load_p50_ms": round(1000 * float(np.quantile(seconds, 0.5)), 1),
            "half_load_p99_ms": round(1000 * float(np.quantile(seconds, 0.99)), 1),
            "first_answer_s": round(first, 2),
        }
    finally:
        process.terminate()
        process.wait()


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, image: bytes) -> None:
        self.connection.request("POST", "/predict", image, {"Content-Type": "image/jpeg"})
        response = self.connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise SystemExit(f"{response.status}: {content.decode()}")


def load(port: int, pid: int, data: list[bytes], clients: int, rate: float | None) -> tuple[float, float, list[float]]:
    """Requests for `SECONDS` by so many clients, at `rate` a second (Poisson arrivals) or as fast as answers come.

    Returns images per second, images per CPU second of the server, and the seconds of each request.
    """
    draw, lock, due = np.random.default_rng(0), threading.Lock(), time.perf_counter()
    seconds: list[float] = []
    before, began = cpu_seconds(pid), time.perf_counter()
    end = began + SECONDS

    def run(number: int) -> None:
        nonlocal due
        client, place = Client(port), number
        while True:
            start = time.perf_counter()
            if rate is not None:
                with lock:
                    due = start = due + draw.exponential(1 / rate)
                if start > end:
                    return
                time.sleep(max(0.0, start - time.perf_counter()))
            if time.perf_counter() > end:
                return
            client.ask(data[place % len(data)])
            seconds.append(time.perf_counter() - start)  # from the arrival, also when no client was free
            place += clients

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    return len(seconds) / took, len(seconds) / (cpu_seconds(pid) - before), seconds


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def row(kind: str, found: dict[str, Any]) -> str:
    """The row of the table in docs/serving.md."""
    best = found["best_batch"]
    latency = f"{found['half_load_p50_ms']:.0f}, {found['half_load_p99_ms']:.0f} ms"
    cells = [kind, f"{found['loop_images_per_cpu_s'][best]:.1f} ({best})", f"{found['images_per_cpu_s']:.1f}"]
    return "| " + " | ".join([*cells, f"{found['ratio']:.2f}", latency, f"{found['first_answer_s']:.1f} s"]) + " |"


def main() -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = photos(folder / "photos", 32)
        for kind, path in make_files(folder).items():
            rates = loop(path, data)
            best = max(rates, key=lambda batch: rates[batch][1])
            found = served(path, data, folder / "log")
            results[kind] = {
                "best_batch": best,
                "loop_images_per_s": {batch: round(rate, 2) for batch, (rate, _) in rates.items()},
                "loop_images_per_cpu_s": {batch: round(rate, 2) for batch, (_, rate) in rates.items()},
                **found,
                "ratio": round(found["images_per_cpu_s"] / rates[best][1], 3),
            }
            print(row(kind, results[kind]), flush=True)
    about = {
        "command": "python benchmarks/serve.py benchmarks/serve.json",
        "machine": describe("cpu"),
        "model": f"{MODEL} at {SIDE}², random weights; JPEGs of 500×375",
        "load_average": os.getloadavg(),
    }
    Path(sys.argv[1]).write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
