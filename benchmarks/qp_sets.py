"""Collections of QPs from the field: how many does each solver solve, how fast, and what does it claim wrongly?

Against PIQP, ProxQP, Clarabel and DAQP, at tolerances 1e-3, 1e-6 and 1e-9, judged by the strict rule.

The problems are not part of this package. --data (or QP_CONTROL_DATA) names a folder with one folder per collection and
a file .npz per problem: g, b, l, u, lb, ub and H, A, C each as CSC in four arrays (H_data, H_indices, H_indptr,
H_shape) of  min 1/2 x'Hx + g'x  s.t. A x = b, l <= C x <= u, lb <= x <= ub. Problems of a collection whose name ends in
"_infeasible" have no solution.

Success: the solver says solved, and the point passes strict.py. False: it says solved and the point does not pass, or
it says infeasible of a problem that has a solution, or the other way round. Infeasible problems count as solved when
the solver says so and strict.py verifies its certificate. Every solve has its own time limit, enforced from outside:
each solver lives in a process of its own, one at a time. Times are those of set-up and solve, with everything in the
solver's own format before; the ratio is the geometric mean over the problems that both solve.

Every solve is kept in qp_sets_all.csv as soon as it ends, so a run that breaks off goes on where it stopped, and a run
of one solver or problem is quick: what a peer of the same version did within the same limit is not measured again.
qp-control is, unless --resume says that its code has not changed. The table covers what was asked for.

    python benchmarks/qp_sets.py --data FOLDER [--set maros_dense ...] [--seconds 30]
    python benchmarks/qp_sets.py --data FOLDER --solver qp-control --problem maros_dense/HS21 --eps 1e-6
"""

from __future__ import annotations

import csv
import math
import multiprocessing as mp
import multiprocessing.connection
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import report
import scipy.sparse as sp
import set_solvers
import strict
from strict import SparseQP

TOLERANCES = (1e-3, 1e-6, 1e-9)
LARGEST = 4000
Row = dict[str, Any]


def read(path: Path) -> SparseQP:
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    matrices = {
        name: sp.csc_matrix(
            (data[f"{name}_data"], data[f"{name}_indices"], data[f"{name}_indptr"]), shape=tuple(data[f"{name}_shape"])
        )
        for name in "HAC"
    }
    vectors = {name: np.asarray(data[name], dtype=float).reshape(-1) for name in ("g", "b", "l", "u", "lb", "ub")}
    return SparseQP(f"{path.parent.name}/{path.stem}", **matrices, **vectors)


def solve_one(solver: str, qp: SparseQP, tolerance: float, seconds: float) -> Row:
    """One solve and its verdict; short ones are repeated and the fastest counts."""
    call = set_solvers.SOLVERS[solver](qp, tolerance, seconds)
    times: list[float] = []
    while len(times) < 5 and sum(times) < 0.1:
        start = time.perf_counter()
        outcome = call()
        times.append(time.perf_counter() - start)
    infeasible = qp.name.split("/")[0].endswith("_infeasible")
    r = strict.residuals(qp, outcome.point)
    row: Row = {
        "claim": outcome.status,
        "detail": outcome.detail,
        "seconds": min(times),
        "iterations": outcome.iterations,
        "primal": r.primal,
        "dual": r.dual,
        "sign": r.sign,
        "gap": r.gap,
        "objective": r.objective,
    }
    if infeasible:
        proof = outcome.status == set_solvers.PRIMAL_INFEASIBLE
        proof = proof and strict.proves_infeasible(qp, outcome.point.y, outcome.point.z, outcome.point.w)
        verified, false = proof, outcome.status in (set_solvers.SOLVED, set_solvers.DUAL_INFEASIBLE)
        row["recognised"] = outcome.status == set_solvers.PRIMAL_INFEASIBLE
    else:
        verified = outcome.status == set_solvers.SOLVED and r.within(tolerance)
        false = not verified and outcome.status != set_solvers.UNSOLVED
    return row | {"solved": bool(verified), "false": bool(false)}


def work(solver: str, connection: multiprocessing.connection.Connection) -> None:
    """The life of a worker: jobs in, rows out, until None comes. What solvers print is dropped."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    while (job := connection.recv()) is not None:
        path, tolerance, seconds = job
        try:
            connection.send(solve_one(solver, read(path), tolerance, seconds))
        except Exception as error:  # a solver's own exception is an outcome
            connection.send(failure(f"{type(error).__name__}: {error}"))


def failure(detail: str, seconds: float = math.nan) -> Row:
    row: Row = {"claim": set_solvers.UNSOLVED, "detail": detail[:200], "seconds": seconds, "solved": False}
    return row | {"false": False}


class Worker:
    """A process for one solver; killed and begun anew when a solve does not end."""

    def __init__(self, solver: str) -> None:
        self.solver = solver
        self.process: mp.process.BaseProcess | None = None

    def __call__(self, path: Path, tolerance: float, seconds: float) -> Row:
        if self.process is None:
            context = mp.get_context("spawn")
            self.connection, other = context.Pipe()
            self.process = context.Process(target=work, args=(self.solver, other), daemon=True)
            self.process.start()
            other.close()
        try:
            self.connection.send((path, tolerance, seconds))
            # Reading, the solver's form and up to five repeats come on top of the limit.
            if not self.connection.poll(1.2 * seconds + 20.0):
                self.close()
                return failure("killed: over the time limit", seconds)
            row: Row = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.close()
            return failure("crashed")
        if row["seconds"] > 1.1 * seconds:
            row |= {"solved": False, "detail": f"over the time limit; {row['detail']}"}
        return row

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


Key = tuple[str, float, str]


class Kept:
    """The rows of qp_sets_all.csv by problem, tolerance and solver."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, Row] = {}
        if path.exists():
            with open(path, newline="") as file:
                for text in csv.DictReader(file):
                    row = {name: parsed(value) for name, value in text.items() if value != ""}
                    self.rows[row["problem"], row["tolerance"], row["solver"]] = row

    def add(self, row: Row) -> None:
        self.rows[row["problem"], row["tolerance"], row["solver"]] = row
        report.write_csv(self.path, list(self.rows.values()))


def parsed(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text


@dataclass
class Question:
    """What is asked: solvers, problems, tolerances, and how long each may take."""

    paths: list[Path]
    solvers: list[str]
    tolerances: list[float]
    seconds: float
    resume: bool = False


def run(question: Question, kept: Kept) -> Iterator[Row]:
    for solver in question.solvers:
        worker = Worker(solver)
        version = set_solvers.version(solver)
        for path in question.paths:
            problem = f"{path.parent.name}/{path.stem}"
            too_slow = False
            for tolerance in sorted(question.tolerances, reverse=True):
                row = kept.rows.get((problem, tolerance, solver))
                same = row is not None and (str(row.get("version")), row.get("limit")) == (version, question.seconds)
                if row is None or not same or (solver == set_solvers.OURS and not question.resume):
                    # What takes too long for a loose tolerance is not tried with a tighter one.
                    row = {"problem": problem, "tolerance": tolerance, "solver": solver}
                    row |= {"version": version, "limit": question.seconds}
                    if too_slow:
                        row |= failure("not tried: too slow before", question.seconds)
                    else:
                        row |= worker(path, tolerance, question.seconds)
                    kept.add(row)
                too_slow = too_slow or row["seconds"] >= question.seconds
                yield row
        worker.close()


def summary(rows: list[Row]) -> Iterator[Row]:
    """Per collection and tolerance, a row per solver; ours is compared with the peer that solves most."""
    keys = dict.fromkeys((row["problem"].split("/")[0], row["tolerance"]) for row in rows)
    for collection, tolerance in keys:
        mine = [r for r in rows if r["problem"].startswith(collection + "/") and r["tolerance"] == tolerance]
        table: dict[str, dict[str, Row]] = {}
        for row in mine:
            table.setdefault(row["solver"], {})[row["problem"]] = row
        scores = {solver: sum(row["solved"] for row in found.values()) for solver, found in table.items()}
        ours = table.get(set_solvers.OURS, {})
        for solver, found in table.items():
            both = [name for name, row in found.items() if row["solved"] and ours.get(name, row)["solved"]]
            ratio = math.nan
            if solver != set_solvers.OURS and ours and both:
                ratio = math.exp(sum(math.log(found[p]["seconds"] / ours[p]["seconds"]) for p in both) / len(both))
            times = sorted(row["seconds"] for row in found.values() if row["solved"])
            yield {
                "collection": collection,
                "tolerance": tolerance,
                "solver": solver,
                "problems": len(found),
                "solved": scores[solver],
                "false": sum(row["false"] for row in found.values()),
                "median_ms": 1e3 * times[len(times) // 2] if times else math.nan,
                "ours_is_x_faster": ratio,
            }


def compared(rows: list[Row]) -> list[Row]:
    """The summary with the last column filled: solved by us and by the best peer, and the time beside that peer's."""
    out = list(summary(rows))
    for row in out:
        if row["solver"] != set_solvers.OURS:
            continue
        case = [r for r in out if (r["collection"], r["tolerance"]) == (row["collection"], row["tolerance"])]
        peers = [r for r in case if r["solver"] != set_solvers.OURS]
        if peers:
            best = min(
                peers, key=lambda r: (-r["solved"], r["false"], np.nan_to_num(r["ours_is_x_faster"], nan=np.inf))
            )
            more = row["solved"] - best["solved"]
            row[report.BETTER] = f"{more:+d} solved; time {best['ours_is_x_faster']:.2g} ({best['solver']})"
    return out


def behind(rows: list[Row], slower: float = 3.0) -> Iterator[str]:
    """Where qp-control claims what is not so, fails where a peer succeeds, or takes `slower` times the fastest peer."""
    peers: dict[tuple[str, float], Row] = {}
    for row in rows:
        case = row["problem"], row["tolerance"]
        other = row["solver"] != set_solvers.OURS and row["solved"]
        if other and (case not in peers or row["seconds"] < peers[case]["seconds"]):
            peers[case] = row
    for row in rows:
        peer = peers.get((row["problem"], row["tolerance"]))
        if row["solver"] != set_solvers.OURS:
            continue
        late = peer is not None and row["seconds"] > slower * peer["seconds"]
        if row["false"] or (peer is not None and not row["solved"]) or late:
            kind = "FALSE " if row["false"] else "slow  " if row["solved"] else "FAILS "
            detail = f"{row['detail']} {1e3 * row['seconds']:.2f} ms"
            if "primal" in row:
                detail += " " + " ".join(f"{name} {row[name]:.0e}" for name in ("primal", "dual", "sign", "gap"))
            best = "" if peer is None else f"; {peer['solver']} {1e3 * peer['seconds']:.2f} ms"
            yield f"{kind} {row['problem']} at {row['tolerance']:g}: {detail}{best}"


def find(folder: Path, sets: list[str] | None, problems: list[str] | None) -> list[Path]:
    paths = []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        if sets and place.name not in sets:
            continue
        for path in sorted(place.glob("*.npz")):
            if problems and not {path.stem, f"{place.name}/{path.stem}"} & set(problems):
                continue
            with np.load(path, allow_pickle=False) as file:
                if not {"H_shape", "A_shape", "C_shape", "g"} <= set(file.files):
                    continue
                sides = (*file["H_shape"], file["A_shape"][0] + file["C_shape"][0])
            if max(sides) <= LARGEST:
                paths.append(path)
            else:
                print(f"left out, more than {LARGEST} rows or columns: {place.name}/{path.stem}")
    return paths


def quick_problems(folder: Path) -> Path:
    """Two small problems with a solution and one without, in the form of the collections."""
    n = 3
    H, one = 2.0 * np.eye(n), np.ones((1, n))
    bounds = {"lb": np.zeros(n), "ub": np.full(n, np.inf)}

    def save(name: str, H: Any, A: Any, b: Any, C: Any, l: Any, u: Any) -> None:
        arrays: dict[str, Any] = {"g": np.arange(n) - 1.0, "b": b, "l": l, "u": u} | bounds
        for letter, dense in zip("HAC", (H, A, C), strict=True):
            M = sp.csc_matrix(dense)
            arrays |= {f"{letter}_data": M.data, f"{letter}_indices": M.indices, f"{letter}_indptr": M.indptr}
            arrays[f"{letter}_shape"] = M.shape
        path = folder / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)

    none, empty = np.zeros(0), np.zeros((0, n))
    save("small/quadratic", H, one, np.ones(1), np.diag([1.0, 2.0, 3.0])[:2], np.full(2, -np.inf), np.full(2, 0.5))
    save("small/linear", np.zeros((n, n)), one, np.ones(1), empty, none, none)
    save("small_infeasible/sign", H, one, -np.ones(1), empty, none, none)
    return folder


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("QP_CONTROL_DATA"), help="folder of collections")
    parser.add_argument("--set", nargs="*", help="collections, all without it")
    parser.add_argument("--problem", nargs="*", help="names, with or without their collection")
    parser.add_argument("--solver", nargs="*", choices=list(set_solvers.SOLVERS), default=list(set_solvers.SOLVERS))
    parser.add_argument("--eps", nargs="*", type=float, default=list(TOLERANCES))
    parser.add_argument("--seconds", type=float, default=30.0, help="limit per problem and tolerance")
    parser.add_argument("--resume", action="store_true", help="keep the rows of qp-control too")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.data = quick_problems(arguments.out / "quick_problems")
    if arguments.data is None or not Path(arguments.data).is_dir():
        sys.exit("no problems to solve: name their folder with --data or QP_CONTROL_DATA (what it holds: --help)")
    print(report.machine("piqp", "proxsuite", "clarabel", "daqp", threads=1))
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of the workers
    kept = Kept(arguments.out / "qp_sets_all.csv")
    if arguments.fresh:
        kept.rows.clear()
    paths = find(Path(arguments.data), arguments.set, arguments.problem)
    solvers = [name for name in arguments.solver if set_solvers.installed(name)]
    rows = []
    for row in run(Question(paths, solvers, arguments.eps, arguments.seconds, arguments.resume), kept):
        rows.append(row)
        if row["solver"] == set_solvers.OURS and not row["solved"]:
            print(f"  {row['problem']} at {row['tolerance']:g}: {row['detail']}, {row['seconds']:.2f} s", flush=True)
    widths = {"collection": 18, "tolerance": 9, "solver": 12, "problems": 8, "solved": 6, "false": 5, "median_ms": 9}
    table = report.Report("qp_sets", widths | {"ours_is_x_faster": 16, report.BETTER: 24}, arguments.out)
    for row in compared(rows):
        table.add(row)
    for line in behind(rows):
        print(line)
    path = table.finish()
    if table.rows:
        draw(table.rows, path.with_suffix(".png"))


def draw(rows: list[Row], path: Path) -> None:
    solved: dict[str, dict[str, float]] = {}
    for row in rows:
        group = f"{row['collection']} {row['tolerance']:g}"
        solved.setdefault(str(row["solver"]), {})[group] = float(str(row["solved"])) / float(str(row["problems"]))
    groups = dict.fromkeys(group for values in solved.values() for group in values)
    title = "Part of the problems that is solved"
    report.bars(path, groups, solved, title=title, ylabel="solved", log=False)


if __name__ == "__main__":
    main()
