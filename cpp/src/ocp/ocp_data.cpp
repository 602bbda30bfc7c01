#include "qp_control/ocp_data.hpp"

#include <algorithm>
#include <limits>

#include "qp_control/stage_io.hpp"
#include "qp_control/stage_kernels.hpp"

namespace qp_control {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int balancing_passes = 4;
constexpr double easy_slope = 4.0;  // of a slack in the loop's units, found sooner without a guess

Mask mask(Mask m) { return m; }
Mask mask(bool b) { return Mask::all(b); }

bool share_matrices(const OcpBatch& batch) {
  for (const StageArray* a :
       {&batch.Q, &batch.R, &batch.S, &batch.Q_N, &batch.A, &batch.B, &batch.C, &batch.D, &batch.C_N})
    if (a->batch != 0) return false;
  return true;
}

bool one_for_all(std::initializer_list<const StageArray*> arrays) {
  return std::all_of(arrays.begin(), arrays.end(), [](const StageArray* a) { return a->stage == 0; });
}

// Zero times the sum of the entries: NaN unless all are finite.
Pack poison(const PackArray& a) {
  Pack out = 0.0;
  for (const Pack& entry : a) out += entry * Pack(0.0);
  return out;
}

Pack largest(const PackArray& a) {
  Pack out = 0.0;
  for (const Pack& entry : a) out = max(out, abs(entry));
  return out;
}

}  // namespace

template <class Real>
OcpData<Real>::OcpData(const OcpBatch& batch, Curvature curvature, Units units)
    : at_(batch),
      fixed_start_(batch.fixed_start()),
      slacks_(at_),
      block_(block_size(at_.n, at_.stride)),
      shared_matrices_(share_matrices(batch)),
      any_curvature_(curvature == Curvature::ANY),
      balanced_(units == Units::BALANCED),
      one_stage_(one_for_all({&batch.Q, &batch.R, &batch.S, &batch.C, &batch.D})),
      one_step_(one_stage_ && one_for_all({&batch.A, &batch.B})) {
  const int stages = copies(at_.N, one_stage_);
  make(H_, stages * block_);
  for (PackArray* a : {&M_, &trial_}) make(*a, block_);
  make(dynamics_, copies(at_.N - 1, one_step_) * at_.nx * at_.stride);
  make(R_, ((stages - 1) * at_.stage_rows + at_.terminal_rows) * at_.stride);
  make(g_, at_.unknowns());
  for (PackArray* a : {&lower_, &upper_}) make(*a, at_.rows());
  for (PackArray* a : {&curvature_, &regularisation_}) make(*a, at_.w(at_.N + 1));
  for (PackArray* a : {&norm_, &inverse_of_trial_}) make(*a, at_.stride);
  make(read_, std::max({at_.nx, at_.nu, at_.stage_rows, at_.terminal_rows}) * at_.n + at_.n);
}

template <class Real>
Mask OcpData<Real>::load(const OcpBatch& batch, int first, int last, Equilibration& scaling) {
  if (!shared_matrices_ || !loaded_) {
    load_matrices(batch, first, last);
    scale_matrices(scaling);
    loaded_ = true;
  }
  load_vectors(batch, first, last);
  scale_vectors(scaling);
  return valid() & convex_ & !crossed_;
}

template <class Real>
void OcpData<Real>::load_matrices(const OcpBatch& batch, int first, int last) {
  symmetric_ = true;
  H_.setConstant(Pack(0.0));
  for (int k = 0; k <= at_.N; ++k)
    if (!repeats(k, at_.N, one_stage_)) load_cost_and_rows(batch, k, first, last);
  for (int k = 0; k < at_.N; ++k)
    if (!repeats(k, at_.N - 1, one_step_)) load_step(batch, k, first, last);
  finite_matrices_ = finite(sum(poison(H_) + poison(dynamics_) + poison(R_)));
  convex_ = Mask::all(true);
  Real* least = entries(curvature_);
  for (int k = 0; k <= at_.N && !any_curvature_; ++k)
    if (repeats(k, at_.N, one_stage_))
      std::copy_n(least + at_.w(k - 1), at_.n, least + at_.w(k));
    else
      convex_ = convex_ & convex_stage(k);
  rounding_.terms = 2 * (at_.n + at_.stage_rows);
  rounding_.row_size = qp_control::max(Pack(1.0), max(qp_control::max(largest(R_), largest(dynamics_))));
  // The dynamics' multipliers are unknowns.
  rounding_.H_size = qp_control::max(max(largest(H_)), rounding_.row_size);
}

template <class Real>
void OcpData<Real>::load_vectors(const OcpBatch& batch, int first, int last) {
  g_.setConstant(Pack(0.0));
  lower_.setConstant(Pack(-infinity));
  upper_.setConstant(Pack(infinity));
  valid_vectors_ = Mask::all(true);
  crossed_ = Mask::all(false);
  Real* g = entries(g_);
  for (int k = 0; k <= at_.N; ++k) {
    load_bounds(batch, k, first, last);
    read_stage(batch.state_slope(k).of_stage(k), first, last, at_.nx, 0.0, g + at_.x(k));
    if (k == at_.N) break;
    read_stage(batch.r.of_stage(k), first, last, at_.nu, 0.0, g + at_.u(k));
    read_stage(batch.c.of_stage(k), first, last, at_.nx, 0.0, g + at_.y(k + 1));
  }
  if (fixed_start_) read_stage(batch.x0.of_stage(0), first, last, at_.nx, 0.0, g + at_.y(0));
  valid_vectors_ = valid_vectors_ & slacks_.load(batch, first, last, g, entries(lower_), entries(upper_));
  valid_vectors_ = valid_vectors_ & finite(sum(poison(g_)));
  rounding_.g_size = max(largest(g_));
}

template <class Real>
void OcpData<Real>::load_block(const StageArray& array, int k, int rows, int cols, int first, int last, Real* to) {
  Real* from = entries(read_);
  read_stage(array.of_stage(k), first, last, long(rows) * cols, 0.0, from);
  for (int i = 0; i < rows; ++i) std::copy_n(from + i * cols, cols, to + i * at_.stride);
}

template <class Real>
void OcpData<Real>::load_cost_and_rows(const OcpBatch& batch, int k, int first, int last) {
  const int nx = at_.nx, nu = at_.nu, n = at_.n, stride = at_.stride;
  const auto block = [&](const StageArray& array, int rows, int cols, Real* to) {
    load_block(array, k, rows, cols, first, last, to);
  };
  Real* M = H(k);
  const bool ends = k == at_.N;
  block(batch.state_cost(k), nx, nx, M + nu * stride + nu);
  block(ends ? StageArray() : batch.R, nu, nu, M);
  block(ends ? StageArray() : batch.S, nu, nx, M + nu);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < i; ++j) {
      Real &below = M[i * stride + j], &above = M[j * stride + i];
      if (i >= nu && j < nu) {
        below = above;
        continue;
      }
      symmetric_ = symmetric_ && qp_control::all(below == above);
      below = above = Real(0.5) * (below + above);
    }
  if (ends) {
    block(batch.C_N, at_.terminal_rows, nx, stage_rows(k) + nu);
    return;
  }
  block(batch.D, at_.stage_rows, nu, stage_rows(k));
  block(batch.C, at_.stage_rows, nx, stage_rows(k) + nu);
}

template <class Real>
void OcpData<Real>::load_step(const OcpBatch& batch, int k, int first, int last) {
  load_block(batch.B, k, at_.nx, at_.nu, first, last, dynamics(k));
  load_block(batch.A, k, at_.nx, at_.nx, first, last, dynamics(k) + at_.nu);
}

template <class Real>
void OcpData<Real>::load_bounds(const OcpBatch& batch, int k, int first, int last) {
  Real *low = entries(lower_), *high = entries(upper_);
  const bool ends = k == at_.N, has_box = k > 0 || !fixed_start_;
  const auto bounds = [&](const StageArray& l, const StageArray& u, int size, int at) {
    read_stage(l.of_stage(k), first, last, size, -infinity, low + at);
    read_stage(u.of_stage(k), first, last, size, infinity, high + at);
  };
  const StageArray none;
  bounds(ends ? batch.lower_N : batch.lower, ends ? batch.upper_N : batch.upper, at_.row_count(k), at_.row(k));
  int end = at_.row(k) + at_.row_count(k);
  const auto check = [&](int begin) {
    for (int i = begin; i < end; ++i) {
      valid_vectors_ = valid_vectors_ & mask((low[i] < Real(infinite_bound)) & (high[i] > Real(-infinite_bound)));
      crossed_ = crossed_ | mask(low[i] > high[i]);
      low[i] = select(low[i] <= Real(-infinite_bound), -infinity, low[i]);
      high[i] = select(high[i] >= Real(infinite_bound), infinity, high[i]);
    }
  };
  check(at_.row(k));
  if (at_.boxed_u) bounds(ends ? none : batch.u_lower, ends ? none : batch.u_upper, at_.nu, at_.box(k));
  if (at_.boxed_x) bounds(has_box ? batch.x_lower : none, has_box ? batch.x_upper : none, at_.nx, at_.box_of_x(k));
  end = at_.box(k) + at_.bounded;
  check(at_.box(k));
}

// Up to rounding; sets curvature_.
template <class Real>
Mask OcpData<Real>::convex_stage(int k) {
  const int n = at_.n, stride = at_.stride;
  Real *least = entries(curvature_) + at_.w(k), *M = entries(M_);
  std::fill_n(least, n, Real(0.0));
  Real size = 0.0;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) size = qp_control::max(size, abs(H(k)[i * stride + j]));
  // u_N has no cost.
  const Real unit = select(size > Real(0.0), size, 1.0);
  const auto definite = [&](Real shift) {
    std::copy_n(H(k), block_, M);
    for (int j = 0; j < n; ++j) M[j * stride + j] += shift;
    for (int j = 0; j < at_.nu && k == at_.N; ++j) M[j * stride + j] = unit;
    return cholesky(M, entries(trial_), entries(inverse_of_trial_), n, stride);
  };
  const auto strictly = definite(0.0);
  if (qp_control::all(strictly)) return mask(strictly);
  const Real shift = select(strictly, 0.0, Real(convexity_tolerance) * unit);
  std::fill_n(least, n, shift);
  return mask(definite(shift));
}

// One pass of Ruiz equilibration over a stage.
template <class Real>
void OcpData<Real>::balance(int k, Equilibration& scaling) {
  const int n = at_.n, stride = at_.stride, count = at_.row_count(k);
  Real *M = H(k), *rows = stage_rows(k), *norm = entries(norm_);
  Real *D = entries(scaling.D) + at_.w(k), *E = entries(scaling.E) + at_.row(k);
  for (int pass = 0; pass < balancing_passes; ++pass) {
    auto balanced = Real(0.0) == Real(0.0);
    for (int j = 0; j < n; ++j) norm[j] = 0.0;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) norm[j] = qp_control::max(norm[j], abs(M[i * stride + j]));
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < n; ++j) norm[j] = qp_control::max(norm[j], abs(rows[i * stride + j]));
    for (int j = 0; j < n; ++j) {
      norm[j] = equilibration_detail::factor(norm[j]);
      balanced = balanced & (norm[j] == Real(1.0));
      D[j] *= norm[j];
    }
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) M[i * stride + j] *= norm[i] * norm[j];
    for (int i = 0; i < count; ++i) {
      Real* row = rows + i * stride;
      Real largest = 0.0;
      for (int j = 0; j < n; ++j) largest = qp_control::max(largest, abs(row[j]));
      const Real row_factor = equilibration_detail::factor(largest);
      balanced = balanced & (row_factor == Real(1.0));
      for (int j = 0; j < n; ++j) row[j] *= row_factor * norm[j];
      E[i] *= row_factor;
    }
    if (qp_control::all(balanced)) return;
  }
}

template <class Real>
void OcpData<Real>::scale_matrices(Equilibration& scaling) {
  const int n = at_.n, nx = at_.nx, nu = at_.nu, stride = at_.stride;
  for (PackArray* a : {&scaling.D, &scaling.E}) a->setConstant(Pack(1.0));
  scaling.c = 1.0;
  Real *D = entries(scaling.D), *E = entries(scaling.E);
  for (int k = 0; k <= at_.N; ++k) {
    Real* d = D + at_.w(k);
    if (repeats(k, at_.N, one_stage_)) {
      std::copy_n(D + at_.w(k - 1), n, d);
      std::copy_n(E + at_.row(k - 1), at_.stage_rows, E + at_.row(k));
    } else if (balanced_) {
      balance(k, scaling);
    }
    for (int j = 0; j < at_.bounded; ++j) E[at_.box(k) + j] = Real(1.0) / d[at_.bounded_first + j];
    for (int j = 0; j < n; ++j) entries(curvature_)[at_.w(k) + j] *= d[j] * d[j];
    if (k == 0 || repeats(k - 1, at_.N - 1, one_step_)) continue;
    for (int i = 0; i < nx; ++i)
      for (int j = 0; j < n; ++j) dynamics(k - 1)[i * stride + j] *= D[at_.w(k - 1) + j] / d[nu + i];
  }
  H_size_ = max(largest(H_));
}

template <class Real>
void OcpData<Real>::scale_vectors(Equilibration& scaling) {
  const int nx = at_.nx, nu = at_.nu, ordinary = at_.in_packs(at_.w(at_.N + 1)), variables = this->variables();
  Pack size = 0.0;
  // Without the slacks': their weights may be large and mean little.
  for (int j = 0; j < ordinary; ++j) {
    g_[j] *= scaling.D[j];
    size = qp_control::max(size, abs(g_[j]));
  }
  size = qp_control::max(H_size_, max(size));
  const Pack clamped = qp_control::min(qp_control::max(size, Pack(1e-12)), Pack(1e12));
  const Pack c = select(size > Pack(0.0), inverse_power_of_two(clamped), 1.0), change = c / scaling.c;
  scaling.c = c;
  if (any(change != Pack(1.0)))
    for (Pack& entry : H_) entry *= change;
  for (int j = 0; j < nu; ++j) H(at_.N)[j * at_.stride + j] = 1.0;  // u_N
  slacks_.scale(scaling);
  for (int j = ordinary; j < variables; ++j) g_[j] *= scaling.D[j];
  for (int j = 0; j < variables; ++j) g_[j] *= c;
  for (int j = 0; j < ordinary; ++j) regularisation_[j] = c * curvature_[j];
  Real *D = entries(scaling.D), *g = entries(g_);
  for (int k = 0; k <= at_.N; ++k) {
    const Real* d = D + at_.x(k);
    for (int i = 0; i < nx; ++i) {
      g[at_.y(k) + i] = g[at_.y(k) + i] / d[i];
      D[at_.y(k) + i] = Real(1.0) / (real(c) * d[i]);
    }
  }
  for (int i = 0; i < lower_.size(); ++i) {
    lower_[i] *= scaling.E[i];
    upper_[i] *= scaling.E[i];
  }
}

template <class Real>
void OcpData<Real>::start_cold(PackArray& z) const {
  z.setConstant(Pack(0.0));
  if (!at_.soft()) return;
  const Real* g = entries(g_);
  Real* out = entries(z);
  for (int k = 0; k <= at_.N; ++k)
    for (int i = 0; i < at_.soft_count(k); ++i) {
      const Real slope = g[at_.slack_lower(k) + i], held = qp_control::max(Real(0.0), slope - Real(easy_slope));
      out[at_.box_of_slacks_lower(k) + i] = out[at_.box_of_slacks_upper(k) + i] = -held;
    }
}

template <class Real>
void OcpData<Real>::apply_hessian(const PackArray& in, PackArray& to) const {
  const int n = at_.n, nx = at_.nx, stride = at_.stride;
  const Real* x = entries(in);
  Real* out = entries(to);
  if (!lanes_apart) to.setConstant(Pack(0.0));  // the padding
  slacks_.apply_hessian(x, out);
  for (int k = 0; k <= at_.N; ++k) {
    multiply_symmetric(H(k), n, stride, x + at_.w(k), out + at_.w(k));
    const Real *y = x + at_.y(k), *state = x + at_.x(k);
    Real *gap = out + at_.y(k), *slope = out + at_.x(k);
    if (k == 0 && fixed_start_)
      for (int i = 0; i < nx; ++i) gap[i] = -state[i];
    else if (k == 0)
      for (int i = 0; i < nx; ++i) gap[i] = y[i];
    else
      for (int i = 0; i < nx; ++i) gap[i] -= state[i];
    for (int i = 0; i < nx && (k > 0 || fixed_start_); ++i) slope[i] -= y[i];
    if (k == at_.N) break;
    multiply_both(dynamics(k), nx, n, stride, x + at_.w(k), x + at_.y(k + 1), out + at_.y(k + 1), out + at_.w(k));
  }
}

template <class Real>
void OcpData<Real>::apply_rows(const PackArray& in, PackArray& to) const {
  const Real* x = entries(in);
  Real* v = entries(to);
  for (int k = 0; k <= at_.N; ++k) {
    multiply(stage_rows(k), at_.row_count(k), at_.n, at_.stride, x + at_.w(k), v + at_.row(k));
    std::copy_n(x + at_.w(k) + at_.bounded_first, at_.bounded, v + at_.box(k));
  }
  slacks_.add_rows(x, v);
}

template <class Real>
void OcpData<Real>::add_rows_transposed(const PackArray& from, PackArray& to) const {
  const Real* z = entries(from);
  Real* out = entries(to);
  for (int k = 0; k <= at_.N; ++k) {
    add_combination(stage_rows(k), at_.row_count(k), at_.n, at_.stride, z + at_.row(k), out + at_.w(k));
    for (int j = 0; j < at_.bounded; ++j) out[at_.w(k) + at_.bounded_first + j] += z[at_.box(k) + j];
  }
  slacks_.add_rows_transposed(z, out);
}

template <class Real>
void OcpData<Real>::row_sizes(const Equilibration& scaling, PackArray& to) const {
  to.setConstant(Pack(1.0));
  Real* out = entries(to);
  const Real *D = entries(scaling.D), *E = entries(scaling.E);
  for (int k = 0; k <= at_.N; ++k)
    for (int i = 0; i < at_.row_count(k); ++i) {
      Real& size = out[at_.row(k) + i] = 0.0;
      for (int j = 0; j < at_.n; ++j)
        size = qp_control::max(size, abs(stage_rows(k)[i * at_.stride + j]) / D[at_.w(k) + j]);
      size = size / E[at_.row(k) + i];
      if (i < at_.soft_count(k)) size = qp_control::max(size, Real(1.0));
    }
}

template <class Real>
void OcpData<Real>::clear_padding(PackArray& to) const {
  Real* x = entries(to);
  for (int k = 0; k <= at_.N; ++k) {
    std::fill(x + at_.w(k) + at_.n, x + at_.w(k + 1), Real(0.0));
    std::fill(x + at_.y(k) + at_.nx, x + at_.y(k + 1), Real(0.0));
    std::fill(x + at_.slack_lower(k) + at_.soft_count(k), x + at_.slack_upper(k), Real(0.0));
    std::fill(x + at_.slack_upper(k) + at_.soft_count(k), x + at_.slack_upper(k) + at_.pad(at_.soft_count(k)),
              Real(0.0));
  }
}

template class OcpData<Pack>;
template class OcpData<double>;

}  // namespace qp_control
