"""Processes that train together with torch.distributed, and their communication.

    torchrun --nproc-per-node=2 -m qp_control.training TASK

Every process draws the same batches, differentiates its parts of them, and takes the same step. Pickled objects are
exchanged only between the processes of one run.
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
    """rank: of this process; size: number of processes."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> Group:
        """The default process group; this process alone if there is none."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return Group()
        return Group(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def mine(self, count: int) -> range:
        """Which of `count` parts this process computes."""
        return range(self.rank, count, self.size)

    def gather(self, own: list[T], count: int) -> list[T]:
        """The results of all processes for `count` parts, in the order of the parts; the same in every process."""
        if self.size == 1:
            return own
        everyone: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(everyone, own)
        return [everyone[k % self.size][k // self.size] for k in range(count)]

    def from_first(self, call: Callable[[], T]) -> T:
        """What `call` returns in the first process; a QPControlError raised there is raised in all."""
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
        """Set tensors to their values in the first process."""
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
    """Join the processes started by torchrun for the duration of the block; without torchrun, this process alone.

    Processes on the same machine share its cores: each has its own, as long as there are enough.
    """
    started = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    if not started or not torch.distributed.is_available() or torch.distributed.is_initialized():
        yield Group.current()
        return
    store, rank, size = next(rendezvous("env://"))
    # After a restart the store still has the addresses of the previous workers.
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
    """Give the process its share of the cores: solver and dynamics use as many threads as it has."""
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
