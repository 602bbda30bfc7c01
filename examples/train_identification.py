"""Identify masses, dry and viscous friction of a cart-pole from trajectories in which it sticks and slides.

python examples/train_identification.py [trajectories]
"""

import sys

from qp_control.training import Trainer, create

task = create("cart_pole_identification", trajectories=int(sys.argv[1]) if len(sys.argv) > 1 else 8)
learned = Trainer(task).train()
names = ("mass of both", "pole: m c", "pole: inertia", "viscous: cart", "viscous: pole", "dry: cart", "dry: pole")
models = (task.truth, task.module(), learned)
for name, *numbers in zip(names, *(model.identifiable().tolist() for model in models), strict=True):
    print(f"{name:<14} true {numbers[0]:.5f}  believed {numbers[1]:.5f}  found {numbers[2]:.5f}")
