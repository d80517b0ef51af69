"""`rmt serve [CHECKPOINT]`: a trained network behind HTTP, with a page."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from rmt.commands.libraries import import_quickly
from rmt.recipes.recipe import Device, Precision
from rmt.terminal import complain, say


def run(
    checkpoint: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    reload: bool = False,
    token_file: Path | None = None,
    allowed_hosts: tuple[str, ...] = (),
    max_batch: int = 0,
    max_wait: float = 2.0,
    max_queue: int = 128,
    max_body: int = 32,
    max_images: int | None = None,
    max_pixels: int = 50,
    max_connections: int = 2048,
    timeout: float = 30.0,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Serve a trained network: POST an image to /predict, or open the address in a browser.

    Paths: /predict, /explain and /embed (an image as it is, a form, or base64 in JSON), /model, /health, /metrics
    (Prometheus), /openapi.json, and the page. On SIGTERM or Ctrl-C the server answers what it has accepted, and exits
    with 0.

    Args:
        checkpoint: A `.safetensors` file, an exported file, a run folder (meaning its best weights), or a network with
            weights in the package; without one rmt_micro.
        host: The address to listen at; by default only this machine reaches the server. 0.0.0.0: every address.
        port: The port; 0 takes any that is free.
        reload: Load the file again when it changes. One that cannot be used is named on stderr, and the old network
            stays in use.
        token_file: A file with a token: requests must have the header `Authorization: Bearer TOKEN`.
        allowed_hosts: Host names to answer to, besides those of this machine, e.g. behind a proxy; * for all. By
            default all if `host` is another address than this machine's own.
        max_batch: Images that go through the network together. 0: on a GPU 32, on a CPU the number with the least time
            for each, measured at the start for about a second.
        max_wait: Longest time in milliseconds that an image waits for others while the network is idle.
        max_queue: Largest number of images that are accepted and not answered yet; more get 503 with Retry-After.
        max_body: Largest size of a request in megabytes.
        max_images: Largest number of images in a request; by default 16, or `--max-queue` if that is less.
        max_pixels: Largest size of an image in millions of pixels.
        max_connections: Largest number of connections at a time.
        timeout: Seconds in which a request must be sent, and in which it must be answered.
        device: Where to compute.
        precision: Precision of the forward pass.
    """
    with import_quickly():
        from rmt.errors import RMTError
        from rmt.model.shipped import DEFAULT
        from rmt.serve.allocator import keep_memory
        from rmt.serve.app import create_app
        from rmt.serve.batch_size import fastest_batch, one_by_one
        from rmt.serve.guard import LOOPBACK
        from rmt.serve.hosted import Hosted
        from rmt.serve.limits import Limits
        from rmt.serve.server import address, open_socket, serve

    limits = Limits(
        max_body=max_body * 2**20,
        max_images=min(Limits.max_images, max(max_queue, 1)) if max_images is None else max_images,
        max_pixels=max_pixels * 10**6,
        max_queue=max_queue,
        max_batch=max_batch or Limits.max_batch,
        max_wait=max_wait / 1000,
        timeout=timeout,
        max_connections=max_connections,
    )
    token = ""
    if token_file is not None:
        token = token_file.read_text(encoding="utf-8", errors="replace").strip()
        if len(token) < 8 or not token.isascii() or not token.isprintable():
            raise RMTError(f"--token-file {token_file}: a token has at least 8 printable ASCII characters")
    hosts = () if "*" in allowed_hosts or (host not in LOOPBACK and not allowed_hosts) else (*LOOPBACK, *allowed_hosts)
    if host not in LOOPBACK and not token:
        complain(f"rmt serve: whoever reaches {host} can use this server: see --token-file")
    if checkpoint is None:
        checkpoint = Path(DEFAULT)
        complain(f"no checkpoint given: {DEFAULT} is used")
    listener = open_socket(host, port)
    keep_memory()
    hosted = Hosted(checkpoint, device=device, precision=precision)
    if not max_batch and not one_by_one(hosted.predictor):
        limits = replace(limits, max_batch=fastest_batch(hosted.predictor, limits.max_batch))
        complain(f"images that go through the network together: at most {limits.max_batch} (--max-batch)")
    app = create_app(hosted, limits, hosts=hosts, token=token, reload=reload)
    serve(app, listener, limits, lambda: say(f"{checkpoint} is served at {address(listener)} (Ctrl-C ends it)"))
