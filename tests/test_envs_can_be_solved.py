"""Every environment can be solved: a simple controller of ours succeeds from several seeded starts."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from env_controllers import CONTROLLERS

import qp_control.envs  # noqa: F401, registers the environments

CASES = [(name, {}) for name in CONTROLLERS] + [("Quadrotor", {"waypoints": 3})]


def run(key, n, seed, control=None, **options):
    """A whole episode of n environments: successes (n,), returns (n,)."""
    env = gym.make_vec(key, num_envs=n, autoreset_mode="Disabled", **options)
    task = env.task
    env.reset(seed=seed)
    with torch.no_grad():
        if control is None:
            name = key.removeprefix("QPControl/").removesuffix("-v0")
            control = CONTROLLERS[name](task)
        total = np.zeros(n)
        for step in range(task.episode_steps):
            action = control(torch.from_numpy(env.state)).numpy()
            _, reward, terminated, truncated, info = env.step(action)
            total += reward
            assert not terminated.any(), f"terminated in step {step}"
            assert not info["invalid_action"].any()
    assert truncated.all()
    return info["is_success"], total


@pytest.mark.parametrize(("name", "options"), CASES)
def test_controller_succeeds_from_every_start(name, options):
    key = f"QPControl/{name}-v0"
    # The acrobot's plan takes seconds per start.
    success, total = run(key, 3 if name == "DoublePendulum" else 6, 100, **options)
    assert success.all()
    steps = gym.spec(key).max_episode_steps
    assert (total > 0.4 * steps).all() and (total < steps).all()


@pytest.mark.parametrize("name", sorted(set(CONTROLLERS) - {"Quadrotor", "ArmReach", "ArmTrack", "CartPole"}))
def test_doing_nothing_does_not_succeed(name):
    key = f"QPControl/{name}-v0"
    success, _ = run(key, 6, 100, control=lambda x: torch.zeros(6, 1))
    assert not success.any()


@pytest.mark.slow
def test_acrobot_comes_up_from_many_starts():
    success, _ = run("QPControl/DoublePendulum-v0", 24, 1000)
    assert success.all()
