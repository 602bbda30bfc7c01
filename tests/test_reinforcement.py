"""Controllers as actors of PPO and SAC: the update works out the rollout's actions, and learning improves returns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import qp_control as qc
import qp_control.envs
from qp_control.envs.arm_reach import ArmReach
from qp_control.training import RunFolder, Trainer, TrainingError, closed_loop, create
from qp_control.training.run_folder import read_metrics
from qp_control.training.task import HELD_OUT_SEED

sb3 = pytest.importorskip("stable_baselines3")
from qp_control.training.reinforcement import (  # noqa: E402
    Actor,
    CarriedRolloutBuffer,
    ControllerEnvs,
    ControllerPolicy,
    ControllerSACPolicy,
)
from qp_control.training.reinforcement.guarded_adam import GuardedAdam  # noqa: E402

SMALL_PPO = {"ppo_iterations": 4, "robots": 4, "steps": 16, "epochs": 2, "batch": 32}
SMALL_SAC = {"sac_iterations": 4, "robots": 4, "steps": 8, "updates": 1, "batch": 16, "kept": 100}
BRIEF = {"validate_every": 1, "validation_count": 1}


def robots(n: int, controller: Any, key: str = "CartPole", **options: Any) -> ControllerEnvs:
    envs: Any = gym.make_vec(f"QPControl/{key}-v0", num_envs=n, autoreset_mode="SameStep", **options)
    found = ControllerEnvs(envs, controller)
    found.seed(0)
    return found


def proximal(envs: ControllerEnvs, **options: Any) -> Any:
    return sb3.PPO(
        ControllerPolicy,
        envs,
        policy_kwargs={"actor": envs.actor, "controller_rate": 30.0},
        rollout_buffer_class=CarriedRolloutBuffer,
        device="cpu",
        seed=0,
        **options,
    )


def cart_pole_mpc(**options: Any) -> qc.MPC:
    model = create("cart_pole_ppo").model
    return qc.MPC(model, 10, **options).set_weights([1.0] * 4, [0.1], [10.0] * 4)


def arm_controller(**options: Any) -> qc.InverseDynamicsPolicy:
    """Holds an arm near home with torques that are limited; the observation's last three numbers are the target's."""
    robot = qc.RobotModel(ArmReach().dynamics.model)
    limit = torch.tensor([30.0, 60.0, 30.0, 10.0, 5.0, 2.0], dtype=torch.float64)
    home = [0.0, 0.2, 1.4, 0.3, 1.0, 0.0]
    tasks = [qc.PostureTask(home, stiffness=100.0), qc.TorqueRegularization()]
    control = qc.InverseDynamics(robot, tasks, [qc.TorqueLimit(limit, -limit)], **options)
    return qc.InverseDynamicsPolicy(control, [qc.PositiveNumbers.of(control, ["posture.stiffness"])])


def quadrotor() -> Any:
    return create("quadrotor_ppo")


def rollout(name: str) -> Any:
    """A learner with a full rollout buffer, robots well on their way and some of them begun anew."""
    controllers = {
        "mpc": lambda: (cart_pole_mpc(), "CartPole", {"max_episode_steps": 20}),
        "rate limit and delay": lambda: (
            cart_pole_mpc(rate_limit=[100.0], delay=1),
            "CartPole",
            {"max_episode_steps": 20, "action_delay": 1},
        ),
        "converged": lambda: (cart_pole_mpc(mode="converged"), "CartPole", {"max_episode_steps": 20}),
        "inverse dynamics": lambda: (arm_controller(), "ArmReach", {"max_episode_steps": 20}),
    }
    controller, key, options = controllers[name]()
    learner = proximal(robots(4, controller, key, **options), n_steps=48, batch_size=64, n_epochs=1)
    with torch.no_grad():
        _, silent = learner._setup_learn(1000)
        learner.collect_rollouts(learner.env, silent, learner.rollout_buffer, 48)
    return learner


def ratios(learner: Any) -> torch.Tensor:
    """Of the probabilities of a rollout's actions, worked out by the update over those of the rollout."""
    found = []
    for samples in learner.rollout_buffer.get(64):
        _, log_prob, _ = learner.policy.evaluate_actions(samples.observations, samples.actions)
        found.append((log_prob - samples.old_log_prob).exp().detach())
    return torch.cat(found)


@pytest.mark.parametrize("name", ["mpc", "rate limit and delay", "converged", "inverse dynamics"])
def test_probability_ratios_of_the_first_epoch_are_one(name: str) -> None:
    learner = rollout(name)
    assert learner.env.actor.failure is None
    assert float((ratios(learner) - 1.0).abs().max()) < 1e-6


def test_without_the_stored_linearisation_the_ratios_are_not_one() -> None:
    """The control of the test above: plans begun anew give other actions."""
    learner = rollout("mpc")
    learner.rollout_buffer.observations["carried"][:] = 0.0
    assert float((ratios(learner) - 1.0).abs().max()) > 1e-3


def test_samples_keep_their_warm_starts_from_epoch_to_epoch() -> None:
    learner = rollout("mpc")
    actor, buffer = learner.env.actor, learner.rollout_buffer
    first = buffer.observations["carried"].copy()
    assert float((ratios(learner) - 1.0).abs().max()) < 1e-6
    second = buffer.observations["carried"]
    flat, warm = buffer.swap_and_flatten(first), actor.warm.numpy()
    np.testing.assert_array_equal(second[:, ~warm], flat[:, ~warm])  # the linearisation point stays
    assert np.abs(second[:, warm] - flat[:, warm]).max() > 1e-3
    assert not second[flat[:, 0] == 0.0].any()  # and what begins has none
    seen = torch.from_numpy(buffer.observations["observation"])

    def iterations(carried: Any) -> float:
        with torch.no_grad():
            _, plan = actor.act(seen, torch.from_numpy(carried))
        return float(plan.iterations.double().mean())

    assert iterations(second) <= iterations(np.where(warm, 0.0, second))
    assert float((ratios(learner) - 1.0).abs().max()) < 1e-6


def test_numbers_of_a_plan_are_the_plan() -> None:
    mpc = cart_pole_mpc(rate_limit=[100.0], delay=2)
    x = torch.tensor([[0.1, 0.1, 0.0, 0.0], [0.3, -0.1, 0.0, 0.2]], dtype=torch.float64)
    actor = Actor(mpc, np.array([-10.0]), np.array([10.0]), x[:1])
    with torch.no_grad():
        action, plan = actor.act(x, actor.cold(2))
        again = actor.unpack(actor.pack(plan))
    for name in ("states", "inputs", "previous", "pending", "y", "z", "z_N", "w_x", "w_u"):
        assert torch.equal(getattr(plan, name), getattr(again, name)), name
    torch.testing.assert_close(action, plan.input / 10.0)
    on = actor.unpack(actor.next(plan, torch.tensor([[0.5], [2.0]], dtype=torch.float64)))
    assert on.previous.tolist() == [[5.0], [10.0]] and on.pending[:, -1].tolist() == [[5.0], [10.0]]
    assert torch.equal(on.states[:, :-1], plan.states[:, 1:])


def test_plans_are_those_of_a_control_loop() -> None:
    """Without exploration the policy is the controller; a robot begun anew has a plan begun anew."""
    mpc = cart_pole_mpc()
    envs = robots(2, mpc, max_episode_steps=6)
    learner = proximal(envs, n_steps=8)
    seen, plan = envs.reset(), None
    for k in range(10):
        x = torch.from_numpy(seen["observation"])
        with torch.no_grad():
            plan = mpc(x, None if k in (0, 6) else plan.shift())
        action, _ = learner.predict(seen, deterministic=True)
        np.testing.assert_allclose(10.0 * action, plan.input, rtol=0, atol=1e-6)  # the solver's tolerance
        last = seen
        seen, _, done, infos = envs.step(action)
        assert done.all() == (k == 5)
        if k == 5:
            assert set(infos[0]["terminal_observation"]) == {"observation", "carried"}
            assert not np.array_equal(infos[0]["terminal_observation"]["carried"], last["carried"][0])


def test_actions_from_elsewhere_still_carry_plans() -> None:
    """Random actions, as of a warm-up: the environments ask the controller themselves."""
    envs = robots(2, cart_pole_mpc())
    seen = envs.reset()
    with torch.no_grad():
        expected = envs.actor.controller(torch.from_numpy(seen["observation"]))
    seen, *_ = envs.step(np.array([[0.3], [-0.3]]))
    carried = envs.actor.unpack(torch.from_numpy(seen["carried"]))
    torch.testing.assert_close(carried.states[:, :-1], expected.states[:, 1:], rtol=0, atol=1e-6)
    torch.testing.assert_close(carried.previous, torch.tensor([[3.0], [-3.0]], dtype=torch.float64))


def test_learners_of_stable_baselines_run_by_themselves() -> None:
    envs = robots(4, cart_pole_mpc())
    learner = proximal(envs, n_steps=16, batch_size=32, n_epochs=2)
    before = [p.detach().clone() for p in learner.policy.parameters()]
    learner.learn(128)
    assert learner.num_timesteps == 128
    changed = [bool((p != q).any()) for p, q in zip(before, learner.policy.parameters(), strict=True)]
    assert sum(changed) >= 8  # weights, deviation, value network
    envs = robots(4, cart_pole_mpc())
    options = {"policy_kwargs": {"actor": envs.actor}, "device": "cpu", "seed": 0}
    soft = sb3.SAC(ControllerSACPolicy, envs, learning_starts=8, buffer_size=200, batch_size=16, **options)
    before = [p.detach().clone() for p in envs.actor.controller.parameters()]
    soft.learn(80)
    after = envs.actor.controller.parameters()
    assert any((p != q).any() for p, q in zip(before, after, strict=True))
    assert soft.replay_buffer.observations["carried"].dtype == np.float64


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    p, q = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    optimizer = GuardedAdam([{"params": [p], "scale": 0.5}, {"params": [q]}], lr=0.1, clip=1.0)
    assert optimizer.step() is None and optimizer.taken == []
    p.grad, q.grad = torch.tensor([3.0, 4.0]).double(), torch.tensor([float("nan"), 0.0]).double()
    optimizer.step()
    assert p.tolist() == q.tolist() == [1.0, 1.0] and np.isnan(optimizer.taken[0])
    p.grad, q.grad = torch.tensor([3.0, 4.0]).double(), torch.ones(2).double()
    optimizer.step()
    # The first step of Adam is the rate along the signs.
    torch.testing.assert_close(p.detach(), torch.full((2,), 0.95).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(q.detach(), torch.full((2,), 0.9).double(), rtol=0, atol=1e-6)
    assert optimizer.taken[1] == pytest.approx(5.0)  # before it is cut


TIMING = {"seconds", "steps_per_second"}


def rows_of(run: RunFolder) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in TIMING} for row in read_metrics(run)]


@pytest.mark.parametrize(
    ("name", "options"), [("cart_pole_ppo", SMALL_PPO), ("cart_pole_sac", SMALL_SAC), ("quadrotor_network", SMALL_PPO)]
)
def test_resumed_training_equals_an_uninterrupted_one(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Value network or critics, replay buffer, robots, their generators and their plans are in the checkpoint."""
    task = create(name, **options, **BRIEF)

    def begin(folder: str) -> RunFolder:
        return RunFolder.create(tmp_path / folder, task.name, vars(task.options))

    whole = Trainer(task, begin("whole"))
    whole.train()
    run = begin("parts")
    Trainer(task, run).train(until=2)
    second = Trainer(task, run)
    second.resume()
    second.train()
    for a, b in zip(whole.phase.learner.policy.parameters(), second.phase.learner.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.run is not None and rows_of(whole.run) == rows_of(run) and len(rows_of(run)) == 4
    assert all(float(row["unsolved_share"]) == 0.0 for row in rows_of(run))


def test_training_without_answers_ends_with_the_qp(tmp_path: Path) -> None:
    task = create("cart_pole_ppo", **SMALL_PPO, **BRIEF, patience=2)
    run = RunFolder.create(tmp_path / "run", task.name, vars(task.options))
    trainer = Trainer(task, run, settings=qc.Settings(max_iter=1))
    # Inputs saturate: one Newton step is not enough.
    trainer.module.set_weights(q=[1e2] * 4, r=[1e-4], terminal=[1e5] * 4)
    before = [p.detach().clone() for p in trainer.learnable]
    with pytest.raises(TrainingError, match=r"updates in a row failed.*npz") as error:
        trainer.train()
    assert error.value.problem_path is not None
    assert qc.solve_ocp(**qc.load_problem(error.value.problem_path)).status == qc.Status.SOLVED
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.learnable, strict=True))


def test_torques_of_a_closed_loop_are_those_of_single_calls() -> None:
    """Warm starts carried along do not change them, gradients pass, and a QP without an answer is kept."""
    plant, controller = ArmReach(), arm_controller()
    # Their QPs begin where those of the period before ended.
    x = plant.sample_starts(3, 0)
    first = controller(x)
    assert int(controller(x, first).iterations.sum()) < int(first.iterations.sum())
    x0 = plant.sample_starts(3, 0)
    rollout = closed_loop(controller, plant.step, x0, 5, reward=plant.reward)
    assert rollout.failure is None
    for t in range(5):
        x = rollout.states[:, t].detach()
        expected = controller(x).input
        torch.testing.assert_close(rollout.inputs[:, t], expected, rtol=0, atol=1e-6)  # the solver's tolerance
    rollout.rewards.sum().backward()
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in controller.parameters() if p.requires_grad)
    hasty = closed_loop(arm_controller(settings=qc.Settings(max_iter=1)), plant.step, 3.0 * x0, 2)
    assert hasty.failure is not None and hasty.failure.status == qc.Status.MAX_ITER
    assert qc.solve_qp(**hasty.failure.data).status == qc.Status.SOLVED


def test_gradients_that_are_not_finite_end_training_with_a_qp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = create("cart_pole_ppo", **SMALL_PPO, **BRIEF, patience=2)
    monkeypatch.setattr(task.plant, "observe", lambda x: x * float("nan"))
    run = RunFolder.create(tmp_path / "run", task.name, vars(task.options))
    trainer = Trainer(task, run)
    before = [p.detach().clone() for p in trainer.learnable]
    with pytest.raises(TrainingError, match=r"2 updates in a row failed.*npz"):
        trainer.train()
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.learnable, strict=True))
    assert [row["updated"] for row in read_metrics(run)] == ["0"]  # the second one raised


@pytest.mark.parametrize("guided", [False, True])
def test_a_quadrotor_that_has_run_away_harms_no_other(guided: bool) -> None:
    controller, plant = create("quadrotor_ppo", guided=guided).module(), quadrotor().plant
    x = plant.sample_starts(4, 0)
    expected = controller(x).inputs
    x[1, 0], x[2] = float("inf"), float("nan")
    plan = controller(x)
    assert plan.status.tolist() == [qc.Status.SOLVED, qc.Status.INVALID_INPUT, qc.Status.INVALID_INPUT, 0]
    assert torch.equal(plan.inputs[[0, 3]], expected[[0, 3]])
    plan.inputs.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in controller.parameters() if p.grad is not None)


def test_a_guide_learns_at_a_rate_of_its_own() -> None:
    rates = {"rate": 1e-3, "controller_rate": 5e-2, "warm_up": 1, "fade": 1.0}
    trainer = Trainer(create("quadrotor_ppo", **SMALL_PPO, **BRIEF, **rates, guided=True))
    trainer.train(until=2)
    controller, guide, _ = trainer.optimizer.param_groups
    assert {id(p) for p in guide["params"]} == {id(p) for p in trainer.module.guide.parameters()}
    assert guide["scale"] == pytest.approx(0.02 * controller["scale"]) and controller["scale"] == pytest.approx(50.0)
    assert float(trainer.module.guide.network[-1].weight.abs().max()) > 0.0


@pytest.mark.parametrize(("name", "small"), [("arm_ppo", SMALL_PPO), ("quadrotor_sac", SMALL_SAC)])
def test_an_update_of_a_task_changes_all_that_it_learns(name: str, small: dict[str, Any]) -> None:
    trainer = Trainer(create(name, **small, validation_count=1, warm_up=2))
    before = [p.detach().clone() for p in trainer.learnable]
    rows: list[dict[str, Any]] = []
    trainer.train(rows.append, until=3)
    assert all(torch.any(p != q) for p, q in zip(before, trainer.learnable, strict=True))
    assert [row["unsolved_share"] for row in rows] == 3 * [0.0] and rows[-1]["gradient_norm"] > 0.0


def test_further_epochs_teach_values_alone() -> None:
    trainer = Trainer(create("cart_pole_ppo", **SMALL_PPO, **BRIEF, value_epochs=1))
    trainer.train(until=2)
    phase: Any = trainer.phase
    before, policy = [p.detach().clone() for p in trainer.learnable], phase.learner.policy

    def error() -> float:
        (samples,) = phase.learner.rollout_buffer.get()
        return float((policy.predict_values(samples.observations).flatten() - samples.returns).square().mean())

    with torch.no_grad():
        first = error()
    for _ in range(50):
        phase._further()
    with torch.no_grad():
        assert error() < 0.5 * first
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.learnable, strict=True))


def test_the_rate_of_a_controller_fades() -> None:
    trainer = Trainer(
        create("cart_pole_ppo", **SMALL_PPO, **BRIEF, fade=0.1, warm_up=1, rate=1e-3, controller_rate=1e-2)
    )
    scales: list[float] = []
    trainer.train(lambda row: scales.append(trainer.optimizer.param_groups[0]["scale"]))
    assert scales == pytest.approx([0.0, 10.0 * 0.1 ** (1 / 3), 10.0 * 0.1 ** (2 / 3), 1.0])


def test_quadrotor_begins_with_what_was_tuned_by_hand_if_wanted() -> None:
    task = create("quadrotor_ppo", tuned=True)
    pairs = zip(task.module().parameters(), task.hand_tuned().parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    plain = create("quadrotor_ppo").module().parameters()
    assert any(not torch.equal(p, q) for p, q in zip(plain, task.module().parameters(), strict=True))


def test_a_guide_that_says_nothing_changes_nothing_and_learns() -> None:
    plain, guided = create("quadrotor_ppo").module(), create("quadrotor_ppo", guided=True).module()
    plant = quadrotor().plant
    x = plant.sample_starts(3, 0)
    a, b = plain(x), guided(x)
    torch.testing.assert_close(a.inputs, b.inputs, rtol=0, atol=1e-6)  # the solver's tolerance
    b.input.square().sum().backward()
    last = guided.guide.network[-1]
    assert float(last.weight.grad.abs().max()) > 0.0
    with torch.no_grad():
        last.bias[-1] = 0.5  # half a metre higher
    assert float((guided(x).input - b.input)[:, 0].min().detach()) > 0.0


@pytest.mark.parametrize(
    ("name", "iterations", "margin"),
    [
        ("cart_pole_ppo", {"ppo_iterations": 8}, 50.0),
        pytest.param("cart_pole_sac", {"sac_iterations": 24}, 30.0, marks=pytest.mark.slow),
    ],
)
def test_rewards_alone_improve_the_controller(name: str, iterations: dict[str, int], margin: float) -> None:
    """Measured returns of validations: 34 before, 193 after PPO, 109 after SAC."""
    task = create(name, **iterations, validate_every=4, validation_count=4)
    learned = Trainer(task).train()
    before, after = (task.score(m, HELD_OUT_SEED, 16).values["return"] for m in (task.module(), learned))
    assert before < 40.0  # it falls at once
    assert after > before + margin


@pytest.mark.parametrize("name", ["quadrotor_ppo", "quadrotor_network"])
def test_snapshots_of_robots_go_on_to_the_same_numbers(name: str) -> None:
    options: Any = {"mass_spread": 0.2, "observation_noise": 0.01, "action_delay": 1, "max_episode_steps": 9}
    make = lambda: gym.make_vec("QPControl/Quadrotor-v0", num_envs=3, **options)  # noqa: E731
    first, second = make(), make()
    first.reset(seed=0)
    second.reset(seed=7)
    actions = np.random.default_rng(0).uniform(-0.1, 5.0, size=(30, 3, 4))
    for action in actions[:13]:
        first.step(action)
    second.unwrapped.restore(first.unwrapped.snapshot())
    for action in actions[13:]:
        for a, b in zip(first.step(action)[:4], second.step(action)[:4], strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"x of the snapshot has shape \(3, 17\)|x of the snapshot has shape"):
        gym.make_vec("QPControl/Quadrotor-v0", num_envs=2, **options).unwrapped.restore(first.unwrapped.snapshot())


def test_without_stable_baselines_the_message_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['stable_baselines3'] = None; from qp_control.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "train", "cart_pole_ppo", f"--run={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "pip install 'qp-control[rl]'" in done.stderr
    assert not (tmp_path / "run").exists()
