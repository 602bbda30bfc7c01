"""A training task: what is learned, from what, and how it is judged."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from qp_control.settings import Settings
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import FailedProblem, Phase

HELD_OUT_SEED = 20_000  # far from the seeds of training and validation
VALIDATION_SEED = 10_000


@dataclass(frozen=True)
class Score:
    """How good a module is.

    values: by name, in the order of the task's `metrics`. intervals: 95 % confidence intervals of those that are means
    over samples. rank: compared lexicographically, greater is better. details: what was evaluated, for pictures.
    """

    values: dict[str, float]
    rank: tuple[float, ...]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    failure: FailedProblem | None = None
    details: Any = None


@dataclass(frozen=True)
class Estimate:
    """A learned number and its uncertainty.

    standard_deviation: of its error, if due to noise in the data only. interval: the values that explain the data
    equally well, from the tightest limit to the widest.
    """

    name: str
    value: float
    standard_deviation: float | None = None
    interval: tuple[float, float] | None = None


class TrainingTask(abc.ABC):
    """What `Trainer` requires. A task is constructed from its options and has no state that training changes."""

    name: ClassVar[str]
    options_type: ClassVar[type[TrainingOptions]] = TrainingOptions
    metrics: ClassVar[tuple[str, ...]]
    """Names of a score's values."""
    percent: ClassVar[tuple[str, ...]] = ()
    """Those that are shares, shown in percent."""
    search_step: float = 0.3
    """Initial step of a search without gradients, for each learned number."""
    needs: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Optional packages that it needs, each with the extra of qp-control that installs it."""

    def __init__(self, options: TrainingOptions | None = None) -> None:
        options = options or self.options_type()
        if not isinstance(options, self.options_type):
            raise ValueError(f"options is a {type(options).__name__}, expected {self.options_type.__name__}")
        self.options: Any = options

    @abc.abstractmethod
    def module(self, settings: Settings | None = None) -> nn.Module:
        """The module to train, untrained. Parameters that do not require grad are kept. settings: of the QP solver."""

    @abc.abstractmethod
    def phases(self) -> list[Phase]:
        """The phases of a run, one after the other."""

    @abc.abstractmethod
    def score(self, module: Any, seed: int, count: int) -> Score:
        """The score of a module on `count` samples drawn with `seed`."""

    def hand_tuned(self) -> nn.Module | None:
        """The best module found by hand; None if there is nothing to tune by hand."""
        return None

    def others(self) -> dict[str, nn.Module]:
        """Further modules to compare with, by name."""
        return {}

    def search_loss(self) -> Callable[[nn.Module], float] | None:
        """What a search without gradients minimises, for comparison; None: no search."""
        return None

    def estimates(self, module: Any) -> list[Estimate]:
        """The learned numbers of a trained module and their uncertainty."""
        return []

    def first_problem(self, module: Any) -> FailedProblem | None:
        """A representative QP of the module, saved if gradients overflow."""
        return None

    def pictures(self, folder: Path, before: Score, after: Score) -> list[Path]:
        """Write pictures of the effect of training into a run folder; returns the paths."""
        return []
