"""Inverse dynamics in closed loops: its numbers come from functions and modules of the situation.

    numbers = those of the sources, one after the other        u = InverseDynamics(q, v, numbers, model's parameters)

The references of tasks, learned gains and weights, the outputs of a network: all are sources, and gradients reach their
parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from qp_control.inverse_dynamics.controller import InverseDynamics
from qp_control.settings import Status


@dataclass(frozen=True)
class Decision:
    """What one call of `InverseDynamicsPolicy` decides and passes to the next. Batch of B.

    state (B, nx): of the plant; one that is not finite is replaced by another. input (B, nu): torques [N m or N].
    acceleration (B, nv): the resulting one according to the controller's model [m/s^2 or rad/s^2]. status (B,):
    `qc.Status`; iterations (B,). x, y, z, w: solution and multipliers of the QP of the first level, without gradient,
    from which the next call's QP starts; zero where there is no answer.
    """

    warm: ClassVar[tuple[str, ...]] = ("x", "y", "z", "w")
    """Fields that only serve to warm-start the solver."""

    state: Tensor
    input: Tensor
    acceleration: Tensor
    status: Tensor
    iterations: Tensor
    x: Tensor
    y: Tensor
    z: Tensor
    w: Tensor

    @property
    def solved(self) -> Tensor:
        """bool (B,): whether there is an answer."""
        return self.status <= Status.CLOSEST_FEASIBLE

    def shift(self) -> Decision:
        """What is passed to the next control period: this decision."""
        return self

    def with_input(self, u: Tensor) -> Decision:
        """The decision with torques u (B, nu) applied instead of its own."""
        return dataclasses.replace(self, input=u)

    def detach(self) -> Decision:
        """The decision without autograd graph."""
        return self._each(lambda value: value.detach())

    def __getitem__(self, index: Tensor | slice) -> Decision:
        """The decision of some elements."""
        return self._each(lambda value: value[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Decision:
        return Decision(*(change(getattr(self, field.name)) for field in dataclasses.fields(self)))


class Situation(NamedTuple):
    """What a source is called with."""

    state: Tensor
    """(B, nx) of the plant: the robot's (q, v), followed by whatever else the plant provides, such as a target."""
    numbers: Mapping[str, Tensor]
    """Numbers set by earlier sources, by name."""
    before: Decision | None
    """Decision of the previous control period; None in the first one."""


Source = Callable[[Situation], Mapping[str, Tensor]]


class InverseDynamicsPolicy(nn.Module):
    """Inverse dynamics with sources of its numbers, from states of a plant to torques.

    controller: numbers that no source sets keep their values; none of its own requires grad any more.
    sources: functions or modules that return numbers by name, (size,) or (B, size), for a `Situation`. They are called
        one after the other; later ones override earlier ones.
    model: a module that returns the parameters of the controller's model, such as `Payload` or `BodyScales`; None: the
        nominal ones.

    It can replace an `MPC` in `training.closed_loop`, the recipes based on it, and as the actor of reinforcement
    learning.
    """

    def __init__(
        self, controller: InverseDynamics, sources: Sequence[Source] = (), *, model: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.controller, self.sources, self.model = controller.requires_grad_(False), list(sources), model
        self.learned_sources = nn.ModuleList(source for source in sources if isinstance(source, nn.Module))

    @property
    def input_limit(self) -> Tensor:
        """(nu,) [N m or N] the effort limits of the robot."""
        return self.controller.model.effort_limit

    def numbers(self, x: Tensor, before: Decision | None = None) -> dict[str, Tensor]:
        """The numbers that the sources return for states x (B, nx)."""
        numbers: dict[str, Tensor] = {}
        for source in self.sources:
            numbers |= source(Situation(x, numbers, before))
        return numbers

    def parameters_of_model(self) -> Tensor | None:
        """(n_par,) of the controller's model; None: the nominal ones."""
        return None if self.model is None else self.model()

    def forward(self, x: Tensor, before: Decision | None = None) -> Decision:
        """Torques for states x (B, nx). before: the decision of the previous control period.

        States that are not finite have the status INVALID_INPUT and zero torques; sources do not see them.
        """
        q, v = self._robot(x)
        shown = self._finite(x)
        numbers, parameters = self.numbers(shown, before), self.parameters_of_model()
        # A decision has the fields of a warm start: x, y, z and w.
        start: Any = before
        found = self.controller(q, v, numbers, parameters=parameters, warm_start=start)
        sol = found.solution
        kept = {name: getattr(sol, name).detach().nan_to_num(0.0) for name in Decision.warm}
        return Decision(shown, found.torque, found.acceleration, found.status, sol.iterations, **kept)

    def build(self, x: Tensor, before: Decision | None = None) -> dict[str, Tensor]:
        """Arguments of `qc.solve_qp` for states x (B, nx)."""
        q, v = self._robot(x)
        problem = self.controller.build(
            q, v, self.numbers(self._finite(x), before), parameters=self.parameters_of_model()
        )
        return {name: value for name, value in problem._asdict().items() if name not in ("T", "t")}

    def _finite(self, x: Tensor) -> Tensor:
        """States, those that are not finite replaced by another one."""
        finite = x.detach().isfinite().all(1)
        if bool(finite.all()):
            return x
        neutral = self.controller.model.neutral_state().to(x)
        other = torch.cat([neutral, x.new_zeros(x.shape[1] - len(neutral))])
        return torch.where(finite[:, None], x, x[int(finite.nonzero()[0])].detach() if bool(finite.any()) else other)

    def _robot(self, x: Tensor) -> tuple[Tensor, Tensor]:
        model = self.controller.model
        if x.ndim != 2 or x.shape[1] < model.nx:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {model.nx}) or more in a row")
        return x[:, : model.nq], x[:, model.nq : model.nx]


class NumberNetwork(nn.Module):
    """A source: a network that adjusts the numbers of earlier sources within bounds, depending on observations.

    observe: its input (B, size) from a `Situation`, each entry of about unit size. size: number of observations.
    scaled: names of positive numbers and the largest factor (> 1) that each entry is multiplied or divided by.
    added: names of other numbers and the largest change of each entry, in their units.
    sizes: number of entries by name; one (for all of a vector) if not given.
    hidden: widths of the hidden layers, with tanh; a linear map runs in parallel.

    Initially it has no influence. Raises ValueError for factors <= 1, changes <= 0 and infinite ones.
    """

    def __init__(
        self,
        observe: Callable[[Situation], Tensor],
        size: int,
        *,
        scaled: Mapping[str, float] | None = None,
        added: Mapping[str, float] | None = None,
        sizes: Mapping[str, int] | None = None,
        hidden: Sequence[int] = (32, 32),
    ) -> None:
        super().__init__()
        self.observe = observe
        self.scaled, self.added = dict(scaled or {}), dict(added or {})
        for names, least in ((self.scaled, 1.0), (self.added, 0.0)):
            for name, bound in names.items():
                if not least < bound < float("inf"):
                    raise ValueError(f"the bound of {name} is {bound}, expected a number above {least:g}")
        self.widths = {name: int((sizes or {}).get(name, 1)) for name in (*self.scaled, *self.added)}
        outputs = sum(self.widths.values())
        self.direct = nn.Linear(size, outputs, dtype=torch.float64)
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(size, width, dtype=torch.float64), nn.Tanh()]
            size = width
        last = nn.Linear(size, outputs, bias=False, dtype=torch.float64)
        for weights in (last.weight, self.direct.weight, self.direct.bias):
            nn.init.zeros_(weights)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, situation: Situation) -> dict[str, Tensor]:
        """The adjusted numbers by name, (B, entries) each."""
        seen = self.observe(situation)
        outputs = (self.layers(seen) + self.direct(seen)).tanh().split(list(self.widths.values()), 1)
        found = {}
        for name, share in zip(self.widths, outputs, strict=True):
            if name not in situation.numbers:
                raise ValueError(f"no source before the network gives {name!r}, only {', '.join(situation.numbers)}")
            number = situation.numbers[name]
            found[name] = (
                number * self.scaled[name] ** share if name in self.scaled else number + self.added[name] * share
            )
        return found
