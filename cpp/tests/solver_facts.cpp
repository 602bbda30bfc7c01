// Facts about the parts of the solver, each against slow and obvious code.
#include <atomic>
#include <stdexcept>

#include "check.hpp"
#include "qp_control/active_system.hpp"
#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/batch.hpp"
#include "qp_control/certificates.hpp"
#include "qp_control/dense_batch.hpp"
#include "qp_control/dense_kkt.hpp"
#include "qp_control/dense_solver.hpp"
#include "qp_control/derivatives.hpp"
#include "qp_control/diagonal_plus_rows.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/lane_solver.hpp"
#include "qp_control/least_shift.hpp"
#include "qp_control/residuals.hpp"
#include "random_problems.hpp"

using namespace qp_control;

namespace {

// The equilibrated problem that the kernels work on, made here by plain matrix products.
StackedQP equilibrated(const StackedQP& qp, const Equilibration& scaling) {
  StackedQP out = qp;
  const Vector D = numbers(scaling.D, qp.n()), E = numbers(scaling.E, qp.rows());
  out.H = scaling.c[0] * D.asDiagonal() * qp.H * D.asDiagonal();
  out.g = scaling.c[0] * D.cwiseProduct(qp.g);
  out.R = E.head(qp.stored_rows()).asDiagonal() * qp.R * D.asDiagonal();
  out.lower = E.cwiseProduct(qp.lower);
  out.upper = E.cwiseProduct(qp.upper);
  return out;
}

PackArray packed(const Vector& v) {
  PackArray out = PackArray::Constant(packs(v.size()), Pack(0.0));
  numbers(out, v.size()) = v;
  return out;
}

const Register rows_are_updated("updated factor equals the plain matrix of the new weights", [] {
  for (const int n : {1, 3, 4, 6, 9, 16, 21}) {
    const StackedQP qp = random_qp(n, 5);
    DenseKkt kkt(n, 5);
    Equilibration scaling(packs(n), packs(n + 5));
    check(kkt.load(qp, scaling), "convex");
    Vector weight = Vector::Ones(n + 5);
    check(all(kkt.factor(packed(weight), 1e-6)), "positive definite");
    weight[1] = 0.0;
    weight[3] = 7.0;
    weight[n + 4] = 0.0;
    check(all(kkt.factor(packed(weight), 1e-6)), "positive definite after an update");
    const Vector rhs = random<Vector>(n);
    PackArray solution = packed(rhs);
    kkt.solve(solution);
    const StackedQP scaled = equilibrated(qp, scaling);
    Matrix M = scaled.H + 1e-6 * Matrix::Identity(n, n);
    M += scaled.R.transpose() * weight.head(5).asDiagonal() * scaled.R;
    M.diagonal() += weight.tail(n);
    check_close((M * numbers(solution, n) - rhs).norm(), 0.0, 1e-11, "residual of the plain matrix");
  }
});

const Register products_are_right("packed products equal those of the plain matrices", [] {
  for (const int n : {1, 5, 8, 13}) {
    const StackedQP qp = random_qp(n, 7);
    DenseKkt kkt(n, 7);
    Equilibration scaling(packs(n), packs(n + 7));
    kkt.load(qp, scaling);
    const StackedQP scaled = equilibrated(qp, scaling);
    const Vector x = random<Vector>(n), z = random<Vector>(n + 7);
    PackArray v = packed(Vector::Zero(n + 7)), Hx = packed(Vector::Zero(n)), Rz = packed(Vector::Zero(n));
    kkt.apply_rows(packed(x), v);
    kkt.apply_hessian(packed(x), Hx);
    kkt.add_rows_transposed(packed(z), Rz);
    Vector plain(n + 7), transposed = Vector::Zero(n);
    scaled.apply_rows(x, plain);
    scaled.add_rows_transposed(z, transposed);
    check_close((numbers(v, n + 7) - plain).norm(), 0.0, 1e-13, "R x");
    check_close((numbers(Hx, n) - scaled.H * x).norm(), 0.0, 1e-13, "H x");
    check_close((numbers(Rz, n) - transposed).norm(), 0.0, 1e-13, "R'z");
  }
});

const Register line_search_is_exact("line search finds the least value along the direction", [] {
  for (int trial = 0; trial < 20; ++trial) {
    const StackedQP plain = random_qp(4, 6);
    DenseKkt kkt(4, 6);
    Equilibration scaling(packs(4), packs(10));
    kkt.load(plain, scaling);
    const StackedQP qp = equilibrated(plain, scaling);
    Penalties penalties(packs(10));
    penalties.reset(kkt.lower(), kkt.upper());
    Iterate it(packs(4), packs(10));
    it.x = it.x_center = packed(random<Vector>(4));
    it.z_center = packed(random<Vector>(10));
    const auto value = [&](double t) {
      const Vector x = numbers(it.x, 4) + t * numbers(it.dx, 4), v = numbers(it.v, 10) + t * numbers(it.dv, 10);
      const Vector moved = x - numbers(it.x_center, 4);
      double out = 0.5 * x.dot(qp.H * x) + qp.g.dot(x) + 0.5 * penalties.rho[0] * moved.squaredNorm();
      for (int i = 0; i < 10; ++i) {
        const double mu = numbers(penalties.mu, 10)[i], shifted = v[i] + mu * numbers(it.z_center, 10)[i];
        const double distance = std::max(0.0, shifted - qp.upper[i]) + std::max(0.0, qp.lower[i] - shifted);
        out += 0.5 * distance * distance / mu;
      }
      return out;
    };
    refresh(kkt, Mask::all(true), it);
    evaluate(kkt, penalties, it);
    for (int j = 0; j < it.x.size(); ++j) it.dx[j] = -it.gradient[j];
    kkt.apply_rows(it.dx, it.dv);
    kkt.apply_hessian(it.dx, it.Hdx);
    const double t = line_search(kkt, penalties, it)[0];
    check(t > 0.0, "a descent direction gets a positive step");
    const double h = 1e-4 * t, best = value(t);
    check(best <= value(t - h) && best <= value(t + h), "no neighbour is better");
    check(value(0.3 * t) >= best && value(3.0 * t) >= best, "no far point is better");
  }
});

const Register scaling_is_exact("scaling is by powers of two and makes rows of one size", [] {
  StackedQP qp = random_qp(5, 7);
  for (int i = 0; i < 7; ++i) {
    const double scale = std::pow(10.0, i - 3);
    qp.R.row(i) *= scale;
    qp.lower[i] *= scale;
    qp.upper[i] *= scale;
  }
  Equilibration scaling(packs(5), packs(12));
  DenseKkt kkt(5, 7);
  kkt.load(qp, scaling);
  const auto is_power_of_two = [](double a) { return std::ldexp(1.0, std::ilogb(a)) == a; };
  for (int j = 0; j < 5; ++j) check(is_power_of_two(scaling.D[j / lanes][j % lanes]), "D");
  for (int i = 0; i < 12; ++i) check(is_power_of_two(scaling.E[i / lanes][i % lanes]), "E");
  check(is_power_of_two(scaling.c[0]), "c");
  const StackedQP scaled = equilibrated(qp, scaling);
  const double largest = scaled.R.rowwise().norm().maxCoeff(), smallest = scaled.R.rowwise().norm().minCoeff();
  check(largest < 10.0 * smallest, "rows of seven sizes become rows of one size");
});

// Two solvers of one problem: in lanes and alone.
const Register lanes_agree("a problem in lanes has the solution that it has alone, whatever its neighbours", [] {
  const int n = 6, m = 5, size = 2 * lanes + 1;
  std::vector<StackedQP> problems;
  std::vector<double> H, g, C, l, u, lb, ub;
  for (int k = 0; k < size; ++k) {
    const StackedQP qp = random_qp(n, m);
    problems.push_back(qp);
    const RowMatrix row_major = qp.H;
    H.insert(H.end(), row_major.data(), row_major.data() + n * n);
    g.insert(g.end(), qp.g.data(), qp.g.data() + n);
    C.insert(C.end(), qp.R.data(), qp.R.data() + m * n);
    l.insert(l.end(), qp.lower.data(), qp.lower.data() + m);
    u.insert(u.end(), qp.upper.data(), qp.upper.data() + m);
    lb.insert(lb.end(), qp.lower.data() + m, qp.lower.data() + m + n);
    ub.insert(ub.end(), qp.upper.data() + m, qp.upper.data() + m + n);
  }
  DenseBatch batch;
  batch.dims = {n, 0, m};
  batch.size = size;
  batch.H = {H.data(), n * n};
  batch.g = {g.data(), n};
  batch.C = {C.data(), m * n};
  batch.l = {l.data(), m};
  batch.u = {u.data(), m};
  batch.lb = {lb.data(), n};
  batch.ub = {ub.data(), n};
  const Settings settings;
  check(LaneSolver::suits(batch.dims, settings), "small enough for lanes");
  std::vector<double> x(size * n), alone(size * n);
  std::vector<long long> status(size), iterations(size);
  const auto solve_range = [&](int first, int last, std::vector<double>& into, bool* solved) {
    DenseBatchSolution out;
    out.x = {into.data(), n};
    out.status = status.data();
    out.iterations = iterations.data();
    LaneSolver(batch).solve(batch, first, last, settings, Deadline(0.0), false, out, solved);
  };
  bool solved[lanes];
  for (int first = 0; first < size; first += lanes) solve_range(first, std::min(first + lanes, size), x, solved);
  for (int k = 0; k < size; ++k) {
    solve_range(k, k + 1, alone, solved);
    check(solved[0], "solved");
  }
  check(x == alone, "the same bits");
  for (int k = 0; k < size; ++k) {
    const Solution reference = solve(problems[k]);
    check_close((reference.x - ConstVectorMap(x.data() + k * n, n)).norm(), 0.0, 1e-9, "solution");
  }
});

// Rows of size one, and diagonals down to the least that it is meant for.
const Register rows_factor("a factor by the rows solves like the plain matrix, whatever was factored before", [] {
  for (const int n : {1, 5, 16, 33})
    for (const int m : {0, 1, n / 2, n}) {
      const RowMatrix R = random<RowMatrix>(m, n) / std::sqrt(double(n));
      PackArray rows = PackArray::Constant(packs(padded(n) * m), Pack(0.0));
      for (int i = 0; i < m; ++i) Eigen::Map<Vector>(numbers(rows) + i * padded(n), n) = R.row(i);
      DiagonalPlusRows factor(n + 3, m + 2);
      factor.load(numbers(rows), n, m, padded(n));
      for (int trial = 0; trial < 12; ++trial) {
        Vector D = random<Vector>(n).cwiseAbs().array() + DiagonalPlusRows::least_entry;
        Vector weight = Vector::Constant(m, trial % 3 == 0 ? 1.0 : 1e6);
        if (trial % 4 == 1) D.tail(n / 2).array() += 1e6;  // variables held by their box
        for (int i = trial % 2; i < m; i += 2) weight[i] = 0.0;
        PackArray padded_D = PackArray::Constant(packs(n), Pack(1.0));
        numbers(padded_D, n) = D;
        check(factor.factor(padded_D, weight.data()), "positive definite");
        const Vector rhs = R.transpose() * (weight.array() * 1e-3 + 1.0).matrix() + random<Vector>(n);
        PackArray x = packed(rhs);
        factor.solve(numbers(x));
        Matrix M = R.transpose() * weight.asDiagonal() * R;
        M.diagonal() += D;
        // Backward stable, up to the spread of D: one refinement has made up for the rest.
        const double size = M.norm() * numbers(x, n).norm() + rhs.norm();
        check((M * numbers(x, n) - rhs).norm() <= 1e-12 * size, "residual");
        DiagonalPlusRows fresh(n, m);
        fresh.load(numbers(rows), n, m, padded(n));
        fresh.factor(padded_D, weight.data());
        factor.forget();
        factor.factor(padded_D, weight.data());
        PackArray first = packed(rhs), second = first;
        fresh.solve(numbers(first));
        factor.solve(numbers(second));
        check(numbers(first, n) == numbers(second, n), "the same bits after forget()");
      }
    }
});

const Register active_system_by_rows("active system of a diagonal H equals that of the same H as a full matrix", [] {
  for (const bool small : {false, true}) {
    Vector h = random<Vector>(9).cwiseAbs().array() + 0.1;
    if (small) h[2] = h[5] = 0.0;  // not for a factor by the rows
    const Matrix H = h.asDiagonal();
    const RowMatrix R = random<RowMatrix>(4, 9);
    std::vector<ActiveVector> solutions;
    for (const bool diagonal : {false, true}) {
      ActiveSystem system(9);
      system.set(H, R, {0, 1, 3, 6, 11}, diagonal);
      check(system.factor() && !system.singular(), "regular");
      ActiveVector rhs = system.zero(), s = system.zero();
      rhs.x = Vector::LinSpaced(9, -1.0, 2.0);
      rhs.rows << 1.0, -2.0, 3.0;
      rhs.fixed << 0.5, -0.5;
      check(system.refine(rhs, s) < 1e-13, "refined residual");
      solutions.push_back(s);
    }
    check_close((solutions[0].x - solutions[1].x).norm() + (solutions[0].rows - solutions[1].rows).norm(), 0.0, 1e-10,
                "solution");
  }
});

const Register active_system_solves("active system equals a dense solve of its KKT matrix", [] {
  const Matrix M = random<Matrix>(6, 6), H = M * M.transpose();
  ActiveSystem system(6);
  system.set(H, random<RowMatrix>(2, 6), {0, 1, 3, 6});
  check(system.factor(), "factor");
  check(!system.singular(), "regular");
  ActiveVector rhs = system.zero(), s = system.zero(), r = system.zero();
  rhs.x = random<Vector>(6);
  rhs.rows = random<Vector>(2);
  rhs.fixed = random<Vector>(2);
  check(system.refine(rhs, s) < 1e-13, "refined residual");
  system.residual(rhs, s, r);
  check_close(r.norm(), 0.0, 1e-11, "residual");
  const ActiveVector least = system.least_squares(rhs);
  check_close((least.x - s.x).norm() + (least.rows - s.rows).norm() + (least.fixed - s.fixed).norm(), 0.0, 1e-8,
              "least squares of a regular system");
});

const Register null_spaces_show("a null space is found, in H and in the rows", [] {
  ActiveSystem system(3);
  Matrix H = Matrix::Zero(3, 3);
  H(0, 0) = H(1, 1) = 1.0;
  RowMatrix row(1, 3), twice(2, 3);
  row << 1, 0, 0;
  twice << 1, 2, 3, 2, 4, 6;
  system.set(H, row, {0});
  check(system.factor() && system.singular(), "x_3 is free and without curvature");
  system.set(H, twice, {0, 1, 4});
  check(system.factor() && system.singular(), "one row is twice the other");
  system.set(H, row, {0, 3});
  check(system.factor() && !system.singular(), "negative control");
  int deficiency = -1;
  system.set(H, twice, {0, 1});
  ActiveVector rhs = system.zero();
  rhs.rows << 1, 2;
  const ActiveVector s = system.least_squares(rhs, &deficiency);
  check(deficiency == 1, "rank deficiency of the KKT matrix");
});

const Register solver_meets_kkt("a random QP satisfies its optimality conditions to rounding", [] {
  for (int trial = 0; trial < 30; ++trial) {
    const StackedQP qp = random_qp(4 + trial % 9, 3 + trial % 7);
    const Solution s = solve(qp);
    check(s.status == Status::SOLVED, "status");
    const Residuals r = residuals(qp, s.x, s.z);
    check(r.primal < 1e-11 && r.dual < 1e-11 && r.complementarity < 1e-11 && std::abs(r.gap) < 1e-10, "residuals");
  }
});

const Register workspace_forgets(
    "a good problem after a bad one in one workspace has the bits that it has in a new one", [] {
      const double infinity = std::numeric_limits<double>::infinity();
      for (const int n : {5, 30}) {
        const StackedQP good = random_qp(n, 4);
        const Solution expected = solve(good);
        check(expected.status == Status::SOLVED, "solved");
        std::vector<std::pair<Status, StackedQP>> bad(4, {Status::INVALID_INPUT, good});
        bad[0].second.g[1] = std::numeric_limits<double>::quiet_NaN();
        bad[1].first = Status::NON_CONVEX;
        bad[1].second.H = -good.H;
        bad[2].first = Status::DUAL_INFEASIBLE;
        bad[2].second.H.setZero();
        bad[2].second.lower.setConstant(-infinity);
        bad[2].second.upper.setConstant(infinity);
        bad[3].first = Status::CLOSEST_FEASIBLE;
        bad[3].second.R.row(1) = bad[3].second.R.row(0);
        bad[3].second.lower[1] = bad[3].second.upper[1] = good.upper[0] + 1.0;
        bad.push_back(bad[2]);  // with entries that overflow: any status
        bad[4].second.H = 1e300 * good.H;
        bad[4].second.R *= 1e300;
        DenseSolver solver({n, 0, 4});
        Solution s(n, n + 4);
        Settings closest;
        closest.closest = true;
        const RowMatrix H = good.H;
        for (std::size_t k = 0; k < bad.size(); ++k) {
          const RowMatrix bad_H = bad[k].second.H;
          solver.solve(view(bad[k].second, bad_H), closest, Deadline(0.0), false, s);
          check(k == 4 || s.status == bad[k].first, "status of the bad one");
          solver.solve(view(good, H), Settings(), Deadline(0.0), false, s);
          check(s.status == Status::SOLVED && s.x == expected.x && s.z == expected.z, "the same bits");
          check(s.iterations == expected.iterations && s.objective == expected.objective, "the same steps");
          check(s.shift_lower.isZero(0.0) && s.shift_upper.isZero(0.0), "no shift");
        }
      }
    });

const Register least_shift_of_two_equalities("two contradicting equalities meet where the weights put them", [] {
  StackedQP qp(1, 2);
  qp.H(0, 0) = 1.0;
  qp.R << 1.0, 1.0;
  qp.lower << 0.0, 4.0, -1e30;
  qp.upper << 0.0, 4.0, 1e30;
  qp.weight << 3.0, 1.0, 1.0;
  const Solution s = solve(qp, true);
  check(s.status == Status::CLOSEST_FEASIBLE, "status");
  check_close(s.x[0], 1.0, 1e-12, "x");  // minimises 3 x^2 + (x - 4)^2
  check_close(s.shift_upper[0], 1.0, 1e-12, "shift of x = 0");
  check_close(s.shift_lower[1], 3.0, 1e-12, "shift of x = 4");
  qp.weight[0] = std::numeric_limits<double>::infinity();
  check_close(solve(qp, true).x[0], 0.0, 1e-12, "a hard row stays");
  qp.weight[1] = std::numeric_limits<double>::infinity();
  check(solve(qp, true).status == Status::PRIMAL_INFEASIBLE, "contradicting hard rows");
});

const Register infeasibility_is_proved("the certificate combines the rows to a contradiction", [] {
  StackedQP qp = random_qp(3, 4);
  qp.R.row(1) = qp.R.row(0);
  qp.lower[1] = qp.upper[0] + 1.0;
  qp.upper[1] = qp.lower[1] + 1.0;
  const Solution s = solve(qp);
  check(s.status == Status::PRIMAL_INFEASIBLE, "status");
  check(is_farkas(qp, s.certificate_z, Vector::Zero(3)), "certificate");
  Vector broken = s.certificate_z;
  broken[0] += 0.1;
  check(!is_farkas(qp, broken, Vector::Zero(3)), "negative control");
});

const Register rays_are_proved("an unbounded QP comes with a ray", [] {
  StackedQP qp(2, 1);
  qp.H(0, 0) = 1.0;
  qp.g << 1.0, -1.0;
  qp.R << 1.0, -1.0;
  qp.upper[0] = 5.0;
  const Solution s = solve(qp);
  check(s.status == Status::DUAL_INFEASIBLE, "status");
  check_close(s.certificate_x[0], 0.0, 1e-12, "no curvature along it");
  check(s.certificate_x[1] > 0.0, "downhill");
});

const Register indefinite_is_refused("an indefinite H is called so, rounding is not", [] {
  StackedQP qp(2, 1);
  qp.H << 1.0, 0.0, 0.0, -1e-3;
  check(solve(qp).status == Status::NON_CONVEX, "negative eigenvalue");
  qp.H(1, 1) = -1e-14;
  qp.lower.tail(2).setConstant(-1.0);
  qp.upper.tail(2).setConstant(1.0);
  check(solve(qp).status == Status::SOLVED, "eigenvalue of rounding size");
});

const Register adjoint_is_the_derivative("adjoint equals central differences of the solution", [] {
  const StackedQP qp = random_qp(5, 4);
  const Solution s = solve(qp);
  OutputDerivative loss(5, 9);
  loss.x = random<Vector>(5);
  loss.z = random<Vector>(9);
  loss.shift_lower.setZero();
  loss.shift_upper.setZero();
  loss.objective = 0.7;
  DataDerivative grad(5, 4);
  check(adjoint(qp, s, loss, {}, grad).residual < 1e-11, "certificate");
  const auto value = [&](const StackedQP& moved) {
    const Solution m = solve(moved);
    return loss.x.dot(m.x) + loss.z.dot(m.z) + loss.objective * m.objective;
  };
  const double h = 1e-6;
  const auto derivative = [&](const std::function<void(StackedQP&, double)>& move) {
    StackedQP plus = qp, minus = qp;
    move(plus, h);
    move(minus, -h);
    return (value(plus) - value(minus)) / (2.0 * h);
  };
  const double tolerance = 1e-6;
  check_close(derivative([](StackedQP& q, double t) { q.g[2] += t; }), grad.g[2], tolerance, "g");
  check_close(derivative([](StackedQP& q, double t) { q.H(1, 3) = q.H(3, 1) += t; }), 2.0 * grad.H(1, 3), tolerance,
              "H");
  for (int i = 0; i < 4; ++i)
    check_close(derivative([i](StackedQP& q, double t) { q.R(i, 1) += t; }), grad.R(i, 1), tolerance, "R");
  for (int i = 0; i < 9; ++i)
    check_close(derivative([i](StackedQP& q, double t) { q.lower[i] += t, q.upper[i] += t; }),
                grad.lower[i] + grad.upper[i], tolerance, "bounds");
});

const Register every_index_once("parallel_for visits every index once, for any number of threads", [] {
  for (const int threads : {1, 2, 7}) {
    std::vector<std::atomic<int>> visits(1001);
    parallel_for(1001, 10, threads, [&](int first, int last, int) {
      for (int i = first; i < last; ++i) ++visits[i];
    });
    int wrong = 0;
    for (const auto& count : visits) wrong += count != 1;
    check(wrong == 0, "visited once");
  }
});

const Register exceptions_come_back("an exception in a worker reaches the caller, and the pool lives on", [] {
  bool caught = false;
  try {
    parallel_for(64, 1, 4, [](int first, int, int) {
      if (first == 40) throw std::runtime_error("element 40");
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  check(caught, "rethrown");
  std::atomic<int> sum{0};
  parallel_for(10, 1, 4, [&](int first, int, int) { sum += first; });
  check(sum == 45, "works afterwards");
});

}  // namespace

int main() { return run_facts(); }
