// The problem, with its letters and signs:
//
//     minimise    1/2 x'H x + g'x
//     subject to  A x = b              (y)      n_eq rows
//                 l <= C x <= u        (z)      n_in rows, entries may be -inf / +inf, l_i = u_i allowed
//                 lb <= x <= ub        (w)      box
//
//     H x + g + A'y + C'z + w = 0;   z_i > 0: upper bound active, z_i < 0: lower bound active (same for w).
//
// H is symmetric positive semidefinite; H = 0 is a linear program.
#pragma once

#include "qp_control/linear_algebra.hpp"

namespace qp_control {

// H may have eigenvalues down to minus this, relative to its largest entry: rounding.
constexpr double convexity_tolerance = 1e-12;

// Bounds of this size and more are infinite.
constexpr double infinite_bound = 1e20;

struct DenseDims {
  int n = 0;     // variables
  int n_eq = 0;  // rows of A
  int n_in = 0;  // rows of C
  int rows() const { return n_eq + n_in + n; }
};

// One problem as the caller holds it: borrowed row-major arrays, nullptr where absent (H = 0, infinite bounds, weights
// 1).
struct DenseQP {
  DenseDims dims;
  const double* H = nullptr;
  const double* g = nullptr;
  const double* A = nullptr;
  const double* b = nullptr;
  const double* C = nullptr;
  const double* l = nullptr;
  const double* u = nullptr;
  const double* lb = nullptr;
  const double* ub = nullptr;
  // Weights of the shifts in the closest feasible problem, infinity = never shifted.
  const double* weight_eq = nullptr;
  const double* weight_in = nullptr;
  const double* weight_box = nullptr;
};

// The same problem with all its constraints as rows of one list, the box last and never stored:
//
//     lower <= [R x; x] <= upper   (z),   R = [A; C],   an equality is a row with lower = upper.
//
// Everything behind the front door works on this form.
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
