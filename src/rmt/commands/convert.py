"""`rmt convert IN.pth OUT.safetensors`: convert the authors' weights to a model file."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from rmt.terminal import plural, say


def run(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN.pth")],
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.safetensors")],
    *,
    model: str = "",
    ema: bool = True,
) -> None:
    """Convert a checkpoint of the RMT authors to a model file, which all other commands take.

    The architecture is found from the file, for both releases and for variants of the named networks. What the file
    does not contain (which stages are decomposed; without buffers also heads and decay) is that of the named network
    with the same shapes, and is printed.

    Args:
        source: Their `.pth` file. Code in it is not executed.
        output: The `.safetensors` file to write.
        model: Name of the network that the file is, or is a variant of, e.g. `rmt_small`. By default it is found from
            the shapes in the file.
        ema: If the file has both, take the EMA weights instead of the raw ones.
    """
    from rmt.errors import RMTError
    from rmt.model.checkpoints import save_checkpoint
    from rmt.model.rebuild import rebuild_from_weights
    from rmt.model.state_dicts import read_state_dict
    from rmt.output_folder import require_writable

    if output.suffix != ".safetensors":
        raise RMTError(f"{output}: the output must end in .safetensors")
    require_writable(output)
    network, found = rebuild_from_weights(read_state_dict(source, use_ema=ema), source, model)
    save_checkpoint(network, output)
    classes = plural(network.num_classes, "class") if network.num_classes else "no classifier"
    name = " with ".join(filter(None, (found.model, _keywords(found.changes))))
    say(f"{output}: {name}, {sum(p.numel() for p in network.parameters()):,} parameters, {classes}")
    say(f"not in the file, taken from {found.model}: {_keywords(found.assumed)}")


def _keywords(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in arguments.items())
