"""How many samples does an MPC need to learn a flight with an unknown load, from gradients or rewards; and a network?

Curves of validations over control periods flown, of several seeds of `quadrotor_analytic`, `quadrotor_ppo`, begun with
weights by Bryson's rule, with those tuned by hand, and guided by a small network, `quadrotor_sac`, and
`quadrotor_network`, all with PPO's budget, the last one with --longer times as many too. The table has the scores on 50
starts that nobody trained on, with 95 % confidence intervals of the mean over the seeds, beside what was tuned by hand
and an evolution strategy over the MPC's parameters with the wall time of the recipe. Runs that are there already are
not trained again. There is no last column: what is compared is not speed.

    python benchmarks/reinforcement.py [--seeds 0 1 2 3 4] [--folder results/reinforcement]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import report
from rich.console import Console

from qp_control.training import RunFolder, create, pipeline
from qp_control.training.evaluation import mean_interval
from qp_control.training.run_folder import read_metrics

# Iterations of one update, so that the benchmark still runs.
QUICK: dict[str, dict[str, Any]] = {
    "quadrotor_analytic": {"closed_loop_iterations": 2, "closed_loop_steps": 5},
    "quadrotor_ppo": {"ppo_iterations": 2, "robots": 2, "steps": 8, "batch": 16, "epochs": 1},
    "quadrotor_sac": {"sac_iterations": 2, "robots": 2, "steps": 8, "batch": 16, "updates": 1},
    "quadrotor_network": {"ppo_iterations": 2, "robots": 2, "steps": 8, "batch": 16, "epochs": 1},
}
# Task, what it is called here, and options of its own.
RECIPES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("quadrotor_analytic", "MPC, gradient through the plant", {}),
    ("quadrotor_ppo", "MPC as the actor of PPO", {}),
    ("quadrotor_ppo", "MPC tuned by hand as the actor of PPO", {"tuned": True}),
    ("quadrotor_ppo", "MPC guided by a network as the actor of PPO", {"guided": True}),
    ("quadrotor_sac", "MPC as the actor of SAC", {}),
    ("quadrotor_network", "network as the actor of PPO", {}),
)
# Those whose evolution strategy is shown.
COMPARED = ("quadrotor_analytic", "quadrotor_ppo", "quadrotor_sac")


def steps_of(options: Any) -> int:
    """Control periods flown in an iteration."""
    if hasattr(options, "robots"):
        return int(options.robots * options.steps)
    return int(options.closed_loop_batch * options.closed_loop_steps)


def train(task: str, folder: Path, seed: int, held_out: int, changed: dict[str, Any], baselines: bool) -> None:
    """A run in its folder, or what is missing of it."""
    path = folder / f"seed_{seed}"
    if not (path / "results.json").is_file():
        options = create(task, None, seed=seed, **changed).options
        pipeline.train(
            task, path, options, resume=True, held_out=held_out, baselines=baselines, console=Console(quiet=True)
        )


def curve(folder: Path, steps: int, before: float) -> tuple[list[int], list[float]]:
    """Control periods flown and the returns of validations, the score before training first."""
    rows = [row for row in read_metrics(RunFolder.open(folder)) if row["validation_return"]]
    return [0, *((int(r["iteration"]) + 1) * steps for r in rows)], [
        before,
        *(float(r["validation_return"]) for r in rows),
    ]


def picture(path: Path, curves: dict[str, list[tuple[list[int], list[float]]]], by_hand: float) -> None:
    """Means over the seeds, and from the least to the largest of them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.0, 5.0), layout="constrained")
    for k, (name, runs) in enumerate(curves.items()):
        steps = np.array(runs[0][0])
        returns = np.array([values for _, values in runs])
        style, color = "--" if "longer" in name else "-", f"C{min(k, len(RECIPES) - 1)}"
        # The first point, before anything is flown, stands where the axis begins.
        axes.plot(np.maximum(steps, 100), returns.mean(0), style, color=color, label=name)
        axes.fill_between(np.maximum(steps, 100), returns.min(0), returns.max(0), color=color, alpha=0.2)
    axes.axhline(by_hand, color="black", lw=1.0, ls=":", label="MPC tuned by hand")
    axes.set_xscale("log")
    axes.set_xlabel("control periods flown")
    axes.set_ylabel("return of an episode (200 at most)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"written: {path}")


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--longer", type=int, default=10, help="times the budget, for the network's second curve; 1: none"
    )
    parser.add_argument("--folder", type=Path, help="of the run folders; default: reinforcement beside the CSV file")
    arguments = parser.parse_args()
    held_out = 50
    if arguments.quick:
        arguments.seeds, arguments.longer, held_out = arguments.seeds[:1], 2, 2
    folder = arguments.folder or arguments.out / ("reinforcement_quick" if arguments.quick else "reinforcement")
    runs: list[tuple[str, str, str, dict[str, Any]]] = []
    for task, name, own in RECIPES:
        quick = {**QUICK[task], "validation_count": 1} if arguments.quick else {}
        runs.append(("_".join([task, *own]), task, name, own | quick))
    if arguments.longer > 1:
        _, task, _, changed = runs[-1]
        iterations = create(task, None, **changed).options.ppo_iterations * arguments.longer
        more = changed | {"ppo_iterations": iterations, "validate_every": 5 * arguments.longer}
        runs.append((f"{task}_longer", task, f"the same network, {arguments.longer} times longer", more))
    print(report.machine("stable-baselines3"))
    columns = {"controller": 44, "measure": 10, "mean": 8, "low": 8, "high": 8}
    table = report.Report("reinforcement", columns | {f"seed {seed}": 8 for seed in arguments.seeds}, arguments.out)
    curves: dict[str, list[tuple[list[int], list[float]]]] = {}
    for place_name, task, name, changed in runs:
        place = folder / place_name
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in arguments.seeds:
            train(task, place, seed, held_out, changed, baselines=place_name in COMPARED)
            for row in json.loads((place / f"seed_{seed}" / "results.json").read_text()):
                found.setdefault(row["name"], []).append(row)
        steps = steps_of(create(task, None, **changed).options)
        before = found["before"][0]["return"]
        curves[name] = [curve(place / f"seed_{seed}", steps, before) for seed in arguments.seeds]
        by_hand = found["tuned by hand"][0]["return"]
        shown = {} if len(curves) > 1 else {"before": "before", "tuned by hand": "tuned by hand"}
        shown |= {"(1+1) evolution strategy, equal time": f"evolution strategy, time of: {name}", "learned": name}
        for key, label in shown.items():
            for measure in ("return", "success", "seconds"):
                values = [row[measure] for row in found.get(key, []) if row[measure] is not None]
                if not values:
                    continue
                low, high = mean_interval(values)
                seeds = {f"seed {seed}": value for seed, value in zip(arguments.seeds, values, strict=True)}
                mean = float(np.mean(values))
                table.add({"controller": label, "measure": measure, "mean": mean, "low": low, "high": high, **seeds})
    picture(table.finish().with_suffix(".png"), curves, by_hand)


if __name__ == "__main__":
    main()
