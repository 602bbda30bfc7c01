"""Learn unknown limits from an expert that respects them where it can: a track, a speed, an obstacle's margin.

python examples/train_constraints.py [demonstrations]
"""

import sys

from qp_control.training import Trainer, create
from qp_control.training.tasks.constraint_learning import limits

task = create("constraint_learning", demonstrations=int(sys.argv[1]) if len(sys.argv) > 1 else 24)
print(f"from {int((~task.shown.feasible).sum())} of {len(task.shown)} starts the expert's limits cannot be kept to")
learned = Trainer(task).train()
for name, controller in (("expert", task.expert), ("before", task.module()), ("learned", learned)):
    track, speed, radius = limits(controller).tolist()
    print(f"{name:<8} track {track:.4f} m  speed {speed:.4f} m/s  distance from the obstacle {radius:.4f} m")
