#include "qp_control/ocp_derivatives_batch.hpp"

#include <limits>
#include <memory>
#include <vector>

#include "qp_control/batch.hpp"
#include "qp_control/ocp_batch.hpp"
#include "qp_control/ocp_dense.hpp"
#include "qp_control/ocp_shifted_adjoint.hpp"
#include "qp_control/shared_sum.hpp"

namespace qp_control {

const OcpField ocp_fields[26] = {
    {&OcpBatch::Q, &OcpGradients::Q},
    {&OcpBatch::R, &OcpGradients::R},
    {&OcpBatch::S, &OcpGradients::S},
    {&OcpBatch::q, &OcpGradients::q},
    {&OcpBatch::r, &OcpGradients::r},
    {&OcpBatch::Q_N, &OcpGradients::Q_N},
    {&OcpBatch::q_N, &OcpGradients::q_N},
    {&OcpBatch::A, &OcpGradients::A},
    {&OcpBatch::B, &OcpGradients::B},
    {&OcpBatch::c, &OcpGradients::c},
    {&OcpBatch::x0, &OcpGradients::x0},
    {&OcpBatch::C, &OcpGradients::C},
    {&OcpBatch::D, &OcpGradients::D},
    {&OcpBatch::lower, &OcpGradients::lower},
    {&OcpBatch::upper, &OcpGradients::upper},
    {&OcpBatch::C_N, &OcpGradients::C_N},
    {&OcpBatch::lower_N, &OcpGradients::lower_N},
    {&OcpBatch::upper_N, &OcpGradients::upper_N},
    {&OcpBatch::x_lower, &OcpGradients::x_lower},
    {&OcpBatch::x_upper, &OcpGradients::x_upper},
    {&OcpBatch::u_lower, &OcpGradients::u_lower},
    {&OcpBatch::u_upper, &OcpGradients::u_upper},
    {&OcpBatch::slack_linear, &OcpGradients::slack_linear},
    {&OcpBatch::slack_quadratic, &OcpGradients::slack_quadratic},
    {&OcpBatch::slack_linear_N, &OcpGradients::slack_linear_N},
    {&OcpBatch::slack_quadratic_N, &OcpGradients::slack_quadratic_N},
};

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// What one thread needs, made when it is first needed.
template <class Real>
struct Worker {
  explicit Worker(const OcpBatch& batch) : structured(batch) {}

  struct Dense {
    explicit Dense(const OcpBatch& batch)
        : form(batch),
          qp(form.dims().n, form.dims().n_eq + form.dims().n_in),
          solution(form.dims().n, form.dims().rows()),
          loss(form.dims().n, form.dims().rows()),
          data(form.dims().n, form.dims().n_eq + form.dims().n_in),
          at(form.dims().n, form.dims().rows()) {}
    OcpDense form;
    StackedQP qp;
    Solution solution;
    OutputDerivative loss;
    DataDerivative data;
    SolutionPoint at;
  };
  Dense& dense(const OcpBatch& batch) {
    if (!general) general = std::make_unique<Dense>(batch);
    return *general;
  }

  ShiftedOcpAdjoint& of_shifted(const OcpBatch& batch) {
    if (!shifted) shifted = std::make_unique<ShiftedOcpAdjoint>(batch);
    return *shifted;
  }

  OcpAdjoint<Real> structured;
  std::unique_ptr<ShiftedOcpAdjoint> shifted;
  std::unique_ptr<Dense> general;
};

// What the lanes leave open of element i, `done` of its losses.
template <class Real>
void differentiate_alone(const OcpBatch& batch, int i, const OcpBatchSolution& solution,
                         const DerivativeSettings& settings, const std::vector<OcpLoss>& losses, const bool* done,
                         int width, Worker<Real>& worker) {
  const Status status = static_cast<Status>(solution.status[i]);
  // The recursions of shifted solutions know no slacks.
  const bool shifted = status == Status::CLOSEST_FEASIBLE && settings.weakly_active == WeaklyActive::LEAST_SQUARES &&
                       !batch.softens(0) && !batch.softens(batch.dims.horizon) &&
                       worker.of_shifted(batch).prepare(batch, i, solution);
  for (std::size_t l = 0; l < losses.size(); ++l) {
    const auto& [fields, gradients, certificate] = losses[l];
    if (done[l * width]) continue;
    if (shifted && worker.of_shifted(batch).put(batch, i, fields, gradients, certificate)) continue;
    if (!has_solution(status)) {
      write_certificate({not_a_number, 0, 0}, certificate, i);
      if (!settings.nan_without_solution) continue;
    }
    auto& dense = worker.dense(batch);
    stack(dense.form.problem(batch, i), dense.qp);
    dense.form.read_solution(batch, solution, i, dense.solution);
    dense.form.read_loss(fields, i, dense.loss);
    write_certificate(adjoint(dense.qp, dense.solution, dense.loss, settings, dense.data, dense.at), certificate, i);
    dense.form.add_gradients(batch, dense.data, gradients, i);
  }
}

template <class Real>
void differentiate(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                   const std::vector<OcpLoss>& losses) {
  constexpr int width = OcpAdjoint<Real>::width();
  const bool structured = settings.weakly_active == WeaklyActive::LEAST_SQUARES;
  const int grain = grain_of(batch.size, width), ranges = (batch.size + grain - 1) / grain;
  std::vector<SharedSum> sums;
  for (const OcpLoss& loss : losses)
    for (const OcpField& field : ocp_fields) {
      const StageGradient& gradient = loss.gradients.*field.gradient;
      sums.emplace_back(MutableBatchArray{gradient.data, gradient.batch}, gradient.size, ranges);
    }
  const int threads = thread_count(settings.threads);
  std::vector<std::unique_ptr<Worker<Real>>> workers(threads);
  parallel_for(batch.size, grain, threads, [&](int first, int last, int id) {
    if (!workers[id]) workers[id] = std::make_unique<Worker<Real>>(batch);
    Worker<Real>& worker = *workers[id];
    std::vector<OcpLoss> targets = losses;
    auto sum = sums.begin();
    for (OcpLoss& target : targets)
      for (const OcpField& field : ocp_fields)
        (target.gradients.*field.gradient).data = sum++->of_range(first / grain).data;
    const auto done = std::make_unique<bool[]>(losses.size() * width);
    for (int group = first; group < last; group += width) {
      const int end = std::min(group + width, last);
      if (structured) worker.structured.prepare(batch, group, end, solution);
      for (std::size_t l = 0; l < targets.size() && structured; ++l)
        worker.structured.put(batch, group, end, targets[l].fields, targets[l].gradients, targets[l].certificate,
                              &done[l * width]);
      for (int i = group; i < end; ++i)
        differentiate_alone(batch, i, solution, settings, targets, &done[i - group], width, worker);
    }
  });
  for (SharedSum& sum : sums) sum.finish(ranges);
}

}  // namespace

void ocp_adjoint_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                       const std::vector<OcpLoss>& losses) {
  if (ocp_in_lanes(batch))
    differentiate<Pack>(batch, solution, settings, losses);
  else
    differentiate<double>(batch, solution, settings, losses);
}

}  // namespace qp_control
