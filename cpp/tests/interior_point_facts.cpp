// Facts about the linear systems of the interior-point rescue, its multipliers, and residuals near rounding.
#include <Eigen/LU>

#include "check.hpp"
#include "qp_control/multipliers.hpp"
#include "qp_control/quasi_definite.hpp"
#include "qp_control/residuals.hpp"
#include "qp_control/rounding.hpp"
#include "random_problems.hpp"

using namespace qp_control;

namespace {

struct System {
  Matrix H;
  RowMatrix R;
  Vector d, e;
  Matrix whole() const {
    const Eigen::Index n = H.rows(), m = R.rows();
    Matrix K = Matrix::Zero(n + m, n + m);
    K.topLeftCorner(n, n) = H;
    K.topLeftCorner(n, n).diagonal() += d;
    K.topRightCorner(n, m) = R.transpose();
    K.bottomLeftCorner(m, n) = R;
    K.bottomRightCorner(m, m) = -Matrix(e.asDiagonal());
    return K;
  }
};

System random_system(int n, int m, bool diagonal, double smallest) {
  System out;
  const Matrix M = random<Matrix>(n, n);
  out.H = diagonal ? Matrix(random<Vector>(n).cwiseAbs().asDiagonal()) : Matrix(M * M.transpose());
  out.R = random<RowMatrix>(m, n);
  out.d = random<Vector>(n).cwiseAbs().array() + smallest;
  out.e = random<Vector>(m).cwiseAbs().array() + smallest;
  return out;
}

void check_solution(const System& system, double tolerance, const char* what) {
  const Vector a = random<Vector>(system.H.rows()), b = random<Vector>(system.R.rows());
  QuasiDefinite solver(system.H, system.R);
  check(solver.factor(system.d, system.e), "factored");
  Vector x, y;
  solver.solve(a, b, x, y);
  Vector found(x.size() + y.size()), rhs(found.size());
  found << x, y;
  rhs << a, b;
  const Vector exact = system.whole().fullPivLu().solve(rhs);
  check_close((found - exact).norm() / exact.norm(), 0.0, tolerance, what);
}

const Register system_is_solved("quasi-definite systems equal a factorisation with full pivoting", [] {
  for (const auto& [n, m] : {std::pair{6, 3}, {3, 6}, {20, 8}, {8, 20}, {1, 1}, {5, 0}})
    for (const bool diagonal : {false, true})
      check_solution(random_system(n, m, diagonal, 0.1), 1e-8, "well conditioned");
});

const Register late_system_is_solved("so do those of the last steps, whose weights differ by twenty orders", [] {
  for (const bool diagonal : {false, true})
    for (int trial = 0; trial < 10; ++trial) {
      System system = random_system(12, 5, diagonal, 0.0);
      if (diagonal) system.H.setZero();
      for (double& d : system.d) d = std::pow(10.0, 20.0 * std::abs(std::sin(100.0 * d)) - 10.0);
      system.e.setConstant(1e-12);
      const Vector a = random<Vector>(12), b = random<Vector>(5);
      QuasiDefinite solver(system.H, system.R);
      check(solver.factor(system.d, system.e), "factored");
      Vector x, y;
      solver.solve(a, b, x, y);
      const Vector r = a - system.H * x - system.d.cwiseProduct(x) - system.R.transpose() * y;
      const Vector s = b - system.R * x + system.e.cwiseProduct(y);
      const double terms = norm_inf(system.d.cwiseProduct(x)) + norm_inf(y) + norm_inf(x);
      check(norm_inf(r) <= 1e-6 * norm_inf(a) + 1e-12 * terms, "first equation");
      check(norm_inf(s) <= 1e-6 * norm_inf(b) + 1e-12 * terms, "second equation");
    }
});

const Register multipliers_shrink("multipliers shrink to the least ones that their signs allow", [] {
  // x1 + x2 = 0 holds the variables at zero: w = -(g + y) <= 0 for every y >= 2, and the row is the shorter the better.
  StackedQP qp(2, 1);
  qp.g << -1.0, -2.0;
  qp.R.setOnes();
  qp.lower.setZero();
  qp.upper << 0.0, INFINITY, INFINITY;
  Vector z(3);
  z << 1e8, 1.0 - 1e8, 2.0 - 1e8;
  std::vector<int> active = {1, -1, -1};
  shrink_multipliers(qp, Vector::Zero(2), active, z);
  check_close(z[0], 2.0, 1e-7, "of the row");
  check_close(z[1], -1.0, 1e-7, "of the variable that stays active");
  check(z[2] == 0.0 && active == std::vector<int>{1, -1, 0}, "the variable whose multiplier vanishes is free");
});

const Register shrunk_multipliers_remain_multipliers("what has shrunk is still a multiplier", [] {
  for (int trial = 0; trial < 20; ++trial) {
    // A point where everything is active: 10 rows and 6 variables at bounds hold 6 variables.
    StackedQP qp = random_qp(6, 10);
    const Vector x = random<Vector>(6);
    Vector v(16), z(16), slope = qp.H * x;
    qp.apply_rows(x, v);
    std::vector<int> active(16);
    for (int i = 0; i < 16; ++i) {
      const bool equality = i % 4 == 0;
      z[i] = 1e6 * normal();
      active[i] = z[i] > 0.0 ? 1 : -1;
      qp.upper[i] = z[i] > 0.0 || equality ? v[i] : INFINITY;
      qp.lower[i] = z[i] < 0.0 || equality ? v[i] : -INFINITY;
    }
    qp.add_rows_transposed(z, slope);
    qp.g = random<Vector>(6) - slope;  // z is one up to a part of size one, which the active box takes
    const auto size = [&] { return qp.R.rowwise().norm().cwiseProduct(z.head(10)).norm(); };
    const double before = size();
    shrink_multipliers(qp, x, active, z);
    Vector residual = qp.g + qp.H * x;
    qp.add_rows_transposed(z, residual);
    check(norm_inf(residual) <= 1e-9 * before, "stationary");
    check(size() < 0.99 * before, "smaller");
    for (int i = 0; i < 16; ++i)
      check(active[i] == 0 ? z[i] == 0.0 : qp.is_equality(i) || active[i] * z[i] >= -1e-9 * before, "sign");
  }
});

const Register bad_system_is_refused("a system with an entry that is not finite is refused", [] {
  System system = random_system(4, 2, false, 0.1);
  system.d[1] = std::numeric_limits<double>::infinity();
  check(!QuasiDefinite(system.H, system.R).factor(system.d, system.e), "infinite weight");
});

const Register precise_residuals_agree("residuals in extended precision agree with the others up to rounding", [] {
  for (const int n : {2, 9, 30}) {
    const StackedQP qp = random_qp(n, n);
    const Vector x = random<Vector>(n), z = random<Vector>(2 * n);
    const Residuals plain = residuals(qp, x, z), precise = precise_residuals(qp, x, z);
    check_close(plain.primal, precise.primal, 1e-12, "primal");
    check_close(plain.dual, precise.dual, 1e-11, "dual");
    check_close(plain.complementarity, precise.complementarity, 1e-12, "complementarity");
    check_close(plain.gap, precise.gap, 1e-9, "gap");
    check_close(plain.objective, precise.objective, 1e-9, "objective");
  }
});

const Register rounding_matters("rounding matters to large numbers and tight tolerances, not to ordinary ones", [] {
  const StackedQP qp = random_qp(20, 10);
  RoundingBounds<double> bounds;
  bounds.load_matrices(20, 10, qp.H.data(), qp.R.data());
  bounds.load_gradient(20, qp.g.data());
  Settings settings;
  check(!bounds.matter(settings, 20.0, 20.0), "ordinary");
  check(bounds.matter(settings, 20.0, 1e8), "large multipliers");
  settings.eps_abs = 1e-14;
  check(bounds.matter(settings, 20.0, 20.0), "tight tolerance");
  settings = Settings();
  settings.eps_gap = 1e-13;
  check(bounds.matter(settings, 20.0, 20.0), "tight gap");
});

}  // namespace

int main() { return run_facts(); }
