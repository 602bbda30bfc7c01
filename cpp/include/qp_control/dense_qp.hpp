// A dense QP with its constraints as rows of one list: what everything behind the front door works on.
#pragma once

#include "qp_control/dense_data.hpp"
#include "qp_control/linear_algebra.hpp"

namespace qp_control {

// H may have eigenvalues down to minus this, relative to its largest entry: rounding.
constexpr double convexity_tolerance = 1e-12;

// Bounds of this size and more are infinite.
constexpr double infinite_bound = 1e20;

// The problem of dense_data.hpp with all its constraints as rows of one list, the box last and never stored:
//
//     lower <= [R x; x] <= upper   (z),   R = [A; C],   an equality is a row with lower = upper.
struct StackedQP {
  StackedQP(int n, int stored_rows);

  int n() const { return static_cast<int>(g.size()); }
  int stored_rows() const { return static_cast<int>(R.rows()); }
  int rows() const { return static_cast<int>(lower.size()); }

  bool is_equality(int i) const { return lower[i] == upper[i]; }

  void apply_hessian(const Vector& x, Vector& Hx) const;
  // v = [R x; x]
  void apply_rows(const Vector& x, Vector& v) const;
  // out += R'z_R + z_box
  void add_rows_transposed(const Vector& z, Vector& out) const;
  // Row i, stored or of the box, as a dense vector.
  Vector row(int i) const;
  template <class Row>
  void write_row(int i, Row&& to) const {
    if (i < stored_rows()) {
      to = R.row(i);
    } else {
      to.setZero();
      to[i - stored_rows()] = 1.0;
    }
  }

  Matrix H;
  Vector g;
  RowMatrix R;
  Vector lower, upper;
  Vector weight;                // of the shifts
  bool linear_program = false;  // H = 0: products with it are skipped
  bool diagonal = false;        // the same beside its diagonal; where this is known
  bool symmetric = true;        // was the caller's H equal to its transpose?
};

// Room for the products of a problem with a point.
struct Products {
  Products(int n, int rows) : v(rows), Hx(n), Rz(n) {}
  Vector v, Hx, Rz;  // [R x; x], H x, R'z
};

// Copies the caller's data (H symmetrised, bounds of 1e20 and more made infinite). False: an entry is NaN, H, g, A, b
// or C has an infinite entry, a bound is infinite on the wrong side, or a weight is not positive.
bool stack(const DenseQP& qp, StackedQP& out);
// Its two halves: H, A and C; the rest.
bool stack_hessian(const DenseQP& qp, StackedQP& out);
bool stack_rows(const DenseQP& qp, StackedQP& out);
bool stack_vectors(const DenseQP& qp, StackedQP& out);

}  // namespace qp_control
