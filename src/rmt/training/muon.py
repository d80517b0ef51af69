"""timm's Muon, but matrices of one shape at a time, and in a format that the device multiplies fast."""

from collections import defaultdict
from typing import Any

import torch
from timm.optim.muon import Muon as TimmMuon
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor

from rmt.device import multiplies_bfloat16

# Of the five steps of Newton and Schulz, as timm's "quintic".
_COEFFICIENTS = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
_LEAST_SIDE, _MOST_ASPECT = 4, 128  # of a matrix


class Muon(TimmMuon):
    """Muon with Nesterov's momentum; NAdamW for weights that are no matrices, as in timm's `nmuon`.

    timm updates one matrix at a time, and always in bfloat16, which a CPU without instructions for it multiplies slowly
    (benchmarks/muon.json).

    Args:
        groups: `param_groups` of timm's optimizer, with all its options.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        taken: list[tuple[Tensor, Tensor | None]] = []
        for group in self.param_groups:
            shapes: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None and is_matrix(weight):
                    shapes[weight.flatten(1).shape, weight.device, weight.dtype].append(weight)
            for weights in shapes.values():
                self._update(weights, group)
                taken += [(weight, weight.grad) for weight in weights]
        for weight, _ in taken:  # timm passes over what has no gradient
            weight.grad = None
        super().step()
        for weight, gradient in taken:
            weight.grad = gradient
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """One step of matrices of one shape."""
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        matrices = torch.stack([update.flatten(1) for update in updates])
        how = dict(eps=group["eps"], dtype=product_dtype(matrices))
        found = zeropower_via_newtonschulz(matrices, len(_COEFFICIENTS), _COEFFICIENTS, **how)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        steps = [one.to(weight.dtype).view_as(weight) for one, weight in zip(found, weights, strict=True)]
        torch._foreach_add_(weights, steps, alpha=-group["lr"] * get_lr_scale(found.shape[1:], group["adjust_lr_fn"]))


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon updates the weight: with its dimensions but the first flattened, neither narrow nor depthwise."""
    if weight.ndim < 2 or 1 in weight.shape[:2]:
        return False
    short, long = sorted(weight.flatten(1).shape)
    return short >= _LEAST_SIDE and long <= _MOST_ASPECT * short


def product_dtype(matrices: Tensor) -> torch.dtype:
    """The dtype in which matrices of this device are multiplied: float32 on a CPU without bfloat16 arithmetic."""
    slow = matrices.device.type == "cpu" and not multiplies_bfloat16()
    return torch.float32 if slow else torch.bfloat16
