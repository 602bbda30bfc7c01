// Solving allocates nothing once the workspaces are there.
#include <memory>

#include "allocations.hpp"
#include "check.hpp"
#include "qp_control/certificates.hpp"
#include "qp_control/lane_solver.hpp"
#include "qp_control/ocp_single.hpp"
#include "qp_control/ocp_solver.hpp"
#include "random_ocp.hpp"

using namespace qp_control;

namespace {

const Register counter_counts("negative control: what does allocate is counted", [] {
  check(allocations_of([] { std::make_unique<std::vector<double>>(10); }) > 0, "operator new");
  check(allocations_of([] { Vector::Ones(10).eval(); }) > 0, "Eigen");
  struct alignas(64) Wide {
    double entries[8];
  };
  check(allocations_of([] { std::make_unique<std::vector<Wide>>(10); }) > 1, "aligned operator new");
  check(allocations_of([] { std::free(std::calloc(10, 8)); }) == 1, "calloc");
  check(allocations_of([] { std::free(std::realloc(nullptr, 80)); }) == 1, "realloc");
});

const Register solver_allocates_nothing("a solve allocates nothing, cold and warm", [] {
  for (const int n : {3, 10, 60}) {
    DenseSolver solver({n, 0, n});
    Solution solution(n, 2 * n);
    const Settings settings;
    for (int trial = 0; trial < 10; ++trial) {
      const StackedQP qp = random_qp(n, n);
      const RowMatrix H = qp.H;
      const DenseQP problem = view(qp, H);
      check(allocations_of([&] { solver.solve(problem, settings, Deadline(0.0), false, solution); }) == 0, "cold");
      check(solution.status == Status::SOLVED, "solved");
      check(allocations_of([&] { solver.solve(problem, settings, Deadline(0.0), true, solution); }) == 0, "warm");
      check(solution.status == Status::SOLVED && solution.iterations < 5, "solved again at once");
    }
  }
});

const Register diagonal_allocates_once("of solves with a diagonal H only the first allocates", [] {
  const int n = 20;
  DenseSolver solver({n, 1, 9});
  Solution solution(n, 10 + n);
  for (int trial = 0; trial < 10; ++trial) {
    const StackedQP qp = random_qp(n, 10);  // whose first row is an equality
    const RowMatrix H = Vector(qp.H.diagonal()).asDiagonal();
    DenseQP problem = view(qp, H);
    problem.dims = {n, 1, 9};
    problem.A = qp.R.data();
    problem.b = qp.upper.data();
    problem.C += n;
    problem.l += 1;
    problem.u += 1;
    problem.weight_in += 1;
    const bool warm = trial % 2 == 1;
    const long allocations = allocations_of([&] { solver.solve(problem, Settings(), Deadline(0.0), warm, solution); });
    check(trial == 0 || allocations == 0, "allocations");
    check(solution.status == Status::SOLVED, "solved");
  }
});

constexpr double infinity = std::numeric_limits<double>::infinity();

// Solves problems of one size, also with shared matrices. As many solves as there are workspaces that few problems need
// may allocate, each of them once: that of the first, and a rescue for the problem and for each of its two levels.
class Once {
 public:
  Once(int n, int stored, const Settings& settings, int workspaces = 4)
      : solver_({n, 0, stored}), solution_(n, stored + n), settings_(settings), left_(workspaces) {}

  const Solution& solve(const StackedQP& qp, Status status, const char* what) {
    const RowMatrix H = qp.H;
    DenseQP problem = view(qp, H);
    if (qp.linear_program) problem.H = nullptr;
    for (const Same same : {Same::NOTHING, Same::HESSIAN, Same::MATRICES}) {
      left_ -= allocations_of([&] { solver_.solve(problem, settings_, Deadline(0.0), false, solution_, same); }) > 0;
      check(left_ >= 0, what);
      check(solution_.status == status, what);
    }
    return solution_;
  }

 private:
  DenseSolver solver_;
  Solution solution_;
  const Settings settings_;
  int left_;
};

const Register outcomes_allocate_nothing("a solve that ends without a solution allocates nothing", [] {
  const int n = 12;
  DenseSolver solver({n, 0, n});
  Solution solution(n, 2 * n);
  StackedQP indefinite = random_qp(n, n), invalid = random_qp(n, n);
  indefinite.H = -indefinite.H;
  invalid.g[3] = std::numeric_limits<double>::quiet_NaN();
  Settings stopped;
  stopped.max_iter = 1;
  const auto expect = [&](const StackedQP& qp, const Settings& settings, Status status, const char* what) {
    const RowMatrix H = qp.H;
    const DenseQP problem = view(qp, H);
    check(allocations_of([&] { solver.solve(problem, settings, Deadline(0.0), false, solution); }) == 0, what);
    check(solution.status == status, what);
  };
  expect(indefinite, Settings(), Status::NON_CONVEX, "indefinite");
  expect(invalid, Settings(), Status::INVALID_INPUT, "NaN");
  expect(random_qp(n, n), stopped, Status::MAX_ITER, "stopped");
});

const Register rays_allocate_nothing("unbounded problems allocate once", [] {
  for (const int n : {3, 10, 60}) {
    Once solver(n, n, Settings(), 1);
    for (int fixed = 0; fixed < n; fixed += 1 + n / 3) {
      StackedQP qp = random_qp(n, n);
      const Vector ray = random<Vector>(n);
      qp.lower.setConstant(-infinity);
      qp.upper.setConstant(infinity);
      qp.H -= qp.H * ray * (ray.transpose() * qp.H) / ray.dot(qp.H * ray);
      qp.H = 0.5 * (qp.H + qp.H.transpose()).eval();
      qp.g = -ray;
      for (int i = 0; i < fixed; ++i) {
        qp.R.row(i) -= qp.R.row(i).dot(ray) / ray.squaredNorm() * ray.transpose();
        qp.lower[i] = -1.0;
        qp.upper[i] = 1.0;
      }
      solver.solve(qp, Status::DUAL_INFEASIBLE, "unbounded");
    }
  }
});

const Register closest_allocates_nothing("closest feasible problems allocate once", [] {
  Settings closest;
  closest.closest = true;
  for (const int n : {3, 10, 60, 140}) {
    const int stored = n + 1;
    Once solver(n, stored, closest);
    for (int pairs = 1; 2 * pairs <= stored; pairs += 1 + n / 5) {
      StackedQP qp = contradicting_qp(n, stored, pairs);
      solver.solve(qp, Status::CLOSEST_FEASIBLE, "contradicting rows");
      for (double& weight : qp.weight) weight = std::exp(normal());
      solver.solve(qp, Status::CLOSEST_FEASIBLE, "weights");
    }
    StackedQP crossed = contradicting_qp(n, stored, 1);
    std::swap(crossed.lower[2], crossed.upper[2]);
    crossed.lower[stored] = crossed.upper[stored] + 0.1;
    for (int i = 0; i + 1 < stored; i += 2) crossed.lower[i] = crossed.upper[i] + 0.1;
    solver.solve(crossed, Status::CLOSEST_FEASIBLE, "crossed bounds, rows and box");
    StackedQP all = random_qp(n, stored);  // the largest first level
    for (int i = 0; i < all.rows(); ++i) all.lower[i] = all.upper[i] + 1.0;
    solver.solve(all, Status::CLOSEST_FEASIBLE, "all bounds crossed");
    solver.solve(random_qp(n, stored), Status::SOLVED, "feasible");
  }
});

const Register hard_rows_allocate_nothing("hard rows that hold or contradict allocate once", [] {
  Settings closest;
  closest.closest = true;
  for (const int n : {3, 10, 60, 140}) {
    Once solver(n, n, closest);
    for (int pairs = 1; 2 * pairs <= n; pairs += 1 + n / 5) {
      StackedQP qp = contradicting_qp(n, n, pairs);
      for (int i = 0; i < 2 * pairs; i += 2) qp.weight[i] = infinity;
      solver.solve(qp, Status::CLOSEST_FEASIBLE, "one row of each pair is hard");
      for (int i = 0; i < 2 * pairs; ++i) qp.weight[i] = infinity;
      const Solution& solution = solver.solve(qp, Status::PRIMAL_INFEASIBLE, "both are");
      check(is_farkas(qp, solution.certificate_z, Vector::Zero(n)), "certificate");
    }
  }
});

const Register certificates_allocate_nothing("proofs of infeasibility allocate once", [] {
  for (const int n : {3, 10, 60, 140}) {
    Once solver(n, n, Settings());
    for (int pairs = 1; 2 * pairs <= n; pairs += 1 + n / 5) {
      const StackedQP qp = contradicting_qp(n, n, pairs);
      const Solution& solution = solver.solve(qp, Status::PRIMAL_INFEASIBLE, "contradicting rows");
      check(is_farkas(qp, solution.certificate_z, Vector::Zero(n)), "certificate");
      StackedQP crossed = qp;
      crossed.lower[0] = crossed.upper[0] + 1.0;
      solver.solve(crossed, Status::PRIMAL_INFEASIBLE, "crossed bounds");
    }
  }
});

const Register rescue_allocates_nothing("the rescue allocates once", [] {
  Settings settings;
  settings.eps_abs = 1e-6;
  for (const int d : {3, 7, 8}) {
    Once solver(d, d, settings, 1);
    for (int k = 0; k < 2; ++k) {
      const Solution& solution = solver.solve(klee_minty_cube(d), Status::SOLVED, "cube");
      if (d > 3) check(solution.iterations > 60, "the loop has given up");
    }
  }
  for (const int n : {10, 60}) {
    Once solver(n, n / 2, settings, 2);  // the rescue, and the search for a ray
    generator.seed(n);
    int rescued = 0;
    for (int k = 0; k < 24; ++k) {
      Vector x;
      rescued += solver.solve(linear_program(n, n / 2, 8.0, x), Status::SOLVED, "linear program").iterations > 60;
    }
    check(n < 60 || rescued > 0, "some are rescued");
  }
});

const Register lanes_allocate_nothing("a solve in lanes allocates nothing", [] {
  const int n = 10;
  const StackedQP qp = random_qp(n, n);
  const RowMatrix H = qp.H;
  DenseBatch batch;
  batch.dims = {n, 0, n};
  batch.size = lanes;
  batch.H = {H.data(), 0};
  batch.g = {qp.g.data(), 0};
  batch.C = {qp.R.data(), 0};
  batch.l = {qp.lower.data(), 0};
  batch.u = {qp.upper.data(), 0};
  std::vector<long long> status(lanes), iterations(lanes);
  std::vector<double> x(lanes * n);
  DenseBatchSolution out;
  out.x = {x.data(), n};
  out.status = status.data();
  out.iterations = iterations.data();
  LaneSolver solver(batch);
  bool solved[lanes];
  check(allocations_of([&] { solver.solve(batch, 0, lanes, Settings(), Deadline(0.0), false, out, solved); }) == 0,
        "cold");
  for (const bool one : solved) check(one, "solved");
  check(allocations_of([&] { solver.solve(batch, 0, lanes, Settings(), Deadline(0.0), true, out, solved); }) == 0,
        "warm, with the same matrices");
  for (const bool one : solved) check(one, "solved again");
});

template <class Real>
void ocp_allocates_nothing(int nx, bool soft) {
  const int B = OcpSolver<Real>::width();
  RandomOcp ocp(6, nx, 2, B);
  if (soft) ocp.soften(0.2, 1.0);
  OcpSolver<Real> solver(ocp.batch);
  for (const bool warm : {false, true}) {
    const auto solve = [&] { solver.solve(ocp.batch, 0, B, Settings(), Deadline(0.0), warm, ocp.solution); };
    check(allocations_of(solve) == 0, warm ? "warm" : "cold");
    for (const long long one : ocp.status) check(one == 0, "solved");
  }
  const MutableBatchArray& w_u = ocp.solution.w_u;
  check(*std::max_element(w_u.data, w_u.data + B * w_u.stride) > 0.0, "a bound is active");
  const MutableBatchArray& slack = ocp.solution.slack_upper;
  check(!soft || *std::max_element(slack.data, slack.data + B * slack.stride) > 0.0, "a slack is");
}

const Register riccati_allocates_nothing("an optimal-control solve allocates nothing, in lanes and alone", [] {
  for (const bool soft : {false, true}) {
    ocp_allocates_nothing<Pack>(3, soft);
    ocp_allocates_nothing<double>(3, soft);
    ocp_allocates_nothing<double>(30, soft);
  }
});

// Solves elements of a batch; the first that is infeasible makes the levels of its closest feasible problem.
class OcpOnce {
 public:
  OcpOnce(RandomOcp& ocp, bool closest, int workspaces) : ocp_(ocp), solver_(ocp.batch), left_(workspaces) {
    settings_.closest = closest;
  }

  void solve(int i, Status status, const char* what) {
    for (int pass = 0; pass < 2; ++pass) {
      const auto solve = [&] { solver_.solve(ocp_.batch, i, settings_, Deadline(0.0), ocp_.solution); };
      left_ -= allocations_of(solve) > 0;
      check(left_ >= 0, what);
      check(ocp_.status[i] == static_cast<long long>(status), what);
    }
  }

 private:
  RandomOcp& ocp_;
  OcpSingleSolver solver_;
  Settings settings_;
  int left_;
};

const Register single_ocp_allocates_nothing("an optimal-control problem apart from the lanes allocates once", [] {
  for (const int nx : {3, 20}) {
    for (const bool closest : {false, true}) {
      const Status infeasible = closest ? Status::CLOSEST_FEASIBLE : Status::PRIMAL_INFEASIBLE;
      RandomOcp ocp(6, nx, 2, 4);
      double* x_lower = ocp.constant(4L * nx, -infinity);
      double* u_upper = ocp.constant(4L * 2, 0.2);
      x_lower[1 * nx] = 100.0;
      x_lower[2 * nx + 1] = 50.0;
      u_upper[3 * 2] = -6.0;  // below its lower bound
      ocp.batch.x_lower = {x_lower, nx, 0};
      ocp.batch.u_upper = {u_upper, 2, 0};
      OcpOnce solver(ocp, closest, 1);
      solver.solve(0, Status::SOLVED, "feasible");
      solver.solve(1, infeasible, "out of reach");
      solver.solve(2, infeasible, "out of reach, another row");
      solver.solve(3, infeasible, "crossed bounds");
      solver.solve(0, Status::SOLVED, "feasible again");
    }
    RandomOcp unbounded(6, nx, 2, 1);
    unbounded.batch.Q = unbounded.batch.R = {};
    unbounded.batch.r = {unbounded.constant(2, 1.0), 0, 0};
    unbounded.batch.q = unbounded.batch.lower = unbounded.batch.lower_N = unbounded.batch.u_lower = {};
    OcpOnce(unbounded, false, 0).solve(0, Status::DUAL_INFEASIBLE, "unbounded");

    RandomOcp rescued(6, nx, 2, 1);
    RiccatiKkt<double> kkt(rescued.batch);
    Equilibration scaling(kkt.unknowns(), kkt.rows());
    kkt.load(rescued.batch, 0, 1, scaling);
    Iterate it(kkt.unknowns(), kkt.rows());
    InteriorPoint<OcpStepSystem> rescue(kkt);
    const PackArray hard = PackArray::Constant(kkt.rows(), Pack(0.0));
    const auto run = [&] {
      rescue.load(kkt, hard);
      rescue.run(100, Deadline(0.0), it);
    };
    check(allocations_of(run) == 0, "rescue");
    check(it.steps > 3 && it.steps < 40, "found");
  }
});

}  // namespace

int main() { return run_facts(); }
