#include "configuration_group.hpp"

#include <algorithm>
#include <cmath>

#include "evaluator.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {

constexpr int most_terms = 40;  // of the exponential's series; an angle of pi needs 25

}  // namespace

// The structure constants of rotations and rigid motions are 0, 1 and -1, so those that differences show need but be
// rounded: J(w) = 1 - ad_w / 2 + ..
ConfigurationGroup::ConfigurationGroup(const Evaluator& robot) {
  if (robot.vector_space()) return;
  const int nv = robot.nv();
  constexpr double step = 1e-3;
  const VectorXd q = robot.neutral();
  std::vector<Constant> all;
  MatrixXd J = MatrixXd::Zero(nv, nv), before = J;
  for (int i = 0; i < nv; ++i) {
    const VectorXd w = VectorXd::Unit(nv, i) * step;
    robot.integrate_jacobians(q, w, nullptr, J);
    robot.integrate_jacobians(q, -w, nullptr, before);
    for (int j = 0; j < nv; ++j)
      for (int k = 0; k < nv; ++k) {
        const double value = std::round((before(k, j) - J(k, j)) / step);
        if (value != 0.0) all.push_back({i, j, k, value});
      }
  }
  for (const Constant& c : all) index_.insert(index_.end(), {c.i, c.j, c.k});
  std::sort(index_.begin(), index_.end());
  index_.erase(std::unique(index_.begin(), index_.end()), index_.end());
  const auto place = [&](int i) {
    return static_cast<int>(std::lower_bound(index_.begin(), index_.end(), i) - index_.begin());
  };
  for (const Constant& c : all) constants_.push_back({place(c.i), place(c.j), place(c.k), c.value});
}

template <typename Coefficients>
void ConfigurationGroup::bracket_of(const Coefficients& lambda, MatrixXd& L) const {
  L.setZero(index_.size(), index_.size());
  for (const Constant& c : constants_) L(c.i, c.j) += c.value * lambda[c.k];
}

void ConfigurationGroup::bracket(const VectorXd& lambda, MatrixXd& L) const {
  L.setZero(lambda.size(), lambda.size());
  for (const Constant& c : constants_) L(index_[c.i], index_[c.j]) += c.value * lambda[index_[c.k]];
}

// J(w) = sum_k c_k ad^k, c_k = (-1)^k / (k + 1)!, ad x = [w, x]. Its derivative along y, applied to y, has the terms
// c_k ad^m [y, ad^n y], m + n = k - 1, and lambda' ad^m [y, x] = -x' L(p_m) y with p_m = (ad')^m lambda. So
// N = -sum_n (ad')^n L(sum_m c_{m+n+1} p_m), made symmetric.
void ConfigurationGroup::curvature(const VectorXd& w, const VectorXd& lambda, MatrixXd& N) {
  N.setZero(lambda.size(), lambda.size());
  const int n = static_cast<int>(index_.size());
  if (n == 0) return;
  ad_.setZero(n, n);
  for (const Constant& c : constants_) ad_(c.k, c.j) += w[index_[c.i]] * c.value;
  powers_.resize(n, most_terms);
  for (int i = 0; i < n; ++i) powers_(i, 0) = lambda[index_[i]];
  const double negligible = 1e-17 * powers_.col(0).lpNorm<Eigen::Infinity>();
  int terms = 1;
  for (double factorial = 2.0; terms < most_terms; ++terms) {
    powers_.col(terms).noalias() = ad_.transpose() * powers_.col(terms - 1);
    factorial *= terms + 2;
    if (powers_.col(terms).lpNorm<Eigen::Infinity>() <= negligible * factorial) break;
  }
  coefficients_.setZero(n, terms);
  double c = -0.5;
  for (int k = 1; k <= terms; ++k) {
    for (int m = 0; m < k; ++m) coefficients_.col(k - 1 - m) += c * powers_.col(m);
    c /= -(k + 2);
  }
  bracket_of(coefficients_.col(terms - 1), sum_);
  for (int k = terms - 2; k >= 0; --k) {
    bracket_of(coefficients_.col(k), L_);
    L_.noalias() += ad_.transpose() * sum_;
    sum_.swap(L_);
  }
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) N(index_[i], index_[j]) = -0.5 * (sum_(i, j) + sum_(j, i));
}

}  // namespace qp_control
