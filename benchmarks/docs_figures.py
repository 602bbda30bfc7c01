"""The blocks of pages in docs/: see pages.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from cells import Row, number, one, power, read, seeds, table
from report import written

SEARCHED = "(1+1) evolution strategy, equal time"


def each(values: Sequence[float], form: str = ".1f", unit: str = "") -> str:
    """One after the other; once where all are the same."""
    texts = [f"{value:{form}}" for value in values]
    return " / ".join(texts if len(set(texts)) > 1 else texts[:1]) + unit


def percent(values: Sequence[float]) -> str:
    return each([100.0 * value for value in values], ".0f", " %")


def worst_ticks() -> str:
    cases = {
        "arm, weighted": "arm",
        "arm, rigid": "arm, tool pose as a constraint",
        "arm, levels": "arm, three levels",
        "quadruped, weighted": "quadruped",
        "quadruped, rigid": "quadruped, two rigid contacts per foot",
        "quadruped, levels": "quadruped, two levels",
    }
    rows = read("worst_ticks")
    counts, times = ("ticks", "solved", "closest", "others"), ("p50_us", "p99_us", "p999_us", "max_us")
    lines = []
    for case, shown in cases.items():
        row = one(rows, case=case)
        lines.append([shown, *(row[name] for name in counts), *(f"{number(row, name):.0f}" for name in times)])
    headings = ["robot and contacts", "ticks", "solved", "closest feasible", "others", "p50", "p99", "p99.9", "largest"]
    return table(headings, lines)


def inverse_dynamics_peers() -> str:
    cases = {
        "quadruped, tasks of TSID": ("quadruped on four rigid contacts", "N m"),
        "arm, tasks of TSID": ("arm of seven joints", "N m"),
        "arm, velocities": ("arm, velocities of centre of mass and posture", "rad/s"),
    }
    lines = []
    for case, (shown, unit) in cases.items():
        for row in (row for row in read("inverse_dynamics_peers") if row["case"] == case):
            columns = ("p50_us", "p99_us", "loop_p50_us", "loop_p99_us")
            times = [written(number(row, name)) if row[name] else "" for name in columns]
            difference = f"{power(number(row, 'difference'))} {unit}" if row["difference"] else ""
            tracking = f"{1e3 * number(row, 'tracking_m'):.2f} mm" if row["tracking_m"] else ""
            lines.append([shown, row["solver"], *times, difference, tracking])
            shown = ""
    headings = ["tasks", "solver", "p50", "p99", "in a loop, p50", "p99", "largest difference"]
    return table([*headings, "tracking, largest error"], lines)


def quadrotor() -> str:
    rows = read("reinforcement")
    shown = {
        "before": ("MPC before learning", "0"),
        "tuned by hand": ("MPC tuned by hand", ""),
        "evolution strategy, time of: MPC, gradient through the plant": (
            "MPC, evolution strategy, in the time of the gradient", "",
        ),
        "MPC, gradient through the plant": ("MPC, gradient through controller and plant", "16 000"),
        "evolution strategy, time of: MPC as the actor of PPO": ("MPC, evolution strategy, in the time of PPO", ""),
        "MPC as the actor of PPO": ("MPC as the actor of PPO", "123 000"),
        "MPC tuned by hand as the actor of PPO": (
            "the same, starting from the hand-tuned weights (`qp-control train quadrotor_ppo --tuned`)", "123 000",
        ),
        "MPC guided by a network as the actor of PPO": ("the same, guided by a small network (`--guided`)", "123 000"),
        "evolution strategy, time of: MPC as the actor of SAC": ("MPC, evolution strategy, in the time of SAC", ""),
        "MPC as the actor of SAC": ("MPC as the actor of SAC", "123 000"),
        "network as the actor of PPO": ("network as the actor of PPO", "123 000"),
    }  # fmt: skip
    lines = []
    for controller, (text, flown) in shown.items():
        found = {row["measure"]: seeds(row) for row in rows if row["controller"] == controller}
        took = each(found["seconds"], ".0f") if "seconds" in found else ""
        lines.append([text, flown, each(found["return"]), percent(found["success"]), took])
    headings = ["", "control periods flown", "return (at most 200)", "all waypoints reached", "seconds"]
    return table(headings, lines)


def imitation() -> str:
    rows = [row for row in read("imitation") if row["demonstrations"]]

    def median(column: str, solver: str, found: list[Row]) -> float:
        return statistics.median(number(row, column) for row in found if row["controller"] == solver)

    def form(value: float) -> str:
        return power(value) if value < 1e-3 else f"{value:.2g}"

    columns = [
        ("qp-control", "action error"), ("qp-control, bounds given", "action error"), ("qp-control", "seconds"),
        ("mpc.pytorch", "at equal time"), ("mpc.pytorch", "action error"), ("mpc.pytorch", "seconds"),
    ]  # fmt: skip
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows if row["task"].endswith("_recovery")):
        here = [row for row in rows if row["task"] == task]
        counts = list(dict.fromkeys(row["demonstrations"] for row in here))
        cells = [
            " / ".join(form(median(column, solver, [r for r in here if r["demonstrations"] == n])) for n in counts)
            for solver, column in columns
        ]
        lines.append([task, " / ".join(counts), *cells])
    headings = ["task", "demonstrations", "action error", "the same, bounds given", "seconds"]
    return table([*headings, "mpc.pytorch: equal time", "at the end", "seconds"], lines)


def pushes() -> str:
    rows = read("quadruped_pushes")

    def survived(task: str, controller: str) -> tuple[str, str]:
        """Here with an interval where there is one controller, and in MuJoCo."""
        found = [row for row in rows if row["task"] == task and row["controller"] == controller]
        here = " / ".join(row["survived"] for row in found)
        if len(found) == 1:
            here += f" ({found[0]['low']} to {found[0]['high']})"
        return here, " / ".join(row["mujoco"] for row in found)

    lines = []
    for controller in ("untuned", "tuned by hand", "evolution strategy", "learned"):
        text = f"{controller}, equal time" if controller == "evolution strategy" else controller
        cells = (survived(task, controller) for task in ("quadruped_stand", "quadruped_trot"))
        lines.append([text, *(cell for pair in cells for cell in pair)])
    return table(["", "standing", "in MuJoCo", "trotting", "in MuJoCo"], lines)


def _arm(task: str, shown: dict[str, str], *measures: str) -> list[list[str]]:
    """Lines of a table: tracking error and success, and other measures."""
    rows, lines = [row for row in read("training") if row["task"] == task], []
    for controller, text in shown.items():

        def of(measure: str, controller: str = controller) -> list[float]:
            found = seeds(one(rows, controller=controller, measure=measure))
            return found[:1] if len(set(found)) == 1 else found

        error = of("tracking error [mm]")
        lines.append([text, each(error, ".1f" if max(error) >= 5.0 else ".2f"), percent(of("success"))])
        for measure in measures:
            values = of(measure)
            low, high = (f"{value:.2g}" for value in (min(values), max(values)))
            lines[-1].append(low if low == high else f"{low} to {high}")
        took = of("seconds")
        lines[-1].append(each(took, ".0f") if took else "")
    return lines


def arm_load() -> str:
    shown = {
        "before": "before",
        "tuned by hand": "tuned by hand, load and friction unknown",
        SEARCHED: SEARCHED,
        "learned": "learned",
        "tuned by hand, load and friction told": "tuned by hand, load and friction known",
    }
    headings = ["one load of 4 kg", "tracking error [mm]", "success", "error of the load [kg]", "seconds"]
    return table(headings, _arm("arm_inverse_dynamics", shown, "load error [kg]"))


def arm_loads() -> str:
    shown = {
        "tuned by hand": "constants tuned by hand",
        "constants alone, learned": "constants learned, 20 updates",
        f"constants alone, {SEARCHED}": f"constants by a {SEARCHED}",
        "before": "network before training",
        SEARCHED: f"network by a {SEARCHED}",
        "learned": "network learned, 60 updates",
        "by hand, with an observer": "constants with a disturbance observer, tuned by hand",
    }
    headings = ["a load of 1 to 5 kg, different in every episode", "tracking error [mm]", "success", "seconds"]
    return table(headings, _arm("arm_unknown_loads", shown))


def scaling() -> str:
    rows, lines = read("scaling"), []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        found = [row for row in rows if row["problem"] == problem]
        assert all(row["same bits"] == "True" for row in found)
        times = (f"{written(number(row, 'update'))} ({number(row, 'x_one'):.2f})" for row in found)
        lines.append([problem, *times])
    headings = ["", "1 process, 1 core", "1 process, 2 cores (times faster)", "2 processes, 2 cores (times faster)"]
    return table(headings, lines)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    page: {f.__name__: f for f in blocks}
    for page, blocks in {
        "inverse_dynamics.md": (worst_ticks, inverse_dynamics_peers),
        "scaling.md": (scaling,),
        "training.md": (quadrotor, imitation, pushes, arm_load, arm_loads),
    }.items()
}
