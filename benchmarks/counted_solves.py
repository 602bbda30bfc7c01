"""The program that instructions.py counts: solves or adjoints of the same random QPs, over and over.

python benchmarks/counted_solves.py forward n n_eq n_in batch calls
"""

from __future__ import annotations

import sys

import numpy as np

import qp_control as qc

LARGEST_BATCH = 48


def main(what: str, n: int, n_eq: int, n_in: int, batch: int, calls: int) -> None:
    rng = np.random.default_rng(0)
    # Of the largest batch always, so that runs with different batches differ in the solves alone.
    F = rng.normal(size=(LARGEST_BATCH, n, n))
    A, C = rng.normal(size=(LARGEST_BATCH, n_eq, n)), rng.normal(size=(LARGEST_BATCH, n_in, n))
    x = rng.normal(size=(LARGEST_BATCH, n, 1))
    whole = {
        "H": F @ F.transpose(0, 2, 1) / n + 0.1 * np.eye(n),
        "g": 3.0 * rng.normal(size=(LARGEST_BATCH, n)),
        "A": A,
        "b": (A @ x)[..., 0],
        "C": C,
        "u": (C @ x)[..., 0] + rng.uniform(0.1, 1.0, size=(LARGEST_BATCH, n_in)),
    }
    data = {name: array[:batch] if batch > 1 else array[0] for name, array in whole.items() if array.size}
    settings = qc.Settings(eps_abs=1e-6, threads=1)
    solution = qc.solve_qp(**data, settings=settings)
    if not np.all(np.asarray(solution.status) == qc.Status.SOLVED):
        sys.exit("not solved")
    ones = np.ones_like(solution.x)
    for _ in range(calls):
        if what == "forward":
            qc.solve_qp(**data, settings=settings)
        else:
            qc.qp_adjoint(**data, solution=solution, x=ones, settings=settings)


if __name__ == "__main__":
    main(sys.argv[1], *(int(text) for text in sys.argv[2:]))
