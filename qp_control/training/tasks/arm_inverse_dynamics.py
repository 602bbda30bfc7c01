"""An arm follows points with its tool by inverse dynamics, with a load and friction unknown to the controller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from qp_control.envs.loaded_arm import LoadedArm
from qp_control.inverse_dynamics.policy import InverseDynamicsPolicy
from qp_control.settings import Settings
from qp_control.training.analytic_gradient import AnalyticGradient
from qp_control.training.options import TrainingOptions
from qp_control.training.phase import Phase
from qp_control.training.task import Score
from qp_control.training.tasks.loaded_arm import Gains, LoadedArmTask, policy, tell

FADE = 0.05  # of the learning rate, along the run
# The best of grids over stiffness (100 to 1600), damping (0.5 to 1 times critical) and weight of the posture.
BY_HAND = Gains(stiffness=1200.0, damping=69.0, posture_weight=1e-2)
BY_HAND_TOLD = Gains(stiffness=400.0, damping=28.0, posture_weight=1e-3)


@dataclass(frozen=True)
class ArmInverseDynamicsOptions(TrainingOptions):
    """Gains, weights, load and friction of an arm's inverse-dynamics controller, from closed loops."""

    load: float = 4.0
    """Mass of the load that is unknown to the controller [kg]."""
    model_iterations: int = 15
    """Updates of the controller's model: its load and friction."""
    iterations: int = 25
    """Updates of everything: gains, weights and model."""
    batch: int = 8
    """Closed loops per update."""
    steps: int = 120
    """Control periods of a closed loop."""
    settle: int = 60
    """Control periods that the tool has to reach its target; errors count from then on."""
    truncate: int = 25
    """Control periods after which the gradient is truncated."""
    model_rate: float = 0.2
    """Learning rate of Adam for the model."""
    rate: float = 0.1
    """Learning rate of Adam for everything."""


class ArmInverseDynamics(LoadedArmTask):
    """The load is the same in all episodes, and the controller's model has a load with learnable parameters.

    Scores: besides those of `LoadedArmTask` the error of the load's mass.
    """

    name = "arm_inverse_dynamics"
    options_type = ArmInverseDynamicsOptions
    metrics = (*LoadedArmTask.metrics, "load error [kg]")

    def __init__(self, options: ArmInverseDynamicsOptions | None = None) -> None:
        super().__init__(options)
        self.plant, self.settle = LoadedArm(self.options.load, self.options.load), self.options.settle

    def module(self, settings: Settings | None = None) -> InverseDynamicsPolicy:
        return policy(self.plant, settings)

    def hand_tuned(self) -> InverseDynamicsPolicy:
        return policy(self.plant, load=1e-6, gains=BY_HAND)

    def others(self) -> dict[str, nn.Module]:
        told = tell(policy(self.plant, gains=BY_HAND_TOLD), self.options.load)
        return {"tuned by hand, load and friction told": told}

    def phases(self) -> list[Phase]:
        o: ArmInverseDynamicsOptions = self.options

        def loops(iterations: int, rate: float, name: str, learned: tuple[str, ...] | None = None) -> Phase:
            return AnalyticGradient(
                self,
                iterations,
                rate,
                batch=o.batch,
                steps=o.steps,
                truncate=o.truncate,
                fade=FADE,
                learned=learned,
                name=name,
            )

        return [
            loops(o.model_iterations, o.model_rate, "model", ("model",)),
            loops(o.iterations, o.rate, "closed_loop"),
        ]

    def score(self, module: Any, seed: int, count: int) -> Score:
        score = super().score(module, seed, count)
        score.values["load error [kg]"] = abs(float(module.model.mass.detach()) - self.options.load)
        return score
