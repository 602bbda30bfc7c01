"""The environments: Gymnasium's rules, single equals vector, bad actions, ends of episodes, success."""

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import qp_control.envs  # noqa: F401, registers the environments
from qp_control.envs.cart_pole_swing_up import CartPoleSwingUp

ID = "QPControl/CartPoleSwingUp-v0"
MODES = list(AutoresetMode)


def hold_upright(x):
    """A stabilising linear feedback for states near upright (gains by hand), force [N]."""
    return np.clip(np.asarray(x) @ np.array([1.0, 40.0, 2.5, 10.0]), -10.0, 10.0)[..., None]


def test_check_env_passes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The action is a force in newtons; gymnasium.wrappers.RescaleAction makes it a number in [-1, 1].
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")
        check_env(gym.make(ID).unwrapped, skip_render_check=True)


def test_registration_needs_no_torch():
    code = "import sys, qp_control.envs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("mode", MODES)
def test_vector_environment_equals_single_environments(mode):
    n, options = 3, {"pole_mass_scale": 1.2, "friction_scale": 1.2}
    vector = gym.make_vec(ID, num_envs=n, autoreset_mode=mode, **options)
    single = SyncVectorEnv([lambda: gym.make(ID, **options)] * n, autoreset_mode=mode)
    assert vector.observation_space == single.observation_space
    assert vector.action_space == single.action_space
    assert vector.metadata["autoreset_mode"] == mode
    rng = np.random.default_rng(0)
    ends = 0
    assert data_equivalence(vector.reset(seed=5), single.reset(seed=5))
    for k in range(450):
        # one cart leaves its track, one gets NaN now and then, one oscillates until time is over
        action = np.array([[12.0], [10.0 * np.sin(0.3 * k)], [rng.uniform(-2, 2)]])
        if k % 7 == 0:
            action[2] = np.nan
        a, b = vector.step(action), single.step(action)
        for mine, theirs in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert data_equivalence(a[4].get("final_obs"), b[4].get("final_obs"))
        for key in ("applied_action", "clipped", "invalid_action", "is_success"):
            if f"_{key}" in b[4]:  # told by gymnasium only where some environment reports it
                np.testing.assert_array_equal(a[4][f"_{key}"], b[4][f"_{key}"])
                np.testing.assert_array_equal(a[4][key], b[4][key])
            else:
                assert not a[4][f"_{key}"].any()
        done = a[2] | a[3]
        ends += done.sum()
        if mode == AutoresetMode.DISABLED and done.any():
            ours, other = (env.reset(options={"reset_mask": done.copy()}) for env in (vector, single))
            np.testing.assert_array_equal(ours[0], other[0])
    assert ends >= 8


def test_disabled_autoreset_asks_for_the_reset():
    env = gym.make_vec(ID, num_envs=2, autoreset_mode=AutoresetMode.DISABLED, max_episode_steps=1)
    env.reset(seed=0)
    env.step(np.zeros((2, 1)))
    with pytest.raises(gym.error.ResetNeeded, match=r"\[0, 1\]"):
        env.step(np.zeros((2, 1)))


def test_same_seed_same_start_and_seeds_differ():
    env = gym.make(ID)
    a, _ = env.reset(seed=3)
    b, _ = env.reset(seed=3)
    c, _ = env.reset(seed=4)
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_starts_are_hanging_and_spread():
    x = CartPoleSwingUp().sample_starts(2000, seed=1)
    assert torch.equal(x, CartPoleSwingUp().sample_starts(2000, seed=1))
    assert x[:, 0].abs().max() <= 0.5 and x[:, 0].abs().max() > 0.45
    angle = (x[:, 1] - torch.pi).abs()
    assert angle.max() <= 0.3 and angle.max() > 0.27
    assert (x[:, 2:] == 0).all()


def test_the_plant_is_the_task_of_the_specification():
    task = CartPoleSwingUp(pole_mass_scale=1.2, friction_scale=1.2)
    nominal = dict(zip(task.dynamics.parameter_names, task.dynamics.parameters.tolist(), strict=True))
    plant = dict(zip(task.dynamics.parameter_names, task.parameters.tolist(), strict=True))
    assert nominal["cart_joint.m"] == 1.0 and nominal["pole_joint.m"] == 0.1
    assert nominal["pole_joint.mcz"] == pytest.approx(0.1 * 0.5)
    assert (task.force_limit, task.track_limit) == (10.0, 2.4)
    assert task.control_period == 0.05 and task.control_period / task.substeps <= 1 / 200
    assert task.episode_steps * task.control_period == 10.0
    for key in nominal:
        scaled = key.startswith("pole_joint.") or key.endswith(".damping")
        assert plant[key] == pytest.approx(nominal[key] * (1.2 if scaled else 1.0)), key


def test_action_outside_its_box_is_clipped_and_reported():
    env, other = gym.make(ID), gym.make(ID)
    env.reset(seed=0)
    other.reset(seed=0)
    x, *_, info = env.step(np.array([50.0]))
    y, *_, quiet = other.step(np.array([10.0]))
    assert info["clipped"] and info["applied_action"] == [10.0] and not quiet["clipped"]
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_action_that_is_no_number_becomes_zero_and_is_reported(bad):
    env, other = gym.make(ID), gym.make(ID)
    env.reset(seed=0)
    other.reset(seed=0)
    x, reward, *_, info = env.step(np.array([bad]))
    y, expected, *_, quiet = other.step(np.array([0.0]))
    assert info["invalid_action"] and info["applied_action"] == [0.0] and not quiet["invalid_action"]
    np.testing.assert_array_equal(x, y)
    assert reward == expected and np.isfinite(reward)


def test_state_that_runs_away_ends_the_episode_with_numbers():
    env = gym.make(ID)
    env.reset(options={"state": [0.0, 0.0, 0.0, 1e200]})
    obs, reward, terminated, truncated, _ = env.step(np.array([0.0]))
    assert terminated and not truncated
    assert np.isfinite(obs).all() and np.isfinite(reward) and env.observation_space.contains(obs)


def test_leaving_the_track_terminates_and_time_truncates():
    env = gym.make(ID)
    env.reset(seed=0)
    for step in range(200):  # noqa: B007, looked at below
        obs, _, terminated, truncated, info = env.step(np.array([10.0]))
        if terminated or truncated:
            break
    assert terminated and not truncated and obs[0] > 2.4 and step < 100 and not info["is_success"]
    env.reset(seed=0)
    ends = [env.step(np.array([0.0]))[2:4] for _ in range(200)]
    assert ends[-1] == (False, True) and not any(any(e) for e in ends[:-1])


def test_success_needs_the_whole_episode_and_the_last_second():
    env = gym.make(ID)
    obs, _ = env.reset(options={"state": [0.2, 0.1, 0.0, 0.0]})
    states = [obs]
    for _ in range(200):
        obs, _, terminated, truncated, info = env.step(hold_upright(obs))
        states.append(obs)
        assert info["is_success"] == (truncated and not terminated)
    task, trajectory = CartPoleSwingUp(), torch.from_numpy(np.array(states))
    assert task.success(trajectory[None]).tolist() == [True]
    turned, tilted, late, off = (trajectory.clone() for _ in range(4))
    turned[:, 1] += 4 * torch.pi  # upright after two turns
    tilted[190, 1] = 0.21
    late[179, 1] = 1.0  # before the last second
    off[50, 0] = 2.41
    all_of_them = torch.stack([turned, tilted, late, off])
    assert task.success(all_of_them).tolist() == [True, False, True, False]
    assert task.success(trajectory[None, :-1]).tolist() == [False]
    with pytest.raises(ValueError, match=r"expected \(n, T \+ 1, 4\)"):
        task.success(trajectory)


def test_reward_is_smooth_and_best_at_the_goal():
    task = CartPoleSwingUp()
    goal, u = torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    assert task.reward(goal, u).item() == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.uniform(-2.4, 2.4, (100, 4)))
    f = torch.from_numpy(rng.uniform(-10, 10, (100, 1)))
    assert ((task.reward(x, f) < 1.0) & (task.reward(x, f) >= 0.0)).all()
    assert torch.autograd.gradcheck(task.reward, (x[:5].requires_grad_(), f[:5].requires_grad_()))


def test_observations_are_copies():
    env = gym.make_vec(ID, num_envs=2)
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second, *_ = env.step(np.ones((2, 1)))
    np.testing.assert_array_equal(first, kept)
    second[:] = np.nan
    third, *_ = env.step(np.ones((2, 1)))
    assert np.isfinite(third).all()


def test_caller_mistakes_raise():
    with pytest.raises(gym.error.Error, match="CartPoleSwingDown"):
        gym.make("QPControl/CartPoleSwingDown-v0")
    env = gym.make(ID)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action has shape \(2,\), expected \(1,\)"):
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match=r"options\['state'\]"):
        env.reset(options={"state": [0.0, np.nan, 0.0, 0.0]})
    with pytest.raises(ValueError, match="pole_mass_scale is -1"):
        gym.make(ID, pole_mass_scale=-1.0)
    with pytest.raises(ValueError, match="friction_scale is nan"):
        gym.make(ID, friction_scale=np.nan)
    vector = gym.make_vec(ID, num_envs=2)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=r"action has shape \(3, 1\), expected \(2, 1\)"):
        vector.step(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="reset_mask"):
        vector.reset(options={"reset_mask": np.array([False, False])})
    with pytest.raises(ValueError, match="render_mode"):
        gym.make_vec(ID, num_envs=2, render_mode="rgb_array")


def test_time_limits_of_vector_environments_are_those_of_gymnasium():
    envs = gym.make_vec(ID, num_envs=2, max_episode_steps=-1)
    envs.reset(options={"state": np.zeros((2, 4))})
    ends = [envs.step(np.zeros((2, 1)))[2:4] for _ in range(CartPoleSwingUp().episode_steps + 5)]
    assert not np.any(ends)
    for steps in (0, -2, 2.5, "3"):
        with pytest.raises(ValueError, match=f"max_episode_steps is {steps!r}, expected an integer of at least 1"):
            gym.make_vec(ID, num_envs=2, max_episode_steps=steps)
    for count in (0, 2.5):
        with pytest.raises(ValueError, match=f"num_envs is {count}, expected an integer of at least 1"):
            gym.make_vec(ID, num_envs=count)


@pytest.mark.parametrize("name", ["Quadrotor", "Quadruped"])
def test_start_states_that_are_no_rotation_are_refused_at_the_reset(name):
    single, many = gym.make(f"QPControl/{name}-v0"), gym.make_vec(f"QPControl/{name}-v0", num_envs=2)
    single.reset(seed=0)
    many.reset(seed=0)
    states = many.unwrapped.state
    many.reset(options={"state": states})
    for factor in (0.0, 2.0):
        wrong = states.copy()
        wrong[1, 3:7] *= factor
        with pytest.raises(ValueError, match="expected quaternions of length one"):
            many.reset(options={"state": wrong})
        with pytest.raises(ValueError, match="expected quaternions of length one"):
            single.reset(options={"state": wrong[1]})
    # They go on from where they were.
    np.testing.assert_array_equal(many.unwrapped.state, states)
    many.step(np.zeros(many.action_space.shape))
