"""Fly a quadrotor with an unknown load to waypoints: an MPC learned through the plant, by PPO or by SAC, or a network.

python examples/train_quadrotor.py [analytic | ppo | sac | network] [iterations]
All but the first need stable-baselines3: pip install '.[rl]'
"""

import sys

from qp_control.training import Trainer, create
from qp_control.training.task import HELD_OUT_SEED

recipe = sys.argv[1] if len(sys.argv) > 1 else "analytic"
iterations = {"analytic": "closed_loop_iterations", "sac": "sac_iterations"}.get(recipe, "ppo_iterations")
task = create(f"quadrotor_{recipe}", **({iterations: int(sys.argv[2])} if len(sys.argv) > 2 else {}))


def report(row: dict) -> None:
    validated = f"  return {row['validation_return']:.1f}" if "validation_return" in row else ""
    print(f"{row['iteration']:3d} {row['phase']:<11} loss {row['loss']:8.4f}{validated}")


learned = Trainer(task).train(report)
for name, controller in (("before", task.module()), ("tuned by hand", task.hand_tuned()), ("learned", learned)):
    values = task.score(controller, HELD_OUT_SEED, 10).values
    print(f"{name:<14} success {100 * values['success']:3.0f} %  return {values['return']:.1f} of 200")
