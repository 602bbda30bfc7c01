// Facts about the parts of the solver, each against slow and obvious code.
#include <atomic>
#include <random>
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
#include "qp_control/equilibration.hpp"
#include "qp_control/least_shift.hpp"
#include "qp_control/residuals.hpp"

using namespace qp_control;

namespace {

std::mt19937 generator(7);

double normal() { return std::normal_distribution<double>()(generator); }

template <class Array>
Array random(int rows, int cols = 1) {
  Array a(rows, cols);
  for (int j = 0; j < cols; ++j)
    for (int i = 0; i < rows; ++i) a(i, j) = normal();
  return a;
}

// Feasible: bounds around the rows of a random point.
StackedQP random_qp(int n, int stored) {
  StackedQP qp(n, stored);
  const Matrix M = random<Matrix>(n, n);
  qp.H = M * M.transpose() + 0.1 * Matrix::Identity(n, n);
  qp.g = random<Vector>(n);
  qp.R = random<RowMatrix>(stored, n);
  Vector v(qp.rows());
  qp.apply_rows(random<Vector>(n), v);
  for (int i = 0; i < qp.rows(); ++i) {
    qp.lower[i] = i % 4 == 0 ? v[i] : v[i] - std::abs(normal());
    qp.upper[i] = i % 4 == 0 ? v[i] : v[i] + std::abs(normal());
  }
  return qp;
}

DenseQP view(const StackedQP& qp, const RowMatrix& H) {
  DenseQP out;
  out.dims = {qp.n(), 0, qp.stored_rows()};
  out.H = H.data();
  out.g = qp.g.data();
  out.C = qp.R.data();
  out.l = qp.lower.data();
  out.u = qp.upper.data();
  out.lb = qp.lower.data() + qp.stored_rows();
  out.ub = qp.upper.data() + qp.stored_rows();
  out.weight_in = qp.weight.data();
  out.weight_box = qp.weight.data() + qp.stored_rows();
  return out;
}

Solution solve(const StackedQP& qp, bool closest = false) {
  Settings settings;
  settings.closest = closest;
  const RowMatrix H = qp.H;
  Solution solution(qp.n(), qp.rows());
  DenseSolver solver({qp.n(), 0, qp.stored_rows()});
  solver.solve(view(qp, H), settings, false, solution);
  return solution;
}

const Register rows_are_updated("updated factor equals the one assembled from scratch", [] {
  const StackedQP qp = random_qp(6, 5);
  DenseKkt updated(6, 5), fresh(6, 5);
  updated.qp = fresh.qp = qp;
  updated.reset();
  Vector weight = Vector::Ones(11);
  check(updated.factor(weight, 1e-6), "positive definite");
  weight[1] = 0.0;
  weight[3] = 7.0;
  weight[8] = 0.0;
  check(updated.factor(weight, 1e-6), "positive definite after an update");
  fresh.reset();
  check(fresh.factor(weight, 1e-6), "positive definite from scratch");
  Vector a = Vector::Ones(6), b = a;
  updated.solve(a);
  fresh.solve(b);
  check_close((a - b).norm(), 0.0, 1e-12 * b.norm(), "solution");
  Matrix M = qp.H + 1e-6 * Matrix::Identity(6, 6);
  M += qp.R.transpose() * weight.head(5).asDiagonal() * qp.R;
  M.diagonal() += weight.tail(6);
  check_close((M * b - Vector::Ones(6)).norm(), 0.0, 1e-10, "residual of the plain matrix");
});

const Register line_search_is_exact("line search finds the least value along the direction", [] {
  for (int trial = 0; trial < 20; ++trial) {
    DenseKkt kkt(4, 6);
    kkt.qp = random_qp(4, 6);
    Penalties penalties(10);
    penalties.reset(kkt.lower(), kkt.upper());
    Iterate it(4, 10);
    it.x = it.x_center = random<Vector>(4);
    it.z_center = random<Vector>(10);
    const auto value = [&](double t) {
      const Vector x = it.x + t * it.dx, v = it.v + t * it.dv;
      double out = 0.5 * x.dot(kkt.qp.H * x) + kkt.g().dot(x) + 0.5 * penalties.rho * (x - it.x_center).squaredNorm();
      for (int i = 0; i < 10; ++i) {
        const double shifted = v[i] + penalties.mu[i] * it.z_center[i];
        const double distance = std::max(0.0, shifted - kkt.upper()[i]) + std::max(0.0, kkt.lower()[i] - shifted);
        out += 0.5 * distance * distance / penalties.mu[i];
      }
      return out;
    };
    kkt.apply_rows(it.x, it.v);
    kkt.apply_hessian(it.x, it.Hx);
    evaluate(kkt, penalties, it);
    it.dx = -it.gradient;
    kkt.apply_rows(it.dx, it.dv);
    kkt.apply_hessian(it.dx, it.Hdx);
    const double t = line_search(kkt, penalties, it);
    check(t > 0.0, "a descent direction gets a positive step");
    const double h = 1e-4 * t, best = value(t);
    check(best <= value(t - h) && best <= value(t + h), "no neighbour is better");
    check(value(0.3 * t) >= best && value(3.0 * t) >= best, "no far point is better");
  }
});

const Register scaling_is_undone("scaled and unscaled points describe the same problem", [] {
  StackedQP qp = random_qp(5, 7);
  for (int i = 0; i < 7; ++i) {
    const double scale = std::pow(10.0, i - 3);
    qp.R.row(i) *= scale;
    qp.lower[i] *= scale;
    qp.upper[i] *= scale;
  }
  StackedQP scaled(5, 7);
  Equilibration scaling(5, 12);
  scaling.scale(qp, scaled);
  const Vector x = random<Vector>(5), z = random<Vector>(12);
  Vector xs, zs, xb, zb;
  scaling.scale(x, z, xs, zs);
  scaling.unscale(xs, zs, xb, zb);
  check_close((x - xb).norm() + (z - zb).norm(), 0.0, 1e-12, "round trip");
  Vector gradient = qp.H * x + qp.g, gradient_scaled = scaled.H * xs + scaled.g;
  qp.add_rows_transposed(z, gradient);
  scaled.add_rows_transposed(zs, gradient_scaled);
  check_close((scaling.c * scaling.D.cwiseProduct(gradient) - gradient_scaled).norm(), 0.0, 1e-10, "gradient");
  const double largest = scaled.R.rowwise().norm().maxCoeff(), smallest = scaled.R.rowwise().norm().minCoeff();
  check(largest < 10.0 * smallest, "rows of seven sizes become rows of one size");
});

const Register active_system_solves("active system equals a dense solve of its KKT matrix", [] {
  const Matrix M = random<Matrix>(6, 6), H = M * M.transpose();
  ActiveSystem system(6);
  system.set(H, random<RowMatrix>(2, 6), {1, 4});
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
  system.set(H, row, {});
  check(system.factor() && system.singular(), "x_3 is free and without curvature");
  system.set(H, twice, {2});
  check(system.factor() && system.singular(), "one row is twice the other");
  system.set(H, row, {2});
  check(system.factor() && !system.singular(), "negative control");
  int deficiency = -1;
  system.set(H, twice, {});
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
    check(r.primal < 1e-11 && r.dual < 1e-11 && r.complementarity < 1e-11 && r.gap < 1e-10, "residuals");
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
