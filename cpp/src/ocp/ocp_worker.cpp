#include "qp_control/ocp_worker.hpp"

#include <algorithm>
#include <limits>

namespace qp_control {
namespace {

constexpr int largest_dense = 3000;  // variables
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

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

}  // namespace

template <class Real>
void OcpWorker<Real>::reserve(const OcpBatch& batch) {
  single(batch).reserve(batch);
}

template <class Real>
OcpSingleSolver& OcpWorker<Real>::single(const OcpBatch& batch) {
  if (!single_) single_ = std::make_unique<OcpSingleSolver>(batch);
  return *single_;
}

template <class Real>
typename OcpWorker<Real>::Dense& OcpWorker<Real>::dense(const OcpBatch& batch) {
  if (!dense_) dense_ = std::make_unique<Dense>(batch);
  return *dense_;
}

template <class Real>
bool OcpWorker<Real>::solve(const OcpBatch& batch, int first, int last, const Settings& settings, bool warm,
                            const OcpBatchSolution& out) {
  const Deadline deadline(settings.time_limit);
  const bool symmetric = structured_.solve(batch, first, last, settings, deadline, warm, out);
  for (int i = first; i < last; ++i) {
    const Status status = static_cast<Status>(out.status[i]);
    fill(batch, out, i, status == Status::SOLVED ? 0.0 : not_a_number, status == Status::SOLVED ? 0.0 : not_a_number,
         status != Status::SOLVED);
    if (status != Status::MAX_ITER) continue;
    const Deadline own(settings.time_limit);  // that of the group has waited for the others
    single(batch).solve(batch, i, settings, own, out);
    const auto& dims = batch.dims;
    if (has_verdict(static_cast<Status>(out.status[i])) || dims.horizon * dims.stage_size() > largest_dense) continue;
    auto& [form, solver, solution] = dense(batch);
    solver.solve(form.problem(batch, i), settings, own, false, solution);
    form.write(batch, solution, out, i);
  }
  return symmetric;
}

template class OcpWorker<Pack>;
template class OcpWorker<double>;

}  // namespace qp_control
