"""Every environment can be solved: a simple controller of ours succeeds from several seeded starts."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from env_controllers import CONTROLLERS

import qp_control.envs  # noqa: F401, registers the environments

CASES = [(name, {}) for name in CONTROLLERS] + [("Quadrotor", {"waypoints": 3})]


def run(key, n, seed, control=None, **options):
    """A whole episode of n environments: successes (n,), returns (n,) up to a fall."""
    env = gym.make_vec(key, num_envs=n, autoreset_mode="Disabled", **options)
    task = env.task
    env.reset(seed=seed)
    with torch.no_grad():
        if control is None:
            name = key.removeprefix("QPControl/").removesuffix("-v0")
            control = CONTROLLERS[name](task)
        total, fallen = np.zeros(n), np.zeros(n, dtype=bool)
        for step in range(task.episode_steps):
            action = control(torch.from_numpy(env.state)).numpy()
            _, reward, terminated, truncated, info = env.step(action)
            total += reward * ~fallen
            fallen |= terminated
            if terminated.any() and step + 1 < task.episode_steps:
                env.reset(options={"reset_mask": terminated})
            assert not info["invalid_action"].any()
    assert (truncated | fallen).all()
    return info["is_success"] & ~fallen, total


@pytest.mark.parametrize(("name", "options"), CASES)
def test_controller_succeeds_from_every_start(name, options):
    key = f"QPControl/{name}-v0"
    # The acrobot's plan takes seconds per start.
    success, total = run(key, 3 if name == "DoublePendulum" else 6, 100, **options)
    # The hopper's falls from 2 starts of 24, which other rounding may change.
    assert success.all() or (name == "Hopper" and success.sum() >= 4)
    steps = gym.spec(key).max_episode_steps
    assert (total[success] > 0.4 * steps).all() and (total < steps).all()


@pytest.mark.parametrize("name", ["CartPoleSwingUp", "DoublePendulum", "Pendulum"])  # the others fall or drop
def test_doing_nothing_does_not_succeed(name):
    key = f"QPControl/{name}-v0"
    success, _ = run(key, 6, 100, control=lambda x: torch.zeros(6, 1))
    assert not success.any()


@pytest.mark.slow
def test_acrobot_comes_up_from_many_starts():
    # It is chaotic: rounding decides when a start comes up, and whether within the time.
    success, _ = run("QPControl/DoublePendulum-v0", 24, 1000)
    assert success.mean() > 0.9
