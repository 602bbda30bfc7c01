// A loop of fixed rate, and how long its ticks took.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "count_allocations.hpp"

class ControlClock {
 public:
  ControlClock(int ticks, double period) : period_(period) { times_.reserve(ticks); }

  // Calls control(tick) once per period; what it does is timed, and its allocations counted. after(tick), which is
  // not, stands for the rest of the world.
  template <class Control, class World>
  void run(int ticks, const Control& control, const World& after) {
    using Clock = std::chrono::steady_clock;
    const auto step = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(period_));
    auto next = Clock::now();
    for (int k = 0; k < ticks; ++k) {
      std::this_thread::sleep_until(next);
      next += step;
      const auto start = Clock::now();
      counting_allocations = true;
      control(k);
      counting_allocations = false;
      times_.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
      after(k);
    }
  }

  void print() {
    std::sort(times_.begin(), times_.end());
    const auto part = [this](double share) { return times_[static_cast<std::size_t>(share * (times_.size() - 1))]; };
    std::printf("%zu ticks of %.3g ms: p50 %.1f us, p99 %.1f us, max %.1f us", times_.size(), 1e3 * period_, part(0.5),
                part(0.99), times_.back());
    if (can_count_allocations()) std::printf(", %ld allocations", allocations);
    std::printf("\n");
  }

 private:
  const double period_;
  std::vector<double> times_;
};
