"""Exceptions of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class QPControlError(Exception):
    """Base of the package's own exceptions; mistakes in arguments raise `ValueError` or `TypeError` instead."""


class SolveError(QPControlError):
    """A QP that had to be solved has no solution.

    Attributes:
        problem: the data by name, as accepted by `qp_control.save_problem`: for a layer the whole batch, for a
            controller the QP of the first element without an answer, as returned by its `build`. For `ContactDynamics`,
            whose QPs are assembled in C++, the arguments of its steps: x, u, parameters, friction, dry_friction.
        solution: what the solver returned: the `LayerSolution` or `OcpLayerSolution` of the whole batch, float64 on the
            CPU; the `Tick` of `InverseDynamics.compute`; the statuses (B, periods) of `ContactDynamics`.
    """

    def __init__(self, message: str, problem: Mapping[str, Any], solution: Any) -> None:
        super().__init__(message)
        self.problem = problem
        self.solution = solution


class ProblemFileError(QPControlError, ValueError):
    """A file is incomplete, truncated, or not a problem file."""


class TrainingError(QPControlError):
    """Training cannot continue. problem_path: the file with the QP it failed on, if one was written."""

    def __init__(self, message: str, problem_path: Path | None = None) -> None:
        super().__init__(message)
        self.problem_path = problem_path
