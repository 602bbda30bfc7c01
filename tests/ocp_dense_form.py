"""An optimal-control QP as a dense QP in all its states and inputs, in torch operations.

The unknowns are (x_0, .., x_N, u_0, .., u_{N-1}) and, of rows that may be soft, the lower slacks, then the upper ones;
hard rows among them leave out their slacks, which are zero with a cost of their own. The dynamics are equalities that
are never shifted. Through it the dense layer says what derivatives of the structured one have to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qp_control.ocp.problem import OCP_NAMES, WEIGHTS, OcpSizes, base_rank
from qp_control.qp.problem import NAMES, Sizes

Optional = torch.Tensor | None
_Index = npt.NDArray[np.int64]
# Numbers that stand in front of the data's; what is absent points at them.
_CONSTANTS = (0.0, -1.0, -float("inf"), float("inf"))
_ZERO, _MINUS_ONE, _MINUS_INFINITY, _INFINITY = range(4)


class DenseForm:
    """Where every entry of the dense problem comes from.

    Args:
        sizes: of the problem.
        stages: of each argument: entries along its axis of stages (1: it stands for all); None: absent.
    """

    def __init__(self, sizes: OcpSizes, stages: tuple[int | None, ...]) -> None:
        self.ocp = sizes
        N, nx, nu = sizes.horizon, sizes.nx, sizes.nu
        self._stages = dict(zip(OCP_NAMES, stages, strict=True))
        self._start: dict[str, int] = {}
        position = len(_CONSTANTS)
        shapes = {name: sizes.one(name) for name in OCP_NAMES}
        for name, count in self._stages.items():
            if count is not None and name not in WEIGHTS:
                self._start[name] = position
                position += count * int(np.prod(shapes[name]))
        free = self._stages["x0"] is None
        n_in = N * sizes.rows + sizes.terminal_rows
        self._soft_stages, self._soft_end = (
            any(self._stages[f"slack_{kind}{end}"] is not None for kind in ("linear", "quadratic"))
            for end in ("", "_N")
        )
        may_be_soft = np.repeat([self._soft_stages, self._soft_end], [N * sizes.rows, sizes.terminal_rows])
        soft = np.flatnonzero(may_be_soft)
        self._soft = torch.from_numpy(soft)
        n, n_eq = (N + 1) * nx + N * nu + 2 * len(soft), (N if free else N + 1) * nx
        self.sizes = Sizes(sizes.batch, n, n_eq, n_in, sizes.batched)
        x = [slice(k * nx, (k + 1) * nx) for k in range(N + 1)]
        u = [slice((N + 1) * nx + k * nu, (N + 1) * nx + (k + 1) * nu) for k in range(N)]
        H, A, C = (np.full((rows, n), _ZERO) for rows in (n, n_eq, n_in))
        g, b = np.full(n, _ZERO), np.full(n_eq, _ZERO)
        l, up = np.full(n_in, _MINUS_INFINITY), np.full(n_in, _INFINITY)
        lb, ub = np.full(n, _MINUS_INFINITY), np.full(n, _INFINITY)

        def put(target: _Index, where: Any, name: str, k: int, transposed: bool = False) -> None:
            if name in self._start:
                block = self._block(name, k, shapes[name])
                target[where] = block.T if transposed else block

        def diagonal(rows: slice, columns: slice) -> None:
            np.fill_diagonal(A[rows, columns], _MINUS_ONE)

        for k in range(N + 1):
            end = k == N
            put(H, (x[k], x[k]), "Q_N" if end and "Q_N" in self._start else "Q", k)
            put(g, x[k], "q_N" if end and "q_N" in self._start else "q", k)
            if k > 0 or free:
                put(lb, x[k], "x_lower", k)
                put(ub, x[k], "x_upper", k)
            row = k if not free else k - 1
            if row >= 0:
                diagonal(slice(row * nx, (row + 1) * nx), x[k])
            if end:
                terminal = slice(N * sizes.rows, n_in)
                put(C, (terminal, x[k]), "C_N", k)
                put(l, terminal, "lower_N", k)
                put(up, terminal, "upper_N", k)
                break
            put(H, (u[k], u[k]), "R", k)
            put(H, (u[k], x[k]), "S", k)
            put(H, (x[k], u[k]), "S", k, transposed=True)
            put(g, u[k], "r", k)
            put(lb, u[k], "u_lower", k)
            put(ub, u[k], "u_upper", k)
            step = slice((row + 1) * nx, (row + 2) * nx)
            put(A, (step, x[k]), "A", k)
            put(A, (step, u[k]), "B", k)
            put(b, step, "c", k)
            rows = slice(k * sizes.rows, (k + 1) * sizes.rows)
            put(C, (rows, x[k]), "C", k)
            put(C, (rows, u[k]), "D", k)
            put(l, rows, "lower", k)
            put(up, rows, "upper", k)
        if not free:
            put(b, slice(0, nx), "x0", 0)
        # Behind the data: weights, signs in the rows, and lower bounds.
        linear, quadratic, sign, minus_sign, floor = position + np.arange(5 * len(soft)).reshape(5, -1)
        for first, signs in ((n - 2 * len(soft), sign), (n - len(soft), minus_sign)):
            slacks = first + np.arange(len(soft))
            H[slacks, slacks], g[slacks], lb[slacks] = quadratic, linear, floor
            C[soft, slacks] = signs
        present: dict[str, _Index | None] = {
            "H": H,
            "g": g,
            "A": A,
            "b": b,
            "C": C,
            "l": l,
            "u": up,
            "lb": lb,
            "ub": ub,
        }
        if n_in == 0:
            present |= dict.fromkeys(("C", "l", "u"))
        self._index = {
            name: None if index is None else torch.from_numpy(np.ascontiguousarray(index))
            for name, index in present.items()
        }
        self._free = free

    def _block(self, name: str, k: int, shape: tuple[int, ...]) -> _Index:
        count, size = self._stages[name], int(np.prod(shape))
        assert count is not None
        stage = 0 if count == 1 else k
        if name in ("x_lower", "x_upper") and count == self.ocp.horizon != 1:
            stage = k - 1
        return self._start[name] + stage * size + np.arange(size).reshape(shape)

    def assemble(self, inputs: Sequence[Optional]) -> list[Optional]:
        """The dense arguments H .. ub and the shift weights, with the axis of elements if there is one."""
        lead = (self.ocp.batch,) if self.ocp.batched else ()
        like = next(t for t in inputs if t is not None)
        parts = [like.new_tensor(_CONSTANTS).expand(*lead, -1)]
        for name, value in zip(OCP_NAMES, inputs, strict=True):
            if value is None or name in WEIGHTS:
                continue
            per_element = value.dim() == base_rank(name) + 2
            flat = value.flatten(1) if per_element else value.flatten()
            parts.append(flat.expand(*lead, -1) if lead else flat)
        linear, quadratic, sign = self._weights(inputs)
        parts += [linear, quadratic, sign, -sign, torch.where(sign > 0, 0.0, -float("inf")).to(like.dtype)]
        numbers = torch.cat(parts, -1)
        dense = [None if index is None else numbers[..., index] for index in self._index.values()]
        b = dense[NAMES.index("b")]
        assert b is not None
        dense[NAMES.index("b")] = -b
        return [*dense, like.new_full((self.sizes.n_eq,), float("inf")), None, None]

    def _weights(self, inputs: Sequence[Optional]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Linear and quadratic weights of the slacks, and 1 where their rows are soft, 0 where they are hard."""
        lead = (self.ocp.batch,) if self.ocp.batched else ()
        like = next(t for t in inputs if t is not None)
        named = dict(zip(OCP_NAMES, inputs, strict=True))

        def of(kind: str) -> torch.Tensor:
            parts = [like.new_zeros((*lead, 0))]
            stages, ends = (self.ocp.horizon, self.ocp.rows), (1, self.ocp.terminal_rows)
            for end, here, shape in (("", self._soft_stages, stages), ("_N", self._soft_end, ends)):
                if here:
                    value = named[f"slack_{kind}{end}"]
                    full = (like.new_zeros(()) if value is None else value).expand(*lead, *shape)
                    parts.append(full.flatten(-2))
            return torch.cat(parts, -1)

        linear, quadratic = of("linear"), of("quadratic")
        hard = linear.isinf() | quadratic.isinf()
        return torch.where(hard, 0.0, linear), torch.where(hard, 1.0, quadratic), (~hard).to(like.dtype)

    def split(self, outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The 19 fields from x .. s_ub of the dense problem."""
        N, nx, nu, rows = self.ocp.horizon, self.ocp.nx, self.ocp.nu, self.ocp.rows
        v, y, z, w, _, s_lower, s_upper, s_lb, s_ub = outputs

        def primal(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            a, b = t[..., : (N + 1) * nx], t[..., (N + 1) * nx : (N + 1) * nx + N * nu]
            return a.reshape(*t.shape[:-1], N + 1, nx), b.reshape(*t.shape[:-1], N, nu)

        def stage_rows(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            a, b = torch.split(t, [N * rows, self.ocp.terminal_rows], -1)
            return a.reshape(*t.shape[:-1], N, rows), b

        def of_rows(slack: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            full = torch.zeros_like(s_lower)
            return stage_rows(full.index_copy(-1, self._soft, slack))

        costates = y.reshape(*y.shape[:-1], -1, nx)
        if self._free:
            costates = torch.cat([torch.zeros_like(costates.narrow(-2, 0, 1)), costates], -2)
        (x, u), (w_x, w_u) = primal(v), primal(w)
        (low, low_N), (high, high_N), (z, z_N) = stage_rows(s_lower), stage_rows(s_upper), stage_rows(z)
        (x_low, u_low), (x_high, u_high) = primal(s_lb), primal(s_ub)
        soft, n = len(self._soft), v.shape[-1]
        (slack_low, slack_low_N), (slack_high, slack_high_N) = (
            of_rows(v[..., n - 2 * soft : n - soft]), of_rows(v[..., n - soft :]),
        )  # fmt: skip
        return [
            x, u, costates, z, z_N, w_x, w_u, low, high, low_N, high_N, x_low, x_high, u_low, u_high,
            slack_low, slack_high, slack_low_N, slack_high_N,
        ]  # fmt: skip
