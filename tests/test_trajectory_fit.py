"""Identification from whole trajectories: maximum likelihood, and the standard deviations that are reported."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from qp_control.training import RunFolder, Trainer, create, pipeline
from qp_control.training.tasks.cart_pole_identification import CartPoleIdentification, CartPoleModel
from qp_control.training.trajectory_fit import TrajectoryFit


class Decay(nn.Module):
    """x_{k+1} = exp(-rate) x_k + gain u_k, and a number without influence."""

    def __init__(self, rate: float, gain: float) -> None:
        super().__init__()
        self.rate, self.gain, self.idle = (
            nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (rate, gain, 1.0)
        )

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return (-self.rate).exp() * x + self.gain * u

    def rollout(self, x: Tensor, u: Tensor) -> Tensor:
        states = [x]
        for u_k in u.unbind(1):
            states.append(self(states[-1], u_k))
        return torch.stack(states[1:], 1)

    def numbers(self) -> Tensor:
        return torch.stack([self.rate, self.gain, self.idle])


def data(noise: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = Decay(0.3, 0.5)
    x0, u = torch.rand(4, 1, generator=generator), torch.rand(4, 12, 1, generator=generator)
    with torch.no_grad():
        states = torch.cat([x0[:, None].double(), truth.rollout(x0.double(), u.double())], 1)
    return states + noise * torch.randn(states.shape, generator=generator, dtype=torch.float64), u.double()


def fit_of(noise: float, seed: int, iterations: int = 12) -> TrajectoryFit:
    one = torch.ones(1, dtype=torch.float64)
    return TrajectoryFit(Decay.forward, Decay.rollout, *data(noise, seed), one, iterations)


def trained(phase: TrajectoryFit, module: nn.Module) -> list[float]:
    """Losses, as the trainer takes the updates."""
    generator = torch.Generator().manual_seed(0)
    parameters = phase.parameters(module)
    optimizer, losses = phase.optimizer(parameters), []
    for k in range(phase.iterations):
        phase.schedule(optimizer, k)
        update = phase.update(module, generator)
        losses.append(float(update.loss.detach()))
        phase.backward(update, optimizer, 1.0, generator)
        optimizer.step()
    return losses


def least_squares(states: Tensor, u: Tensor, begin: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Residuals and their dense Jacobian by (rate, gain, all initial states): an oracle without any elimination."""

    def residuals(v: Tensor) -> Tensor:
        x = v[2:].view(-1, 1)
        found = [x]
        for u_k in u.unbind(1):
            found.append((-v[0]).exp() * found[-1] + v[1] * u_k)
        return (torch.stack(found, 1) - states).flatten()

    at = torch.cat([numbers, begin.flatten()])
    jacobian: Any = torch.autograd.functional.jacobian(residuals, at)
    return residuals(at), jacobian


def test_fit_is_the_least_squares_solution_in_parameters_and_initial_states() -> None:
    phase, module = fit_of(0.05, 0, 40), Decay(0.5, 0.3)
    losses = trained(phase, module)
    assert losses[-1] < 0.5 * losses[0]
    r, J = least_squares(phase.states, phase.inputs, phase._begin, module.numbers()[:2].detach())
    # A sum of terms that are not small is: what 40 steps leave.
    assert float((J.T @ r).abs().max()) < 1e-6 < 1e-3 * float((J.abs().T @ r.abs()).max())


def test_standard_deviations_are_those_of_the_whole_information_matrix() -> None:
    phase, module = fit_of(0.05, 1), Decay(0.35, 0.45)
    got = phase.deviations(module, Decay.numbers, noise=0.05)
    numbers, begin = module.numbers()[:2].detach(), phase.states[:, 0]
    r, J = least_squares(phase.states, phase.inputs, begin, numbers)
    begin = begin - torch.linalg.lstsq(J[:, 2:], r[:, None]).solution  # linear in the initial states
    _, J = least_squares(phase.states, phase.inputs, begin, numbers)
    expected = 0.05 * (J.T @ J).inverse().diagonal()[:2].sqrt()
    # Central differences of 1e-5.
    assert torch.allclose(got[:2], expected, rtol=1e-6)
    assert got[2] == torch.inf  # no trajectory tells it


def test_errors_are_as_large_as_reported() -> None:
    """20 runs, two numbers: their mean square over the reported variances is one within 3 sqrt(2 / 40)."""
    squares = []
    for seed in range(20):
        phase, module = fit_of(0.02, seed, 4), Decay(0.3, 0.5)
        trained(phase, module)
        error = (module.numbers()[:2] - torch.tensor([0.3, 0.5])).detach()
        squares.append((error / phase.deviations(module, Decay.numbers)[:2]).square())
    assert abs(float(torch.stack(squares).mean()) - 1.0) < 0.67


def test_predictions_from_noisy_states_are_worse_than_whole_trajectories() -> None:
    task: Any = create("cart_pole_identification", noise=1e-2, trajectories=4, validation_count=2, iterations=40)
    truth = task.truth.identifiable()
    trainer = Trainer(task)
    trainer.train(until=40)
    before = (trainer.module.identifiable().detach() / truth - 1.0).abs()
    trainer.train()
    error = (trainer.module.identifiable().detach() / truth - 1.0).abs()
    assert float(error.max()) < float(before.max())
    # Three standard deviations of each number, as far off as one of seven may be.
    reported: dict[str, Any] = {one.name: one for one in task.estimates(trainer.module)}
    assert len(reported) == 7
    deviations = torch.tensor([one.standard_deviation for one in reported.values()], dtype=torch.float64) / truth
    assert bool((error < 3.5 * deviations).all())


@pytest.mark.parametrize("stop", [3, 6])
def test_resumed_fit_equals_an_uninterrupted_one(tmp_path: Any, stop: int) -> None:
    """Initial states and the loss that goes with them are in the checkpoint."""
    options = {"noise": 1e-2, "trajectories": 2, "length": 8, "iterations": 4, "trajectory_iterations": 4}
    task = create("cart_pole_identification", validate_every=1, validation_count=1, **options)

    def begin(name: str) -> RunFolder:
        return RunFolder.create(tmp_path / name, task.name, vars(task.options))

    whole = Trainer(task, begin("whole"))
    whole.train()
    run = begin("parts")
    Trainer(task, run).train(until=stop)
    again = Trainer(task, run)
    again.resume()
    again.train()
    assert all(torch.equal(a, b) for a, b in zip(whole.module.parameters(), again.module.parameters(), strict=True))


def test_rollouts_of_the_task_are_its_steps() -> None:
    task = create("cart_pole_identification", trajectories=2, length=5)
    assert isinstance(task, CartPoleIdentification)
    states, inputs = task.trajectories(2, 0)
    rollout: Callable[..., Tensor] = CartPoleModel.rollout
    assert torch.allclose(rollout(task.truth, states[:, 0], inputs), states[:, 1:], atol=1e-12)


def test_runs_print_and_keep_standard_deviations(tmp_path: Any) -> None:
    options = {"noise": 1e-3, "trajectories": 2, "length": 8, "iterations": 2, "trajectory_iterations": 2}
    task = create("cart_pole_identification", validation_count=1, **options)
    written = io.StringIO()
    console = Console(file=written, width=160)
    pipeline.train(task.name, tmp_path / "run", task.options, baselines=False, held_out=2, console=console)
    assert "standard deviation" in written.getvalue() and "mass of both" in written.getvalue()
    rows = json.loads((tmp_path / "run" / "estimates.json").read_text())
    assert len(rows) == 7 and all(row["standard_deviation"] > 0.0 and row["interval"] is None for row in rows)
