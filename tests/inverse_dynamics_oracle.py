"""The QP of a controller by inverse dynamics by torch operations: slow, and gradients come by themselves.

x = (qdd, f): accelerations (nv) and forces (3) at each point of each contact
M qdd + h - J'f = S'tau: rows of what is not driven are equalities, the others give tau = T x + t
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qp_control.inverse_dynamics import limits, tasks
from qp_control.inverse_dynamics.contacts import SupportContact

Numbers = dict[str, Tensor]


class Oracle:
    """The problem of one call: `controller`, states q (B, nq), v (B, nv), numbers by name, inertial parameters."""

    def __init__(self, controller: Any, q: Tensor, v: Tensor, numbers: Numbers, parameters: Tensor | None) -> None:
        self.controller, self.model = controller, controller.model
        self.q, self.v, self.numbers, self.parameters = q, v, numbers, parameters
        self.batch, self.nv, self.n = len(q), self.model.nv, controller.n
        frames = used_frames(controller)
        found = self.model.frame_motions(frames, q, v)
        J = self.model.frame_jacobians(frames, q)
        self.frames = {
            name: (found.position[:, k], found.rotation[:, k], found.velocity[:, k], found.acceleration[:, k], J[:, k])
            for k, name in enumerate(frames)
        }

    def of(self, part: Any) -> Numbers:
        return {key: self.numbers[f"{part.name}.{key}"] for key in part.sizes}

    def zeros(self, *shape: int) -> Tensor:
        return self.q.new_zeros(self.batch, *shape)

    def wide(self, J: Tensor, first: int = 0) -> Tensor:
        """Rows (B, m, .) as rows of all of x."""
        m = J.shape[1]
        return torch.cat([self.zeros(m, first), J, self.zeros(m, self.n - first - J.shape[2])], 2)

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """D (B, nv, n), d (B, nv): generalized forces of the drives D x + d."""
        h = self.model.inverse_dynamics(self.q, self.v, self.zeros(self.nv), self.parameters)
        blocks = [self.model.mass_matrix(self.q, self.parameters)]
        for contact in self.controller.contacts:
            _, R, _, _, J = self.frames[contact.frame]
            for point in torch.from_numpy(contact.points):
                r = R @ point
                blocks.append(-(J[:, :3] - skew(r) @ J[:, 3:]).mT)
        return torch.cat(blocks, 2), h

    def frame_rows(self, part: Any, frame: str, base: str, own_axes: bool) -> tuple[Tensor, Tensor]:
        """J (B, rows, nv) and drift - a* (B, rows)."""
        k = self.of(part)
        p_a, R_a, v_a, a_a, J_a = self.frames[base]
        p_b, R, v_b, a_b, J_b = self.frames[frame]
        back = R_a.mT
        r, w_a = p_b - p_a, v_a[:, 3:]
        dr, dw = v_b[:, :3] - v_a[:, :3], v_b[:, 3:] - w_a
        R_ab = back @ R
        linear = turn(back, dr - cross(w_a, r))
        angular = turn(back, dw)
        a_linear = a_b[:, :3] - a_a[:, :3] - cross(a_a[:, 3:], r) - 2.0 * cross(w_a, dr) + cross(w_a, cross(w_a, r))
        a_angular = a_b[:, 3:] - a_a[:, 3:] - cross(w_a, dw)
        J_linear = back @ (J_b[:, :3] - J_a[:, :3] + skew(r) @ J_a[:, 3:])
        J_angular = back @ (J_b[:, 3:] - J_a[:, 3:])

        reference = k["reference"]
        blocks = []
        if part.has_position:
            error = reference[..., :3] - turn(back, r)
            blocks.append((error, linear, turn(back, a_linear), J_linear))
        if part.has_orientation:
            # The same rotation vector in the axes of the base, in which R_ab leaves it where it is.
            error = turn(R_ab, rotation_vector(R_ab.mT @ rotation(reference[..., -4:])))
            blocks.append((error, angular, turn(back, a_angular), J_angular))
        error, velocity, drift, J = (torch.cat(column, 1) for column in zip(*blocks, strict=True))
        missing = k["velocity"] - velocity if "velocity" in k else -velocity
        drift = drift - k["acceleration"] if "acceleration" in k else drift
        if own_axes:

            def own(t: Tensor) -> Tensor:
                return torch.cat([R_ab.mT @ block for block in t.split(3, 1)], 1)

            error, missing, drift = (own(t.unsqueeze(2)).squeeze(2) for t in (error, missing, drift))
            J = own(J)
        error, missing, drift, J = (t[:, part.rows] for t in (error, missing, drift, J))
        return J, drift - k["stiffness"] * error - k["damping"] * missing

    def momentum_matrix(self) -> Tensor:
        """A (B, 6, nv) with momentum = A v."""
        columns = []
        for i in range(self.nv):
            unit = self.zeros(self.nv)
            unit[:, i] = 1.0
            columns.append(self.model.centroid(self.q, unit, None, self.parameters).momentum)
        return torch.stack(columns, 2)

    def task_rows(self, task: tasks.Task) -> tuple[Tensor, Tensor]:
        """J (B, rows, n) and c (B, rows): the residual of the task is J x + c."""
        k, rows = self.of(task), task.rows
        if isinstance(task, tasks.FrameTask):
            J, c = self.frame_rows(task, task.frame, task.base, task.own_axes)
            return self.wide(J), c
        if isinstance(task, (tasks.CenterOfMassTask, tasks.AngularMomentumTask)):
            now = self.model.centroid(self.q, self.v, None, self.parameters)
            A = self.momentum_matrix()
            if isinstance(task, tasks.AngularMomentumTask):
                wanted = k["rate"][..., rows] + k["damping"] * (k["reference"] - now.momentum[:, 3:])[:, rows]
                return self.wide(A[:, 3:][:, rows]), now.rate[:, 3:][:, rows] - wanted
            mass = self.mass()
            velocity, drift = now.momentum[:, :3] / mass, now.rate[:, :3] / mass
            c = self.tracking(k, rows, k["reference"] - now.position, velocity, drift)
            return self.wide(A[:, :3][:, rows] / mass.unsqueeze(-1)), c
        if isinstance(task, tasks.PostureTask):
            still = self.zeros(self.nv)
            states = [torch.cat([t.expand(self.batch, -1), still], 1) for t in (k["reference"], self.q)]
            error = -self.model.difference(*states)[:, : self.nv]
            J = torch.eye(self.nv, dtype=self.q.dtype)[rows].expand(self.batch, -1, -1)
            return self.wide(J), self.tracking(k, rows, error, self.v, still)
        if isinstance(task, tasks.TorqueRegularization):
            D, d = self.dynamics()
            driven = self.model._indices
            return D[:, driven], d[:, driven] - k["reference"]
        if isinstance(task, tasks.ContactForceTask):
            first, points = self.controller.force_offsets[task.contact]
            J = torch.eye(3, dtype=self.q.dtype).repeat(1, points).expand(self.batch, -1, -1)
        else:
            size = len(rows)
            first = self.nv if isinstance(task, tasks.ForceRegularization) else 0
            J = torch.eye(size, dtype=self.q.dtype).expand(self.batch, -1, -1)
        return self.wide(J, first), -k["reference"].expand(self.batch, -1)

    def tracking(self, k: Numbers, rows: list[int], error: Tensor, velocity: Tensor, drift: Tensor) -> Tensor:
        """drift - a* of a task of motion."""
        missing = k["velocity"] - velocity
        c = drift - k["acceleration"]
        return c[:, rows] - k["stiffness"] * error[:, rows] - k["damping"] * missing[:, rows]

    def mass(self) -> Tensor:
        """(B, 1) or (1,)."""
        bodies = self.model.parameters if self.parameters is None else self.parameters
        return bodies[..., : 10 * self.model.bodies : 10].sum(-1, keepdim=True)

    def contact_rows(self, contact: SupportContact) -> tuple[Tensor, Tensor]:
        J, c = self.frame_rows(contact, contact.frame, "universe", False)
        return self.wide(J), c

    def force_rows(self, contact: SupportContact) -> tuple[Tensor, Tensor, Tensor]:
        """C, l, u of a contact's friction and normal force."""
        k = self.of(contact)
        first, points = self.controller.force_offsets[contact.name]
        normal, directions = torch.from_numpy(contact.normal), torch.from_numpy(contact.directions())
        mu = k["friction"] * torch.cos(torch.tensor(torch.pi / contact.facets, dtype=torch.float64))
        facets = (directions - mu.unsqueeze(-1) * normal).expand(self.batch, -1, -1)
        rows = [self.wide(facets, first + 3 * p) for p in range(points)]
        total = normal.repeat(points).expand(self.batch, 1, -1)
        none = self.zeros(points * contact.facets)
        bounds = [(k["activation"] * k[key]).expand(self.batch, 1) for key in ("min_force", "max_force")]
        C = torch.cat([*rows, self.wide(total, first)], 1)
        return C, torch.cat([none - torch.inf, bounds[0]], 1), torch.cat([none, bounds[1]], 1)

    def barrier_rows(self, barrier: limits.Barrier) -> tuple[Tensor, Tensor]:
        """C (B, 1, n) and l (B, 1)."""
        k = self.of(barrier)
        p_a, _, v_a, a_a, J_a = self.frames[barrier.other]
        p_b, _, v_b, a_b, J_b = self.frames[barrier.frame]
        r, dr, ddr, J = p_b - p_a, (v_b - v_a)[:, :3], (a_b - a_a)[:, :3], (J_b - J_a)[:, :3]
        if isinstance(barrier, limits.PlaneBarrier):
            along = torch.from_numpy(barrier.normal).expand(self.batch, -1)
            h, curvature = (along * r).sum(1, keepdim=True), 0.0
        else:
            r = r - k["centre"] if isinstance(barrier, limits.SphereBarrier) else r
            h = (r.square().sum(1, keepdim=True) + _TINY).sqrt()
            along = r / h
            curvature = (dr.square().sum(1, keepdim=True) - (along * dr).sum(1, keepdim=True).square()) / h
        dh = (along * dr).sum(1, keepdim=True)
        drift = (along * ddr).sum(1, keepdim=True) + curvature
        l = -drift - k["damping"] * dh - k["stiffness"] * (h - k["distance"])
        return self.wide(along.unsqueeze(1) @ J), l

    def problem(self) -> tuple[Tensor, ...]:
        """H, g, A, b, C, l, u, lb, ub, T, t."""
        controller = self.controller
        D, d = self.dynamics()
        driven = self.model._indices
        free = [i for i in range(self.model.nv) if i not in driven]
        A, b = [D[:, free]], [-d[:, free]]
        H, g = self.zeros(self.n, self.n), self.zeros(self.n)

        def add(J: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            weighted = weight.unsqueeze(-1) * J
            return H + J.mT @ weighted, g + (weighted.mT @ c.unsqueeze(-1)).squeeze(-1)

        for part in (*controller.task_list, *controller.contacts):
            is_contact = isinstance(part, SupportContact)
            J, c = self.contact_rows(part) if is_contact else self.task_rows(part)
            if part.hard:
                A.append(J)
                b.append(-c)
            else:
                k = self.of(part)
                weight = k["weight"] * k["activation"] if is_contact else k["weight"]
                H, g = add(J, c, weight)

        C, l, u = [], [], []
        lb, ub = self.zeros(self.n) - torch.inf, self.zeros(self.n) + torch.inf
        for limit in controller.limits:
            if isinstance(limit, limits.TorqueLimit):
                k = self.of(limit)
                C.append(D[:, driven])
                l.append(k["lower"] - d[:, driven])
                u.append(k["upper"] - d[:, driven])
        for contact in controller.contacts:
            for rows, value in zip((C, l, u), self.force_rows(contact), strict=True):
                rows.append(value)
        for limit in controller.limits:
            if isinstance(limit, limits.Barrier):
                row, least = self.barrier_rows(limit)
                C.append(row)
                l.append(least)
                u.append(torch.full_like(least, torch.inf))
            elif isinstance(limit, limits.JointLimit):
                index = torch.tensor(limit.v_index, dtype=torch.int64)
                low, high = bounds(limit, self.q[:, limit.q_index], self.v[:, limit.v_index], self.of(limit))
                low, high = (t.expand(self.batch, -1) for t in (low, high))
                lb = lb.index_copy(1, index, torch.maximum(lb[:, index], low))
                ub = ub.index_copy(1, index, torch.minimum(ub[:, index], high))
        if not C:
            C, l, u = [self.zeros(0, self.n)], [self.zeros(0)], [self.zeros(0)]
        rows = [torch.cat(part, 1) for part in (A, b, C, l, u)]
        return H, g, *rows, lb, ub, D[:, driven], d[:, driven]


def bounds(limit: limits.JointLimit, q: Tensor, v: Tensor, k: Numbers) -> tuple[Tensor, Tensor]:
    """Of the accelerations of joints."""
    a = k["acceleration"]
    if isinstance(limit, limits.JointAccelerationLimit):
        return -a, a
    if isinstance(limit, limits.JointVelocityLimit):
        most = k["velocity"]
        return torch.minimum((-most - v) / limit.dt, a), torch.maximum((most - v) / limit.dt, -a)

    def upper(left: Tensor, v: Tensor) -> Tensor:
        dt, half = limit.dt, 0.5 * limit.dt * v
        limited = left < 1e20
        left = torch.where(limited, left, 1.0)
        ahead = left >= half
        room = torch.where(ahead, left, half)  # where the root is not taken it must still have a derivative
        root = ((a * dt) ** 2 - 4.0 * a * dt * v + 8.0 * a * room).sqrt()
        viable = (root - 2.0 * v - a * dt) / (2.0 * dt)
        back = -v / dt + left.clamp(max=0.0) / (limit.return_time * dt)
        return torch.where(limited, torch.maximum(torch.where(ahead, viable, back), -a), torch.inf)

    return -upper(q - k["lower"], -v), upper(k["upper"] - q, v)


def used_frames(controller: Any) -> list[str]:
    used = ["universe"]
    for part in controller.parts.values():
        used += [name for name in (getattr(part, kind, None) for kind in ("frame", "base", "other")) if name]
    return list(dict.fromkeys(used))


_TINY = 1e-18  # [m^2]: the distance of points that coincide has a derivative


def cross(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.cross(a, b)


def turn(R: Tensor, a: Tensor) -> Tensor:
    return (R @ a.unsqueeze(-1)).squeeze(-1)


def skew(r: Tensor) -> Tensor:
    """S (B, 3, 3) with S a = r x a."""
    x, y, z = r.unbind(-1)
    none = torch.zeros_like(x)
    return torch.stack([none, -z, y, z, none, -x, -y, x, none], -1).unflatten(-1, (3, 3))


def rotation(quaternion: Tensor) -> Tensor:
    """R (..., 3, 3) of (x, y, z, w) of any length but zero."""
    x, y, z, w = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w), 2.0 * (x * z + y * w),
        2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - x * w),
        2.0 * (x * z - y * w), 2.0 * (y * z + x * w), 1.0 - 2.0 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def rotation_vector(R: Tensor) -> Tensor:
    """Angle [rad] times axis (..., 3), the angle below half a turn."""
    S = 0.5 * (R - R.mT)
    sine_axis = torch.stack([S[..., 2, 1], S[..., 0, 2], S[..., 1, 0]], -1)
    square = sine_axis.square().sum(-1, keepdim=True)
    cosine = 0.5 * (R.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1.0)
    small = (square < 1e-12) & (cosine > 0.0)
    sine = torch.where(small, 1.0, square).sqrt()
    # sin^-1(s) / s = 1 + s^2 / 6 + ..
    factor = torch.where(small, 1.0 + square / 6.0, torch.atan2(sine, cosine) / sine)
    return factor * sine_axis
