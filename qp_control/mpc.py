"""Model predictive control with learnable cost, limits and model.

One call solves one quadratic program, the nonlinear problem linearised along the plan of the previous call (real-time
iteration):

    minimise    sum_{k=1}^{N-1} 1/2 |x_k - r|_Q^2 + 1/2 |x_N - r|_P^2 + sum_{k=0}^{N-1} 1/2 |u_k|_R^2
    subject to  x_{k+1} = f(xbar_k, ubar_k) + A_k (x_k - xbar_k) + B_k (u_k - ubar_k),   x_0 given
                lower <= u_k <= upper                            (box)
                lower <= x_k <= upper, k = 1..N                  (rows C, for the coordinates with finite limits)

with Q = diag(exp(log_q)), R = diag(exp(log_r)) and P = L L', L lower triangular. (xbar, ubar) is the carried plan with
xbar_0 = x_0. The states are eliminated (qp_control.condensing): the program's variables are the inputs. State limits
that cannot be met are shifted by the least amount (the layer's closest-feasible mode).

Nothing is hidden: the plan of one call goes into the next one, shifted, and carries gradient. Detaching it makes
gradients of closed loops wrong, since the linearisation point moves with everything that happened before.

Source: M. Diehl, H. G. Bock, J. P. Schloeder, "A real-time iteration scheme for nonlinear optimization in optimal
feedback control", SIAM J. Control Optim. 43 (2005); condensing: H. G. Bock, K. J. Plitt, IFAC World Congress 1984.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.condensing import condense
from qp_control.dynamics import RobotDynamics
from qp_control.exceptions import SolveError
from qp_control.layers import QPLayer
from qp_control.plan import Plan
from qp_control.settings import Settings, Status


@dataclass(frozen=True)
class MPCProblem:
    """The QP of one call, as plain data: minimise 1/2 U'H U + g'U, l <= C U <= u, lb <= U <= ub.

    H (B, n, n), g (B, n), C (B, n_in, n) or None, l, u (B, n_in) or None, lb, ub (B, n).
    n = N nu; U: the inputs in the order of time.
    x0 (B, nx); G (B, N, nx, n) and e (B, N, nx): the states are x_{k+1} = G_k U + e_k.
    """

    H: Tensor
    g: Tensor
    C: Tensor | None
    l: Tensor | None
    u: Tensor | None
    lb: Tensor
    ub: Tensor
    x0: Tensor
    G: Tensor
    e: Tensor

    def states(self, U: Tensor) -> Tensor:
        """Predicted states x_0..x_N (B, N + 1, nx) under the inputs U (B, N nu)."""
        x = (self.G @ U[:, None, :, None])[..., 0] + self.e
        return torch.cat([self.x0[:, None], x], 1)

    def finite(self) -> Tensor:
        """(B,) bool: no number of this element is NaN or infinite, bounds aside."""
        values = [self.H.flatten(1), self.g, self.G.flatten(1), self.e.flatten(1), self.x0]
        return torch.stack([v.detach().isfinite().all(1) for v in values]).all(0)

    def element(self, index: int) -> dict[str, Tensor]:
        """The QP of one element as the arguments of `qc.solve_qp` and `qc.save_problem`."""
        names = ("H", "g", "C", "l", "u", "lb", "ub")
        data = {name: getattr(self, name) for name in names}
        return {name: value.detach()[index] for name, value in data.items() if value is not None}


class MPC(nn.Module):
    """Linearised model predictive controller of one robot; see the top of this file for its problem.

    dynamics: the controller's model; its dt is the control period [s]. Its configurations must form a vector space.
    horizon: N, the number of control periods looked ahead.
    input_limit: (nu,) largest |u| [N or N m]; None: the model's effort limits.
    state_limit: (nx,) largest |x|, infinite where there is none; None: no limits.
    reference: (nx,) state to reach; None: zero.
    settings: of the QP solver; None: closest-feasible mode.

    Learnable parameters (all ones in the cost to begin with):
      log_q (nx,), log_r (nu,)      logarithms of the diagonals of Q and R
      terminal_log_diagonal (nx,), terminal_lower (nx (nx - 1) / 2,)
          Cholesky factor L of P: exp of the first on its diagonal
      input_fraction (nu,), state_fraction (limited states,)
          logits of the share of the limits that is used, to begin with 0.98
      log_mass (bodies,), log_length (bodies,), log_damping (nv,)
          scales of the model; with a = exp(log_mass), b = exp(log_length) a body's m, m c, I about its joint become
          a m, a b m c, a b^2 I: physically consistent for any scales

    Raises ValueError for a model whose configurations are not a vector space and for wrong shapes.
    """

    def __init__(
        self,
        dynamics: RobotDynamics,
        horizon: int,
        *,
        input_limit: Tensor | Sequence[float] | None = None,
        state_limit: Tensor | Sequence[float] | None = None,
        reference: Tensor | Sequence[float] | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        if not dynamics.vector_space:
            raise ValueError("the model has joints whose configurations are no vector space (free-flyer or ball)")
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}, expected at least 1")
        self.dynamics, self.horizon = dynamics, int(horizon)
        self.nx, self.nu = dynamics.nx, dynamics.nu
        nx, nu = self.nx, self.nu
        given = dynamics.effort_limit if input_limit is None else input_limit
        limits = _vector("state_limit", state_limit, nx, float("inf"))
        self.limited = [i for i in range(nx) if limits[i].isfinite()]
        self.input_limit: Tensor
        self.state_limit: Tensor
        self.reference: Tensor
        self.register_buffer("input_limit", _vector("input_limit", given, nu, 0.0), persistent=False)
        self.register_buffer("state_limit", limits[self.limited], persistent=False)
        self.register_buffer("reference", _vector("reference", reference, nx, 0.0), persistent=False)
        for name, value in (("input_limit", self.input_limit), ("state_limit", self.state_limit)):
            if not bool((value > 0.0).all()):
                raise ValueError(f"{name} is {value.tolist()}, expected positive numbers")
        if not bool(self.input_limit.isfinite().all()):
            raise ValueError(f"input_limit is {self.input_limit.tolist()}, expected finite numbers")
        bodies = dynamics.bodies

        def learnable(size: int, value: float = 0.0) -> nn.Parameter:
            return nn.Parameter(torch.full((size,), value, dtype=torch.float64))

        self.log_q, self.log_r = learnable(nx), learnable(nu)
        self.terminal_log_diagonal, self.terminal_lower = learnable(nx), learnable(nx * (nx - 1) // 2)
        share = float(torch.logit(torch.tensor(0.98, dtype=torch.float64)))
        self.input_fraction, self.state_fraction = learnable(nu, share), learnable(len(self.limited), share)
        self.log_mass, self.log_length = learnable(bodies), learnable(bodies)
        self.log_damping = learnable(dynamics.nv)
        self.layer = QPLayer(settings)
        # QP variables and limited states in the order of time
        self._lower_index = torch.tril_indices(nx, nx, -1)

    @property
    def model_parameters(self) -> list[nn.Parameter]:
        """The parameters of the model, for optimisers that treat them apart."""
        return [self.log_mass, self.log_length, self.log_damping]

    def dynamics_parameters(self) -> Tensor:
        """Parameters (n_par,) of `dynamics` under the learned scales."""
        mass, length = self.log_mass[:, None], self.log_length[:, None]
        # order of a body: m, three of m c, six of I
        degree = mass.new_tensor([0.0] + 3 * [1.0] + 6 * [2.0])
        scales = torch.cat([(mass + degree * length).flatten(), self.log_damping])
        return self.dynamics.parameters * scales.exp()

    def terminal_weight(self) -> Tensor:
        """P (nx, nx), the Hessian of the terminal cost."""
        L = torch.diag(self.terminal_log_diagonal.exp())
        L = L.index_put((self._lower_index[0], self._lower_index[1]), self.terminal_lower)
        return L @ L.T

    def input_bound(self) -> Tensor:
        """(nu,) the largest |u| that is planned [N or N m]."""
        return self.input_limit * self.input_fraction.sigmoid()

    def state_bound(self) -> Tensor:
        """(limited states,) the largest |x| that is planned."""
        return self.state_limit * self.state_fraction.sigmoid()

    def set_weights(
        self,
        q: Sequence[float] | Tensor | None = None,
        r: Sequence[float] | Tensor | None = None,
        terminal: Tensor | Sequence[float] | None = None,
    ) -> MPC:
        """Set diagonals q (nx,), r (nu,) and the terminal weight (nx, nx) or its diagonal (nx,); all positive."""
        with torch.no_grad():
            if q is not None:
                self.log_q.copy_(_positive("q", q, self.nx).log())
            if r is not None:
                self.log_r.copy_(_positive("r", r, self.nu).log())
            if terminal is not None:
                P = torch.as_tensor(terminal, dtype=torch.float64)
                P = torch.diag(_positive("terminal", P, self.nx)) if P.ndim == 1 else P
                if P.shape != (self.nx, self.nx):
                    raise ValueError(
                        f"terminal has shape {tuple(P.shape)}, expected ({self.nx}, {self.nx}) or ({self.nx},)"
                    )
                L, info = torch.linalg.cholesky_ex(P)
                if int(info):
                    raise ValueError("terminal is not positive definite")
                self.terminal_log_diagonal.copy_(L.diagonal().log())
                self.terminal_lower.copy_(L[self._lower_index[0], self._lower_index[1]])
        return self

    def cold_plan(self, x0: Tensor) -> Plan:
        """The plan that stays at x0 (B, nx) with zero input: where the first call linearises."""
        batch, n = len(x0), self.horizon * self.nu
        zero = x0.new_zeros(batch)
        return Plan(
            states=x0[:, None].expand(batch, self.horizon + 1, self.nx),
            inputs=x0.new_zeros(batch, self.horizon, self.nu),
            status=torch.full((batch,), int(Status.SOLVED)),
            iterations=torch.zeros(batch, dtype=torch.int64),
            primal_residual=zero,
            dual_residual=zero,
            z=x0.new_zeros(batch, self.horizon * len(self.limited)),
            w=x0.new_zeros(batch, n),
        )

    def build(self, x0: Tensor, plan: Plan | None = None) -> MPCProblem:
        """The QP at the states x0 (B, nx), linearised along `plan` (already shifted), as plain data.

        plan None: along the plan that stays at x0 with zero input. Elements whose state or plan is not finite, or so
        large that numbers overflow, are NaN throughout. Raises ValueError for wrong shapes.
        """
        x0, plan = self._checked(x0, plan)
        problem, finite = self._build_finite(x0, plan)
        if bool(finite.all()):
            return problem
        whole: dict[str, Any] = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
        nan = torch.tensor(float("nan"), dtype=torch.float64)
        masked = {k: torch.where(_like(finite, v), v, nan) for k, v in whole.items() if v is not None}
        return dataclasses.replace(problem, **masked)

    def _build_finite(self, x0: Tensor, plan: Plan) -> tuple[MPCProblem, Tensor]:
        """The QP, and which elements (B,) are real.

        Numbers that are not finite must not meet the zero gradient of their element (0 NaN = NaN). So the others are
        built at the reference, at rest, and their answers are to be thrown away.
        """
        finite = torch.stack([v.detach().flatten(1).isfinite().all(1) for v in (x0, plan.states, plan.inputs)]).all(0)
        if bool(finite.all()):
            problem = self._assemble(x0, plan)
            finite = problem.finite()
            if bool(finite.all()):
                return problem, finite
        while True:
            x_safe = torch.where(finite[:, None], x0, self.reference)
            states = torch.where(finite[:, None, None], plan.states, self.reference)
            inputs = torch.where(finite[:, None, None], plan.inputs, 0.0)
            problem = self._assemble(x_safe, dataclasses.replace(plan, states=states, inputs=inputs))
            now = finite & problem.finite()
            if bool((now == finite).all()):
                return problem, finite
            finite = now

    def _assemble(self, x0: Tensor, plan: Plan) -> MPCProblem:
        batch, N, nx, nu = len(x0), self.horizon, self.nx, self.nu
        xbar = torch.cat([x0[:, None], plan.states[:, 1:N]], 1)
        ubar = plan.inputs
        x_next, A, B = self.dynamics.linearize(xbar, ubar, self.dynamics_parameters())
        c = x_next - (A @ xbar[..., None] + B @ ubar[..., None])[..., 0]
        G, e = condense(A, B, c, x0)

        Q = torch.diag(self.log_q.exp()).expand(N - 1, nx, nx)
        weights = torch.cat([Q, self.terminal_weight()[None]])
        stacked = G.reshape(batch, N * nx, N * nu)
        weighted = (weights @ G).reshape(batch, N * nx, N * nu)
        H = stacked.transpose(1, 2) @ weighted
        H = 0.5 * (H + H.transpose(1, 2)) + torch.diag(self.log_r.exp().repeat(N))
        error = (e - self.reference).reshape(batch, N * nx, 1)
        g = (weighted.transpose(1, 2) @ error)[..., 0]

        C = l = u = None
        if self.limited:
            C = G[:, :, self.limited].reshape(batch, -1, N * nu)
            free = e[:, :, self.limited].reshape(batch, -1)
            bound = self.state_bound().repeat(N)
            l, u = -bound - free, bound - free
        ub = self.input_bound().repeat(N).expand(batch, N * nu)
        return MPCProblem(H, g, C, l, u, -ub, ub, x0, G, e)

    def forward(self, x0: Tensor, plan: Plan | None = None) -> Plan:
        """Plan from the states x0 (B, nx).

        plan: of the previous call, shifted: `mpc(x, plan.shift())`; None for a cold start. Gradients reach
        x0, the passed plan and all parameters.

        An element whose QP has no answer (NaN state, unconverged) keeps the passed plan and has a status that says so;
        what it contributes to gradients is then that of the passed plan. Raises ValueError for wrong shapes, and
        SolveError for such elements where the settings say on_failure="raise".
        """
        x0, plan = self._checked(x0, plan)
        problem, finite = self._build_finite(x0, plan)
        out = self._solve(problem, plan)
        status = torch.where(finite, out.status, int(Status.INVALID_INPUT))
        solved = (status == Status.SOLVED) | (status == Status.CLOSEST_FEASIBLE)
        if self.layer.settings.on_failure == "raise" and not bool(solved.all()):
            index = int((~solved).nonzero()[0])
            message = f"the QP of element {index} has no answer: {Status(int(status[index])).name}"
            raise SolveError(message, self.build(x0, plan).element(index), out)
        batch, N, nu = len(x0), self.horizon, self.nu
        U = torch.where(solved[:, None], out.x, plan.inputs.detach().reshape(batch, N * nu).nan_to_num())
        choose = solved[:, None, None]
        return Plan(
            states=torch.where(choose, problem.states(U), plan.states),
            inputs=torch.where(choose, U.view(batch, N, nu), plan.inputs),
            status=status,
            iterations=out.iterations,
            primal_residual=out.primal_residual.detach(),
            dual_residual=out.dual_residual.detach(),
            z=torch.where(solved[:, None], out.z.detach(), plan.z),
            w=torch.where(solved[:, None], out.w.detach(), plan.w),
        )

    def _solve(self, problem: MPCProblem, plan: Plan) -> Any:
        """The only place that knows which solver is behind this controller."""
        warm_start = _WarmStart(
            x=plan.inputs.detach().flatten(1).nan_to_num(),
            y=plan.inputs.new_zeros(len(plan.inputs), 0),
            z=plan.z.nan_to_num(),
            w=plan.w.nan_to_num(),
        )
        p = problem
        return self.layer(p.H, p.g, None, None, p.C, p.l, p.u, p.lb, p.ub, warm_start=warm_start)

    def _checked(self, x0: Tensor, plan: Plan | None) -> tuple[Tensor, Plan]:
        if not isinstance(x0, Tensor):
            raise ValueError(f"x0 is a {type(x0).__name__}, expected a torch.Tensor")
        if x0.ndim != 2 or x0.shape[1] != self.nx:
            raise ValueError(f"x0 has shape {tuple(x0.shape)}, expected (B, nx) = (B, {self.nx})")
        x0 = x0.to(device="cpu", dtype=torch.float64)
        if plan is None:
            return x0, self.cold_plan(x0)
        batch, N = len(x0), self.horizon
        for name, shape in (
            ("states", (batch, N + 1, self.nx)),
            ("inputs", (batch, N, self.nu)),
            ("z", (batch, N * len(self.limited))),
            ("w", (batch, N * self.nu)),
        ):
            if getattr(plan, name).shape != shape:
                got = tuple(getattr(plan, name).shape)
                raise ValueError(f"plan.{name} has shape {got}, expected {shape}")
        return x0, plan


def _like(mask: Tensor, value: Tensor) -> Tensor:
    """mask (B,) with as many axes as value."""
    return mask.view(-1, *[1] * (value.ndim - 1))


@dataclass(frozen=True)
class _WarmStart:
    x: Tensor
    y: Tensor
    z: Tensor
    w: Tensor


def _vector(name: str, value: Tensor | Sequence[float] | None, size: int, default: float) -> Tensor:
    if value is None:
        return torch.full((size,), default, dtype=torch.float64)
    vector = torch.as_tensor(value, dtype=torch.float64).clone()
    if vector.shape != (size,):
        raise ValueError(f"{name} has shape {tuple(vector.shape)}, expected ({size},)")
    if bool(vector.isnan().any()):
        raise ValueError(f"{name} is {vector.tolist()}: NaN")
    return vector


def _positive(name: str, value: Tensor | Sequence[float], size: int) -> Tensor:
    vector = _vector(name, value, size, 1.0)
    if not bool((vector > 0.0).all()):
        raise ValueError(f"{name} is {vector.tolist()}, expected positive numbers")
    return vector
