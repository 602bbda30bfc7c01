"""Training: it learns, goes on where it stopped, and keeps the evidence where it fails."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import qp_control as qc
import qp_control.envs
from qp_control.mpc.controller import MPC
from qp_control.training import (
    RunError,
    RunFolder,
    Trainer,
    TrainingError,
    TrainingOptions,
    checkpoint,
    closed_loop,
    create,
    evaluate,
)
from qp_control.training.baselines import evolution_strategy
from qp_control.training.evaluation import mean_interval, share_interval, starts
from qp_control.training.planner import experts, linear_regulator
from qp_control.training.run_folder import read_metrics
from qp_control.training.task import HELD_OUT_SEED
from qp_control.training.tasks.cart_pole_swing_up import CartPoleSwingUpOptions, CartPoleSwingUpTraining
from qp_control.training.trainer import load_module

SMALL = CartPoleSwingUpOptions(
    imitation_iterations=3,
    imitation_batch=2,
    imitation_steps=6,
    expert_count=4,
    expert_steps=40,
    closed_loop_iterations=3,
    closed_loop_batch=2,
    closed_loop_steps=8,
    validate_every=2,
    validation_count=1,
    patience=2,
)


@pytest.fixture(scope="module")
def task() -> CartPoleSwingUpTraining:
    return CartPoleSwingUpTraining()


@pytest.fixture(scope="module")
def small() -> CartPoleSwingUpTraining:
    return CartPoleSwingUpTraining(SMALL)


def begin(path: Path) -> RunFolder:
    return RunFolder.create(path, "cart_pole_swing_up", vars(SMALL))


def changed(**options: Any) -> CartPoleSwingUpTraining:
    return CartPoleSwingUpTraining(dataclasses.replace(SMALL, **options))


def test_replay_ends_where_numbers_overflow(small: CartPoleSwingUpTraining, tmp_path: Path) -> None:
    result = evaluate(small.plant, small.module(), starts(small.plant, 1, 0))
    states = result.rollout.states.clone()
    pages = {}
    for kept in (60, 10, 1):
        states[:, kept:] = float("nan")
        broken = dataclasses.replace(result, rollout=dataclasses.replace(result.rollout, states=states.clone()))
        pages[kept] = small.write_replay(tmp_path / f"{kept}.html", broken).stat().st_size
    assert pages[60] > pages[10] > pages[1]


def test_short_training_improves_the_return_of_unseen_starts() -> None:
    counts = {"imitation_iterations": 15, "closed_loop_iterations": 2, "validation_count": 4, "expert_count": 8}
    task = CartPoleSwingUpTraining(CartPoleSwingUpOptions(**counts))
    rows: list[dict[str, Any]] = []
    learned = Trainer(task).train(rows.append)
    assert {row["phase"] for row in rows} == {"imitation", "closed_loop"}
    assert all(row["updated"] and row["unsolved_share"] == 0.0 for row in rows)
    before, after = (task.score(module, HELD_OUT_SEED, 8) for module in (task.module(), learned))
    assert before.values["success"] <= 0.1
    # Hanging still earns about 60, a swing-up 183.
    assert after.values["return"] > before.values["return"] + 50.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_full_training_swings_up_from_at_least_95_percent_of_50_unseen_starts(seed: int) -> None:
    task = create("cart_pole_swing_up", seed=seed)
    learned = Trainer(task).train()
    assert task.score(task.module(), HELD_OUT_SEED, 50).values["success"] <= 0.1
    assert task.score(learned, HELD_OUT_SEED, 50).values["success"] >= 0.95


@pytest.fixture(scope="module")
def uninterrupted(small: CartPoleSwingUpTraining, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, MPC]:
    trainer = Trainer(small, begin(tmp_path_factory.mktemp("run") / "whole"))
    return trainer, trainer.train()


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_resumed_training_equals_an_uninterrupted_one(
    small: CartPoleSwingUpTraining, uninterrupted: tuple[Trainer, MPC], tmp_path: Path, stop: int
) -> None:
    """Stops within imitation, between the stages, and within closed loops."""
    whole, expected = uninterrupted
    run = begin(tmp_path / "parts")
    Trainer(small, run).train(until=stop)
    second = Trainer(small, RunFolder.open(run.path))
    second.resume()
    assert second.iteration == stop
    got = second.train()
    for a, b in zip(got.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(second.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(a, b)
    timing = {"seconds", "steps_per_second"}
    rows = [[{k: v for k, v in row.items() if k not in timing} for row in read_metrics(t.run)] for t in (whole, second)]
    assert rows[0] == rows[1] and len(rows[0]) == whole.iterations == 6
    assert torch.equal(load_module(run, small).state_cost.log_diagonal, expected.state_cost.log_diagonal)


def test_seeds_differ_and_repeat() -> None:
    def loss(seed: int) -> float:
        rows: list[dict[str, Any]] = []
        Trainer(changed(imitation_iterations=0, seed=seed)).train(rows.append, until=1)
        return float(rows[0]["loss"])

    assert loss(0) == loss(0) != loss(1)


def test_rows_after_the_checkpoint_are_dropped_on_resume(small: CartPoleSwingUpTraining, tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    Trainer(small, run).train(until=2)
    with run.metrics.open("a") as file:
        file.write("2,imitation,99,1,1,0,0,0,1,1,,\n")
    trainer = Trainer(small, run)
    trainer.resume()
    trainer.train(until=3)
    assert [row["iteration"] for row in read_metrics(run)] == ["0", "1", "2"]
    assert float(read_metrics(run)[2]["loss"]) < 99


def test_failed_training_writes_the_qp_it_failed_on(small: CartPoleSwingUpTraining, tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    trainer = Trainer(small, run, settings=qc.Settings(max_iter=1))
    # With these weights inputs saturate, and one Newton step is not enough for any QP.
    trainer.module.set_weights(r=[1e-3], terminal=[1e3] * 4)
    before = [p.detach().clone() for p in trainer.module.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            TrainingError, match=r"2 updates in a row failed, .* 100 % .* without an answer.*npz"
        ) as error:
            trainer.train()
    path = error.value.problem_path
    assert path is not None and path.parent == run.path / "failures" and "MAX_ITER" in path.name
    problem = qc.load_problem(path)
    assert qc.solve_ocp(**problem).status == qc.Status.SOLVED  # with iterations enough
    assert qc.solve_ocp(**problem, settings=qc.Settings(max_iter=1)).status == qc.Status.MAX_ITER
    for a, b in zip(trainer.module.parameters(), before, strict=True):
        assert torch.equal(a, b)  # nothing was learned from QPs without an answer


def test_gradient_that_is_not_finite_is_skipped_and_its_qp_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, task = begin(tmp_path / "run"), changed(imitation_iterations=0)
    trainer = Trainer(task, run)
    monkeypatch.setattr(task, "barrier", lambda states: states[..., 0] * float("nan"), raising=True)
    rows: list[dict[str, Any]] = []
    with pytest.raises(TrainingError, match="loss nan"):
        trainer.train(rows.append)
    assert rows[0]["updated"] == 0
    assert "A" in qc.load_problem(next((run.path / "failures").glob("*.npz")))
    assert all(p.isfinite().all() for p in trainer.module.parameters())


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "other parameters", "nan"])
def test_damaged_checkpoint_is_a_clear_error_and_stays(
    small: CartPoleSwingUpTraining, tmp_path: Path, damage: str
) -> None:
    run = begin(tmp_path / "run")
    trainer = Trainer(small, run)
    trainer.best = None
    trainer._validate()
    trainer.save()
    whole = run.checkpoint.read_bytes()
    if damage == "missing":
        run.checkpoint.unlink()
    elif damage in ("empty", "truncated", "text"):
        run.checkpoint.write_bytes({"empty": b"", "truncated": whole[:-9], "text": b"no checkpoint" * 9}[damage])
    else:
        saved = checkpoint.read(run.checkpoint)
        saved.tensors["best.state_cost.log_diagonal"] = (
            torch.zeros(3) if damage == "other parameters" else torch.full((4,), torch.nan)
        )
        saved.tensors["best.state_cost.log_diagonal"] = saved.tensors["best.state_cost.log_diagonal"].double()
        checkpoint.write(run.checkpoint, saved)
    left = run.checkpoint.read_bytes() if run.checkpoint.exists() else None
    with pytest.raises(RunError, match=r"checkpoint"):
        Trainer(small, run).resume()
    with pytest.raises(RunError, match=r"checkpoint"):
        load_module(run, small)
    assert (run.checkpoint.read_bytes() if run.checkpoint.exists() else None) == left


def test_run_folders_are_not_overwritten(tmp_path: Path) -> None:
    run = begin(tmp_path / "with space, ü")
    with pytest.raises(RunError, match="already holds a run"):
        begin(run.path)
    assert json.loads((run.path / "config.json").read_text())["task"] == "cart_pole_swing_up"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="is not a run folder; nothing was written"):
        begin(other)
    assert [p.name for p in other.iterdir()] == ["thesis.txt"]
    with pytest.raises(RunError, match="is not a run folder"):
        RunFolder.open(other)
    with pytest.raises(RunError, match="cannot write"):
        begin(other / "thesis.txt" / "run")


def test_run_that_was_killed_as_it_began_can_begin(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json.partial").write_text('{"task"')
    assert begin(tmp_path / "run").config()["task"] == "cart_pole_swing_up"
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.json"]


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="imitation_batch is 0, expected an integer >= 1"):
        create("cart_pole_swing_up", imitation_batch=0)
    with pytest.raises(ValueError, match="closed_loop_rate is nan, expected a positive number"):
        create("cart_pole_swing_up", closed_loop_rate=float("nan"))
    with pytest.raises(ValueError, match=r"cart_pole_swing_up: .*unexpected keyword argument 'speed'"):
        create("cart_pole_swing_up", speed=1)
    for wrong in ({"seed": "1"}, {"seed": True}, {"seed": 2**63}, {"seed": 1.0}, {"clip": True}, {"clip": "1"}):
        ((key, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{key} is {value!r}, expected"):
            create("cart_pole_swing_up", **wrong)
    with pytest.raises(ValueError, match="network is 1, expected True or False"):
        create("arm_unknown_loads", network=1)
    assert create("cart_pole_swing_up", SMALL, seed=4).options == dataclasses.replace(SMALL, seed=4)
    with pytest.raises(ValueError, match="options is a TrainingOptions, expected CartPoleSwingUpOptions"):
        create("cart_pole_swing_up", TrainingOptions())
    with pytest.raises(ValueError, match=r"unknown task 'swim'; known: .*cart_pole_swing_up"):
        create("swim")


def test_planner_swings_up_within_the_limits(task: CartPoleSwingUpTraining) -> None:
    cost = task.planner_cost()
    x0 = starts(task.plant, 4, 1)
    found = experts(
        task.model, x0, cost, steps=50, total_steps=80, generator=torch.Generator().manual_seed(0), restarts=3
    )
    assert found.states.shape == (4, 81, 4) and found.inputs.shape == (4, 80, 1)
    assert torch.equal(found.states[:, 0], x0)
    stepped = task.model.step(found.states[:, :-1], found.inputs)
    assert torch.allclose(stepped, found.states[:, 1:], rtol=0, atol=1e-12)
    assert float(found.inputs.abs().max()) <= 10.0
    assert float(found.states[:, 50, 1].abs().max()) < 0.3 and float(found.states[:, -1, 1].abs().max()) < 0.1
    assert float(found.states[..., 0].abs().max()) < 2.4


def test_regulator_solves_the_riccati_equation(task: CartPoleSwingUpTraining) -> None:
    cost = task.planner_cost()
    P, K = linear_regulator(task.model, cost)
    _, A, B = task.model.linearize(cost.reference, torch.zeros(1, dtype=torch.float64))
    closed = A + B @ K
    right = torch.diag(cost.q) + K.T @ torch.diag(cost.r) @ K + closed.T @ P @ closed
    assert torch.allclose(P, right, rtol=1e-8)
    assert float(torch.linalg.eigvals(closed).abs().max()) < 1.0


def test_closed_loop_equals_the_environment(task: CartPoleSwingUpTraining) -> None:
    with torch.no_grad():
        controller = task.hand_tuned()
        x0 = starts(task.plant, 2, 3)
        rollout = closed_loop(controller, task.plant.step, x0, 30, reward=task.plant.reward)
    env = gym.make(task.environment, pole_mass_scale=1.2, friction_scale=1.2)
    for i in range(2):
        env.reset(options={"state": x0[i].numpy()})
        for t in range(30):
            state, reward, *_ = env.step(rollout.inputs[i, t].numpy())
            np.testing.assert_allclose(state, rollout.states[i, t + 1], atol=1e-12)
            assert reward == pytest.approx(float(rollout.rewards[i, t]), abs=1e-12)


def test_return_counts_up_to_the_failure_as_in_the_environment(task: CartPoleSwingUpTraining) -> None:
    x0 = torch.tensor([[2.3, 3.1, 4.0, 0.0]], dtype=torch.float64)  # runs off the track
    controller = task.module().set_weights(q=[1e-3] * 4, r=[1e3], terminal=[1e-3] * 4)
    result = evaluate(task.plant, controller, x0)
    env = gym.make(task.environment, pole_mass_scale=1.2, friction_scale=1.2)
    env.reset(options={"state": x0[0].numpy()})
    total, terminated, t = 0.0, False, 0
    while not terminated:
        _, reward, terminated, truncated, _ = env.step(result.rollout.inputs[0, t].numpy())
        total, t = total + float(reward), t + 1
        assert not truncated
    assert t < 10 and result.success == 0.0
    assert result.mean_return == pytest.approx(total, abs=1e-9)


def test_evolution_strategy_never_gets_worse_and_keeps_its_time(task: CartPoleSwingUpTraining) -> None:
    # Steps this large reach weights whose QPs have no answer: a worse loss, not an error.
    warnings.simplefilter("ignore")
    x0 = starts(task.plant, 2, 0)

    def loss(module: MPC) -> float:
        return task.loop_loss(module, x0, 10)

    seen: list[float] = []
    start = evolution_strategy(task.module(), loss, seconds=0.0)
    assert start.evaluations == 1
    found = evolution_strategy(
        task.module(), loss, seconds=1.0, report=lambda evaluations, seconds, best: seen.append(best)
    )
    assert seen == sorted(seen, reverse=True) and found.loss == seen[-1] <= start.loss
    assert loss(found.module) == found.loss
    assert 1.0 <= found.seconds < 10.0


def test_phase_ends_early_where_validations_do_not_improve(monkeypatch: pytest.MonkeyPatch) -> None:
    task = changed(imitation_iterations=4, closed_loop_iterations=2, validate_every=1, stop_after=2)
    first = task.score(task.module(), 0, 1)
    monkeypatch.setattr(task, "score", lambda *_: first)
    rows: list[dict[str, Any]] = []
    trainer = Trainer(task)
    trainer.train(rows.append)
    assert [(row["iteration"], row["phase"]) for row in rows] == [
        (0, "imitation"),
        (1, "imitation"),
        (4, "closed_loop"),
        (5, "closed_loop"),
    ]


def test_truncated_gradient_equals_that_of_shorter_loops(task: CartPoleSwingUpTraining) -> None:
    """The same numbers, and the gradient by the weights the sum of what the pieces give from where they start."""
    controller, x0 = task.hand_tuned(), starts(task.plant, 2, 3)
    whole = closed_loop(controller, task.plant.step, x0, 6, reward=task.plant.reward, truncate=3)
    got = torch.autograd.grad(whole.rewards.sum(), controller.state_cost.log_diagonal)[0]
    expected, plan, x = torch.zeros_like(got), None, x0
    plans: list[Any]
    for _ in range(2):
        plans = []
        piece = closed_loop(controller, task.plant.step, x, 3, reward=task.plant.reward, plan=plan, see=plans.append)
        expected += torch.autograd.grad(piece.rewards.sum(), controller.state_cost.log_diagonal)[0]
        x, plan = piece.states[:, -1].detach(), plans[-1].detach().shift()
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-14)
    free = closed_loop(controller, task.plant.step, x0, 6, reward=task.plant.reward)
    assert torch.equal(free.states, whole.states)
    other = torch.autograd.grad(free.rewards.sum(), controller.state_cost.log_diagonal)[0]
    assert not torch.allclose(other, expected, rtol=1e-3)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    low, high = np.array([mean_interval(generator.normal(3.0, 2.0, 50), resamples=500) for _ in range(300)]).T
    # 285 expected, standard deviation 4; the percentile interval falls short by a few.
    assert 270 <= ((low < 3.0) & (high > 3.0)).sum() <= 298
    shares = generator.binomial(50, 0.9, 300) / 50
    low, high = np.array([share_interval(share, 50) for share in shares]).T
    assert 270 <= ((low < 0.9) & (high > 0.9)).sum() <= 298
    low, high = share_interval(1.0, 50)
    assert low < 0.95 and high == pytest.approx(1.0)
