// The KKT system of an active set,
//
//     K = [H G'; G 0],   G = [rows; e_j' of the fixed variables],
//
// behind the polish of a solution (right-hand side -g and the active bounds) and behind its derivatives. Fixed
// variables are eliminated; the rest is solved by proximal refinement with a Cholesky factor of H + rho I + G'G/mu,
// which is exact where K is regular. Where it is not (a linear program off a vertex, dependent rows), least_squares()
// gives the minimum-norm least-squares solution in the caller's units.
#pragma once

#include <optional>
#include <vector>

#include "qp_control/diagonal_plus_rows.hpp"
#include "qp_control/equilibration.hpp"
#include "qp_control/kept_factor.hpp"
#include "qp_control/linear_algebra.hpp"
#include "qp_control/reserved.hpp"

namespace qp_control {

// A point or a right-hand side: of the variables, the rows, the fixed variables.
struct ActiveVector {
  Reserved<Vector> x, rows, fixed;
  void reserve(int n, int rows);
  // NaN where an entry is not finite.
  double norm() const {
    const double poison = 0.0 * (x.sum() + rows.sum() + fixed.sum());
    return std::max({norm_inf(x), norm_inf(rows), norm_inf(fixed)}) + poison;
  }
};

class ActiveSystem {
 public:
  explicit ActiveSystem(int n) : n_(n), H_(nullptr) {}

  // Room for systems with that many rows: set(), factor() and refine() allocate nothing then.
  void reserve(int rows);

  // G is made of some rows of the stacked list [R; I], in increasing order. H must outlive the system; diagonal: it is
  // known to be so.
  void set(const Matrix& H, const RowMatrix& R, const std::vector<int>& active, bool diagonal = false);
  bool factor();
  // Uses another system's factor instead: all its variables stay, the fixed ones held by their weights; refinement
  // makes up for the difference. order: which of the kept rows each of the rows is.
  void adopt(const KeptFactor& kept, const std::vector<int>& order);

  int variables() const { return n_; }
  int row_count() const { return static_cast<int>(rows_.rows()); }
  const std::vector<int>& fixed() const { return fixed_; }
  ActiveVector zero() const;
  void set_zero(ActiveVector& v) const;

  // r = rhs - K s
  void residual(const ActiveVector& rhs, const ActiveVector& s, ActiveVector& r) const;
  // Refines s towards K s = rhs, from the value it has (a singular K leaves the part of s in its null space as it is).
  // Returns the largest entry of the residual relative to the largest entry of the products in it; ends where that is
  // `enough` or does not fall any more.
  double refine(const ActiveVector& rhs, ActiveVector& s, double enough = 1e-15);
  // True where K has a null space: a random vector does not survive K and its inverse.
  bool singular();
  // Minimum-norm least-squares solution of K s = rhs, in the caller's units. rank_deficiency: of K.
  ActiveVector least_squares(const ActiveVector& rhs, int* rank_deficiency = nullptr) const;

 private:
  double scale_of(const ActiveVector& rhs, const ActiveVector& s) const;
  // The factor by the rows, where H suits it; false: not made.
  bool factor_by_rows();

  int n_;
  const Matrix* H_;
  bool diagonal_ = false, uses_rows_ = false;
  std::optional<DiagonalPlusRows> by_rows_;  // made where it is first needed
  PackArray D_;
  Reserved<RowMatrix> rows_;
  std::vector<int> fixed_, free_;
  Equilibration scaling_{0, 0};  // of the free variables and of the rows
  int stride_ = 0;
  Reserved<PackArray> H_free_, rows_free_, weighted_, M_, L_, inverse_diagonal_;  // equilibrated
  Reserved<Vector> weight_;                                                       // 1/mu of each row
  Reserved<PackArray> unused_;                                                    // there are no bounds to be scaled
  std::vector<const double*> row_at_, weighted_at_;
  ActiveVector residual_, best_;  // of the refinement
  Reserved<PackArray> step_, row_residual_, row_step_;
  double H_norm_ = 0.0, row_norm_ = 0.0;
};

}  // namespace qp_control
