"""What controllers of legged robots decide and carry from tick to tick."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from qp_control.inverse_dynamics.controller import Control
from qp_control.legged.whole_body import WholeBody
from qp_control.qp.layer import LayerSolution
from qp_control.settings import Status

if TYPE_CHECKING:
    from typing_extensions import Self


class WarmStart(NamedTuple):
    """Where the QPs of the next tick start."""

    x: Tensor
    y: Tensor
    z: Tensor
    w: Tensor
    active_in: Tensor
    active_box: Tensor

    @staticmethod
    def at(solution: LayerSolution) -> WarmStart:
        """From solutions; zero where there is none."""
        return WarmStart(*(getattr(solution, name).detach().nan_to_num(0.0) for name in WarmStart._fields))


@dataclass(frozen=True)
class LeggedDecision:
    """What one call of a legged robot's controller decides and passes to the next. Batch of B, robots with k feet.

    input (B, nu): torques [N m]. acceleration (B, nv): the resulting one according to the model [m/s^2 or rad/s^2].
    force (B, k, 3): on the feet, in the world's axes [N]. status (B,): `qc.Status`; iterations (B,). warm_start: None
    before the first tick.
    """

    warm: ClassVar[tuple[str, ...]] = ("warm_start",)
    """Fields that only serve to warm-start the solver."""

    input: Tensor
    acceleration: Tensor
    force: Tensor
    status: Tensor
    iterations: Tensor
    warm_start: WarmStart | None

    @staticmethod
    def nothing(body: WholeBody, count: int) -> dict[str, Any]:
        """The fields above before the first tick."""
        zero, none = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)
        return {
            "input": zero[:, None].expand(count, body.model.nu),
            "acceleration": zero[:, None].expand(count, body.model.nv),
            "force": zero[:, None, None].expand(count, len(body.feet), 3),
            "status": none,
            "iterations": none,
            "warm_start": None,
        }

    def decided(self, found: Control, **more: Any) -> Self:
        """The decision with the results of a tick, and other values of some fields."""
        made: dict[str, Any] = {
            "input": found.torque,
            "acceleration": found.acceleration,
            "force": found.force,
            "status": found.status,
            "iterations": found.solution.iterations,
            "warm_start": WarmStart.at(found.solution),
        }
        return dataclasses.replace(self, **made | more)

    @property
    def solved(self) -> Tensor:
        """bool (B,): whether there is an answer."""
        return self.status <= Status.CLOSEST_FEASIBLE

    def shift(self) -> Self:
        """What is passed to the next tick: this decision."""
        return self

    def with_input(self, u: Tensor) -> Self:
        """The decision with torques u (B, nu) applied instead of its own."""
        return dataclasses.replace(self, input=u)

    def detach(self) -> Self:
        """The decision without autograd graph."""
        return self._each(lambda value: value.detach())

    def __getitem__(self, index: Tensor | slice) -> Self:
        """The decision of some elements."""
        return self._each(lambda value: value[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        def of(value: Any) -> Any:
            if isinstance(value, tuple):
                return WarmStart(*(change(item) for item in value))
            return None if value is None else change(value)

        return dataclasses.replace(self, **{f.name: of(getattr(self, f.name)) for f in dataclasses.fields(self)})
