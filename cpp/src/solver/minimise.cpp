#include "qp_control/minimise.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "qp_control/active_set.hpp"
#include "qp_control/certificates.hpp"
#include "qp_control/dense_kkt.hpp"
#include "qp_control/equilibration.hpp"

namespace qp_control {
namespace {

// Judges every outer step on the problem in the caller's units and keeps the best point.
class Judge : public SingleJudge {
 public:
  Judge(const StackedQP& qp, const Settings& settings, const Equilibration<double>& scaling, const Deadline& deadline,
        bool look_for_certificates)
      : qp_(qp), settings_(settings), scaling_(scaling), deadline_(deadline), certify_(look_for_certificates) {}

  bool expired() const override { return deadline_.passed(); }

  // Of the inner problems, in the back end's units: well below what the caller asks for.
  double tolerance() const { return std::min(1e-10, 0.1 * settings_.eps_abs); }

  // A warm start: is it, or does its active set lead to, the solution?
  bool starts_solved(const Vector& x, const Vector& z) {
    const bool solved = consider(x, z);
    return polished(x, z) || solved;
  }

  bool consider_scaled(const Iterate& it) {
    ux_ = scaling_.D.cwiseProduct(numbers(it.x, qp_.n()));
    uz_ = scaling_.E.cwiseProduct(numbers(it.z, qp_.rows())) / scaling_.c;
    return consider(ux_, uz_);
  }

  bool consider(const Vector& x, const Vector& z) {
    const Residuals r = residuals(qp_, x, z);
    const double error = std::max({r.primal, r.dual, r.complementarity});
    latest_ = error;
    if (error < error_ || this->x.size() == 0) {
      error_ = error;
      best = r;
      this->x = x;
      this->z = z;
    }
    return r.within(settings_);
  }

  bool polished(const Vector& x, const Vector& z) {
    const std::vector<int> active = active_rows(qp_, z);
    // The same active set again only from a much better point: where its rows are dependent the point decides the
    // signs.
    if (active == tried_ && error_ > 0.01 * error_when_tried_) return false;
    tried_ = active;
    error_when_tried_ = error_;
    px_ = x;
    pz_ = z;
    return polish(qp_, active, px_, pz_) && consider(px_, pz_);
  }

  Verdict judge(const Iterate& it) override {
    const bool solved = consider_scaled(it);
    stagnated = !(latest_ < 0.25 * last_);
    last_ = latest_;
    if (!solved && expired()) return Verdict::TIME_LIMIT;
    if (!ux_.allFinite() || !uz_.allFinite()) return Verdict::NUMERICAL_ERROR;
    if (polished(ux_, uz_) || solved) return Verdict::SOLVED;
    if (++outer_ < 2) return Verdict::GO_ON;
    ray = scaling_.D.cwiseProduct(numbers(it.x, qp_.n()) - numbers(it.x_center, qp_.n()));
    if (clean_ray(qp_, ray)) return Verdict::DUAL_INFEASIBLE;
    if (certify_) {
      const Vector dz = scaling_.E.cwiseProduct(numbers(it.z, qp_.rows()) - numbers(it.z_center, qp_.rows()));
      if (resembles_farkas(qp_, dz, 1e-3)) return Verdict::SUSPECT_PRIMAL_INFEASIBLE;
    }
    return Verdict::GO_ON;
  }

  Vector x, z, ray;
  Residuals best;

 private:
  const StackedQP& qp_;
  const Settings& settings_;
  const Equilibration<double>& scaling_;
  const Deadline& deadline_;
  const bool certify_;
  double error_ = std::numeric_limits<double>::infinity(), last_ = error_, latest_ = error_;
  int outer_ = 0;
  std::vector<int> tried_;
  double error_when_tried_ = 0.0;
  Vector ux_, uz_, px_, pz_;
};

}  // namespace

Outcome Minimiser::operator()(const StackedQP& qp, const Vector* x, const Vector* z, bool look_for_certificates) const {
  DenseKkt kkt(qp.n(), qp.stored_rows());
  Equilibration<double> scaling(qp.n(), qp.rows());
  kkt.load(qp, regularisation, scaling);
  Judge judge(qp, settings, scaling, deadline, look_for_certificates);
  Iterate it(packs(qp.n()), packs(qp.rows()));
  Penalties penalties(packs(qp.rows()));
  penalties.reset(kkt.lower(), kkt.upper());
  if (x != nullptr) {
    if (judge.starts_solved(*x, *z)) return {Verdict::SOLVED, 0, judge.x, judge.z, {}, judge.best};
    numbers(it.x, qp.n()) = x->cwiseQuotient(scaling.D);
    numbers(it.z, qp.rows()) = scaling.c * z->cwiseQuotient(scaling.E);
  }
  augmented_lagrangian(kkt, judge, penalties, settings.max_iter, it);
  if (judge.x.size() == 0) judge.consider_scaled(it);
  return {judge.verdict, it.steps, judge.x, judge.z, judge.ray, judge.best};
}

bool convex(const StackedQP& qp, double& regularisation) {
  regularisation = 0.0;
  if (qp.linear_program) return true;
  Matrix L = qp.H;
  if (cholesky(L)) return true;
  regularisation = 1e-12 * norm_inf(qp.H);
  L = qp.H;
  L.diagonal().array() += regularisation;
  return cholesky(L);
}

}  // namespace qp_control
