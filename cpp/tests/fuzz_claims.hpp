// What a solution claims, checked on the caller's own arrays in long double, with nothing of the solver in it.
#pragma once

#include <Eigen/Eigenvalues>
#include <string>

#include "qp_control/dense_qp.hpp"
#include "qp_control/settings.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

class Claims {
 public:
  using Real = long double;

  // Of ordinary problems the least shift is asked for, of even ones a definite answer.
  Claims(const DenseQP& qp, const Settings& settings, bool ordinary, bool even);

  // The claim that does not hold; empty: all hold.
  std::string broken(const Solution& s) const;

  bool valid() const { return valid_; }

 private:
  using Numbers = std::vector<Real>;

  Real row(int i, int j) const;
  Real hessian(int i, int j) const { return qp_.H == nullptr ? 0.0L : qp_.H[i * n_ + j]; }
  Real linear(int j) const { return qp_.g == nullptr ? 0.0L : qp_.g[j]; }
  bool check_validity() const;
  void measure_convexity();

  std::string broken_point(const Solution& s, bool judged) const;
  std::string broken_shift(const Solution& s) const;
  std::string broken_farkas(const Solution& s) const;
  std::string broken_ray(const Solution& s) const;

  DenseQP qp_;
  Settings settings_;
  bool ordinary_, even_, valid_, crossed_ = false, hard_crossed_ = false;
  int n_, rows_;
  Numbers lower_, upper_, weight_;
  double least_eigenvalue_ = 0.0;  // relative to the largest entry
};

namespace claims_detail {

constexpr double unit = 64.0 * std::numeric_limits<double>::epsilon();  // rounding of sums of a few dozen terms
constexpr double infinity = std::numeric_limits<double>::infinity();

inline bool finite(const double* values, long size) {
  for (long i = 0; values != nullptr && i < size; ++i)
    if (!std::isfinite(values[i])) return false;
  return true;
}

// Products that leave the range of double are not held against it.
inline bool fits(long double reported, long double measured, long double rounding) {
  return std::abs(reported - measured) <= rounding + 1e-290L || (rounding > 1e290L && !std::isfinite(reported));
}

}  // namespace claims_detail

inline Claims::Claims(const DenseQP& qp, const Settings& settings, bool ordinary, bool even)
    : qp_(qp), settings_(settings), ordinary_(ordinary), even_(even), n_(qp.dims.n), rows_(qp.dims.rows()) {
  using claims_detail::infinity;
  const auto value = [](const double* from, int i, double otherwise) { return from == nullptr ? otherwise : from[i]; };
  const auto [n, n_eq, n_in] = qp.dims;
  for (int i = 0; i < n_eq; ++i) {
    lower_.push_back(qp.b[i]);
    upper_.push_back(qp.b[i]);
    weight_.push_back(value(qp.weight_eq, i, 1.0));
  }
  for (int i = 0; i < n_in; ++i) {
    lower_.push_back(value(qp.l, i, -infinity));
    upper_.push_back(value(qp.u, i, infinity));
    weight_.push_back(value(qp.weight_in, i, 1.0));
  }
  for (int i = 0; i < n; ++i) {
    lower_.push_back(value(qp.lb, i, -infinity));
    upper_.push_back(value(qp.ub, i, infinity));
    weight_.push_back(value(qp.weight_box, i, 1.0));
  }
  for (int i = n_eq; i < rows_; ++i) {
    if (lower_[i] <= -1e20L) lower_[i] = -infinity;
    if (upper_[i] >= 1e20L) upper_[i] = infinity;
  }
  valid_ = check_validity();
  for (int i = 0; i < rows_; ++i) {
    if (!(lower_[i] > upper_[i])) continue;
    crossed_ = true;
    if (std::isinf(weight_[i])) hard_crossed_ = true;
  }
  if (valid_) measure_convexity();
}

inline Claims::Real Claims::row(int i, int j) const {
  const auto [n, n_eq, n_in] = qp_.dims;
  if (i < n_eq) return qp_.A[i * n + j];
  if (i < n_eq + n_in) return qp_.C[(i - n_eq) * n + j];
  return i - n_eq - n_in == j ? 1.0L : 0.0L;
}

inline bool Claims::check_validity() const {
  using claims_detail::finite;
  const auto [n, n_eq, n_in] = qp_.dims;
  if (!finite(qp_.H, n * n) || !finite(qp_.g, n) || !finite(qp_.A, n_eq * n) || !finite(qp_.b, n_eq) ||
      !finite(qp_.C, n_in * n))
    return false;
  for (int i = 0; i < rows_; ++i) {
    if (!(weight_[i] > 0.0L)) return false;
    if (i < n_eq) continue;
    if (std::isnan(lower_[i]) || std::isnan(upper_[i]) || lower_[i] >= 1e20L || upper_[i] <= -1e20L) return false;
  }
  return true;
}

inline void Claims::measure_convexity() {
  double largest = 0.0;
  Matrix H(n_, n_);
  for (int i = 0; i < n_; ++i)
    for (int j = 0; j < n_; ++j) largest = std::max(largest, std::abs(H(i, j) = double(hessian(i, j))));
  if (largest == 0.0) return;
  H /= largest;
  least_eigenvalue_ = Eigen::SelfAdjointEigenSolver<Matrix>(H, Eigen::EigenvaluesOnly).eigenvalues()[0];
}

// The point, its residuals as reported and, when `judged`, optimality on the shifted bounds. Multipliers of shifted
// rows are free in sign.
inline std::string Claims::broken_point(const Solution& s, bool judged) const {
  using namespace claims_detail;
  if (!finite(s.x.data(), n_) || !finite(s.z.data(), rows_)) return judged ? "point is finite" : "";
  Real primal = 0.0, dual = 0.0, complementarity = 0.0, objective = 0.0, gap = 0.0;
  Real primal_rounding = 0.0, dual_rounding = 0.0, objective_rounding = 0.0;
  for (int i = 0; i < rows_; ++i) {
    Real v = 0.0, terms = 0.0;
    for (int j = 0; j < n_; ++j) {
      v += row(i, j) * s.x[j];
      terms += std::abs(row(i, j) * s.x[j]);
    }
    Real low = lower_[i] - s.shift_lower[i], high = upper_[i] + s.shift_upper[i];
    if (lower_[i] == upper_[i]) low = high = high - s.shift_lower[i];
    for (const Real bound : {lower_[i], upper_[i]})
      if (std::isfinite(bound)) terms += std::abs(bound);
    terms += s.shift_lower[i] + s.shift_upper[i];
    primal = std::max({primal, v - high, low - v});
    primal_rounding = std::max(primal_rounding, unit * terms);
    if (s.z[i] == 0.0) continue;
    const Real bound = s.z[i] > 0.0 ? high : low;
    const bool free = s.shift_lower[i] != 0.0 || s.shift_upper[i] != 0.0;
    // A hard row that holds the shift back stays on its bound whatever the objective wants.
    const bool held = s.status == Status::CLOSEST_FEASIBLE && std::isinf(weight_[i]);
    const Real distance = held ? std::min(std::abs(v - low), std::abs(v - high)) : std::abs(v - bound);
    if (!free) complementarity = std::max(complementarity, std::min(std::abs(Real(s.z[i])), distance));
    if (!std::isfinite(bound)) continue;
    gap += bound * s.z[i];
    objective_rounding += unit * std::abs(bound * s.z[i]);
  }
  for (int j = 0; j < n_; ++j) {
    Real Hx = 0.0, rest = linear(j), terms = std::abs(rest);
    for (int k = 0; k < n_; ++k) {
      Hx += hessian(j, k) * s.x[k];
      terms += std::abs(hessian(j, k) * s.x[k]);
    }
    objective += s.x[j] * (0.5L * Hx + linear(j));
    gap += s.x[j] * (Hx + linear(j));
    objective_rounding += unit * std::abs(s.x[j]) * terms;
    for (int i = 0; i < rows_; ++i) {
      rest += row(i, j) * s.z[i];
      terms += std::abs(row(i, j) * s.z[i]);
    }
    dual = std::max(dual, std::abs(Hx + rest));
    dual_rounding = std::max(dual_rounding, unit * terms);
  }
  // Two bounds that meet between them do so to rounding, and shifts are computed from a point of that accuracy.
  if (!judged && (s.shift_lower.any() || s.shift_upper.any())) return "";  // of a shift that came to nothing
  if (s.status == Status::CLOSEST_FEASIBLE) primal_rounding += 1e-3L * settings_.eps_abs;
  if (!fits(s.objective, objective, objective_rounding)) return "objective is that of the point";
  if (!fits(s.primal_residual, primal, primal_rounding)) return "primal residual is that of the point";
  if (!fits(s.dual_residual, dual, dual_rounding)) return "dual residual is that of the point";
  if (!judged) return "";
  const Real eps = settings_.eps_abs;
  if (!(primal <= eps + primal_rounding)) return "constraints hold";
  if (!(dual <= eps + dual_rounding)) return "point is stationary";
  if (!(complementarity <= eps + primal_rounding + dual_rounding))
    return "multipliers push on bounds that are reached, from the right side";
  if (s.status != Status::SOLVED) return "";
  if (!fits(s.duality_gap, std::abs(gap), objective_rounding)) return "duality gap is that of the point";
  if (settings_.eps_gap > 0.0 && !(std::abs(gap) <= settings_.eps_gap + objective_rounding)) return "gap is closed";
  return "";
}

// The shift is what the point needs and no more, and the sum of its weighted squares is stationary. The sum is convex,
// so it is then the least one. Rows that cannot give way may push back: their span is projected out, which is necessary
// for the optimum.
inline std::string Claims::broken_shift(const Solution& s) const {
  using namespace claims_detail;
  Vector gradient = Vector::Zero(n_), terms = Vector::Zero(n_);
  Matrix hard(n_, 0);
  double largest = 0.0;
  for (int i = 0; i < rows_; ++i) {
    if (!(s.shift_lower[i] >= 0.0 && s.shift_upper[i] >= 0.0)) return "shifts are not negative";
    largest = std::max({largest, s.shift_lower[i], s.shift_upper[i]});
    Real v = 0.0, size = 0.0;
    for (int j = 0; j < n_; ++j) {
      v += row(i, j) * s.x[j];
      size += std::abs(row(i, j) * s.x[j]);
    }
    const Real below = std::max(0.0L, lower_[i] - v), above = std::max(0.0L, v - upper_[i]);
    for (const Real bound : {lower_[i], upper_[i]})
      if (std::isfinite(bound)) size += std::abs(bound);
    const Real room = 10.0L * settings_.eps_abs + unit * size;
    if (std::isinf(weight_[i])) {
      if (s.shift_lower[i] != 0.0 || s.shift_upper[i] != 0.0) return "hard rows are not shifted";
      hard.conservativeResize(Eigen::NoChange, hard.cols() + 1);
      for (int j = 0; j < n_; ++j) hard(j, hard.cols() - 1) = double(row(i, j));
      hard.rightCols(1).normalize();
      continue;
    }
    if (std::abs(below - s.shift_lower[i]) > room || std::abs(above - s.shift_upper[i]) > room)
      return "shifts are what the point needs";
    for (int j = 0; j < n_; ++j) {
      const double force = double(weight_[i] * row(i, j));
      gradient[j] += force * (s.shift_upper[i] - s.shift_lower[i]);
      terms[j] += std::abs(force);
    }
  }
  if (!(largest > 0.0) && !crossed_) return "something is shifted";
  if (n_ == 0) return "";
  if (hard.cols() > 0) {
    const Eigen::SelfAdjointEigenSolver<Matrix> squares(hard * hard.transpose());
    for (int k = 0; k < n_; ++k)
      if (squares.eigenvalues()[k] > 1e-12 * squares.eigenvalues()[n_ - 1])
        gradient -= squares.eigenvectors().col(k).dot(gradient) * squares.eigenvectors().col(k);
  }
  // The shifts are known to eps_abs.
  for (int j = 0; j < n_; ++j)
    if (std::abs(gradient[j]) > (10.0 * settings_.eps_abs + 1e-9 * largest) * terms.maxCoeff()) return "shift is least";
  return "";
}

inline std::string Claims::broken_farkas(const Solution& s) const {
  using namespace claims_detail;
  bool zero = true;
  Real support = 0.0, terms = 0.0;
  for (int i = 0; i < rows_; ++i) {
    const Real z = s.certificate_z[i];
    if (!std::isfinite(z)) return "Farkas vector is finite";
    if (z == 0.0L) continue;
    zero = false;
    if (settings_.closest && !std::isinf(weight_[i])) return "Farkas vector is of rows that cannot be shifted";
    const Real term = z * (z > 0.0L ? upper_[i] : lower_[i]);
    support += term;
    terms += std::abs(term);
  }
  if (zero) return (settings_.closest ? hard_crossed_ : crossed_) ? "" : "bounds cross or there is a Farkas vector";
  if (!(support < 0.0L)) return "Farkas vector contradicts the bounds";
  for (int j = 0; j < n_; ++j) {
    Real sum = 0.0, size = 0.0;
    for (int i = 0; i < rows_; ++i) {
      if (s.certificate_z[i] == 0.0) continue;
      sum += row(i, j) * s.certificate_z[i];
      size += std::abs(row(i, j) * s.certificate_z[i]);
    }
    // The rows cancel, so that every point up to 1e5 is excluded: a contradiction for all that the caller can mean.
    if (!(std::abs(sum) <= -1e-5L * support + unit * size)) return "Farkas vector combines the rows to zero";
  }
  return "";
}

inline std::string Claims::broken_ray(const Solution& s) const {
  using namespace claims_detail;
  Real size = 0.0, slope = 0.0;
  for (int j = 0; j < n_; ++j) {
    size = std::max(size, std::abs(Real(s.certificate_x[j])));
    slope += linear(j) * s.certificate_x[j];
  }
  if (!(size > 0.0L) || !std::isfinite(size)) return "ray is a direction";
  if (!(slope < 0.0L)) return "objective falls along the ray";
  const Real room = 1e-10L * size;  // relative to the entries of each row
  for (int j = 0; j < n_; ++j) {
    Real curvature = 0.0, largest = 0.0;
    for (int k = 0; k < n_; ++k) {
      curvature += hessian(j, k) * s.certificate_x[k];
      largest = std::max(largest, std::abs(hessian(j, k)));
    }
    if (!(std::abs(curvature) <= room * largest)) return "ray has no curvature";
  }
  for (int i = 0; i < rows_; ++i) {
    Real v = 0.0, largest = 0.0;
    for (int j = 0; j < n_; ++j) {
      v += row(i, j) * s.certificate_x[j];
      largest = std::max(largest, std::abs(row(i, j)));
    }
    if ((std::isfinite(upper_[i]) && v > room * largest) || (std::isfinite(lower_[i]) && v < -room * largest))
      return "ray keeps the constraints";
  }
  return "";
}

inline std::string Claims::broken(const Solution& s) const {
  if ((s.status == Status::INVALID_INPUT) == valid_) return "INVALID_INPUT is said of invalid data, and of no other";
  if (!valid_) return "";
  // The solver accepts -1e-12 and its factorisation rounds.
  if (s.status == Status::NON_CONVEX) return least_eigenvalue_ < -1e-13 ? "" : "H has a negative eigenvalue";
  if (least_eigenvalue_ < -1e-10) return "a negative eigenvalue is reported";
  switch (s.status) {
    case Status::SOLVED:
      if (s.shift_lower.any() || s.shift_upper.any()) return "a solved problem is not shifted";
      return broken_point(s, true);
    case Status::CLOSEST_FEASIBLE: {
      if (!settings_.closest) return "shifting was asked for";
      const std::string point = broken_point(s, true);
      // Entries of 1e-12 and 1e12 in one problem leave the least shift no digits.
      return point.empty() && ordinary_ ? broken_shift(s) : point;
    }
    case Status::PRIMAL_INFEASIBLE:
      return broken_farkas(s);
    case Status::DUAL_INFEASIBLE:
      return broken_ray(s);
    case Status::MAX_ITER:
      if (even_ && settings_.max_iter >= 1000) return "an ordinary problem gets a definite answer";
      return broken_point(s, false);
    case Status::TIME_LIMIT:
      if (settings_.time_limit == 0.0) return "there is a time limit";
      return broken_point(s, false);
    case Status::NUMERICAL_ERROR:
      return even_ ? "an ordinary problem gets a definite answer" : "";
    default:
      return "status is one of those that exist";
  }
}

}  // namespace qp_control
