// The moment when a problem has had its time.
#pragma once

#include <chrono>

namespace qp_control {

class Deadline {
 public:
  // seconds from now; 0: never.
  explicit Deadline(double seconds) : limited_(seconds > 0.0), start_(Clock::now()), seconds_(seconds) {}
  bool passed() const { return limited_ && std::chrono::duration<double>(Clock::now() - start_).count() > seconds_; }

 private:
  using Clock = std::chrono::steady_clock;
  bool limited_;
  Clock::time_point start_;
  double seconds_;
};

}  // namespace qp_control
