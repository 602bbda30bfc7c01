// The KKT back end in lanes: each lane of every number works on a problem of its own. M = H + rho I + rows'
// diag(weight) rows is kept up to date by the rows whose weight has changed in any lane (the others add zero), and
// factored afresh.
#pragma once

#include <vector>

#include "qp_control/dense_batch.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/pack.hpp"
#include "qp_control/rounding.hpp"

namespace qp_control {

class LaneKkt {
 public:
  // Room for problems like those of the batch; what the whole batch lacks (H, the box) is left out.
  explicit LaneKkt(const DenseBatch& batch);

  int n() const { return n_; }
  int variables() const { return n_; }
  int stored_rows() const { return stored_; }
  bool boxed() const { return boxed_; }
  int rows() const { return stored_ + (boxed_ ? n_ : 0); }
  const RoundingBounds<Pack>& rounding() const { return rounding_; }  // of the caller's data
  const PackArray& g() const { return g_; }
  const PackArray& lower() const { return lower_; }
  const PackArray& upper() const { return upper_; }
  // Every lane has a problem of its own.
  static Pack sum(Pack partial) { return partial; }
  static Pack max(Pack partial) { return partial; }
  static Mask all(Mask partial) { return partial; }

  // Whether every H read last was equal to its transpose.
  bool symmetric() const { return symmetric_; }
  // Reads elements first..last-1; false: the data make no problem, or one whose bounds cross.
  Mask load(const DenseBatch& batch, int first, int last);
  // Equilibrates what was read. False: H is not positive semidefinite.
  Mask scale(Equilibration& scaling);
  // Both at once for other elements with the same H, A and C.
  Mask load_vectors(const DenseBatch& batch, int first, int last, Equilibration& scaling);

  void apply_hessian(const PackArray& x, PackArray& out) const;
  void apply_rows(const PackArray& x, PackArray& v) const;
  void add_rows_transposed(const PackArray& z, PackArray& out) const;

  // The largest entry of each row of the caller's.
  void row_sizes(const Equilibration& scaling, PackArray& out) const;
  void clear_padding(PackArray&) const {}

  Mask factor(const PackArray& weight, Pack rho);
  void solve(PackArray& rhs) const;

  // What a solve leaves for its derivative (kept_factor.hpp), of a register's problems side by side: their last factor,
  // its weights and their scaling, if they are `solved`; the factor of those alone that are `settled`, which the steps
  // that a neighbour still took have not changed.
  static long kept_size(const DenseDims& dims);  // numbers per problem
  void keep(const Equilibration& scaling, Mask solved, Mask settled, double* to) const;
  // In place of scale(): a scaling that was kept, and with it the factor, where its weights are those that are asked
  // for. False: nothing was kept.
  Mask adopt(const double* kept, Equilibration& scaling);

 private:
  const Pack* row(int i) const { return R_.data() + i * n_; }
  Mask read_vectors(const DenseBatch& batch, int first, int last);
  Mask convex();
  Mask factor_unless_kept(const PackArray& weight, Pack rho);
  ScalableQP<Pack> scalable();
  // Of M.
  bool is_diagonal() const { return diagonal_hessian_ && stored_ == 0; }
  void scale_vectors(Equilibration& scaling);
  void assemble();

  int n_, n_eq_, n_in_, stored_;
  bool has_hessian_, boxed_, assembled_ = false, symmetric_ = true;
  bool diagonal_hessian_ = false;  // in every lane; the other entries' part is left out, which changes no bits
  PackArray H_, g_, R_, lower_, upper_;
  PackArray regularisation_, M_, L_, inverse_diagonal_, diagonal_, weight_, weighted_;
  std::vector<const Pack*> changed_, scaled_;
  RoundingBounds<Pack> rounding_;
  Pack least_curvature_;  // that makes H positive definite, in the caller's units
  Mask usable_matrices_, convex_;
  Mask definite_;
  Pack rho_;                      // in M_
  const double* kept_ = nullptr;  // the factor in L_, as long as it has not been compared with what is asked for
  Mask has_kept_;
};

// Entry k of elements first..last-1, one per lane; lanes beyond repeat the last element. Shared data is read once.
void load_elements(const BatchArray& array, int first, int last, long size, double missing, Pack* out);
// True in the lanes whose numbers are all finite.
Mask all_finite(const Pack* values, long size);

}  // namespace qp_control
