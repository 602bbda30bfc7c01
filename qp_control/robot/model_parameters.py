"""Learnable parameters of a controller's model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qp_control.robot.dynamics import RobotDynamics
from qp_control.robot.model import RobotModel


class BodyScales(nn.Module):
    """Parameters of a robot's model as physically consistent scales of the nominal ones.

    log_mass, log_length (bodies,), log_damping (nv,): with a = exp(log_mass), b = exp(log_length) a body's m, m c and I
    about its joint become a m, a b m c, a b^2 I, and its joint's viscous friction is multiplied by exp(log_damping).
    """

    def __init__(self, dynamics: RobotModel) -> None:
        super().__init__()
        self.nominal: Tensor
        self.degree: Tensor
        self.register_buffer("nominal", dynamics.parameters.clone(), persistent=False)
        # Order of a body: m, three of m c, six of I.
        degree = torch.tensor([0.0] + 3 * [1.0] + 6 * [2.0], dtype=torch.float64)
        self.register_buffer("degree", degree, persistent=False)

        def zeros(n: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(n, dtype=torch.float64))

        self.log_mass, self.log_length = zeros(dynamics.bodies), zeros(dynamics.bodies)
        self.log_damping = zeros(dynamics.nv)

    def forward(self) -> Tensor:
        """Parameters (n_par,) of the robot's model, in the order of `RobotModel.parameters`."""
        bodies = self.log_mass[:, None] + self.degree * self.log_length[:, None]
        scales = torch.cat([bodies.flatten(), self.log_damping])
        return self.nominal * scales.exp()


class LogCholesky(nn.Module):
    """Parameters of a robot's model that are physically consistent for all values, all ten of each body free.

    inertia (bodies, 10): (alpha, d_1, d_2, d_3, s_12, s_23, s_13, t_1, t_2, t_3), a body's second moments of mass being

        [S h; h' m] = U U',   U = e^alpha [e^d_1 s_12 s_13 t_1; 0 e^d_2 s_23 t_2; 0 0 e^d_3 t_3; 0 0 0 1]

    with S = integral of r r' dm, h = m c, and its inertia about the joint tr(S) 1 - S. log_damping (nv,): as in
    `BodyScales`. The initial values are those of the nominal model, whose bodies must be extended in all directions.

    Source: C. Rucker, P. M. Wensing, "Smooth parameterization of rigid-body inertia", IEEE RA-L 7 (2022).

    Raises ValueError for a body whose nominal parameters are not those of such a body.
    """

    def __init__(self, dynamics: RobotDynamics) -> None:
        super().__init__()
        self.damping: Tensor
        bodies = 10 * dynamics.bodies
        nominal = dynamics.parameters
        self.register_buffer("damping", nominal[bodies:].clone(), persistent=False)
        moments = _second_moments(nominal[:bodies].view(-1, 10))
        # U U' instead of L L': the same with rows and columns in reverse.
        L, info = torch.linalg.cholesky_ex(moments.flip(-2, -1))
        for name, failed in zip(list(dynamics.model.names)[1:], info.tolist(), strict=True):
            if failed:
                raise ValueError(
                    f"the body of joint {name!r} is no real one, or has no extent in some direction: second moments "
                    "of its mass, from its mass, centre of mass and inertia, are not positive definite"
                )
        U = L.flip(-2, -1)
        scale = U[:, 3, 3]
        U = U / scale[:, None, None]
        inertia = torch.stack(
            [scale.log(), U[:, 0, 0].log(), U[:, 1, 1].log(), U[:, 2, 2].log(), U[:, 0, 1], U[:, 1, 2], U[:, 0, 2]], 1
        )
        self.inertia = nn.Parameter(torch.cat([inertia, U[:, :3, 3]], 1))
        self.log_damping = nn.Parameter(torch.zeros(dynamics.nv, dtype=torch.float64))

    def forward(self) -> Tensor:
        """Parameters (n_par,) of the robot's model, in the order of `RobotModel.parameters`."""
        alpha, d, (s_12, s_23, s_13), t = (
            self.inertia[:, 0],
            self.inertia[:, 1:4].exp(),
            self.inertia[:, 4:7].unbind(1),
            self.inertia[:, 7:],
        )
        zero, one = torch.zeros_like(s_12), torch.ones_like(s_12)
        rows = [
            [d[:, 0], s_12, s_13, t[:, 0]],
            [zero, d[:, 1], s_23, t[:, 1]],
            [zero, zero, d[:, 2], t[:, 2]],
            [zero, zero, zero, one],
        ]
        U = alpha.exp()[:, None, None] * torch.stack([torch.stack(row, 1) for row in rows], 1)
        moments = U @ U.mT
        S = moments[:, :3, :3]
        inertia = S.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] * torch.eye(3, dtype=S.dtype) - S
        xx, xy, yy, xz, yz, zz = (inertia[:, i, j] for i, j in _ORDER)
        bodies = torch.stack([moments[:, 3, 3], *moments[:, :3, 3].unbind(1), xx, xy, yy, xz, yz, zz], 1)
        return torch.cat([bodies.flatten(), self.damping * self.log_damping.exp()])


class Payload(nn.Module):
    """Parameters of a robot's model with an additional load of unknown mass and centre at one of its frames.

    frame: its name. mass: initial mass [kg]. size: rough size of the load [m].

    log_mass: the load's mass is exp(log_mass), concentrated at its centre. offset (3,): the centre, relative to the
    origin and in the axes of the frame, in units of `size`. log_damping (nv,): as in `BodyScales`.

    Raises ValueError for a frame that does not exist or is fixed to the world.
    """

    def __init__(self, dynamics: RobotModel, frame: str, *, mass: float = 0.5, size: float = 0.1) -> None:
        super().__init__()
        if not 0.0 < mass < math.inf or not 0.0 < size < math.inf:
            raise ValueError(f"mass is {mass} and size {size}, expected positive numbers")
        place = dynamics.model.frames[dynamics._frame_indices([frame])[0]]
        joint = int(place.parentJoint)
        if joint == 0:
            raise ValueError(f"the frame {frame!r} does not move with the robot")
        self.nominal: Tensor
        self.register_buffer("nominal", dynamics.parameters.clone(), persistent=False)
        self.first, self.damping, self.size = 10 * (joint - 1), 10 * dynamics.bodies, float(size)
        self.rotation, self.origin = (
            torch.from_numpy(place.placement.rotation),
            torch.from_numpy(place.placement.translation),
        )
        self.log_mass = nn.Parameter(torch.tensor(math.log(mass), dtype=torch.float64))
        self.offset = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.log_damping = nn.Parameter(torch.zeros(dynamics.nv, dtype=torch.float64))

    @property
    def mass(self) -> Tensor:
        """[kg]"""
        return self.log_mass.exp()

    @property
    def centre(self) -> Tensor:
        """(3,) in the frame [m]."""
        return self.size * self.offset

    def forward(self) -> Tensor:
        """Parameters (n_par,) of the robot's model, in the order of `RobotModel.parameters`."""
        load = self.mass * point_mass(self.origin + self.rotation @ self.centre)
        body, damping = self.nominal[: self.damping], self.nominal[self.damping :]
        before, after = body[: self.first], body[self.first + 10 :]
        own = body[self.first : self.first + 10]
        return torch.cat([before, own + load, after, damping * self.log_damping.exp()])


def point_mass(place: Tensor) -> Tensor:
    """(10,) inertial parameters of a point mass of 1 kg at `place` (3,) [m] relative to its joint."""
    x, y, z = place.unbind()
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack([torch.ones_like(x), x, y, z, yy + zz, -x * y, xx + zz, -x * z, -y * z, xx + yy])


_ORDER = ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))


def _second_moments(parameters: Tensor) -> Tensor:
    """[S h; h' m] (n, 4, 4) of bodies (n, 10)."""
    inertia = parameters.new_zeros(len(parameters), 3, 3)
    for k, (i, j) in enumerate(_ORDER):
        inertia[:, i, j] = inertia[:, j, i] = parameters[:, 4 + k]
    moments = parameters.new_zeros(len(parameters), 4, 4)
    half = 0.5 * inertia.diagonal(dim1=1, dim2=2).sum(1)
    moments[:, :3, :3] = half[:, None, None] * torch.eye(3, dtype=parameters.dtype) - inertia
    moments[:, :3, 3] = moments[:, 3, :3] = parameters[:, 1:4]
    moments[:, 3, 3] = parameters[:, 0]
    return moments


class FreeParameters(nn.Module):
    """Parameters (n_par,) that are learned as they are; nominal None: a model without any."""

    def __init__(self, nominal: Tensor | None) -> None:
        super().__init__()
        self.value = None if nominal is None else nn.Parameter(nominal.clone())

    def forward(self) -> Tensor | None:
        return self.value


def model_parameters(dynamics: Any, kind: str | nn.Module = "scales") -> nn.Module:
    """For a `RobotDynamics`: "scales" (`BodyScales`), "log_cholesky" (`LogCholesky`), or a module that returns them
    when called; for anything else its own parameters or a module."""
    if isinstance(kind, nn.Module):
        return kind
    if kind not in ("scales", "log_cholesky"):
        raise ValueError(f"model is {kind!r}, expected 'scales', 'log_cholesky' or a module")
    if isinstance(dynamics, RobotDynamics):
        return BodyScales(dynamics) if kind == "scales" else LogCholesky(dynamics)
    return FreeParameters(getattr(dynamics, "parameters", None))
