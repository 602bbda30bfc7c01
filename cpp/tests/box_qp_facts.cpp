// Facts about QPs with bounds as other modules see them, against the solver's own classes.
#include <limits>
#include <vector>

#include "check.hpp"
#include "qp_control/dense_box_qps.hpp"
#include "qp_control/dense_solver.hpp"
#include "qp_control/lane_box_qp.hpp"
#include "random_problems.hpp"

using namespace qp_control;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Problems {
  // Like those of contact: rows that come in groups of nearly equal ones, and some with two bounds.
  Problems(int count, int n) : n(n), H(count * n * n), g(count * n), lower(g.size(), 0.0), upper(g.size(), infinity) {
    for (int p = 0; p < count; ++p) {
      Matrix G = random<Matrix>(n, 3 * n / 4 + 1);
      for (int i = 1; i < n; i += 2) G.row(i) = G.row(i - 1) + 1e-2 * G.row(i);
      const Matrix M = G * G.transpose() + 1e-3 * Matrix::Identity(n, n);
      Eigen::Map<Matrix>(H.data() + p * n * n, n, n) = 0.5 * (M + M.transpose());
      const Vector r = 3.0 * random<Vector>(n);
      std::copy_n(r.data(), n, g.data() + p * n);
      for (int i = n - n / 4; i < n; ++i) {
        lower[p * n + i] = -0.1;
        upper[p * n + i] = 0.1;
      }
    }
  }
  BoxQpData at(int p) const {
    return {H.data() + p * n * n, g.data() + p * n, lower.data() + p * n, upper.data() + p * n};
  }
  int n;
  std::vector<double> H, g, lower, upper;
};

const Register solutions("solutions equal those of the general solver, alone and beside others", [] {
  const auto maker = box_qp_maker(Settings(), DerivativeSettings());
  int by_sets = 0, all = 0;
  for (const int n : {1, 2, 7, 16, 28}) {
    const int count = maker->width();
    const auto qps = maker->make(n);
    LaneBoxQp sets(n);
    for (int round = 0; round < 20; ++round) {
      const Problems problems(count, n);
      std::vector<double> x(count * n), w(x), alone_x(n), alone_w(n);
      std::vector<long long> status(count);
      qps->solve(count, problems.at(0), x.data(), w.data(), status.data());
      bool solved[lanes] = {};
      std::vector<double> x_sets(x), w_sets(w);
      sets.solve(count, problems.at(0), 1e-8, x_sets.data(), w_sets.data(), solved);
      for (int p = 0; p < count; ++p) {
        ++all;
        by_sets += solved[p];
        check(status[p] == 0, "solved");
        qps->solve(1, problems.at(p), alone_x.data(), alone_w.data(), status.data());
        for (int i = 0; i < n; ++i) {
          check(alone_x[i] == x[p * n + i] && alone_w[i] == w[p * n + i], "alone it is the same to the bit");
          const double at = x[p * n + i], multiplier = w[p * n + i];
          check(at >= problems.lower[p * n + i] - 1e-8 && at <= problems.upper[p * n + i] + 1e-8, "within bounds");
          check(multiplier >= 0.0 || at <= problems.lower[p * n + i] + 1e-8, "pushed up at the lower bound only");
          check(multiplier <= 0.0 || at >= problems.upper[p * n + i] - 1e-8, "pushed down at the upper bound only");
        }
        DenseSolver solver({n, 0, 0});
        Solution expected(n, n);
        const BoxQpData data = problems.at(p);
        DenseQP qp{};
        qp.dims = {n, 0, 0};
        qp.H = data.H;
        qp.g = data.g;
        qp.lb = data.lb;
        qp.ub = data.ub;
        solver.solve(qp, Settings(), Deadline(0.0), false, expected);
        const Vector found = Eigen::Map<const Vector>(x.data() + p * n, n);
        check_close((found - expected.x).norm(), 0.0, 1e-5, "x");  // 1e-8 over the least eigenvalue
        const Vector pushed = Eigen::Map<const Vector>(w.data() + p * n, n);
        check_close((pushed - expected.z).norm(), 0.0, 1e-6, "w");
      }
    }
  }
  check(by_sets > all / 2 && by_sets < all, "many by a few active sets, and the others too");
});

const Register gradients("gradients equal differences of solutions", [] {
  const int n = 12;
  const auto maker = box_qp_maker(Settings(), DerivativeSettings());
  const auto qps = maker->make(n);
  for (int round = 0; round < 10; ++round) {
    Problems problems(1, n);
    std::vector<double> x(n), w(n), by_g(n), by_lb(n), by_ub(n), moved(n), other(n);
    const Vector loss = random<Vector>(n);
    long long status, again;
    qps->solve(1, problems.at(0), x.data(), w.data(), &status);
    const double residual = qps->adjoint(1, problems.at(0), x.data(), w.data(), &status, loss.data(), by_g.data(),
                                         by_lb.data(), by_ub.data());
    check(residual < 1e-8, "residual of the adjoint");
    const double h = 1e-6;
    const auto difference = [&](std::vector<double>& data, int i) {
      double change = 0.0;
      for (const double side : {1.0, -1.0}) {
        const double before = data[i];
        data[i] += side * h;
        qps->solve(1, problems.at(0), moved.data(), other.data(), &again);
        data[i] = before;
        change += side * loss.dot(Eigen::Map<const Vector>(moved.data(), n)) / (2.0 * h);
      }
      return change;
    };
    for (int i = 0; i < n; ++i) {
      check_close(by_g[i], difference(problems.g, i), 1e-4 * (1.0 + std::abs(by_g[i])), "by g");
      check_close(by_lb[i], difference(problems.lower, i), 1e-4 * (1.0 + std::abs(by_lb[i])), "by lb");
      if (problems.upper[i] < infinity)
        check_close(by_ub[i], difference(problems.upper, i), 1e-4 * (1.0 + std::abs(by_ub[i])), "by ub");
    }
  }
});

const Register failures("what is no problem has no solution, and its neighbours have theirs", [] {
  const int n = 4;
  const auto maker = box_qp_maker(Settings(), DerivativeSettings());
  const auto qps = maker->make(n);
  Problems problems(2, n);
  std::vector<double> x(2 * n), w(2 * n), good(n), pushed(n);
  std::vector<long long> status(2);
  qps->solve(1, problems.at(1), good.data(), pushed.data(), status.data());
  problems.g[0] = std::numeric_limits<double>::quiet_NaN();
  qps->solve(2, problems.at(0), x.data(), w.data(), status.data());
  check(status[0] == static_cast<int>(Status::INVALID_INPUT) && std::isnan(x[0]), "NaN is refused");
  check(status[1] == 0 && std::equal(good.begin(), good.end(), x.begin() + n), "the neighbour is solved");
});

}  // namespace

int main() { return run_facts(); }
