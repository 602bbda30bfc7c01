"""Learn a controller's cost, limits and model by gradients through it: `qp-control train` without its folder.

python examples/train_cart_pole_swing_up.py [iterations of imitation] [iterations of closed loops]
"""

import sys

from qp_control.training import Trainer, TrainingConfig, create, evaluate
from qp_control.training.evaluation import HELD_OUT_SEED, starts

counts = [int(argument) for argument in sys.argv[1:]] or [20, 5]
task = create("cart_pole_swing_up")
config = TrainingConfig(imitation_iterations=counts[0], closed_loop_iterations=counts[-1], validate_every=5)


def report(row: dict) -> None:
    validated = f"  return {row['validation_return']:.1f}" if "validation_return" in row else ""
    print(f"{row['iteration']:3d} {row['stage']:<11} loss {row['loss']:8.4f}{validated}")


learned = Trainer(task, config).train(report)
x0 = starts(task, 10, HELD_OUT_SEED)
for name, controller in (("generic weights", task.controller()), ("learned", learned)):
    result = evaluate(task, controller, x0)
    print(f"{name:<16} success {100 * result.success:3.0f} %  return {result.mean_return:.1f}")
