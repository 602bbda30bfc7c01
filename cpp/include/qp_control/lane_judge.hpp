// The judge of a pack of problems of which each lane is let go as soon as it is solved, or looks infeasible: the
// ordinary case, in which nothing else comes of a problem.
#pragma once

#include <algorithm>

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/deadline.hpp"
#include "qp_control/judgement.hpp"
#include "qp_control/suspicion.hpp"

namespace qp_control {

// Lets go of the lanes that are solved, of those that fail, and of those that others should take a closer look at.
template <class Kkt>
class LaneJudge {
 public:
  LaneJudge(const Kkt& kkt, const Equilibration& scaling, const Penalties& penalties, const Settings& settings,
            const Deadline& deadline, Mask able, PackArray& x, PackArray& z, FarkasRoom& room)
      : x(x),
        z(z),
        kkt_(kkt),
        scaling_(scaling),
        penalties_(penalties),
        settings_(settings),
        deadline_(deadline),
        able_(able),
        room_(room) {
    now_.restart();
  }

  Mask start() const { return able_; }
  Mask stagnates() const { return now_.stagnates; }
  double tolerance() const { return std::min(1e-10, 0.1 * settings_.eps_abs); }
  bool stops(const Iterate&) const { return deadline_.passed(); }
  void interrupted(const Iterate& it, Mask going) { count(it, going); }
  Mask failed(const Iterate& it, Mask which, Mask going) {
    count(it, which);
    return going & !which;
  }

  Mask outer(const Iterate& it, Mask arrived, Mask going) {
    now_.look(kkt_, scaling_, settings_, it, penalties_, arrived);
    return without_suspects(it, arrived, without_solved(it, arrived, going));
  }

  Mask solved = Mask::all(false), unsure = Mask::all(false);
  PackArray &x, &z;
  Pack objective = 0.0, primal = 0.0, dual = 0.0, gap = 0.0;
  Pack steps = 0.0;  // until the loop let go of the lane

 private:
  Mask without_solved(const Iterate& it, Mask arrived, Mask going) {
    const Mask ends = arrived & now_.finished;
    if (!any(ends)) return going;
    // Where rounding may have decided, more precise arithmetic than there is in lanes has the last word.
    const Mask doubt = ends & doubtful(it);
    unsure = unsure | doubt;
    solved = solved | (ends & !doubt);
    for (int j = 0; j < it.x.size(); ++j) x[j] = select(ends, it.x[j] * scaling_.D[j], x[j]);
    for (int i = 0; i < it.z.size(); ++i) z[i] = select(ends, it.z[i] * scaling_.E[i] / scaling_.c, z[i]);
    objective = select(ends, now_.objective, objective);
    primal = select(ends, now_.primal, primal);
    dual = select(ends, now_.dual, dual);
    gap = select(ends, now_.gap, gap);
    count(it, ends);
    return going & !ends;
  }

  Mask without_suspects(const Iterate& it, Mask arrived, Mask going) {
    Mask suspect = arrived & going & now_.stagnates & !now_.within;
    if (!any(suspect)) return going;
    suspect = suspect & looks_infeasible(kkt_, scaling_, it, room_);
    count(it, suspect);
    return going & !suspect;
  }

  void count(const Iterate& it, Mask ends) { steps = select(ends, double(it.steps), steps); }

  Mask doubtful(const Iterate& it) const {
    Pack x_sum = 0.0, z_sum = 0.0;
    for (int j = 0; j < it.x.size(); ++j) x_sum += abs(it.x[j]) * scaling_.D[j];
    for (int i = 0; i < it.z.size(); ++i) z_sum += abs(it.z[i]) * scaling_.E[i] / scaling_.c;
    return kkt_.rounding().matter(settings_, kkt_.sum(x_sum), kkt_.sum(z_sum));
  }

  const Kkt& kkt_;
  const Equilibration& scaling_;
  const Penalties& penalties_;
  const Settings& settings_;
  const Deadline& deadline_;
  Mask able_;
  FarkasRoom& room_;
  Judgement now_;
};

}  // namespace qp_control
