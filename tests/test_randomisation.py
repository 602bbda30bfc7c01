"""What may differ from the nominal plant: bodies, friction, late actions, noise; drawn from the environment's seed."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import qp_control.envs  # noqa: F401, registers the environments
from qp_control.envs.randomisation import BLOCK

ARM, CART = "QPControl/ArmReach-v0", "QPControl/CartPoleSwingUp-v0"


def test_off_is_the_nominal_environment_bit_for_bit():
    plain = gym.make(ARM)
    off = gym.make(ARM, mass_spread=0.0, friction_spread=0.0, action_delay=0, observation_noise=0.0)
    for env in (plain, off):
        env.reset(seed=0)
        np.testing.assert_array_equal(env.unwrapped.parameters, env.unwrapped.task.dynamics.parameters.numpy())
    rng = np.random.default_rng(0)
    for _ in range(3):
        for _ in range(20):
            action = rng.uniform(-20, 20, 6)
            a, b = plain.step(action), off.step(action)
            np.testing.assert_array_equal(a[0], b[0])
            assert a[1:4] == b[1:4]
        np.testing.assert_array_equal(plain.reset()[0], off.reset()[0])


def test_each_body_and_joint_has_its_factor():
    env = gym.make_vec(ARM, num_envs=400, mass_spread=0.3, friction_spread=0.8)
    env.reset(seed=0)
    bodies = env.task.dynamics.bodies
    nominal = env.task.parameters.numpy()
    ratio = env.parameters / np.where(nominal == 0.0, 1.0, nominal)
    mass, friction = ratio[:, : 10 * bodies].reshape(400, bodies, 10), ratio[:, 10 * bodies :]
    given = nominal[: 10 * bodies].reshape(bodies, 10) != 0.0
    factor = mass[:, :, 0]
    np.testing.assert_allclose(mass, np.where(given, factor[:, :, None], 0.0), rtol=1e-12, atol=1e-12)
    for values, spread in ((factor, 0.3), (friction, 0.8)):
        assert (np.abs(values - 1.0) <= spread).all()
        # Of 400 uniform numbers the largest is beyond 97 % of the end but for one case in 1e5; the mean is within four
        # standard deviations.
        assert (values.max(0) > 1.0 + 0.94 * spread).all() and (values.min(0) < 1.0 - 0.94 * spread).all()
        assert (np.abs(values.mean(0) - 1.0) < 4.0 * spread / np.sqrt(3 * 400)).all()
        assert np.abs(np.corrcoef(values.T) - np.eye(values.shape[1])).max() < 0.25


def test_the_plant_moves_as_its_parameters_say():
    env = gym.make(CART, mass_spread=0.5, friction_spread=1.0).unwrapped
    env.reset(seed=1)
    x, parameters = env.state, env.parameters
    assert np.abs(parameters - env.task.parameters.numpy()).max() > 0.05
    env.step(np.array([5.0]))
    force = torch.tensor([[5.0]], dtype=torch.float64)
    heavy = env.task.dynamics.step(torch.from_numpy(x)[None], force, torch.from_numpy(parameters))
    nominal = env.task.dynamics.step(torch.from_numpy(x)[None], force)
    np.testing.assert_allclose(env.state, heavy[0].numpy(), rtol=1e-13)
    assert np.abs(env.state - nominal[0].numpy()).max() > 1e-3


def test_parameters_stay_for_an_episode_and_come_again_with_the_seed():
    env = gym.make(CART, mass_spread=0.5).unwrapped
    env.reset(seed=1)
    first = env.parameters
    env.step(np.zeros(1))
    np.testing.assert_array_equal(env.parameters, first)
    env.reset()
    second = env.parameters
    assert second[0] != first[0]
    env.reset(seed=1)
    np.testing.assert_array_equal(env.parameters, first)
    env.reset()
    np.testing.assert_array_equal(env.parameters, second)


@pytest.mark.parametrize("delay", [1, 3])
def test_actions_act_later_and_are_reported_then(delay):
    prompt, late = gym.make(CART).unwrapped, gym.make(CART, action_delay=delay).unwrapped
    rng = np.random.default_rng(0)
    for _ in range(2):  # the second episode begins without what was under way in the first
        prompt.reset(seed=0)
        late.reset(seed=0)
        sent = rng.uniform(-12, 12, (10, 1))
        for _ in range(delay):
            prompt.step(np.zeros(1))
        for k, action in enumerate(sent):
            *_, info = late.step(action)
            assert info["clipped"] == (abs(action[0]) > 10.0)
            expected = np.zeros(1) if k < delay else np.clip(sent[k - delay], -10, 10)
            np.testing.assert_array_equal(info["applied_action"], expected)
        for action in sent[: 10 - delay]:
            prompt.step(action)
        np.testing.assert_array_equal(prompt.state, late.state)


def test_until_the_first_action_arrives_the_quadrotor_hovers():
    env = gym.make("QPControl/Quadrotor-v0", action_delay=2).unwrapped
    env.reset(seed=0)
    *_, info = env.step(np.zeros(4))
    np.testing.assert_allclose(info["applied_action"], [0.5 * 9.81, 0, 0, 0])


def test_noise_is_gaussian_and_only_seen():
    scale = [0.1, 0.0, 0.5, 1.0]
    quiet = gym.make_vec(CART, num_envs=50, max_episode_steps=10_000)
    noisy = gym.make_vec(CART, num_envs=50, max_episode_steps=10_000, observation_noise=scale)
    seen = [noisy.reset(seed=0)[0] - quiet.reset(seed=0)[0]]
    for _ in range(2 * BLOCK + 10):
        seen.append(noisy.step(np.zeros((50, 1)))[0] - quiet.step(np.zeros((50, 1)))[0])
        np.testing.assert_array_equal(noisy.state, quiet.state)
    noise = np.array(seen)
    count = noise[..., 0].size
    assert (noise[..., 1] == 0.0).all()
    for i in (0, 2, 3):
        z = noise[..., i] / scale[i]
        # Four standard deviations of mean, variance, and correlation from step to step.
        assert abs(z.mean()) < 4 / np.sqrt(count) and abs(z.var() - 1.0) < 4 * np.sqrt(2 / count)
        assert abs((z[1:] * z[:-1]).mean()) < 4 / np.sqrt(count)
        assert abs((np.abs(z) < 1.0).mean() - 0.6827) < 4 * 0.466 / np.sqrt(count)
        # No block comes twice.
        assert len(np.unique(z)) == count
    quiet.close()


def test_reset_of_some_leaves_the_others_view_alone():
    env = gym.make_vec(CART, num_envs=3, autoreset_mode="Disabled", observation_noise=0.1)
    before, _ = env.reset(seed=0)
    after, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
    assert (before[1] != after[1]).all()


def test_noisy_observations_stay_in_their_box():
    env = gym.make("QPControl/Pendulum-v0", observation_noise=10.0)
    seen = [env.reset(seed=0)[0]] + [env.step(np.zeros(1))[0] for _ in range(20)]
    assert all(env.observation_space.contains(s) for s in seen)
    assert np.abs(np.array(seen)[:, :2]).max() == 1.0


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("mass_spread", 1.0, r"mass_spread is 1.0, expected a number in \[0, 1\)"),
        ("mass_spread", np.nan, "mass_spread is nan"),
        ("friction_spread", 1.1, r"friction_spread is 1.1, expected a number in \[0, 1\]"),
        ("action_delay", -1, "action_delay is -1"),
        ("action_delay", 0.5, "action_delay is 0.5, expected a number of control periods"),
        ("observation_noise", -0.1, "observation_noise is -0.1, expected one number >= 0 or 4"),
        ("observation_noise", [0.1, 0.1], "observation_noise is .*, expected one number >= 0 or 4"),
    ],
)
def test_options_that_mean_nothing_are_refused(option, value, message):
    for make in (gym.make, lambda key, **options: gym.make_vec(key, num_envs=2, **options)):
        with pytest.raises(ValueError, match=message):
            make(CART, **{option: value})
