"""Gymnasium environments with Pinocchio dynamics; ids `QPControl/<Name>-v0` are registered on import."""

from gymnasium.envs.registration import register, registry


def _register(name: str, module: str, *, max_episode_steps: int) -> None:
    key = f"QPControl/{name}-v0"
    if key not in registry:
        register(
            id=key,
            entry_point=f"qp_control.envs.{module}:{name}Env",
            vector_entry_point=f"qp_control.envs.{module}:{name}VectorEnv",
            max_episode_steps=max_episode_steps,
        )


_register("Pendulum", "pendulum", max_episode_steps=200)
_register("CartPole", "cart_pole", max_episode_steps=500)
_register("CartPoleSwingUp", "cart_pole_swing_up", max_episode_steps=200)
_register("DoublePendulum", "double_pendulum", max_episode_steps=300)
_register("Quadrotor", "quadrotor", max_episode_steps=200)
_register("ArmReach", "arm_reach", max_episode_steps=200)
_register("ArmTrack", "arm_track", max_episode_steps=400)
_register("Hopper", "hopper", max_episode_steps=500)
_register("Quadruped", "quadruped", max_episode_steps=500)
_register("QuadrupedPush", "quadruped_push", max_episode_steps=500)
_register("QuadrupedWalk", "quadruped_walk", max_episode_steps=500)
