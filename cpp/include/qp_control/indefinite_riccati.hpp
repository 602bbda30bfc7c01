// Riccati back end for KKT systems at a given point, whatever the curvature of the stages: of [M E'; E 0], M may be
// indefinite as long as it is positive definite on the null space of E. Such are the exact Lagrangian Hessians of
// nonlinear programs. There is no square root of the cost-to-go 1/2 x'P_k x then, so P_k itself goes from the last
// stage to the first, and only the block of the inputs is factored,
//
//     M_k + [B A]'P_{k+1}[B A] = [U_u'U_u  U_u'U_ux; .  P_k + U_ux'U_ux],
//
// whose pivots are positive just where the reduced M is positive definite. A free x_0 is eliminated like an input.
#pragma once

#include "qp_control/riccati_kkt.hpp"

namespace qp_control {

template <class Real>
class IndefiniteRiccati : public RiccatiKkt<Real> {
 public:
  explicit IndefiniteRiccati(const OcpBatch& batch);

  // False: not positive definite on the null space of E.
  Mask factor(const PackArray& weight, Pack rho);
  // rhs <- [M E'; E 0]^-1 rhs
  void solve(PackArray& rhs) const;

 private:
  using Base = RiccatiKkt<Real>;
  using Base::at_, Base::fixed_start_, Base::M_, Base::W_, Base::left_, Base::right_;
  using Base::block_size, Base::real, Base::entries, Base::dynamics;
  using Base::load_system, Base::eliminate_slacks, Base::recover_slacks;
  Real* P(int k) { return entries(P_) + k * P_block_; }
  const Real* P(int k) const { return entries(P_) + k * P_block_; }
  Real* U(int k) { return entries(U_) + k * at_.nu * at_.stride; }
  const Real* U(int k) const { return entries(U_) + k * at_.nu * at_.stride; }
  Mask eliminate_inputs(int k);

  int P_block_;
  PackArray P_, U_, pivots_;  // [U_u U_ux] by rows; the inverses of the diagonal of U_u
  PackArray L_0_, pivots_0_;  // of P_0, where x_0 is free
  PackArray minus_U_;         // of the stage at hand
  mutable PackArray state_, p_;
  std::vector<const Real*> rows_, others_;  // factors of outer products
};

extern template class IndefiniteRiccati<Pack>;
extern template class IndefiniteRiccati<double>;

}  // namespace qp_control
