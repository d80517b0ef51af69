"""Rank, world size, and collectives on Python objects, over the processes of a run (one process per device).

Every function also works in a process that is alone and then communicates nothing. On GPUs the process group has two
backends (see `launch`): what is exchanged here lives on the CPU and travels over gloo, so it never waits for a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is rank 0, the process that writes the run's folder, prints and reports."""
    return rank() == 0


def barrier() -> None:
    """Waits until every process has called this."""
    if world_size() > 1:
        dist.barrier()


def all_reduce_mean(value: float) -> float:
    """The mean of every process's value; NaN if one of them is NaN."""
    return float(_all_reduce(torch.tensor(value, dtype=torch.float64), dist.ReduceOp.SUM)) / world_size()


def all_reduce_max(*values: int) -> list[int]:
    """For each value, the maximum over the processes."""
    return _all_reduce(torch.tensor(values), dist.ReduceOp.MAX).tolist()


def _all_reduce(tensor: Tensor, op: Any) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(tensor, op)
    return tensor


def all_gather(value: T) -> list[T]:
    """Every process's value, in order of rank. The value must be picklable."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast_from_main(function: Callable[[], T]) -> T:
    """Calls `function` in the main process only, and returns its result, which must be picklable, in every process."""
    values: list[Any] = [function() if is_main_process() else None]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


@contextmanager
def main_process_first() -> Iterator[None]:
    """Runs the body in the main process, then in all others, e.g. to fill a cache that the others then read."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()
