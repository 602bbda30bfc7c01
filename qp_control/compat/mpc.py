"""mpc.pytorch's controller, `mpc.mpc.MPC` (mpc 0.0.6), on top of `OcpLayer` and the SQP method of `qp_control.MPC`.

    minimise    sum_{t<T} 1/2 tau_t'C_t tau_t + c_t'tau_t,   tau_t = (x_t, u_t)        (QuadCost; or any cost(tau))
    subject to  x_0 = x_init,  x_{t+1} = F_t tau_t + f_t                               (LinDx; or any dx(x, u))
                u_lower <= u_t <= u_upper

Tensors have the axes [T, B, .], time first, as in the original.

What differs from the original:

- Gradients of nonlinear problems are those of the solution: the KKT matrix contains the curvature of the dynamics,
  which the original leaves out. `costs` carries gradients.
- Elements that did not converge never have gradients (there: unless detach_unconverged is False); with exit_unconverged
  they raise `SolveError` (there: AssertionError).
- C, c, F and f may lack the axes of time and batch; their gradients are then sums. The batch is that of x_init.
- u_lower, u_upper and prev_ctrl have gradients too. A crossed pair of bounds holds its input midway.
- lqr_iter counts SQP steps; linear problems with quadratic cost need one. eps is at least 1e-8, in float32 1e-4.
- dx and cost are differentiated by autograd, whatever grad_method says. n_batch, verbose, back_eps, delta_u,
  linesearch_decay, max_linesearch_iter, not_improved_lim and best_cost_eps have no effect.

Source: B. Amos, I. D. Jimenez Rodriguez, J. Sacks, B. Boots, J. Z. Kolter, "Differentiable MPC for End-to-end Planning
and Control", NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qp_control.compat.stage_costs import CostFunction, Slew, iterate_cost, native, quadratic, quadratic_cost, rollout
from qp_control.exceptions import SolveError
from qp_control.mpc.nonlinear_ocp import NonlinearOcp, times
from qp_control.mpc.sqp import SqpSettings, implicit, solve_sqp
from qp_control.ocp.layer import OcpLayer, OcpLayerSolution
from qp_control.qp.problem import as_integer
from qp_control.robot.torch_dynamics import TorchDynamics
from qp_control.settings import Settings, Status

_SMALLEST_EPS = {torch.float64: 1e-8}
_SINGLE_EPS = 1e-4  # of functions in single precision


class QuadCost(NamedTuple):
    """C (T, B, n, n), (T, n, n) or (n, n) and c (T, B, n), (T, n) or (n,), n = n_state + n_ctrl."""

    C: Any = None
    c: Any = None


class LinDx(NamedTuple):
    """F (T - 1, B, n_state, n), (T - 1, n_state, n) or (n_state, n), n = n_state + n_ctrl, and f (T - 1, B, n_state),
    (T - 1, n_state) or (n_state,), empty or None if absent. A stage T is ignored."""

    F: Any = None
    f: Any = None


class GradMethods(Enum):
    """Accepted as an argument; Jacobians are exact here."""

    AUTO_DIFF = 1
    FINITE_DIFF = 2
    ANALYTIC = 3
    ANALYTIC_CHECK = 4


class MPC(nn.Module):
    """The arguments and their meanings are those of the original.

    u_lower, u_upper: numbers, or (T,), (T, n_ctrl) or (T, B, n_ctrl); u_zero_I (T, B, n_ctrl); u_init (T, n_ctrl) or
    (T, B, n_ctrl); prev_ctrl (n_ctrl,) or (B, n_ctrl). The differences are listed at the top of
    `qp_control.compat.mpc`.

    Raises:
        ValueError: shapes that do not fit; invalid sizes T, n_state or n_ctrl; only one of the two bounds.
        TypeError: an argument of a call is not a tensor.
        SolveError: an element has not converged, unless exit_unconverged is False.
    """

    def __init__(
        self,
        n_state: int,
        n_ctrl: int,
        T: int,
        u_lower: float | Tensor | None = None,
        u_upper: float | Tensor | None = None,
        u_zero_I: Tensor | None = None,
        u_init: Tensor | None = None,
        lqr_iter: int = 10,
        grad_method: GradMethods = GradMethods.ANALYTIC,
        delta_u: float | None = None,
        verbose: int = 0,
        eps: float = 1e-7,
        back_eps: float = 1e-7,
        n_batch: int | None = None,
        linesearch_decay: float = 0.2,
        max_linesearch_iter: int = 10,
        exit_unconverged: bool = True,
        detach_unconverged: bool = True,
        backprop: bool = True,
        slew_rate_penalty: float | None = None,
        prev_ctrl: Tensor | None = None,
        not_improved_lim: int = 5,
        best_cost_eps: float = 1e-4,
    ) -> None:
        super().__init__()
        if (u_lower is None) != (u_upper is None):
            raise ValueError("u_lower and u_upper belong together: give both or none")
        self.n_state, self.n_ctrl = as_integer("n_state", n_state, 1), as_integer("n_ctrl", n_ctrl, 0)
        self.T = as_integer("T", T, 1)
        self.u_lower, self.u_upper, self.u_zero_I, self.u_init = u_lower, u_upper, u_zero_I, u_init
        self.lqr_iter, self.eps = lqr_iter, eps
        self.exit_unconverged, self.backprop = exit_unconverged, backprop
        self.slew_rate_penalty, self.prev_ctrl = slew_rate_penalty, prev_ctrl

    def forward(
        self,
        x_init: Tensor,
        cost: QuadCost | Callable[[Tensor], Tensor],
        dx: LinDx | Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States (T, B, n_state), controls (T, B, n_ctrl) and costs (B,) from x_init (B, n_state)."""
        if not isinstance(x_init, Tensor):
            raise TypeError(f"x_init is {type(x_init).__name__}, expected a tensor")
        if x_init.ndim != 2 or x_init.shape[1] != self.n_state:
            raise ValueError(f"x_init has shape {tuple(x_init.shape)}, expected (B, {self.n_state})")
        with torch.set_grad_enabled(self.backprop and torch.is_grad_enabled()):
            out, ocp = self._solve(native(x_init), cost, dx, x_init.detach())
        good = (out.status == Status.SOLVED) | (out.status == Status.CLOSEST_FEASIBLE)
        if self.exit_unconverged and not bool(good.all()):
            index = int((~good).nonzero()[0])
            with torch.no_grad():  # without a point the dynamics are linear: the QP is the same around any
                qp = ocp.around(out.x.nan_to_num(), out.u.nan_to_num()).element(index)
            message = f"element {index} did not converge: {Status(int(out.status[index])).name}"
            raise SolveError(message, qp.arguments(), out)
        x = out.x[:, : self.T, : self.n_state].transpose(0, 1)
        return x.to(x_init), out.u.transpose(0, 1).to(x_init), out.objective.to(x_init)

    def _solve(self, x_init: Tensor, cost: Any, dx: Any, like: Tensor) -> tuple[OcpLayerSolution, NonlinearOcp]:
        """The solution, and the problem with its cost expanded there."""
        T, nx, nu = self.T, self.n_state, self.n_ctrl
        stages = _named(dx, ("F", "f"))
        linear = None if stages is None else self._linear_stages(*stages, len(x_init))
        dynamics: Any = linear or _function_dynamics(dx, nx, nu, like)
        data = self._bounds(x_init)
        slew = None if self.slew_rate_penalty is None else Slew(self.slew_rate_penalty, nx, nu)
        if slew is not None:
            dynamics, x_init = slew.dynamics(dynamics), torch.cat([x_init, self._previous(x_init)], -1)
        layer = OcpLayer(Settings(eps_rel=1e-12), horizon=T)
        given = _named(cost, ("C", "c"))
        if given is not None:
            C, c = (
                self._checked(name, value, T, len(x_init), (nx + nu,) * rank)
                for name, value, rank in zip(("C", "c"), given, (2, 1), strict=True)
            )
            data |= quadratic(_batch_first(C, 2), _batch_first(c, 1), nx, slew)
        elif slew is not None:
            raise ValueError("slew_rate_penalty goes with a QuadCost only")
        ocp = NonlinearOcp(dynamics, T, x_init, data)
        if given is not None and linear is not None:
            A, B, f = linear.data() if slew is None else slew.stages(*linear.data())
            solved: OcpLayerSolution = layer(A, B, x_init, c=f, **data)
            return solved, ocp
        u = self._first_inputs(x_init)
        settings = SqpSettings(max_iter=self.lqr_iter, eps=max(self.eps, _SMALLEST_EPS.get(like.dtype, _SINGLE_EPS)))
        if given is None:
            return iterate_cost(CostFunction(cost, like), ocp, u, layer, settings)
        with torch.no_grad():
            states = rollout(ocp, u)
        answers = solve_sqp(ocp, states, u, layer, settings)
        out = implicit(ocp, answers, layer) if torch.is_grad_enabled() else answers.point
        return out._replace(objective=quadratic_cost(data, out.x[:, :T], out.u)), ocp

    def _bounds(self, x_init: Tensor) -> dict[str, Tensor]:
        """Bounds of the inputs; those marked in u_zero_I are held at zero."""
        T, nu = self.T, self.n_ctrl
        out = {}
        for name, given, free in (("u_lower", self.u_lower, -float("inf")), ("u_upper", self.u_upper, float("inf"))):
            if given is None and self.u_zero_I is None:
                continue
            bound = native(torch.as_tensor(free if given is None else given))
            if bound.ndim == 1:
                bound = bound[:, None]  # of each time
            bound = _expanded(name, bound, (T, len(x_init), nu) if bound.ndim == 3 else (T, nu))
            if self.u_zero_I is not None:
                held = _expanded("u_zero_I", torch.as_tensor(self.u_zero_I).bool().cpu(), (T, len(x_init), nu))
                bound = torch.where(held, 0.0, bound if bound.ndim == 3 else bound[:, None])
            out[name] = bound.transpose(0, 1) if bound.ndim == 3 else bound
        return out

    def _previous(self, x_init: Tensor) -> Tensor:
        if self.prev_ctrl is None:
            return x_init.new_zeros(len(x_init), self.n_ctrl)
        previous = native(torch.as_tensor(self.prev_ctrl))
        while previous.ndim > 2 and len(previous) == 1:  # (1, B, n_ctrl), a time of (T, B, n_ctrl)
            previous = previous[0]
        return _expanded("prev_ctrl", previous, (len(x_init), self.n_ctrl))

    def _first_inputs(self, x_init: Tensor) -> Tensor:
        T, batch, nu = self.T, len(x_init), self.n_ctrl
        if self.u_init is None:
            return x_init.new_zeros(batch, T, nu)
        u = native(torch.as_tensor(self.u_init)).detach()
        return _expanded("u_init", u[:, None] if u.ndim == 2 else u, (T, batch, nu)).transpose(0, 1)

    def _linear_stages(self, F: Any, f: Any, batch: int) -> LinearStages:
        T, nx, nu = self.T, self.n_state, self.n_ctrl
        F = self._checked("F", F, T - 1, batch, (nx, nx + nu))
        if f is not None and not (isinstance(f, Tensor) and f.nelement() == 0):
            f = self._checked("f", f, T - 1, batch, (nx,))
            f = f.expand(T - 1, nx) if f.ndim == 1 else f
        return LinearStages(F.expand(T - 1, nx, nx + nu) if F.ndim == 2 else F, f, T, nx)

    def _checked(self, name: str, value: Any, times: int, batch: int, one: tuple[int, ...]) -> Tensor:
        """`value`, whose last axes are `one`, behind those of time and batch or of time, if there are any."""
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is {type(value).__name__}, expected a tensor")
        lead, rest = value.shape[: -len(one)], value.shape[-len(one) :]
        # Where dynamics have a stage of the last time too, it counts for nothing.
        fits = rest == one and len(lead) <= 2 and (not lead or lead[0] in (times, self.T))
        if not fits or (len(lead) == 2 and batch > 1 and lead[1] not in (1, batch)):
            full = tuple(map(str, (times, batch, *one)))
            shapes = " or ".join(f"({', '.join(full[k:])}{',' * (k == 2 and len(one) == 1)})" for k in range(3))
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shapes}")
        return value


class LinearStages:
    """x_{t+1} = F_t (x_t, u_t) + f_t of a batch; nothing depends on the state after the last stage."""

    vector_space = True

    def __init__(self, F: Tensor, f: Tensor | None, T: int, nx: int) -> None:
        F = _batch_first(F, 2)[..., : T - 1, :, :]
        self.F = torch.cat([F, F.new_zeros(*F.shape[:-3], 1, *F.shape[-2:])], -3)
        self.f: Tensor | None = None
        if f is not None and f.nelement():
            f = _batch_first(f, 1)[..., : T - 1, :]
            self.f = torch.cat([f, f.new_zeros(*f.shape[:-2], 1, f.shape[-1])], -2)
        self.nx, self.nu = nx, F.shape[-1] - nx

    def data(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """A, B and c of an optimal-control QP."""
        return self.F[..., : self.nx], self.F[..., self.nx :], self.f

    def element(self, elements: Tensor) -> LinearStages:
        """The stages of a part of the batch."""
        part = LinearStages.__new__(LinearStages)
        part.nx, part.nu = self.nx, self.nu
        part.F = self.F[elements] if self.F.ndim == 4 else self.F
        part.f = self.f[elements] if self.f is not None and self.f.ndim == 3 else self.f
        return part

    def step(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> Tensor:
        out = times(self.F, torch.cat([x, u], -1))
        return out if self.f is None else out + self.f

    def linearize(self, x: Tensor, u: Tensor, parameters: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        F = self.F.expand(*x.shape[:-1], *self.F.shape[-2:])
        return self.step(x, u), F[..., : self.nx], F[..., self.nx :]

    def second_order(self, x: Tensor, u: Tensor, y: Tensor, parameters: Tensor | None = None) -> Tensor:
        n = self.nx + self.nu
        return x.new_zeros(*x.shape[:-1], n, n)


def _expanded(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return value.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape}, or what expands to it") from None


def _named(value: Any, names: tuple[str, str]) -> tuple[Any, Any] | None:
    """The two fields of a QuadCost or LinDx, of this module or of the original; None for anything else."""
    if isinstance(value, tuple) and getattr(value, "_fields", None) == names:
        return value[0], value[1]
    return None


def _batch_first(value: Tensor, rank: int) -> Tensor:
    """[T, B, ...] as (B, T, ...); without a batch axis, unchanged."""
    value = native(value)
    return value.transpose(0, 1) if value.ndim == rank + 2 else value


def _function_dynamics(dx: Callable[[Tensor, Tensor], Tensor], nx: int, nu: int, like: Tensor) -> TorchDynamics:
    """dx(x, u) of rows (., nx), (., nu), in its own precision and on its own device."""

    def step(x: Tensor, u: Tensor) -> Tensor:
        return native(dx(x.reshape(-1, nx).to(like), u.reshape(-1, nu).to(like))).reshape(*x.shape[:-1], nx)

    return TorchDynamics(step, nx, nu)
