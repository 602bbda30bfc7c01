#include "qp_control/multipliers.hpp"

#include <algorithm>

#include "qp_control/pivoted_qr.hpp"

namespace qp_control {
namespace {

constexpr double negligible = 1e-10;  // length that is left of a vector, beside the whole
constexpr double rounding = 1e-13;    // of the change of a multiplier, beside its terms

// Orthonormal columns, one more at a time.
class Basis {
 public:
  Basis(const Reserved<Matrix>& first, Eigen::Index largest) : Q_(first.rows(), largest), rank_(first.cols()) {
    Q_.leftCols(rank_) = first;
  }
  bool complete() const { return rank_ == Q_.cols(); }
  // What is orthogonal to the columns; the second time removes the rounding of the first.
  Vector rest(Vector a) const {
    const auto Q = Q_.leftCols(rank_);
    for (int k = 0; k < 2; ++k) a -= Q * (Q.transpose() * a).eval();
    return a;
  }
  void add(const Vector& a) { Q_.col(rank_++) = rest(a).normalized(); }

 private:
  Matrix Q_;
  Eigen::Index rank_;
};

}  // namespace

// Multipliers y of the active stored rows, those scaled to unit length (S), determine those of the box,
//
//     w = -(g + H x + S'y),   0 on the free variables,
//
// so y may move in the space that is orthogonal to the free variables' columns of S. It goes straight to its least
// element there, until the first sign is about to change: that row or variable is free from then on.
void shrink_multipliers(const StackedQP& qp, const Vector& x, std::vector<int>& active, Vector& z) {
  const int n = qp.n(), stored = qp.stored_rows();
  const Vector row_size = qp.R.rowwise().norm();
  std::vector<int> order, free;
  for (int i = 0; i < stored; ++i)
    if (active[i] != 0 && row_size[i] > 0.0) order.push_back(i);
  for (int j = 0; j < n; ++j)
    if (active[stored + j] == 0) free.push_back(j);
  const int count = static_cast<int>(order.size());
  Matrix S(count, n);
  Vector y(count);
  for (int k = 0; k < count; ++k) {
    S.row(k) = qp.R.row(order[k]) / row_size[order[k]];
    y[k] = row_size[order[k]] * z[order[k]];
  }
  Vector w = -qp.g - qp.H * x - S.transpose() * y;
  const Vector column_size = S.colwise().norm();
  PivotedQr columns;
  columns.matrix().resize(count, free.size());
  for (std::size_t k = 0; k < free.size(); ++k) columns.matrix().col(k) = S.col(free[k]).normalized();
  columns.factor();
  Reserved<Matrix> range;
  columns.basis(columns.rank(negligible), range);
  Basis taken(range, count);

  while (!taken.complete()) {
    const Vector step = -taken.rest(y);
    const double size = step.norm();
    if (!(size > negligible * y.norm())) break;
    const Vector w_step = -(S.transpose() * step);
    double length = 1.0;
    int first = -1, first_position = -1;
    const auto keep_sign = [&](int i, int position, double value, double change, double terms) {
      const bool falls = active[i] != 0 && !qp.is_equality(i) && -active[i] * change > rounding * terms;
      if (!falls || !(-value / change < length)) return;
      length = std::max(0.0, -value / change);
      first = i;
      first_position = position;
    };
    for (int k = 0; k < count; ++k) keep_sign(order[k], k, y[k], step[k], size);
    for (int j = 0; j < n; ++j) keep_sign(stored + j, j, w[j], w_step[j], size * column_size[j]);
    y += length * step;
    w += length * w_step;
    if (first < 0) break;
    active[first] = 0;
    taken.add(first < stored ? Vector(Vector::Unit(count, first_position))
                             : Vector(S.col(first_position).normalized()));
  }
  z.setZero();
  for (int k = 0; k < count; ++k)
    if (active[order[k]] != 0) z[order[k]] = y[k] / row_size[order[k]];
  for (int j = 0; j < n; ++j)
    if (active[stored + j] != 0) z[stored + j] = w[j];
}

}  // namespace qp_control
