// Facts about the interior-point rescue, its linear systems and multipliers, and about residuals near rounding.
#include <Eigen/LU>
#include <numeric>

#include "check.hpp"
#include "qp_control/dense_step_system.hpp"
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

void check_solution(const System& system, bool eliminated, double tolerance, const char* what) {
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
  check(solver.eliminated() == eliminated, what);
}

const Register system_is_solved("quasi-definite systems equal a factorisation with full pivoting", [] {
  for (const auto& [n, m] : {std::pair{6, 3}, {3, 6}, {20, 8}, {8, 20}, {1, 1}, {5, 0}})
    for (const bool diagonal : {false, true})
      check_solution(random_system(n, m, diagonal, 0.1), true, 1e-8, "well conditioned");
});

const Register whole_system_is_solved("where nothing can be eliminated, so are the systems as a whole", [] {
  for (const auto& [n, m] : {std::pair{6, 3}, {3, 6}, {20, 8}, {8, 20}, {2, 1}, {5, 0}}) {
    System system = random_system(n, m, false, 0.1);
    system.H = -10.0 * n * Matrix::Identity(n, n) - system.H;
    system.R *= 0.01;
    check_solution(system, false, 1e-8, "indefinite");
  }
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
  check(!loaded(system).factor(system.d, system.e), "infinite weight");
});

// The rescue alone, in the caller's units. weight: of elastic rows, 0 where a row is not.
void rescue(const StackedQP& qp, const Vector& weight, Vector& x, Vector& z) {
  const int n = qp.n(), rows = qp.rows();
  DenseKkt kkt(n, qp.stored_rows());
  Equilibration scaling(packs(n), packs(rows));
  check(kkt.load(qp, scaling), "convex");
  PackArray elasticity = PackArray::Constant(packs(rows), Pack(0.0));
  const Vector E = numbers(scaling.E, rows);
  for (int i = 0; i < rows; ++i)
    if (weight[i] > 0.0) numbers(elasticity)[i] = E[i] * E[i] / (scaling.c[0] * weight[i]);
  InteriorPoint<DenseStepSystem> interior(kkt);
  Iterate it(packs(n), packs(rows));
  for (int again = 0; again < 2; ++again) {  // its workspace forgets
    interior.load(kkt, elasticity);
    interior.run(150, Deadline(0.0), it);
    const Vector x_now = numbers(scaling.D, n).cwiseProduct(numbers(it.x, n));
    check(again == 0 || x_now == x, "the same bits again");
    x = x_now;
    z = E.cwiseProduct(numbers(it.z, rows)) / scaling.c[0];
  }
  check(it.steps > 0 && it.steps < 200, "steps");
}

// Lets the rescue end at the first look, the second, or never.
struct Looks : SingleJudge {
  explicit Looks(int which) : enough(which) {}
  bool will_do(const Iterate&) override { return ++seen == enough; }
  Verdict judge(const Iterate&) override { return Verdict::GO_ON; }
  bool expired() const override { return false; }
  double tolerance() const override { return 0.0; }
  int enough, seen = 0;
};

const Register rescue_may_end_early("the rescue ends with the first point that will do, if there is one", [] {
  const int n = 9, m = 6;
  const StackedQP qp = random_qp(n, m);
  const Solution expected = solve(qp);
  check(expected.status == Status::SOLVED, "solved by the loop");
  DenseKkt kkt(n, m);
  Equilibration scaling(packs(n), packs(m + n));
  check(kkt.load(qp, scaling), "convex");
  InteriorPoint<DenseStepSystem> interior(kkt);
  int steps_before = 0;
  for (const int enough : {1, 2, 1000}) {
    Looks judge(enough);
    Iterate it(packs(n), packs(m + n));
    interior.load(kkt, PackArray::Constant(packs(m + n), Pack(0.0)));
    const bool ended = interior.run(150, Deadline(0.0), it, &judge);
    check(ended == (enough < 1000) && judge.seen <= enough, "ends where it is told to");
    check(judge.seen >= std::min(enough, 3), "looks");
    check(it.steps > steps_before, "a later look is at a later point");
    steps_before = it.steps;
    const Vector x = numbers(scaling.D, n).cwiseProduct(numbers(it.x, n));
    check_close(norm_inf(x - expected.x), 0.0, 1e-7, "point");
    for (int i = 0; i < qp.rows(); ++i)
      check((numbers(it.z)[i] != 0.0) == (expected.z[i] != 0.0), "the active set is clear");
  }
});

// Its products s z fall to 1e-25, so what is left is the rounding of its linear systems.
const Register rescue_alone_solves("the rescue alone solves QPs with equalities, two-sided rows and boxes", [] {
  for (const auto& [n, m] : {std::pair{4, 3}, {9, 6}, {6, 14}, {20, 8}})
    for (const bool diagonal : {false, true}) {
      StackedQP qp = random_qp(n, m);
      if (diagonal) qp.H = Vector(qp.H.diagonal()).asDiagonal();
      for (int i = 1; i < qp.rows(); i += 3) qp.upper[i] = std::numeric_limits<double>::infinity();
      for (int i = 2; i < qp.rows(); i += 5) qp.lower[i] = -std::numeric_limits<double>::infinity();
      for (int i = 0; i < qp.rows(); ++i)  // fewer equalities than variables
        if (i >= m && qp.is_equality(i)) qp.lower[i] -= 1.0;
      const Solution expected = solve(qp);
      check(expected.status == Status::SOLVED, "solved by the loop");
      Vector x, z;
      rescue(qp, Vector::Zero(qp.rows()), x, z);
      check_close(norm_inf(x - expected.x), 0.0, 1e-8, "point");
      check_close(norm_inf(z - expected.z), 0.0, 1e-6, "multipliers");
      check_close(residuals(qp, x, z).dual, 0.0, 1e-8, "stationarity");
    }
});

const Register rescue_alone_solves_lp("the rescue alone solves linear programs", [] {
  for (const int n : {5, 12, 30}) {
    Vector known, x, z;
    const StackedQP qp = linear_program(n, n / 3, 2.0, known);
    rescue(qp, Vector::Zero(qp.rows()), x, z);
    check_close(qp.g.dot(x), qp.g.dot(known), 1e-7 * (1.0 + qp.g.cwiseAbs().dot(known)), "objective");
    const Residuals r = residuals(qp, x, z);
    check_close(r.primal, 0.0, 1e-7 * (1.0 + norm_inf(x)), "rows");
    check_close(r.dual, 0.0, 1e-7 * (1.0 + norm_inf(qp.g)), "stationarity");
  }
});

// The same problem with a variable of its own for the excess of every elastic row: r_i x - p_i, at the cost w_i p_i^2
// / 2.
const Register rescue_alone_solves_elastic("the rescue alone minimises the cost of elastic rows", [] {
  for (const auto& [n, m] : {std::pair{4, 3}, {8, 12}, {15, 6}}) {
    StackedQP qp = random_qp(n, m);
    Vector weight = Vector::Zero(m + n);
    StackedQP extended(n + m, m);
    extended.H.topLeftCorner(n, n) = qp.H;
    extended.g.head(n) = qp.g;
    extended.R.leftCols(n) = qp.R;
    for (int i = 0; i < m; ++i) {
      weight[i] = std::exp(normal());
      extended.H(n + i, n + i) = weight[i];
      extended.R(i, n + i) = -1.0;
    }
    extended.lower.head(m + n) = qp.lower;
    extended.upper.head(m + n) = qp.upper;
    const Solution expected = solve(extended);
    check(expected.status == Status::SOLVED, "solved by the loop");
    check(norm_inf(expected.x.tail(m)) > 1e-2, "rows are exceeded");
    Vector x, z;
    rescue(qp, weight, x, z);
    check_close(norm_inf(x - expected.x.head(n)), 0.0, 1e-8, "point");
    check_close(norm_inf(z.head(m) - expected.z.head(m)), 0.0, 1e-6, "multipliers");
  }
});

const Register cubes_are_rescued("cubes that the loop gives up on are solved", [] {
  for (const int d : {5, 6, 7, 8}) {
    const StackedQP qp = klee_minty_cube(d);
    const RowMatrix H = qp.H;
    Settings settings;
    settings.eps_abs = 1e-6;
    Solution solution(d, 2 * d);
    DenseSolver({d, 0, d}).solve(view(qp, H), settings, Deadline(0.0), false, solution);
    check(solution.status == Status::SOLVED, "solved");
    check(d < 7 || solution.iterations > 60, "by the rescue");
    const double optimum = -std::pow(100.0, d - 1);
    check_close(solution.objective, optimum, 1e-12 * std::abs(optimum), "objective");
  }
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
  bounds.load_matrices(20, 10, norm_inf(qp.H), qp.R.data());
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
