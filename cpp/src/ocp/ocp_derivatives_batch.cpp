#include "qp_control/ocp_derivatives_batch.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <memory>
#include <vector>

#include "qp_control/batch.hpp"
#include "qp_control/ocp_batch.hpp"
#include "qp_control/ocp_dense.hpp"
#include "qp_control/ocp_shifted_system.hpp"
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

// One element in the dense form.
struct Dense {
  explicit Dense(const OcpBatch& batch)
      : form(batch),
        qp(form.dims().n, form.dims().n_eq + form.dims().n_in),
        solution(form.dims().n, form.dims().rows()),
        outputs(form.dims().n, form.dims().rows()),
        data(form.dims().n, form.dims().n_eq + form.dims().n_in),
        at(form.dims().n, form.dims().rows()) {}
  OcpDense form;
  StackedQP qp;
  Solution solution;
  OutputDerivative outputs;
  DataDerivative data;
  SolutionPoint at;
};

// What one thread needs, made when it is first needed.
template <class Real>
struct Worker {
  explicit Worker(const OcpBatch& batch) : structured(batch) {}

  // With problem and solution of element i.
  Dense& dense(const OcpBatch& batch, const OcpBatchSolution& from, int i) {
    if (!general) general = std::make_unique<Dense>(batch);
    stack(general->form.problem(batch, i), general->qp);
    general->form.read_solution(batch, from, i, general->solution);
    return *general;
  }
  ShiftedOcpSystem& of_shifted(const OcpBatch& batch) {
    if (!shifted) shifted = std::make_unique<ShiftedOcpSystem>(batch);
    return *shifted;
  }

  SolvedOcpSystem<Real> structured;
  std::unique_ptr<ShiftedOcpSystem> shifted;
  std::unique_ptr<Dense> general;
};

template <class Real>
int group_grain(const OcpBatch& batch) {
  return grain_of(batch.size, OcpSystem<Real>::width());
}

// What is to be done for every element, in a number of pieces, by one of
//     structured(system, piece, range, first, last, done)   for elements whose system this is, at most one per lane
//     alone(dense, open, range, i)                          for the pieces of an element that this leaves open
//     nothing(system, piece, range, i)                      for elements without a solution.
template <class Real, class Structured, class Alone, class Nothing>
void for_each_element(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                      int pieces, bool factored, const Structured& structured, const Alone& alone,
                      const Nothing& nothing) {
  constexpr int width = OcpSystem<Real>::width();
  const bool by_recursion = settings.weakly_active == WeaklyActive::LEAST_SQUARES;
  const int threads = thread_count(settings.threads), grain = group_grain<Real>(batch);
  std::vector<std::unique_ptr<Worker<Real>>> workers(threads);
  parallel_for(batch.size, grain, threads, [&](int first, int last, int id) {
    if (!workers[id]) workers[id] = std::make_unique<Worker<Real>>(batch);
    Worker<Real>& worker = *workers[id];
    const int range = first / grain;
    const auto done = std::make_unique<bool[]>(pieces * width);
    std::vector<int> open;
    for (int group = first; group < last; group += width) {
      const int end = std::min(group + width, last);
      SolvedOcpSystem<Real>& system = worker.structured;
      if (by_recursion) system.set(batch, group, end, solution);
      if (by_recursion && factored) system.factor();
      for (int piece = 0; piece < pieces && by_recursion; ++piece)
        structured(system, piece, range, group, end, &done[piece * width]);
      for (int i = group; i < end; ++i) {
        const auto is_done = [&](int piece) -> bool& { return done[piece * width + i - group]; };
        const Status status = static_cast<Status>(solution.status[i]);
        const bool shifted =
            by_recursion && status == Status::CLOSEST_FEASIBLE && worker.of_shifted(batch).prepare(batch, i, solution);
        open.clear();
        for (int piece = 0; piece < pieces; ++piece) {
          if (!has_solution(status)) nothing(system, piece, range, i);
          if (shifted) structured(*worker.shifted, piece, range, i, i + 1, &is_done(piece));
          if (has_solution(status) && !is_done(piece)) open.push_back(piece);
        }
        if (!open.empty()) alone(worker.dense(batch, solution, i), open, range, i);
      }
    }
  });
}

template <class Real>
void adjoints(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
              const std::vector<OcpLoss>& losses) {
  const int ranges = (batch.size + group_grain<Real>(batch) - 1) / group_grain<Real>(batch);
  std::vector<SharedSum> sums;
  for (const OcpLoss& loss : losses)
    for (const OcpField& field : ocp_fields) {
      const StageGradient& gradient = loss.gradients.*field.gradient;
      sums.emplace_back(MutableBatchArray{gradient.data, gradient.batch}, gradient.size, ranges);
    }
  const auto target = [&](int l, int range) {
    OcpLoss out = losses[l];
    auto sum = sums.begin() + l * std::size(ocp_fields);
    for (const OcpField& field : ocp_fields) (out.gradients.*field.gradient).data = sum++->of_range(range).data;
    return out;
  };
  for_each_element<Real>(
      batch, solution, settings, static_cast<int>(losses.size()), true,
      [&](auto& at, int l, int range, int first, int last, bool* done) {
        differentiate(at, batch, first, last, target(l, range), done);
      },
      [&](Dense& at, const std::vector<int>& open, int range, int i) {
        for (const int l : open) {
          at.form.read_loss(losses[l].fields, i, at.outputs);
          const DerivativeCertificate proof = adjoint(at.qp, at.solution, at.outputs, settings, at.data, at.at);
          write_certificate(proof, losses[l].certificate, i);
          at.form.add_gradients(batch, at.data, target(l, range).gradients, i);
        }
      },
      [&](auto&, int l, int range, int i) {
        write_certificate({not_a_number, 0, 0}, losses[l].certificate, i);
        const OcpLoss to = target(l, range);
        for (const OcpField& field : ocp_fields) {
          const StageGradient& gradient = to.gradients.*field.gradient;
          if (settings.nan_without_solution && gradient.data != nullptr)
            std::fill_n(gradient.data + i * gradient.batch, gradient.size, not_a_number);
        }
      });
  for (SharedSum& sum : sums) sum.finish(ranges);
}

template <class Real>
void write_not_a_number(const OcpSystem<Real>& at, const OcpBatchSolution& to, int i) {
  const PackArray unknowns = PackArray::Constant(at.v.unknowns.size(), Pack(not_a_number));
  const PackArray rows = PackArray::Constant(at.v.rows.size(), Pack(not_a_number));
  at.write(unknowns, rows, to, i, i + 1, Mask::all(true));
}

template <class Real>
void tangents(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
              const std::vector<OcpChange>& changes) {
  for_each_element<Real>(
      batch, solution, settings, static_cast<int>(changes.size()), true,
      [&](auto& at, int piece, int, int first, int last, bool* done) {
        differentiate(at, batch, first, last, changes[piece], done);
      },
      [&](Dense& at, const std::vector<int>& open, int, int i) {
        for (const int piece : open) {
          const auto& [data, fields, certificate] = changes[piece];
          at.form.read_change(batch, data, i, at.data);
          write_certificate(tangent(at.qp, at.solution, at.data, settings, at.outputs, at.at), certificate, i);
          at.form.write_change(at.outputs, fields, i);
        }
      },
      [&](auto& at, int piece, int, int i) {
        const auto& [data, fields, certificate] = changes[piece];
        write_certificate({not_a_number, 0, 0}, certificate, i);
        if (!settings.nan_without_solution) return;
        for (const OcpBatchSolution& part : {fields, lower_shifts(fields), upper_shifts(fields)})
          write_not_a_number(at, part, i);
        if (fields.objective.data != nullptr) *fields.objective.at(i) = not_a_number;
      });
}

template <class Real>
void systems(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
             const std::vector<OcpRightHandSide>& sides) {
  for_each_element<Real>(
      batch, solution, settings, static_cast<int>(sides.size()), true,
      [&](auto& at, int piece, int, int first, int last, bool* done) { solve(at, first, last, sides[piece], done); },
      [&](Dense& at, const std::vector<int>& open, int, int i) {
        KktVector rhs(at.qp.n(), at.qp.rows()), q(at.qp.n(), at.qp.rows());
        solution_point(at.qp, at.solution, settings, at.at);
        KktSystem system(at.qp, at.at.pattern, at.at.room, at.at.level);
        for (const int piece : open) {
          at.form.read(sides[piece].rhs, at.at.pattern, i, rhs);
          system.solve(rhs, q);
          at.form.write(q, at.at.pattern, sides[piece].q, i);
        }
      },
      [&](auto& at, int piece, int, int i) {
        if (!settings.nan_without_solution) return;
        for (const OcpBatchSolution& part : {sides[piece].q.point, sides[piece].q.level})
          write_not_a_number(at, part, i);
      });
}

template <class Real>
void points(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
            const OcpSystemArrays& v, const OcpRoles& roles) {
  for_each_element<Real>(
      batch, solution, settings, 1, false,
      [&](auto& at, int, int, int first, int last, bool* done) {
        write_point(at, first, last, v, roles);
        for (int lane = 0; lane < last - first; ++lane) done[lane] = at.able()[lane];
      },
      [&](Dense& at, const std::vector<int>&, int, int i) {
        solution_point(at.qp, at.solution, settings, at.at);
        at.form.write(at.at.v, at.at.pattern, v, i);
        at.form.write(at.at.pattern, roles, i);
      },
      [](auto&, int, int, int) {});
}

}  // namespace

void ocp_adjoint_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                       const std::vector<OcpLoss>& losses) {
  ocp_in_lanes(batch) ? adjoints<Pack>(batch, solution, settings, losses)
                      : adjoints<double>(batch, solution, settings, losses);
}

void ocp_tangent_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                       const std::vector<OcpChange>& changes) {
  ocp_in_lanes(batch) ? tangents<Pack>(batch, solution, settings, changes)
                      : tangents<double>(batch, solution, settings, changes);
}

void ocp_system_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                      const std::vector<OcpRightHandSide>& sides) {
  ocp_in_lanes(batch) ? systems<Pack>(batch, solution, settings, sides)
                      : systems<double>(batch, solution, settings, sides);
}

void ocp_point_batch(const OcpBatch& batch, const OcpBatchSolution& solution, const DerivativeSettings& settings,
                     const OcpSystemArrays& v, const OcpRoles& roles) {
  ocp_in_lanes(batch) ? points<Pack>(batch, solution, settings, v, roles)
                      : points<double>(batch, solution, settings, v, roles);
}

}  // namespace qp_control
