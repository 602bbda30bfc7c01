"""Model predictive control of nonlinear systems, with learnable weights, limits and models.

    minimise    sum_{k<N} 1/2 |x_k - r_k|_Q^2 + 1/2 |u_k|_R^2 + 1/2 |x_N - r_N|_P^2
    subject to  x_0 given, x_{k+1} = f(x_k, u_k)
                |u_k| <= input limit, |x_k| <= state limit, k = 1..N
                |u_k - u_{k-1}| <= rate limit,  further rows, linear or not

mode "real_time": one call solves one QP, the problem linearised along the plan of the previous call. The plan goes into
the next call, shifted, and carries gradients; detaching it makes gradients of closed loops wrong, since the
linearisation point depends on everything before it. mode "converged": one call iterates (qp_control.mpc.sqp) until the
nonlinear problem is solved, and gradients are those of its solution by the implicit function theorem.

Limits that cannot be met are shifted by the least amount (closest feasible).

Source: M. Diehl, H. G. Bock, J. P. Schloeder, "A real-time iteration scheme for nonlinear optimization in optimal
feedback control", SIAM J. Control Optim. 43 (2005).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qp_control.exceptions import SolveError
from qp_control.mpc.arguments import NOT_YOURS, check_sizes, checked_data, checked_rows, ends, rows_of
from qp_control.mpc.coordinates import Errors, States, check_limited
from qp_control.mpc.finite import all_finite, finite_elements, finite_rows, like
from qp_control.mpc.input_memory import with_rate_limit
from qp_control.mpc.limits import finite_vector, limit, slack_weights, spread, used
from qp_control.mpc.merit import violations
from qp_control.mpc.nonlinear_ocp import NonlinearOcp, Rows, StateRows
from qp_control.mpc.plan import Plan
from qp_control.mpc.sqp import SqpSettings, implicit, solve_sqp
from qp_control.mpc.weights import Constant, make_weight
from qp_control.ocp.layer import OcpLayer
from qp_control.ocp.problem import OcpQP
from qp_control.qp.layer import to_native
from qp_control.qp.problem import as_integer
from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.model_parameters import model_parameters
from qp_control.settings import Settings, Status, settings_or


class MPC(nn.Module):
    """Model predictive controller; its problem is defined at the top of `qp_control.mpc.controller`.

    dynamics: the controller's model, a `RobotDynamics`, a `TorchDynamics`, or any object with nx, nu, step, linearize
        and second_order like theirs; its dt is the control period [s].
    horizon: N, the number of control periods in a plan.
    input_limit: (nu,) largest |u| [N or N m]; None: the model's effort limits.
    state_limit: (nx,) largest |x|, infinity where there is none; None: no limits. Coordinates of joints with
        quaternions or (cos, sin) cannot have one; limit functions of them by rows.
    state_slack: (linear, quadratic) weights of violations of the state limits; None: the limits are hard, and shifted
        if they cannot be met.
    reference: (nx,) state to reach; None: zero, or the model's neutral configuration at rest.
    rate_limit: (nu,) largest change of u per second [N/s or N m/s]; None: no limits.
    delay: control periods until an input takes effect after it was sent. The plan then starts from the state that the
        inputs already sent will have led to, and carries them.
    state_cost, input_cost, terminal_cost: "diagonal", "full", a rank, or a module that returns Q, R or P when called.
    model: the parameters of a robot's model: "scales" of its bodies, "log_cholesky" (all ten inertial parameters of
        each, kept physically consistent), or a module that returns them when called.
    rows: further rows that are functions of state and input: `StateRows`, `StageRows`, `keep_out`, `speed_limit`, or
        modules that return one when called, whose parameters are learned.
    data: further arguments of the problem's `OcpQP` such as C, D, lower, upper, C_N, r or u_lower; tensors that
        require grad become parameters. Each takes precedence over its counterpart above and leaves the others: u_lower
        keeps the upper limit, q the reference of the last state. With state_slack, x_lower and x_upper are hard limits
        in addition to the soft ones.
    mode: "real_time" or "converged".
    sqp: options of the SQP method; settings: of the QP solver (None: closest-feasible mode).

    Parameters: those of the modules state_cost, input_cost, terminal_cost (by default identity matrices at first) and
    model (see `model_parameters`); input_fraction (nu,) and state_fraction (limited states,), logits of the shares of
    the limits that are used, 0.98 at first.

    If configurations do not form a vector space (quaternions of free-flyers and ball joints, continuous joints as cos
    and sin), the states of the problem are errors x (-) r with respect to the reference, 2 nv numbers each
    (`RobotDynamics.difference`): they replace x - r above, the costs of states have 2 nv rows, and `data` refers to
    them. Plans and the functions of rows have full states. Gradients with respect to the reference are tangent to the
    manifold; an error beyond half a turn counts as one in the other direction.

    Raises ValueError for wrong shapes, sizes and options, and for limits on coordinates that cannot have one; TypeError
    for settings, rows and data of another type, and for limits and references that require grad: pass those per call.
    """

    def __init__(
        self,
        dynamics: Any,
        horizon: int,
        *,
        input_limit: Tensor | Sequence[float] | None = None,
        state_limit: Tensor | Sequence[float] | None = None,
        state_slack: tuple[float, float] | None = None,
        reference: Tensor | Sequence[float] | None = None,
        rate_limit: Tensor | Sequence[float] | None = None,
        delay: int = 0,
        state_cost: str | int | nn.Module = "diagonal",
        input_cost: str | int | nn.Module = "diagonal",
        terminal_cost: str | int | nn.Module = "full",
        model: str | nn.Module = "scales",
        rows: Sequence[Rows | nn.Module] = (),
        data: Mapping[str, Tensor] | None = None,
        mode: Literal["real_time", "converged"] = "real_time",
        sqp: SqpSettings | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        if sqp is not None and not isinstance(sqp, SqpSettings):
            raise TypeError(f"sqp is {sqp!r}, expected a qp_control.SqpSettings")
        if mode not in ("real_time", "converged"):
            raise ValueError(f"mode is {mode!r}, expected 'real_time' or 'converged'")
        self.dynamics, self.mode = dynamics, mode
        self.horizon, self.delay = as_integer("horizon", horizon, 1), as_integer("delay", delay, 0)
        self.is_frozen = False
        self.nx, self.nu = dynamics.nx, dynamics.nu
        nx, nu = self.nx, self.nu
        # Without a vector space the states of the problem are errors from the reference, which have fewer entries.
        self.in_errors = not dynamics.vector_space
        if self.in_errors and not isinstance(dynamics, RobotDynamics):
            raise ValueError("configurations that form no vector space are those of a RobotDynamics only")
        size = dynamics.ndx if self.in_errors else nx
        limits = limit("state_limit", state_limit, nx)
        self.limited = [i for i in range(nx) if limits[i].isfinite()]
        if self.in_errors:
            check_limited(dynamics, self.limited)
        self.input_limit: Tensor
        self.state_limit: Tensor
        self.reference: Tensor
        given = dynamics.effort_limit if input_limit is None else input_limit
        self.register_buffer("input_limit", limit("input_limit", given, nu), persistent=False)
        self.register_buffer("state_limit", limits[self.limited], persistent=False)
        own = finite_vector("reference", reference, nx)
        if self.in_errors:
            own = dynamics.neutral_state() if reference is None else Errors(dynamics, own).reference
        self.register_buffer("reference", own, persistent=False)
        self.rate_limit = None if rate_limit is None else limit("rate_limit", rate_limit, nu)
        if self.rate_limit is not None and not dynamics.dt:
            raise ValueError("rate_limit is given, and the dynamics have no control period dt")
        self.state_slack, self.rows = slack_weights(state_slack, state_limit), checked_rows(rows)
        self.learned_rows = nn.ModuleList(group for group in self.rows if isinstance(group, nn.Module))

        self.state_cost, self.input_cost = make_weight(state_cost, size), make_weight(input_cost, nu)
        self.terminal_cost = make_weight(terminal_cost, size)
        self.model = model_parameters(dynamics, model)
        share = float(torch.logit(torch.tensor(0.98, dtype=torch.float64)))
        self.input_fraction: nn.Parameter | None
        self.state_fraction: nn.Parameter | None
        self.input_fraction = nn.Parameter(torch.full((nu,), share, dtype=torch.float64))
        self.state_fraction = nn.Parameter(torch.full((len(self.limited),), share, dtype=torch.float64))
        self.data = nn.ParameterDict()
        for name, value in checked_data({} if data is None else data).items():
            self.data[name] = nn.Parameter(value, requires_grad=value.requires_grad)
        self.sqp = sqp or SqpSettings()
        # If multipliers are as large as 1e9, an absolute tolerance alone asks for more digits than there are.
        self.layer = OcpLayer(settings_or(settings, Settings(eps_rel=1e-12)), horizon=self.horizon)

    @property
    def model_parameters(self) -> list[nn.Parameter]:
        """The parameters of the model, for optimisers that treat them separately."""
        return list(self.model.parameters())

    def input_bound(self) -> Tensor:
        """(nu,) the largest |u| that is planned [N or N m]."""
        return used(self.input_limit, self.input_fraction)

    def state_bound(self) -> Tensor:
        """(limited states,) the largest |x| that is planned."""
        return used(self.state_limit, self.state_fraction)

    def set_weights(self, q: Any = None, r: Any = None, terminal: Any = None) -> MPC:
        """Set Q, R and the terminal weight: diagonals, matrices, or whatever else their modules accept."""
        given = {"state_cost": q, "input_cost": r, "terminal_cost": terminal}
        for name, value in given.items():
            if value is None:
                continue
            assign = getattr(getattr(self, name), "assign", None)
            if assign is None:
                raise ValueError(f"{name} is a module of your own without a method assign: set its parameters instead")
            assign(value)
        return self

    @torch.no_grad()
    def frozen(self) -> MPC:
        """A copy for control loops, whose weights, bounds and model parameters are constants, evaluated once.

        Its plans carry no gradients, not even with respect to the state.
        """
        copy_ = copy.deepcopy(self)
        copy_.is_frozen = True
        for name in ("state_cost", "input_cost", "terminal_cost", "model"):
            setattr(copy_, name, Constant(getattr(self, name)()))
        for name, bound in (("input", self.input_bound()), ("state", self.state_bound())):
            setattr(copy_, f"{name}_limit", bound)
            setattr(copy_, f"{name}_fraction", None)
        return copy_.requires_grad_(False)

    def cold_plan(self, x0: Tensor) -> Plan:
        """The plan that stays at x0 (B, nx) with zero input, along which the first call linearises."""
        return Plan.at_rest(self._checked_state(x0), self.horizon, self.nu, self.delay)

    def problem(
        self, x0: Tensor, previous: Tensor | None = None, *, reference: Tensor | None = None, **data: Tensor
    ) -> NonlinearOcp:
        """The nonlinear problem from x0 (B, nx), as data.

        previous (B, nu): the previous input, which a rate limit refers to; None: zero. reference (nx,), (B, nx) or (B,
        N + 1, nx): in place of the controller's own. data: arguments of an OcpQP (Q, R, Q_N, q, r, C, D, lower, ..),
        for the whole batch or per element, in place of the controller's own.
        """
        x0 = self._checked_state(x0)
        if previous is not None and previous.shape != (len(x0), self.nu):
            raise ValueError(f"previous has shape {tuple(previous.shape)}, expected (B, nu) = {(len(x0), self.nu)}")
        return self._problem(self._coordinates(reference), x0, previous, data)

    def _coordinates(self, reference: Tensor | None) -> States:
        """The coordinates of the problem's states, around the given reference or the controller's own."""
        r = torch.as_tensor(self.reference if reference is None else reference, dtype=torch.float64)
        if r.ndim not in (1, 2, 3) or r.shape[-1] != self.nx or (r.ndim == 3 and r.shape[1] != self.horizon + 1):
            got, N = tuple(r.shape), self.horizon
            raise ValueError(
                f"reference has shape {got}, expected (nx,), (B, nx) or (B, N + 1, nx), nx {self.nx}, N {N}"
            )
        return (Errors if self.in_errors else States)(self.dynamics, r)

    def _problem(
        self, coordinates: States, x0: Tensor, previous: Tensor | None, data: dict[str, Tensor]
    ) -> NonlinearOcp:
        given = dict(self.data.items()) | checked_data(data)
        foreign = bool(given) or coordinates.reference.ndim > 1
        if "Q" not in given:
            given["Q"] = to_native(self.state_cost())
        if "R" not in given:
            given["R"] = to_native(self.input_cost())
        if "Q_N" not in given and not ends("Q", given, self.horizon):
            given["Q_N"] = to_native(self.terminal_cost())
        if foreign:
            check_sizes(given, x0, coordinates.dynamics.nx, self.nu, self.horizon)
            coordinates.check_batch(len(x0))
        coordinates.add_reference(given, self.horizon)
        rows = [coordinates.rows(rows_of(group)) for group in self.rows]
        if "u_lower" not in given or "u_upper" not in given:
            bound = self.input_bound()
            given = {"u_lower": -bound, "u_upper": bound} | given
        if self.limited:
            chosen, lower, upper = coordinates.box(self.limited, self.state_bound())
            if self.state_slack is not None:
                linear, quadratic = self.state_slack
                rows.append(StateRows(lambda x: x[..., chosen], lower, upper, linear, quadratic))
            elif "x_lower" not in given or "x_upper" not in given:
                size = coordinates.dynamics.nx
                given = {"x_lower": -spread(-lower, chosen, size), "x_upper": spread(upper, chosen, size)} | given
        ocp = NonlinearOcp(coordinates.dynamics, self.horizon, coordinates.of(x0), given, self.model(), rows)
        if self.rate_limit is None:
            return ocp
        if previous is None:
            previous = x0.new_zeros(len(x0), self.nu)
        return with_rate_limit(ocp, previous, self.rate_limit * self.dynamics.dt)

    def build(self, x0: Tensor, plan: Plan | None = None, **options: Tensor) -> OcpQP:
        """The QP at the states x0 (B, nx) along `plan` (already shifted), as plain data; options as in `problem`.

        plan None: along the plan that stays at x0 with zero input. Elements whose state or plan is not finite, or so
        large that it overflows, have NaN in x0 and in the dynamics. Raises ValueError for wrong shapes.
        """
        x0, plan = self._checked(x0, plan)
        _, qp, finite, _, _ = self._build_finite(x0, plan, options)
        if bool(finite.all()):
            return qp
        nan = torch.tensor(float("nan"), dtype=torch.float64)
        dynamics: dict[str, Any] = {
            name: torch.where(like(finite, v), v, nan) for name in NOT_YOURS for v in [getattr(qp, name)]
        }
        return dataclasses.replace(qp, **dynamics)

    def _build_finite(
        self, x0: Tensor, plan: Plan, options: dict[str, Any], *, graph: bool = True
    ) -> tuple[NonlinearOcp, OcpQP, Tensor, tuple[Tensor, Tensor], States]:
        """The problem, its QP along the plan (graph: differentiable), which elements (B,) are finite, the trajectory
        linearised along, and the coordinates of its states.

        Numbers that are not finite must not meet the zero gradient of their element (0 NaN = NaN). So such elements are
        built at the reference, at rest, and their answers must be discarded.
        """
        options = dict(options)
        coordinates = self._coordinates(options.pop("reference", None))
        # Without gradients the solver's statuses tell which linearisations are not finite.
        check = torch.is_grad_enabled() or self.in_errors or self.mode == "converged"
        check = check or not all_finite(x0, plan.states, plan.inputs, plan.previous, plan.pending)
        finite = torch.ones(len(x0), dtype=torch.bool)
        if check:
            finite = finite_elements(plan.inputs, plan.previous, plan.pending)
            finite = finite & coordinates.valid(x0) & coordinates.valid(plan.states)
        while True:
            good = not check or bool(finite.all())
            safe = plan if good else plan.where(finite, self.reference)
            start = x0 if good else torch.where(finite[:, None], x0, self.reference)
            start, arrived = self._arrival(start, safe.pending)
            if arrived is not None and bool((finite & ~arrived).any()):
                finite, check = finite & arrived, True
                continue
            ocp = self._problem(coordinates, start, safe.previous, options)
            x = self._trajectory(coordinates, torch.cat([start[:, None], safe.states[:, 1:]], 1), safe)
            with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
                qp = ocp.around(x, safe.inputs)
            if not check:
                return ocp, qp, finite, (x, safe.inputs), coordinates
            now = finite & finite_elements(qp.A, qp.B, qp.c, qp.x0)
            now = now & finite_rows(qp) if ocp.rows else now
            if bool((now == finite).all()):
                return ocp, qp, finite, (x, safe.inputs), coordinates
            finite = now

    def _arrival(self, x0: Tensor, pending: Tensor) -> tuple[Tensor, Tensor | None]:
        """Where the inputs under way (B, delay, nu) lead from x0 (B, nx), and which elements stay finite; None: all."""
        x = x0
        for k in range(self.delay):
            x = self.dynamics.step(x, pending[:, k], self.model())
            finite = finite_elements(x)
            if not bool(finite.all()):
                return x, finite
        return x, None

    def _trajectory(self, coordinates: States, states: Tensor, plan: Plan) -> Tensor:
        """The problem's states along `states` (B, N + 1, nx) with the inputs of the plan."""
        x = coordinates.of(states)
        if self.rate_limit is None:
            return x
        return torch.cat([x, torch.cat([plan.previous[:, None], plan.inputs], 1)], -1)

    def violations(self, plan: Plan, **options: Tensor) -> Tensor:
        """(B, entries) by how much the plan exceeds each of the hard limits at each stage, zero where it meets them.

        In the units of the rows: those of `keep_out` and `speed_limit` are squares. If the limits cannot be met, these
        are the shifts, so that mpc.violations(plan).square().sum(1) in a loss leads learned parameters to where they
        can be met again. Differentiable in the plan and the limits. Elements whose plan, or whose row functions along
        it, are not finite have NaN and do not contribute to gradients. options: as in `problem`.
        """
        self._check_plan(plan, len(plan.states) if isinstance(plan, Plan) else 0)
        coordinates = self._coordinates(options.pop("reference", None))
        finite = finite_elements(plan.inputs, plan.previous) & coordinates.valid(plan.states)
        while True:
            every, which = bool(finite.all()), finite.nonzero()[:, 0]
            safe = plan if every else plan.where(finite, self.reference)
            ocp = self._problem(coordinates, safe.states[:, 0], safe.previous, options)
            x, u = self._trajectory(coordinates, safe.states, safe), safe.inputs
            found = violations(ocp, x, u) if every else violations(ocp.element(which), x[which], u[which])
            good = finite_elements(found)
            if bool(good.all()):
                none = found.new_full((len(finite), found.shape[1]), torch.nan)
                return found if every else none.index_copy(0, which, found)
            finite = finite.index_copy(0, which, good)

    def forward(self, x0: Tensor, plan: Plan | None = None, **options: Tensor) -> Plan:
        """Plan from the states x0 (B, nx).

        plan: that of the previous call, shifted: `mpc(x, plan.shift())`; None for a cold start. options: reference and
        arguments of the problem for this call, see `problem`. Gradients reach x0, the passed plan ("real_time"),
        options and all parameters.

        An element without an answer (NaN state, a QP that was not solved) gets the passed plan back, and its status
        says why. Its problem contributes nothing to gradients; the passed plan does if it carries gradients, since its
        input is what a closed loop then applies. An element that did not converge in mode "converged" (MAX_ITER) has
        the last trajectory, without gradients. Raises ValueError for wrong shapes, and SolveError for such elements if
        the settings say on_failure="raise".
        """
        x0, plan = self._checked(x0, plan)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            return self._plan(x0, plan, options)

    def _plan(self, x0: Tensor, plan: Plan, options: dict[str, Any]) -> Plan:
        """`forward` of arguments that have been checked."""
        real_time = self.mode == "real_time"
        # In mode "converged" gradients are those of the QP around the solution, not of this first one.
        ocp, qp, finite, (x, u), coordinates = self._build_finite(x0, plan, options, graph=real_time)
        start = plan.warm_start(x.detach(), u.detach(), qp)
        if real_time:
            grad = torch.is_grad_enabled()
            out = self.layer(**qp.data(), warm_start=start) if grad else self.layer.solve(qp, start)
        else:
            answers = solve_sqp(ocp, x.detach(), u.detach(), self.layer, self.sqp, start, qp)
            out = implicit(ocp, answers, self.layer) if torch.is_grad_enabled() else answers.point
        status = torch.where(finite, out.status, int(Status.INVALID_INPUT))
        solved = (status == Status.SOLVED) | (status == Status.CLOSEST_FEASIBLE)
        if self.layer.settings.on_failure == "raise" and not bool(solved.all()):
            index = int((~solved).nonzero()[0])
            message = f"the problem of element {index} has no answer: {Status(int(status[index])).name}"
            raise SolveError(message, self.build(x0, plan, **options).element(index).arguments(), out)
        usable = solved
        if self.mode == "converged":
            usable = usable | (finite & (status == Status.MAX_ITER) & finite_elements(out.x, out.u))
        found = out.x[..., : coordinates.dynamics.nx]
        if self.in_errors:  # NaN leads to no state
            found = torch.where(usable[:, None, None], found, 0.0)
        return plan.replaced(usable, out, status, coordinates.states(found))

    def _checked(self, x0: Tensor, plan: Plan | None) -> tuple[Tensor, Plan]:
        x0 = self._checked_state(x0)
        if plan is None:
            return x0, self.cold_plan(x0)
        self._check_plan(plan, len(x0))
        return x0, plan

    def _checked_state(self, x0: Tensor) -> Tensor:
        if not isinstance(x0, Tensor):
            raise ValueError(f"x0 is a {type(x0).__name__}, expected a torch.Tensor")
        if x0.ndim != 2 or x0.shape[1] != self.nx:
            raise ValueError(f"x0 has shape {tuple(x0.shape)}, expected (B, nx) = (B, {self.nx})")
        return x0.to(device="cpu", dtype=torch.float64)

    def _check_plan(self, plan: Plan, batch: int) -> None:
        if not isinstance(plan, Plan):
            raise TypeError(f"plan is a {type(plan).__name__}, expected a Plan")
        N, nu = self.horizon, self.nu
        shapes = {"states": (N + 1, self.nx), "inputs": (N, nu), "previous": (nu,), "pending": (self.delay, nu)}
        for name, shape in shapes.items():
            got = tuple(getattr(plan, name).shape)
            if got != (batch, *shape):
                raise ValueError(f"plan.{name} has shape {got}, expected {(batch, *shape)}")
