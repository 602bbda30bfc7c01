"""What users of Gymnasium do with environments: copies, processes, wrappers, a million steps."""

import copy
import os
import pickle
import threading

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import vector as wrappers

import qp_control.envs  # noqa: F401, registers the environments

IDS = sorted(key for key in gym.registry if key.startswith("QPControl/"))
CART = "QPControl/CartPole-v0"
RANDOM = {"mass_spread": 0.2, "observation_noise": 0.01, "action_delay": 1}


def pickled(env):
    return pickle.loads(pickle.dumps(env))


@pytest.mark.parametrize("how", [copy.deepcopy, pickled])
@pytest.mark.parametrize("many", [False, True], ids=["single", "vector"])
@pytest.mark.parametrize("key", IDS)
def test_a_copy_goes_on_as_the_original_does(key, many, how):
    env = gym.make_vec(key, num_envs=2, **RANDOM) if many else gym.make(key, **RANDOM)
    env.reset(seed=0)
    action = 0.1 * env.action_space.high
    env.step(action)
    other = how(env)
    for _ in range(3):
        np.testing.assert_array_equal(env.step(action)[0], other.step(action)[0])
    start = env.reset()[0]
    env.step(action)
    np.testing.assert_array_equal(start, other.reset()[0])


@pytest.mark.parametrize("how", [copy.deepcopy, pickled])
def test_a_copy_does_not_share_the_viewer(how):
    env = gym.make(CART).unwrapped
    env._viewer = threading.Lock()  # no more to be copied than a browser
    assert how(env)._viewer is None and env._viewer is not None


def test_other_processes_have_the_same_numbers():
    ours = gym.make_vec(CART, num_envs=2)
    theirs = AsyncVectorEnv([lambda: gym.make(CART)] * 2)
    try:
        np.testing.assert_array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
        for force in (3.0, -2.0, 9.0):
            a, b = (env.step(np.full((2, 1), force))[0] for env in (ours, theirs))
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)  # as in test_every_env
    finally:
        theirs.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_statistics_of_episodes_are_those_of_the_rewards(mode):
    env = wrappers.RecordEpisodeStatistics(gym.make_vec(CART, num_envs=3, max_episode_steps=20, autoreset_mode=mode))
    env.reset(seed=0)
    total, found, expected = np.zeros(3), [], []
    for _ in range(60):
        _, reward, terminated, truncated, info = env.step(np.zeros((3, 1)))
        total += reward
        for i in np.flatnonzero(terminated | truncated):
            found.append(info["episode"]["r"][i])
            expected.append(total[i])
            total[i] = 0.0
    assert len(found) >= 6
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    "wrap",
    [
        wrappers.NormalizeObservation,
        wrappers.NormalizeReward,
        wrappers.FlattenObservation,
        lambda env: wrappers.RescaleAction(env, -1.0, 1.0),
        lambda env: wrappers.RescaleObservation(env, -1.0, 1.0),
    ],
)
def test_vector_wrappers_of_gymnasium_work(wrap):
    env = wrap(gym.make_vec("QPControl/ArmReach-v0", num_envs=2, vectorization_mode="vector_entry_point"))
    env.reset(seed=0)
    for _ in range(50):  # arms that fall reach their limits within
        observation, reward, *_ = env.step(env.action_space.sample())
        assert np.isfinite(observation).all() and np.isfinite(reward).all()
        assert env.observation_space.contains(observation)


def test_rescaled_actions_are_forces_of_the_box():
    env = wrappers.RescaleAction(gym.make_vec(CART, num_envs=2), -1.0, 1.0)
    env.reset(seed=0)
    info = env.step(np.array([[0.5], [-1.0]]))[4]
    np.testing.assert_allclose(info["applied_action"], [[5.0], [-10.0]])


def test_the_first_step_needs_a_reset():
    for env in (gym.make(CART).unwrapped, gym.make_vec(CART, num_envs=2)):
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            env.step(np.zeros(env.action_space.shape))
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(np.zeros((2, 1)))
    env.reset(options={"reset_mask": np.array([False, True])})
    env.step(np.zeros((2, 1)))


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.parametrize("many", [False, True], ids=["single", "vector"])
def test_memory_stays_flat(many):
    # One array kept in every step, 112 bytes and its numbers, would be 2.2 MB.
    env = gym.make_vec(CART, num_envs=16, autoreset_mode="SameStep", **RANDOM) if many else gym.make(CART, **RANDOM)
    env.reset(seed=0)
    action = 0.3 * env.action_space.high

    def walk(steps):
        for _ in range(steps):
            ended = env.step(action)[2:4]
            if not many and any(ended):
                env.reset()

    walk(2_000)
    before = resident()
    walk(20_000)
    assert resident() - before < 1_500_000
