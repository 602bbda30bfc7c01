"""Controllers as the last layer of actors that stable-baselines3's PPO and SAC train.

    envs = gym.make_vec("QPControl/CartPole-v0", num_envs=16, autoreset_mode="SameStep")
    robots = ControllerEnvs(envs, mpc)
    PPO(ControllerPolicy, robots, policy_kwargs={"actor": robots.actor}, rollout_buffer_class=CarriedRolloutBuffer)

    carried      what a controller carries from call to call, as numbers: linearisation point, warm start
      -> actor     a controller as a function of (observation, carried numbers)
      -> robots    environments whose observations include the carried numbers, so that buffers store them
      -> policies  the controller's input as the mean action, alongside a value network or critics
      -> phases    `ProximalPolicy` and `SoftActorCritic`, recipes for `qp_control.training.Trainer`

What a controller carries affects its next action, so it is part of the policy's observation: stored with each sample,
it lets an update recompute exactly the action of the rollout.
"""

try:
    import stable_baselines3  # noqa: F401
except ImportError as missing:
    raise ImportError(
        "qp_control.training.reinforcement needs stable-baselines3: pip install 'qp-control[rl]'"
    ) from missing

from qp_control.training.reinforcement.actor import Actor
from qp_control.training.reinforcement.buffers import CarriedRolloutBuffer
from qp_control.training.reinforcement.phases import ProximalPolicy, SoftActorCritic
from qp_control.training.reinforcement.policies import ControllerPolicy, ControllerSACPolicy
from qp_control.training.reinforcement.robots import ControllerEnvs

__all__ = [
    "Actor",
    "CarriedRolloutBuffer",
    "ControllerEnvs",
    "ControllerPolicy",
    "ControllerSACPolicy",
    "ProximalPolicy",
    "SoftActorCritic",
]
