#include "qp_control/dense_batch.hpp"

#include <atomic>
#include <memory>
#include <vector>

#include "qp_control/batch.hpp"
#include "qp_control/blocks.hpp"
#include "qp_control/dense_solver.hpp"
#include "qp_control/kept_factor.hpp"
#include "qp_control/lane_kkt.hpp"
#include "qp_control/lane_solver.hpp"

namespace qp_control {
namespace {

constexpr int most_kept = 256;  // variables

void write_solution(const Blocks& k, const Solution& s, const DenseBatchSolution& out, int i) {
  write(s.x.data(), out.x.at(i), k.n);
  write(s.z.data(), out.y.at(i), k.n_eq);
  write(s.z.data() + k.n_eq, out.z.at(i), k.n_in);
  write(s.z.data() + k.box, out.w.at(i), k.n);
  write(s.active.data() + k.n_eq, out.active_in.at(i), k.n_in);
  write(s.active.data() + k.box, out.active_box.at(i), k.n);
  if (double* s_eq = out.s_eq.at(i))
    for (int e = 0; e < k.n_eq; ++e) s_eq[e] = s.shift_upper[e] - s.shift_lower[e];
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

}  // namespace

bool keeps_factors(const DenseDims& dims, const Settings& settings) {
  return LaneSolver::small(dims) ? LaneSolver::suits(dims, settings) : dims.n <= most_kept;
}

long kept_size(const DenseDims& dims) {
  return LaneSolver::small(dims) ? LaneKkt::kept_size(dims) : KeptFactor::size(dims);
}

long kept_elements(const DenseDims& dims, long size) {
  return LaneSolver::small(dims) ? (size + lanes - 1) / lanes * lanes : size;
}

DenseQP DenseBatch::at(int i) const {
  return {dims,    H.at(i),  g.at(i),  A.at(i),         b.at(i),         C.at(i),         l.at(i),
          u.at(i), lb.at(i), ub.at(i), weight_eq.at(i), weight_in.at(i), weight_box.at(i)};
}

BatchEnd solve_batch(const DenseBatch& batch, const Settings& settings, bool warm, const DenseBatchSolution& out,
                     const std::function<bool()>& interrupted) {
  const Blocks blocks(batch.dims);
  struct Worker {
    explicit Worker(DenseDims d) : solver(d), solution(d.n, d.rows()) {}
    DenseSolver solver;
    Solution solution;
    std::unique_ptr<LaneSolver> lanes;
    bool used = false;  // the solver, in this call
  };
  const bool shared_rows = batch.A.stride == 0 && batch.C.stride == 0;
  const Same shared = batch.H.stride != 0 ? Same::NOTHING : shared_rows ? Same::MATRICES : Same::HESSIAN;
  const bool in_lanes = LaneSolver::suits(batch.dims, settings);
  const int width = in_lanes ? LaneSolver::width() : 1;
  const int grain = grain_of(batch.size, width);
  const int threads = thread_count(settings.threads);
  std::vector<std::unique_ptr<Worker>> workers(threads);
  std::atomic<bool> stop{false}, symmetric{true};
  parallel_for(batch.size, grain, threads, [&](int first, int last, int id) {
    if (!workers[id]) workers[id] = std::make_unique<Worker>(batch.dims);
    auto& [solver, solution, lanes, used] = *workers[id];
    if (in_lanes && !lanes) lanes = std::make_unique<LaneSolver>(batch);
    bool solved[64] = {};
    for (int group = first; group < last; group += width) {
      const int end = std::min(group + width, last);
      Deadline deadline(settings.time_limit);
      if (in_lanes && !lanes->solve(batch, group, end, settings, deadline, warm, out, solved)) symmetric = false;
      for (int i = group; i < end; ++i) {
        if (id == 0 && interrupted()) stop = true;
        if (stop) return;
        if (solved[i - group]) continue;
        if (warm) {
          read_point(blocks, out, i, solution.x, solution.z);
          read_active(blocks, out, i, solution.z, solution.active);
        }
        const Same same = used ? shared : Same::NOTHING;
        if (!solver.solve(batch.at(i), settings, deadline, warm, solution, same)) symmetric = false;
        used = true;
        deadline = Deadline(settings.time_limit);
        write_solution(blocks, solution, out, i);
        if (out.kept.data != nullptr && !in_lanes)
          solver.keep(solution, KeptFactor(out.kept.at(i), blocks.n, blocks.box));
      }
    }
  });
  return stop ? BatchEnd::INTERRUPTED : symmetric ? BatchEnd::DONE : BatchEnd::ASYMMETRIC;
}

}  // namespace qp_control
