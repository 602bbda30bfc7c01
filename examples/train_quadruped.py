"""Learn to survive pushes: weights, gains and assumed friction of inverse dynamics, from closed loops through contact.

python examples/train_quadruped.py [stand or trot] [iterations] [pushes for evaluation]
"""

import sys

from qp_control.training import Trainer, create
from qp_control.training.task import HELD_OUT_SEED

gait, iterations, pushes = [*sys.argv[1:], *("stand", "20", "100")[len(sys.argv) - 1 :]]
task = create(f"quadruped_{gait}", iterations=int(iterations), validation_count=min(32, int(pushes)))


def report(row: dict) -> None:
    validated = f"  survived {100 * row['validation_survived']:.0f} %" if "validation_survived" in row else ""
    print(f"{row['iteration']:3d} cost {row['loss']:7.3f}{validated}")


learned = Trainer(task).train(report)
for name, controller in (("untuned", task.module()), ("by hand", task.hand_tuned()), ("learned", learned)):
    values = task.score(controller, HELD_OUT_SEED, int(pushes)).values
    friction = controller.whole_body.numbers["friction"].item()
    print(f"{name:<8} survives {100 * values['survived']:3.0f} % of the pushes, counts on friction {friction:.2f}")
