"""QP layers for torch behind one interface: ours and its peers, each on the form of the data that suits it best.

What can be done before a call is done in `prepare`: stacking two-sided rows as [C; -C], flattening, building a solver
object. So a timed run is the layer alone, and its gradients are taken with respect to the tensors that it was given.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from random_qps import Array, Batch

import qp_control as qc

INFINITE = 1e20  # proxsuite's


class Layer(ABC):
    """One solver with a number of threads. `leaves`: what gradients are taken of."""

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self.leaves: list[torch.Tensor] = []
        self.eps = 1e-6

    @abstractmethod
    def prepare(self, data: Batch) -> None:
        """Takes the problems, outside the timing."""

    def set_tolerance(self, eps: float) -> None:
        self.eps = eps

    @abstractmethod
    def solve(self) -> torch.Tensor:
        """x (B, n), with its graph."""

    @abstractmethod
    def point(self) -> tuple[Array, Array, Array]:
        """x, y, z of the last call of `solve`, with the signs of qp-control."""

    @abstractmethod
    def gradients(self, found: tuple[torch.Tensor | None, ...]) -> dict[str, Array]:
        """Gradients with respect to `leaves` as those with respect to H, g, A, b, C, l, u."""


def leaf(array: Array) -> torch.Tensor:
    return torch.tensor(array, requires_grad=True)


def numpy(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().double().numpy()
    return array


class Ours(Layer):
    def prepare(self, data: Batch) -> None:
        self.names = [name for name in "HgAbClu" if not (name == "l" and data.one_sided)]
        self.leaves = [leaf(getattr(data, name)) for name in self.names]
        self.arguments = dict(zip(self.names, self.leaves, strict=True))
        self.set_tolerance(self.eps)

    def set_tolerance(self, eps: float) -> None:
        self.layer = qc.QPLayer(qc.Settings(eps_abs=eps, threads=self.threads))

    def solve(self) -> torch.Tensor:
        self.out = self.layer(**self.arguments)
        x: torch.Tensor = self.out.x
        return x

    def point(self) -> tuple[Array, Array, Array]:
        return numpy(self.out.x), numpy(self.out.y), numpy(self.out.z)

    def gradients(self, found: tuple[torch.Tensor | None, ...]) -> dict[str, Array]:
        return {name: numpy(f) for name, f in zip(self.names, found, strict=True) if f is not None}


class ProxsuiteLayer(Layer):
    """proxsuite takes half of os.cpu_count() as its number of threads; here it gets the number asked for."""

    def __init__(self, name: str, threads: int) -> None:
        from proxsuite.torch.qplayer import QPFunction

        super().__init__(name, threads)
        self.function: Callable[..., Any] = QPFunction

    def prepare(self, data: Batch) -> None:
        l = np.maximum(data.l, -INFINITE)
        self.one_sided = data.one_sided
        self.leaves = [leaf(a) for a in (data.H, data.g, data.A, data.b, data.C, l, data.u)]

    def solve(self) -> torch.Tensor:
        count, os.cpu_count = os.cpu_count, lambda: 2 * self.threads
        try:
            self.out = self.function(eps=self.eps, omp_parallel=self.threads > 1)(*self.leaves)
        finally:
            os.cpu_count = count
        x: torch.Tensor = self.out[0]
        return x

    def point(self) -> tuple[Array, Array, Array]:
        x, y, z = self.out
        return numpy(x), numpy(y), numpy(z)

    def gradients(self, found: tuple[torch.Tensor | None, ...]) -> dict[str, Array]:
        named = {name: numpy(f) for name, f in zip("HgAbClu", found, strict=True) if f is not None}
        return {name: f for name, f in named.items() if f.size and not (name == "l" and self.one_sided)}


class StackedLayer(Layer):
    """Peers with rows C x <= u only: two-sided rows become [C; -C] x <= [u; -l]."""

    def stack(self, data: Batch) -> tuple[Array, Array]:
        self.one_sided, self.n_in, self.n_eq = data.one_sided, data.u.shape[1], data.b.shape[1]
        if self.one_sided:
            return data.C, data.u
        return np.concatenate([data.C, -data.C], axis=1), np.concatenate([data.u, -data.l], axis=1)

    def unstacked_multiplier(self, z: Array) -> Array:
        return z if self.one_sided else z[:, : self.n_in] - z[:, self.n_in :]

    def unstacked(self, dG: Array, dh: Array) -> dict[str, Array]:
        k = self.n_in
        if self.one_sided:
            return {"C": dG, "u": dh}
        return {"C": dG[:, :k] - dG[:, k:], "u": dh[:, :k], "l": -dh[:, k:]}


class Qpth(StackedLayer):
    """OptNet. Its check of H, a factorisation for nothing, is switched off."""

    def __init__(self, name: str, threads: int) -> None:
        from qpth.qp import QPFunction

        super().__init__(name, threads)
        self.function: Callable[..., Any] = QPFunction

    def prepare(self, data: Batch) -> None:
        G, h = self.stack(data)
        equalities = [leaf(data.A), leaf(data.b)] if self.n_eq else []
        self.leaves = [leaf(data.H), leaf(data.g), leaf(G), leaf(h), *equalities]
        none = torch.zeros(0, dtype=torch.float64)
        self.all = self.leaves if self.n_eq else [*self.leaves, none, none]

    def solve(self) -> torch.Tensor:
        x: torch.Tensor = self.function(eps=self.eps, verbose=-1, check_Q_spd=False)(*self.all)
        self.x = x
        return x

    def point(self) -> tuple[Array, Array, Array]:
        node: Any = self.x.grad_fn
        y = numpy(node.nus) if self.n_eq else np.zeros((len(self.x), 0))
        return numpy(self.x), y, self.unstacked_multiplier(numpy(node.lams))

    def gradients(self, found: tuple[torch.Tensor | None, ...]) -> dict[str, Array]:
        dH, dg, dG, dh, *rest = (numpy(f) for f in found if f is not None)
        return {"H": dH, "g": dg, **self.unstacked(dG, dh), **dict(zip("Ab", rest, strict=False))}


class Moreau(StackedLayer):
    """Two dense CSR matrices, equalities first. The number of threads is RAYON_NUM_THREADS, read once per process."""

    def __init__(self, name: str, threads: int, method: str = "active_set") -> None:
        import moreau
        import moreau.torch

        super().__init__(name, threads)
        self.moreau, self.method = moreau, method

    def prepare(self, data: Batch) -> None:
        G, h = self.stack(data)
        self.batch, self.n = data.g.shape
        self.rows = self.n_eq + G.shape[1]
        R, r = np.concatenate([data.A, G], axis=1), np.concatenate([data.b, h], axis=1)
        self.leaves = [leaf(a.reshape(self.batch, -1)) for a in (data.H, R, data.g, r)]
        self.set_tolerance(self.eps)

    def set_tolerance(self, eps: float) -> None:
        moreau = self.moreau
        options: dict[str, Any] = {"solver": self.method, "device": "cpu", "batch_size": self.batch}
        if self.method == "active_set":
            options["active_set_settings"] = moreau.ActiveSetSettings(primal_tol=eps)
        else:
            options["ipm_settings"] = moreau.IPMSettings(tol_gap_abs=eps, tol_gap_rel=eps, tol_feas=eps)
        rows, cols = self.rows, self.n

        def dense(m: int) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.arange(0, m * cols + 1, cols), torch.arange(cols).repeat(m)

        cones = moreau.Cones(num_zero_cones=self.n_eq, num_nonneg_cones=rows - self.n_eq)
        settings = moreau.Settings(enable_grad=True, **options)
        self.solver = moreau.torch.Solver(cols, rows, *dense(cols), *dense(rows), cones, settings)

    def solve(self) -> torch.Tensor:
        self.solution = self.solver.solve(*self.leaves)
        x: torch.Tensor = self.solution.x
        return x

    def point(self) -> tuple[Array, Array, Array]:
        z = numpy(self.solution.z)
        return numpy(self.solution.x), z[:, : self.n_eq], self.unstacked_multiplier(z[:, self.n_eq :])

    def gradients(self, found: tuple[torch.Tensor | None, ...]) -> dict[str, Array]:
        dH, dR, dg, dr = (numpy(f) for f in found if f is not None)
        B, n, k = self.batch, self.n, self.n_eq
        dR = dR.reshape(B, self.rows, n)
        out = {"H": dH.reshape(B, n, n), "g": dg, **self.unstacked(dR[:, k:], dr[:, k:])}
        return out | ({"A": dR[:, :k], "b": dr[:, :k]} if k else {})


def layers(threads: int, *, interior_point: bool = False) -> tuple[list[Layer], list[str]]:
    """Ours first, then the peers that are installed; and the names of those that are not."""
    found: list[Layer] = [Ours("qp-control", threads)]
    if threads > 1:
        found.append(Ours("qp-control, 1 thread", 1))
    missing: list[str] = []
    counts = sorted({1, threads})

    def try_to_add(package: str, make: Callable[[], list[Layer]]) -> None:
        try:
            found.extend(make())
        except ImportError as error:
            missing.append(f"{package} ({error})")

    try_to_add("proxsuite", lambda: [ProxsuiteLayer("QPLayer" + _with(count), count) for count in counts])
    try_to_add("qpth", lambda: [Qpth("qpth" + _with(count), count) for count in counts])
    try_to_add("moreau", lambda: [Moreau("moreau active set" + _with(threads), threads)])
    if interior_point:
        try_to_add("moreau", lambda: [Moreau("moreau interior point" + _with(threads), threads, "ipm")])
    return found, missing


def _with(threads: int) -> str:
    return f", {threads} thread{'s' if threads > 1 else ''}"
