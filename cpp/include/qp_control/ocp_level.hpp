// The first level of a shifted optimal-control QP (kkt_system.hpp) as derivatives need it: least-squares problems
//
//     [E'W E  F'] (x)   (E'W a + b)
//     [F      0 ] (p) = (    c    ),
//
// E the shifted rows, W their weights, F the dynamics, in the caller's units; of all x the least one. The recursion
// solves them with rho on the diagonal, and refinement from zero takes rho away again: what it adds to x has nothing of
// the null space.
#pragma once

#include "qp_control/riccati_kkt.hpp"

namespace qp_control {

class OcpLevel {
 public:
  // Residuals of accepted solutions, relative to the size of their terms.
  static constexpr double accepted = 1e-11;

  explicit OcpLevel(const OcpBatch& batch);

  // Of element i; E are the rows whose weight is not 0. False: it cannot be factored.
  bool set(const OcpBatch& batch, int i, const PackArray& weight);
  // (x, p) is a vector of unknowns (ocp_layout.hpp), and so is (b, c), a one of rows; no (b, c): zero. b is in the
  // range of E' and F'. Returns the residual.
  double solve(const PackArray& a, const PackArray* b, PackArray& out);
  // Takes from b, whose part c is zero, what neither E' nor F' reaches; false: some of it they hardly do.
  bool project(PackArray& b);

  // W E x, zero on other rows; out += E'z.
  void apply(const PackArray& x, PackArray& rows) const;
  void add_transposed(const PackArray& z, PackArray& out) const;

 private:
  RiccatiKkt<double> kkt_;
  Equilibration scaling_;
  PackArray weight_, rows_, rhs_, product_, step_, best_;
  double row_size_ = 1.0, rho_ = 0.0;
};

}  // namespace qp_control
