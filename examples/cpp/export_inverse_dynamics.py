"""A controller by inverse dynamics for an arm, exported for the C++ program inverse_dynamics_loop.

    python examples/cpp/export_inverse_dynamics.py controller

The tool follows a position, which the program moves; torques and joints are limited.
"""

import sys
from pathlib import Path

import numpy as np

import qp_control as qc

URDF = Path(__file__).resolve().parents[2] / "envs" / "assets" / "arm.urdf"
BENT = np.array([0.0, 0.6, -1.2, 0.0, 0.6, 0.0])


def controller():
    model = qc.RobotModel(URDF, threads=1)
    at_rest = model.frame_positions(["tool"], BENT[None])[0, 0]
    tasks = [
        qc.PositionTask("tool", at_rest, stiffness=400.0),
        qc.PostureTask(BENT, weight=1e-2),
    ]
    limits = [qc.TorqueLimit(), qc.JointPositionLimit(0.001, acceleration=100.0)]
    return qc.InverseDynamics(model, tasks, limits)


if __name__ == "__main__":
    print("wrote", qc.export_inverse_dynamics(controller(), sys.argv[1] if len(sys.argv) > 1 else "controller"))
