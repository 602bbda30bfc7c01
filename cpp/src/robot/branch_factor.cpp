#include "branch_factor.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

BranchFactor::BranchFactor(std::vector<int> before) : before_(std::move(before)) {
  const auto n = static_cast<Eigen::Index>(before_.size());
  L_.setZero(n, n);
  scale_.setZero(n);
  first_.resize(before_.size());
  last_.resize(before_.size());
}

void BranchFactor::factor(const MatrixXd& M) {
  const int n = static_cast<int>(before_.size());
  for (int k = 0; k < n; ++k)
    for (int i = k; i >= 0; i = before_[i]) L_(k, i) = M(i, k);
  for (int k = n - 1; k >= 0; --k) {
    const double inverse = 1.0 / L_(k, k);
    scale_[k] = std::sqrt(inverse);
    for (int i = before_[k]; i >= 0; i = before_[i]) {
      const double a = L_(k, i) * inverse;
      for (int j = i; j >= 0; j = before_[j]) L_(i, j) -= a * L_(k, j);
      L_(k, i) = a;
    }
  }
}

void BranchFactor::half(VectorXd& b) const {
  for (int i = static_cast<int>(before_.size()) - 1; i >= 0; --i) {
    for (int j = before_[i]; j >= 0; j = before_[j]) b[j] -= L_(i, j) * b[i];
    b[i] *= scale_[i];
  }
}

void BranchFactor::half_transposed(VectorXd& b) const {
  for (int i = 0; i < static_cast<int>(before_.size()); ++i) {
    b[i] *= scale_[i];
    for (int j = before_[i]; j >= 0; j = before_[j]) b[i] -= L_(i, j) * b[j];
  }
}

void BranchFactor::half(RowMajor& Y) {
  const int n = static_cast<int>(before_.size()), columns = static_cast<int>(Y.cols());
  for (int i = 0; i < n; ++i) {
    const double* y = Y.data() + i * columns;
    int first = 0, last = columns;
    while (first < last && y[first] == 0.0) ++first;
    while (first < last && y[last - 1] == 0.0) --last;
    first_[i] = first;
    last_[i] = last;
  }
  for (int i = n - 1; i >= 0; --i) {
    double* from = Y.data() + i * columns;
    const int first = first_[i], last = last_[i];
    if (first == last) continue;
    for (int j = before_[i]; j >= 0; j = before_[j]) {
      double* to = Y.data() + j * columns;
      const double l = L_(i, j);
      for (int c = first; c < last; ++c) to[c] -= l * from[c];
      const bool empty = first_[j] == last_[j];
      first_[j] = empty ? first : std::min(first_[j], first);
      last_[j] = empty ? last : std::max(last_[j], last);
    }
    for (int c = first; c < last; ++c) from[c] *= scale_[i];
  }
}

void BranchFactor::gram(const RowMajor& Y, double* H) const {
  const int n = static_cast<int>(before_.size()), columns = static_cast<int>(Y.cols());
  std::fill_n(H, columns * columns, 0.0);
  for (int i = 0; i < n; ++i) {
    const double* y = Y.data() + i * columns;
    for (int r = first_[i]; r < last_[i]; ++r) {
      double* row = H + r * columns;
      const double factor = y[r];
      for (int c = first_[i]; c <= r; ++c) row[c] += factor * y[c];
    }
  }
  for (int r = 0; r < columns; ++r)
    for (int c = 0; c < r; ++c) H[c * columns + r] = H[r * columns + c];
}

}  // namespace qp_control
