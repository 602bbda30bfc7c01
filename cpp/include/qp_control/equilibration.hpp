// Ruiz equilibration: x = D x^, rows scaled by E, objective by c, so that [H R'; R 0] has columns of similar size. All
// factors are powers of two: scaling rounds nothing, and what is judged on the scaled problem holds for the caller's.
// Source: Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices", RAL 2001.
#pragma once

#include "qp_control/linear_algebra.hpp"
#include "qp_control/pack.hpp"

namespace qp_control {

// A problem to be scaled in place: row-major H (nullptr: zero) and stored rows R, `stride` apart (of one problem:
// padded(n)), then the box if `boxed`, whose rows keep coefficient one (E_box = 1 / D).
template <class Real>
struct ScalableQP {
  int n, stored_rows, stride;
  bool boxed;
  Real *H, *g, *R, *lower, *upper;
  bool diagonal = false;  // the rest of H is zero

  // The columns [first, last) of a row of H that may have entries; none without H.
  int first(int i) const { return diagonal ? i : 0; }
  int last(int i) const { return H == nullptr ? 0 : diagonal ? i + 1 : n; }
};

struct Equilibration {
  // In packs.
  Equilibration(int n, int rows) : D(n), E(rows), norm_(n) {
    for (PackArray* a : {&D, &E, &norm_}) a->setConstant(Pack(1.0));
  }

  // Chooses D, E and c, and scales. Real: double for one problem, Pack for a pack of them.
  template <class Real>
  void scale(const ScalableQP<Real>& qp) {
    scale_matrices(qp);
    scale_vectors(qp);
  }
  // D and E, from H and R alone.
  template <class Real>
  void scale_matrices(const ScalableQP<Real>& qp);
  // By the D, c and E of the stored rows that are here already.
  template <class Real>
  void apply(const ScalableQP<Real>& qp);
  // c, and what depends on it; may be called again with other vectors.
  template <class Real>
  void scale_vectors(const ScalableQP<Real>& qp);

  PackArray D, E;
  Pack c;

 private:
  PackArray norm_;  // of the columns
  Pack H_size_;     // largest entry of D H D
};

namespace equilibration_detail {

constexpr int passes = 8;

// Rows of one problem are aligned and filled up with zeros.
inline double row_norm(const double* row, int n) {
  Pack out = 0.0;
  for (int p = 0; p < packs(n); ++p) out = max(out, abs(load(row + p * lanes)));
  return max_of_lanes(out)[0];
}
inline Pack row_norm(const Pack* row, int n) {
  Pack out = 0.0;
  for (int j = 0; j < n; ++j) out = max(out, abs(row[j]));
  return out;
}

// Empty and extreme rows keep a sane factor.
template <class Real>
Real factor(Real norm) {
  const Real clamped = min(max(norm, Real(1e-8)), Real(1e8));
  return select(norm > Real(0.0), inverse_root_power_of_two(clamped), 1.0);
}

}  // namespace equilibration_detail

template <class Real>
void Equilibration::scale_matrices(const ScalableQP<Real>& qp) {
  using namespace equilibration_detail;
  const int n = qp.n, stored = qp.stored_rows, stride = qp.stride, rows = stored + (qp.boxed ? n : 0);
  Real *d = reinterpret_cast<Real*>(D.data()), *e = reinterpret_cast<Real*>(E.data());
  Real* norm = reinterpret_cast<Real*>(norm_.data());
  for (int j = 0; j < n; ++j) d[j] = 1.0;
  for (int i = 0; i < rows; ++i) e[i] = 1.0;
  for (int pass = 0; pass < passes; ++pass) {
    auto balanced = Real(0.0) == Real(0.0);
    for (int j = 0; j < n; ++j) norm[j] = 0.0;
    for (int i = 0; i < n; ++i)
      for (int j = qp.first(i); j < qp.last(i); ++j) norm[j] = max(norm[j], abs(qp.H[i * stride + j]));
    for (int i = 0; i < stored; ++i)
      for (int j = 0; j < n; ++j) norm[j] = max(norm[j], abs(qp.R[i * stride + j]));
    for (int j = 0; j < n; ++j) {
      norm[j] = factor(norm[j]);
      balanced = balanced & (norm[j] == Real(1.0));
      d[j] *= norm[j];
    }
    for (int i = 0; i < n; ++i)
      for (int j = qp.first(i); j < qp.last(i); ++j) qp.H[i * stride + j] *= norm[i] * norm[j];
    for (int i = 0; i < stored; ++i) {
      const Real row_factor = factor(row_norm(qp.R + i * stride, n));
      balanced = balanced & (row_factor == Real(1.0));
      for (int j = 0; j < n; ++j) qp.R[i * stride + j] *= row_factor * norm[j];
      e[i] *= row_factor;
    }
    if (all(balanced)) break;
  }
  for (int j = 0; j < n && qp.boxed; ++j) e[stored + j] = Real(1.0) / d[j];
  Real largest = 0.0;
  for (int i = 0; i < n && qp.H != nullptr; ++i) {
    largest = max(largest, qp.diagonal ? abs(qp.H[i * stride + i]) : row_norm(qp.H + i * stride, n));
    // Nothing beside entries of size one; as subnormal numbers they would lose bits when c changes.
    for (int j = qp.first(i); j < qp.last(i); ++j) {
      Real& entry = qp.H[i * stride + j];
      entry = select(abs(entry) < Real(1e-250), 0.0, entry);
    }
  }
  H_size_ = largest;
  c = 1.0;
}

template <class Real>
void Equilibration::apply(const ScalableQP<Real>& qp) {
  const int n = qp.n, stored = qp.stored_rows, rows = stored + (qp.boxed ? n : 0);
  Real *d = reinterpret_cast<Real*>(D.data()), *e = reinterpret_cast<Real*>(E.data());
  const Real scale = *reinterpret_cast<Real*>(&c);
  for (int j = 0; j < n && qp.boxed; ++j) e[stored + j] = Real(1.0) / d[j];
  for (int i = 0; i < n; ++i) {
    const Real factor = scale * d[i];
    qp.g[i] *= factor;
    for (int j = 0; j < n && qp.H != nullptr; ++j) qp.H[i * qp.stride + j] *= factor * d[j];
  }
  for (int i = 0; i < stored; ++i)
    for (int j = 0; j < n; ++j) qp.R[i * qp.stride + j] *= e[i] * d[j];
  for (int i = 0; i < rows; ++i) {
    qp.lower[i] *= e[i];
    qp.upper[i] *= e[i];
  }
}

template <class Real>
void Equilibration::scale_vectors(const ScalableQP<Real>& qp) {
  const int n = qp.n, rows = qp.stored_rows + (qp.boxed ? n : 0);
  const Real *d = reinterpret_cast<Real*>(D.data()), *e = reinterpret_cast<Real*>(E.data());
  Real largest = *reinterpret_cast<Real*>(&H_size_);
  for (int j = 0; j < n; ++j) {
    qp.g[j] *= d[j];
    largest = max(largest, abs(qp.g[j]));
  }
  const Real clamped = min(max(largest, Real(1e-12)), Real(1e12));
  const Real scale = select(largest > Real(0.0), inverse_power_of_two(clamped), 1.0);
  const Real change = scale / *reinterpret_cast<Real*>(&c);
  for (int i = 0; i < n && any(change != Real(1.0)); ++i)
    for (int j = qp.first(i); j < qp.last(i); ++j) qp.H[i * qp.stride + j] *= change;
  for (int j = 0; j < n; ++j) qp.g[j] *= scale;
  for (int i = 0; i < rows; ++i) {
    qp.lower[i] *= e[i];
    qp.upper[i] *= e[i];
  }
  c = scale;
}

}  // namespace qp_control
