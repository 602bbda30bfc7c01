// Riccati KKT back end of the augmented-Lagrangian loop: the dynamics of an optimal-control QP are eliminated exactly.
// With weights on the rows, the loop's matrix [M E'; E 0] (ocp_data.hpp) is factored stage by stage, from the last to
// the first: with P_N = M_N and P_k = L_x L_x',
//
//     M_k + [B A]'P_{k+1}[B A] = L L',   L = [L_u 0; L_xu L_x]     (square-root recursion),
//
// at a cost of N (7/3 nx^3 + 4 nx^2 nu + 2 nx nu^2 + 1/3 nu^3) operations, linear in N. Source: G. Frison, J. B.
// Jorgensen, "Efficient implementation of the Riccati recursion for solving linear-quadratic control problems", IEEE
// CCA 2013. Real: see ocp_layout.hpp.
#pragma once

#include <vector>

#include "qp_control/ocp_data.hpp"

namespace qp_control {

template <class Real>
class RiccatiKkt : public OcpData<Real> {
  using Data = OcpData<Real>;

 public:
  // Room for problems like those of the batch; with any curvature for loading and multiplying only.
  explicit RiccatiKkt(const OcpBatch& batch, Curvature curvature = Curvature::CONVEX, Units units = Units::BALANCED);

  Mask load(const OcpBatch& batch, int first, int last, Equilibration& scaling);

  // Factors; from the first stage before which no weight has changed the old factor holds. False: not positive
  // definite.
  Mask factor(const PackArray& weight, Pack rho);
  // rhs <- [M E'; E 0]^-1 rhs
  void solve(PackArray& rhs) const;

 protected:
  using Data::at_, Data::block_, Data::fixed_start_, Data::regularisation_, Data::slacks_;
  using Data::dynamics, Data::entries, Data::H, Data::real, Data::stage_rows;

  // M_k with weights on its rows, without its slacks: the boxes' stand in M_, the others are left to add as left_ times
  // right_'. Returns how many these are.
  int load_system(int k, const Real* weight, Real rho);
  // Before and after a solve of what they leave.
  void eliminate_slacks(PackArray& rhs) const;
  void recover_slacks(PackArray& rhs) const;

  PackArray M_, W_;  // of the stage at hand
  std::vector<const Real*> left_, right_;

 private:
  Real* L(int k) { return entries(L_) + k * block_; }
  const Real* L(int k) const { return entries(L_) + k * block_; }
  Mask factor_stage(int k, const Real* weight, Real rho);

  PackArray L_, diagonal_, inverse_;
  PackArray weight_;  // of the rows in the factor
  PackArray weighted_;
  mutable PackArray v_, work_, values_;
  Pack rho_;  // in the factor
  bool factored_ = false;
  Mask definite_;
};

extern template class RiccatiKkt<Pack>;
extern template class RiccatiKkt<double>;

}  // namespace qp_control
