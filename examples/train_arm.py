"""Learn gains, weights and an unknown load for an arm's inverse-dynamics controller, from closed loops.

python examples/train_arm.py [updates of the model] [updates of all]
"""

import sys

from qp_control.training import Trainer, create
from qp_control.training.task import HELD_OUT_SEED

counts = [int(argument) for argument in sys.argv[1:]] or [15, 25]
task = create("arm_inverse_dynamics", model_iterations=counts[0], iterations=counts[-1])


def report(row: dict) -> None:
    if "validation_success" in row:
        error, load = row["validation_tracking error [mm]"], row["validation_load error [kg]"]
        print(f"{row['iteration']:3d} {row['phase']:<11} error {error:7.2f} mm, of the load {load:.2f} kg")


learned = Trainer(task).train(report)
for name, policy in (("before", task.module()), ("tuned by hand", task.hand_tuned()), ("learned", learned)):
    error = task.score(policy, HELD_OUT_SEED, 10).values["tracking error [mm]"]
    print(f"{name:<14} {error:7.2f} mm on targets not trained on; the model's load {policy.model.mass.item():.2f} kg")
print({name: value.tolist() for name, value in learned.sources[1]().items()})
