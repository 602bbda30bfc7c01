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
        problem: the data of the QP, as accepted by `qp_control.save_problem`.
        solution: what the solver returned.
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
