"""Options of a training run, checked on construction."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

_LARGEST = 2**63  # what torch takes for a seed, and for a size


@dataclass(frozen=True)
class TrainingOptions:
    """Options of all tasks; a task's own options are a subclass.

    Integers are at least 1 (seeds, parts and numbers of iterations at least 0), other numbers positive (weights of
    penalties at least 0).
    """

    seed: int = 0
    """Seed of all random numbers in training."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    validate_every: int = 5
    """Iterations between validations; the best of all validations is kept."""
    validation_count: int = 16
    """Samples per validation."""
    patience: int = 10
    """Failed updates in a row after which training stops."""
    stop_after: int = 1000
    """Validations in a row without improvement after which a phase ends early."""
    parts: int = 0
    """Parts into which a batch is divided among processes; 0: as many as there are processes. Results depend on the
    number of parts, not on that of the processes."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise ValueError(f"{field.name} is {value!r}, expected True or False")
                continue
            if isinstance(value, bool):  # which is an integer, too
                raise ValueError(f"{field.name} is {value!r}, expected a number")
            if isinstance(field.default, float):
                may_be_zero = field.name.endswith("_weight")
                good = isinstance(value, int | float) and 0.0 <= value < float("inf") and (value or may_be_zero)
                if not good:
                    expected = "a number >= 0" if may_be_zero else "a positive number"
                    raise ValueError(f"{field.name} is {value!r}, expected {expected}")
                continue
            least = 0 if field.name in ("seed", "parts") or field.name.endswith("iterations") else 1
            if not (isinstance(value, int) and least <= value < _LARGEST):
                raise ValueError(f"{field.name} is {value!r}, expected an integer >= {least} of at most 64 bits")
