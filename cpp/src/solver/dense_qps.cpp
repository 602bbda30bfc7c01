#include "qp_control/dense_qps.hpp"

#include <algorithm>

#include "qp_control/dense_solver.hpp"

namespace qp_control {
namespace {

class SolverQps final : public DenseQps {
 public:
  SolverQps(DenseDims dims, const Settings& settings)
      : settings_(settings), solver_(dims), solution_(dims.n, dims.rows()) {}

  DenseOutcome solve(const DenseQP& qp, bool warm, const DensePoint& point) override {
    const long n = qp.dims.n, rows = qp.dims.rows();
    if (warm) {
      std::copy_n(point.x, n, solution_.x.data());
      std::copy_n(point.z, rows, solution_.z.data());
      std::copy_n(point.active, rows, solution_.active.data());
    }
    solver_.solve(qp, settings_, Deadline(settings_.time_limit), warm, solution_);
    std::copy_n(solution_.x.data(), n, point.x);
    for (const auto& [from, to] : {std::pair(&solution_.z, point.z),
                                   {&solution_.active, point.active},
                                   {&solution_.shift_lower, point.shift_lower},
                                   {&solution_.shift_upper, point.shift_upper}})
      std::copy_n(from->data(), rows, to);
    return {solution_.status, solution_.iterations};
  }

 private:
  const Settings settings_;
  DenseSolver solver_;
  Solution solution_;
};

class SolverQpMaker final : public DenseQpMaker {
 public:
  explicit SolverQpMaker(const Settings& settings) : settings_(settings) {}
  std::unique_ptr<DenseQps> make(DenseDims dims, bool certify) const override {
    Settings settings = settings_;
    settings.closest = settings.closest && !certify;
    return std::make_unique<SolverQps>(dims, settings);
  }

 private:
  const Settings settings_;
};

}  // namespace

std::unique_ptr<DenseQpMaker> dense_qp_maker(const Settings& settings) {
  return std::make_unique<SolverQpMaker>(settings);
}

}  // namespace qp_control
