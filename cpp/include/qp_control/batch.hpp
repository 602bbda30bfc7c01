// Threads over a batch: element i is always worked on alone, so its result does not depend on the number of threads.
#pragma once

#include <functional>

namespace qp_control {

// Number of threads used for `requested` (0: as many as the process may run on).
int thread_count(int requested);

// Calls body(first, last, worker) for disjoint ranges that cover 0..count-1; the ranges hold `grain` elements (the last
// may hold fewer) and are the same for any number of threads. 0 <= worker < thread_count(threads) names the caller of
// the body, for per-thread workspaces. An exception in the body is rethrown here once no range is worked on any more;
// those not begun by then are left out.
void parallel_for(int count, int grain, int threads, const std::function<void(int, int, int)>& body);

}  // namespace qp_control
