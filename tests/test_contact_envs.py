"""Hopper and quadruped: how they stand on the ground, what pushes them, and what is drawn of it."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import qp_control.envs  # noqa: F401, registers the environments
from qp_control.envs.base import write_rollout
from qp_control.envs.contact_task import WEIGHT
from qp_control.envs.hopper import Hopper
from qp_control.envs.quadruped import Quadruped
from qp_control.envs.quadruped_push import QuadrupedPush
from qp_control.envs.quadruped_walk import QuadrupedWalk
from qp_control.robot.contact import GRAVITY

TASKS = [Hopper, Quadruped, QuadrupedPush, QuadrupedWalk]


def resting(task, n=1):
    return torch.from_numpy(task.rest_input).repeat(n, 1)


def weight(task):
    robot = task.dynamics
    return GRAVITY * float(robot.parameters[: 10 * robot.bodies : 10].sum())


@pytest.mark.parametrize("kind", TASKS)
def test_starts_are_near_the_ground_and_spread(kind):
    task = kind()
    x = task.sample_starts(500, seed=0)
    robot = task.dynamics
    frames = [contact.frame for contact in robot.contacts]
    radius = robot.contacts[0].radius
    lowest = robot.frame_motions(frames, x[:, : robot.nq]).position[..., 2].amin(1) - radius
    assert lowest.min() >= -1e-12 and lowest.max() <= 0.02 + 1e-12 and lowest.std() > 0.004
    assert robot.on_manifold(x[:, : robot.nx]).all() and not task.failed(x).any()
    assert (x.std(0)[robot.nq - 3 : robot.nq] > 0.02).all()


def test_quadruped_stands_in_balance_on_its_nominal_torques():
    task = Quadruped()
    x = task.stand[None]
    u = resting(task)
    # Without feedback it tips over in the end.
    for _ in range(2):
        x = task.step(x, u)
    force = task.forces(x, u).force[0]
    assert float(force[:, 2].sum()) == pytest.approx(weight(task), rel=0.01)
    assert (force[:, 2] > 0.2 * weight(task)).all()
    assert task.at_goal(x).all() and (x[0, 7:19] - task.stand[7:19]).abs().max() < 0.02
    assert float(task.reward(x, u)[0]) > 0.97


@pytest.mark.parametrize("name", ["Hopper", "Quadruped", "QuadrupedWalk"])
def test_without_torques_they_fall_and_the_episode_ends(name):
    env = gym.make(f"QPControl/{name}-v0")
    env.reset(seed=0)
    for step in range(200):  # noqa: B007, looked at below
        observation, _, terminated, truncated, info = env.step(np.zeros(env.action_space.shape))
        if terminated or truncated:
            break
    assert terminated and not truncated and not info["is_success"] and 10 < step < 200
    assert env.observation_space.contains(observation)


def test_friction_of_the_ground_is_among_the_parameters_and_drawn():
    task = Quadruped()
    assert torch.equal(task.parameters[-4:], task.dynamics.friction)
    env = gym.make_vec("QPControl/Quadruped-v0", num_envs=200, friction_spread=0.5)
    env.reset(seed=0)
    ratio = env.parameters[:, -4:] / 0.8
    # Of 200 uniform numbers the largest is beyond 90 % of the end but for one case in 1e4.
    assert (np.abs(ratio - 1.0) <= 0.5).all() and (ratio.max(0) > 1.4).all() and (ratio.min(0) < 0.6).all()
    assert np.abs(np.corrcoef(ratio.T) - np.eye(4)).max() < 0.3
    # Pushed aside on ice it slides, and says by the friction how far.
    x = task.stand[None].clone()
    x[0, 20] = 1.0
    u = resting(task)
    par = task.parameters.clone()
    par[-4:] = 0.05
    slip = par.clone().requires_grad_()
    far = task.step(task.step(x, u, slip), u, slip)[0, 1]
    assert abs(float(far.detach() - task.step(task.step(x, u), u)[0, 1])) > 1e-5
    far.backward()
    h = 1e-6
    more, less = par.clone(), par.clone()
    more[-4:] += h
    less[-4:] -= h
    numeric = (task.step(task.step(x, u, more), u, more) - task.step(task.step(x, u, less), u, less))[0, 1] / (2 * h)
    assert float(slip.grad[-4:].sum()) == pytest.approx(float(numeric), rel=1e-5) and abs(float(numeric)) > 1e-5


def test_pushes_come_in_their_time_and_are_part_of_the_state():
    task = QuadrupedPush()
    x = task.sample_starts(300, seed=0)
    when, change = x[:, 37:46].reshape(-1, 3, 3)[..., 0], x[:, 37:46].reshape(-1, 3, 3)[..., 1:]
    low, high = torch.tensor([40.0, 145.0, 250.0]), torch.tensor([129.0, 234.0, 339.0])
    assert (when == when.floor()).all() and (when.amin(0) == low).all() and (when.amax(0) == high).all()
    most = change.abs().reshape(-1, 2).amax(0)
    assert (most <= torch.tensor([0.6, 0.4])).all() and (most > torch.tensor([0.59, 0.39])).all()
    x = x[:1]
    plain = x[:, :37].clone()
    plain[:, 19:21] += change[0, 1]
    quadruped, u = Quadruped(), resting(task)
    for clock, start in ((when[0, 1] - 1.0, x[:, :37]), (when[0, 1], plain), (when[0, 1] + 1.0, x[:, :37])):
        x[0, -1] = clock
        after = task.step(x, u)
        assert torch.equal(after[:, :37], quadruped.step(start, u))
        assert torch.equal(after[0, 37:], torch.cat([x[0, 37:-1], x[:, -1] + 1.0]))
    assert torch.equal(task.forces(x, u).force, quadruped.forces(x[:, :37], u).force)


@pytest.mark.parametrize("name", ["Hopper", "QuadrupedPush"])
def test_an_episode_goes_on_from_its_state_alone(name):
    env, other = (gym.make(f"QPControl/{name}-v0").unwrapped for _ in range(2))
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = env.task.rest_input + rng.uniform(-2.0, 2.0, (25, *env.action_space.shape))
    for action in actions[:12]:
        env.step(action)
    other.reset(options={"state": env.state})
    for action in actions[12:]:
        env.step(action)
        other.step(action)
        np.testing.assert_array_equal(env.state, other.state)


@pytest.mark.parametrize("kind", [Quadruped, QuadrupedWalk])
def test_quadruped_sees_which_way_is_up_and_its_command(kind):
    task = kind()
    x = task.sample_starts(20, seed=1)
    rotation = task.dynamics.frame_motions(["base"], x[:, :19]).rotation[:, 0]
    seen = task.observe(x)
    np.testing.assert_allclose(seen[:, 1:4], rotation[:, 2], atol=1e-14)
    np.testing.assert_array_equal(seen[:, 10:22], x[:, 7:19] - task.stand[7:19])
    if kind is QuadrupedWalk:
        command = seen[:, 34:]
        assert (command.abs().amax(0) <= torch.tensor([0.5, 0.2, 0.5])).all() and (command.std(0) > 0.05).all()
        x[:, 2], x[:, 3:7] = task.height, torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        x[:, [19, 20, 24]] = command
        assert task.at_goal(x).all() and float(task.reward(x, 0.0 * resting(task, 20)).min()) == pytest.approx(1.0)
        x[:, 24] += 0.5
        assert not task.at_goal(x).any()


def test_the_hoppers_mark_moves_at_its_speed():
    task = Hopper()
    x = task.sample_starts(100, seed=0)
    after = task.step(x, torch.zeros(100, 3, dtype=torch.float64))
    assert torch.equal(after[:, 12], x[:, 12] + 0.01 * x[:, 13]) and torch.equal(after[:, 13], x[:, 13])
    assert x[:, 13].min() >= 0.15 and x[:, 13].max() <= 0.4 and task.at_goal(x).all()
    x[:, 12] = 0.51
    assert not task.at_goal(x).any()


def test_arrows_show_the_forces_at_the_feet():
    task = Quadruped()
    x, u = task.stand[None], resting(task)
    for _ in range(5):
        before, x = x, task.step(x, u)
    drawn = task.drawn_forces(before, u, None, x)
    assert drawn.keys() <= {item.name for item in task.scenery()}
    arrows = np.stack([drawn[f"force {foot}"][0] for foot in task.feet])
    feet = task.dynamics.frame_motions(task.feet, x[:, :19]).position[0].numpy()
    np.testing.assert_allclose(arrows[:, 0], feet - np.array([0.0, 0.0, task.foot_radius]), atol=1e-12)
    expected = task.forces(before, u).force[0].numpy() / weight(task) * WEIGHT
    np.testing.assert_allclose(arrows[:, 1], expected, rtol=1e-12)
    assert arrows[:, 1, 2].sum() == pytest.approx(WEIGHT, rel=0.05)
    x[:, 2] += 1.0
    for values in task.drawn_forces(x, u, None, task.step(x, u)).values():
        assert np.isnan(values[..., 0]).all() or np.isnan(values[:, 0]).all()


def test_a_push_and_a_command_are_drawn():
    task = QuadrupedPush()
    x = task.sample_starts(1, seed=0)[0].numpy()
    x[3:7] = 0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)  # a quarter turn to the left
    for age, seen in ((0.0, False), (1.0, True), (20.0, True), (21.0, False)):
        x[-1] = x[37] + age
        start, vector = task.moved_scenery(x)["push"]
        assert np.isfinite(start).all() == seen
        if seen:
            np.testing.assert_allclose(vector, [-x[39], x[38], 0.0], atol=1e-15)
            np.testing.assert_allclose(start + vector, x[:3], atol=1e-15)
    walk = QuadrupedWalk()
    x = walk.sample_starts(1, seed=0)[0].numpy()
    x[3:7] = 0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)
    np.testing.assert_allclose(walk.moved_scenery(x)["command"][1], [-x[38], x[37], 0.0], atol=1e-15)


def test_rollouts_with_inputs_have_forces_in_them(tmp_path):
    task = Quadruped()
    u = resting(task, 3)
    x = [task.stand]
    for k in range(3):
        x.append(task.step(x[-1][None], u[k : k + 1])[0])
    states = torch.stack(x)
    with_forces = write_rollout(tmp_path / "forces.html", task, states, u)
    without = write_rollout(tmp_path / "plain.html", task, states)
    assert with_forces.stat().st_size > without.stat().st_size
    with pytest.raises(ValueError, match=r"inputs has shape \(2, 12\), expected \(T, nu\) = \(3, 12\)"):
        write_rollout(tmp_path / "wrong.html", task, states, u[:2])
