"""The adapters for other packages' call signatures, against those packages where they are installed."""

import importlib
import math
import sys
import warnings
from pathlib import Path

import pytest
import torch

import qp_control as qc
from qp_control.compat import mpc as our_mpc
from qp_control.compat import proxsuite as our_proxsuite
from qp_control.compat import qpth as our_qpth

NONE = torch.zeros(0, dtype=torch.float64)


def original(module):
    """A module of another package; the wheel of proxsuite stands beside site-packages."""
    site = Path(torch.__file__).parents[1]
    own = site / "cmeel.prefix" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if module.startswith("proxsuite") and own.is_dir() and str(own) not in sys.path:
        sys.path.append(str(own))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module)


def random_qps(batch, n, rows, equalities, seed=0):
    """Well conditioned QPs whose origin is feasible; some rows are active."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    M = draw(batch, n, n)
    Q = M @ M.mT / n + torch.eye(n, dtype=torch.float64)
    half = 0.2 + 0.3 * draw(batch, rows).abs()
    return (
        Q,
        2.0 * draw(batch, n),
        draw(batch, rows, n),
        half,
        draw(batch, equalities, n),
        0.1 * draw(batch, equalities),
    )


def gradients(function, arguments, weights):
    leaves = [t.clone().requires_grad_() if t.numel() else t for t in arguments]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=False))
    return outputs, torch.autograd.grad(loss, [t for t in leaves if t.numel()])


def agree(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance), (one - other).abs().max()


class TestQpth:
    # qpth clamps multipliers and slacks at 1e-8 in its backward pass, which is what its gradients are good to, divided
    # by how far active rows are from being inactive.
    tolerance = 1e-5

    @pytest.mark.parametrize("equalities", [0, 2])
    def test_solutions_and_gradients_agree(self, equalities):
        theirs = original("qpth.qp").QPFunction(verbose=-1)
        Q, p, G, h, A, b = random_qps(4, 6, 5, equalities)
        data = (Q, p, G, h, A, b) if equalities else (Q, p, G, h, NONE, NONE)
        weights = torch.randn(1, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        (z,), expected = gradients(theirs, data, weights)
        (x,), found = gradients(our_qpth.QPFunction(), data, weights)
        agree([x, *found], [z, *expected], self.tolerance)
        assert bool(((G @ x.mT).diagonal(dim1=0, dim2=2).mT > h - 1e-9).any())  # some rows are active

    def test_shared_data_get_the_sum_where_qpth_takes_the_mean(self):
        theirs = original("qpth.qp").QPFunction(verbose=-1)
        Q, p, G, h, _, _ = random_qps(4, 6, 5, 0)
        data = (Q[0], p, G[0], h, NONE, NONE)
        weights = torch.ones(1, 4, 6, dtype=torch.float64)
        _, expected = gradients(theirs, data, weights)
        _, found = gradients(our_qpth.QPFunction(), data, weights)
        factor = (4.0, 1.0, 4.0, 1.0)
        agree(found, [f * t for f, t in zip(factor, expected, strict=True)], self.tolerance)

        # The sum is the derivative of the loss.
        def loss(Q):
            return our_qpth.QPFunction(check_Q_spd=False)(Q, *data[1:]).sum()

        h_, E = 1e-5, torch.eye(6, dtype=torch.float64)
        difference = (loss(Q[0] + h_ * E) - loss(Q[0] - h_ * E)) / (2 * h_)
        assert float((found[0] * E).sum()) == pytest.approx(float(difference), rel=1e-6)  # error of the difference h^2

    def test_shapes_are_qpths_without_a_batch(self):
        theirs = original("qpth.qp").QPFunction(verbose=-1)
        data = [t[0] for t in random_qps(1, 6, 5, 2)]
        agree([our_qpth.QPFunction()(*data)], [theirs(*data)], self.tolerance)

    def test_what_qpth_refuses_is_refused(self):
        Q, p, G, h, A, b = random_qps(2, 3, 2, 1)
        with pytest.raises(RuntimeError, match="SPD"):
            our_qpth.QPFunction()(0.0 * Q, p, G, h, A, b)

    def test_contradicting_rows_give_the_closest_feasible_point(self):
        G = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        x = our_qpth.QPFunction()(*torch.ones(2, 1, 1, dtype=torch.float64), G, -torch.ones(2).double(), NONE, NONE)
        assert x.tolist() == [[pytest.approx(0.0, abs=1e-9)]]  # x <= -1 and x >= 1, in the middle


class TestProxsuite:
    # rho_backward = mu_backward = 1e-6 regularise its backward pass, beside numbers of order one.
    tolerance = 1e-4

    @pytest.mark.parametrize("equalities", [0, 2])
    def test_solutions_multipliers_and_gradients_agree(self, equalities):
        theirs = original("proxsuite.torch.qplayer").QPFunction(eps=1e-10)
        Q, p, G, h, A, b = random_qps(3, 6, 5, equalities)
        data = (Q, p, A, b, G, -h, h) if equalities else (Q, p, NONE, NONE, G, -h, h)
        random = torch.Generator().manual_seed(1)
        weights = [torch.randn(3, k, dtype=torch.float64, generator=random) for k in (6, equalities)]
        default = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)  # in which it returns its gradients
            outputs, expected = gradients(theirs, data, weights)
        finally:
            torch.set_default_dtype(default)
        ours, found = gradients(our_proxsuite.QPFunction(), data, weights)
        agree(ours, outputs, 1e-6)  # its tolerance is on residuals of the scaled problem
        agree(found, expected, self.tolerance)

    def test_gradients_through_multipliers_of_rows_are_those_of_differences(self):
        """The original's are not, even of rows that are not active."""
        theirs = original("proxsuite.torch.qplayer").QPFunction(eps=1e-10)
        Q, p, G, h, _, _ = random_qps(3, 6, 5, 0)
        data, nothing = (Q, p, NONE, NONE, G, -h, h), torch.zeros(3, 6, dtype=torch.float64)
        weight = torch.ones(3, 5, dtype=torch.float64)

        def loss(G):
            return float(our_proxsuite.QPFunction()(Q, p, NONE, NONE, G, -h, h)[2].sum())

        step, direction = 1e-6, torch.ones_like(G)
        difference = (loss(G + step * direction) - loss(G - step * direction)) / (2.0 * step)
        none = torch.zeros(3, 0, dtype=torch.float64)
        _, found = gradients(our_proxsuite.QPFunction(), data, [nothing, none, weight])
        assert float((found[2] * direction).sum()) == pytest.approx(difference, rel=1e-6)  # 1e-10 / step, and step^2
        default = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)
            _, expected = gradients(theirs, data, [nothing, none, weight])
        finally:
            torch.set_default_dtype(default)
        assert abs(float((expected[2] * direction).sum()) - difference) > 0.01 * abs(difference)

    def test_closest_feasible_solutions_and_shifts_agree(self):
        theirs = original("proxsuite.torch.qplayer").QPFunction(structural_feasibility=False)
        Q, p = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
        G = torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
        l = torch.tensor([[1.6, 1.5], [1.7, 1.5]], dtype=torch.float64)
        u = torch.full((2, 2), 1.55, dtype=torch.float64)
        A, b = torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.tensor([[0.1], [0.2]], dtype=torch.float64)
        expected, found = theirs(Q, p, A, b, G, l, u), self.closest()(Q, p, A, b, G, l, u)
        assert len(found) == len(expected) == 5
        for k in (0, 3, 4):
            agree([found[k]], [expected[k]], 1e-6)
        # Multipliers grow there without limit.
        assert float(found[2].abs().max()) < 1.0 < 1e3 < float(expected[2].abs().max())

    def test_gradients_of_bounds_work_for_any_batch(self):
        """l has the gradient -1/2 per row of the paper's first example; the original raises for two elements."""
        G = torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
        l = torch.tensor([[1.65, 1.5], [1.75, 1.5]], dtype=torch.float64).requires_grad_()
        u = torch.full((2, 2), 1.55, dtype=torch.float64)
        Q, p = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
        x, _, _, _, s_i = self.closest()(Q, p, NONE, NONE, G, l, u)
        # The contradicting row ends midway, and the other one, 2 x1 + x2 <= 1.55, is active.
        (gradient,) = torch.autograd.grad((x @ G[0]).sum(), l)
        assert torch.allclose(gradient, torch.tensor([[0.5, 0.0]] * 2, dtype=torch.float64), atol=1e-9)
        assert s_i.shape == (2, 2)

    def closest(self):
        return our_proxsuite.QPFunction(structural_feasibility=False)


class Pendulum(torch.nn.Module):
    """Angle and rate, one torque; length is learned."""

    def __init__(self):
        super().__init__()
        self.length = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, u):
        angle, rate = x.unbind(-1)
        acceleration = 9.81 / self.length * angle.sin() + u[..., 0]
        return torch.stack([angle + 0.05 * rate, rate + 0.05 * acceleration], -1)


def test_one_time_is_a_problem_of_the_first_controls():
    """Without a next state what is left is min 1/2 tau'C tau + c'tau over u_0 in its bounds."""
    random = torch.Generator().manual_seed(3)
    M, c, x = (torch.randn(*shape, generator=random, dtype=torch.float64) for shape in ((4, 4), (1, 2, 4), (2, 2)))
    C = (M @ M.T + torch.eye(4, dtype=torch.float64)).expand(1, 2, 4, 4)
    controller = our_mpc.MPC(2, 2, 1, u_lower=-0.4, u_upper=0.4)
    linear = our_mpc.LinDx(torch.zeros(0, 2, 2, 4, dtype=torch.float64), None)
    for dx in (linear, lambda x, u: x + u):
        states, u, _ = controller(x, our_mpc.QuadCost(C, c), dx)
        slope = C[0, :, 2:, :2] @ x[..., None]
        box = torch.full((2,), 0.4, dtype=torch.float64)
        expected = qc.QPLayer()(C[0, :, 2:, 2:], slope[..., 0] + c[0, :, 2:], lb=-box, ub=box)
        assert torch.equal(states[0], x) and torch.allclose(u[0], expected.x, rtol=0, atol=1e-7)
    for T in (0, 1.5):
        with pytest.raises(ValueError, match=f"T is {T}, expected an integer of at least 1"):
            our_mpc.MPC(2, 2, T)


class TestMpc:
    T, batch, nx, nu = 8, 3, 3, 2

    def problem(self):
        random = torch.Generator().manual_seed(2)

        def draw(*shape):
            return torch.randn(*shape, generator=random, dtype=torch.float64)

        T, B, nx, n = self.T, self.batch, self.nx, self.nx + self.nu
        M = draw(T, B, n, n)
        C, c = M @ M.mT / n + torch.eye(n, dtype=torch.float64), draw(T, B, n)
        F = torch.cat([torch.eye(nx, dtype=torch.float64) + 0.2 * draw(nx, nx), 0.5 * draw(nx, self.nu)], 1)
        F = F.expand(T - 1, B, nx, n).clone()
        return draw(B, nx), C, c, F, 0.1 * draw(T - 1, B, nx)

    def run(self, module, data, **options):
        mpc = module.MPC(self.nx, self.nu, self.T, verbose=-1, n_batch=self.batch, **options)
        x_init, C, c, F, f = data
        return mpc(x_init, module.QuadCost(C, c), module.LinDx(F, f))

    def compare(self, tolerance, **options):
        theirs = original("mpc.mpc")
        random = torch.Generator().manual_seed(3)
        weights = [
            torch.randn(self.T, self.batch, k, dtype=torch.float64, generator=random) for k in (self.nx, self.nu)
        ]
        data = self.problem()
        expected = gradients(lambda *d: self.run(theirs, d, **options), data, weights)
        found = gradients(lambda *d: self.run(our_mpc, d, **options), data, weights)
        agree(found[0], expected[0], tolerance)
        agree(found[1], expected[1], 10 * tolerance)
        return found[0]

    def test_linear_problems_agree(self):
        self.compare(1e-8)  # one linear system in both, of condition 1e2

    def test_bounded_inputs_agree(self):
        # Its box QPs stop when steps are small, and it stops itself at eps.
        _, u, _ = self.compare(1e-5, u_lower=-0.3, u_upper=0.3, lqr_iter=40, eps=1e-10, back_eps=1e-10)
        assert bool((u.abs() > 0.3 - 1e-9).any()) and bool((u.abs() < 0.29).any())

    def test_bounds_of_every_time_and_element_agree(self):
        bound = 0.2 + 0.3 * torch.rand(self.T, self.batch, self.nu, generator=torch.Generator().manual_seed(5)).double()
        self.compare(1e-5, u_lower=-bound, u_upper=bound, lqr_iter=40, eps=1e-10, back_eps=1e-10)

    def test_penalties_of_changing_inputs_agree(self):
        """With functions as dynamics, as the original knows no others there."""
        theirs = original("mpc.mpc")
        x_init, C, c, F, _ = self.problem()
        affine = original("mpc.dynamics").AffineDynamics(F[0, 0, :, : self.nx], F[0, 0, :, self.nx :])
        previous = torch.ones(self.batch, self.nu, dtype=torch.float64)

        def run(module, x_init, C, c):
            mpc = module.MPC(
                self.nx, self.nu, self.T, slew_rate_penalty=2.0, prev_ctrl=previous, n_batch=self.batch, verbose=-1,
            )  # fmt: skip
            return mpc(x_init, module.QuadCost(C, c), affine)

        default = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)  # of its identity matrices
            weights = [torch.ones(self.T, self.batch, k) for k in (self.nx, self.nu)]
            outputs, expected = gradients(lambda *d: run(theirs, *d), (x_init, C, c), weights)
        finally:
            torch.set_default_dtype(default)
        ours, found = gradients(lambda *d: run(our_mpc, *d), (x_init, C, c), weights)
        agree([*ours[:2], *found], [*outputs[:2], *expected], 1e-7)
        # The same with linear dynamics as data, whose line search is broken there.
        again = our_mpc.MPC(self.nx, self.nu, self.T, slew_rate_penalty=2.0, prev_ctrl=previous)
        agree(again(x_init, our_mpc.QuadCost(C, c), our_mpc.LinDx(F, NONE)), ours, 1e-8)

    def pendulum(self, module, dynamics, x_init, C, c, **options):
        controller = module.MPC(
            2, 1, 12, u_lower=-4.0, u_upper=4.0, lqr_iter=60, verbose=-1, eps=1e-9, back_eps=1e-9, n_batch=2,
            grad_method=module.GradMethods.AUTO_DIFF, exit_unconverged=False, not_improved_lim=60, **options,
        )  # fmt: skip
        return controller(x_init, module.QuadCost(C, c), dynamics)

    def pendulum_data(self):
        x_init = torch.tensor([[0.6, 0.0], [-0.4, 0.5]], dtype=torch.float64)
        C = torch.diag(torch.tensor([4.0, 0.1, 0.05], dtype=torch.float64))
        return x_init, C, torch.zeros(3, dtype=torch.float64)

    def test_nonlinear_solutions_agree_and_gradients_are_those_of_differences(self):
        theirs = original("mpc.mpc")
        x_init, C, c = self.pendulum_data()
        lift = lambda t, rank: t.expand(12, 2, *t.shape[-rank:]).clone()  # noqa: E731
        expected = self.pendulum(theirs, Pendulum(), x_init, lift(C, 2), lift(c, 1))
        dynamics = Pendulum()
        found = self.pendulum(our_mpc, dynamics, x_init, C, c)
        for one, other in zip(found, expected, strict=True):
            # It stops where the costs stall, which has the square of the error.
            assert torch.allclose(one, other.detach(), atol=1e-3), (one - other).abs().max()
        assert bool((found[2] <= expected[2] + 1e-9).all())

        def loss(dynamics, module=our_mpc, lifted=False):
            data = (lift(C, 2), lift(c, 1)) if lifted else (C, c)
            x, u, _ = self.pendulum(module, dynamics, x_init, *data)
            return (x[-1] ** 2).sum() + (u[0] * torch.tensor([[1.0], [2.0]], dtype=torch.float64)).sum()

        (gradient,) = torch.autograd.grad(loss(dynamics), dynamics.length)
        step = 1e-5
        shifted = []
        for sign in (1.0, -1.0):
            moved = Pendulum()
            moved.length.data += sign * step
            shifted.append(float(loss(moved)))
        difference = (shifted[0] - shifted[1]) / (2.0 * step)
        assert float(gradient) == pytest.approx(difference, rel=1e-6)  # h^2, and 1e-9 / h of the solutions
        # The original leaves the curvature of the dynamics out.
        (without,) = torch.autograd.grad(loss(other := Pendulum(), theirs, True), other.length)
        assert abs(float(without) - difference) > 1e-3 * abs(difference)

    def test_costs_of_any_function(self):
        """The quadratic cost given as a function: the same answers and gradients."""
        x_init, _, c = self.pendulum_data()
        weight = torch.tensor([4.0, 0.1, 0.05], dtype=torch.float64)

        def solve(weight, as_function):
            if not as_function:
                return self.pendulum(our_mpc, Pendulum(), x_init, torch.diag(weight), c)
            controller = our_mpc.MPC(2, 1, 12, -4.0, 4.0, lqr_iter=60, eps=1e-9)
            return controller(x_init, lambda tau: 0.5 * (tau**2 * weight).sum(-1), Pendulum())

        results = []
        for as_function in (False, True):
            leaf = weight.clone().requires_grad_()
            x, u, costs = solve(leaf, as_function)
            (gradient,) = torch.autograd.grad((x[-1] ** 2).sum() + u.sum() + costs.sum(), leaf)
            results.append((x.detach(), u.detach(), costs.detach(), gradient))
        agree(results[1], results[0], 1e-6)  # the tolerance of the steps, times a condition of order 100

    def test_cost_that_is_not_quadratic_has_gradients_like_differences(self):
        x_init = self.pendulum_data()[0]

        def loss(goal):
            controller = our_mpc.MPC(2, 1, 12, -4.0, 4.0, lqr_iter=60, eps=1e-9)

            def cost(tau):
                return 5.0 * (1.0 - (tau[:, 0] - goal).cos()) + 0.1 * tau[:, 1].cosh() + 0.05 * tau[:, 2] ** 2

            x, u, _ = controller(x_init, cost, Pendulum())
            return x[-1, 0, 0] + 0.1 * u.sum()

        goal = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(goal), goal)
        difference = (loss(goal + 1e-5) - loss(goal - 1e-5)) / 2e-5
        assert float(gradient) == pytest.approx(float(difference), rel=1e-5)

    def test_what_does_not_converge_raises_or_has_no_gradient(self):
        x_init, C, c = self.pendulum_data()
        dynamics = Pendulum()
        options = {"u_lower": -4.0, "u_upper": 4.0, "lqr_iter": 1}
        with pytest.raises(qc.SolveError, match="element 0 did not converge: MAX_ITER") as caught:
            our_mpc.MPC(2, 1, 12, **options)(x_init, our_mpc.QuadCost(C, c), dynamics)
        # The next step's QP, which starts where the element does.
        problem, found = caught.value.problem, caught.value.solution
        assert torch.equal(problem["x0"], x_init[0]) and torch.equal(problem["Q"], C[:2, :2])
        step = qc.solve_ocp(**problem)
        assert step.status == qc.Status.SOLVED and 1e-6 < abs(step.u - found.u[0].detach().numpy()).max() < 4.0
        x, u, _ = our_mpc.MPC(2, 1, 12, exit_unconverged=False, **options)(x_init, our_mpc.QuadCost(C, c), dynamics)
        assert bool(x.isfinite().all()) and math.isfinite(float(u.sum()))
        (gradient,) = torch.autograd.grad(x.sum() + u.sum(), dynamics.length, allow_unused=True)
        assert gradient is None or float(gradient) == 0.0

    @pytest.mark.parametrize("slew", [None, 0.5])
    def test_problem_that_has_no_answer_comes_with_the_error(self, slew):
        x_init, C, c, F, f = self.problem()
        C = C - 10.0 * torch.eye(C.shape[-1], dtype=C.dtype)
        with pytest.raises(qc.SolveError, match="element 0 did not converge: NON_CONVEX") as caught:
            self.run(our_mpc, (x_init, C, c, F, f), slew_rate_penalty=slew)
        assert qc.solve_ocp(**caught.value.problem).status == qc.Status.NON_CONVEX
        nx = x_init.shape[1]
        assert torch.equal(caught.value.problem["x0"][:nx], x_init[0])

    def test_problem_with_a_cost_of_any_function_comes_with_the_error_too(self):
        x_init, _, _ = self.pendulum_data()

        def cost(tau):
            return 5.0 * (1.0 - tau[:, 0].cos()) + 0.1 * tau[:, 1].cosh() + 0.05 * tau[:, 2] ** 2

        with pytest.raises(qc.SolveError, match="did not converge") as caught:
            our_mpc.MPC(2, 1, 12, u_lower=-4.0, u_upper=4.0, lqr_iter=1)(x_init, cost, Pendulum())
        problem = {name: torch.as_tensor(value).detach().numpy() for name, value in caught.value.problem.items()}
        assert problem.keys() >= {"Q", "R", "q", "A", "B", "x0", "u_upper"}
        assert qc.solve_ocp(**(problem | {"horizon": 12})).x.shape == (13, 2)

    def test_single_precision_in_single_precision_out(self):
        x_init, C, c, F, f = [t.float() for t in self.problem()]
        x, u, costs = self.run(our_mpc, (x_init, C, c, F, f), u_lower=-0.3, u_upper=0.3)
        assert x.dtype == u.dtype == costs.dtype == torch.float32
        assert x.shape == (self.T, self.batch, self.nx) and costs.shape == (self.batch,)

    def test_functions_in_single_precision_converge_as_far_as_that_goes(self):
        x_init, C, c = self.pendulum_data()
        exact = our_mpc.MPC(2, 1, 12, -4.0, 4.0, lqr_iter=60)(x_init, our_mpc.QuadCost(C, c), Pendulum())
        single = our_mpc.MPC(2, 1, 12, -4.0, 4.0, lqr_iter=60)(
            x_init.float(), our_mpc.QuadCost(C.float(), c.float()), Pendulum().float()
        )
        for one, other in zip(single, exact, strict=True):
            assert one.dtype == torch.float32
            assert torch.allclose(one.double(), other, atol=1e-2)  # eps 1e-4 of slopes, curvatures from 0.05 on


def test_adapters_need_none_of_the_originals():
    for name in ("proxsuite", "qpth", "mpc"):
        module = importlib.import_module(f"qp_control.compat.{name}")
        assert module.__doc__ and "differs" in module.__doc__
