"""Controllers of legged robots.

    gait           which foot is on the ground when
      -> foot_steps         where feet land, and how they get there
      -> single_rigid_body  a plan of forces over the gait: an optimal-control QP
      -> whole_body         inverse dynamics with the tasks of a legged robot
      -> decision           what a controller decides and carries from tick to tick
      -> standing, trotting the controllers: for closed loops, like an `MPC`

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
