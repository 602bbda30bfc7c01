"""Solvers of batches of bounded linear-quadratic regulators behind one interface, ours and its peers.

What does not depend on numbers to be learned is made in `prepare`, outside the timing. A, B, c, Q, R, x0 are tensors
that gradients are taken of, so putting them into a solver's own form (one copy per stage and element, a dense QP) is
part of its layer and of the timing. piqp has no derivative: it gets its form ready-made.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from random_ocps import Array, Regulators

import qp_control as qc

NAMES = ("A", "B", "c", "Q", "R", "x0")
OURS = "qp-control"
DENSE_UNKNOWNS = 300  # of an element, for the solvers of the dense form
Point = tuple[Array, Array, Array]


def threads_text(threads: int) -> str:
    return f", {threads} thread{'s' if threads > 1 else ''}"


class Solver(ABC):
    """One solver with a number of threads. `leaves`: what gradients are taken of; none: it has no derivative."""

    tolerances: tuple[float, ...] = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self.leaves: list[torch.Tensor] = []
        self.eps = 1e-6

    def suits(self, problem: Regulators) -> bool:
        return True

    def prepare(self, problem: Regulators) -> None:
        """Takes the problems, outside the timing."""
        self.problem = problem
        self.leaves = [torch.tensor(getattr(problem, name), requires_grad=True) for name in NAMES]
        self.set_tolerance(self.eps)

    def set_tolerance(self, eps: float) -> None:
        self.eps = eps

    @abstractmethod
    def solve(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """x (B, N + 1, nx) and u (B, N, nu) with their graph; nothing without derivatives."""

    @abstractmethod
    def point(self) -> Point:
        """x, u, y of the last call of `solve`, with the signs of qp-control."""


def numpy(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().double().numpy()
    return array


class Ours(Solver):
    def set_tolerance(self, eps: float) -> None:
        self.eps = eps
        settings = qc.Settings(eps_abs=eps, eps_rel=eps, threads=self.threads)
        self.layer = qc.OcpLayer(settings, horizon=self.problem.horizon)
        self.bound = torch.full((self.problem.sizes[1],), self.problem.bound, dtype=torch.float64)

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        A, B, c, Q, R, x0 = self.leaves
        self.out = self.layer(A, B, x0, Q=Q, R=R, c=c, u_lower=-self.bound, u_upper=self.bound)
        return self.out.x, self.out.u

    def point(self) -> Point:
        return numpy(self.out.x), numpy(self.out.u), numpy(self.out.y)


class Dense(Solver):
    """QP layers on the dense form in (x_0, .., x_N, u_0, .., u_{N-1}), the dynamics being equalities."""

    def suits(self, problem: Regulators) -> bool:
        nx, nu, N, _ = problem.sizes
        return (N + 1) * nx + N * nu <= DENSE_UNKNOWNS

    def prepare(self, problem: Regulators) -> None:
        super().prepare(problem)
        nx, nu, N, _ = problem.sizes
        self.split = [(N + 1) * nx, N * nu]
        self.shift, self.stages = torch.diag(torch.ones(N, dtype=torch.float64), -1), torch.eye(N, dtype=torch.float64)
        self.eye = torch.eye((N + 1) * nx, dtype=torch.float64)
        self.ub = torch.cat([torch.full((size,), value, dtype=torch.float64) for size, value in zip(
            self.split, (np.inf, problem.bound), strict=True)])  # fmt: skip

    def form(self) -> tuple[torch.Tensor, ...]:
        """H, g, E, e of minimise 1/2 v'H v + g'v subject to E v = e."""
        A, B, c, Q, R, x0 = self.leaves
        batch, N = len(x0), self.problem.horizon
        stage = torch.eye(N + 1, dtype=torch.float64)
        H = torch.block_diag(torch.kron(stage, Q), torch.kron(self.stages, R))  # type: ignore[no-untyped-call]
        E = torch.cat([torch.kron(self.shift, A) - self.eye, torch.kron(self.shift[:, :-1].contiguous(), B)], 1)
        e = -torch.cat([x0, c.repeat(N).expand(batch, -1)], 1)
        return H, torch.zeros(len(H), dtype=torch.float64), E, e

    @abstractmethod
    def solve_form(self, H: torch.Tensor, g: torch.Tensor, E: torch.Tensor, e: torch.Tensor) -> Any:
        """v and y, (B, n) and (B, n_eq)."""

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        v, self.y = self.solve_form(*self.form())
        x, u = torch.split(v, self.split, 1)
        nx, nu, N, batch = self.problem.sizes
        self.x, self.u = x.reshape(batch, N + 1, nx), u.reshape(batch, N, nu)
        return self.x, self.u

    def point(self) -> Point:
        return numpy(self.x), numpy(self.u), numpy(self.y).reshape(self.x.shape)


class OursDense(Dense):
    def solve_form(self, H: torch.Tensor, g: torch.Tensor, E: torch.Tensor, e: torch.Tensor) -> Any:
        layer = qc.QPLayer(qc.Settings(eps_abs=self.eps, eps_rel=self.eps, threads=self.threads))
        out = layer(H, g, E, e, lb=-self.ub, ub=self.ub)
        return out.x, out.y


class ProxsuiteDense(Dense):
    """The bounds are rows of the identity. What a batch shares must be copied: its gradient would be the mean."""

    tolerances = (1e-4, 1e-6, 1e-8)

    def __init__(self, name: str, threads: int) -> None:
        from proxsuite.torch.qplayer import QPFunction

        super().__init__(name, threads)
        self.function: Callable[..., Any] = QPFunction

    def solve_form(self, H: torch.Tensor, g: torch.Tensor, E: torch.Tensor, e: torch.Tensor) -> Any:
        batch = len(e)
        C = torch.eye(len(H), dtype=torch.float64)[self.split[0] :]
        u = self.ub[self.split[0] :]
        shared = [t.expand(batch, *t.shape) for t in (H, g, E, C, -u, u)]
        count, os.cpu_count = os.cpu_count, lambda: 2 * self.threads
        try:
            v, y, _ = self.function(eps=self.eps, omp_parallel=self.threads > 1)(*shared[:3], e, *shared[3:])
        finally:
            os.cpu_count = count
        return v.double(), y


class MpcPytorch(Solver):
    """mpc.pytorch: N + 1 stages of (x, u), the last input free of effect and therefore zero.

    `eps` is its bound on the norm of a step, with at most 20 steps. Elements above it keep their gradient here; by
    default it would be zero without a word.
    """

    tolerances = (1e-3, 1e-5, 1e-7)

    def __init__(self, name: str, threads: int) -> None:
        from mpc import mpc

        super().__init__(name, threads)
        self.mpc = mpc

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        A, B, c, Q, R, x0 = self.leaves
        nx, nu, N, batch = self.problem.sizes
        C = torch.block_diag(Q, R).expand(N + 1, batch, nx + nu, nx + nu)  # type: ignore[no-untyped-call]
        F = torch.cat([A, B], 1).expand(N, batch, nx, nx + nu)
        zero = torch.zeros(N + 1, batch, nx + nu, dtype=torch.float64)
        solver = self.mpc.MPC(
            nx, nu, N + 1, u_lower=-self.problem.bound, u_upper=self.problem.bound, lqr_iter=20, eps=self.eps,
            verbose=-1, exit_unconverged=False, detach_unconverged=False, n_batch=batch,
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            x, u, _ = solver(x0, self.mpc.QuadCost(C, zero), self.mpc.LinDx(F, c.expand(N, batch, nx)))
        self.x, self.u = x.transpose(0, 1), u[:-1].transpose(0, 1)
        return self.x, self.u

    def point(self) -> Point:
        x = numpy(self.x)
        return x, numpy(self.u), self.problem.costates(x)


class PiqpMultistage(Solver):
    """piqp with its KKT solver for stages, one problem after the other: x0 is updated, all else set up before.

    The unknowns are (x_0, u_0, x_1, .., x_N), the equalities x_0 = x0 and x_{k+1} - A x_k - B u_k = c.
    """

    def __init__(self, name: str, threads: int) -> None:
        import piqp

        super().__init__(name, threads)
        self.piqp = piqp

    def prepare(self, problem: Regulators) -> None:
        nx, nu, N, batch = problem.sizes
        x = np.arange(N)[:, None] * (nx + nu) + np.arange(nx + nu)
        self.is_x = np.arange((N + 1) * nx + N * nu) % (nx + nu) < nx
        step = np.concatenate([-problem.A, -problem.B], axis=1)
        E = sp.lil_matrix(((N + 1) * nx, len(self.is_x)))
        for k in range(N + 1):
            rows = slice(k * nx, (k + 1) * nx)
            E[rows, k * (nx + nu) : k * (nx + nu) + nx] = np.eye(nx)
            if k:
                E[rows, x[k - 1]] = step
        stage = sp.block_diag([problem.Q, problem.R])
        self.P = sp.block_diag([*[stage] * N, problem.Q], format="csc")
        self.E = E.tocsc()
        self.e = np.concatenate([problem.x0, np.tile(problem.c, (batch, N))], axis=1)
        self.ub = np.where(self.is_x, np.inf, problem.bound)
        self.problem = problem
        self.set_tolerance(self.eps)

    def set_tolerance(self, eps: float) -> None:
        self.solver = self.piqp.SparseSolver()
        settings = self.solver.settings
        settings.kkt_solver = self.piqp.KKTSolver.sparse_multistage
        settings.eps_abs = settings.eps_rel = eps
        settings.check_duality_gap = False
        zero = np.zeros(len(self.ub))
        self.solver.setup(self.P, zero, self.E, self.e[0], None, None, None, -self.ub, self.ub)
        self.eps = eps

    def solve(self) -> None:
        self.found = []
        for e in self.e:
            self.solver.update(b=e)
            self.solver.solve()
            # Its arrays are views of memory that the next solve overwrites.
            self.found.append((self.solver.result.x.copy(), self.solver.result.y.copy()))

    def point(self) -> Point:
        nx, nu, N, batch = self.problem.sizes
        v, y = (np.stack(values) for values in zip(*self.found, strict=True))
        x, u = v[:, self.is_x], v[:, ~self.is_x]
        return x.reshape(batch, N + 1, nx), u.reshape(batch, N, nu), -y.reshape(batch, N + 1, nx)


class Acados(Solver):
    """acados with HPIPM, one problem after the other: one real-time iteration, exact for a linear plant.

    Its code is generated and compiled outside the timing; what reads the trajectory is not timed either.
    """

    tolerances = (1e-6, 1e-8)

    def __init__(self, name: str, threads: int) -> None:
        import acados_template
        import casadi

        super().__init__(name, threads)
        self.acados, self.casadi = acados_template, casadi

    def prepare(self, problem: Regulators) -> None:
        nx, nu, N, _ = problem.sizes
        model, ocp = self.acados.AcadosModel(), self.acados.AcadosOcp()
        model.name = f"regulator_{time.time_ns()}"  # a shared library stays loaded
        model.x, model.u = self.casadi.SX.sym("x", nx), self.casadi.SX.sym("u", nu)
        model.disc_dyn_expr = problem.A @ model.x + problem.B @ model.u + problem.c
        ocp.model, cost, limits, options = model, ocp.cost, ocp.constraints, ocp.solver_options
        horizon = (options, "N_horizon") if hasattr(options, "N_horizon") else (ocp.dims, "N")
        setattr(*horizon, N)
        cost.cost_type_0 = cost.cost_type = cost.cost_type_e = "LINEAR_LS"
        cost.W_0 = cost.W = np.block([[problem.Q, np.zeros((nx, nu))], [np.zeros((nu, nx)), problem.R]])
        cost.Vx_0 = cost.Vx = np.eye(nx + nu, nx)
        cost.Vu_0 = cost.Vu = np.eye(nx + nu)[:, nx:]
        cost.W_e, cost.Vx_e = problem.Q, np.eye(nx)
        cost.yref_0 = cost.yref = np.zeros(nx + nu)
        cost.yref_e = np.zeros(nx)
        limits.x0, limits.idxbu = problem.x0[0], np.arange(nu)
        limits.ubu = np.full(nu, problem.bound)
        limits.lbu = -limits.ubu
        options.tf, options.integrator_type, options.hessian_approx = float(N), "DISCRETE", "GAUSS_NEWTON"
        options.nlp_solver_type, options.qp_solver = "SQP_RTI", "PARTIAL_CONDENSING_HPIPM"
        self.problem, self.ocp = problem, ocp
        self.set_tolerance(self.eps)

    def set_tolerance(self, eps: float) -> None:
        self.eps = self.ocp.solver_options.qp_solver_tol = eps
        with tempfile.TemporaryDirectory() as folder:
            self.ocp.code_export_directory = f"{folder}/code"
            self.solver = self.acados.AcadosOcpSolver(self.ocp, json_file=f"{folder}/regulator.json")

    def solve_one(self, x0: Array) -> None:
        self.solver.set(0, "lbx", x0)
        self.solver.set(0, "ubx", x0)
        self.solver.solve()

    def solve(self) -> None:
        for x0 in self.problem.x0:
            self.solve_one(x0)

    def point(self) -> Point:
        N, xs, us = self.problem.horizon, [], []
        for x0 in self.problem.x0:
            self.solve_one(x0)
            xs.append([self.solver.get(k, "x") for k in range(N + 1)])
            us.append([self.solver.get(k, "u") for k in range(N)])
        x = np.array(xs)
        return x, np.array(us), self.problem.costates(x)


def solvers(threads: int) -> tuple[list[Solver], list[str]]:
    """Ours first, then the peers that are installed; and the names of those that are not."""
    counts = sorted({1, threads}, reverse=True)
    found: list[Solver] = [Ours(OURS + threads_text(count), count) for count in counts]
    found.append(OursDense("qp-control, dense form" + threads_text(threads), threads))
    missing: list[str] = []

    def try_to_add(package: str, make: Callable[[], Solver]) -> None:
        try:
            found.append(make())
        except ImportError as error:
            missing.append(f"{package} ({error})")

    try_to_add("piqp", lambda: PiqpMultistage("piqp multistage, 1 thread", 1))
    try_to_add("acados_template", lambda: Acados("acados, 1 thread", 1))
    for count in counts:
        try_to_add("mpc", lambda count=count: MpcPytorch("mpc.pytorch" + threads_text(count), count))  # type: ignore[misc]
    try_to_add("proxsuite", lambda: ProxsuiteDense("QPLayer, dense form" + threads_text(threads), threads))
    return found, missing
