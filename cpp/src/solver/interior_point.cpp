#include "qp_control/interior_point.hpp"

#include <algorithm>
#include <cmath>

namespace qp_control {
namespace {

constexpr int patience = 60;        // Newton steps of the loop before the rescue; ordinary problems take 5 to 20
constexpr int most_steps = 150;     // of the rescue
constexpr int most_stalled = 12;    // its steps without progress
constexpr double most_mean = 1e16;  // mean product of slacks and multipliers on the way to huge multipliers
constexpr double to_boundary = 0.995;
constexpr double least_regularisation = 1e-13, most_regularisation = 1e-11;

}  // namespace

InteriorPoint::InteriorPoint(int n, int stored_rows)
    : n_(n),
      rows_(stored_rows + n),
      stored_(stored_rows),
      elasticity_(rows_),
      slot_(stored_rows),
      system_(n, stored_rows) {
  sides_.reserve(2 * rows_);
  equalities_.reserve(rows_);
  bounded_.reserve(stored_);
  for (Reserved<Vector>* a : {&s_, &z_, &ds_, &dz_, &side_weight_, &side_residual_, &side_rhs_, &target_})
    a->reserve(2 * rows_);
  for (Reserved<Vector>* a : {&y_, &dy_, &equality_residual_}) a->reserve(rows_);
  for (Reserved<Vector>* a : {&e_, &b_, &multiplier_step_}) a->reserve(stored_);
}

void InteriorPoint::load(const DenseKkt& kkt, const PackArray& elasticity) {
  kkt_ = &kkt;
  elasticity_ = numbers(elasticity, rows_);
  coupled_ = (elasticity_.array() > 0.0).any();
  rho_ = mu_ = 1e-8;
  sides_.clear();
  equalities_.clear();
  bounded_.clear();
  const auto lower = numbers(kkt.lower(), rows_), upper = numbers(kkt.upper(), rows_);
  for (int i = 0; i < rows_; ++i) {
    if (i < stored_ && (std::isfinite(lower[i]) || std::isfinite(upper[i]))) {
      slot_[i] = static_cast<int>(bounded_.size());
      bounded_.push_back(i);
    }
    if (lower[i] == upper[i]) {
      equalities_.push_back(i);
      continue;
    }
    if (std::isfinite(upper[i])) sides_.push_back({i, 1.0, upper[i]});
    if (std::isfinite(lower[i])) sides_.push_back({i, -1.0, lower[i]});
  }
  system_.load(kkt.hessian(), kkt.stored(), bounded_);
  for (PackArray* a : {&x_, &Hx_, &Rz_}) a->setConstant(packs(n_), Pack(0.0));
  for (PackArray* a : {&v_, &row_}) a->setConstant(packs(rows_), Pack(0.0));
  for (Reserved<Vector>* a : {&s_, &z_, &ds_, &dz_, &side_weight_, &side_residual_, &side_rhs_, &target_})
    a->setZero(sides_.size());
  for (Reserved<Vector>* a : {&y_, &dy_, &equality_residual_}) a->setZero(equalities_.size());
  for (Reserved<Vector>* a : {&e_, &b_, &multiplier_step_}) a->setZero(bounded_.size());
  for (Vector* a : {&best_x_, &dual_residual_, &dx_, &d_, &a_}) a->setZero(n_);
  for (Vector* a : {&weight_, &weighted_rhs_, &best_z_}) a->setZero(rows_);
}

// From the least-squares point of all bounds, moved into the interior.
void InteriorPoint::start() {
  s_.setOnes();
  z_.setOnes();
  y_.setZero();
  side_residual_.setZero();
  numbers(x_, n_).setZero();
  mean_ = 1.0;
  if (!factor()) return;
  for (std::size_t k = 0; k < sides_.size(); ++k) side_residual_[k] = sides_[k].sign * sides_[k].bound;
  for (std::size_t k = 0; k < equalities_.size(); ++k) equality_residual_[k] = numbers(kkt_->lower())[equalities_[k]];
  dual_residual_ = numbers(kkt_->g(), n_);
  target_.setZero();
  solve(target_);
  numbers(x_, n_) = dx_;
  y_ = dy_;
  kkt_->apply_rows(x_, v_);
  if (sides_.empty()) return;
  for (std::size_t k = 0; k < sides_.size(); ++k)
    s_[k] = sides_[k].sign * (sides_[k].bound - numbers(v_)[sides_[k].row]);
  z_ = -s_;
  const double least_s = s_.minCoeff(), least_z = z_.minCoeff();
  if (least_s <= 0.0) s_.array() += 1.0 - least_s;
  if (least_z <= 0.0) z_.array() += 1.0 - least_z;
}

double InteriorPoint::evaluate() {
  kkt_->apply_rows(x_, v_);
  kkt_->apply_hessian(x_, Hx_);
  auto row = numbers(row_, rows_);
  row.setZero();
  const auto v = numbers(v_, rows_);
  double primal = 0.0, size = 0.0;
  for (std::size_t k = 0; k < sides_.size(); ++k) {
    const auto [i, sign, bound] = sides_[k];
    row[i] += sign * z_[k];
    side_residual_[k] = sign * (bound - v[i]) - s_[k] + elasticity_[i] * z_[k];
    primal = std::max(primal, std::abs(side_residual_[k]));
    size = std::max(size, std::abs(bound));
  }
  for (std::size_t k = 0; k < equalities_.size(); ++k) {
    const int i = equalities_[k];
    row[i] += y_[k];
    equality_residual_[k] = numbers(kkt_->lower())[i] - v[i] + elasticity_[i] * y_[k];
    primal = std::max(primal, std::abs(equality_residual_[k]));
    size = std::max(size, std::abs(numbers(kkt_->lower())[i]));
  }
  Rz_.setConstant(Pack(0.0));
  kkt_->add_rows_transposed(row_, Rz_);
  dual_residual_ = numbers(Hx_, n_) + numbers(kkt_->g(), n_) + numbers(Rz_, n_);
  mean_ = mean_product();
  const double dual_size = 1.0 + norm_inf(numbers(kkt_->g(), n_));
  primal_ = primal / (1.0 + size);
  return std::max({primal_, norm_inf(dual_residual_) / dual_size, mean_});
}

bool InteriorPoint::factor() {
  weight_.setZero();
  for (std::size_t k = 0; k < sides_.size(); ++k) {
    const int i = sides_[k].row;
    side_weight_[k] = 1.0 / (s_[k] / z_[k] + mu_ + elasticity_[i]);
    weight_[i] += side_weight_[k];
  }
  for (const int i : equalities_) weight_[i] = 1.0 / (mu_ + elasticity_[i]);
  d_ = weight_.tail(n_).array() + rho_;
  for (std::size_t k = 0; k < bounded_.size(); ++k) e_[k] = 1.0 / weight_[bounded_[k]];
  return system_.factor(d_, e_);
}

void InteriorPoint::solve(const Reserved<Vector>& target) {
  // sign R dx + ds - (mu + delta) dz = residual and z ds + s dz = target - s z, so with the weights of the sides
  // dz = weight (sign R dx - rhs); of a row all sides together: R dx - e dy = its weighted mean of the rhs.
  weighted_rhs_.setZero();
  for (std::size_t k = 0; k < sides_.size(); ++k) {
    side_rhs_[k] = side_residual_[k] - target[k] / z_[k];
    weighted_rhs_[sides_[k].row] += sides_[k].sign * side_weight_[k] * side_rhs_[k];
  }
  for (std::size_t k = 0; k < equalities_.size(); ++k)
    weighted_rhs_[equalities_[k]] = weight_[equalities_[k]] * equality_residual_[k];
  a_ = weighted_rhs_.tail(n_) - dual_residual_;
  for (std::size_t k = 0; k < bounded_.size(); ++k) b_[k] = e_[k] * weighted_rhs_[bounded_[k]];
  system_.solve(a_, b_, dx_, multiplier_step_);

  const auto row_change = [&](int i) {
    return i < stored_ ? multiplier_step_[slot_[i]] : weight_[i] * dx_[i - stored_] - weighted_rhs_[i];
  };
  for (std::size_t k = 0; k < equalities_.size(); ++k) dy_[k] = row_change(equalities_[k]);
  for (std::size_t k = 0; k < sides_.size(); ++k) {
    const auto [i, sign, bound] = sides_[k];
    dz_[k] = sign * row_change(i);
    // Of two sides the lighter one has no cancellation in its formula, and the other gets the rest.
    const bool two_sided = k > 0 && sides_[k - 1].row == i;
    if (!two_sided) continue;
    const std::size_t light = side_weight_[k] < side_weight_[k - 1] ? k : k - 1, heavy = 2 * k - 1 - light;
    const double v = i < stored_ ? system_.row(slot_[i]).dot(dx_) : dx_[i - stored_];
    dz_[light] = side_weight_[light] * (sides_[light].sign * v - side_rhs_[light]);
    dz_[heavy] = sides_[heavy].sign * row_change(i) + dz_[light];
  }
  for (std::size_t k = 0; k < sides_.size(); ++k) ds_[k] = (target[k] - s_[k] * dz_[k]) / z_[k];
}

double InteriorPoint::step_length(const Reserved<Vector>& value, const Reserved<Vector>& change) const {
  double length = 1.0;
  for (Eigen::Index k = 0; k < value.size(); ++k)
    if (change[k] < 0.0) length = std::min(length, -to_boundary * value[k] / change[k]);
  return length;
}

void InteriorPoint::keep() {
  best_x_ = numbers(x_, n_);
  best_z_.setZero();
  for (std::size_t k = 0; k < sides_.size(); ++k)
    if (z_[k] > s_[k]) best_z_[sides_[k].row] += sides_[k].sign * z_[k];
  for (std::size_t k = 0; k < equalities_.size(); ++k) best_z_[equalities_[k]] = y_[k];
}

void InteriorPoint::run(int max_steps, const Deadline& deadline, Iterate& it) {
  start();
  double best = std::numeric_limits<double>::infinity(), kept_mean = best, least_primal = best;
  double largest_mean = 0.0;
  for (int step = 0, stalled = 0; step < std::min(max_steps, most_steps); ++step) {
    const double error = evaluate();
    if (!std::isfinite(error)) break;
    // Where the multipliers are huge the products grow with them first, and the rows get nearer only then.
    const bool grows = mean_ > 1.5 * largest_mean && mean_ < most_mean;
    stalled = error < 0.9 * best || primal_ < 0.9 * least_primal || grows ? 0 : stalled + 1;
    least_primal = std::min(least_primal, primal_);
    largest_mean = std::max(largest_mean, mean_);
    // The products go on falling below rounding, and tell the active rows the more clearly.
    if (error < best || (error < 10.0 * best && mean_ < 0.1 * kept_mean)) {
      kept_mean = mean_;
      keep();
    }
    best = std::min(best, error);
    const bool exact = !sides_.empty() && mean_ < 1e-25;
    if (exact || stalled > most_stalled || deadline.passed()) break;
    mu_ = std::clamp(1e-5 * mean_, least_regularisation, most_regularisation);
    rho_ = 0.1 * mu_;
    ++it.steps;
    if (!factor()) break;
    target_ = -s_.cwiseProduct(z_);
    solve(target_);
    const double primal = step_length(s_, ds_), dual = step_length(z_, dz_);
    if (!sides_.empty()) {
      const double after = (s_ + primal * ds_).dot(z_ + dual * dz_) / double(sides_.size());
      const double centring = std::pow(after / mean_, 3.0);
      target_ -= ds_.cwiseProduct(dz_);
      target_.array() += std::min(1.0, centring) * mean_;
      solve(target_);
    }
    double along_x = step_length(s_, ds_), along_z = step_length(z_, dz_);
    if (coupled_) along_x = along_z = std::min(along_x, along_z);
    numbers(x_, n_) += along_x * dx_;
    s_ += along_x * ds_;
    z_ += along_z * dz_;
    y_ += along_z * dy_;
  }
  numbers(it.x, n_) = best_x_;
  numbers(it.z, rows_) = best_z_;
}

void minimise_with_rescue(DenseKkt& kkt, SingleJudge& judge, Penalties& penalties, int max_steps,
                          const Deadline& deadline, Iterate& it, const PackArray& sides,
                          std::optional<InteriorPoint>& rescue) {
  augmented_lagrangian(kkt, judge, penalties, std::min(max_steps, patience), it, sides);
  const int first = it.steps;
  if (judge.verdict != Verdict::MAX_ITER || first >= max_steps) return;
  if (!rescue) rescue.emplace(kkt.n(), kkt.stored_rows());
  rescue->load(kkt, penalties.delta);
  rescue->run(max_steps - first, deadline, it);
  refresh(kkt, Mask::all(true), it);
  it.Rz.setConstant(Pack(0.0));
  kkt.add_rows_transposed(it.z, it.Rz);
  it.x_center = it.x;
  it.z_center = it.z;
  judge.verdict = judge.rescued(it);
  if (judge.verdict != Verdict::GO_ON) return;
  const int before = it.steps;
  penalties.reset(kkt.lower(), kkt.upper());
  if (penalties.settles) penalties.settling = Mask::all(true);
  penalties.apply();
  augmented_lagrangian(kkt, judge, penalties, max_steps - before, it, it.z);
  it.steps += before;
}

}  // namespace qp_control
