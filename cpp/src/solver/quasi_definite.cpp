#include "qp_control/quasi_definite.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace qp_control {
namespace {

constexpr int refinement_steps = 8;
constexpr double good = 1e-8;        // residual beside the right-hand side that ends the refinement
constexpr double acceptable = 1e-6;  // that an interior-point step can live with
constexpr double rounding = 1e-15;   // of a residual, beside the terms that it is the difference of

bool is_diagonal(const Matrix& H) {
  for (Eigen::Index j = 0; j < H.cols(); ++j)
    for (Eigen::Index i = 0; i < H.rows(); ++i)
      if (i != j && H(i, j) != 0.0) return false;
  return true;
}

}  // namespace

QuasiDefinite::QuasiDefinite(Matrix H, RowMatrix R)
    : H_(std::move(H)),
      R_(std::move(R)),
      R_size_(R_.cwiseAbs()),
      diagonal_(is_diagonal(H_)),
      eliminated_(Eliminated::ROWS) {
  if (diagonal_ && R_.rows() > 0 && R_.rows() < R_.cols()) eliminated_ = Eliminated::VARIABLES;
}

bool QuasiDefinite::factor(const Vector& d, const Vector& e) {
  d_ = d;
  e_ = e;
  return d_.allFinite() && e_.allFinite() && factor();
}

bool QuasiDefinite::factor() {
  const Eigen::Index n = H_.rows(), m = R_.rows();
  if (eliminated_ == Eliminated::ROWS) {
    scaled_ = e_.cwiseSqrt().cwiseInverse().asDiagonal() * R_;
    reduced_ = H_;
    reduced_.diagonal() += d_;
    // Eigen's product of nothing is undefined.
    if (m > 0 && n > 0) reduced_.selfadjointView<Eigen::Lower>().rankUpdate(scaled_.transpose());
  } else if (eliminated_ == Eliminated::VARIABLES) {
    scaled_ = R_ * (H_.diagonal() + d_).cwiseSqrt().cwiseInverse().asDiagonal();
    reduced_ = e_.asDiagonal();
    reduced_.selfadjointView<Eigen::Lower>().rankUpdate(scaled_);
  }
  if (eliminated_ != Eliminated::NOTHING) {
    cholesky_.compute(reduced_);
    if (cholesky_.info() == Eigen::Success) return true;
    eliminated_ = Eliminated::NOTHING;
  }
  reduced_.resize(n + m, n + m);
  reduced_.topLeftCorner(n, n) = H_;
  reduced_.topLeftCorner(n, n).diagonal() += d_;
  reduced_.topRightCorner(n, m) = R_.transpose();
  reduced_.bottomLeftCorner(m, n) = R_;
  reduced_.bottomRightCorner(m, m) = (-e_).asDiagonal();
  lu_.compute(reduced_);
  return true;
}

void QuasiDefinite::back_substitute(const Vector& a, const Vector& b, Vector& x, Vector& y) const {
  if (eliminated_ == Eliminated::ROWS) {
    x = cholesky_.solve(a + R_.transpose() * b.cwiseQuotient(e_));
    y = (R_ * x - b).cwiseQuotient(e_);
  } else if (eliminated_ == Eliminated::VARIABLES) {
    const Vector p = H_.diagonal() + d_;
    y = cholesky_.solve(R_ * a.cwiseQuotient(p) - b);
    x = (a - R_.transpose() * y).cwiseQuotient(p);
  } else {
    Vector stacked(a.size() + b.size());
    stacked << a, b;
    stacked = lu_.solve(stacked).eval();
    x = stacked.head(a.size());
    y = stacked.tail(b.size());
  }
}

double QuasiDefinite::refine(const Vector& a, const Vector& b, Vector& x, Vector& y) const {
  x.setZero(a.size());
  y.setZero(b.size());
  Vector best_x = x, best_y = y, r = a, s = b, dx, dy;
  double best = std::numeric_limits<double>::infinity();
  for (int k = 0; k < refinement_steps; ++k) {
    back_substitute(r, s, dx, dy);
    x += dx;
    y += dy;
    const Vector Px = (diagonal_ ? Vector(H_.diagonal().cwiseProduct(x)) : Vector(H_ * x)) + d_.cwiseProduct(x);
    const Vector ey = e_.cwiseProduct(y);
    r = a - Px - R_.transpose() * y;
    s = b - R_ * x + ey;
    // Rounding is that of the terms, however small a sum they make.
    const double Ry_size = norm_inf(R_size_.transpose() * y.cwiseAbs()), Rx_size = norm_inf(R_size_ * x.cwiseAbs());
    const double size_r = norm_inf(a) + rounding / good * (norm_inf(Px) + Ry_size);
    const double size_s = norm_inf(b) + rounding / good * (Rx_size + norm_inf(ey));
    const double error = std::max(size_r > 0.0 ? norm_inf(r) / size_r : 0.0, size_s > 0.0 ? norm_inf(s) / size_s : 0.0);
    if (!(error < best)) break;
    const bool slow = error > 0.5 * best;
    best = error;
    best_x = x;
    best_y = y;
    if (error <= good || slow) break;
  }
  x = best_x;
  y = best_y;
  return best;
}

void QuasiDefinite::solve(const Vector& a, const Vector& b, Vector& x, Vector& y) {
  if (refine(a, b, x, y) <= acceptable || eliminated_ == Eliminated::NOTHING) return;
  eliminated_ = Eliminated::NOTHING;
  factor();
  refine(a, b, x, y);
}

}  // namespace qp_control
