#include "qp_control/derivatives_batch.hpp"

#include <limits>
#include <memory>
#include <vector>

#include "qp_control/batch.hpp"
#include "qp_control/blocks.hpp"
#include "qp_control/lane_adjoint.hpp"
#include "qp_control/lane_solver.hpp"
#include "qp_control/shared_sum.hpp"

namespace qp_control {
namespace {

// What one thread needs: memory is taken once per thread and call, not per element.
struct Worker {
  explicit Worker(DenseDims d)
      : qp(d.n, d.n_eq + d.n_in),
        solution(d.n, d.rows()),
        outputs(d.n, d.rows()),
        data(d.n, d.n_eq + d.n_in),
        at(d.n, d.rows()),
        rhs(d.n, d.rows()),
        v(d.n, d.rows()) {}
  StackedQP qp;
  Solution solution;
  OutputDerivative outputs;
  DataDerivative data;
  SolutionPoint at;
  KktVector rhs, v;
};

// Calls body(worker, i, range) for every element.
template <class Body>
void for_each_element(const DenseBatch& batch, int threads, const Body& body) {
  const int grain = grain_of(batch.size), used = thread_count(threads);
  std::vector<std::unique_ptr<Worker>> workers(used);
  parallel_for(batch.size, grain, used, [&](int first, int last, int id) {
    if (!workers[id]) workers[id] = std::make_unique<Worker>(batch.dims);
    for (int i = first; i < last; ++i) body(*workers[id], i, first / grain);
  });
}

// s_eq = upper - lower.
void read_shifts(const Blocks& k, const DenseBatchSolution& from, int i, Vector& lower, Vector& upper) {
  read(from.s_eq.at(i), upper.data(), k.n_eq);
  lower.head(k.n_eq).setZero();
  read(from.s_lower.at(i), lower.data() + k.n_eq, k.n_in);
  read(from.s_upper.at(i), upper.data() + k.n_eq, k.n_in);
  read(from.s_lb.at(i), lower.data() + k.box, k.n);
  read(from.s_ub.at(i), upper.data() + k.box, k.n);
}

// Reads problem and solution of element i; data that makes no problem has no solution.
void read_element(const DenseBatch& batch, const DenseBatchSolution& solution, int i, Worker& w) {
  const Blocks blocks(batch.dims);
  w.solution.status = static_cast<Status>(solution.status[i]);
  if (!stack(batch.at(i), w.qp) && has_solution(w.solution.status)) w.solution.status = Status::INVALID_INPUT;
  read_point(blocks, solution, i, w.solution.x, w.solution.z);
  read_shifts(blocks, solution, i, w.solution.shift_lower, w.solution.shift_upper);
  if (solution.kept.data != nullptr && !LaneSolver::small(batch.dims))
    w.at.kept.emplace(solution.kept.at(i), blocks.n, blocks.box);
}

bool finite(const DataDerivative& grad) {
  return all_finite(grad.H) && all_finite(grad.g) && all_finite(grad.R) && all_finite(grad.lower) &&
         all_finite(grad.upper);
}

// What is shared is a sum.
void put(const double* from, const MutableBatchArray& to, int i, long size) {
  if (to.stride == 0)
    add(from, to.data, size);
  else
    write(from, to.at(i), size);
}

void put_gradients(const Blocks& k, const DataDerivative& grad, const DataBatch& out, int i) {
  put(grad.H.data(), out.H, i, long(k.n) * k.n);
  put(grad.g.data(), out.g, i, k.n);
  put(grad.R.data(), out.A, i, long(k.n_eq) * k.n);
  put(grad.R.data() + long(k.n_eq) * k.n, out.C, i, long(k.n_in) * k.n);
  const Vector b = (grad.lower + grad.upper).head(k.n_eq);
  put(b.data(), out.b, i, k.n_eq);
  put(grad.lower.data() + k.n_eq, out.l, i, k.n_in);
  put(grad.upper.data() + k.n_eq, out.u, i, k.n_in);
  put(grad.lower.data() + k.box, out.lb, i, k.n);
  put(grad.upper.data() + k.box, out.ub, i, k.n);
}

void read_change(const Blocks& k, const DataBatch& from, int i, DataDerivative& out) {
  read(from.H.at(i), out.H.data(), long(k.n) * k.n);
  read(from.g.at(i), out.g.data(), k.n);
  read(from.A.at(i), out.R.data(), long(k.n_eq) * k.n);
  read(from.C.at(i), out.R.data() + long(k.n_eq) * k.n, long(k.n_in) * k.n);
  read(from.b.at(i), out.lower.data(), k.n_eq);
  read(from.b.at(i), out.upper.data(), k.n_eq);
  read(from.l.at(i), out.lower.data() + k.n_eq, k.n_in);
  read(from.u.at(i), out.upper.data() + k.n_eq, k.n_in);
  read(from.lb.at(i), out.lower.data() + k.box, k.n);
  read(from.ub.at(i), out.upper.data() + k.box, k.n);
}

void write_outputs(const Blocks& k, const OutputDerivative& from, const DenseBatchSolution& out, int i) {
  write(from.x.data(), out.x.at(i), k.n);
  write(from.z.data(), out.y.at(i), k.n_eq);
  write(from.z.data() + k.n_eq, out.z.at(i), k.n_in);
  write(from.z.data() + k.box, out.w.at(i), k.n);
  const Vector s_eq = (from.shift_upper - from.shift_lower).head(k.n_eq);
  write(s_eq.data(), out.s_eq.at(i), k.n_eq);
  write(from.shift_lower.data() + k.n_eq, out.s_lower.at(i), k.n_in);
  write(from.shift_upper.data() + k.n_eq, out.s_upper.at(i), k.n_in);
  write(from.shift_lower.data() + k.box, out.s_lb.at(i), k.n);
  write(from.shift_upper.data() + k.box, out.s_ub.at(i), k.n);
  write(&from.objective, out.objective.at(i), 1);
}

constexpr Vector RowPattern::* pattern_fields[] = {&RowPattern::active, &RowPattern::shifted, &RowPattern::weight,
                                                   &RowPattern::lower_share, &RowPattern::compliance};
constexpr Vector KktVector::* vector_fields[] = {&KktVector::x, &KktVector::eta, &KktVector::z, &KktVector::s};

template <class Struct, class Fields>
void write_fields(const Struct& from, const Fields& fields, double* to) {
  for (const auto field : fields) to = std::copy_n((from.*field).data(), (from.*field).size(), to);
}

template <class Struct, class Fields>
void read_fields(const double* from, const Fields& fields, Struct& to) {
  for (const auto field : fields) {
    std::copy_n(from, (to.*field).size(), (to.*field).data());
    from += (to.*field).size();
  }
}

}  // namespace

void adjoint_batch(const DenseBatch& batch, const DenseBatchSolution& solution, const DenseBatchSolution& loss,
                   const DerivativeSettings& settings, const DataBatch& out, const CertificateBatch& certificate) {
  const DenseDims d = batch.dims;
  const Blocks blocks(d);
  const bool in_lanes = LaneAdjoint::suits(d, settings);
  const int width = in_lanes ? LaneSolver::width() : 1;
  const int grain = grain_of(batch.size, width), ranges = (batch.size + grain - 1) / grain;
  const long n = d.n;
  struct Field {
    MutableBatchArray DataBatch::* array;
    long size;
  };
  const Field fields[] = {{&DataBatch::H, n * n},  {&DataBatch::g, n},          {&DataBatch::A, d.n_eq * n},
                          {&DataBatch::b, d.n_eq}, {&DataBatch::C, d.n_in * n}, {&DataBatch::l, d.n_in},
                          {&DataBatch::u, d.n_in}, {&DataBatch::lb, n},         {&DataBatch::ub, n}};
  std::vector<SharedSum> sums;
  for (const Field& field : fields) sums.emplace_back(out.*field.array, field.size, ranges);

  struct AdjointWorker : Worker {
    AdjointWorker(DenseDims dims, bool with_hessian) : Worker(dims) {
      if (!with_hessian) data.H.resize(0, 0);
    }
    std::unique_ptr<LaneAdjoint> lanes;
  };
  const int threads = thread_count(settings.threads);
  std::vector<std::unique_ptr<AdjointWorker>> workers(threads);
  parallel_for(batch.size, grain, threads, [&](int first, int last, int id) {
    if (!workers[id]) workers[id] = std::make_unique<AdjointWorker>(d, out.H.data != nullptr);
    AdjointWorker& w = *workers[id];
    if (in_lanes && !w.lanes) w.lanes = std::make_unique<LaneAdjoint>(batch);
    DataBatch target;
    for (std::size_t f = 0; f < sums.size(); ++f) target.*fields[f].array = sums[f].of_range(first / grain);
    bool done[64] = {};
    for (int i = first; i < last; ++i) {
      const int lane = (i - first) % width;
      if (in_lanes && lane == 0)
        w.lanes->put(batch, i, std::min(i + width, last), solution, loss, target, certificate, done);
      if (done[lane]) continue;
      read_element(batch, solution, i, w);
      read_point(blocks, loss, i, w.outputs.x, w.outputs.z);
      read_shifts(blocks, loss, i, w.outputs.shift_lower, w.outputs.shift_upper);
      w.outputs.shift_lower.head(d.n_eq) = -w.outputs.shift_upper.head(d.n_eq);
      read(loss.objective.at(i), &w.outputs.objective, 1);
      DerivativeCertificate proof = adjoint(w.qp, w.solution, w.outputs, settings, w.data, w.at);
      // What overflows on the way from a good solution of the system to the gradients is flagged too.
      if (has_solution(w.solution.status) && !finite(w.data)) proof.residual = std::numeric_limits<double>::infinity();
      write_certificate(proof, certificate, i);
      put_gradients(blocks, w.data, target, i);
    }
  });
  for (SharedSum& sum : sums) sum.finish(ranges);
}

void tangent_batch(const DenseBatch& batch, const DenseBatchSolution& solution, const DataBatch& change,
                   const DerivativeSettings& settings, const DenseBatchSolution& out,
                   const CertificateBatch& certificate) {
  const Blocks blocks(batch.dims);
  for_each_element(batch, settings.threads, [&](Worker& w, int i, int) {
    read_element(batch, solution, i, w);
    read_change(blocks, change, i, w.data);
    write_certificate(tangent(w.qp, w.solution, w.data, settings, w.outputs, w.at), certificate, i);
    write_outputs(blocks, w.outputs, out, i);
  });
}

void solution_point_batch(const DenseBatch& batch, const DenseBatchSolution& solution,
                          const DerivativeSettings& settings, MutableBatchArray pattern, MutableBatchArray v) {
  for_each_element(batch, settings.threads, [&](Worker& w, int i, int) {
    read_element(batch, solution, i, w);
    if (!has_solution(w.solution.status)) {
      std::fill_n(pattern.at(i), pattern.stride, 0.0);
      std::fill_n(v.at(i), v.stride, 0.0);
      return;
    }
    solution_point(w.qp, w.solution, settings, w.at);
    write_fields(w.at.pattern, pattern_fields, pattern.at(i));
    write_fields(w.at.v, vector_fields, v.at(i));
  });
}

void kkt_solve_batch(const DenseBatch& batch, const long long* status, BatchArray pattern, int count, BatchArray rhs,
                     const DerivativeSettings& settings, MutableBatchArray out) {
  const long width = 2 * (long(batch.dims.n) + batch.dims.rows());
  const std::vector<double> no_b(batch.dims.n_eq, 0.0);
  DenseBatch rows = batch;
  rows.b = {no_b.data(), 0};
  const double missing = settings.nan_without_solution ? std::numeric_limits<double>::quiet_NaN() : 0.0;
  for_each_element(batch, settings.threads, [&](Worker& w, int i, int) {
    if (!has_solution(static_cast<Status>(status[i]))) {
      std::fill_n(out.at(i), count * width, missing);
      return;
    }
    stack(rows.at(i), w.qp);
    read_fields(pattern.at(i), pattern_fields, w.at.pattern);
    KktSystem system(w.qp, w.at.pattern, w.at.room);
    for (int k = 0; k < count; ++k) {
      read_fields(rhs.at(i) + k * width, vector_fields, w.rhs);
      system.solve(w.rhs, w.v);
      write_fields(w.v, vector_fields, out.at(i) + k * width);
    }
  });
}

}  // namespace qp_control
