"""Trees of bodies with joints of all kinds."""

from __future__ import annotations

import numpy as np
import pinocchio as pin

JOINTS = {
    "x": pin.JointModelRX,
    "unaligned": lambda: pin.JointModelRevoluteUnaligned(np.array([0.6, 0.0, 0.8])),
    "slide": pin.JointModelPY,
    "continuous": pin.JointModelRUBZ,
    "ball": pin.JointModelSpherical,
    "planar": pin.JointModelPlanar,
    "gantry": pin.JointModelTranslation,
    "free": pin.JointModelFreeFlyer,
}
# Joints and the bodies before them.
TREES = {
    "chain": [("x", 0), ("unaligned", 1), ("slide", 2), ("x", 3)],
    "branches": [("gantry", 0), ("x", 1), ("unaligned", 2), ("slide", 1)],
    "flying body": [("free", 0)],
    "flying tree": [("free", 0), ("ball", 1), ("continuous", 2), ("x", 1)],
    "car with a trailer": [("planar", 0), ("x", 1), ("planar", 2)],
}


def tree_model(joints):
    pin.seed(1)
    model = pin.Model()
    for i, (kind, parent) in enumerate(joints):
        joint = model.addJoint(parent, JOINTS[kind](), pin.SE3.Random(), f"{kind} {i}")
        model.appendBodyToJoint(joint, pin.Inertia.Random(), pin.SE3.Identity())
    return model
