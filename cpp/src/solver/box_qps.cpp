#include <algorithm>
#include <limits>
#include <memory>

#include "qp_control/blocks.hpp"
#include "qp_control/dense_box_qps.hpp"
#include "qp_control/dense_solver.hpp"
#include "qp_control/derivatives_batch.hpp"
#include "qp_control/lane_box_qp.hpp"
#include "qp_control/lane_solver.hpp"
#include "qp_control/pack.hpp"

namespace qp_control {
namespace {

constexpr double good_residual = 1e-10;  // of adjoint systems, relative
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

class DenseBoxQps final : public BoxQps {
 public:
  DenseBoxQps(int n, const Settings& settings, const DerivativeSettings& derivatives)
      : n_(n), settings_(settings), derivatives_(derivatives), active_sets_(n), solver_({n, 0, 0}), solution_(n, n) {
    derivatives_.threads = 1;
    batch_.dims = {n, 0, 0};
    batch_.size = 1;
    view({&nan, &nan, &nan, &nan});  // which arrays there are decides what a workspace is made for
    if (LaneSolver::suits(batch_.dims, settings)) lane_solver_ = std::make_unique<LaneSolver>(batch_);
  }

  void solve(int count, const BoxQpData& data, double* x, double* w, long long* status) override {
    view(data);
    DenseBatchSolution out;
    out.x = {x, n_};
    out.w = {w, n_};
    out.status = status;
    out.iterations = iterations_;
    bool solved[lanes] = {};
    active_sets_.solve(count, data, settings_.eps_abs, x, w, solved);
    for (int i = 0; i < count; ++i) {
      status[i] = static_cast<long long>(Status::SOLVED);
      if (solved[i]) continue;
      // Alone: what comes out must not depend on how its neighbours have been solved.
      const Deadline deadline(settings_.time_limit);
      if (lane_solver_) lane_solver_->solve(batch_, i, i + 1, settings_, deadline, false, out, &solved[i]);
      if (solved[i]) continue;
      solver_.solve(batch_.at(i), settings_, Deadline(settings_.time_limit), false, solution_);
      if (solution_.status >= Status::DUAL_INFEASIBLE) solution_.x.setConstant(nan), solution_.z.setConstant(nan);
      write(solution_.x.data(), out.x.at(i), n_);
      write(solution_.z.data(), out.w.at(i), n_);
      status[i] = static_cast<long long>(solution_.status);
    }
  }

  double adjoint(int count, const BoxQpData& data, const double* x, const double* w, const long long* status,
                 const double* by_x, double* by_g, double* by_lb, double* by_ub) override {
    double residuals[lanes];
    std::fill_n(residuals, lanes, std::numeric_limits<double>::infinity());
    if (derivatives_.weakly_active == WeaklyActive::LEAST_SQUARES)
      active_sets_.adjoint(count, data, x, w, by_x, by_g, by_lb, by_ub, residuals);
    double largest = 0.0;  // those without a solution have NaN, which does not count
    for (int i = 0; i < count; ++i) {
      const long at = long(i) * n_;
      if (status[i] != static_cast<long long>(Status::SOLVED) || !(residuals[i] < good_residual)) {
        view({data.H + at * n_, data.g + at, data.lb + at, data.ub + at});
        residuals[i] = general_adjoint(x + at, w + at, status + i, by_x + at, by_g + at, by_lb + at, by_ub + at);
      }
      largest = residuals[i] > largest ? residuals[i] : largest;
    }
    return largest;
  }

 private:
  // Of the problem in view.
  double general_adjoint(const double* x, const double* w, const long long* status, const double* by_x, double* by_g,
                         double* by_lb, double* by_ub) {
    DenseBatchSolution at, loss;
    at.x = {const_cast<double*>(x), n_};
    at.w = {const_cast<double*>(w), n_};
    at.status = const_cast<long long*>(status);
    loss.x = {const_cast<double*>(by_x), n_};
    DataBatch out;
    out.g = {by_g, n_};
    out.lb = {by_lb, n_};
    out.ub = {by_ub, n_};
    double residual = 0.0;
    adjoint_batch(batch_, at, loss, derivatives_, out, {&residual, nullptr, nullptr});
    return residual;
  }

  void view(const BoxQpData& data) {
    const long n = n_;
    batch_.H = {data.H, n * n};
    batch_.g = {data.g, n};
    batch_.lb = {data.lb, n};
    batch_.ub = {data.ub, n};
  }

  const int n_;
  const Settings settings_;
  DerivativeSettings derivatives_;
  DenseBatch batch_;
  LaneBoxQp active_sets_;
  std::unique_ptr<LaneSolver> lane_solver_;
  DenseSolver solver_;
  Solution solution_;
  long long iterations_[lanes];
};

class DenseBoxQpMaker final : public BoxQpMaker {
 public:
  DenseBoxQpMaker(const Settings& settings, const DerivativeSettings& derivatives)
      : settings_(settings), derivatives_(derivatives) {}
  int width() const override { return lanes; }
  bool nan_without_solution() const override { return derivatives_.nan_without_solution; }
  std::unique_ptr<BoxQps> make(int n) const override {
    return std::make_unique<DenseBoxQps>(n, settings_, derivatives_);
  }

 private:
  const Settings settings_;
  const DerivativeSettings derivatives_;
};

}  // namespace

std::unique_ptr<BoxQpMaker> box_qp_maker(const Settings& settings, const DerivativeSettings& derivatives) {
  return std::make_unique<DenseBoxQpMaker>(settings, derivatives);
}

}  // namespace qp_control
