// Solving allocates nothing once the workspaces are there. malloc itself is counted, so nothing can hide; the build
// with the address sanitizer, which needs malloc for itself, leaves this file out.
#include <cstdlib>
#include <memory>

#include "check.hpp"
#include "qp_control/lane_solver.hpp"
#include "random_problems.hpp"

namespace {

bool counting = false;
int allocations = 0;

}  // namespace

extern "C" void* __libc_malloc(std::size_t size);
extern "C" void* malloc(std::size_t size) {
  if (counting) ++allocations;
  return __libc_malloc(size);
}

using namespace qp_control;

namespace {

template <class Body>
int allocations_of(const Body& body) {
  allocations = 0;
  counting = true;
  body();
  counting = false;
  return allocations;
}

const Register counter_counts("negative control: what does allocate is counted", [] {
  check(allocations_of([] { std::make_unique<std::vector<double>>(10); }) > 0, "operator new");
  check(allocations_of([] { Vector::Ones(10).eval(); }) > 0, "Eigen");
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
});

}  // namespace

int main() { return run_facts(); }
