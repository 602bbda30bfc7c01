// Judge of the first level of a closest feasible problem: no cost, elastic rows.
#pragma once

#include <algorithm>

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/deadline.hpp"

namespace qp_control {

// Stops at a stationary point of the elastic cost that satisfies the hard rows.
template <class Kkt>
class ShiftJudge : public SingleJudge {
 public:
  ShiftJudge(const Kkt& kkt, const Deadline& deadline) : kkt_(kkt), deadline_(deadline) {}
  bool expired() const override { return deadline_.passed(); }
  double tolerance() const override { return 1e-13; }
  Verdict judge(const Iterate& it) override {
    const double primal = it.primal[0];
    // Beside those multipliers of eliminated equalities, whose residuals are zero, x has neither H nor g.
    Pack largest = 0.0;
    for (int j = 0; j < it.Rz.size(); ++j) largest = max(largest, abs(it.Hx[j] + kkt_.g()[j] + it.Rz[j]));
    const double dual = max_of_lanes(largest)[0];
    if (dual <= std::max(1e-12, it.noise[0]) && primal <= 1e-11) return Verdict::SOLVED;
    if (dual + primal < 0.5 * best_) {
      best_ = dual + primal;
      stalled_ = 0;
    }
    if (expired()) return Verdict::TIME_LIMIT;
    if (++stalled_ < 25) return Verdict::GO_ON;
    // A small shift is not found before the residuals are small beside it, if that can be had.
    Pack shift = 0.0;
    for (const Pack& z : it.z) shift = max(shift, abs(z));
    const double enough = 1e-8 * (rescued_ ? 1.0 : std::min(1.0, max_of_lanes(shift)[0]));
    return best_ < enough ? Verdict::SOLVED : Verdict::MAX_ITER;
  }
  Verdict rescued(const Iterate&) override {
    rescued_ = true;
    stalled_ = 0;
    return Verdict::GO_ON;
  }

 private:
  const Kkt& kkt_;
  const Deadline& deadline_;
  double best_ = 1e300;
  int stalled_ = 0;
  bool rescued_ = false;
};

}  // namespace qp_control
