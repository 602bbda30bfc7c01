from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PINOCCHIO_VERSION: str

class Integrator:
    euler: Integrator
    semi_implicit: Integrator
    rk4: Integrator
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class RigidBody:
    def __init__(
        self,
        model: Any,
        *,
        dt: float,
        substeps: int,
        integrator: Integrator,
        actuated: list[int],
        threads: int,
    ) -> None: ...
    @property
    def nq(self) -> int: ...
    @property
    def nv(self) -> int: ...
    @property
    def nu(self) -> int: ...
    @property
    def n_par(self) -> int: ...
    @property
    def bodies(self) -> int: ...
    @property
    def vector_space(self) -> bool: ...
    @property
    def nominal_parameters(self) -> Array: ...
    def forward_dynamics(
        self,
        q: Array,
        v: Array,
        tau: Array,
        parameters: Array | None,
        derivatives: bool,
        by_parameters: bool,
        /,
    ) -> tuple[Array, Array, Array, Array, Array]: ...
    def forward_dynamics_adjoint(
        self,
        q: Array,
        v: Array,
        tau: Array,
        parameters: Array | None,
        g: Array,
        want_x: bool,
        want_tau: bool,
        want_parameters: bool,
        /,
    ) -> tuple[Array | None, Array | None, Array | None]: ...
    def step(
        self, x: Array, u: Array, parameters: Array | None, /, *, charts: tuple[Array, Array] | None = None
    ) -> Array: ...
    def linearize(
        self,
        x: Array,
        u: Array,
        parameters: Array | None,
        with_parameters: bool,
        /,
        *,
        charts: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array, Array, Array]: ...
    def second_order(
        self,
        x: Array,
        u: Array,
        parameters: Array | None,
        y: Array,
        /,
        *,
        charts: tuple[Array, Array] | None = None,
    ) -> Array: ...
    def linearize_adjoint(
        self,
        x: Array,
        u: Array,
        parameters: Array | None,
        g_next: Array | None,
        g_A: Array | None,
        g_B: Array | None,
        want_x: bool,
        want_u: bool,
        want_parameters: bool,
        want_now: bool,
        want_next: bool,
        /,
        *,
        charts: tuple[Array, Array] | None = None,
    ) -> tuple[Array | None, Array | None, Array | None, Array | None, Array | None]: ...
    def difference(self, reference: Array, x: Array, /) -> Array: ...
    def difference_adjoint(
        self, reference: Array, x: Array, g: Array, want_x: bool, want_reference: bool, /
    ) -> tuple[Array | None, Array | None]: ...
    def integrate(self, reference: Array, error: Array, /) -> Array: ...
    def integrate_tangent(self, reference: Array, error: Array, direction: Array, /) -> Array: ...
    def integrate_adjoint(
        self, reference: Array, error: Array, g: Array, want_error: bool, want_reference: bool, /
    ) -> tuple[Array | None, Array | None]: ...
    def on_manifold(self, x: Array, /) -> NDArray[np.bool_]: ...
    def inverse_dynamics(self, q: Array, v: Array, a: Array, parameters: Array | None, /) -> Array: ...
    def inverse_dynamics_adjoint(
        self, q: Array, v: Array, a: Array, parameters: Array | None, g: Array, want: list[bool], /
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]: ...
    def mass_matrix(self, q: Array, parameters: Array | None, /) -> Array: ...
    def mass_matrix_adjoint(
        self, q: Array, parameters: Array | None, g: Array, want_q: bool, want_parameters: bool, /
    ) -> tuple[Array | None, Array | None]: ...
    def frames(
        self, q: Array, v: Array, a: Array, frames: list[int], aligned: bool, /
    ) -> tuple[Array, Array, Array, Array]: ...
    def frames_adjoint(
        self,
        q: Array,
        v: Array,
        a: Array,
        frames: list[int],
        aligned: bool,
        position: Array | None,
        rotation: Array | None,
        velocity: Array | None,
        acceleration: Array | None,
        want: list[bool],
        /,
    ) -> tuple[Array | None, Array | None, Array | None]: ...
    def frame_jacobians(self, q: Array, frames: list[int], aligned: bool, /) -> Array: ...
    def frame_jacobians_adjoint(self, q: Array, frames: list[int], aligned: bool, g: Array, /) -> Array: ...
    def centroid(self, q: Array, v: Array, a: Array, parameters: Array | None, /) -> tuple[Array, Array, Array]: ...
    def centroid_adjoint(
        self,
        q: Array,
        v: Array,
        a: Array,
        parameters: Array | None,
        position: Array | None,
        momentum: Array | None,
        rate: Array | None,
        want: list[bool],
        /,
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]: ...

class Ground:
    @staticmethod
    def plane(normal: Sequence[float], height: float, /) -> Ground: ...
    @staticmethod
    def height_field(heights: Array, spacing: Sequence[float], origin: Sequence[float], /) -> Ground: ...
    def at(self, points: Array, /) -> tuple[Array, Array, Array]: ...

class ContactDynamics:
    def __init__(
        self,
        *,
        model: Any,
        dt: float,
        actuated: Sequence[int],
        threads: int,
        balls: Sequence[tuple[int, float, Sequence[float]]],
        pairs: Sequence[Sequence[tuple[Any, ...]]],
        ground: Ground,
        directions: int,
        stiffness: float,
        damping: float,
        slip: float,
        lift: bool,
        limit_stiffness: float,
        limit_damping: float,
        limited: Sequence[int],
        dry: Sequence[int],
        substeps: int,
        solver: Any,
    ) -> None: ...
    @property
    def rows(self) -> int: ...
    def run(
        self,
        x: Array,
        u: Array,
        parameters: Array | None,
        friction: Array,
        dry_friction: Array,
        keep: bool,
        contacts: bool,
        /,
    ) -> tuple[Array, tuple[Any, ...], tuple[Any, ...], NDArray[np.int64], int]: ...
    def adjoint(
        self,
        x: Array,
        u: Array,
        parameters: Array | None,
        friction: Array,
        dry_friction: Array,
        path: tuple[Array, Array, Array],
        status: NDArray[np.int64],
        g: Array,
        want: list[bool],
        /,
    ) -> tuple[tuple[Array | None, ...], float]: ...

class InverseDynamicsLoop:
    """A controller's ticks for one robot; `solver` is what `_solver.dense_qps` returns."""

    def __init__(
        self, whole_body: WholeBody, solver: object, shift_weights: Array, torque_shift_weight: float
    ) -> None: ...
    def tick(
        self, q: Array, v: Array, numbers: Array, parameters: Array | None, /
    ) -> tuple[Array, Array, Array, int, int]:
        """Torques, x, shifts of the rows, status and iterations."""
        ...
    def reset(self) -> None: ...

class WholeBody:
    def __init__(
        self,
        *,
        model: Any,
        actuated: list[int],
        threads: int,
        numbers: int,
        terms: list[dict[str, Any]],
        supports: list[dict[str, Any]],
        bounds: list[dict[str, Any]],
        barriers: list[dict[str, Any]],
        torque_lower: int,
        torque_upper: int,
    ) -> None: ...
    def problem(self, q: Array, v: Array, numbers: Array, parameters: Array | None, /) -> list[Array]: ...
    def residuals(
        self, q: Array, v: Array, numbers: Array, parameters: Array | None, x: Array, /
    ) -> tuple[Array, Array]: ...
    def adjoint(
        self,
        q: Array,
        v: Array,
        numbers: Array,
        parameters: Array | None,
        by: list[Array | None],
        want: list[bool],
        /,
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]: ...
