"""Is this installation sound, and how fast is it? What `qp-control doctor` and `qp-control bench` print."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table

import qp_control as qc
from qp_control import _solver
from qp_control._cpu import usable_kernels
from qp_control.viewer.browser import BrowserNotFound, browser_path

PACKAGES = ("qp-control", "numpy", "torch", "pin", "meshcat", "gymnasium")
EXTRAS = {"stable-baselines3": "rl", "example-robot-data-loaders": "robots"}
CELLS = ((1, 10, 0, 10), (128, 10, 0, 10), (128, 20, 5, 20), (64, 50, 10, 50), (64, 100, 50, 50))


@dataclass(frozen=True)
class Finding:
    """good: None if something optional is missing."""

    subject: str
    good: bool | None
    text: str


def examine() -> list[Finding]:
    """Versions, kernels, threads, a solved and differentiated QP, a moved robot, the browser."""
    found = [Finding("Python", True, f"{platform.python_version()}, {platform.system()} {platform.machine()}")]
    for name in (*PACKAGES, *EXTRAS):
        try:
            found.append(Finding(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            extra = EXTRAS.get(name)
            text = f"missing: pip install 'qp-control[{extra}]'" if extra else "missing"
            found.append(Finding(name, None if extra else False, text))
    best = usable_kernels()[0]
    why = "QP_CONTROL_KERNELS is set" if best in _solver.available else "built on another one, install again"
    narrower = "" if _solver.kernels == best else f", this processor has {best}: {why}"
    found.append(Finding("kernels", None if narrower else True, f"{_solver.kernels}{narrower}"))
    found.append(Finding("threads", True, f"{_cores()} cores for this process"))
    for subject, check in (("QP solver", _solve), ("gradients", _differentiate), ("robots", _move)):
        try:
            found.append(Finding(subject, True, check()))
        except Exception as error:
            found.append(Finding(subject, False, f"{type(error).__name__}: {error}"))
    try:
        found.append(Finding("browser", True, browser_path()))
    except BrowserNotFound as error:
        found.append(Finding("browser", None, str(error)))
    return found


def _cores() -> int:
    """Number of cores available to this process, if the system tells."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _problem(batch: int, n: int, n_eq: int, n_in: int) -> dict[str, torch.Tensor]:
    """Random strictly convex QPs around a feasible point."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    M, A, C, x = draw(n, n), draw(n_eq, n), draw(n_in, n), draw(n)
    at = (C @ x[..., None])[..., 0]
    return {
        "H": M @ M.mT / n + 0.1 * torch.eye(n, dtype=torch.float64),
        "g": draw(n),
        "A": A,
        "b": (A @ x[..., None])[..., 0],
        "C": C,
        "l": at - draw(n_in).abs(),
        "u": at + draw(n_in).abs(),
    }


def _solve() -> str:
    """A small problem with known solution: a linear program, solved at a vertex."""
    sol = qc.solve_qp(None, [-1.0, -2.0], C=[[1.0, 1.0]], u=[1.0], lb=[0.0, 0.0])
    if not np.allclose(sol.x, [0.0, 1.0], atol=1e-7):
        raise RuntimeError(f"min -x1 - 2 x2 on the simplex gave {sol.x}, expected (0, 1)")
    return "a linear program ends at its vertex"


def _differentiate() -> str:
    """Compares a gradient with central differences."""
    data = _problem(2, 4, 1, 3)
    layer, h = qc.QPLayer(settings=qc.Settings(eps_abs=1e-11)), 1e-6
    g = data["g"].clone().requires_grad_()
    layer(**{**data, "g": g}).x.square().sum().backward()
    assert g.grad is not None
    moved = [float(layer(**{**data, "g": data["g"] + s * h}).x.square().sum()) for s in (1.0, -1.0)]
    difference, slope = (moved[0] - moved[1]) / (2.0 * h), float(g.grad.sum())
    if abs(difference - slope) > 1e-5 * max(1.0, abs(slope)):
        raise RuntimeError(f"the layer's gradient is {slope}, differences give {difference}")
    return "those of a layer equal finite differences"


def _move() -> str:
    """A pendulum hanging at rest stays at rest."""
    from qp_control.envs.task import ASSETS

    robot = qc.RobotDynamics(ASSETS / "pendulum.urdf", dt=0.05)
    x = torch.tensor([[np.pi, 0.0]], dtype=torch.float64)
    ahead = robot.step(x, torch.zeros(1, 1, dtype=torch.float64))
    if not torch.allclose(ahead, x, atol=1e-9):
        raise RuntimeError(f"a hanging pendulum at rest moved to {ahead.tolist()}")
    return "a hanging pendulum stays at rest"


def findings_table(found: list[Finding]) -> Table:
    """What `doctor` shows."""
    table = Table()
    for heading in ("", "", ""):
        table.add_column(heading)
    for item in found:
        mark = {True: "[green]ok[/green]", None: "[yellow]--[/yellow]", False: "[red]broken[/red]"}[item.good]
        table.add_row(item.subject, mark, item.text.replace("[", "\\["))
    return table


def _best(action: Callable[[], Any], seconds: float) -> float:
    """Median time of an action [s], after a first call."""
    action()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def speed_table(seconds: float = 0.3) -> Table:
    """What `bench` shows: times of the QP layer on random QPs on this machine.

    seconds: measuring time per number. Comparisons with other solvers are in benchmarks/ of the repository.
    """
    table = Table(title=f"kernels {_solver.kernels}, {_cores()} cores")
    table.add_column("QPs x (n, n_eq, n_in)")
    for heading in ("solve [ms]", "with gradient [ms]", "per problem [us]"):
        table.add_column(heading, justify="right")
    layer = qc.QPLayer()
    for cell in CELLS:
        data = _problem(*cell)
        learned = {name: value.clone().requires_grad_() for name, value in data.items()}

        def solve(data: dict[str, torch.Tensor] = data) -> None:
            with torch.no_grad():
                layer(**data)

        def differentiate(data: dict[str, torch.Tensor] = learned) -> None:
            layer(**data).x.sum().backward()

        forward, both = _best(solve, seconds), _best(differentiate, seconds)
        batch, *sizes = cell
        table.add_row(
            f"{batch} x {tuple(sizes)}", f"{1e3 * forward:.3g}", f"{1e3 * both:.3g}", f"{1e6 * both / batch:.3g}"
        )
    return table
