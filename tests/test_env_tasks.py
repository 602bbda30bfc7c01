"""What the tasks ask for: waypoints in their time, targets that move, limits that end an episode."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import qp_control.envs  # noqa: F401, registers the environments
from qp_control.envs.arm_reach import ArmReach
from qp_control.envs.arm_track import ArmTrack
from qp_control.envs.cart_pole import CartPole
from qp_control.envs.quadrotor import Quadrotor
from qp_control.systems import flying_body


def test_each_waypoint_has_its_part_of_the_episode():
    task = Quadrotor(waypoints=3)
    x = task.sample_starts(1, seed=0).repeat(201, 1)
    x[:, -1] = torch.arange(201)
    points = x[0, 13:-1].view(3, 3)
    legs = [0] * 66 + [1] * 66 + [2] * 69
    assert torch.equal(task.waypoint(x), points[legs])
    assert torch.equal(task.waypoint(x, 1), points[[min(leg + 1, 2) for leg in legs]])
    # In the last second of each waypoint's time it has to be there, and in the end.
    asked = [k for k in range(201) if 46 <= k < 66 or 112 <= k < 132 or k >= 178]
    assert (~task.at_goal(x)).nonzero()[:, 0].tolist() == asked
    x[:, :3] = task.waypoint(x)
    assert task.at_goal(x).all() and task.success(x[None]).all()
    x[50, 2] += 0.16
    assert not task.success(x[None]).any()


def test_quadrotor_is_the_flying_body_and_its_clock_counts():
    task, body = Quadrotor(), flying_body()
    assert torch.equal(task.dynamics.parameters, body.parameters)
    assert torch.equal(task.dynamics.effort_limit, body.effort_limit)
    x = task.sample_starts(3, seed=0)
    assert (task.dynamics.on_manifold(x[:, :13])).all()
    after = task.step(x, torch.zeros(3, 4, dtype=torch.float64))
    assert (after[:, -1] == 1.0).all() and torch.equal(after[:, 13:-1], x[:, 13:-1])


def test_quadrotor_sees_its_rotation():
    task = Quadrotor()
    x = task.sample_starts(5, seed=1)
    rotation = task.dynamics.frame_motions(["body"], x[:, :7]).rotation[:, 0]
    seen = task.observe(x)
    np.testing.assert_allclose(seen[:, 6:15].view(5, 3, 3), rotation, atol=1e-14)
    up = task.reward(x, torch.from_numpy(np.tile(task.rest_input, (5, 1))))
    distance = (x[:, :3] - task.waypoint(x)).square().sum(1)
    np.testing.assert_allclose(up, 0.7 / (1 + distance) + 0.1 * (1 + rotation[:, 2, 2]) + 0.1, rtol=1e-13)


@pytest.mark.parametrize("waypoints", [0, 6, 2.0, None])
def test_numbers_of_waypoints_that_mean_nothing_are_refused(waypoints):
    with pytest.raises(ValueError, match=r"waypoints is .*, expected 1 to 5"):
        gym.make("QPControl/Quadrotor-v0", waypoints=waypoints)


def test_quadrotor_without_thrust_meets_the_floor():
    env = gym.make("QPControl/Quadrotor-v0")
    env.reset(seed=0)
    for step in range(60):  # noqa: B007, looked at below
        *_, terminated, truncated, info = env.step(np.zeros(4))
        if terminated:
            break
    assert terminated and not truncated and not info["is_success"] and env.unwrapped.state[2] < 0.0
    assert 5 < step < 25  # a fall of 1.5 m takes 0.55 s


def test_arm_beyond_a_joint_limit_ends_the_episode():
    env = gym.make("QPControl/ArmReach-v0")
    env.reset(seed=0)
    push = np.array([150.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(200):
        observation, _, terminated, truncated, _ = env.step(push)
        if terminated or truncated:
            break
    assert terminated and not truncated
    assert env.unwrapped.state[0] > env.unwrapped.task.upper_limit[0]
    assert env.observation_space.contains(observation)


def test_targets_of_the_arm_are_within_reach_and_spread():
    task = ArmReach()
    x = task.sample_starts(2000, seed=0)
    shoulder = torch.tensor([0.0, 0.0, 0.09], dtype=torch.float64)
    away = (task.target(x) - shoulder).norm(dim=1)
    assert away.max() < 0.425 + 0.392 + 0.3 and away.min() > 0.1
    assert (task.target(x).std(0) > 0.1).all()
    assert not task.failed(x).any()


def test_target_moves_on_its_ellipse_with_the_velocity_that_is_seen():
    task = ArmTrack()
    x = task.sample_starts(50, seed=0)
    before, h = task.target(x), 1e-6
    moved = x.clone()
    moved[:, -2] += h * x[:, -1]
    # Truncation h / 2 times an acceleration below 0.3 m/s^2.
    np.testing.assert_allclose((task.target(moved) - before) / h, task.target_velocity(x), atol=1e-6)
    after = task.step(x, torch.zeros(50, 6, dtype=torch.float64))
    moved[:, -2] = x[:, -2] + task.control_period * x[:, -1]
    assert torch.equal(task.target(after), task.target(moved))
    assert torch.equal(task.observe(x)[:, 15:], task.target_velocity(x))
    rate = x[:, -1].abs()
    assert rate.min() >= 0.8 and rate.max() <= 1.6 and (x[:, -1] > 0).any() and (x[:, -1] < 0).any()


def test_cart_pole_starts_near_upright_and_a_fallen_pole_ends_it():
    task = CartPole()
    x = task.sample_starts(500, seed=0)
    assert task.at_goal(x).all() and x[:, 1].abs().max() > 0.14
    env = gym.make("QPControl/CartPole-v0")
    env.reset(seed=0)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(100)]
    first = next(k for k, (terminated, _) in enumerate(ends) if terminated)
    assert 10 < first < 90 and not any(truncated for _, truncated in ends)
