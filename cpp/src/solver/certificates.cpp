#include "qp_control/certificates.hpp"

#include <algorithm>
#include <cmath>

namespace qp_control {
namespace {

constexpr double exact_ray = 1e-11;  // violation of H d = 0 and of the rows, relative to their entries

// Support function of the bounds; +infinity where a multiplier leans on a bound that is not there.
double support(const StackedQP& qp, const Vector& z, double negligible) {
  double value = 0.0;
  for (int i = 0; i < qp.rows(); ++i) {
    if (std::abs(z[i]) <= negligible) continue;
    value += z[i] * (z[i] > 0.0 ? qp.upper[i] : qp.lower[i]);
  }
  return value;
}

double transposed_norm(const StackedQP& qp, const Vector& z, Vector& Rz) {
  Rz.setZero(qp.n());
  qp.add_rows_transposed(z, Rz);
  return norm_inf(Rz);
}

// Violation of the recession cone by rows d, relative to each row's size.
double recession_violation(const StackedQP& qp, const Vector& d, Vector& v) {
  qp.apply_rows(d, v);
  double worst = 0.0;
  for (int i = 0; i < qp.rows(); ++i) {
    const double size = i < qp.stored_rows() ? std::max(1e-300, norm_inf(qp.R.row(i))) : 1.0;
    if (std::isfinite(qp.upper[i])) worst = std::max(worst, v[i] / size);
    if (std::isfinite(qp.lower[i])) worst = std::max(worst, -v[i] / size);
  }
  return worst;
}

bool is_ray_within(const StackedQP& qp, const Vector& d, double tolerance, Products& work) {
  const double size = norm_inf(d), slope = qp.g.dot(d);
  if (!(size > 0.0) || !(slope < -1e-9 * size * norm_inf(qp.g))) return false;
  if (recession_violation(qp, d, work.v) > tolerance * size) return false;
  if (qp.linear_program) return true;
  // Column by column: what is small beside the largest entry of H may still be curvature.
  qp.apply_hessian(d, work.Hx);
  for (int j = 0; j < qp.n(); ++j)
    if (std::abs(work.Hx[j]) > tolerance * size * norm_inf(qp.H.row(j))) return false;
  return true;
}

}  // namespace

bool is_farkas(const StackedQP& qp, const Vector& z, const Vector& x, Products& work) {
  const double size = norm_inf(z);
  if (!(size > 0.0) || !std::isfinite(size)) return false;
  const double value = support(qp, z, 0.0);
  return value < 0.0 && -value > 1e6 * transposed_norm(qp, z, work.Rz) * std::max(1.0, norm_inf(x));
}

bool is_farkas(const StackedQP& qp, const Vector& z, const Vector& x) {
  Products work(qp.n(), qp.rows());
  return is_farkas(qp, z, x, work);
}

bool resembles_farkas(const StackedQP& qp, const Vector& z, double tolerance, Products& work) {
  const double size = norm_inf(z);
  if (!(size > 0.0)) return false;
  const double value = support(qp, z, tolerance * size);
  return value < 0.0 && transposed_norm(qp, z, work.Rz) <= -tolerance * value;
}

bool is_ray(const StackedQP& qp, const Vector& ray, Products& work) { return is_ray_within(qp, ray, exact_ray, work); }

bool clean_ray(const StackedQP& qp, Vector& ray, Products& work, RayRoom& room) {
  if (!is_ray_within(qp, ray, 1e-3, work)) return false;
  // Project on the null space of H and of the rows that the ray runs along.
  auto& [qr, basis, along] = room;
  Vector& v = work.v;
  qp.apply_rows(ray, v);
  const double size = norm_inf(ray);
  const int n = qp.n(), h = qp.linear_program ? 0 : n;
  qr.reserve(long(n) * (n + qp.rows()), n + qp.rows());
  basis.reserve(long(n) * n);
  along.reserve(n);
  auto& zero_rows = qr.matrix();  // as columns
  zero_rows.resize(n, h + qp.rows());
  if (h > 0) zero_rows.leftCols(h) = qp.H;
  int count = h;
  for (int i = 0; i < qp.rows(); ++i) {
    const double row_size = i < qp.stored_rows() ? norm_inf(qp.R.row(i)) : 1.0;
    const bool bounded = std::isfinite(qp.upper[i]) || std::isfinite(qp.lower[i]);
    if (bounded && std::abs(v[i]) <= 1e-3 * size * row_size) qp.write_row(i, zero_rows.col(count++));
  }
  zero_rows.resize(n, count);
  for (int k = 0; k < count; ++k) {
    const double norm = zero_rows.col(k).norm();
    if (norm > 0.0) zero_rows.col(k) /= norm;
  }
  if (count > 0) {
    qr.factor();
    qr.basis(qr.rank(1e-13 * qr.largest()), basis);
    for (int pass = 0; pass < 2; ++pass) {
      along.resize(basis.cols());
      along.noalias() = basis.transpose() * ray;
      ray.noalias() -= basis * along;
    }
  }
  const double cleaned = norm_inf(ray);
  if (!(cleaned > 1e-3 * size)) return false;
  ray /= cleaned;
  return is_ray_within(qp, ray, exact_ray, work);
}

}  // namespace qp_control
