"""Products of an optimal-control QP's KKT matrix (kkt_system.hpp) and of changes of it, stage by stage, in torch.

A vector is (B, count, .): the point x, u, y, z, z_N, w_x, w_u, the slacks, and, in the shapes of the point, (eta, pi,
s) of the first level of a shifted solution, s times the weight of its row. Arguments are shared, per stage, or per
element and stage, as in problem.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch

from qp_control.ocp.problem import OCP_NAMES, OcpSizes, base_rank

Optional = torch.Tensor | None
Data = dict[str, Optional]


class Vector(NamedTuple):
    """The parts of a vector, each (B, count, stages, .), for the last stage's rows (B, count, .)."""

    x: torch.Tensor
    u: torch.Tensor
    y: torch.Tensor
    z: torch.Tensor
    z_N: torch.Tensor
    w_x: torch.Tensor
    w_u: torch.Tensor
    slack_lower: torch.Tensor
    slack_upper: torch.Tensor
    slack_lower_N: torch.Tensor
    slack_upper_N: torch.Tensor
    eta_x: torch.Tensor
    eta_u: torch.Tensor
    pi: torch.Tensor
    s: torch.Tensor
    s_N: torch.Tensor
    s_x: torch.Tensor
    s_u: torch.Tensor

    @classmethod
    def split(cls, packed: torch.Tensor, sizes: OcpSizes) -> Vector:
        point = list(sizes.point_shapes.values())
        shapes = [*point, *sizes.slack_shapes, *point]
        parts = torch.split(packed, [prod(shape) for shape in shapes], -1)
        return cls(*(_unflatten(part, shape) for part, shape in zip(parts, shapes, strict=True)))

    def packed(self) -> torch.Tensor:
        return torch.cat([part.flatten(2) for part in self], -1)

    @property
    def of_rows(self) -> tuple[torch.Tensor, ...]:
        return self.z, self.z_N, self.w_x, self.w_u

    @property
    def shifts(self) -> tuple[torch.Tensor, ...]:
        return self.s, self.s_N, self.s_x, self.s_u

    def of_cost(self) -> Vector:
        """The parts that enter the cost: x, u and the slacks; zeros elsewhere."""
        return self.zeros()._replace(**{name: getattr(self, name) for name in COST})

    def zeros(self) -> Vector:
        return Vector(*(torch.zeros_like(part) for part in self))

    def plus(self, other: Vector) -> Vector:
        return Vector(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: torch.Tensor | float) -> Vector:
        """factor: a number, or one per element (B, 1)."""

        def like(part: torch.Tensor) -> Any:
            return factor if isinstance(factor, float) else factor.reshape(-1, *[1] * (part.dim() - 1))

        return Vector(*(like(part) * part for part in self))

    def dot(self, other: Vector) -> torch.Tensor:
        """(B, count)"""
        return (self.packed() * other.packed()).sum(-1)


class Roles(NamedTuple):
    """Roles of the rows' bounds, each a tuple for z, z_N, w_x, w_u in the shapes of `Vector`."""

    lower: tuple[torch.Tensor, ...]
    """The share of the lower bound in the one that takes part: 1, 1/2 for rows shifted on both sides, or 0."""
    upper: tuple[torch.Tensor, ...]
    shifted: tuple[torch.Tensor, ...]
    """1 for shifted rows, 1/2 if they are shifted on both sides, otherwise 0."""

    @classmethod
    def split(cls, packed: torch.Tensor, sizes: OcpSizes) -> Roles:
        shapes = list(sizes.point_shapes.values())[3:]
        parts = torch.split(packed, [prod(shape) for shape in shapes], -1)
        fields = [_unflatten(part, shape) for part, shape in zip(parts, shapes, strict=True)]
        return cls(*(tuple(field.narrow(1, k, 1) for field in fields) for k in range(3)))


COST = ("x", "u", "slack_lower", "slack_upper", "slack_lower_N", "slack_upper_N")
SHIFT_PARTS = ("s", "s_N", "s_x", "s_u")
BOUNDS = (("lower", "upper"), ("lower_N", "upper_N"), ("x_lower", "x_upper"), ("u_lower", "u_upper"))


def _unflatten(part: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return part.reshape(*part.shape[:-1], *shape)


def _full(name: str, value: torch.Tensor) -> torch.Tensor:
    """With a batch axis and a stage axis, of length one if there was none."""
    while value.dim() < base_rank(name) + 2:
        value = value.unsqueeze(0)
    return value


def _stages(name: str, value: Optional, first: int, count: int) -> Optional:
    """Stages first .. first + count - 1; a single one that stands for all is returned as it is."""
    if value is None:
        return None
    value = _full(name, value)
    return value if value.shape[1] == 1 else value.narrow(1, first, count)


def _of_last(data: Data, has_own: bool, name: str, N: int) -> Optional:
    """Q or q of the last stage."""
    return data[name + "_N"] if has_own else _stages(name, data[name], N, 1)


def _times(M: Optional, x: torch.Tensor, transposed: bool = False) -> Any:
    """M_k x_k, stage by stage; 0 without M."""
    return 0.0 if M is None else torch.einsum("bnij,bkni->bknj" if transposed else "bnij,bknj->bkni", M, x)


def _symmetric(M: Optional) -> Optional:
    return None if M is None else 0.5 * (M + M.mT)


def soft_rows(data: Data, sizes: OcpSizes) -> tuple[Optional, Optional]:
    """Which rows of the stages and of the last one are soft; None if all are hard."""

    def of(end: str, rank: int) -> Optional:
        given = [data[f"slack_{kind}{end}"] for kind in ("linear", "quadratic")]
        finite = [_full(f"slack_linear{end}", t).isfinite() for t in given if t is not None]
        if not finite:
            return None
        soft = finite[0] if len(finite) == 1 else finite[0] & finite[1]
        return soft.unsqueeze(1) if rank == 2 else soft.squeeze(1).unsqueeze(1)

    return of("", 2), of("_N", 1)


class StageSystem:
    """Products of changes of the data with vectors, and their transposes, at given data."""

    def __init__(self, sizes: OcpSizes, data: Data) -> None:
        self.sizes, self.data = sizes, data
        self.soft, self.soft_N = soft_rows(data, sizes)
        self.own_Q, self.own_q = data["Q_N"] is not None, data["q_N"] is not None

    def _weight(self, name: str, value: Optional) -> Any:
        """A weight of slacks in their shape; 0 for hard rows, or if it is absent."""
        end = name.endswith("_N")
        soft = self.soft_N if end else self.soft
        if value is None or soft is None:
            return 0.0
        value = _full(name, value)
        return torch.where(soft, value.unsqueeze(1) if not end else value, 0.0)

    def _cost(self, data: Data, v: Vector) -> dict[str, torch.Tensor]:
        N = self.sizes.horizon
        x, last, u = v.x[:, :, :N], v.x[:, :, N:], v.u
        Q, R, S = (_stages(name, data[name], 0, N) for name in ("Q", "R", "S"))
        Q_N = _of_last(data, self.own_Q, "Q", N)
        at_last = _symmetric(None if Q_N is None else _full("Q_N", Q_N))
        of_x = [torch.zeros_like(x) + _times(_symmetric(Q), x) + _times(S, u, True)]
        of_x.append(torch.zeros_like(last) + _times(at_last, last))
        weight, weight_N = (self._weight(n, data[n]) for n in ("slack_quadratic", "slack_quadratic_N"))
        return {
            "x": torch.cat(of_x, 2),
            "u": torch.zeros_like(u) + _times(_symmetric(R), u) + _times(S, x),
            "slack_lower": v.slack_lower * weight,
            "slack_upper": v.slack_upper * weight,
            "slack_lower_N": v.slack_lower_N * weight_N,
            "slack_upper_N": v.slack_upper_N * weight_N,
        }

    def _slope(self, data: Data, v: Vector) -> dict[str, torch.Tensor]:
        N = self.sizes.horizon
        last = _of_last(data, self.own_q, "q", N)
        q, r = _stages("q", data["q"], 0, N), _stages("r", data["r"], 0, N)
        of_x = [torch.zeros_like(v.x[:, :, :N]) + (0.0 if q is None else q.unsqueeze(1))]
        of_x.append(torch.zeros_like(v.x[:, :, N:]) + (0.0 if last is None else _full("q_N", last).unsqueeze(1)))
        weight, weight_N = (self._weight(n, data[n]) for n in ("slack_linear", "slack_linear_N"))
        return {
            "x": torch.cat(of_x, 2),
            "u": torch.zeros_like(v.u) + (0.0 if r is None else r.unsqueeze(1)),
            "slack_lower": torch.zeros_like(v.slack_lower) + weight,
            "slack_upper": torch.zeros_like(v.slack_upper) + weight,
            "slack_lower_N": torch.zeros_like(v.slack_lower_N) + weight_N,
            "slack_upper_N": torch.zeros_like(v.slack_upper_N) + weight_N,
        }

    def cost_product(self, change: Data, v: Vector) -> Vector:
        """dH v of the cost's Hessian."""
        return v.zeros()._replace(**self._cost(change, v))

    def cost_slope(self, change: Data, v: Vector) -> Vector:
        """dg of the cost, in the shape of v."""
        return v.zeros()._replace(**self._slope(change, v))

    def product(self, change: Data, v: Vector) -> Vector:
        """dK v for changes of the matrices (None: no change)."""
        N = self.sizes.horizon
        out = self.cost_product(change, v)
        A, B, C, D = (_stages(name, change[name], 0, N) for name in ("A", "B", "C", "D"))
        C_N = None if change["C_N"] is None else _full("C_N", change["C_N"])

        def rows(x: Any, u: Any, y: Any, z: Any, z_N: Any) -> tuple[torch.Tensor, ...]:
            """The products with x, u, y, z, z_N."""
            inner, last = x[:, :, :N], x[:, :, N:]
            of_x = torch.zeros_like(inner) + _times(A, y[:, :, 1:], True) + _times(C, z, True)
            of_last = torch.zeros_like(last) + _times(C_N, z_N.unsqueeze(2), True)
            of_u = torch.zeros_like(u) + _times(B, y[:, :, 1:], True) + _times(D, z, True)
            gap = torch.zeros_like(inner) + _times(A, inner) + _times(B, u)
            of_y = torch.cat([torch.zeros_like(y[:, :, :1]), gap], 2)
            of_z = torch.zeros_like(z) + _times(C, inner) + _times(D, u)
            of_z_N = torch.zeros_like(z_N.unsqueeze(2)) + _times(C_N, last)
            return torch.cat([of_x, of_last], 2), of_u, of_y, of_z, of_z_N.squeeze(2)

        of_x, of_u, y, z, z_N = rows(v.x, v.u, v.y, v.z, v.z_N)
        eta_x, eta_u, pi, s, s_N = rows(v.eta_x, v.eta_u, v.pi, v.s, v.s_N)
        return out._replace(
            x=out.x + of_x, u=out.u + of_u, y=y, z=z, z_N=z_N, eta_x=eta_x, eta_u=eta_u, pi=pi, s=s, s_N=s_N
        )

    def residual_change(self, change: Data, v: Vector, roles: Roles) -> Vector:
        """dF for a change of the data, F the conditions at a solution."""
        out = self.product(change, v).plus(self.cost_slope(change, v))
        bounds = self.bound_changes(change, v)
        z, z_N, w_x, w_u = (
            row - low * lower - up * upper
            for row, low, up, (lower, upper) in zip(out.of_rows, roles.lower, roles.upper, bounds, strict=True)
        )
        N, y = self.sizes.horizon, [out.y[:, :, :1], out.y[:, :, 1:]]
        for k, name in enumerate(("x0", "c")):
            value = change[name]
            if value is not None:
                stages = _stages(name, value, 0, N)
                assert stages is not None
                y[k] = y[k] + stages.unsqueeze(1)
        return out._replace(y=torch.cat(y, 2), z=z, z_N=z_N, w_x=w_x, w_u=w_u)

    def bound_changes(self, change: Data, v: Vector) -> list[tuple[Any, Any]]:
        """For z, z_N, w_x, w_u: changes of the lower and the upper bounds, 0 where nothing changes."""

        def of(name: str, row: torch.Tensor) -> Any:
            value = change[name]
            if value is None:
                return 0.0
            value = _full(name, value).unsqueeze(1)
            if name.endswith("_N"):
                return value.squeeze(2)
            missing = row.shape[2] - value.shape[2]
            if missing == 1 and value.shape[2] > 1:  # a box of the states without that of x_0
                value = torch.cat([torch.zeros_like(value[:, :, :1]), value], 2)
            return value

        return [(of(a, row), of(b, row)) for (a, b), row in zip(BOUNDS, v.of_rows, strict=True)]

    def cost_gradients(self, a: Vector, b: Vector) -> Data:
        """Gradients of a'H b with respect to the data, H symmetric."""
        N = self.sizes.horizon
        Q, Q_N = self._halves("Q", a.x, b.x, self.own_Q)
        out: Data = {
            "Q": Q,
            "Q_N": Q_N,
            "R": self._outer("R", (0.5, a.u, b.u), (0.5, b.u, a.u)),
            "S": self._outer("S", (1.0, a.u, b.x[:, :, :N]), (1.0, b.u, a.x[:, :, :N])),
        }
        for end in ("", "_N"):
            pairs = (
                (getattr(a, f"slack_{side}{end}"), getattr(b, f"slack_{side}{end}")) for side in ("lower", "upper")
            )
            out[f"slack_quadratic{end}"] = self._of_weight(f"slack_quadratic{end}", sum(x * y for x, y in pairs))
        return out

    def _halves(self, name: str, a: torch.Tensor, b: torch.Tensor, own: bool) -> tuple[Optional, Optional]:
        """Of Q and Q_N."""
        N = self.sizes.horizon
        if not own:
            return self._outer(name, (0.5, a, b), (0.5, b, a)), None
        inner, inner_b, last, last_b = a[:, :, :N], b[:, :, :N], a[:, :, N:], b[:, :, N:]
        return (
            self._outer(name, (0.5, inner, inner_b), (0.5, inner_b, inner)),
            self._outer(name + "_N", (0.5, last, last_b), (0.5, last_b, last)),
        )

    def gradients(self, a: Vector, b: Vector) -> Data:
        """Gradients of a'K b with respect to the data that K contains."""
        N = self.sizes.horizon
        out = self.cost_gradients(a, b)

        def pairs(rows: str, level: str, x: str, eta: str, first: int = 0) -> list[tuple[float, Any, Any]]:
            found = []
            for p, q in ((a, b), (b, a)):
                for left, right in ((rows, x), (level, eta)):
                    row, unknown = getattr(p, left), getattr(q, right)
                    found.append((1.0, row[:, :, first:], unknown[:, :, :N]))
            return found

        out["A"] = self._outer("A", *pairs("y", "pi", "x", "eta_x", 1))
        out["B"] = self._outer("B", *pairs("y", "pi", "u", "eta_u", 1))
        out["C"] = self._outer("C", *pairs("z", "s", "x", "eta_x"))
        out["D"] = self._outer("D", *pairs("z", "s", "u", "eta_u"))
        last = [
            (1.0, left.unsqueeze(2), right[:, :, N:])
            for p, q in ((a, b), (b, a))
            for left, right in ((p.z_N, q.x), (p.s_N, q.eta_x))
        ]
        out["C_N"] = self._outer("C_N", *last)
        return out

    def slope_gradients(self, v: Vector) -> Data:
        """Gradients of g'v, where g is that of the cost."""
        N = self.sizes.horizon
        out: Data = {
            "q": self._sum("q", v.x[:, :, :N] if self.own_q else v.x),
            "q_N": self._sum("q_N", v.x[:, :, N:]),
            "r": self._sum("r", v.u),
        }
        for end in ("", "_N"):
            name = f"slack_linear{end}"
            out[name] = self._of_weight(name, getattr(v, f"slack_lower{end}") + getattr(v, f"slack_upper{end}"))
        return out

    def constant_gradients(self, v: Vector, roles: Roles) -> Data:
        """Gradients of v'F with respect to the constants of the dynamics and the bounds."""
        out: Data = {"x0": self._sum("x0", v.y[:, :, :1]), "c": self._sum("c", v.y[:, :, 1:])}
        for side, parts in enumerate((roles.lower, roles.upper)):
            for names, part, row in zip(BOUNDS, parts, v.of_rows, strict=True):
                out[names[side]] = self.bound_gradient(names[side], -part * row)
        return out

    def bound_gradient(self, name: str, full: torch.Tensor) -> Optional:
        return self._sum(name, full.unsqueeze(2) if name.endswith("_N") else full)

    def _of_weight(self, name: str, full: Any) -> Optional:
        soft = self.soft_N if name.endswith("_N") else self.soft
        if soft is None or self.data[name] is None:
            return None
        return self.bound_gradient(name, torch.where(soft, full, 0.0))

    def _sum(self, name: str, full: torch.Tensor) -> Optional:
        """(B, count, stages, .) in the shape of the argument."""
        given = self.data[name]
        if given is None:
            return None
        elements, stages, *_ = _full(name, given).shape
        full = full.sum(1)
        if stages > full.shape[1]:  # of a last stage that does not count
            full = torch.cat([full, torch.zeros_like(full[:, :1])], 1)
        elif 1 < stages < full.shape[1]:  # without x_0
            full = full[:, 1:]
        if elements < full.shape[0]:
            full = full.sum(0, keepdim=True)
        if stages < full.shape[1]:
            full = full.sum(1, keepdim=True)
        return full.reshape(given.shape)

    def _outer(self, name: str, *terms: tuple[float, torch.Tensor, torch.Tensor]) -> Optional:
        """The sum of outer products, in the shape of the argument."""
        given = self.data[name]
        if given is None:
            return None
        elements, stages, *_ = _full(name, given).shape
        batch, _, covered, _ = terms[0][1].shape
        kept = ("b" if elements == batch else "") + ("n" if stages > 1 else "")
        total = sum(factor * torch.einsum(f"bkni,bknj->{kept}ij", a, b) for factor, a, b in terms)
        assert isinstance(total, torch.Tensor)
        if stages > max(covered, 1):
            total = torch.cat([total, torch.zeros_like(total.narrow(-3, 0, 1))], -3)
        return total.reshape(given.shape)


def named(data: Sequence[Optional]) -> Data:
    return dict(zip(OCP_NAMES, data, strict=True))
