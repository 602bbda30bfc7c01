#include "qp_control/lane_kkt.hpp"

#include <cstring>
#include <limits>
#include <utility>

#include "qp_control/lane_kernels.hpp"

namespace qp_control {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Weights mean nothing to a feasible problem, but must be valid.
Mask positive(const BatchArray& weight, int first, int last, int size) {
  Mask out = Mask::all(true);
  for (int i = 0; i < size && weight.data != nullptr; ++i) {
    Pack w;
    load_elements({weight.data + i, weight.stride}, first, last, 1, 1.0, &w);
    out = out & (w > Pack(0.0));
  }
  return out;
}

// Packs to and from an array that need not be aligned; the place after them.
double* put(const Pack* from, long size, double* to) {
  if (size > 0) std::memcpy(to, from, size * sizeof(Pack));
  return to + size * lanes;
}
const double* take(const double* from, long size, Pack* to) {
  if (size > 0) std::memcpy(to, from, size * sizeof(Pack));
  return from + size * lanes;
}

}  // namespace

void load_elements(const BatchArray& array, int first, int last, long size, double missing, Pack* out) {
  if (array.data == nullptr) {
    std::fill_n(out, size, Pack(missing));
  } else if (array.stride == 0) {
    for (long k = 0; k < size; ++k) out[k] = array.data[k];
  } else {
    const double* from[lanes];
    for (int lane = 0; lane < lanes; ++lane) from[lane] = array.at(std::min(first + lane, last - 1));
    gather_lanes(from, size, out);
  }
}

Mask all_finite(const Pack* values, long size) {
  Pack poison = 0.0;
  for (long k = 0; k < size; ++k) poison += values[k] * Pack(0.0);
  return finite(poison);
}

LaneKkt::LaneKkt(const DenseBatch& batch)
    : n_(batch.dims.n),
      n_eq_(batch.dims.n_eq),
      n_in_(batch.dims.n_in),
      stored_(n_eq_ + n_in_),
      has_hessian_(batch.H.data != nullptr),
      boxed_(batch.lb.data != nullptr || batch.ub.data != nullptr),
      H_(has_hessian_ ? n_ * n_ : 0),
      g_(n_),
      R_(stored_ * n_),
      lower_(rows()),
      upper_(rows()),
      regularisation_(n_),
      M_(n_ * n_),
      L_(n_ * n_),
      inverse_diagonal_(n_),
      diagonal_(n_),
      weight_(rows()),
      weighted_(stored_ * n_),
      changed_(stored_),
      scaled_(stored_) {}

Mask LaneKkt::load(const DenseBatch& batch, int first, int last) {
  kept_ = nullptr;
  load_elements(batch.H, first, last, H_.size(), 0.0, H_.data());
  Mask same = Mask::all(true), diagonal = same;
  for (int i = 0; i < n_ && has_hessian_; ++i)
    for (int j = 0; j < i; ++j) {
      const Pack below = H_[i * n_ + j], above = H_[j * n_ + i];
      const Pack mean = H_[i * n_ + j] = H_[j * n_ + i] = Pack(0.5) * (below + above);
      same = same & (below == above);
      diagonal = diagonal & (mean == Pack(0.0));
    }
  symmetric_ = qp_control::all(same);
  diagonal_hessian_ = qp_control::all(diagonal);
  load_elements(batch.A, first, last, long(n_eq_) * n_, 0.0, R_.data());
  load_elements(batch.C, first, last, long(n_in_) * n_, 0.0, R_.data() + n_eq_ * n_);
  usable_matrices_ = all_finite(H_.data(), H_.size()) & all_finite(R_.data(), R_.size());
  return usable_matrices_ & read_vectors(batch, first, last);
}

Mask LaneKkt::read_vectors(const DenseBatch& batch, int first, int last) {
  const auto read = [&](const BatchArray& array, long size, double missing, Pack* out) {
    load_elements(array, first, last, size, missing, out);
  };
  read(batch.g, n_, 0.0, g_.data());
  Pack *lower = lower_.data(), *upper = upper_.data();
  read(batch.b, n_eq_, 0.0, lower);
  read(batch.b, n_eq_, 0.0, upper);
  read(batch.l, n_in_, -infinity, lower + n_eq_);
  read(batch.u, n_in_, infinity, upper + n_eq_);
  if (boxed_) {
    read(batch.lb, n_, -infinity, lower + stored_);
    read(batch.ub, n_, infinity, upper + stored_);
  }
  Mask able = all_finite(g_.data(), n_) & all_finite(lower, n_eq_);
  const Pack large = infinite_bound;
  for (int i = n_eq_; i < rows(); ++i) {
    able = able & (lower[i] < large) & (upper[i] > -large) & (lower[i] <= upper[i]);
    lower[i] = select(lower[i] <= -large, -infinity, lower[i]);
    upper[i] = select(upper[i] >= large, infinity, upper[i]);
  }
  return able & positive(batch.weight_eq, first, last, n_eq_) & positive(batch.weight_in, first, last, n_in_) &
         positive(batch.weight_box, first, last, n_);
}

Mask LaneKkt::scale(Equilibration& scaling) {
  convex_ = convex();
  rounding_.load_matrices(n_, stored_, RoundingBounds<Pack>::largest(H_.size(), H_.data()), R_.data());
  scaling.scale_matrices(scalable());
  scale_vectors(scaling);
  return convex_;
}

Mask LaneKkt::load_vectors(const DenseBatch& batch, int first, int last, Equilibration& scaling) {
  const Mask able = usable_matrices_ & convex_ & read_vectors(batch, first, last);
  scale_vectors(scaling);
  return able;
}

void LaneKkt::scale_vectors(Equilibration& scaling) {
  rounding_.load_gradient(n_, g_.data());
  scaling.scale_vectors(scalable());
  for (int j = 0; j < n_; ++j) regularisation_[j] = least_curvature_ * scaling.c * scaling.D[j] * scaling.D[j];
  assembled_ = false;
}

ScalableQP<Pack> LaneKkt::scalable() {
  Pack* H = has_hessian_ ? H_.data() : nullptr;
  return {n_, stored_, n_, boxed_, H, g_.data(), R_.data(), lower_.data(), upper_.data(), diagonal_hessian_};
}

// Up to rounding. Sets least_curvature_.
Mask LaneKkt::convex() {
  least_curvature_ = 0.0;
  if (!has_hessian_) return Mask::all(true);
  const Mask definite = cholesky(H_.data(), L_.data(), inverse_diagonal_.data(), n_);
  if (qp_control::all(definite)) return definite;
  Pack size = 0.0;
  for (int k = 0; k < H_.size(); ++k) size = qp_control::max(size, abs(H_[k]));
  least_curvature_ = select(definite, 0.0, Pack(convexity_tolerance) * size);
  M_ = H_;
  for (int j = 0; j < n_; ++j) M_[j * n_ + j] += least_curvature_;
  return cholesky(M_.data(), L_.data(), inverse_diagonal_.data(), n_);
}

void LaneKkt::row_sizes(const Equilibration& scaling, PackArray& out) const {
  out.setConstant(Pack(1.0));
  for (int i = 0; i < stored_; ++i) {
    out[i] = 0.0;
    for (int j = 0; j < n_; ++j) out[i] = qp_control::max(out[i], abs(row(i)[j]) / scaling.D[j]);
    out[i] = out[i] / scaling.E[i];
  }
}

void LaneKkt::assemble() {
  if (has_hessian_)
    M_ = H_;
  else
    M_.setConstant(Pack(0.0));
  for (int j = 0; j < n_; ++j) diagonal_[j] = M_[j * n_ + j] + regularisation_[j];
  weight_.setConstant(Pack(0.0));
  rho_ = 0.0;
  assembled_ = true;
}

Mask LaneKkt::factor(const PackArray& weight, Pack rho) {
  if (kept_ != nullptr) return factor_unless_kept(weight, rho);
  if (!assembled_) assemble();
  bool changes = any(rho != rho_);
  int count = 0;
  for (int i = 0; i < stored_; ++i) {
    if (!any(weight[i] != weight_[i])) continue;
    const Pack change = weight[i] - weight_[i];
    Pack* to = weighted_.data() + count * n_;
    for (int j = 0; j < n_; ++j) to[j] = change * row(i)[j];
    changed_[count] = row(i);
    scaled_[count++] = to;
    weight_[i] = weight[i];
  }
  if (count > 0) {
    for (int j = 0; j < n_; ++j) M_[j * n_ + j] = diagonal_[j];
    add_outer_products(count, scaled_.data(), changed_.data(), M_.data(), n_);
    for (int j = 0; j < n_; ++j) diagonal_[j] = M_[j * n_ + j];
    changes = true;
  }
  for (int j = 0; j < n_; ++j) {
    Pack box = 0.0;
    if (boxed_) {
      const int i = stored_ + j;
      changes |= any(weight[i] != weight_[i]);
      box = weight_[i] = weight[i];
    }
    M_[j * n_ + j] = diagonal_[j] + (rho + box);
  }
  rho_ = rho;
  if (!changes) return definite_;
  if (!is_diagonal()) return definite_ = cholesky(M_.data(), L_.data(), inverse_diagonal_.data(), n_);
  definite_ = Mask::all(true);
  for (int j = 0; j < n_; ++j) {
    const Pack entry = M_[j * n_ + j];
    const Mask positive = entry > Pack(0.0);
    definite_ = definite_ & positive;
    inverse_diagonal_[j] = Pack(1.0) / sqrt(select(positive, entry, 1.0));
  }
  return definite_;
}

// Lanes whose weights are those of the kept factor have that, and the others a new one, whatever their neighbours have.
Mask LaneKkt::factor_unless_kept(const PackArray& weight, Pack rho) {
  const double* kept = std::exchange(kept_, nullptr);
  Mask same = has_kept_ & (rho == rho_);
  for (int i = 0; i < rows(); ++i) same = same & (weight[i] == weight_[i]);
  if (qp_control::all(same | !has_kept_)) return definite_ = has_kept_;
  factor(weight, rho);
  const auto replace = [&](Pack* entries, int size) {
    for (int k = 0; k < size; ++k, kept += lanes) {
      Pack entry;
      take(kept, 1, &entry);
      entries[k] = select(same, entry, entries[k]);
    }
  };
  replace(inverse_diagonal_.data(), n_);
  for (int i = 1; i < n_; ++i) replace(L_.data() + i * n_, i);
  return definite_ = definite_ | same;
}

long LaneKkt::kept_size(const DenseDims& d) {
  const long n = d.n, stored = d.n_eq + d.n_in;
  return 3 + 3 * n + 2 * stored + n * (n - 1) / 2;
}

void LaneKkt::keep(const Equilibration& scaling, Mask solved, Mask settled, double* to) const {
  const Pack rho = select(settled & Mask::all(assembled_), rho_, -1.0);  // -1: no factor
  const Pack head[] = {select(solved, scaling.c, 0.0), least_curvature_, rho};
  to = put(head, 3, to);
  to = put(scaling.D.data(), n_, to);
  to = put(scaling.E.data(), stored_, to);
  to = put(weight_.data(), rows(), to);
  to = put(inverse_diagonal_.data(), n_, to);
  for (int i = 1; i < n_; ++i) to = put(L_.data() + i * n_, i, to);
}

Mask LaneKkt::adopt(const double* from, Equilibration& scaling) {
  Pack head[3];
  from = take(from, 3, head);
  has_kept_ = head[0] > Pack(0.0);
  scaling.c = select(has_kept_, head[0], 1.0);
  least_curvature_ = head[1];
  rho_ = head[2];
  from = take(from, n_, scaling.D.data());
  from = take(from, stored_, scaling.E.data());
  scaling.apply(scalable());
  for (int j = 0; j < n_; ++j) regularisation_[j] = least_curvature_ * scaling.c * scaling.D[j] * scaling.D[j];
  from = take(from, rows(), weight_.data());
  assembled_ = false;
  kept_ = from;
  from = take(from, n_, inverse_diagonal_.data());
  for (int i = 1; i < n_; ++i) from = take(from, i, L_.data() + i * n_);
  return has_kept_;
}

void LaneKkt::solve(PackArray& rhs) const {
  if (!is_diagonal()) return cholesky_solve(L_.data(), inverse_diagonal_.data(), n_, rhs.data());
  for (int j = 0; j < n_; ++j) rhs[j] = rhs[j] * inverse_diagonal_[j] * inverse_diagonal_[j];
}

void LaneKkt::apply_hessian(const PackArray& x, PackArray& out) const {
  if (has_hessian_ && diagonal_hessian_)
    for (int j = 0; j < n_; ++j) out[j] = Pack(0.0) + H_[j * n_ + j] * x[j];
  else if (has_hessian_)
    multiply(H_.data(), n_, n_, x.data(), out.data());
  else
    out.setConstant(Pack(0.0));
}

void LaneKkt::apply_rows(const PackArray& x, PackArray& v) const {
  multiply(R_.data(), stored_, n_, x.data(), v.data());
  for (int j = 0; j < n_ && boxed_; ++j) v[stored_ + j] = x[j];
}

void LaneKkt::add_rows_transposed(const PackArray& z, PackArray& out) const {
  add_transposed(R_.data(), stored_, n_, n_, z.data(), out.data());
  for (int j = 0; j < n_ && boxed_; ++j) out[j] += z[stored_ + j];
}

}  // namespace qp_control
