"""The weight files of a run. Each contains all that is needed to rebuild network, classes and preprocessing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rmt.model import save_checkpoint
from rmt.recipes.recipe import Recipe
from rmt.training.distributed.processes import is_main_process


@dataclass(frozen=True)
class WeightFiles:
    """Writes `last`, `last-ema` and `best` into a run folder. `facts` are more arguments of `save_checkpoint`."""

    folder: Path
    model: nn.Module
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    recipe: Recipe
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, name: str, weights: dict[str, Tensor], metrics: dict[str, Any]) -> None:
        """Writes NAME.safetensors atomically, in the main process. Raises RMTError when the disk refuses."""
        if not is_main_process():
            return
        save_checkpoint(
            self.model,
            self.folder / f"{name}.safetensors",
            classes=self.classes,
            preprocessing=self.preprocessing,
            metrics=metrics,
            recipe=self.recipe.as_dict(),
            state_dict=weights,
            **self.facts,
        )
