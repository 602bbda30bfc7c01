// Optimal-control QPs as the loop sees them: read into its vectors, checked, equilibrated, and multiplied with. The
// loop's unknowns are (w, y), w with the slacks of soft rows (ocp_slacks.hpp), its Hessian is the symmetric matrix
//
//     [H E'; E 0],   E w = (-x_0, A_0 x_0 + B_0 u_0 - x_1, ..),
//
// and its gradient has the dynamics' residuals where the y stand; proximal terms are on w alone. (A u_N, and the y_0 of
// a free x_0, are there and zero.) Real: see ocp_layout.hpp.
//
// Stages before the last that share their matrices are equilibrated alike: one copy then serves them all, and the fast
// caches hold more of the rest. The last stage has a cost of its own, and with it the step that leads there.
#pragma once

#include "qp_control/equilibration.hpp"
#include "qp_control/ocp_layout.hpp"
#include "qp_control/ocp_slacks.hpp"
#include "qp_control/rounding.hpp"

namespace qp_control {

// Of the stages' Hessians: positive semidefinite, which is checked, or whatever they are.
enum class Curvature { CONVEX, ANY };
// Equilibrated, or in the caller's units.
enum class Units { BALANCED, OF_CALLER };

template <class Real>
class OcpData {
 public:
  // Room for problems like those of the batch. With any curvature it calls all convex.
  OcpData(const OcpBatch& batch, Curvature curvature, Units units);

  const OcpLayout<Real>& layout() const { return at_; }
  // In packs: of all unknowns, of those with proximal terms, of the rows.
  int unknowns() const { return at_.in_packs(at_.unknowns()); }
  int variables() const { return at_.in_packs(at_.variables()); }
  int rows() const { return at_.in_packs(at_.rows()); }
  const OcpSlacks<Real>& slacks() const { return slacks_; }
  const PackArray& g() const { return g_; }
  const PackArray& lower() const { return lower_; }
  const PackArray& upper() const { return upper_; }
  static Pack sum(Pack partial) { return lanes_apart ? partial : sum_of_lanes(partial); }
  static Pack max(Pack partial) { return lanes_apart ? partial : max_of_lanes(partial); }
  static Mask all(Mask partial) { return lanes_apart ? partial : Mask::all(qp_control::all(partial)); }

  // Reads and equilibrates elements first..last-1 (one per lane; of one problem last = first + 1); matrices that the
  // batch shares are those of the call before. False: see the next three.
  Mask load(const OcpBatch& batch, int first, int last, Equilibration& scaling);
  Mask valid() const { return finite_matrices_ & valid_vectors_; }  // every number is one that may be there
  Mask crossed() const { return crossed_; }                         // a lower bound above its upper bound
  Mask convex() const { return convex_; }  // each stage's [Q S'; S R] is positive semidefinite, up to rounding
  Pack hessian_size() const {
    return H_size_;
  }  // largest entry of the equilibrated Hessians, before the cost is scaled
  const RoundingBounds<Pack>& rounding() const { return rounding_; }  // of the caller's data
  // Whether every Q and R read last was equal to its transpose.
  bool symmetric() const { return symmetric_; }

  // The multipliers of the loop's rows at the start x = 0: those of slacks with large weights nearly hold them there.
  void start_cold(PackArray& z) const;

  void apply_hessian(const PackArray& x, PackArray& out) const;
  void apply_rows(const PackArray& x, PackArray& v) const;
  void add_rows_transposed(const PackArray& z, PackArray& out) const;

  // The largest entry of each row of the caller's.
  void row_sizes(const Equilibration& scaling, PackArray& out) const;
  // Zero where no unknown stands.
  void clear_padding(PackArray& x) const;

 protected:
  static constexpr bool lanes_apart = std::is_same_v<Real, Pack>;
  // Room for the columns of a matrix of order n: tiles are four columns wide.
  static int block_size(int n, int stride) { return lanes_apart ? n * n : stride * ((n + 3) / 4 * 4); }
  static Real real(Pack a) {
    if constexpr (lanes_apart)
      return a;
    else
      return a[0];
  }
  static Real* entries(PackArray& a) { return reinterpret_cast<Real*>(a.data()); }
  static const Real* entries(const PackArray& a) { return reinterpret_cast<const Real*>(a.data()); }
  void make(PackArray& a, int numbers) const { a.setConstant(at_.in_packs(numbers), Pack(0.0)); }
  Real* H(int k) { return entries(H_) + copy(k, at_.N, one_stage_) * block_; }
  const Real* H(int k) const { return entries(H_) + copy(k, at_.N, one_stage_) * block_; }
  // [B A] of the step from k to k + 1, and [D C] of stage k.
  Real* dynamics(int k) { return entries(dynamics_) + copy(k, at_.N - 1, one_step_) * at_.nx * at_.stride; }
  const Real* dynamics(int k) const { return entries(dynamics_) + copy(k, at_.N - 1, one_step_) * at_.nx * at_.stride; }
  Real* stage_rows(int k) { return entries(R_) + copy(k, at_.N, one_stage_) * at_.stage_rows * at_.stride; }
  const Real* stage_rows(int k) const { return entries(R_) + copy(k, at_.N, one_stage_) * at_.stage_rows * at_.stride; }

  OcpLayout<Real> at_;
  bool fixed_start_;
  OcpSlacks<Real> slacks_;
  int block_;                 // numbers of a stage's matrix
  PackArray regularisation_;  // that makes each stage's H positive definite

 private:
  // The place of k's matrix, where one may stand for all before the last.
  static int copy(int k, int last, bool one) { return one ? k == last : k; }
  static int copies(int last, bool one) { return copy(last, last, one) + 1; }
  // Whether k's matrix is that of k - 1.
  static bool repeats(int k, int last, bool one) { return one && k > 0 && k < last; }

  void load_matrices(const OcpBatch& batch, int first, int last);
  void load_vectors(const OcpBatch& batch, int first, int last);
  void scale_matrices(Equilibration& scaling);
  void scale_vectors(Equilibration& scaling);
  void load_block(const StageArray& array, int k, int rows, int cols, int first, int last, Real* to);
  void load_cost_and_rows(const OcpBatch& batch, int k, int first, int last);
  void load_step(const OcpBatch& batch, int k, int first, int last);
  void load_bounds(const OcpBatch& batch, int k, int first, int last);
  Mask convex_stage(int k);
  void balance(int k, Equilibration& scaling);

  bool shared_matrices_, any_curvature_, balanced_, loaded_ = false, symmetric_ = true;
  bool one_stage_, one_step_;  // H and [D C], [B A] of those before the last are one
  PackArray H_, dynamics_, R_, g_, lower_, upper_;
  PackArray curvature_;                                   // regularisation_ before the cost is scaled
  PackArray M_, trial_, inverse_of_trial_, norm_, read_;  // of the stage at hand
  RoundingBounds<Pack> rounding_;
  Mask finite_matrices_, valid_vectors_, crossed_, convex_;
  Pack H_size_;  // largest entry of D H D
};

extern template class OcpData<Pack>;
extern template class OcpData<double>;

}  // namespace qp_control
