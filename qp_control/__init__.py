"""Differentiable QP solver, model predictive control and robot learning.

Names that need torch are imported on first use, so that `import qp_control` stays fast.
"""

from __future__ import annotations

import importlib
from typing import Any

from qp_control.derivatives import Gradients, Tangent, qp_adjoint, qp_tangent
from qp_control.exceptions import ProblemFileError, QPControlError, SolveError
from qp_control.ocp import OcpSolution, OcpStart, shifted, solve_ocp
from qp_control.ocp_derivatives import OcpGradients, OcpTangent, ocp_adjoint, ocp_tangent
from qp_control.ocp_gain import ocp_gain
from qp_control.ocp_problem import OcpQP
from qp_control.problem_io import load_problem, save_problem
from qp_control.qp import Solution, solve_qp
from qp_control.ragged import solve_qps
from qp_control.settings import Settings, Status

__version__ = "0.1.0"

_LAZY = {
    "AccelerationRegularization": "qp_control.tasks",
    "AngularMomentumTask": "qp_control.tasks",
    "CenterOfMassTask": "qp_control.tasks",
    "CollisionPair": "qp_control.shapes",
    "Contact": "qp_control.contact",
    "ContactDynamics": "qp_control.contact",
    "ContactForceTask": "qp_control.tasks",
    "ForceRegularization": "qp_control.tasks",
    "FrameBarrier": "qp_control.limits",
    "FrameTask": "qp_control.tasks",
    "HeightField": "qp_control.ground",
    "InverseDynamics": "qp_control.inverse_dynamics",
    "InverseDynamicsPolicy": "qp_control.inverse_dynamics_policy",
    "JointAccelerationLimit": "qp_control.limits",
    "JointPositionLimit": "qp_control.limits",
    "JointVelocityLimit": "qp_control.limits",
    "LayerSolution": "qp_control.layers",
    "MPC": "qp_control.mpc",
    "NumberNetwork": "qp_control.inverse_dynamics_policy",
    "OcpLayer": "qp_control.ocp_layers",
    "OcpLayerSolution": "qp_control.ocp_layers",
    "OrientationTask": "qp_control.tasks",
    "Payload": "qp_control.model_parameters",
    "Plan": "qp_control.plan",
    "Plane": "qp_control.ground",
    "PlaneBarrier": "qp_control.limits",
    "PointContact": "qp_control.supports",
    "PositionTask": "qp_control.tasks",
    "PositiveNumbers": "qp_control.inverse_dynamics_policy",
    "PostureTask": "qp_control.tasks",
    "QPLayer": "qp_control.layers",
    "RelativeFrameTask": "qp_control.tasks",
    "RobotDynamics": "qp_control.dynamics",
    "RobotModel": "qp_control.robot_model",
    "Situation": "qp_control.inverse_dynamics_policy",
    "SmoothedStep": "qp_control.smoothed_step",
    "SphereBarrier": "qp_control.limits",
    "SqpSettings": "qp_control.sqp",
    "StageRows": "qp_control.nonlinear_ocp",
    "StateRows": "qp_control.nonlinear_ocp",
    "SurfaceContact": "qp_control.supports",
    "TorchDynamics": "qp_control.torch_dynamics",
    "TorqueLimit": "qp_control.limits",
    "TorqueRegularization": "qp_control.tasks",
    "collision_pairs": "qp_control.shapes",
    "contacts_from_urdf": "qp_control.shape_contacts",
    "export_mpc": "qp_control.export",
    "ground_contacts": "qp_control.shape_contacts",
    "keep_out": "qp_control.nonlinear_ocp",
    "shapes_from_urdf": "qp_control.shapes",
    "speed_limit": "qp_control.nonlinear_ocp",
}

__all__ = [
    "MPC",
    "AccelerationRegularization",
    "AngularMomentumTask",
    "CenterOfMassTask",
    "CollisionPair",
    "Contact",
    "ContactDynamics",
    "ContactForceTask",
    "ForceRegularization",
    "FrameBarrier",
    "FrameTask",
    "Gradients",
    "HeightField",
    "InverseDynamics",
    "InverseDynamicsPolicy",
    "JointAccelerationLimit",
    "JointPositionLimit",
    "JointVelocityLimit",
    "LayerSolution",
    "NumberNetwork",
    "OcpGradients",
    "OcpLayer",
    "OcpLayerSolution",
    "OcpQP",
    "OcpSolution",
    "OcpStart",
    "OcpTangent",
    "OrientationTask",
    "Payload",
    "Plan",
    "Plane",
    "PlaneBarrier",
    "PointContact",
    "PositionTask",
    "PositiveNumbers",
    "PostureTask",
    "ProblemFileError",
    "QPControlError",
    "QPLayer",
    "RelativeFrameTask",
    "RobotDynamics",
    "RobotModel",
    "Settings",
    "Situation",
    "SmoothedStep",
    "Solution",
    "SolveError",
    "SphereBarrier",
    "SqpSettings",
    "StageRows",
    "StateRows",
    "Status",
    "SurfaceContact",
    "Tangent",
    "TorchDynamics",
    "TorqueLimit",
    "TorqueRegularization",
    "collision_pairs",
    "contacts_from_urdf",
    "export_mpc",
    "ground_contacts",
    "keep_out",
    "load_problem",
    "ocp_adjoint",
    "ocp_gain",
    "ocp_tangent",
    "qp_adjoint",
    "qp_tangent",
    "save_problem",
    "shapes_from_urdf",
    "shifted",
    "solve_ocp",
    "solve_qp",
    "solve_qps",
    "speed_limit",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
