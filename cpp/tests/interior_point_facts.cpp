// Facts about the linear systems of the interior-point rescue, and about residuals near rounding.
#include <Eigen/LU>
#include <numeric>

#include "check.hpp"
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

// Its workspace has seen a larger system before.
QuasiDefinite loaded(const System& system) {
  const int n = static_cast<int>(system.H.rows()), m = static_cast<int>(system.R.rows());
  QuasiDefinite out(n, m + 3);
  std::vector<int> rows(m + 3);
  std::iota(rows.begin(), rows.end(), 0);
  const System larger = random_system(n, m + 3, true, 0.1);
  out.load(larger.H, larger.R, rows);
  check(out.factor(larger.d, larger.e), "factored");
  rows.resize(m);
  out.load(system.H, system.R, rows);
  return out;
}

void check_solution(const System& system, double tolerance, const char* what) {
  const Vector a = random<Vector>(system.H.rows()), b = random<Vector>(system.R.rows());
  QuasiDefinite solver = loaded(system);
  check(solver.factor(system.d, system.e), "factored");
  Vector x;
  Reserved<Vector> y;
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
      QuasiDefinite solver = loaded(system);
      check(solver.factor(system.d, system.e), "factored");
      Vector x;
      Reserved<Vector> y;
      solver.solve(a, b, x, y);
      const Vector r = a - system.H * x - system.d.cwiseProduct(x) - system.R.transpose() * y;
      const Vector s = b - system.R * x + system.e.cwiseProduct(y);
      const double terms = norm_inf(system.d.cwiseProduct(x)) + norm_inf(y) + norm_inf(x);
      check(norm_inf(r) <= 1e-6 * norm_inf(a) + 1e-12 * terms, "first equation");
      check(norm_inf(s) <= 1e-6 * norm_inf(b) + 1e-12 * terms, "second equation");
    }
});

const Register bad_system_is_refused("a system with an entry that is not finite is refused", [] {
  System system = random_system(4, 2, false, 0.1);
  system.d[1] = std::numeric_limits<double>::infinity();
  check(!loaded(system).factor(system.d, system.e), "infinite weight");
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
