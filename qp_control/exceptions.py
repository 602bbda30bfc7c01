"""Exceptions of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class QPControlError(Exception):
    """Base of the package's own exceptions; mistakes in arguments raise `ValueError` or `TypeError` instead."""


class SolveError(QPControlError):
    """A QP that had to be solved was not.

    Attributes:
        problem: the data by name, as accepted by `qp_control.save_problem`: the whole batch of a layer, of a controller
            the QP of the first element without an answer, as its `build` gives it. `ContactDynamics`, whose QPs are
            made in C++, has the arguments of its steps here: x, u, parameters, friction, dry_friction.
        solution: what the solver returned: the `LayerSolution` or `OcpLayerSolution` of the whole batch, float64 on the
            CPU; the `Tick` of `InverseDynamics.compute`; the statuses (B, periods) of `ContactDynamics`.
    """

    def __init__(self, message: str, problem: Mapping[str, Any], solution: Any) -> None:
        super().__init__(message)
        self.problem = problem
        self.solution = solution


class ProblemFileError(QPControlError, ValueError):
    """A problem file is missing pieces, truncated, or not a problem file."""


class TrainingError(QPControlError):
    """Training cannot go on. problem_path: where the QP it failed on was written, if it was."""

    def __init__(self, message: str, problem_path: Path | None = None) -> None:
        super().__init__(message)
        self.problem_path = problem_path
