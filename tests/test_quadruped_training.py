"""What a quadruped learns from pushes: closed loops through contact, and the records of what goes wrong in them."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import qp_control as qc
from qp_control.training import RunFolder, Trainer, TrainingTask, create, pipeline
from qp_control.training.batch_parts import differentiate
from qp_control.training.evaluation import evaluate
from qp_control.training.rollout import closed_loop, failed_problem
from qp_control.training.task import HELD_OUT_SEED


@pytest.fixture(scope="module")
def stand() -> Any:
    return create("quadruped_stand")


def test_a_push_changes_the_trunk_once_and_the_ground_is_the_drawn_one() -> None:
    plant: Any = create("quadruped_trot").plant
    x = plant.sample_starts(50, 0)
    assert torch.equal(x, plant.sample_starts(50, 0)) and not torch.equal(x, plant.sample_starts(50, 1))
    speed, when = x[:, -3:-1].norm(dim=1), x[:, -1]
    assert bool((speed > 0.8 - 1e-9).all()) and bool((speed < 1.6 + 1e-9).all()) and float(speed.max()) > 1.4
    assert when.min() >= 6 and when.max() <= 41 and len(when.unique()) > 10
    assert bool((x[:, 37] >= 0.3).all()) and bool((x[:, 37] <= 0.7).all())
    first = x[:1].clone()
    first[0, -1] = 1.0
    rest = torch.from_numpy(plant.rest_input)[None]
    before = plant.step(first, rest)
    after = plant.step(before, rest)
    last = plant.step(after, rest)
    push = first[0, -3:-1]
    # Within a step the ground and the legs, which are not pushed, take some of it.
    gained = [(b[0, 19:21] - a[0, 19:21]) @ push / push.square().sum() for a, b in ((before, after), (after, last))]
    assert float(before[0, 19:21].norm()) < 0.05 and float(gained[0]) > 0.5 and abs(float(gained[1])) < 0.3


def test_a_step_along_the_gradient_lowers_the_cost_of_the_same_pushes() -> None:
    task: Any = create("quadruped_stand", least_push=0.6, largest_push=1.0, batch=8, steps=60, iterations=1)
    trainer = Trainer(task)
    phase, generator = task.phases()[0], torch.Generator()
    update = phase.update(trainer.module, generator.manual_seed(0))
    assert bool((update.status == qc.Status.SOLVED).all()) and update.steps == 480 and update.failure is None
    norm = phase.backward(update, trainer.optimizer, 1.0, generator)
    with torch.no_grad():
        for p in trainer.learnable:
            if p.grad is not None:
                p -= 0.02 * p.grad / p.grad.norm().clamp_min(1e-3)
        after = phase.update(trainer.module, generator.manual_seed(0)).loss
    assert norm > 0.0 and float(after) < float(update.loss.detach())


def test_pushes_of_an_update_can_be_divided() -> None:
    """Among processes: its parts have the gradient of the whole."""
    task: Any = create("quadruped_trot", batch=3, steps=8, iterations=1)
    phase, module = task.phases()[0], task.module()
    numbers = phase.parameters(module)
    whole, parts = (differentiate(phase, module, numbers, torch.Generator().manual_seed(2), k) for k in (1, 2))
    assert len(numbers) == 24 and float(whole.gradients.norm()) > 0.0
    # Batches of another size differ by rounding, which the loop's adjoint enlarges.
    torch.testing.assert_close(parts.gradients, whole.gradients, rtol=1e-6, atol=1e-9)


def test_what_fell_costs_the_same_and_has_no_gradient(stand: Any) -> None:
    """A robot that lies on its side from the start: its neighbour's gradient is the same with and without it."""
    x0, module = stand.plant.sample_starts(2, 3), stand.module()
    x0[1, 3:7] = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64) / 2**0.5
    pair, alone = stand.loops(module, x0, 10), stand.loops(module, x0[:1], 10)
    assert torch.equal(pair.rewards[1, 1:], torch.full((9,), stand.failed_reward, dtype=torch.float64))
    assert torch.equal(pair.states[1, 2], pair.states[1, 10])
    numbers = list(module.whole_body.numbers.log.values())
    got = torch.autograd.grad(pair.rewards[:, 1:].sum(), numbers, allow_unused=True)
    expected = torch.autograd.grad(alone.rewards[:, 1:].sum(), numbers, allow_unused=True)
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, rtol=1e-9, atol=1e-12))


@pytest.mark.parametrize("name", ["quadruped_stand", "quadruped_trot"])
def test_a_tick_without_an_answer_is_kept_as_a_qp(name: str, tmp_path: Path) -> None:
    task: Any = create(name)
    module, x = task.module(), task.plant.sample_starts(2, 0)
    with torch.no_grad():
        first = module(x)
        given = first.shift()
        decision = dataclasses.replace(module(x, given), status=torch.tensor([0, int(qc.Status.MAX_ITER)]))
    failure = failed_problem(module, x, given, decision, 7)
    assert (failure.element, failure.step, failure.status) == (1, 7, qc.Status.MAX_ITER)
    run = RunFolder.create(tmp_path / "run", name, {})
    path = run.save_failure(failure, 3)
    assert path is not None
    problem = qc.load_problem(path)
    sol = qc.solve_qp(**problem)
    assert sol.status == qc.Status.SOLVED
    assert torch.allclose(decision.acceleration[1], torch.from_numpy(sol.x[:18]), rtol=1e-5, atol=1e-5)


def test_a_plan_without_an_answer_is_kept_as_a_qp() -> None:
    task: Any = create("quadruped_trot")
    module, x = task.module(qc.Settings(max_iter=1)), task.plant.sample_starts(2, 0)
    with torch.no_grad():
        failure = task.loops(module, x, 1).failure
    assert failure is not None and failure.status == qc.Status.MAX_ITER and failure.data["horizon"] == 12
    sol = qc.solve_ocp(**failure.data)
    plan = task.module().forward(x[:1])
    assert sol.status == qc.Status.SOLVED
    assert torch.allclose(plan.body_force.detach().flatten(), torch.from_numpy(sol.u[0]), rtol=0, atol=1e-3)  # [N]


@pytest.mark.parametrize("name", ["quadruped_stand", "quadruped_trot"])
def test_loops_go_on_from_what_was_carried(name: str) -> None:
    """In one piece or in two, and by elements: of what a decision carries nothing is lost, and gaits may differ."""
    task: Any = create(name)
    module, x0 = task.module(), task.plant.sample_starts(3, 1)
    decided: list[Any] = []
    with torch.no_grad():
        whole = closed_loop(module, task.plant.step, x0, 16, see=decided.append)
        assert bool(decided[4].solved.all()) and bool((decided[4].iterations > 0).all())
        x, plan = whole.states[:, 5], decided[4].shift().detach()
        rest = closed_loop(module, task.plant.step, x, 11, plan=plan)
        assert torch.equal(rest.states, whole.states[:, 5:])
        # Elements of several loops in one batch, at several places of the gait: planned again where it is time.
        places = (3, 6, 9)
        mixed = [decided[k].shift()[1:2] for k in places]
        batch = dataclasses.replace(mixed[0], **{f.name: joined(mixed, f.name) for f in dataclasses.fields(mixed[0])})
        together = closed_loop(
            module, task.plant.step, torch.cat([whole.states[1:2, k + 1] for k in (3, 6, 9)]), 6, plan=batch
        )
    for row, k in enumerate((3, 6, 9)):
        # Solved to 1e-9 or so from elsewhere, and carried on by unstable dynamics over 30 ms.
        torch.testing.assert_close(together.states[row], whole.states[1, k + 1 : k + 8], rtol=0, atol=1e-6)


def joined(decisions: list[Any], name: str) -> Any:
    values = [getattr(decision, name) for decision in decisions]
    if isinstance(values[0], tuple):
        return type(values[0])(*(torch.cat(parts) for parts in zip(*values, strict=True)))
    return torch.cat(values)


@pytest.mark.parametrize("name", ["quadruped_stand", "quadruped_trot"])
def test_a_state_that_is_none_leaves_the_other_robots(name: str) -> None:
    task: Any = create(name)
    module, x0 = task.module(), task.plant.sample_starts(3, 2)
    bad = x0.clone()
    bad[0, 8] = float("nan")
    with torch.no_grad():
        good, rollout = task.loops(module, x0, 8), task.loops(module, bad, 8)
        assert rollout.status[0, 0] == qc.Status.INVALID_INPUT and bool((rollout.status[1:] == qc.Status.SOLVED).all())
        torch.testing.assert_close(rollout.states[1:], good.states[1:], rtol=0, atol=1e-9)
        assert bool((rollout.rewards[0] == task.failed_reward).all())


def test_whole_episodes_are_judged_as_of_any_controller(stand: Any) -> None:
    x0 = stand.plant.sample_starts(3, 2)
    x0[0, 8], x0[1, 19:22] = float("nan"), 5.0
    result = evaluate(stand.plant, stand.module(), x0)
    assert bool(result.returns.isfinite().all()) and result.success < 1.0
    assert bool((result.rollout.status[0] == qc.Status.INVALID_INPUT).all())


def test_a_run_has_its_pictures_and_its_replay(tmp_path: Path) -> None:
    options = create("quadruped_stand", iterations=1, batch=2, steps=10, validation_count=1).options
    pipeline.train("quadruped_stand", tmp_path / "run", options, baselines=False, held_out=1)
    assert (tmp_path / "run" / "pushes.png").stat().st_size > 1000
    assert (tmp_path / "run" / "replay.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quadruped_stand", "quadruped_trot"])
def test_pushes_that_fell_before_are_survived(name: str) -> None:
    task: TrainingTask = create(name)
    learned = Trainer(task).train()
    untuned, after = (task.score(module, HELD_OUT_SEED, 100).values["survived"] for module in (task.module(), learned))
    assert after >= untuned + 0.15


def test_small_pushes_are_survived_in_mujoco_too() -> None:
    pytest.importorskip("mujoco")
    folder = str(Path(__file__).resolve().parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        mujoco_pushes = importlib.import_module("mujoco_pushes")
    finally:
        sys.path.remove(folder)
    task: Any = create("quadruped_stand", least_push=0.3, largest_push=0.6)
    module = task.module()
    assert mujoco_pushes.survived(task, module, 3, 0).all()
    assert task.score(module, 0, 3).values["survived"] == 1.0
