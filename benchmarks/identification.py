"""Identification of a cart-pole from noisy measurements: errors of masses and frictions beside the least possible.

The noise is Gaussian, a share of (0.1 m, 0.1 rad, 0.5 m/s, 1 rad/s): 1e-3 is that of good encoders (0.1 mm, 0.1 mrad,
0.5 mm/s, 1 mrad/s). Errors are relative, of the numbers that motion tells: the mass of both bodies, the pole's first
moment and inertia, viscous and dry friction of both joints; of several seeds the median and the largest. "largest" is
that of all seven numbers, "within 1 %" the share of seeds in which all are. Trajectories have 40 control periods.

"bound": the largest of the seven standard deviations that no estimator without bias goes below (Cramer and Rao, for
initial states that are unknown too); "over bound": the root of the mean square of errors over their bounds, one for an
efficient estimator; "deviation": the root of the mean square of errors over the standard deviations that a run
reports, which knows neither truth nor noise. "predictions": the largest error where only predictions from one measured
state to the next are compared. What is judged is where the updates end, not the best validation, as that knows the
truth.

    python benchmarks/identification.py [--seeds 0 1 2 3 4] [--cells 1e-2:64]
"""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import report
import torch

from qp_control.training import Trainer, create
from qp_control.training.tasks.cart_pole_identification import CartPoleIdentification, CartPoleModel
from qp_control.training.trajectory_fit import TrajectoryFit

NUMBERS = ("mass", "moment", "inertia", "viscous cart", "viscous pole", "dry cart", "dry pole")
# Noise and trajectories.
CELLS = [(1e-6, 16), (1e-4, 16), (1e-3, 16), (1e-3, 64), (1e-2, 16), (1e-2, 64)]


def errors(noise: float, trajectories: int, seed: int, **short: Any) -> dict[str, Any]:
    """Relative errors, bounds and reported standard deviations of NUMBERS, and CPU seconds."""
    task = create(
        "cart_pole_identification", noise=noise, trajectories=trajectories, seed=seed, validation_count=4, **short
    )
    assert isinstance(task, CartPoleIdentification)
    truth = task.truth.identifiable()

    def relative(model: CartPoleModel) -> torch.Tensor:
        return (model.identifiable() / truth - 1.0).detach().abs()

    trainer, began = Trainer(task), time.process_time()
    trainer.train(until=trainer.phases[0].iterations)
    predictions = relative(trainer.module)
    trainer.train()
    seconds = time.process_time() - began
    fit = trainer.phases[-1]
    assert isinstance(fit, TrajectoryFit)
    reported = fit.deviations(trainer.module, CartPoleModel.identifiable) / truth
    bound = task.fit().deviations(task.truth.requires_grad_(), CartPoleModel.identifiable, noise) / truth
    return {
        "errors": relative(trainer.module),
        "predictions": predictions,
        "reported": reported,
        "bound": bound.detach(),
        "seconds": seconds,
    }


def over(found: list[dict[str, Any]], name: str) -> float:
    """Root of the mean square of the errors over their bounds, or over what was reported."""
    return float(torch.stack([one["errors"] / one[name] for one in found]).square().mean().sqrt())


def cell(text: str) -> tuple[float, int]:
    noise, trajectories = text.split(":")
    return float(noise), int(trajectories)


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cells", type=cell, nargs="+", default=CELLS, metavar="NOISE:TRAJECTORIES")
    arguments = parser.parse_args()
    cells, short = arguments.cells, {}
    if arguments.quick:
        cells, arguments.seeds = [(1e-3, 2), (1e-2, 2)], [0]
        short = {"iterations": 4, "trajectory_iterations": 2}
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(report.machine("torch"))
    columns = {"noise": 8, "trajectories": 12} | {name: 12 for name in NUMBERS}
    columns |= {"largest": 9, "worst seed": 10, "bound": 9, "over bound": 10, "deviation": 9, "predictions": 11}
    table = report.Report("identification", columns | {"seconds": 8, "within 1 %": 10}, arguments.out)
    for noise, trajectories in cells:
        found = [errors(noise, trajectories, seed, **short) for seed in arguments.seeds]
        largest = [float(one["errors"].max()) for one in found]
        row: dict[str, object] = {"noise": noise, "trajectories": trajectories}
        row |= {name: statistics.median(float(one["errors"][k]) for one in found) for k, name in enumerate(NUMBERS)}
        row |= {"largest": statistics.median(largest), "worst seed": max(largest)}
        row |= {"bound": statistics.median(float(one["bound"].max()) for one in found)}
        row |= {"over bound": over(found, "bound"), "deviation": over(found, "reported")}
        row |= {"predictions": statistics.median(float(one["predictions"].max()) for one in found)}
        row |= {"seconds": statistics.median(one["seconds"] for one in found)}
        table.add(row | {"within 1 %": f"{sum(value < 0.01 for value in largest)}/{len(largest)}"})
    series: dict[str, dict[str, float]] = {}
    for row in table.rows:
        name = f"{row['trajectories']} trajectories"
        series.setdefault(name, {})[f"{row['noise']:g}"] = float(str(row["largest"]))
    report.bars(
        table.finish().with_suffix(".png"),
        dict.fromkeys(f"{noise:g}" for noise, _ in cells),
        series,
        title="identification: largest relative error, median of seeds",
        ylabel="relative error",
        xlabel="noise",
    )


if __name__ == "__main__":
    main()
