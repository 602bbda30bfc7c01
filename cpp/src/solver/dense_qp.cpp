#include "qp_control/dense_qp.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qp_control {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

bool finite(const double* data, long size) { return data == nullptr || all_finite(ConstVectorMap(data, size)); }

// The same of data that have no default.
bool given(const double* data, long size) { return size == 0 || (data != nullptr && finite(data, size)); }

// Ends at the first column of most others.
bool is_diagonal(const double* H, int n) {
  for (int j = 0; j < n; ++j) {
    const double* column = H + long(j) * n;
    const auto zero = [](const double* from, int size) { return (ConstVectorMap(from, size).array() == 0.0).all(); };
    if (!zero(column, j) || !zero(column + j + 1, n - 1 - j)) return false;
  }
  return true;
}

// Writes the bounds of one block of rows; false on NaN, or an infinity that nothing satisfies.
bool stack_bounds(const double* low, const double* high, int size, double* lower, double* upper) {
  for (int i = 0; i < size; ++i) {
    lower[i] = low == nullptr || low[i] <= -infinite_bound ? -infinity : low[i];
    upper[i] = high == nullptr || high[i] >= infinite_bound ? infinity : high[i];
    if (std::isnan(lower[i]) || std::isnan(upper[i])) return false;
    if (lower[i] >= infinite_bound || upper[i] <= -infinite_bound) return false;
  }
  return true;
}

bool stack_weights(const double* weight, int size, double* out) {
  for (int i = 0; i < size; ++i) {
    out[i] = weight == nullptr ? 1.0 : weight[i];
    if (!(out[i] > 0.0)) return false;
  }
  return true;
}

}  // namespace

StackedQP::StackedQP(int n, int stored_rows)
    : H(Matrix::Zero(n, n)),
      g(Vector::Zero(n)),
      R(RowMatrix::Zero(stored_rows, n)),
      lower(Vector::Constant(stored_rows + n, -infinity)),
      upper(Vector::Constant(stored_rows + n, infinity)),
      weight(Vector::Ones(stored_rows + n)) {}

void StackedQP::apply_hessian(const Vector& x, Vector& Hx) const {
  if (linear_program)
    Hx.setZero();
  else if (diagonal)
    Hx = H.diagonal().cwiseProduct(x);
  else
    Hx.noalias() = H * x;
}

void StackedQP::apply_rows(const Vector& x, Vector& v) const {
  v.head(stored_rows()).noalias() = R * x;
  v.tail(n()) = x;
}

void StackedQP::add_rows_transposed(const Vector& z, Vector& out) const {
  out.noalias() += R.transpose() * z.head(stored_rows());
  out += z.tail(n());
}

Vector StackedQP::row(int i) const {
  if (i < stored_rows()) return R.row(i);
  return Vector::Unit(n(), i - stored_rows());
}

bool stack(const DenseQP& qp, StackedQP& out) {
  return stack_hessian(qp, out) && stack_rows(qp, out) && stack_vectors(qp, out);
}

bool stack_hessian(const DenseQP& qp, StackedQP& out) {
  const int n = qp.dims.n;
  out.symmetric = true;
  const bool was_diagonal = out.diagonal;
  out.linear_program = qp.H == nullptr;
  out.diagonal = out.linear_program || is_diagonal(qp.H, n);
  if (out.diagonal) {
    if (!was_diagonal) out.H.setZero();
    if (out.linear_program)
      out.H.diagonal().setZero();
    else
      out.H.diagonal() = ConstVectorMap(qp.H, long(n) * n)(Eigen::seqN(0, n, n + 1));
    if (!all_finite(out.H.diagonal())) return false;
    out.linear_program = (out.H.diagonal().array() == 0.0).all();
  } else {
    if (!finite(qp.H, long(n) * n)) return false;
    const ConstRowMatrixMap H(qp.H, n, n);
    // Row-major and column-major are the same to a symmetric matrix.
    out.H = Eigen::Map<const Matrix>(qp.H, n, n);
    double asymmetry = 0.0;
    for (int j = 0; j + 1 < n; ++j) {
      const auto below = out.H.col(j).tail(n - 1 - j);
      asymmetry = std::max(asymmetry, (below - out.H.row(j).tail(n - 1 - j).transpose()).cwiseAbs().maxCoeff());
    }
    out.symmetric = asymmetry == 0.0;
    if (!out.symmetric) out.H = 0.5 * (H + H.transpose());
    out.linear_program = (out.H.array() == 0.0).all();
  }
  return true;
}

bool stack_rows(const DenseQP& qp, StackedQP& out) {
  const auto [n, n_eq, n_in] = qp.dims;
  if (!given(qp.A, long(n_eq) * n) || !given(qp.C, long(n_in) * n)) return false;
  if (n_eq > 0) out.R.topRows(n_eq) = ConstRowMatrixMap(qp.A, n_eq, n);
  if (n_in > 0) out.R.bottomRows(n_in) = ConstRowMatrixMap(qp.C, n_in, n);
  return true;
}

bool stack_vectors(const DenseQP& qp, StackedQP& out) {
  const auto [n, n_eq, n_in] = qp.dims;
  if (!finite(qp.g, n) || !given(qp.b, n_eq)) return false;
  if (qp.g != nullptr)
    out.g = ConstVectorMap(qp.g, n);
  else
    out.g.setZero();
  double* lower = out.lower.data();
  double* upper = out.upper.data();
  for (int i = 0; i < n_eq; ++i) lower[i] = upper[i] = qp.b[i];
  double* weight = out.weight.data();
  return stack_bounds(qp.l, qp.u, n_in, lower + n_eq, upper + n_eq) &&
         stack_bounds(qp.lb, qp.ub, n, lower + n_eq + n_in, upper + n_eq + n_in) &&
         stack_weights(qp.weight_eq, n_eq, weight) && stack_weights(qp.weight_in, n_in, weight + n_eq) &&
         stack_weights(qp.weight_box, n, weight + n_eq + n_in);
}

}  // namespace qp_control
