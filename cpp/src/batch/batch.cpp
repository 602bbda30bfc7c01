#include "qp_control/batch.hpp"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace qp_control {
namespace {

// Waking a thread that sleeps takes as long as some batches: both sides look for news this long before they sleep.
constexpr std::chrono::microseconds patience(60);

// crowded: there are more threads than processors, and the news may have to come from one that waits for this one's.
template <class Condition>
void watch(bool crowded, const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!condition() && std::chrono::steady_clock::now() < end) {
    if (crowded) std::this_thread::yield();
#if defined(__x86_64__)
    for (int k = 0; k < 8; ++k) __builtin_ia32_pause();
#endif
  }
}

// Workers watch out for the next call for a while, then sleep.
class Pool {
 public:
  // As many workers as wanted, or as the system grants.
  explicit Pool(int workers) : crowded_(workers + 1 > thread_count(0)) {
    try {
      for (int k = 0; k < workers; ++k) threads_.emplace_back([this, k] { work(k + 1); });
    } catch (const std::system_error&) {
    }
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      ++round_;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  int workers() const { return static_cast<int>(threads_.size()); }

  // Runs job(worker) on the caller (worker 0) and on up to `helpers` workers. One that has not begun when the caller is
  // through is not waited for: on a busy machine that takes longer than many a batch.
  void run(int helpers, const std::function<void(int)>& job) {
    bool sleepers;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      wanted_ = helpers;
      ++round_;
      sleepers = sleepers_ > 0;
    }
    if (sleepers) wake_.notify_all();
    job(0);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      wanted_ = 0;
    }
    watch(crowded_, [this] { return running_ == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void work(int id) {
    long seen = 0;
    while (true) {
      watch(crowded_, [&] { return round_ != seen; });
      const std::function<void(int)>* job = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleepers_;
        wake_.wait(lock, [&] { return stop_ || (round_ != seen && id <= wanted_); });
        --sleepers_;
        if (stop_) return;
        seen = round_;
        job = job_;
        ++running_;
      }
      (*job)(id);
      std::lock_guard<std::mutex> lock(mutex_);
      if (--running_ == 0) done_.notify_one();
    }
  }

  const bool crowded_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* job_ = nullptr;
  int wanted_ = 0, sleepers_ = 0;
  bool stop_ = false;
  std::atomic<int> running_{0};
  std::atomic<long> round_{0};
};

// One call at a time uses the pool; a second one from another thread of the caller runs alone instead of waiting.
std::mutex pool_in_use;
Pool* pool = nullptr;  // never destroyed at exit: joining threads in a static destructor can hang an interpreter

// Threads do not survive fork(), and the lock may be held by one of them: a child starts afresh.
void forget_parent() {
  new (&pool_in_use) std::mutex;
  pool = nullptr;
}
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, forget_parent);

}  // namespace

int thread_count(int requested) {
  if (requested > 0) return requested;
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

void parallel_for(int count, int grain, int threads, const std::function<void(int, int, int)>& body) {
  if (count <= 0) return;
  const int ranges = (count + grain - 1) / grain;
  const int used = std::min(thread_count(threads), ranges);
  std::atomic<int> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  const std::function<void(int)> job = [&](int worker) {
    try {
      for (int r = next++; r < ranges && !failed; r = next++) body(r * grain, std::min(count, (r + 1) * grain), worker);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };

  std::unique_lock<std::mutex> lock(pool_in_use, std::defer_lock);
  if (used == 1 || !lock.try_lock()) {
    job(0);
  } else {
    if (pool == nullptr || pool->workers() < used - 1) {
      delete std::exchange(pool, nullptr);
      pool = new Pool(used - 1);
    }
    pool->run(std::min(used - 1, pool->workers()), job);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace qp_control
