"""`rmt demo [CHECKPOINT]`: the page of `rmt serve`, opened in a browser."""

import webbrowser
from pathlib import Path
from typing import Annotated

import tyro

from rmt.commands.libraries import import_quickly
from rmt.recipes.recipe import Device
from rmt.terminal import complain, say


def run(
    checkpoint: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    port: int = 0,
    browser: bool = True,
    device: Device = "auto",
) -> None:
    """Open a page on which a trained network answers for your images, without internet.

    Drop, paste or photograph an image: classes, objects or a class map are shown, and for any point of it what each
    head of the network attends to. Ctrl-C ends it.

    Args:
        checkpoint: A `.safetensors` file, an exported file, a run folder (meaning its best weights), or a network with
            weights in the package; without one rmt_micro.
        port: The port; by default any that is free.
        browser: Open the page in a browser; its address is printed in any case.
        device: Where to compute.
    """
    with import_quickly():
        from rmt.model.shipped import DEFAULT
        from rmt.serve.app import create_app
        from rmt.serve.guard import LOOPBACK
        from rmt.serve.hosted import Hosted
        from rmt.serve.limits import Limits
        from rmt.serve.server import address, open_socket, serve

    if checkpoint is None:
        checkpoint = Path(DEFAULT)
        complain(f"no checkpoint given: {DEFAULT} is used, which knows ten kinds of objects in small photographs")
    listener, limits = open_socket("127.0.0.1", port), Limits()

    def show() -> None:
        say(f"{checkpoint} answers at {address(listener)} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(address(listener))

    serve(create_app(Hosted(checkpoint, device=device), limits, hosts=LOOPBACK), listener, limits, show)
