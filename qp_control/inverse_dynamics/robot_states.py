"""States of a robot as given by users: of any dtype, not exactly normalised, or invalid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qp_control.robot.model import RobotModel
from qp_control.robot.motions import check_tensor

LEAST_LENGTH, LARGEST_LENGTH = 1e-6, 1e6  # of quaternions and (cos, sin)


class State(NamedTuple):
    """States as the model takes them, which of them were valid, and what gives results the arguments' form."""

    q: Tensor
    v: Tensor
    valid: Tensor
    batched: bool
    finish: Callable[[Tensor], Tensor]


class RobotStates:
    """Reads states: normalises quaternions and (cos, sin), and replaces invalid states by the neutral one."""

    def __init__(self, model: RobotModel) -> None:
        self.nq, self.nv = model.nq, model.nv
        self.neutral = model.neutral_state()[: model.nq]
        self.units: list[slice] = []
        for joint in list(model.model.joints)[1:]:
            # Quaternions and (cos, sin) come last in a joint's configuration; their size follows from (nq, nv).
            size = {(7, 6): 4, (4, 3): 4 if joint.shortname() != "JointModelPlanar" else 2, (2, 1): 2}.get(
                (joint.nq, joint.nv), 0
            )
            if size:
                end = int(joint.idx_q + joint.nq)
                self.units.append(slice(end - size, end))

    def __call__(self, q: Tensor, v: Tensor) -> State:
        for name, value, size in (("q", q, self.nq), ("v", v, self.nv)):
            check_tensor(name, value)
            if value.ndim not in (1, 2) or value.shape[-1] != size:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({size},) or (B, {size})")
        batched = q.ndim == 2
        if v.ndim != q.ndim or (batched and len(q) != len(v)):
            raise ValueError(f"q has shape {tuple(q.shape)} and v {tuple(v.shape)}, expected the same batch")
        q_, v_ = (t.to("cpu", torch.float64).reshape(-1, t.shape[-1]) for t in (q, v))
        valid = q_.isfinite().all(1) & v_.isfinite().all(1)
        for unit in self.units:
            valid = valid & has_direction(q_[:, unit])
        if not bool(valid.all()):
            q_ = torch.where(valid.unsqueeze(1), q_, self.neutral)
            v_ = torch.where(valid.unsqueeze(1), v_, 0.0)
        q_ = normalised(q_, self.units)

        def finish(result: Tensor) -> Tensor:
            result = result if batched else result[0]
            return result.to(q.device, q.dtype if result.is_floating_point() else None)

        return State(q_, v_, valid, batched, finish)


def has_direction(vectors: Tensor) -> Tensor:
    """bool (...): which of the vectors (..., n) have a length between `LEAST_LENGTH` and `LARGEST_LENGTH`."""
    return _is_one(vectors.detach().norm(dim=-1))


def _is_one(length: Tensor) -> Tensor:
    return (length > LEAST_LENGTH) & (length < LARGEST_LENGTH)


def normalised(values: Tensor, units: Sequence[slice]) -> Tensor:
    """Vectors (..., n) with quaternions and (cos, sin) normalised; NaN where they have no direction."""
    if not units:
        return values
    blocks, done = [], 0
    for unit in units:
        part = values[..., unit]
        length = part.norm(dim=-1, keepdim=True)
        known = _is_one(length.detach())
        if not bool(known.all()):
            part = torch.where(known, part, math.nan)
            length = part.norm(dim=-1, keepdim=True)
        blocks += [values[..., done : unit.start], part / length]
        done = unit.stop
    return torch.cat([*blocks, values[..., done:]], -1)
