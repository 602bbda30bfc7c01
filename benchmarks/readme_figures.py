"""The blocks of README.md: see pages.py."""

from __future__ import annotations

import re
from collections.abc import Callable

from cells import Row, number, one, paragraph, passes, power, read, seeds, table
from report import written


def qp_layers() -> str:
    rows, cells = read("qp_layers"), []
    for cell in dict.fromkeys(row["cell"] for row in rows):
        ours, *rest = [row for row in rows if row["cell"] == cell]
        peers = [row for row in rest if not row["solver"].startswith("qp-control") and row["failures"] == "0"]
        layer = min((row for row in peers if row["solver"].startswith("QPLayer")), key=lambda r: number(r, "total_ms"))
        line = [cell.replace(",", ", "), passes(ours), passes(layer)]
        line.append(f"{number(layer, 'total_ms') / number(ours, 'total_ms'):.1f}")
        for column in ("forward_ms", "backward_ms"):
            best = min(peers, key=lambda row: number(row, column))
            name = re.split(r"[ ,]", best["solver"])[0]
            line.append(f"{number(best, column) / number(ours, column):.1f} ({name})")
        cells.append(line)
    headings = ["batch, n, n_eq, n_in", "qp-control", "proxsuite `QPLayer` (its faster mode)", "times faster"]
    return table([*headings, "forward, best peer", "backward, best peer"], cells)


def ocp_layers() -> str:
    inputs = {
        "|u|<=10000 plant 0": "bounds inactive",
        "|u|<=1 plant 0": "unstable, bounds active",
        "|u|<=0.5 stable": "stable, bounds active",
    }

    def unsolved(row: Row) -> str:
        return f", {row['failures']} unsolved" if row["failures"] != "0" else ""

    rows, cells = read("ocp_layers"), []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        sizes, _, kind = problem.partition(" ")
        if kind not in inputs:
            continue
        ours, *rest = [row for row in rows if row["problem"] == problem]
        peer = min((r for r in rest if r["solver"].startswith("mpc.pytorch")), key=lambda r: number(r, "total_ms"))
        piqp = next(row for row in rest if row["solver"].startswith("piqp"))
        cells.append([
            sizes.replace(",", ", "), inputs[kind], passes(ours), passes(peer) + unsolved(peer),
            f"{number(peer, 'total_ms') / number(ours, 'total_ms'):.0f}",
            written(number(piqp, "forward_ms")) + unsolved(piqp),
            f"{number(piqp, 'forward_ms') / number(ours, 'forward_ms'):.1f}",
        ])  # fmt: skip
    headings = ["nx, nu, N, batch", "inputs", "qp-control", "mpc.pytorch", "times faster"]
    return table([*headings, "piqp, stages", "times faster forward"], cells)


def nonlinear_mpc() -> str:
    systems = {
        "cart-pole": "cart-pole (URDF, N 50)",
        "free-flyer": "quadrotor, quaternion (Pinocchio, N 20)",
        "quadrotor": "quadrotor, angles (torch function, N 20)",
        "arm": "arm, 7 joints (Pinocchio, N 20)",
    }
    rows, cells = read("nonlinear_mpc"), []
    for problem, shown in systems.items():
        found = {row["solver"]: row for row in rows if row["problem"] == problem and row["batch"] == "32"}
        converged, step = found["qp-control converged, exact Hessian"], found["qp-control real-time step"]
        peer = next((row for solver, row in found.items() if solver.startswith("crocoddyl")), None)
        cells.append([
            shown, f"{number(converged, 'iterations'):.1f}",
            f"{written(number(converged, 'forward_ms') / 32)} + {number(converged, 'backward_ms') / 32:.2f}",
            f"{number(step, 'forward_ms') / 32:.2f} + {number(step, 'backward_ms') / 32:.2f}",
            f"{number(peer, 'per_problem_ms'):.0f}, {peer['failures']} of 32 not converged" if peer else "",
        ])  # fmt: skip
    headings = ["system", "converged, SQP steps", "ms forward + gradient", "real-time step, ms forward + gradient"]
    return table([*headings, "crocoddyl BoxFDDP, ms forward"], cells)


def nonlinear_mpc_limits() -> str:
    def converged(case: str) -> str:
        row = one(read("nonlinear_mpc_starts"), case=f"{case}, nonlinear")
        assert row["plans_finite"] == row["gradients_finite"] == "True"
        count = int(row["SOLVED"]) + int(row["CLOSEST_FEASIBLE"])
        return "all" if count == int(row["starts"]) else str(count)

    ticks = one(read("nonlinear_mpc_ticks"), problem="cart-pole")
    p50, p99, p999 = (f"{number(ticks, name):.2f}" for name in ("p50_ms", "p99_ms", "p99.9_ms"))
    return paragraph(
        f"""From 1000 start states outside the limits (`benchmarks/nonlinear_mpc.py --only starts`), the problems that
        converge, with the limits met or shifted by the least amount, are
        {converged("cart-pole, angle and speed limited")} of the cart-pole's (angle and speed limited) and
        {converged("quadrotor, height and tilt limited")} of the quadrotor's (angles; height and tilt limited); plans
        and gradients are finite for all. One call of a frozen real-time cart-pole controller (N 50, one thread,
        {int(ticks["ticks"]):_} calls, `--only ticks`) takes {p50} ms in the median, {p99} ms at the 99th percentile
        and {p999} ms at the 99.9th.""".replace("_000", " 000")
    )


def dynamics() -> str:
    def cell(row: Row) -> str:
        ours, peer = (number(row, name) for name in ("qp-control_us", "cpp_over_threads_us"))
        return "{} ({})".format(*(f"{value:.2f}" if value < 10 else f"{value:.1f}" for value in (ours, peer)))

    rows = read("dynamics")
    cases = [
        "forward dynamics",
        "forward dynamics and derivatives",
        "inverse dynamics",
        "inverse dynamics and gradients",
    ]
    models = {"manipulator": "arm, 6 joints", "humanoid": "humanoid, floating base"}
    lines = [
        [shown, *(cell(one(rows, problem=f"{model}: {case}", threads=2)) for case in cases)]
        for model, shown in models.items()
    ]
    headings = ["forward dynamics", "with derivatives", "inverse dynamics", "with gradients"]
    return table(["", *headings], lines)


def contact() -> str:
    shown = {
        "block": "block, 4 contacts",
        "hopper": "hopper, 2 contacts, joint limits",
        "quadruped": "quadruped, 18 velocities, 4 contacts, joint limits",
    }

    def us(problem: str, threads: int, solver: str, batch: int = 1024) -> float:
        row = one(read("contact"), problem=problem, batch=batch, threads=threads, solver=solver)
        return number(row, "us_per_step")

    lines = [
        [
            text, f"{us(problem, 1, 'qp-control'):.2f}", f"{us(problem, 2, 'qp-control'):.2f}",
            f"{us(problem, 2, 'qp-control with gradient'):.1f}",
            f"{us(problem, 1, 'mujoco'):.2f} / {us(problem, 2, 'mujoco'):.2f}",
        ]
        for problem, text in shown.items()
    ]  # fmt: skip
    single = f"{us('quadruped', 1, 'qp-control', 1):.0f} us against {us('quadruped', 1, 'mujoco', 1):.1f}"
    found = table(["", "1 thread", "2 threads", "forward + backward, 2 threads", "MuJoCo, 1 / 2 threads"], lines)
    return f"{found}\n\nA single step called from Python takes longer than `mj_step`: {single} us for the quadruped."


def environments() -> str:
    def rate(row: Row) -> float:
        return number(row, "steps_per_s")

    def thousands(value: float) -> str:
        return f"{int(float(f'{value:.3g}')):,}".replace(",", " ")

    rows, lines = [row for row in read("environments") if row["envs"] == "1024"], []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        ours = [rate(one(rows, problem=problem, solver="vector", threads=threads)) for threads in (1, 2)]
        peers = [rate(row) for row in rows if row["problem"] == problem and row["solver"] == "SyncVectorEnv"]
        lines.append([f"`{problem}`", *map(thousands, (*ours, max(peers))), f"{max(ours) / max(peers):.0f}"])
    return table(["", "1 thread", "2 threads", "SyncVectorEnv", "times faster"], lines)


def inverse_dynamics() -> str:
    rows = read("inverse_dynamics")
    tick, batch = one(rows, case="one tick"), one(rows, case="forward", batch=256)
    gradient = number(one(rows, case="forward and gradient", batch=256), "p50_us")
    p50, p99, p999 = (f"{number(tick, name):.0f}" for name in ("p50_us", "p99_us", "p999_us"))
    return paragraph(f"""Inverse dynamics of a quadruped with 4 contacts, us per robot
        (`benchmarks/inverse_dynamics.py`): one tick from Python {p50} ({p99} at the 99th percentile, {p999} at the
        99.9th); in a batch of 256 on 2 threads {written(number(batch, "p50_us"))}, with gradients {gradient:.0f}.
        Torques agree to {power(number(tick, "torque_difference_Nm"), 1)} N m with those of the same problem assembled
        by hand and solved by quadprog.""")


def infeasible() -> str:
    ours, *rest = [row for row in read("infeasible") if row["problems"] == "Sudoku, A random"]
    peers = [row for row in rest if row["solver"].startswith("QPLayer")]
    closest = min(number(row, "norm_above_least") for row in peers)
    close = [row for row in peers if number(row, "norm_above_least") <= 2.0 * closest]
    accurate, fastest = (min(found, key=lambda row: number(row, "total_ms")) for found in (close, peers))
    return paragraph(f"""Infeasible QPs, the 4x4 Sudoku layer with a random matrix, batch {ours["batch"]}, 2 threads of
        an older processor with AVX2 (`benchmarks/infeasible.py`): {written(number(ours, "forward_ms"))} +
        {number(ours, "backward_ms"):.1f} ms, and the norms of the shifts exceed the least ones (at most
        {number(ours, "least_norm"):.2g}) by at most {power(number(ours, "norm_above_least"))}. Proxsuite's `QPLayer`
        takes {written(number(accurate, "total_ms"))} ms to come within
        {power(number(accurate, "norm_above_least"))} of them, and {written(number(fastest, "total_ms"))} ms to come
        within {power(number(fastest, "norm_above_least"))}.""")


def qp_sets() -> str:
    collections = {
        "maros_dense": "Maros-Meszaros, dense sample ({})",
        "mpc": "walking and balancing robots ({})",
        "netlib_infeasible": "infeasible NETLIB ({}), recognised with a valid certificate",
    }
    solvers = {"qp-control": "qp-control", "piqp": "PIQP", "proxqp": "ProxQP", "clarabel": "Clarabel", "daqp": "DAQP"}
    rows, lines = read("qp_sets"), []
    for collection, shown in collections.items():
        here = sorted((r for r in rows if r["collection"] == collection), key=lambda row: -number(row, "tolerance"))
        lines.append([shown.format(here[0]["problems"])])
        for solver in solvers:
            variants = dict.fromkeys(row["solver"] for row in here if row["solver"].startswith(solver))
            found = [[row for row in here if row["solver"] == name] for name in variants]
            best = max(found, key=lambda of: sum(int(row["solved"]) for row in of))
            wrong = sum(int(row["false"]) for row in best)
            claims = "" if collection.endswith("infeasible") else f", {wrong or 'none'} wrong"
            lines[-1].append(" / ".join(row["solved"] for row in best) + claims)
    return table(["collection", *solvers.values()], lines)


def accuracy() -> str:
    rows = [row for row in read("accuracy") if row["solver"] == "qp-control"]
    toys = next(row for row in rows if row["problem"].startswith("toy"))
    solution, gradient = (max(number(row, name) for row in rows if row[name]) for name in ("solution", "gradient_all"))
    return paragraph(f"""Accuracy: the largest error of any entry over {5 * (len(rows) - 1)} random QPs with n = 2 to
        50, against an independent oracle, is {power(solution)} for solutions and {power(gradient)} (relative) for
        gradients; for the gradients of the toy problems of the ICLR 2024 paper it is
        {power(number(toys, "gradient_x"))} (`.venv/bin/python benchmarks/accuracy.py`).""")


def swing_up() -> str:
    controllers = {
        "before": "generic weights (all ones)",
        "tuned by hand": "hand-tuned weights",
        "(1+1) evolution strategy, equal time": "(1+1) evolution strategy, equal time",
        "learned": "learned",
    }
    rows, lines = [row for row in read("training") if row["task"] == "cart_pole_swing_up"], []
    for controller, shown in controllers.items():
        successes, returns, seconds = (
            seeds(one(rows, controller=controller, measure=measure)) for measure in ("success", "return", "seconds")
        )
        count = len(successes) if seconds else 1  # what is not trained is the same for all
        lines.append([
            shown, " / ".join(f"{100 * value:.0f}" for value in successes[:count]) + " %",
            " / ".join(f"{value:.1f}" for value in returns[:count]), " / ".join(f"{value:.0f}" for value in seconds),
        ])  # fmt: skip
    numbers = [name.removeprefix("seed ") for name, value in rows[-1].items() if name.startswith("seed ") and value]
    success = f"success, seeds {' / '.join(numbers)}"
    return table(["controller", success, "return (at most 200)", "training time [s]"], lines)


def hidden_numbers() -> str:
    tasks = {
        "lqr_recovery": "A, B, cost, bounds",
        "pendulum_recovery": "model, cost, bounds",
        "cart_pole_recovery": "model, cost, bounds",
        "constraint_learning": "track, speed, margin",
        "cart_pole_identification": "masses, friction",
    }
    judged = ("cost error", "bound error", "model error", "limit error", "parameter error")
    rows, lines = read("training"), []

    def worst(task: str, controller: str) -> list[float]:
        """The largest error of each seed."""
        found = [r for r in rows if r["task"] == task and r["controller"] == controller and r["measure"] in judged]
        return [max(values) for values in zip(*map(seeds, found), strict=True)]

    for task, what in tasks.items():
        learned, before = max(worst(task, "learned")), max(worst(task, "before"))
        searched = worst(task, "(1+1) evolution strategy, equal time")
        low, high = (f"{value:#.2g}" for value in (min(searched), max(searched)))
        took = seeds(one(rows, task=task, controller="learned", measure="seconds"))
        seconds = f"{sum(took) / len(took):.1f}"
        lines.append([f"`{task}`: {what}", power(learned, 1), f"{before:.2g}", f"{low} to {high}", seconds])
    return table(["task", "learned", "before", "evolution strategy", "training time [s]"], lines)


BLOCKS: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        qp_layers, ocp_layers, nonlinear_mpc, nonlinear_mpc_limits, dynamics, contact, environments, inverse_dynamics,
        infeasible, qp_sets, accuracy, swing_up, hidden_numbers,
    )
}  # fmt: skip
