"""Learn a controller's cost, limits and model by gradients through it: `qp-control train` without a run folder.

python examples/train_cart_pole_swing_up.py [iterations of imitation] [iterations of closed loops]
"""

import sys

from qp_control.training import Trainer, create
from qp_control.training.task import HELD_OUT_SEED

counts = [int(argument) for argument in sys.argv[1:]] or [20, 5]
task = create("cart_pole_swing_up", imitation_iterations=counts[0], closed_loop_iterations=counts[-1])


def report(row: dict) -> None:
    validated = f"  return {row['validation_return']:.1f}" if "validation_return" in row else ""
    print(f"{row['iteration']:3d} {row['phase']:<11} loss {row['loss']:8.4f}{validated}")


learned = Trainer(task).train(report)
for name, controller in (("generic weights", task.module()), ("learned", learned)):
    values = task.score(controller, HELD_OUT_SEED, 10).values
    print(f"{name:<16} success {100 * values['success']:3.0f} %  return {values['return']:.1f}")
