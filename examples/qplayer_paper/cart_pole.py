"""Swing-up of a cart-pole with dry friction in its joints; every simulation step solves a QP (appendix C.3).

    minimise over the friction's impulses L    1/2 L' M^-1 L + v_free' L        subject to |L| <= eta
    v_next = v_free + M^-1 L,    q_next = q + h v_next,    v_free = v + h M^-1 (input - bias)

With dry friction, gradients are zero while a joint sticks: at rest, with no input, nothing indicates which way to push.
So a step is averaged over `samples` Gaussian draws of the input around the learned one (randomised smoothing, with as
many QPs per step); the draws change every epoch and are the same for every solver. Adam changes the inputs of all
steps; the loss depends on the last state only:

    0.1 position^2 + angle^2 + 0.1 speed^2 + 0.1 turning^2

with the angle of the pole from upright. The paper does not publish masses, friction and costs, so its loss is not
comparable: solvers are compared within the same run. The second row is the same robot as `ContactDynamics`, which is
what to use outside a comparison: all QPs of a step in one call, the dynamics and their gradients in C++. The table has
the mean of the last ten training losses, the loss of the learned inputs without draws, median times of an epoch and the
largest residual. All parameters of the robot are options.

    python examples/qplayer_paper/cart_pole.py --peers qplayer qpth
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import pinocchio as pin
import torch
import tyro
from layers import LAYERS, Answer, Layer, Problem, residuals
from learning import Peer, float64_default
from records import Row, curves, merge, report, series
from torch import Tensor

import qp_control as qc

CONTACT = "ContactDynamics"
INERTIA = ("ixx", "iyy", "izz", "ixy", "ixz", "iyz")
PUBLISHED = "paper (its task is not published): QPLayer .02556, OptNet .02604, CvxpyLayer .02566"


@dataclass(frozen=True)
class CartPoleOptions:
    """Learn the inputs of a swing-up with dry friction."""

    out: Path = Path("runs/qplayer_paper")
    """Folder of tables and plots."""
    epochs: int = 800
    """Steps of Adam."""
    rate: float = 0.1
    """Learning rate [N]."""
    steps: int = 20
    """Time steps."""
    period: float = 0.05
    """Time step h [s]."""
    samples: int = 5
    """Draws of the input for each step."""
    noise: float = 2.0
    """Standard deviation of the draws [N]."""
    cart_mass: float = 1.0
    """[kg]"""
    pole_mass: float = 0.1
    """[kg], at the pole's end."""
    pole_length: float = 0.5
    """[m]"""
    cart_friction: float = 1.0
    """Largest dry friction of the cart [N]; eta is h times it."""
    pole_friction: float = 0.01
    """Largest dry friction of the pole's joint [N m]."""
    residual: float = 1e-6
    """Tolerance of the solvers; the largest residual, recomputed from the data, is in the table."""
    seed: int = 0
    """Of the draws."""
    peers: tuple[Peer, ...] = ()
    """Other layers to run."""
    peer_epochs: int | None = None
    """Epochs of the peers; as many as ours if not given."""


class CartPole:
    """q = (position [m], angle from upright [rad]), v; states (..., 4), inputs (...) [N] on the cart."""

    def __init__(self, options: CartPoleOptions) -> None:
        self.o = options
        self.eta = options.period * torch.tensor([options.cart_friction, options.pole_friction]).double()
        self.solved: list[tuple[Problem, Answer]] = []

    def step(self, layer: Layer, x: Tensor, u: Tensor) -> Tensor:
        """(B, 4) next states."""
        o, gravity = self.o, 9.81
        q, v = x[:, :2], x[:, 2:]
        sin, cos = q[:, 1].sin(), q[:, 1].cos()
        inertia = o.pole_mass * o.pole_length**2
        coupling = o.pole_mass * o.pole_length * cos
        total = torch.full_like(sin, o.cart_mass + o.pole_mass)
        M = torch.stack([total, coupling, coupling, torch.full_like(sin, inertia)], 1).reshape(-1, 2, 2)
        forces = torch.stack(
            [u + o.pole_mass * o.pole_length * sin * v[:, 1] ** 2, o.pole_mass * gravity * o.pole_length * sin], 1
        )
        W = torch.linalg.inv(M)
        W = 0.5 * (W + W.mT)
        free = v + o.period * (W @ forces[..., None])[..., 0]
        problem = Problem(free, W, C=torch.eye(2, dtype=x.dtype), l=-self.eta, u=self.eta)
        answer = layer.solve(problem)
        self.solved.append((problem, answer))
        v = free + (W @ answer.x[..., None])[..., 0]
        return torch.cat([q + o.period * v, v], 1)

    def largest_residual(self) -> float:
        """Of the QPs since the last call, outside the timing; NaN if it has not seen any."""
        largest = max((float(residuals(*solved).max()) for solved in self.solved), default=float("nan"))
        self.solved.clear()
        return largest

    def roll_out(self, layer: Layer, inputs: Tensor, draws: Tensor | None = None) -> Tensor:
        """Loss of inputs (steps,) from the pole hanging at rest; draws (steps, samples) [N]."""
        x = torch.tensor([[0.0, torch.pi, 0.0, 0.0]], dtype=torch.float64)
        for k, u in enumerate(inputs):
            around = u.reshape(1) if draws is None else u + draws[k]
            x = self.step(layer, x.expand(len(around), 4), around).mean(0, keepdim=True)
        return (torch.tensor([0.1, 1.0, 0.1, 0.1], dtype=torch.float64) * x[0] ** 2).sum()


class ContactCartPole(CartPole):
    """The same robot from a URDF, its steps by ContactDynamics."""

    def __init__(self, options: CartPoleOptions) -> None:
        super().__init__(options)
        friction = [options.cart_friction, options.pole_friction]
        self.dynamics = qc.ContactDynamics(
            pin.buildModelFromXML(urdf(options)),
            dt=options.period,
            dry_friction=friction,
            actuated=[0],
            joint_limits=False,
        )

    def step(self, layer: Layer, x: Tensor, u: Tensor) -> Tensor:
        found: Tensor = self.dynamics.step(x, u[:, None])
        return found


def urdf(o: CartPoleOptions) -> str:
    def inertial(mass: float, height: float, inertia: float) -> str:
        moments = " ".join(f'{name}="{inertia if name[1] == name[2] else 0}"' for name in INERTIA)
        return f'<inertial><origin xyz="0 0 {height}"/><mass value="{mass}"/><inertia {moments}/></inertial>'

    def joint(name: str, kind: str, parent: str, child: str, axis: str) -> str:
        limit = '<limit lower="-1e3" upper="1e3" effort="1e3" velocity="1e3"/>'
        links = f'<parent link="{parent}"/><child link="{child}"/><axis xyz="{axis}"/>'
        return f'<joint name="{name}" type="{kind}">{links}{limit}</joint>'

    return (
        '<robot name="cart_pole"><link name="ground"/>'
        f'<link name="cart">{inertial(o.cart_mass, 0.0, 1.0)}</link>'
        f'<link name="pole">{inertial(o.pole_mass, o.pole_length, 1e-12)}</link>'
        f"{joint('slide', 'prismatic', 'ground', 'cart', '1 0 0')}"
        f"{joint('hinge', 'revolute', 'cart', 'pole', '0 1 0')}</robot>"
    )


def swing_up(options: CartPoleOptions, solver: str) -> list[Row]:
    native = solver == CONTACT
    layer = LAYERS["qp-control" if native else solver](eps=options.residual)
    robot = ContactCartPole(options) if native else CartPole(options)
    inputs = torch.zeros(options.steps, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([inputs], lr=options.rate)
    epochs = options.peer_epochs or options.epochs if solver in options.peers else options.epochs
    rows: list[Row] = []
    clocks = (time.process_time, time.perf_counter)
    for epoch in range(1, epochs + 1):
        generator = torch.Generator().manual_seed(100_003 * options.seed + epoch)
        draws = options.noise * torch.randn(options.steps, options.samples, generator=generator, dtype=torch.float64)
        start = [clock() for clock in clocks]
        loss = robot.roll_out(layer, inputs, draws)
        middle = [clock() for clock in clocks]
        optimiser.zero_grad()
        loss.backward()
        end = [clock() for clock in clocks]
        optimiser.step()
        row: Row = {
            "solver": "qp-control" if native else layer.name,
            "model": CONTACT if native else "layer",
            "seed": options.seed,
            "threads": 1,
            "epoch": epoch,
        }
        row |= {"loss": loss.item(), "residual": robot.largest_residual()}
        for name, a, b in (("forward", start, middle), ("backward", middle, end)):
            row |= {f"{name}_cpu_ms": 1e3 * (b[0] - a[0]), f"{name}_ms": 1e3 * (b[1] - a[1])}
        rows.append(row)
    with torch.no_grad():
        rows[-1]["loss_without_draws"] = float(robot.roll_out(layer, inputs))
    return rows


def main(options: CartPoleOptions) -> None:
    torch.set_num_threads(1)
    print(report.machine("proxsuite", "qpth", "torch", threads=1))
    widths = {"solver": 12, "model": 17, "epochs": 7, "loss": 9, "loss_without_draws": 19, "forward_cpu_ms": 15}
    table = report.Report("cart_pole_losses", widths | {"backward_cpu_ms": 16, "residual": 9}, options.out)
    for solver in ("qp-control", CONTACT, *options.peers):
        try:
            with float64_default():
                rows = swing_up(options, solver)
        except ImportError as error:
            print(f"not compared: {LAYERS[solver].name} ({error})")
            continue
        report.write_csv(options.out / "runs" / f"cart_pole-{solver}-{options.seed}.csv", rows)
        losses = [float(str(row["loss"])) for row in rows[-10:]]
        times = {
            name: statistics.median(float(str(row[name])) for row in rows)
            for name in ("forward_cpu_ms", "backward_cpu_ms")
        }
        outcome = {name: rows[-1][name] for name in ("solver", "model", "loss_without_draws")}
        outcome |= {"epochs": len(rows), "loss": statistics.fmean(losses)}
        table.add(outcome | times | {"residual": max(float(str(row["residual"])) for row in rows)})
    table.finish()
    print(PUBLISHED)
    lines = series(merge(options.out, "cart_pole"), "loss")
    title = "Swing-up with dry friction"
    curves(options.out / "cart_pole.png", lines, title=title, xlabel="epoch", ylabel="loss of the last state")


if __name__ == "__main__":
    main(tyro.cli(CartPoleOptions, description=__doc__))
