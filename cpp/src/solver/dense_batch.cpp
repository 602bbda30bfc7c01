#include "qp_control/dense_batch.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "qp_control/batch.hpp"
#include "qp_control/dense_solver.hpp"
#include "qp_control/derivatives.hpp"
#include "qp_control/lane_solver.hpp"

namespace qp_control {
namespace {

void read(double* from, double* to, int size) {
  if (from != nullptr)
    std::copy_n(from, size, to);
  else
    std::fill_n(to, size, 0.0);
}

void write(const double* from, double* to, int size) {
  if (to != nullptr) std::copy_n(from, size, to);
}

void add(const double* from, double* to, long size) {
  if (to != nullptr)
    for (long i = 0; i < size; ++i) to[i] += from[i];
}

// The stacked rows of one element, split into the caller's blocks.
struct Blocks {
  explicit Blocks(DenseDims d) : n(d.n), n_eq(d.n_eq), n_in(d.n_in), box(d.n_eq + d.n_in) {}
  int n, n_eq, n_in, box;
};

void write_solution(const Blocks& k, const Solution& s, const DenseBatchSolution& out, int i) {
  write(s.x.data(), out.x.at(i), k.n);
  write(s.z.data(), out.y.at(i), k.n_eq);
  write(s.z.data() + k.n_eq, out.z.at(i), k.n_in);
  write(s.z.data() + k.box, out.w.at(i), k.n);
  const Vector s_eq = (s.shift_upper - s.shift_lower).head(k.n_eq);
  write(s_eq.data(), out.s_eq.at(i), k.n_eq);
  write(s.shift_lower.data() + k.n_eq, out.s_lower.at(i), k.n_in);
  write(s.shift_upper.data() + k.n_eq, out.s_upper.at(i), k.n_in);
  write(s.shift_lower.data() + k.box, out.s_lb.at(i), k.n);
  write(s.shift_upper.data() + k.box, out.s_ub.at(i), k.n);
  write(s.certificate_x.data(), out.certificate_x.at(i), k.n);
  write(s.certificate_z.data(), out.certificate_y.at(i), k.n_eq);
  write(s.certificate_z.data() + k.n_eq, out.certificate_z.at(i), k.n_in);
  write(s.certificate_z.data() + k.box, out.certificate_w.at(i), k.n);
  write(&s.objective, out.objective.at(i), 1);
  write(&s.primal_residual, out.primal_residual.at(i), 1);
  write(&s.dual_residual, out.dual_residual.at(i), 1);
  write(&s.duality_gap, out.duality_gap.at(i), 1);
  out.status[i] = static_cast<long long>(s.status);
  out.iterations[i] = s.iterations;
}

void read_point(const Blocks& k, const DenseBatchSolution& from, int i, Vector& x, Vector& z) {
  read(from.x.at(i), x.data(), k.n);
  read(from.y.at(i), z.data(), k.n_eq);
  read(from.z.at(i), z.data() + k.n_eq, k.n_in);
  read(from.w.at(i), z.data() + k.box, k.n);
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

void add_gradients(const Blocks& k, const Gradients& grad, const DenseBatchGradients& out, int i) {
  add(grad.H.data(), out.H.at(i), long(k.n) * k.n);
  add(grad.g.data(), out.g.at(i), k.n);
  add(grad.R.data(), out.A.at(i), long(k.n_eq) * k.n);
  add(grad.R.data() + long(k.n_eq) * k.n, out.C.at(i), long(k.n_in) * k.n);
  const Vector b = (grad.lower + grad.upper).head(k.n_eq);
  add(b.data(), out.b.at(i), k.n_eq);
  add(grad.lower.data() + k.n_eq, out.l.at(i), k.n_in);
  add(grad.upper.data() + k.n_eq, out.u.at(i), k.n_in);
  add(grad.lower.data() + k.box, out.lb.at(i), k.n);
  add(grad.upper.data() + k.box, out.ub.at(i), k.n);
}

// A shared gradient is summed range by range and the ranges' sums in order: the same bits for any number of threads.
class SharedSum {
 public:
  SharedSum(MutableBatchArray& array, long size, int ranges) : target_(array), size_(size) {
    if (array.data == nullptr || array.stride != 0) return;
    total_ = array.data;
    partial_.assign(size * ranges, 0.0);
  }
  bool active() const { return total_ != nullptr; }
  // What range r adds to.
  MutableBatchArray of_range(int r) { return active() ? MutableBatchArray{partial_.data() + r * size_, 0} : target_; }
  void finish(int ranges) {
    for (int r = 0; active() && r < ranges; ++r) add(partial_.data() + r * size_, total_, size_);
  }

 private:
  MutableBatchArray target_;
  long size_;
  double* total_ = nullptr;
  std::vector<double> partial_;
};

int grain_of(int size) { return std::max(1, (size + 63) / 64); }

}  // namespace

DenseQP DenseBatch::at(int i) const {
  return {dims,    H.at(i),  g.at(i),  A.at(i),         b.at(i),         C.at(i),         l.at(i),
          u.at(i), lb.at(i), ub.at(i), weight_eq.at(i), weight_in.at(i), weight_box.at(i)};
}

bool solve_batch(const DenseBatch& batch, const Settings& settings, bool warm, const DenseBatchSolution& out,
                 const std::function<bool()>& interrupted) {
  const Blocks blocks(batch.dims);
  struct Worker {
    explicit Worker(DenseDims d) : solver(d), solution(d.n, d.rows()) {}
    DenseSolver solver;
    Solution solution;
    std::unique_ptr<LaneSolver> lanes;
  };
  const bool in_lanes = LaneSolver::suits(batch.dims, settings);
  const int width = in_lanes ? LaneSolver::width() : 1;
  const int grain = (grain_of(batch.size) + width - 1) / width * width;
  std::vector<std::unique_ptr<Worker>> workers(thread_count(settings.threads));
  std::atomic<bool> stop{false};
  parallel_for(batch.size, grain, settings.threads, [&](int first, int last, int id) {
    if (!workers[id]) workers[id] = std::make_unique<Worker>(batch.dims);
    auto& [solver, solution, lanes] = *workers[id];
    if (in_lanes && !lanes) lanes = std::make_unique<LaneSolver>(batch);
    bool solved[64] = {};
    for (int group = first; group < last; group += width) {
      const int end = std::min(group + width, last);
      if (in_lanes) lanes->solve(batch, group, end, settings, warm, out, solved);
      for (int i = group; i < end; ++i) {
        if (id == 0 && interrupted()) stop = true;
        if (stop) return;
        if (solved[i - group]) continue;
        if (warm) read_point(blocks, out, i, solution.x, solution.z);
        solver.solve(batch.at(i), settings, warm, solution);
        write_solution(blocks, solution, out, i);
      }
    }
  });
  return !stop;
}

void adjoint_batch(const DenseBatch& batch, const DenseBatchSolution& solution, const DenseBatchSolution& loss,
                   int threads, const DenseBatchGradients& out) {
  const DenseDims d = batch.dims;
  const Blocks blocks(d);
  const int grain = grain_of(batch.size), ranges = (batch.size + grain - 1) / grain;
  DenseBatchGradients targets = out;
  const long n = d.n;
  struct Field {
    MutableBatchArray DenseBatchGradients::* array;
    long size;
  };
  const Field fields[] = {
      {&DenseBatchGradients::H, n * n},  {&DenseBatchGradients::g, n},          {&DenseBatchGradients::A, d.n_eq * n},
      {&DenseBatchGradients::b, d.n_eq}, {&DenseBatchGradients::C, d.n_in * n}, {&DenseBatchGradients::l, d.n_in},
      {&DenseBatchGradients::u, d.n_in}, {&DenseBatchGradients::lb, n},         {&DenseBatchGradients::ub, n}};
  std::vector<SharedSum> sums;
  for (const Field& field : fields) sums.emplace_back(targets.*field.array, field.size, ranges);

  struct Worker {
    explicit Worker(DenseDims d)
        : qp(d.n, d.n_eq + d.n_in), solution(d.n, d.rows()), loss(d.n, d.rows()), gradients(d.n, d.n_eq + d.n_in) {}
    StackedQP qp;
    Solution solution;
    Cotangents loss;
    Gradients gradients;
  };
  std::vector<std::unique_ptr<Worker>> workers(thread_count(threads));
  parallel_for(batch.size, grain, threads, [&](int first, int last, int id) {
    if (!workers[id]) workers[id] = std::make_unique<Worker>(d);
    Worker& w = *workers[id];
    DenseBatchGradients range = out;
    for (std::size_t f = 0; f < sums.size(); ++f) range.*fields[f].array = sums[f].of_range(first / grain);
    for (int i = first; i < last; ++i) {
      w.solution.status = static_cast<Status>(solution.status[i]);
      w.gradients.set_zero();
      if (stack(batch.at(i), w.qp)) {
        read_point(blocks, solution, i, w.solution.x, w.solution.z);
        read_shifts(blocks, solution, i, w.solution.shift_lower, w.solution.shift_upper);
        read_point(blocks, loss, i, w.loss.x, w.loss.z);
        read_shifts(blocks, loss, i, w.loss.shift_lower, w.loss.shift_upper);
        w.loss.shift_lower.head(d.n_eq) = -w.loss.shift_upper.head(d.n_eq);
        w.loss.objective = loss.objective.data == nullptr ? 0.0 : *loss.objective.at(i);
        adjoint(w.qp, w.solution, w.loss, w.gradients);
      }
      add_gradients(blocks, w.gradients, range, i);
      if (out.residual.data != nullptr) *out.residual.at(i) = w.gradients.residual;
      if (out.weakly_active != nullptr) out.weakly_active[i] = w.gradients.weakly_active;
      if (out.rank_deficiency != nullptr) out.rank_deficiency[i] = w.gradients.rank_deficiency;
    }
  });
  for (SharedSum& sum : sums) sum.finish(ranges);
}

}  // namespace qp_control
