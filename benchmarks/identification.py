"""Identification of a cart-pole from noisy measurements: errors of masses, viscous and dry friction over noise levels.

The noise is Gaussian, a share of (0.1 m, 0.1 rad, 0.5 m/s, 1 rad/s): 1e-3 is that of good encoders (0.1 mm, 0.1 mrad,
0.5 mm/s, 1 mrad/s). Errors are relative, of the numbers that motion tells: the mass of both bodies, the pole's first
moment and inertia, viscous and dry friction of both joints; of several seeds the median and the largest. "largest" is
that of all seven numbers, the last column the share of seeds in which all are within 1 %. Trajectories have 40 control
periods; "steps": control periods that predictions go ahead.

    python benchmarks/identification.py [--seeds 0 1 2 3 4]
"""

from __future__ import annotations

import statistics
import time
import warnings

import report
import torch

from qp_control.training import Trainer, create
from qp_control.training.tasks.cart_pole_identification import CartPoleIdentification

NUMBERS = ("mass", "moment", "inertia", "viscous cart", "viscous pole", "dry cart", "dry pole")
# Noise, trajectories, control periods ahead.
CELLS = [
    (1e-6, 16, 1),
    (1e-4, 16, 1),
    (1e-3, 16, 1),
    (1e-3, 64, 1),
    (1e-2, 16, 1),
    (1e-2, 64, 1),
]


def errors(noise: float, trajectories: int, steps: int, seed: int, iterations: int) -> tuple[list[float], float]:
    """Relative errors of NUMBERS, CPU seconds."""
    task = create(
        "cart_pole_identification",
        noise=noise,
        trajectories=trajectories,
        steps=steps,
        seed=seed,
        iterations=iterations,
        validation_count=4,
    )
    assert isinstance(task, CartPoleIdentification)
    began = time.process_time()
    learned = Trainer(task).train()
    seconds = time.process_time() - began
    ratio: torch.Tensor = learned.identifiable() / task.truth.identifiable() - 1.0
    return ratio.detach().abs().tolist(), seconds


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    cells, iterations = CELLS, 80
    if arguments.quick:
        cells, iterations, arguments.seeds = [(1e-3, 2, 1), (1e-2, 2, 1)], 4, [0]
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(report.machine("torch"))
    columns = {"noise": 8, "trajectories": 12, "steps": 5} | {name: 12 for name in NUMBERS}
    columns |= {"largest": 9, "worst seed": 10, "seconds": 8, "within 1 %": 10}
    table = report.Report("identification", columns, arguments.out)
    for noise, trajectories, steps in cells:
        found = [errors(noise, trajectories, steps, seed, iterations) for seed in arguments.seeds]
        largest = [max(one) for one, _ in found]
        row: dict[str, object] = {"noise": noise, "trajectories": trajectories, "steps": steps}
        row |= {name: statistics.median(one[k] for one, _ in found) for k, name in enumerate(NUMBERS)}
        row |= {"largest": statistics.median(largest), "worst seed": max(largest)}
        row |= {"seconds": statistics.median(seconds for _, seconds in found)}
        table.add(row | {"within 1 %": f"{sum(value < 0.01 for value in largest)}/{len(largest)}"})
    series: dict[str, dict[str, float]] = {}
    for row in table.rows:
        name = f"{row['trajectories']} trajectories" + (f", {row['steps']} steps ahead" if row["steps"] != 1 else "")
        series.setdefault(name, {})[f"{row['noise']:g}"] = float(str(row["largest"]))
    report.bars(
        table.finish().with_suffix(".png"),
        dict.fromkeys(f"{noise:g}" for noise, _, _ in cells),
        series,
        title="identification: largest relative error, median of seeds",
        ylabel="relative error",
        xlabel="noise",
    )


if __name__ == "__main__":
    main()
