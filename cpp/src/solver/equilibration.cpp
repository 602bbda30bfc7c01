#include "qp_control/equilibration.hpp"

#include <algorithm>
#include <cmath>

namespace qp_control {
namespace {

constexpr int passes = 8;
constexpr double balanced = 0.2;  // a pass that changes no factor by more than this is the last

// Empty and extreme columns keep a sane factor.
double factor(double norm) { return norm > 0.0 ? 1.0 / std::sqrt(std::clamp(norm, 1e-8, 1e8)) : 1.0; }

}  // namespace

void Equilibration::scale(const StackedQP& qp, StackedQP& scaled) {
  const int n = qp.n(), stored = qp.stored_rows();
  scaled.H = qp.H;
  scaled.R = qp.R;
  scaled.linear_program = qp.linear_program;
  D.setOnes();
  E.setOnes();
  for (int pass = 0; pass < passes; ++pass) {
    double change = 0.0;
    if (qp.linear_program)
      norm.setZero();
    else
      norm = scaled.H.cwiseAbs().colwise().maxCoeff();
    for (int i = 0; i < stored; ++i) norm = norm.cwiseMax(scaled.R.row(i).cwiseAbs().transpose());
    for (int i = 0; i < stored; ++i) {
      const double e = factor(n > 0 ? scaled.R.row(i).cwiseAbs().maxCoeff() : 0.0);
      change = std::max(change, std::abs(1.0 - e));
      scaled.R.row(i) *= e;
      E[i] *= e;
    }
    for (int j = 0; j < n; ++j) {
      const double d = factor(norm[j]);
      change = std::max(change, std::abs(1.0 - d));
      if (stored > 0) scaled.R.col(j) *= d;
      if (!qp.linear_program) {
        scaled.H.col(j) *= d;
        scaled.H.row(j) *= d;
      }
      D[j] *= d;
    }
    if (change < balanced) break;
  }

  scaled.g = D.cwiseProduct(qp.g);
  const double largest = std::max(qp.linear_program ? 0.0 : norm_inf(scaled.H), norm_inf(scaled.g));
  c = largest > 0.0 ? 1.0 / std::clamp(largest, 1e-12, 1e12) : 1.0;
  scaled.H *= c;
  scaled.g *= c;
  E.tail(n) = D.cwiseInverse();
  scaled.lower = E.cwiseProduct(qp.lower);
  scaled.upper = E.cwiseProduct(qp.upper);
  scaled.weight = qp.weight;
}

void Equilibration::unscale(const Vector& x_scaled, const Vector& z_scaled, Vector& x, Vector& z) const {
  x = D.cwiseProduct(x_scaled);
  z = E.cwiseProduct(z_scaled) / c;
}

void Equilibration::scale(const Vector& x, const Vector& z, Vector& x_scaled, Vector& z_scaled) const {
  x_scaled = x.cwiseQuotient(D);
  z_scaled = c * z.cwiseQuotient(E);
}

}  // namespace qp_control
