// Solving allocates nothing once the workspaces are there. malloc itself and its relatives are counted, so nothing can
// hide; the build with the address sanitizer, which needs malloc for itself, leaves this file out.
#include <cstdlib>
#include <memory>

#include "check.hpp"
#include "qp_control/lane_solver.hpp"
#include "random_problems.hpp"

namespace {

bool counting = false;
int allocations = 0;

}  // namespace

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* block, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) {
  if (counting) ++allocations;
  return __libc_malloc(size);
}

void* calloc(std::size_t count, std::size_t size) {
  if (counting) ++allocations;
  return __libc_calloc(count, size);
}

void* realloc(void* block, std::size_t size) {
  if (counting) ++allocations;
  return __libc_realloc(block, size);
}

// Types of more than 16 bytes' alignment, such as packs, come from here.
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  if (counting) ++allocations;
  return __libc_memalign(alignment, size);
}

int posix_memalign(void** block, std::size_t alignment, std::size_t size) {
  if (counting) ++allocations;
  *block = __libc_memalign(alignment, size);
  return *block == nullptr ? 12 : 0;  // ENOMEM
}
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

const Register outcomes_allocate_nothing("a solve that ends without a solution allocates nothing", [] {
  const int n = 12;
  DenseSolver solver({n, 0, n});
  Solution solution(n, 2 * n);
  StackedQP indefinite = random_qp(n, n), unbounded = random_qp(n, n), invalid = random_qp(n, n);
  indefinite.H = -indefinite.H;
  unbounded.H.setZero();
  unbounded.lower.setConstant(-std::numeric_limits<double>::infinity());
  unbounded.upper.setConstant(std::numeric_limits<double>::infinity());
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
  expect(unbounded, Settings(), Status::DUAL_INFEASIBLE, "unbounded");
  expect(invalid, Settings(), Status::INVALID_INPUT, "NaN");
  expect(random_qp(n, n), stopped, Status::MAX_ITER, "stopped");
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
