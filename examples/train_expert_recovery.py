"""Recover an expert's cost, bounds and model from its plans, as `qp-control train cart_pole_recovery`, but in memory.

python examples/train_expert_recovery.py [lqr | pendulum | cart_pole] [demonstrations]
"""

import sys

from qp_control.training import Trainer, create

name, count = (*sys.argv[1:], *["pendulum", "20"][len(sys.argv) - 1 :])[:2]
task = create(f"{name}_recovery", demonstrations=int(count))


def report(row: dict) -> None:
    if "validation_action error" in row:
        errors = ", ".join(f"{metric} {row[f'validation_{metric}']:.1e}" for metric in task.metrics)
        print(f"{row['iteration']:3d} {row['phase']:<15} {errors}")


learned = Trainer(task).train(report)
for title, cost, expected in (("Q", learned.state_cost, task.q), ("terminal", learned.terminal_cost, task.terminal)):
    print(title, [round(value, 3) for value in cost().diagonal().tolist()], "expected", list(expected))
