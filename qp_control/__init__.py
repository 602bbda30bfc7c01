"""Differentiable QP solver, model predictive control and robot learning.

Names that need torch are imported on first use, so that `import qp_control` stays fast.
"""

from __future__ import annotations

import importlib
from typing import Any

from qp_control.exceptions import ProblemFileError, QPControlError, SolveError
from qp_control.qp import Solution, solve_qp
from qp_control.settings import Settings, Status

__version__ = "0.1.0"

__all__ = [
    "ProblemFileError",
    "QPControlError",
    "Settings",
    "Solution",
    "SolveError",
    "Status",
    "solve_qp",
]
