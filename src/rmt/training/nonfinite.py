"""Losses that are not finite: which layer caused one, and how to skip the batch."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmt.atomic import write_text
from rmt.errors import RMTError
from rmt.training.distributed import processes

FILE = "nonfinite.json"
MAX_CONSECUTIVE = 20
"""After so many consecutive batches without a finite loss, training has diverged."""

_NAMED = 3  # batch files in the line; all are in FILE


@dataclass(frozen=True)
class NonFiniteLoss:
    """A batch, of all processes together, whose loss is not finite."""

    loss: str
    epoch: int  # counted from 1
    step: int
    learning_rate: float
    layer: str
    images: list[str]

    @classmethod
    def found(
        cls, module: Any, batch: dict[str, Any], loss: float, names: Callable[[int], str], again: Callable[[], Tensor]
    ) -> "NonFiniteLoss":
        """Finds the layer for a batch of `module`, a TrainingModule; `again` computes the loss again. A collective."""
        layer = first_nonfinite(module.model, again)
        mine = [names(int(index)) for index in batch["index"]] if layer else []
        layers = processes.all_gather(layer)
        return cls(
            loss=str(loss),
            epoch=module.current_epoch + 1,
            step=module.global_step,
            learning_rate=max(group["lr"] for group in module.trainer.optimizers[0].param_groups),
            layer=next((layer for layer in layers if layer), "no layer when computed again"),
            images=[name for part in processes.all_gather(mine) for name in part],
        )

    def __str__(self) -> str:
        more = len(self.images) - _NAMED
        files = ", ".join(self.images[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        return (
            f"the loss became {self.loss} at epoch {self.epoch}, step {self.step} (learning rate "
            f"{self.learning_rate:.2g}), first in {self.layer}, for {files}"
        )

    def record(self, folder: Path) -> None:
        """Writes all of it, with the name of every image, into the run's folder."""
        if processes.is_main_process():
            write_text(folder / FILE, json.dumps(asdict(self), indent=2) + "\n")

    def as_error(self) -> RMTError:
        return RMTError(
            f"{self} (full list in {FILE}): try a lower --lr, --clip-grad 1, --precision bf16 instead of fp16, or "
            "--on-nan skip to continue without such batches"
        )


def first_nonfinite(model: nn.Module, loss: Callable[[], Tensor]) -> str:
    """Returns the first layer of `model`, in the order of execution, with NaN or infinity in its output; "" if none.

    `loss` runs the model on the batch. The text says if the layer's own weights are not finite.
    """
    found: list[str] = []

    def look(name: str, layer: nn.Module) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not found and not all(torch.isfinite(tensor).all() for tensor in _tensors(output)):
                own = [key for key, value in layer.named_parameters(recurse=False) if not _finite(value)]
                weights = f", whose {' and '.join(own)} had become not finite before" if own else ""
                found.append(f"{name or 'the network'} ({type(layer).__name__}){weights}")

        return hook

    hooks = [layer.register_forward_hook(look(name, layer)) for name, layer in model.named_modules()]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # hooks do not run in compiled code
            value = loss()
    finally:
        for hook in hooks:
            hook.remove()
    if not found and not math.isfinite(float(value)):
        return "the loss itself, whose inputs are finite"
    return found[0] if found else ""


def save_buffers(model: nn.Module) -> Callable[[], None]:
    """Returns a function that restores the buffers of `model` (BatchNorm's statistics) to their values of now."""
    kept = {name: value.clone() for name, value in model.named_buffers()}

    def restore() -> None:
        with torch.no_grad():
            for name, value in model.named_buffers():
                value.copy_(kept[name])

    return restore


def zero_loss(model: nn.Module) -> Tensor:
    """Returns a loss with zero gradients, since all processes must take part in the exchange of gradients."""
    return torch.stack([weight.sum() for weight in model.parameters() if weight.requires_grad]).sum() * 0.0


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value.detach()).all())
