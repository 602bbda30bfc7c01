#include "qp_control/riccati_kkt.hpp"

#include <algorithm>

#include "qp_control/stage_kernels.hpp"

namespace qp_control {
namespace {

Mask mask(Mask m) { return m; }
Mask mask(bool b) { return Mask::all(b); }

}  // namespace

template <class Real>
RiccatiKkt<Real>::RiccatiKkt(const OcpBatch& batch, Curvature curvature, Units units) : Data(batch, curvature, units) {
  const int rows = std::max(at_.stage_rows, at_.terminal_rows);
  const int overhang = std::is_same_v<Real, Pack> ? 0 : lanes * tile_overhang;
  this->make(L_, curvature == Curvature::ANY ? 0 : (at_.N + 1) * block_);
  this->make(M_, block_);
  this->make(weight_, at_.rows());
  for (PackArray* a : {&diagonal_, &inverse_}) this->make(*a, at_.w(at_.N + 1));
  this->make(values_, rows);
  this->make(W_, at_.nx * at_.stride + overhang);
  this->make(weighted_, rows * at_.stride + overhang);
  for (PackArray* a : {&v_, &work_}) this->make(*a, at_.stride);
  left_.resize(rows + at_.nx);
  right_.resize(rows + at_.nx);
}

template <class Real>
Mask RiccatiKkt<Real>::load(const OcpBatch& batch, int first, int last, Equilibration& scaling) {
  factored_ = false;
  return Data::load(batch, first, last, scaling);
}

template <class Real>
int RiccatiKkt<Real>::load_system(int k, const Real* weight, Real rho) {
  const int n = at_.n, stride = at_.stride;
  Real *M = entries(M_), *weighted = entries(weighted_);
  std::copy_n(H(k), block_, M);
  const Real* regularisation = entries(regularisation_) + at_.w(k);
  for (int j = 0; j < n; ++j) M[j * stride + j] += rho + regularisation[j];
  for (int j = 0; j < at_.bounded; ++j) {
    const int i = at_.bounded_first + j;
    M[i * stride + i] += weight[at_.box(k) + j];
  }
  const Real* remaining = slacks_.eliminate(k, weight, rho);
  int count = 0;
  for (int i = 0; i < at_.row_count(k); ++i) {
    const Real w = remaining[i];
    if (!any(w != Real(0.0))) continue;
    const Real* row = stage_rows(k) + i * stride;
    Real* to = weighted + count * stride;
    for (int j = 0; j < n; ++j) to[j] = w * row[j];
    left_[count] = to;
    right_[count++] = row;
  }
  return count;
}

template <class Real>
Mask RiccatiKkt<Real>::factor_stage(int k, const Real* weight, Real rho) {
  const int n = at_.n, nx = at_.nx, nu = at_.nu, stride = at_.stride;
  Real *M = entries(M_), *W = entries(W_);
  int count = load_system(k, weight, rho);
  if (k < at_.N) {
    multiply_corner_transposed(L(k + 1), entries(diagonal_) + at_.w(k + 1), nu, n, stride, dynamics(k), n, stride, W);
    for (int i = 0; i < nx; ++i) left_[count] = right_[count] = W + i * stride, ++count;
  }
  add_outer_products(count, left_.data(), right_.data(), M, n, stride);
  Real *inverse = entries(inverse_) + at_.w(k), *diagonal = entries(diagonal_) + at_.w(k);
  const Mask definite = mask(cholesky(M, L(k), inverse, n, stride));
  for (int j = nu; j < n; ++j) diagonal[j] = Real(1.0) / inverse[j];
  return definite;
}

template <class Real>
Mask RiccatiKkt<Real>::factor(const PackArray& now, Pack rho) {
  const Real* weight = entries(now);
  Real* then = entries(weight_);
  int last = at_.N;
  const auto changed = [&](int k) {
    for (int i = at_.row(k); i < (k == at_.N ? at_.rows() : at_.row(k + 1)); ++i)
      if (any(weight[i] != then[i])) return true;
    return false;
  };
  if (factored_ && qp_control::all(rho == rho_))
    while (last >= 0 && !changed(last)) --last;
  else
    definite_ = Mask::all(true);
  if (last < 0) return definite_;
  weight_ = now;
  rho_ = rho;
  Mask definite = Mask::all(true);
  for (int k = last; k >= 0; --k) definite = definite & factor_stage(k, weight, real(rho));
  definite_ = definite;
  // The stages behind belong to this factor only if they are sound.
  factored_ = qp_control::all(definite);
  return definite;
}

template <class Real>
void RiccatiKkt<Real>::eliminate_slacks(PackArray& rhs) const {
  Real* s = entries(rhs);
  for (int k = 0; k <= at_.N && at_.soft(); ++k)
    add_combination(stage_rows(k), at_.soft_count(k), at_.n, at_.stride, slacks_.on_rows(k, s), s + at_.w(k));
}

template <class Real>
void RiccatiKkt<Real>::recover_slacks(PackArray& rhs) const {
  Real *s = entries(rhs), *values = entries(values_);
  for (int k = 0; k <= at_.N && at_.soft(); ++k) {
    multiply(stage_rows(k), at_.soft_count(k), at_.n, at_.stride, s + at_.w(k), values);
    slacks_.recover(k, values, s);
  }
}

template <class Real>
void RiccatiKkt<Real>::solve(PackArray& rhs) const {
  const int n = at_.n, nx = at_.nx, nu = at_.nu, stride = at_.stride;
  Real *s = entries(rhs), *v = entries(v_), *work = entries(work_);
  const auto inverse = [&](int k) { return entries(inverse_) + at_.w(k); };
  const auto diagonal = [&](int k) { return entries(diagonal_) + at_.w(k); };
  // Kernels multiply entries that do not count by zero: a NaN that another problem has left there would count.
  v_.setConstant(Pack(0.0));
  eliminate_slacks(rhs);
  // Backward: the cost-to-go 1/2 x'P_k x + p_k'x; (L_u^-1 v_u, p_k) takes the place of the right-hand side of w_k.
  for (int k = at_.N; k >= 0; --k) {
    Real* here = s + at_.w(k);
    for (int j = 0; j < n; ++j) here[j] = -here[j];
    if (k < at_.N) {
      for (int i = 0; i < nx; ++i) v[nu + i] = -s[at_.y(k + 1) + i];
      multiply_corner(L(k + 1), diagonal(k + 1), nu, n, stride, v, work);
      for (int i = 0; i < nx; ++i) work[i] = v[nu + i] + s[at_.x(k + 1) + i];
      add_combination(dynamics(k), nx, n, stride, work, here);
    }
    forward_part(L(k), inverse(k), k > 0 || fixed_start_ ? nu : n, n, stride, here);
  }
  // Forward.
  for (int k = 0; k <= at_.N; ++k) {
    Real *here = s + at_.w(k), *y = s + at_.y(k);
    if (k == 0 && !fixed_start_) {
      for (int j = 0; j < n; ++j) here[j] = -here[j];
      backward_part(L(0), inverse(0), n, n, stride, here);
    } else {
      // v holds p_k, then x_k.
      for (int i = 0; i < nx; ++i) {
        v[nu + i] = here[nu + i];
        here[nu + i] = -y[i];
      }
      if (k > 0) {
        multiply(dynamics(k - 1), nx, n, stride, s + at_.w(k - 1), work);
        for (int i = 0; i < nx; ++i) here[nu + i] += work[i];
      }
      for (int j = 0; j < nu; ++j) here[j] = -here[j];
      for (int i = 0; i < nx; ++i) y[i] = v[nu + i];
      for (int i = 0; i < nx; ++i) v[nu + i] = here[nu + i];
      multiply_corner(L(k), diagonal(k), nu, n, stride, v, work);
      for (int i = 0; i < nx; ++i) y[i] += v[nu + i];
      backward_part(L(k), inverse(k), nu, n, stride, here);
    }
  }
  recover_slacks(rhs);
}

template class RiccatiKkt<Pack>;
template class RiccatiKkt<double>;

}  // namespace qp_control
