#include "qp_control/indefinite_riccati.hpp"

#include <algorithm>

#include "qp_control/stage_kernels.hpp"

namespace qp_control {
namespace {

Mask mask(Mask m) { return m; }
Mask mask(bool b) { return Mask::all(b); }

// W = P G, P symmetric of order m, G of size m x n.
void multiply(const Pack* const* P, const Pack* const* G, int m, int n, int, int, Pack* W) {
  using namespace lane_detail;
  std::fill_n(W, m * n, Pack(0.0));
  for (int i0 = 0; i0 < m; i0 += tile)
    with_size(std::min(tile, m - i0), [&](auto a) {
      for (int j0 = 0; j0 < n; j0 += tile)
        with_size(std::min(tile, n - j0), [&](auto b) { gram_tile<a, b>(m, P, G, i0, j0, W, n); });
    });
}
void multiply(const double* const* P, const double* const* G, int m, int n, int, int stride, double* W) {
  std::fill_n(W, m * stride, 0.0);
  for (int i = 0; i < m; ++i) add_combination(G[0], m, n, stride, P[i], W + i * stride);
}

// Column k of a symmetric matrix whose lower triangle is filled, from the diagonal on; zeros before.
void copy_column(const Pack* M, int k, int n, int, Pack* to) {
  for (int j = 0; j < n; ++j) to[j] = j < k ? Pack(0.0) : M[j * n + k];
}
void copy_column(const double* M, int k, int n, int stride, double* to) {
  for (int j = 0; j < n; ++j) to[j] = j < k ? 0.0 : M[j + k * stride];
}

const Pack& below(const Pack* M, int i, int j, int stride) { return M[i * stride + j]; }
const double& below(const double* M, int i, int j, int stride) { return M[i + j * stride]; }

// b -= s a
void subtract(Pack s, const Pack* a, int n, Pack* b) {
  for (int j = 0; j < n; ++j) b[j] -= s * a[j];
}
void subtract(double s, const double* a, int n, double* b) {
  for (int p = 0; p < packs(n); ++p) store(load(b + p * lanes) - Pack(s) * load(a + p * lanes), b + p * lanes);
}

Pack dot(const Pack* a, const Pack* b, int n) {
  Pack s = 0.0;
  for (int j = 0; j < n; ++j) s += a[j] * b[j];
  return s;
}
double dot(const double* a, const double* b, int n) {
  Pack s = 0.0;
  for (int p = 0; p < packs(n); ++p) s += load(a + p * lanes) * load(b + p * lanes);
  return sum_of_lanes(s)[0];
}

}  // namespace

template <class Real>
IndefiniteRiccati<Real>::IndefiniteRiccati(const OcpBatch& batch)
    : Base(batch, Curvature::ANY),
      P_block_(block_size(at_.nx, at_.costate_stride)),
      rows_(std::max(at_.nx, at_.nu)),
      others_(rows_.size()) {
  const auto make = [&](PackArray& a, int size) { a.setConstant(at_.in_packs(size), Pack(0.0)); };
  make(P_, (at_.N + 1) * P_block_);
  make(U_, (at_.N + 1) * at_.nu * at_.stride);
  make(pivots_, (at_.N + 1) * at_.nu);
  make(L_0_, P_block_);
  make(pivots_0_, at_.nx);
  make(minus_U_, at_.nu * at_.stride + (std::is_same_v<Real, Pack> ? 0 : lanes * tile_overhang));
  make(state_, at_.costate_stride);
  make(p_, at_.costate_stride);
}

// M_ becomes U(k) and P(k).
template <class Real>
Mask IndefiniteRiccati<Real>::eliminate_inputs(int k) {
  const int n = at_.n, nx = at_.nx, nu = at_.nu, stride = at_.stride;
  Real *M = entries(M_), *pivots = entries(pivots_) + k * nu, *minus = entries(minus_U_);
  auto definite = Real(0.0) == Real(0.0);
  for (int i = 0; i < nu; ++i) {
    Real* row = U(k) + i * stride;
    copy_column(M, i, n, stride, row);
    for (int l = 0; l < i; ++l) subtract(U(k)[l * stride + i], U(k) + l * stride, n, row);
    const auto positive = row[i] > Real(0.0);
    definite = definite & positive;
    pivots[i] = Real(1.0) / sqrt(select(positive, row[i], 1.0));
    std::fill_n(row, i, Real(0.0));
    for (int j = i; j < n; ++j) row[j] *= pivots[i];
    for (int j = 0; j < n; ++j) minus[i * stride + j] = -row[j];
    others_[i] = minus + i * stride;
    rows_[i] = row;
  }
  add_outer_products(nu, others_.data(), rows_.data(), M, n, stride);
  for (int i = 0; i < nx; ++i)
    for (int j = 0; j <= i; ++j)
      P(k)[i * at_.costate_stride + j] = P(k)[j * at_.costate_stride + i] = below(M, nu + i, nu + j, stride);
  return mask(definite);
}

template <class Real>
Mask IndefiniteRiccati<Real>::factor(const PackArray& weight, Pack rho) {
  const int n = at_.n, nx = at_.nx, stride = at_.stride;
  Real* W = entries(W_);
  Mask definite = Mask::all(true);
  for (int k = at_.N; k >= 0; --k) {
    int count = load_system(k, entries(weight), real(rho));
    if (k < at_.N) {
      const Real* G = dynamics(k);
      for (int i = 0; i < nx; ++i) {
        others_[i] = P(k + 1) + i * at_.costate_stride;
        rows_[i] = right_[count] = G + i * stride;
        left_[count++] = W + i * stride;
      }
      multiply(others_.data(), rows_.data(), nx, n, at_.costate_stride, stride, W);
    }
    add_outer_products(count, left_.data(), right_.data(), entries(M_), n, stride);
    definite = definite & eliminate_inputs(k);
  }
  if (!fixed_start_)
    definite = definite & mask(cholesky(P(0), entries(L_0_), entries(pivots_0_), nx, at_.costate_stride));
  return definite;
}

template <class Real>
void IndefiniteRiccati<Real>::solve(PackArray& rhs) const {
  const int n = at_.n, nx = at_.nx, nu = at_.nu, stride = at_.stride, costate_stride = at_.costate_stride;
  Real *s = entries(rhs), *x = entries(state_), *p = entries(p_);
  eliminate_slacks(rhs);
  // Backward: the cost-to-go 1/2 x'P_k x + p_k'x; (U_u'^-1 v_u, p_k) takes the place of the right-hand side of w_k.
  for (int k = at_.N; k >= 0; --k) {
    Real* here = s + at_.w(k);
    const Real* pivots = entries(pivots_) + k * nu;
    for (int j = 0; j < n; ++j) here[j] = -here[j];
    if (k < at_.N) {
      for (int i = 0; i < nx; ++i) x[i] = -s[at_.y(k + 1) + i];
      multiply(P(k + 1), nx, nx, costate_stride, x, p);
      for (int i = 0; i < nx; ++i) p[i] += s[at_.x(k + 1) + i];
      add_combination(dynamics(k), nx, n, stride, p, here);
    }
    for (int i = 0; i < nu; ++i) {
      const Real v = here[i] * pivots[i];
      subtract(v, U(k) + i * stride, n, here);
      here[i] = v;
    }
  }
  // Forward; x holds x_k.
  for (int i = 0; i < nx; ++i) x[i] = -s[(fixed_start_ ? at_.y(0) : at_.x(0)) + i];
  if (!fixed_start_) cholesky_solve(entries(L_0_), entries(pivots_0_), nx, costate_stride, x);
  for (int k = 0; k <= at_.N; ++k) {
    Real *here = s + at_.w(k), *y = s + at_.y(k);
    const Real* pivots = entries(pivots_) + k * nu;
    if (k > 0 || fixed_start_) {
      multiply(P(k), nx, nx, costate_stride, x, p);
      for (int i = 0; i < nx; ++i) y[i] = p[i] + here[nu + i];
    }
    for (int i = 0; i < nx; ++i) here[nu + i] = x[i];
    for (int i = nu - 1; i >= 0; --i) {
      const Real v = here[i];
      here[i] = 0.0;
      here[i] = -(v + dot(U(k) + i * stride, here, n)) * pivots[i];
    }
    if (k == at_.N) break;
    multiply(dynamics(k), nx, n, stride, here, x);
    for (int i = 0; i < nx; ++i) x[i] -= s[at_.y(k + 1) + i];
  }
  recover_slacks(rhs);
}

template class IndefiniteRiccati<Pack>;
template class IndefiniteRiccati<double>;

}  // namespace qp_control
