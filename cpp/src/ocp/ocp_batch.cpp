#include "qp_control/ocp_batch.hpp"

#include <atomic>
#include <memory>
#include <vector>

#include "qp_control/batch.hpp"
#include "qp_control/blocks.hpp"
#include "qp_control/ocp_worker.hpp"

namespace qp_control {
namespace {

constexpr int largest_stage_in_lanes = 24;

template <class Real>
BatchEnd solve(const OcpBatch& batch, const Settings& settings, bool warm, const OcpBatchSolution& out,
               const std::function<bool()>& interrupted) {
  constexpr int width = OcpWorker<Real>::width();
  const int threads = thread_count(settings.threads);
  std::atomic<bool> stop{false}, symmetric{true};
  std::vector<std::unique_ptr<OcpWorker<Real>>> workers(threads);
  parallel_for(batch.size, grain_of(batch.size, width), threads, [&](int first, int last, int id) {
    if (!workers[id]) workers[id] = std::make_unique<OcpWorker<Real>>(batch);
    for (int group = first; group < last; group += width) {
      if (id == 0 && interrupted()) stop = true;
      if (stop) return;
      const int end = std::min(group + width, last);
      if (!workers[id]->solve(batch, group, end, settings, warm, out)) symmetric = false;
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
