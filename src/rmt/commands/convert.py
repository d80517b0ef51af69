"""`rmt convert IN.pth OUT.safetensors`: convert the authors' weights to a model file."""

from pathlib import Path
from typing import Annotated

import tyro


def run(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN.pth")],
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.safetensors")],
    *,
    model: str = "",
    ema: bool = True,
) -> None:
    """Convert a checkpoint of the RMT authors to a model file, which all other commands take.

    Args:
        source: Their `.pth` file. Code in it is not executed.
        output: The `.safetensors` file to write.
        model: Name of the network, e.g. `rmt_small`. By default it is found from the shapes in the file.
        ema: If the file has both, take the EMA weights instead of the raw ones.
    """
    from rmt.errors import RMTError
    from rmt.model.checkpoints import save_checkpoint
    from rmt.model.rebuild import build_for, identify
    from rmt.model.state_dicts import from_official, read_state_dict

    if output.suffix != ".safetensors":
        raise RMTError(f"{output}: the output must end in .safetensors")
    state = from_official(read_state_dict(source, use_ema=ema))
    name = model or identify(state, str(source))
    network = build_for(name, state)
    save_checkpoint(network, output)
    classes = f"{network.num_classes} classes" if network.num_classes else "no classifier"
    print(f"{output}: {name}, {sum(p.numel() for p in network.parameters()):,} parameters, {classes}")
