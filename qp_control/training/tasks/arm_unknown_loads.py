"""An arm with a different load in every episode: a network in its inverse-dynamics controller compensates for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.envs.loaded_arm import LoadedArm
from qp_control.inverse_dynamics.policy import InverseDynamicsPolicy, NumberNetwork, Situation, Source
from qp_control.robot.model_parameters import Payload
from qp_control.settings import Settings
from qp_control.training.analytic_gradient import AnalyticGradient
from qp_control.training.closed_loop_task import SEARCH_EPISODES
from qp_control.training.evaluation import starts
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import Phase
from qp_control.training.task import VALIDATION_SEED
from qp_control.training.tasks.loaded_arm import Gains, LoadedArmTask, policy

FADE = 0.05  # of the learning rate, along the run
SEARCH_STEP = 0.03  # of a search over the weights of a network: steps ten times as large make loops unstable
LARGEST_ADDED = 20.0  # [m/s^2] that the network adds to the desired acceleration of the tool
UNEXPLAINED = 5.0  # [m/s^2] typical size of the acceleration that the model does not explain
# The best of grids over stiffness (200 to 600), damping, the model's load (1 to 3.5 kg) and the observer's gain: a
# model with more load than there is makes the loop unstable.
LOAD = 2.0  # [kg]
BY_HAND = Gains(stiffness=400.0, damping=28.0, posture_weight=1e-3)
LESS_STIFF, OBSERVER = Gains(stiffness=300.0, damping=24.0, posture_weight=1e-3), 0.9  # leave room for more


@dataclass(frozen=True)
class ArmUnknownLoadsOptions(TrainingOptions):
    """A network in an arm's inverse-dynamics controller, from closed loops with unknown loads."""

    lightest: float = 1.0
    """Lightest load of an episode [kg]."""
    heaviest: float = 5.0
    """Heaviest load of an episode [kg]."""
    network: bool = True
    """Without the network only gains, weights and one load for all episodes are learned: the best constants."""
    hidden: int = 16
    """Units in each of the network's two hidden layers."""
    iterations: int = 60
    """Updates."""
    batch: int = 6
    """Closed loops per update."""
    steps: int = 80
    """Control periods of a closed loop."""
    settle: int = 45
    """Control periods that the tool has to reach its target; errors count from then on."""
    truncate: int = 25
    """Control periods after which the gradient is truncated."""
    rate: float = 0.03
    """Learning rate of Adam."""


class Observation:
    """(B, 21): the part of the tool's acceleration that the controller's model does not explain, the vector to the
    target, the difference of their velocities, joint rates and joint angles relative to home; scaled so that small
    weights on them do not make the loop unstable."""

    size = 21

    def __init__(self, plant: LoadedArm, model: nn.Module) -> None:
        self.plant, self.model = plant, model
        self.home = torch.tensor(plant.build.home, dtype=torch.float64)

    def __call__(self, situation: Situation) -> Tensor:
        plant, x = self.plant, situation.state
        n, robot = plant.joints, plant.dynamics
        q, v = x[:, :n], x[:, n : 2 * n]
        J = robot.frame_jacobians([plant.build.tool], q)[:, 0, :3]
        unexplained = torch.zeros_like(v)
        if situation.before is not None:
            was = situation.before.state
            explained = robot.forward_dynamics(was[:, :n], was[:, n : 2 * n], was[:, plant.late], self.model())
            unexplained = (v - was[:, n : 2 * n]) / plant.control_period - explained
        of_tool, tool_velocity = (J @ torch.stack([unexplained, v], 2)).unbind(2)
        away = plant.target_velocity(x) - tool_velocity
        return torch.cat([of_tool / UNEXPLAINED, 5.0 * plant.way(x), away, 0.3 * v, q - self.home], 1)


class ArmUnknownLoads(LoadedArmTask):
    """Initial gains are hand-tuned, and the model has one load: no such constants fit all loads.

    The network observes the acceleration that the model does not explain, and adds to the desired one of the tool.
    """

    name = "arm_unknown_loads"
    options_type = ArmUnknownLoadsOptions

    def __init__(self, options: ArmUnknownLoadsOptions | None = None) -> None:
        super().__init__(options)
        self.plant, self.settle = LoadedArm(self.options.lightest, self.options.heaviest), self.options.settle
        if self.options.network:
            self.search_step = SEARCH_STEP

    def module(self, settings: Settings | None = None) -> InverseDynamicsPolicy:
        return policy(
            self.plant,
            settings,
            load=LOAD,
            gains=LESS_STIFF if self.options.network else BY_HAND,
            further=self.networks,
        )

    def networks(self, model: Payload) -> list[NumberNetwork]:
        """The network as a source, or none."""
        if not self.options.network:
            return []
        with torch.random.fork_rng():
            torch.manual_seed(self.options.seed)
            network = NumberNetwork(
                Observation(self.plant, model),
                Observation.size,
                added={"tool.acceleration": LARGEST_ADDED},
                sizes={"tool.acceleration": 3},
                hidden=2 * [self.options.hidden],
            )
        return [network]

    def hand_tuned(self) -> InverseDynamicsPolicy:
        return policy(self.plant, load=LOAD, gains=BY_HAND)

    def search_loss(self) -> Callable[[Any], float]:
        """Loss of loops as short as those that gradients pass through: five times as many trials as whole episodes."""
        x0 = starts(self.plant, SEARCH_EPISODES, VALIDATION_SEED)
        return lambda module: self.loop_loss(module, x0, self.options.steps)

    def others(self) -> dict[str, nn.Module]:
        """A disturbance observer: the unexplained acceleration is subtracted, with one gain."""

        def observer(model: Payload) -> list[Source]:
            observe = Observation(self.plant, model)

            def take_off(situation: Situation) -> Mapping[str, Tensor]:
                share = OBSERVER * UNEXPLAINED * observe(situation)[:, :3]
                return {"tool.acceleration": situation.numbers["tool.acceleration"] - share}

            return [take_off]

        found = policy(self.plant, load=LOAD, gains=LESS_STIFF, further=observer)
        return {"by hand, with an observer": found}

    def phases(self) -> list[Phase]:
        o: ArmUnknownLoadsOptions = self.options
        loops = AnalyticGradient(
            self, o.iterations, o.rate, batch=o.batch, steps=o.steps, truncate=o.truncate, fade=FADE
        )
        return [loops]
