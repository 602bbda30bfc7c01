"""Train PPO of stable-baselines3 on the native vector environments until it keeps the pole upright.

Needs the extra rl: pip install '.[rl]'. Takes a quarter of a minute.
"""

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

import qp_control.envs  # noqa: F401, registers the environments
from qp_control.envs.stable_baselines import as_vec_env

torch.set_num_threads(1)  # the networks are small


def robots(count):
    envs = gym.make_vec("QPControl/CartPole-v0", num_envs=count, autoreset_mode="SameStep")
    return VecMonitor(as_vec_env(envs, unit_actions=True))


model = PPO(
    "MlpPolicy", robots(16), n_steps=128, batch_size=256, learning_rate=1e-3, gamma=0.98, gae_lambda=0.9, seed=0,
    device="cpu",
)  # fmt: skip
test = robots(50)


def mean_return():
    test.seed(1000)
    returns, _ = evaluate_policy(model, test, n_eval_episodes=50, return_episode_rewards=True)
    return np.mean(returns)


before = mean_return()
model.learn(60_000)
after = mean_return()
print(f"return of 500 at most: {before:.0f} before, {after:.0f} after {model.num_timesteps} steps")
print("learned:", before < 100 < 400 < after)
