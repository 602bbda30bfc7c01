#include "qp_control/ocp_level.hpp"

#include <algorithm>
#include <limits>

#include "qp_control/ocp_element.hpp"

namespace qp_control {
namespace {

constexpr double rho = 1e-7;         // beside E'W E
constexpr double enough = 1e-15;     // relative residual that ends the refinement
constexpr double projected = 1e-13;  // relative change that ends a projection
constexpr int refinement_steps = 30;

// NaN where an entry is not finite.
double largest(const PackArray& a) {
  Pack out = 0.0, poison = 0.0;
  for (const Pack& entry : a) {
    out = max(out, abs(entry));
    poison += entry * Pack(0.0);
  }
  return max_of_lanes(out)[0] + sum_of_lanes(poison)[0];
}

// Slacks keep their places, where they are zero: their rows are none of E.
OcpBatch constraints(const OcpBatch& batch) {
  OcpBatch out = without_cost(batch);
  out.slack_linear = batch.slack_linear;
  out.slack_quadratic = batch.slack_quadratic;
  out.slack_linear_N = batch.slack_linear_N;
  out.slack_quadratic_N = batch.slack_quadratic_N;
  return out;
}

}  // namespace

OcpLevel::OcpLevel(const OcpBatch& batch)
    : kkt_(constraints(batch), Curvature::CONVEX, Units::OF_CALLER),
      scaling_(kkt_.unknowns(), kkt_.rows()),
      weight_(kkt_.rows()),
      rows_(kkt_.rows()),
      rhs_(kkt_.unknowns()),
      product_(kkt_.unknowns()),
      step_(kkt_.unknowns()),
      best_(kkt_.unknowns()) {
  for (PackArray* a : {&rows_, &product_}) a->setConstant(Pack(0.0));
}

bool OcpLevel::set(const OcpBatch& batch, int i, const PackArray& weight) {
  kkt_.load(constraints(batch), i, i + 1, scaling_);
  weight_ = weight;
  kkt_.row_sizes(scaling_, rows_);
  for (int k = 0; k < rows_.size(); ++k) rows_[k] *= weight[k];
  row_size_ = largest(rows_);
  rho_ = rho * row_size_ * row_size_;
  return any(kkt_.factor(weight_, rho_));
}

void OcpLevel::apply(const PackArray& x, PackArray& rows) const {
  kkt_.apply_rows(x, rows);
  for (int k = 0; k < rows.size(); ++k) rows[k] *= weight_[k];
}

void OcpLevel::add_transposed(const PackArray& z, PackArray& out) const { kkt_.add_rows_transposed(z, out); }

double OcpLevel::solve(const PackArray& a, const PackArray* b, PackArray& out) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (int k = 0; k < rows_.size(); ++k) rows_[k] = weight_[k] * a[k];
  if (b != nullptr)
    rhs_ = *b;
  else
    rhs_.setConstant(Pack(0.0));
  // E'a may be the rounding of its terms, which no x has to answer for.
  const double rhs_size = std::max(row_size_ * largest(rows_), largest(rhs_));
  kkt_.add_rows_transposed(rows_, rhs_);
  out.setConstant(Pack(0.0));
  best_ = out;
  double best = infinity, last = infinity;
  for (int k = 0; k <= refinement_steps; ++k) {
    kkt_.apply_hessian(out, product_);
    apply(out, rows_);
    kkt_.add_rows_transposed(rows_, product_);
    for (int j = 0; j < out.size(); ++j) step_[j] = rhs_[j] - product_[j];
    const double size = std::max(rhs_size, std::max(1.0, row_size_ * row_size_) * largest(out));
    const double error = size > 0.0 ? largest(step_) / size : 0.0;
    if (!(error < best)) break;
    best = error;
    best_ = out;
    if (error <= enough || error > 0.5 * last) break;
    last = error;
    kkt_.solve(step_);
    for (int j = 0; j < out.size(); ++j) out[j] += step_[j];
  }
  out = best_;
  return best;
}

// (E'W E + rho) x + F'p = b, F x = 0 takes b to rho x, which leaves what is to go as it is and makes the rest smaller:
// the limit of its repetition. What rounding leaves of it, a second pass takes.
bool OcpLevel::project(PackArray& b) {
  const int variables = kkt_.variables(), costates = kkt_.unknowns() - variables;
  const Pack in_factor = rho_ + convexity_tolerance;  // beside E'W E, of stages without a cost
  for (int pass = 0; pass < 2; ++pass) {
    const double size = largest(b);
    if (size == 0.0) return true;
    step_ = b;
    double change = size;
    for (int k = 0; k < refinement_steps && change > projected * size; ++k) {
      product_ = step_;
      step_.tail(costates).setConstant(Pack(0.0));
      kkt_.solve(step_);
      for (int j = 0; j < variables; ++j) step_[j] *= in_factor;
      product_.head(variables) -= step_.head(variables);
      product_.tail(costates).setConstant(Pack(0.0));
      change = largest(product_);
    }
    if (!(change <= projected * size)) return false;
    b.head(variables) -= step_.head(variables);
  }
  return true;
}

}  // namespace qp_control
