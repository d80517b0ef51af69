"""Training on a teacher's label maps: the module of the `_tl` networks."""

from typing import Any

from torch import Tensor

from rmt.errors import RMTError
from rmt.tasks.classify.data import NO_LABEL_MAP
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.classify.token_labelling.targets import (
    STEM_TOKENS_PER_CELL,
    MixTokenBox,
    mix_ground_truth,
    pool_maps,
    smooth,
    token_label_loss,
)
from rmt.terminal import plural

_STRIDE = 32  # of the last stage


class TokenLabelModule(ClassifyModule):
    """`ClassifyModule` with the loss of token labelling, and MixToken in place of Mixup and CutMix.

    Raises:
        RMTError: the network has no head for tokens.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if getattr(self.model, "aux_head", None) is None:
            raise RMTError(
                f"--token-labels needs a network with a head for tokens, which {self.recipe.model} is not: "
                "take rmt_small_tl, rmt_base_tl, rmt_large_tl or rmt_pico_tl"
            )

    def introduction(self) -> list[str]:
        count = self.data.skipped.get("train", {}).get(NO_LABEL_MAP, 0)
        without = f"{plural(count, 'training image')} left out, without a label map in {self.recipe.token_labels}"
        return [*super().introduction(), *([without] if count else [])]

    def batch_loss(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch: image (B, 3, H, W), label (B,), and map_scores, map_classes and box of
        `TokenLabelTransform`."""
        recipe, images, num_classes = self.recipe, batch["image"], len(self.data.classes)
        grid = (-(-images.shape[2] // _STRIDE), -(-images.shape[3] // _STRIDE))
        maps = batch["map_scores"], batch["map_classes"], batch["box"]
        pooled = pool_maps(*maps, num_classes, grid, swap_axes=recipe.swap_map_axes)
        token_target, class_target = (smooth(target, recipe.label_smoothing) for target in pooled)
        if recipe.ground_truth:
            class_target = mix_ground_truth(
                class_target,
                batch["label"],
                recipe.label_smoothing,
                agree=recipe.ground_truth,
                differ=recipe.ground_truth_mismatch,
            )
        forward: Any = self.model.forward_token_labelling
        if recipe.mix_token:
            box = MixTokenBox.sample(grid, recipe.mix_token)
            class_logits, token_logits = forward(images, mix=lambda tokens: box.swap(tokens, STEM_TOKENS_PER_CELL))
            token_logits, class_target = box.swap(token_logits), box.mix(class_target)
        else:
            class_logits, token_logits = forward(images)
        return token_label_loss(class_logits, token_logits, class_target, token_target, recipe.token_loss)
