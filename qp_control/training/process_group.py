"""The processes that train together, by torch.distributed, and what they tell each other.

    torchrun --nproc-per-node=2 -m qp_control.training TASK

Every process draws the same batches, differentiates its parts of them, and takes the same step. Objects travel pickled
between the processes of one run, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from qp_control.exceptions import QPControlError

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """rank: of this process; size: how many there are."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> Group:
        """Of the default process group; this process alone where there is none."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return Group()
        return Group(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def mine(self, count: int) -> range:
        """Which of `count` parts this process does."""
        return range(self.rank, count, self.size)

    def gather(self, own: list[T], count: int) -> list[T]:
        """What all processes have of `count` parts, in the order of the parts: every process gets the same."""
        if self.size == 1:
            return own
        everyone: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(everyone, own)
        return [everyone[k % self.size][k // self.size] for k in range(count)]

    def from_first(self, call: Callable[[], T]) -> T:
        """What `call` returns in the first process; a QPControlError that it raises there is raised in all."""
        if self.size == 1:
            return call()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = call()
            except QPControlError as error:
                answer[1] = error
        torch.distributed.broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        found: T = answer[0]
        return found

    @torch.no_grad()
    def as_first(self, values: list[Tensor]) -> None:
        """Set tensors to what they are in the first process."""
        if self.size == 1 or not values:
            return
        flat = torch.cat([value.reshape(-1) for value in values])
        torch.distributed.broadcast(flat, 0)
        start = 0
        for value in values:
            value.copy_(flat[start : start + value.numel()].view_as(value))
            start += value.numel()


@contextmanager
def process_group() -> Iterator[Group]:
    """Join the processes that torchrun started, for the time of the block; this process alone where it started none.

    Those of one machine share its cores: each runs on its own, as long as there are enough.
    """
    started = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    if not started or not torch.distributed.is_available() or torch.distributed.is_initialized():
        yield Group.current()
        return
    store, rank, size = next(rendezvous("env://"))
    # After a restart the store still knows the addresses of the workers before.
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"restart_{restart}", store)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        with _own_cores(int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))):
            yield Group.current()
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _own_cores(rank: int, count: int) -> Iterator[None]:
    """Solver and dynamics use as many threads as a process has cores: without a share each would take all of them."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = sorted(os.sched_getaffinity(0))
    own = before[rank * len(before) // count : (rank + 1) * len(before) // count]
    if own:
        os.sched_setaffinity(0, own)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
