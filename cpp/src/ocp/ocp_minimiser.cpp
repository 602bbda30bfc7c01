#include "qp_control/ocp_minimiser.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "qp_control/judgement.hpp"
#include "qp_control/minimise.hpp"
#include "qp_control/ocp_certificates.hpp"
#include "qp_control/ocp_start.hpp"

namespace qp_control {
namespace {

constexpr double loose = 1e-3;  // of what is worth a closer look

}  // namespace

void read_iterate(const OcpLayout<double>& at, const Equilibration& scaling, const PackArray& x, const PackArray& z,
                  OcpElement& out) {
  OcpBatchSolution arrays = out.arrays();
  for (auto* a : {&out.z, &out.slack_lower, &out.slack_upper})  // some have no place in the loop
    std::fill(a->begin(), a->end(), 0.0);
  const double *D = numbers(scaling.D), *E = numbers(scaling.E);
  for_each_piece(
      at, arrays,
      [&](const MutableBatchArray& array, int position, int size, int place) {
        for (int j = 0; j < size; ++j) array.data[position + j] = D[place + j] * numbers(x)[place + j];
      },
      [&](const MutableBatchArray& array, int position, int size, int place) {
        for (int j = 0; j < size; ++j) array.data[position + j] = E[place + j] * numbers(z)[place + j] / scaling.c[0];
      });
  for_each_slack(at, arrays, [&](const MutableBatchArray& array, int position, int size, int place) {
    for (int j = 0; j < size; ++j) array.data[position + j] = D[place + j] * numbers(x)[place + j];
  });
}

class OcpMinimiser::Judge : public SingleJudge {
 public:
  Judge(OcpMinimiser& work, const OcpBatch& problem, const Settings& settings, const Deadline& deadline,
        bool look_for_certificates)
      : work_(work), problem_(problem), settings_(settings), deadline_(deadline), certify_(look_for_certificates) {
    judgement_.restart();
  }

  bool expired() const override { return deadline_.passed(); }
  bool satisfied() const override { return within_; }
  double tolerance() const override { return std::min(1e-10, 0.1 * settings_.eps_abs); }

  Verdict judge(const Iterate& it) override {
    judgement_.look(work_.kkt_, work_.scaling_, settings_, it, work_.penalties_, Mask::all(true));
    stagnated = any(judgement_.stagnates);
    const double error = judgement_.error[0];
    if (std::isnan(error)) return Verdict::NUMERICAL_ERROR;
    const bool solved = keep_if_better(it, error) && any(judgement_.finished);
    if (solved) return Verdict::SOLVED;
    if (expired()) return within_ ? Verdict::SOLVED : Verdict::TIME_LIMIT;
    if (++outer_ < 2 || !stagnated || within_) return Verdict::GO_ON;
    if (finds_ray(it)) return Verdict::DUAL_INFEASIBLE;
    const bool suspect = certify_ && any(looks_infeasible(work_.kkt_, work_.scaling_, it, work_.room_));
    return suspect ? Verdict::SUSPECT_PRIMAL_INFEASIBLE : Verdict::GO_ON;
  }

 private:
  // Whether the point is within the tolerances, of which ocp_residuals() has the last word.
  bool keep_if_better(const Iterate& it, double error) {
    OcpOutcome& best = work_.outcome_;
    const bool promising = any(judgement_.within);
    if (!promising && (within_ || !(error < error_))) return false;
    PackArray& x = work_.x_;
    x = it.x;
    work_.kkt_.slacks().tidy(x, it.z);
    read_iterate(work_.kkt_.layout(), work_.scaling_, x, it.z, promising ? work_.ray_ : best.point);
    bool within = false;
    if (promising) {
      const Residuals r = ocp_residuals(problem_, 0, work_.ray_.arrays(), work_.gradient_);
      within = r.within(settings_);
      if (within == within_ ? !(error < error_) : within_) return within;
      std::swap(best.point, work_.ray_);
      best.residuals = r;
    }
    within_ = within;
    error_ = error;
    return within;
  }

  double largest(const PackArray& a) const {
    Pack out = 0.0;
    for (const Pack& entry : a) out = max(out, abs(entry));
    return max_of_lanes(out)[0];
  }

  // Do the iterates run away along a ray? It is cleaned by proximal steps, whose limit is its projection on the
  // directions without curvature that follow the dynamics and leave the rows that it runs along where they are.
  bool finds_ray(const Iterate& it) {
    RiccatiKkt<double>& kkt = work_.kkt_;
    PackArray &d = work_.x_, &v = work_.v_, &weight = work_.weight_, &step = work_.z_;
    const int variables = kkt.variables();
    for (int j = 0; j < d.size(); ++j) d[j] = j < variables ? it.x[j] - it.x_center[j] : Pack(0.0);
    const double size = largest(d);
    if (!(size > 0.0)) return false;
    Pack slope = 0.0, outside = 0.0;
    for (int j = 0; j < variables; ++j) {
      d[j] *= Pack(1.0 / size);
      slope += kkt.g()[j] * d[j];
    }
    if (!(sum_of_lanes(slope)[0] < 0.0)) return false;
    kkt.apply_hessian(d, step);
    if (largest(step) > loose) return false;
    kkt.apply_rows(d, v);
    for (int i = 0; i < v.size(); ++i) {
      const Pack up = select(finite(kkt.upper()[i]), v[i], 0.0), down = select(finite(kkt.lower()[i]), -v[i], 0.0);
      outside = max(outside, max(up, down));
      const Mask along = (finite(kkt.upper()[i]) | finite(kkt.lower()[i])) & (abs(v[i]) <= Pack(loose));
      weight[i] = select(along, Pack(1e6), 0.0);
    }
    if (max_of_lanes(outside)[0] > loose) return false;
    if (!any(kkt.factor(weight, 1e-7))) return false;
    for (int pass = 0; pass < 4; ++pass) {
      kkt.apply_rows(d, v);
      for (int i = 0; i < v.size(); ++i) v[i] *= weight[i];
      kkt.apply_hessian(d, step);
      kkt.add_rows_transposed(v, step);
      for (Pack& entry : step) entry = -entry;
      kkt.solve(step);
      for (int j = 0; j < variables; ++j) d[j] += step[j];
    }
    v.setConstant(Pack(0.0));
    read_iterate(kkt.layout(), work_.scaling_, d, v, work_.ray_);
    return is_ocp_ray(problem_, work_.ray_);
  }

  OcpMinimiser& work_;
  const OcpBatch& problem_;
  const Settings& settings_;
  const Deadline& deadline_;
  const bool certify_;
  Judgement judgement_;
  bool within_ = false;
  double error_ = std::numeric_limits<double>::infinity();
  int outer_ = 0;
};

OcpMinimiser::OcpMinimiser(const OcpBatch& batch)
    : kkt_(batch),
      scaling_(kkt_.unknowns(), kkt_.rows()),
      iterate_(kkt_.unknowns(), kkt_.rows()),
      penalties_(kkt_.rows()),
      x_(kkt_.unknowns()),
      z_(kkt_.unknowns()),
      v_(kkt_.rows()),
      weight_(kkt_.rows()),
      room_(kkt_.unknowns(), kkt_.rows()),
      ray_(batch.dims),
      gradient_(batch.dims),
      outcome_(batch.dims) {}

const OcpOutcome& OcpMinimiser::run(const OcpBatch& problem, const Settings& settings, const Deadline& deadline,
                                    bool look_for_certificates) {
  kkt_.load(problem, 0, 1, scaling_);
  penalties_.reset(kkt_.lower(), kkt_.upper());
  iterate_.x.setConstant(Pack(0.0));
  kkt_.start_cold(iterate_.z);
  // What fails before its first outer step must not answer with the problem before it.
  outcome_.point.fill(0.0);
  ray_.fill(0.0);
  OcpElement& point = outcome_.point;
  const auto spoil = [](auto&... arrays) {
    (std::fill(arrays.begin(), arrays.end(), std::numeric_limits<double>::quiet_NaN()), ...);
  };
  spoil(point.x, point.u, point.y, point.z);
  if (problem.softens(0) || problem.softens(problem.dims.horizon)) spoil(point.slack_lower, point.slack_upper);
  Judge judge(*this, problem, settings, deadline, look_for_certificates);
  obey_dynamics(kkt_, penalties_, Mask::all(true), iterate_);
  penalties_.settling = within_bounds(kkt_, iterate_);
  penalties_.apply();
  minimise_with_rescue(kkt_, judge, penalties_, settings.max_iter, deadline, iterate_, iterate_.z, rescue_);
  outcome_.steps = iterate_.steps + 1;
  outcome_.residuals = ocp_residuals(problem, 0, outcome_.point.arrays(), gradient_);
  outcome_.verdict = verdict_on(outcome_.residuals.within(settings.reduced()), judge.verdict, settings);
  return outcome_;
}

}  // namespace qp_control
