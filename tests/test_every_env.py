"""What holds for every environment: Gymnasium's rules, single equals vector equals the differentiable twin, numbers."""

import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.utils.env_match import check_environments_match
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import qp_control.envs  # noqa: F401, registers the environments
from qp_control import viewer
from qp_control.envs.base import write_rollout

IDS = sorted(key for key in gym.registry if key.startswith("QPControl/"))
# Everything that makes episodes differ, at once.
RANDOM = {"mass_spread": 0.2, "friction_spread": 0.5, "action_delay": 2, "observation_noise": 0.01}
# Batches of another size go through other vector instructions of torch; a few units in the last place, which the
# trajectories of a few steps do not amplify beyond this.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def test_all_environments_are_there():
    names = ["ArmReach", "ArmTrack", "CartPole", "CartPoleSwingUp", "DoublePendulum", "Hopper", "Pendulum"]
    names += ["Quadrotor", "Quadruped", "QuadrupedPush", "QuadrupedWalk"]
    assert [f"QPControl/{name}-v0" for name in names] == IDS


@pytest.mark.parametrize("options", [{}, RANDOM], ids=["nominal", "random"])
@pytest.mark.parametrize("key", IDS)
def test_check_env_passes(key, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Actions have units; gymnasium.wrappers.RescaleAction makes them numbers in [-1, 1].
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")
        check_env(gym.make(key, **options).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("key", IDS)
def test_two_of_a_kind_match(key):
    check_environments_match(gym.make(key, **RANDOM), gym.make(key, **RANDOM), num_steps=30, seed=3)


@pytest.mark.parametrize("options", [{}, RANDOM], ids=["nominal", "random"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("key", IDS)
def test_vector_environment_equals_single_environments(key, mode, options):
    n, steps = 3, 70  # beyond one block of noise
    vector = gym.make_vec(key, num_envs=n, autoreset_mode=mode, max_episode_steps=33, **options)
    single = SyncVectorEnv([lambda: gym.make(key, max_episode_steps=33, **options)] * n, autoreset_mode=mode)
    assert vector.observation_space == single.observation_space and vector.action_space == single.action_space
    assert vector.metadata["autoreset_mode"] == mode
    low, high = vector.single_action_space.low, vector.single_action_space.high
    rng = np.random.default_rng(0)
    ends = 0
    a, b = vector.reset(seed=5), single.reset(seed=5)
    np.testing.assert_allclose(a[0], b[0], **CLOSE)
    for k in range(steps):
        action = rng.uniform(low, high, (n, len(low))) * np.array([[0.1], [0.5], [1.2]])
        if k % 7 == 0:
            action[2] = np.nan
        a, b = vector.step(action), single.step(action)
        for mine, theirs in zip(a[:4], b[:4], strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_allclose(mine, theirs, **CLOSE)
        done = a[2] | a[3]
        ends += done.sum()
        for key_ in ("applied_action", "clipped", "invalid_action", "is_success"):
            told = b[4].get(f"_{key_}", np.zeros(n, dtype=bool))
            np.testing.assert_array_equal(a[4][f"_{key_}"], told)
            if told.any():
                np.testing.assert_array_equal(a[4][key_][told], b[4][key_][told])
        if mode == AutoresetMode.SAME_STEP and done.any():
            for i in np.flatnonzero(done):
                np.testing.assert_allclose(a[4]["final_obs"][i], b[4]["final_obs"][i], **CLOSE)
            for told in ("_final_obs", "_final_info"):
                np.testing.assert_array_equal(a[4][told], b[4][told])
            assert {k for k in a[4]["final_info"] if not k.startswith("_")} <= b[4]["final_info"].keys()
            theirs = b[4]["final_info"]
            assert data_equivalence(a[4]["final_info"], {k: v for k, v in theirs.items() if "TimeLimit" not in k})
        if mode == AutoresetMode.DISABLED and done.any():
            ours, other = (env.reset(options={"reset_mask": done.copy()}) for env in (vector, single))
            np.testing.assert_allclose(ours[0], other[0], **CLOSE)
    assert ends >= 2 * n


@pytest.mark.parametrize("key", IDS)
def test_differentiable_twin_walks_the_same_trajectory(key):
    n, steps = 2, 15  # before anything has fallen
    random = {"mass_spread": 0.2, "friction_spread": 0.5}
    vector = gym.make_vec(key, num_envs=n, max_episode_steps=1000, **random)
    single = [gym.make(key, **random).unwrapped for _ in range(n)]
    vector.reset(seed=1)
    for i, env in enumerate(single):
        env.reset(seed=1 + i)
        np.testing.assert_array_equal(env.parameters, vector.parameters[i])
    task = vector.task
    x = torch.from_numpy(vector.state)
    parameters = torch.from_numpy(vector.parameters)
    assert not torch.equal(parameters[0], parameters[1])
    np.testing.assert_allclose(np.stack([env.state for env in single]), x.numpy(), **CLOSE)
    rng = np.random.default_rng(0)
    low, high = task.action_space.low, task.action_space.high
    middle = task.rest_input
    first = None
    for _ in range(steps):
        u = middle + 0.02 * rng.uniform(low - middle, high - middle, (n, len(low)))
        before = x
        x = task.step(x, torch.from_numpy(u), parameters)
        _, reward, terminated, _, _ = vector.step(u)
        assert not terminated.any(), "the comparison is over too early"
        alone = [env.step(v) for env, v in zip(single, u, strict=True)]
        np.testing.assert_allclose(vector.state, x.numpy(), **CLOSE)
        np.testing.assert_allclose(np.stack([env.state for env in single]), x.numpy(), **CLOSE)
        np.testing.assert_allclose(reward, task.reward(x, torch.from_numpy(u)).numpy(), **CLOSE)
        np.testing.assert_allclose([r for _, r, *_ in alone], reward, **CLOSE)
        first = (before, torch.from_numpy(u)) if first is None else first

    # And it is differentiable: along an input, and by the parameters.
    x0, u0 = first

    def value(u, p):
        x1 = task.step(task.step(x0, u, p), u, p)
        return task.reward(x1, u).sum() + x1[:, -task.goal_size - 1 if task.goal_size else -1].sum()

    # Masses of 0.2 kg to 8 kg, velocities of 10: truncation h^2 = 1e-10, rounding 1e-16 / h.
    for k, argument in enumerate((u0, parameters)):
        given = [u0, parameters]
        given[k] = argument.clone().requires_grad_()
        (slope,) = torch.autograd.grad(value(*given), given[k])
        direction = torch.from_numpy(rng.normal(size=argument.shape)) * argument.abs().clamp_min(1e-3)
        sides = []
        for side in (1e-5, -1e-5):
            given[k] = argument + side * direction
            sides.append(float(value(*given)))
        assert float((slope * direction).sum()) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("key", IDS)
def test_a_task_of_tensors_only_has_the_same_numbers(key):
    """Tasks written for torch, which ours could be as well, are called with tensors."""
    arrays, tensors = (gym.make_vec(key, num_envs=3, max_episode_steps=20, **RANDOM) for _ in range(2))
    if not arrays.task.takes_arrays:
        pytest.skip("a task of tensors only")
    tensors.task.takes_arrays = False
    kinds = set()
    outcome = tensors.task.outcome
    tensors.task.outcome = lambda x, u: (kinds.update({type(x), type(u)}), outcome(x, u))[1]
    rng = np.random.default_rng(0)
    low, high = arrays.single_action_space.low, arrays.single_action_space.high
    np.testing.assert_allclose(arrays.reset(seed=0)[0], tensors.reset(seed=0)[0], **CLOSE)
    for _ in range(25):
        action = 0.2 * rng.uniform(low, high, (3, len(low)))
        for mine, other in zip(arrays.step(action)[:4], tensors.step(action)[:4], strict=True):
            assert mine.dtype == other.dtype
            np.testing.assert_allclose(mine, other, **CLOSE)
    assert kinds == {torch.Tensor}


@pytest.mark.parametrize("key", IDS)
def test_rewards_are_smooth_and_at_most_one(key):
    task = gym.make(key).unwrapped.task
    x = task.sample_starts(200, seed=0)
    rng = np.random.default_rng(0)
    box = task.action_space
    u = torch.from_numpy(rng.uniform(box.low, box.high, (200, len(box.low))))
    for _ in range(5):
        x = task.step(x, u)
    assert (task.reward(x, u) <= 1.0 + 1e-12).all() and task.reward(x, u).isfinite().all()
    few = x[:3, : task.dynamics.nx].clone().requires_grad_(), u[:3].clone().requires_grad_()

    def reward(plant, u):
        return task.reward(torch.cat([plant, x[:3, task.dynamics.nx :]], 1), u)

    if task.dynamics.vector_space:
        assert torch.autograd.gradcheck(reward, few)
    else:  # gradients by quaternions are taken as of any four numbers
        assert torch.autograd.gradcheck(reward, few, check_undefined_grad=False)


@pytest.mark.parametrize("key", IDS)
def test_wrong_actions_get_the_documented_treatment(key):
    env, other = gym.make(key), gym.make(key)
    high = env.action_space.high
    for sent, same, flag in (
        (3.0 * high, high, "clipped"),
        (np.full_like(high, np.nan), 0 * high, "invalid_action"),
        (np.full_like(high, -np.inf), 0 * high, "invalid_action"),
    ):
        env.reset(seed=0)
        other.reset(seed=0)
        a, b = env.step(sent), other.step(same)
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1] == b[1] and a[4][flag] and not b[4][flag]
        np.testing.assert_array_equal(a[4]["applied_action"], same)
    with pytest.raises(ValueError, match=r"action has shape \(9,\), expected"):
        env.step(np.zeros(9))
    vector = gym.make_vec(key, num_envs=2)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=r"action has shape \(3, "):
        vector.step(np.zeros((3, len(high))))


@pytest.mark.parametrize("size", [1e3, 1e200])
@pytest.mark.parametrize("key", IDS)
def test_states_that_run_away_leave_numbers(key, size):
    vector = gym.make_vec(key, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP)
    vector.reset(seed=0)
    x = vector.state
    x[0, vector.task.dynamics.nx - 1] = size  # the last velocity
    vector.reset(options={"state": x})
    for _ in range(20):
        observation, reward, terminated, _, info = vector.step(np.full(vector.action_space.shape, 1e300))
        assert np.isfinite(observation).all() and np.isfinite(reward).all() and np.isfinite(vector.state).all()
        assert vector.observation_space.contains(observation)
        if terminated[0]:
            assert np.isfinite(info["final_obs"][0]).all()


@pytest.mark.parametrize("key", IDS)
def test_seeds_say_everything_and_observations_are_copies(key):
    env = gym.make(key, **RANDOM)
    action = 0.1 * env.action_space.high

    def episode(seed):
        seen = [env.reset(seed=seed)[0]]
        kept = seen[0].copy()
        seen += [env.step(action)[0] for _ in range(5)]
        np.testing.assert_array_equal(seen[0], kept)
        return np.array(seen)

    a = episode(3)
    np.testing.assert_array_equal(a, episode(3))
    assert (a != episode(4)).any()
    vector = gym.make_vec(key, num_envs=2)
    first, _ = vector.reset(seed=0)
    first[:] = np.nan
    state = vector.state
    state[:] = np.nan
    second, *_ = vector.step(np.zeros(vector.action_space.shape))
    assert np.isfinite(second).all()


@pytest.mark.parametrize("key", IDS)
def test_docstrings_are_gymnasiums_tables_and_true(key):
    env = gym.make(key).unwrapped
    text = type(env).__doc__
    sections = ["Action space", "Observation space", "Rewards", "Starting state", "Episode end", "Arguments"]
    assert re.findall(r"### (.+)", text) == [*sections, "Version history"]
    parts = dict(zip(["", *sections, "Version history"], re.split(r"### .+\n", text), strict=True))
    size, limit = env.observation_space.shape[0], env.action_space.high
    assert f"`Box(({size},), float64)`" in parts["Observation space"]
    assert re.search(rf"\({len(limit)},\), float64\)`", parts["Action space"])
    for number in limit:
        assert f"{number:g}" in parts["Action space"]
    rows = re.findall(r"^ *\| ([\d, -]+?) +\|.*\| \+- \(?([\w.]+)", parts["Observation space"], re.M)
    entries = []
    for numbers, bound in rows:
        ends = [int(i) for i in re.findall(r"\d+", numbers)]
        entries += range(ends[0], ends[-1] + 1)
        if re.fullmatch(r"[\d.]+", bound):
            assert env.observation_space.high[ends[0]] == float(bound), numbers
    assert entries == list(range(size))
    steps = gym.spec(key).max_episode_steps
    assert steps == env.task.episode_steps
    assert f"{steps} steps ({steps * env.task.control_period:g} s)" in " ".join(parts["Episode end"].split())
    for option in ("render_mode", *RANDOM):
        assert f"`{option}`" in parts["Arguments"]


@pytest.mark.parametrize("key", IDS)
def test_rollouts_are_written_as_pages(key, tmp_path):
    task = gym.make(key).unwrapped.task
    x = [task.sample_starts(1, seed=0)]
    for _ in range(4):
        x.append(task.step(x[-1], torch.zeros(1, task.dynamics.nu, dtype=torch.float64)))
    path = write_rollout(tmp_path / "page.html", task, torch.cat(x))
    assert path.stat().st_size > 500_000 and task.name in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="states has shape"):
        write_rollout(path, task, torch.cat(x)[:, 1:])


@pytest.mark.parametrize("key", IDS)
def test_pictures_show_the_robot_where_there_is_a_browser(key):
    try:
        viewer.browser_path()
    except viewer.BrowserNotFound as missing:
        pytest.skip(str(missing))
    env = gym.make(key, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (480, 640, 3) and first.dtype == np.uint8 and first.std() > 1.0
    for _ in range(10):
        env.step(env.action_space.high)
    assert (env.render() != first).any()
    env.close()
