"""The processes of a run, one per device: which one this is, and the few things they agree on.

Everything here also works in a process that is alone, and then costs nothing. Messages are small and travel over
gloo, beside the gradients, so that asking never waits for a GPU.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_messages: Any = None  # a process group; None is the default one, which is gloo on CPUs


def use_messages(group: Any) -> None:
    """Sets the group that messages travel in; on CUDA the default group is NCCL, which knows GPU tensors only."""
    global _messages
    _messages = group


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes the run's folder, prints and reports."""
    return rank() == 0


def mean(value: float) -> float:
    """The mean over the processes; NaN when one of them has a NaN."""
    if world_size() == 1:
        return value
    return float(_reduced(torch.tensor(value, dtype=torch.float64), dist.ReduceOp.SUM)) / world_size()


def largest(*values: int) -> list[int]:
    """Of each value, the largest that any process gave."""
    if world_size() == 1:
        return list(values)
    return _reduced(torch.tensor(values, dtype=torch.int64), dist.ReduceOp.MAX).tolist()


def total(tensor: Tensor) -> Tensor:
    """The sum over the processes of equally shaped tensors, on the CPU."""
    tensor = tensor.detach().cpu().clone()
    return tensor if world_size() == 1 else _reduced(tensor, dist.ReduceOp.SUM)


def gather(value: T) -> list[T]:
    """Every process's value, by rank, in every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_messages)
    return values


def union(values: Mapping[str, str]) -> dict[str, str]:
    """The entries of every process's mapping."""
    return {key: entry for part in gather(dict(values)) for key, entry in part.items()}


def from_main(make: Callable[[], T]) -> T:
    """What `make` returns in the main process, in every process; it is called there alone."""
    if world_size() == 1:
        return make()
    box: list[Any] = [make() if is_main() else None]
    dist.broadcast_object_list(box, src=0, group=_messages)
    return box[0]


def main_first(make: Callable[[], T]) -> T:
    """What `make` returns, called in the main process before all others, e.g. to fill a cache that they then find."""
    if not is_main():
        from_main(lambda: None)
        return make()
    made = make()
    from_main(lambda: None)
    return made


def _reduced(tensor: Tensor, operation: Any) -> Tensor:
    dist.all_reduce(tensor, operation, group=_messages)
    return tensor
