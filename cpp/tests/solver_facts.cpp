// Facts about the solver of dense QPs, its derivatives and its threads.
#include <atomic>
#include <stdexcept>

#include "check.hpp"
#include "qp_control/batch.hpp"
#include "qp_control/dense_batch.hpp"
#include "qp_control/dense_solver.hpp"
#include "qp_control/derivatives.hpp"
#include "qp_control/lane_solver.hpp"
#include "random_problems.hpp"

using namespace qp_control;

namespace {

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

const Register solver_meets_kkt("a random QP satisfies its optimality conditions to rounding", [] {
  for (int trial = 0; trial < 30; ++trial) {
    const StackedQP qp = random_qp(4 + trial % 9, 3 + trial % 7);
    const Solution s = solve(qp);
    check(s.status == Status::SOLVED, "status");
    const Residuals r = residuals(qp, s.x, s.z);
    check(r.primal < 1e-11 && r.dual < 1e-11 && r.complementarity < 1e-11 && std::abs(r.gap) < 1e-10, "residuals");
  }
});

const Register absent_matrices(
    "rows without their matrix or right-hand side are invalid input, and none at all are none", [] {
      const double row[] = {1.0, 1.0}, bound = 1.0;
      DenseSolver solver({2, 1, 1});
      Solution s(2, 4);
      DenseQP qp;
      qp.dims = {2, 1, 1};
      qp.A = qp.C = row;
      qp.b = qp.u = &bound;
      const auto status = [&](const DenseQP& given) {
        solver.solve(given, Settings(), Deadline(0.0), false, s);
        return s.status;
      };
      check(status(qp) == Status::SOLVED, "whole");
      for (const double* DenseQP::* absent : {&DenseQP::A, &DenseQP::b, &DenseQP::C}) {
        DenseQP part = qp;
        part.*absent = nullptr;
        check(status(part) == Status::INVALID_INPUT, "without one of them");
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
