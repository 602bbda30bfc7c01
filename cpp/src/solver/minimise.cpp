#include "qp_control/minimise.hpp"

#include <limits>

#include "qp_control/judgement.hpp"
#include "qp_control/multipliers.hpp"

namespace qp_control {
namespace {

constexpr int most_idle = 20;  // outer steps without progress, after a rescue, that end the run

// Newton steps by which the loop's gradient must have fallen to this part of the first, and there must have been an
// outer step, if the rescue is not to begin: most of what the loop solves has done both long before.
constexpr int steps_to_fall = 20, steps_to_first_outer = 40;
constexpr double least_fall = 0.3;
// With fewer than these there may not be enough for a rescue.
constexpr int least_steps_to_give_up = 100;
// A point on the way of the rescue is good enough to end it with such residuals, where rounding lets it have them.
constexpr double far_within = 1e-10;

}  // namespace

Status status_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::SOLVED:
      return Status::SOLVED;
    case Verdict::DUAL_INFEASIBLE:
      return Status::DUAL_INFEASIBLE;
    case Verdict::TIME_LIMIT:
      return Status::TIME_LIMIT;
    case Verdict::NUMERICAL_ERROR:
      return Status::NUMERICAL_ERROR;
    default:
      return Status::MAX_ITER;
  }
}

Verdict verdict_on(bool within_reduced, Verdict verdict, const Settings& settings) {
  const bool unfinished = verdict == Verdict::MAX_ITER || verdict == Verdict::NUMERICAL_ERROR;
  return unfinished && settings.reducible() && within_reduced ? Verdict::SOLVED : verdict;
}

// Judges every outer step on the problem in the caller's units and keeps the best point.
class Minimiser::Judge : public SingleJudge {
 public:
  Judge(Minimiser& work, const Settings& settings, const Deadline& deadline, bool look_for_certificates,
        bool may_give_up)
      : work_(work),
        qp_(*work.qp_),
        settings_(settings),
        deadline_(deadline),
        certify_(look_for_certificates),
        may_give_up_(may_give_up) {
    judgement_.restart();
    work_.tried_.clear();
  }

  bool expired() const override { return deadline_.passed(); }
  bool stops(const Iterate& it) override {
    gave_up = gave_up || (may_give_up_ && !promises(it));
    return gave_up || expired();
  }
  bool satisfied() const override { return within_; }

  // Well below what the caller asks for.
  double tolerance() const override { return std::min(1e-10, 0.1 * settings_.eps_abs); }

  // The solution on the set itself; where its system has no factor, at a second look the point.
  // What is not is forgotten: of residuals that are rounding the least one says little, and better points may follow.
  bool will_do(const Iterate& it) override {
    unscale(it);
    active_rows(qp_, work_.z_, work_.active_);
    const bool factored = work_.polish_.run(qp_, work_.active_, work_.x_, work_.z_, 0.0);
    return (factored || ++looks_without_ > 1) && claim(work_.x_, work_.z_);
  }

  Verdict rescued(const Iterate& it) override {
    const Verdict verdict = judge(it);
    rescued_ = true;
    if (verdict != Verdict::GO_ON) return verdict;
    unscale(it);  // the search for certificates may have used the room for something else
    if (certify_ && !within_ && resembles_farkas(qp_, work_.z_, 1e-3, work_.products_))
      return Verdict::SUSPECT_PRIMAL_INFEASIBLE;
    polished(work_.x_, work_.z_);
    if (!within_) {
      // Where rows are dependent, the multipliers of an interior point may be far larger than they need be, and their
      // rounding with them. The refinement goes on as long as it gains anything: it ends early where all residuals are
      // small beside the largest product, which may be one of the rows, and the dual residual has more to gain.
      unscale(it);
      active_rows(qp_, work_.z_, work_.active_);
      shrink_multipliers(qp_, work_.x_, work_.active_, work_.z_);
      if (work_.polish_.run(qp_, work_.active_, work_.x_, work_.z_, 0.0)) consider(work_.x_, work_.z_);
    }
    return within_ ? Verdict::SOLVED : Verdict::GO_ON;
  }

  Verdict judge(const Iterate& it) override {
    Vector &x = work_.x_, &z = work_.z_;
    const Equilibration& scaling = work_.scaling_;
    judgement_.look(work_.kkt_, scaling, settings_, it, work_.penalties_, Mask::all(true));
    stagnated = any(judgement_.stagnates);
    unscale(it);
    const bool promising = any(judgement_.within) || settled(judged());
    const bool solved = promising && consider(x, z);
    if (!promising) keep_if_better(judged(), x, z);
    if (solved && any(judgement_.finished)) return Verdict::SOLVED;
    if (expired()) return within_ ? Verdict::SOLVED : Verdict::TIME_LIMIT;
    if (rescued_ && ++since_best_ > most_idle) return within_ ? Verdict::SOLVED : Verdict::MAX_ITER;
    if (!x.allFinite() || !z.allFinite()) return Verdict::NUMERICAL_ERROR;
    // Where the set cannot be settled (dependent rows, a singular H on it), its system in the caller's units can.
    if (it.misses[0] >= 2.0 || outer_ > 10) {
      if (polished(x, z)) return Verdict::SOLVED;
    }
    if (++outer_ < 2 || !stagnated) return Verdict::GO_ON;
    work_.step_ = numbers(scaling.D, qp_.n()).cwiseProduct(numbers(it.x, qp_.n()) - numbers(it.x_center, qp_.n()));
    if (clean_ray(qp_, work_.step_, work_.products_, work_.ray_room_)) {
      work_.outcome_.ray = work_.step_;
      return Verdict::DUAL_INFEASIBLE;
    }
    if (certify_) {
      const auto change = numbers(it.z, qp_.rows()) - numbers(it.z_center, qp_.rows());
      z = numbers(scaling.E, qp_.rows()).cwiseProduct(change);
      if (resembles_farkas(qp_, z, 1e-3, work_.products_)) return Verdict::SUSPECT_PRIMAL_INFEASIBLE;
    }
    return Verdict::GO_ON;
  }

  bool gave_up = false;

 private:
  // Does the loop get anywhere, or is the active set one that it does not find?
  bool promises(const Iterate& it) {
    const double error = it.error[0];
    if (rescued_) return true;
    if (it.steps == 0) first_gradient_ = least_gradient_ = error;
    least_gradient_ = std::min(least_gradient_, error);
    if (it.steps >= steps_to_fall && least_gradient_ > least_fall * first_gradient_) return false;
    return it.steps < steps_to_first_outer || outer_ > 0;
  }

  // The loop's point, to work_.x_ and work_.z_.
  void unscale(const Iterate& it) {
    const Equilibration& scaling = work_.scaling_;
    work_.x_ = numbers(scaling.D, qp_.n()).cwiseProduct(numbers(it.x, qp_.n()));
    work_.z_ = numbers(scaling.E, qp_.rows()).cwiseProduct(numbers(it.z, qp_.rows())) / scaling.c[0];
  }

  // Within the tolerances but for the gap, whose terms may be so large that its own rounding exceeds the tolerance.
  bool settled(const Residuals& r) const {
    Settings without_gap = settings_;
    if (std::abs(r.gap) <= 1e-12 * std::max(1.0, std::abs(r.objective))) without_gap.eps_gap = 0.0;
    return r.within(without_gap);
  }

  bool consider(const Vector& x, Vector& z) {
    const Residuals r = exact_residuals(x, z);
    keep_if_better(r, x, z);
    return r.within(settings_);
  }

  // Keeps a point that is far within the tolerances, and no other.
  bool claim(const Vector& x, Vector& z) {
    Settings strict = settings_;
    strict.eps_abs = std::min(strict.eps_abs, far_within);
    const Residuals r = exact_residuals(x, z);
    if (!r.within(strict)) return false;
    keep_if_better(r, x, z);
    return true;
  }

  // As exact as it takes to tell whether they are within the tolerances; may move z to close the gap.
  Residuals exact_residuals(const Vector& x, Vector& z) {
    Residuals r = residuals(qp_, x, z, work_.products_);
    if (settled(r) && work_.rounding_.matter(settings_, x.lpNorm<1>(), z.lpNorm<1>())) {
      r = precise_residuals(qp_, x, z);
      if (settings_.eps_gap > 0.0 && !r.within(settings_)) close_gap(qp_, settings_, x, z, r);
    }
    return r;
  }

  // Of a point that is not claimed to be a solution: what the loop knows of it.
  Residuals judged() const {
    Residuals r;
    r.primal = judgement_.primal[0];
    r.dual = judgement_.dual[0];
    r.complementarity = judgement_.complementarity[0];
    r.gap = judgement_.gap[0];
    r.objective = judgement_.objective[0];
    return r;
  }

  void keep_if_better(const Residuals& r, const Vector& x, const Vector& z) {
    const double error = std::max({r.primal, r.dual, r.complementarity});
    // The largest residual alone does not decide: the gap and the relative tolerances count too.
    const bool within = r.within(settings_);
    if (first_ || (within == within_ ? error < error_ : within)) {
      if (first_ || within > within_ || error < 0.9 * error_) since_best_ = 0;
      first_ = false;
      within_ = within;
      error_ = error;
      work_.outcome_.residuals = r;
      work_.outcome_.x = x;
      work_.outcome_.z = z;
    }
  }

  bool polished(Vector& x, Vector& z) {
    active_rows(qp_, z, work_.active_);
    // The same active set again only from a much better point: where its rows are dependent the point decides the
    // signs.
    if (work_.active_ == work_.tried_ && error_ > 0.01 * error_when_tried_) return false;
    work_.tried_ = work_.active_;
    error_when_tried_ = error_;
    return work_.polish_.run(qp_, work_.active_, x, z) && consider(x, z);
  }

  Minimiser& work_;
  const StackedQP& qp_;
  const Settings& settings_;
  const Deadline& deadline_;
  const bool certify_;
  Judgement judgement_;
  bool first_ = true, within_ = false;
  double error_ = std::numeric_limits<double>::infinity();
  double first_gradient_ = 0.0, least_gradient_ = 0.0;
  const bool may_give_up_;
  bool rescued_ = false;
  int outer_ = 0, since_best_ = 0, looks_without_ = 0;
  double error_when_tried_ = 0.0;
};

Minimiser::Minimiser(int n, int stored_rows, int equalities)
    : kkt_(n, stored_rows, equalities),
      scaling_(packs(n), packs(stored_rows + n)),
      iterate_(packs(n), packs(stored_rows + n)),
      penalties_(packs(stored_rows + n)),
      x_(n),
      z_(stored_rows + n),
      step_(n),
      products_(n, stored_rows + n),
      polish_(n, stored_rows),
      outcome_(n, stored_rows + n) {
  active_.reserve(stored_rows + n);
  tried_.reserve(stored_rows + n);
}

bool Minimiser::load(const StackedQP& qp, bool same_hessian) {
  qp_ = &qp;
  const double largest = same_hessian ? rounding_.H_size : qp.diagonal ? norm_inf(qp.H.diagonal()) : norm_inf(qp.H);
  rounding_.load_matrices(qp.n(), qp.stored_rows(), largest, qp.R.data());
  rounding_.load_gradient(qp.n(), qp.g.data());
  return kkt_.load(qp, scaling_, same_hessian);
}

bool Minimiser::load_vectors(const StackedQP& qp) {
  qp_ = &qp;
  rounding_.load_gradient(qp.n(), qp.g.data());
  return kkt_.load_vectors(qp, scaling_);
}

const Outcome& Minimiser::run(const Settings& settings, const Deadline& deadline, const Start* start,
                              bool look_for_certificates) {
  // Of a warm start the first gradient may be small by itself.
  const bool may_give_up = start == nullptr && settings.max_iter >= least_steps_to_give_up;
  const bool gave_up = run_once(settings, deadline, start, look_for_certificates, may_give_up);
  const bool unfinished = outcome_.verdict == Verdict::MAX_ITER || outcome_.verdict == Verdict::NUMERICAL_ERROR;
  if (gave_up && unfinished && outcome_.steps < settings.max_iter && !deadline.passed()) {
    // Neither has the rescue solved it: the loop may yet find a ray, or that it is infeasible.
    const int before = outcome_.steps;
    Settings rest = settings;
    rest.max_iter -= before;
    run_once(rest, deadline, start, look_for_certificates, false);
    outcome_.steps += before;
  }
  return outcome_;
}

bool Minimiser::run_once(const Settings& settings, const Deadline& deadline, const Start* start,
                         bool look_for_certificates, bool may_give_up) {
  const StackedQP& qp = *qp_;
  penalties_.reset(kkt_.lower(), kkt_.upper());
  iterate_.x.setConstant(Pack(0.0));
  iterate_.z.setConstant(Pack(0.0));
  iterate_.active.setConstant(Pack(0.0));
  if (start != nullptr) {
    numbers(iterate_.x, qp.n()) = start->x.cwiseQuotient(numbers(scaling_.D, qp.n()));
    numbers(iterate_.z, qp.rows()) = scaling_.c[0] * start->z.cwiseQuotient(numbers(scaling_.E, qp.rows()));
    numbers(iterate_.active, qp.rows()) = start->sides;
    penalties_.settling = Mask::all(true);
    penalties_.apply();
  }
  // What fails before its first outer step must not answer with the problem before it.
  const double nan = std::numeric_limits<double>::quiet_NaN();
  outcome_.x.setConstant(nan);
  outcome_.z.setConstant(nan);
  outcome_.residuals.primal = outcome_.residuals.dual = outcome_.residuals.complementarity = nan;
  outcome_.residuals.gap = outcome_.residuals.objective = nan;
  Judge judge(*this, settings, deadline, look_for_certificates, may_give_up);
  minimise_with_rescue(kkt_, judge, penalties_, settings.max_iter, deadline, iterate_, iterate_.active, rescue_);
  if (judge.verdict != Verdict::SOLVED) outcome_.residuals = residuals(qp, outcome_.x, outcome_.z, products_);
  const bool good = within_reduced(outcome_.residuals, settings, qp, outcome_.x, outcome_.z);
  outcome_.verdict = verdict_on(good, judge.verdict, settings);
  outcome_.steps = iterate_.steps;
  return judge.gave_up;
}

}  // namespace qp_control
