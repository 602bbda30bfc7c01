"""A controller by inverse dynamics in an MPC's place: states in, plans of one control period out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.inverse_dynamics.controller import InverseDynamics
from qp_control.mpc.plan import Plan


class TorqueController(nn.Module):
    """`InverseDynamics`, called with a plant's states (B, nx), as closed loops and actors call controllers.

    numbers: of the states, values of numbers of its parts such as {"tool.reference": (B, 3)}; None: its own.
    goal_size: numbers behind the robot's (q, v) in a state. input_limit: (nu,) largest torques [N m or N].

    A plan carries the solution of its QP, from which the next call starts: the multipliers in y, z and w_u, the
    solution itself in w_x.
    """

    horizon = 1

    def __init__(
        self,
        control: InverseDynamics,
        *,
        input_limit: Tensor,
        goal_size: int = 0,
        numbers: Callable[[Tensor], dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.control, self.numbers, self.input_limit = control, numbers, input_limit
        self.nq, self.nv = control.model.nq, control.model.nv
        self.reference = torch.zeros(self.nq + self.nv + goal_size, dtype=torch.float64)
        self.reference[: self.nq] = control.states.neutral

    def cold_plan(self, x: Tensor) -> Plan:
        """Nothing is known of the QP yet."""
        return Plan.at_rest(x, 1, len(self.input_limit))

    def _arguments(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        given = {} if self.numbers is None else self.numbers(x)
        return x[:, : self.nq], x[:, self.nq : self.nq + self.nv], given

    def forward(self, x: Tensor, plan: Plan | None = None) -> Plan:
        """Torques of states x (B, nx), as a plan of one control period."""
        plan = self.cold_plan(x) if plan is None else plan
        start: Any = None
        if plan.y.ndim == 3:
            start = SimpleNamespace(x=plan.w_x[:, 0], y=plan.y[:, 0], z=plan.z[:, 0], w=plan.w_u[:, 0])
        found = self.control(*self._arguments(x), warm_start=start)
        sol = found.solution
        kept = {"y": sol.y, "z": sol.z, "w_u": sol.w, "w_x": sol.x}
        return dataclasses.replace(
            plan,
            states=torch.stack([x, x], 1),
            inputs=found.torque[:, None],
            status=found.status,
            iterations=sol.iterations,
            primal_residual=sol.primal_residual.detach(),
            dual_residual=sol.dual_residual.detach(),
            **{name: value.detach()[:, None].nan_to_num(0.0) for name, value in kept.items()},
        )

    def build(self, x: Tensor, plan: Plan | None = None) -> dict[str, Tensor]:
        """Arguments of `qc.solve_qp` for states x (B, nx)."""
        problem = self.control.build(*self._arguments(x))._asdict()
        return {name: value for name, value in problem.items() if name not in ("T", "t")}
