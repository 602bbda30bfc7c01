"""Controllers by inverse dynamics in closed loops: their numbers come from functions and modules of the situation.

    numbers = those of the sources, one after the other        u = InverseDynamics(q, v, numbers, model's parameters)

What a task follows, learned gains and weights, what a network makes of observations: all are sources, and gradients
reach whatever parameters they have.
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
    """What one call of `InverseDynamicsPolicy` decides and the next one takes. Batch of B.

    state (B, nx): of the plant; in the place of one that is not finite stands another. input (B, nu): torques
    [N m or N]. acceleration (B, nv): what they are to give by the controller's model [m/s^2 or rad/s^2]. status (B,):
    `qc.Status`; iterations (B,). x, y, z, w: solution and multipliers of the QP of the first level, without gradient,
    where the next call's starts; zero where there is no answer.
    """

    warm: ClassVar[tuple[str, ...]] = ("x", "y", "z", "w")
    """Fields that are only where the solver starts."""

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
        """bool (B,): there is an answer."""
        return self.status <= Status.CLOSEST_FEASIBLE

    def shift(self) -> Decision:
        """What the call of the next control period takes: this decision."""
        return self

    def with_input(self, u: Tensor) -> Decision:
        """The decision with torques u (B, nu) sent instead of its own."""
        return dataclasses.replace(self, input=u)

    def detach(self) -> Decision:
        """The same without graph."""
        return self._each(lambda value: value.detach())

    def __getitem__(self, index: Tensor | slice) -> Decision:
        """Those of some elements."""
        return self._each(lambda value: value[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Decision:
        return Decision(*(change(getattr(self, field.name)) for field in dataclasses.fields(self)))


class Situation(NamedTuple):
    """What a source sees."""

    state: Tensor
    """(B, nx) of the plant: the robot's (q, v), and behind it what else the plant tells, such as a target."""
    numbers: Mapping[str, Tensor]
    """Numbers by name that the sources before have set."""
    before: Decision | None
    """Of the control period before; None in the first one."""


Source = Callable[[Situation], Mapping[str, Tensor]]


class InverseDynamicsPolicy(nn.Module):
    """A controller by inverse dynamics with sources of its numbers, from states of a plant to torques.

    controller: its numbers stay as they are where no source sets them, and require no grad.
    sources: functions or modules that give numbers by name, (size,) or (B, size), for a `Situation`. They are called
        one after the other, and what a later one gives goes before.
    model: a module whose call gives the parameters of the controller's model, such as `Payload` or `BodyScales`; None:
        the nominal ones.

    `training.closed_loop`, the recipes on top of it and actors of reinforcement learning take it in the place of an
    `MPC`.
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
        """What the sources give for states x (B, nx)."""
        numbers: dict[str, Tensor] = {}
        for source in self.sources:
            numbers |= source(Situation(x, numbers, before))
        return numbers

    def parameters_of_model(self) -> Tensor | None:
        """(n_par,) of the controller's model; None: the nominal ones."""
        return None if self.model is None else self.model()

    def forward(self, x: Tensor, before: Decision | None = None) -> Decision:
        """Torques for states x (B, nx). before: the decision of the control period before.

        States that are not finite have the status INVALID_INPUT and no torques; sources do not see them.
        """
        q, v = self._robot(x)
        shown = self._finite(x)
        numbers, parameters = self.numbers(shown, before), self.parameters_of_model()
        # A decision has what a start needs: x, y, z and w.
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
        """States, with another one in the place of those that are not finite."""
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
    """A source: a network that changes numbers of the sources before by what it observes, within bounds.

    observe: what it sees (B, n) of a `Situation`, each entry of about unit size.
    scaled: names of positive numbers and the largest factor (> 1) that each entry is multiplied or divided by.
    added: names of other numbers and the largest change of each entry, in their units.
    size: observe gives so many. sizes: how many numbers a name has, by name; one (for all of a vector) where not given.
    hidden: units of the layers between, with tanh; beside them goes a linear map.

    It begins with no influence. Raises ValueError for bounds that are none.
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
        """By name, (B, size) each."""
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
