"""Controllers of robots with legs.

    gait           which foot is on the ground when
      -> foot_steps         where feet land, and how they get there
      -> single_rigid_body  a plan of forces over the gait: a QP of optimal control
      -> whole_body         a controller by inverse dynamics with what legs need
      -> decision           what a controller decides and carries from tick to tick
      -> standing, trotting the controllers: for closed loops, as an `MPC` is

All are batched and differentiable, through plan, foot placement and torques.
"""

from qp_control.legged.decision import LeggedDecision
from qp_control.legged.foot_steps import Swing, landing, swing
from qp_control.legged.gait import Gait, trot
from qp_control.legged.single_rigid_body import BodyPlan, SingleRigidBody
from qp_control.legged.standing import Standing, StandingDecision
from qp_control.legged.trotting import Trotting, TrottingDecision
from qp_control.legged.whole_body import Target, WholeBody

__all__ = [
    "BodyPlan",
    "Gait",
    "LeggedDecision",
    "SingleRigidBody",
    "Standing",
    "StandingDecision",
    "Swing",
    "Target",
    "Trotting",
    "TrottingDecision",
    "WholeBody",
    "landing",
    "swing",
    "trot",
]
