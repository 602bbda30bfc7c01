#include "qp_control/ocp_batch.hpp"

#include <atomic>
#include <limits>
#include <memory>
#include <vector>

#include "qp_control/batch.hpp"
#include "qp_control/blocks.hpp"
#include "qp_control/ocp_dense.hpp"
#include "qp_control/ocp_single.hpp"
#include "qp_control/ocp_solver.hpp"

namespace qp_control {
namespace {

constexpr int largest_stage_in_lanes = 24;
constexpr int largest_dense = 3000;  // variables
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// What one thread needs, made when it is first needed.
template <class Real>
struct Worker {
  explicit Worker(const OcpBatch& batch) : structured(batch) {}

  struct Dense {
    explicit Dense(const OcpBatch& batch)
        : form(batch), solver(form.dims()), solution(form.dims().n, form.dims().rows()) {}
    OcpDense form;
    DenseSolver solver;
    Solution solution;
  };
  Dense& dense(const OcpBatch& batch) {
    if (!general) general = std::make_unique<Dense>(batch);
    return *general;
  }

  OcpSingleSolver& single(const OcpBatch& batch) {
    if (!one) one = std::make_unique<OcpSingleSolver>(batch);
    return *one;
  }

  OcpSolver<Real> structured;
  std::unique_ptr<OcpSingleSolver> one;
  std::unique_ptr<Dense> general;
};

// The fields that an element without a solution leaves NaN, and a feasible one zero.
void fill(const OcpBatch& batch, const OcpBatchSolution& out, int i, double shifts, double rest, bool all) {
  const auto [N, nx, nu, rows, terminal_rows] = batch.dims;
  const auto put = [i](const MutableBatchArray& array, long size, double value) {
    if (array.data != nullptr) std::fill_n(array.at(i), size, value);
  };
  for (const auto* array : {&out.s_lower, &out.s_upper}) put(*array, long(N) * rows, shifts);
  for (const auto* array : {&out.s_lower_N, &out.s_upper_N}) put(*array, terminal_rows, shifts);
  for (const auto* array : {&out.s_x_lower, &out.s_x_upper}) put(*array, long(N + 1) * nx, shifts);
  for (const auto* array : {&out.s_u_lower, &out.s_u_upper}) put(*array, long(N) * nu, shifts);
  for (const auto* array : {&out.certificate_x, &out.certificate_y, &out.certificate_w_x})
    put(*array, long(N + 1) * nx, not_a_number);
  for (const auto* array : {&out.certificate_u, &out.certificate_w_u}) put(*array, long(N) * nu, not_a_number);
  put(out.certificate_z, long(N) * rows, not_a_number);
  put(out.certificate_z_N, terminal_rows, not_a_number);
  const OcpLayout<Pack> layout(batch);
  for (const auto* array : {&out.slack_lower, &out.slack_upper})
    if (layout.soft_rows == 0 || all) put(*array, long(N) * rows, rest);
  for (const auto* array : {&out.slack_lower_N, &out.slack_upper_N})
    if (layout.soft_terminal_rows == 0 || all) put(*array, terminal_rows, rest);
  if (!layout.boxed_x || all) put(out.w_x, long(N + 1) * nx, rest);
  if (!layout.boxed_u || all) put(out.w_u, long(N) * nu, rest);
  if (!all) return;
  put(out.x, long(N + 1) * nx, rest);
  put(out.u, long(N) * nu, rest);
  put(out.y, long(N + 1) * nx, rest);
  put(out.z, long(N) * rows, rest);
  put(out.z_N, terminal_rows, rest);
  for (const auto* array : {&out.objective, &out.primal_residual, &out.dual_residual, &out.duality_gap})
    put(*array, 1, rest);
}

bool has_verdict(Status status) { return status != Status::MAX_ITER && status != Status::NUMERICAL_ERROR; }

template <class Real>
BatchEnd solve(const OcpBatch& batch, const Settings& settings, bool warm, const OcpBatchSolution& out,
               const std::function<bool()>& interrupted) {
  constexpr int width = OcpSolver<Real>::width();
  const int threads = thread_count(settings.threads);
  std::atomic<bool> stop{false}, symmetric{true};
  std::vector<std::unique_ptr<Worker<Real>>> workers(threads);
  parallel_for(batch.size, grain_of(batch.size, width), threads, [&](int first, int last, int id) {
    if (!workers[id]) workers[id] = std::make_unique<Worker<Real>>(batch);
    Worker<Real>& worker = *workers[id];
    for (int group = first; group < last; group += width) {
      if (id == 0 && interrupted()) stop = true;
      if (stop) return;
      const int end = std::min(group + width, last);
      const Deadline deadline(settings.time_limit);
      if (!worker.structured.solve(batch, group, end, settings, deadline, warm, out)) symmetric = false;
      for (int i = group; i < end; ++i) {
        const Status status = static_cast<Status>(out.status[i]);
        fill(batch, out, i, status == Status::SOLVED ? 0.0 : not_a_number,
             status == Status::SOLVED ? 0.0 : not_a_number, status != Status::SOLVED);
        if (status != Status::MAX_ITER) continue;
        const Deadline own(settings.time_limit);  // that of the group has waited for the others
        worker.single(batch).solve(batch, i, settings, own, out);
        const auto& dims = batch.dims;
        if (has_verdict(static_cast<Status>(out.status[i])) || dims.horizon * dims.stage_size() > largest_dense)
          continue;
        auto& [form, solver, solution] = worker.dense(batch);
        solver.solve(form.problem(batch, i), settings, own, false, solution);
        form.write(batch, solution, out, i);
      }
    }
  });
  return stop ? BatchEnd::INTERRUPTED : symmetric ? BatchEnd::DONE : BatchEnd::ASYMMETRIC;
}

}  // namespace

bool ocp_in_lanes(const OcpBatch& batch) { return batch.size > 1 && batch.dims.stage_size() <= largest_stage_in_lanes; }

BatchEnd solve_ocp_batch(const OcpBatch& batch, const Settings& settings, bool warm, const OcpBatchSolution& out,
                         const std::function<bool()>& interrupted) {
  return ocp_in_lanes(batch) ? solve<Pack>(batch, settings, warm, out, interrupted)
                             : solve<double>(batch, settings, warm, out, interrupted);
}

}  // namespace qp_control
