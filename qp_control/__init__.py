"""Differentiable QP solver, model predictive control and robot learning.

Names that need torch are imported on first use, so that `import qp_control` stays fast.
"""

from __future__ import annotations

import importlib
from typing import Any

from qp_control.exceptions import ProblemFileError, QPControlError, SolveError
from qp_control.ocp.derivatives import OcpGradients, OcpTangent, ocp_adjoint, ocp_tangent
from qp_control.ocp.gain import ocp_gain
from qp_control.ocp.problem import OcpQP
from qp_control.ocp.solve import OcpSolution, OcpStart, shifted, solve_ocp
from qp_control.qp.derivatives import Gradients, Tangent, qp_adjoint, qp_tangent
from qp_control.qp.files import load_problem, save_problem
from qp_control.qp.ragged import solve_qps
from qp_control.qp.solve import Solution, solve_qp
from qp_control.settings import Settings, Status

__version__ = "0.1.0"

_LAZY = {
    "AccelerationRegularization": "qp_control.inverse_dynamics.tasks",
    "AngularMomentumTask": "qp_control.inverse_dynamics.tasks",
    "CenterOfMassTask": "qp_control.inverse_dynamics.tasks",
    "CollisionPair": "qp_control.robot.shapes",
    "Contact": "qp_control.robot.contact",
    "ContactDynamics": "qp_control.robot.contact",
    "ContactForceTask": "qp_control.inverse_dynamics.tasks",
    "ForceRegularization": "qp_control.inverse_dynamics.tasks",
    "FrameBarrier": "qp_control.inverse_dynamics.limits",
    "FrameTask": "qp_control.inverse_dynamics.tasks",
    "HeightField": "qp_control.robot.ground",
    "InverseDynamics": "qp_control.inverse_dynamics.controller",
    "InverseDynamicsPolicy": "qp_control.inverse_dynamics.policy",
    "JointAccelerationLimit": "qp_control.inverse_dynamics.limits",
    "JointPositionLimit": "qp_control.inverse_dynamics.limits",
    "JointVelocityLimit": "qp_control.inverse_dynamics.limits",
    "LayerSolution": "qp_control.qp.layer",
    "MPC": "qp_control.mpc.controller",
    "NumberNetwork": "qp_control.inverse_dynamics.policy",
    "OcpLayer": "qp_control.ocp.layer",
    "OcpLayerSolution": "qp_control.ocp.layer",
    "OrientationTask": "qp_control.inverse_dynamics.tasks",
    "Payload": "qp_control.robot.model_parameters",
    "Plan": "qp_control.mpc.plan",
    "Plane": "qp_control.robot.ground",
    "PlaneBarrier": "qp_control.inverse_dynamics.limits",
    "PointContact": "qp_control.inverse_dynamics.contacts",
    "PositionTask": "qp_control.inverse_dynamics.tasks",
    "PositiveNumbers": "qp_control.inverse_dynamics.positive_numbers",
    "PostureTask": "qp_control.inverse_dynamics.tasks",
    "QPLayer": "qp_control.qp.layer",
    "RelativeFrameTask": "qp_control.inverse_dynamics.tasks",
    "RobotDynamics": "qp_control.robot.dynamics",
    "RobotModel": "qp_control.robot.model",
    "Situation": "qp_control.inverse_dynamics.policy",
    "SmoothedStep": "qp_control.robot.smoothed_step",
    "SphereBarrier": "qp_control.inverse_dynamics.limits",
    "SqpSettings": "qp_control.mpc.sqp",
    "StageRows": "qp_control.mpc.nonlinear_ocp",
    "StateRows": "qp_control.mpc.nonlinear_ocp",
    "SurfaceContact": "qp_control.inverse_dynamics.contacts",
    "TorchDynamics": "qp_control.robot.torch_dynamics",
    "TorqueLimit": "qp_control.inverse_dynamics.limits",
    "TorqueRegularization": "qp_control.inverse_dynamics.tasks",
    "collision_pairs": "qp_control.robot.shapes",
    "contacts_from_urdf": "qp_control.robot.shape_contacts",
    "export_inverse_dynamics": "qp_control.inverse_dynamics.export",
    "export_mpc": "qp_control.mpc.export",
    "ground_contacts": "qp_control.robot.shape_contacts",
    "keep_out": "qp_control.mpc.nonlinear_ocp",
    "shapes_from_urdf": "qp_control.robot.shapes",
    "speed_limit": "qp_control.mpc.nonlinear_ocp",
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
    "export_inverse_dynamics",
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
