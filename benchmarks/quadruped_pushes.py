"""How many of 100 pushes does a quadruped survive, before and after learning from closed loops?

It stands, or trots on the spot, under inverse dynamics; the trot follows the plans of a single rigid body. Weights,
gains, assumed friction (and for the trot weights of the plan and foot placement) are those that nobody tuned, those
tuned by hand, those that an evolution strategy finds in as much wall time as learning takes, and the learned ones. The
pushes, drawn with a seed that neither saw, are the same for all, and are played in our simulator and, where it is
installed, in MuJoCo with unchanged parameters. The picture shows those of the first seed.

    python benchmarks/quadruped_pushes.py [--tasks quadruped_stand quadruped_trot] [--seeds 0 1 2] [--pushes 100]
"""

from __future__ import annotations

import time
from typing import Any

import report

from qp_control.training import Trainer, create, plots
from qp_control.training.baselines import evolution_strategy
from qp_control.training.task import HELD_OUT_SEED
from qp_control.training.trainer import many_small_problems

try:
    import mujoco_pushes
except ImportError:
    mujoco_pushes = None  # type: ignore[assignment]

COLUMNS = {
    "task": 16, "controller": 20, "seed": 5, "pushes": 7, "survived": 9, "low": 6, "high": 6, "mujoco": 7, "cost": 8,
    "friction": 9, "seconds": 8,
}  # fmt: skip
QUICK = {"iterations": 1, "batch": 2, "steps": 5, "validation_count": 1}


def controllers(task: Any) -> list[tuple[str, Any, float]]:
    """Name, controller, and the seconds that it took to find it."""
    trainer = Trainer(task)
    learned = trainer.train()
    searched = evolution_strategy(task.module(), task.search_loss(), seconds=trainer.seconds, seed=task.options.seed)
    return [
        ("evolution strategy", searched.module, searched.seconds),
        ("learned", learned, trainer.seconds),
    ]


def main() -> None:
    parser = report.arguments(__doc__)
    names = ["quadruped_stand", "quadruped_trot"]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pushes", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tasks, arguments.seeds, arguments.pushes = names[:1], [0], 2
    print(report.machine("mujoco"))
    table = report.Report("quadruped_pushes", COLUMNS, arguments.out, part="task")
    shown: dict[str, tuple[Any, dict[str, Any]]] = {}
    with many_small_problems():
        for name in arguments.tasks:
            kept: dict[str, Any] = {}
            for index, seed in enumerate(arguments.seeds):
                options: dict[str, Any] = QUICK if arguments.quick else {}
                task: Any = create(name, seed=seed, **options)
                found = controllers(task)
                if index == 0:
                    fixed = [("untuned", task.module(), 0.0), ("tuned by hand", task.hand_tuned(), 0.0)]
                    found = fixed + found
                for kind, controller, seconds in found:
                    began = time.perf_counter()
                    score = task.score(controller, HELD_OUT_SEED, arguments.pushes)
                    low, high = score.intervals["survived"]
                    row = {
                        "task": name, "controller": kind, "seed": seed if seconds else "", "pushes": arguments.pushes,
                        "survived": round(arguments.pushes * score.values["survived"]),
                        "low": round(arguments.pushes * low), "high": round(arguments.pushes * high),
                        "cost": -score.values["return"], "seconds": seconds or time.perf_counter() - began,
                        "friction": controller.whole_body.numbers["friction"].item(),
                    }  # fmt: skip
                    if mujoco_pushes is not None:
                        there = mujoco_pushes.survived(task, controller, arguments.pushes, HELD_OUT_SEED)
                        row["mujoco"] = int(there.sum())
                    table.add(row)
                    if index == 0:
                        kept[kind] = task.plant.survived(score.details.rollout.states).numpy()
            pushes = task.plant.sample_starts(arguments.pushes, HELD_OUT_SEED)[:, -3:-1].numpy()
            shown[name] = pushes, kept
    picture = plots.pushes(table.finish().with_suffix(".png"), shown)
    print(f"written: {picture}")


if __name__ == "__main__":
    main()
