#include <pinocchio/algorithm/jacobian.hpp>
#include <pinocchio/algorithm/kinematics.hpp>
#include <pinocchio/algorithm/regressor.hpp>
#include <pinocchio/algorithm/rnea.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using View = Eigen::Ref<const VectorXd>;

void Evaluator::parameter_jacobian(const VectorXd& q, const VectorXd& v, const VectorXd& a, const MatrixXd& a_tau,
                                   MatrixXd& a_p) {
  // The torques are linear in the parameters of body i, with the factors J_i' bodyRegressor(v_i, a_i). Rows of joints
  // that do not carry it stay zero.
  auto& s = *implementation_;
  const auto& model = s.model;
  pinocchio::rnea(model, s.data, View(q), View(v), View(a));
  pinocchio::computeJointJacobians(model, s.data, q);
  for (int b = 1; b < model.njoints; ++b) {
    const auto regressor = pinocchio::bodyRegressor(s.data.v[b], s.data.a_gf[b]);
    for (const auto joint : model.supports[b])
      for (int i = model.idx_vs[joint]; i < model.idx_vs[joint] + model.nvs[joint]; ++i) {
        const auto axis = s.data.oMi[b].actInv(pinocchio::Motion(s.data.J.col(i)));
        s.torques.block<1, 10>(i, 10 * (b - 1)).noalias() = axis.toVector().transpose() * regressor;
      }
  }
  a_p.leftCols(10 * bodies()).noalias() = -a_tau * s.torques;
  a_p.rightCols(nv()).noalias() = -a_tau * v.asDiagonal();
}

void Evaluator::parameter_adjoint(const VectorXd& q, const VectorXd& v, const VectorXd& a, const VectorXd& w,
                                  double* g) {
  // By the same factors, of which only J_i w is needed: the velocity of body i when the joints move with w. Linear in
  // the number of bodies, where the Jacobian is quadratic.
  auto& s = *implementation_;
  pinocchio::rnea(s.model, s.data, View(q), View(v), View(a));
  pinocchio::forwardKinematics(s.model, s.moved, View(q), View(w));
  for (int i = 0; i < bodies(); ++i)
    Eigen::Map<Eigen::Matrix<double, 10, 1>>(g + 10 * i).noalias() -=
        pinocchio::bodyRegressor(s.data.v[i + 1], s.data.a_gf[i + 1]).transpose() * s.moved.v[i + 1].toVector();
  Eigen::Map<VectorXd>(g + 10 * bodies(), nv()) -= w.cwiseProduct(v);
}

// The bodies' twists and accelerations change as tree.hpp says, the inertias in their own axes do not. The regressor of
// a body is quadratic in its twist and linear in its acceleration, so half a difference is its exact change.
void Evaluator::parameter_adjoint_change(const VectorXd& q, const VectorXd& v, const VectorXd& a, const VectorXd& w,
                                         const StateChange& change, const VectorXd& w_change, double* g) {
  auto& s = *implementation_;
  const auto& model = s.model;
  pinocchio::computeJointJacobians(model, s.data, q);
  s.tree.move(model, s.data, v, a, w, Vector6::Zero(), -model.gravity.toVector());
  auto& sums = s.carried;
  for (int b = 1; b < model.njoints; ++b) {
    const Body& body = s.tree.bodies[b];
    Change& sum = sums[b];
    sum = sums[model.parents[b]];
    for (int i = model.idx_vs[b]; i < model.idx_vs[b] + model.nvs[b]; ++i) {
      const Change& c = s.tree.changes[i];
      const auto S_i = s.data.J.col(i);
      sum.u += c.u * change.q[i] + S_i * w_change[i];
      sum.w += c.w * change.q[i] + S_i * change.v[i];
      sum.a += c.a * change.q[i] + c.a_of_v * change.v[i] + S_i * change.a[i];
    }
    const auto own = [&](const Vector6& motion) { return s.data.oMi[b].actInv(pinocchio::Motion(motion)); };
    const pinocchio::Motion U = own(body.U), V = own(body.V), A = own(body.A), dU = own(sum.u), dV = own(sum.w);
    const pinocchio::Motion dA = own(sum.a + cross(sum.w, body.V));
    Eigen::Map<Eigen::Matrix<double, 10, 1>> to(g + 10 * (b - 1));
    to -= pinocchio::bodyRegressor(V, A).transpose() * dU.toVector();
    to -= 0.5 * (pinocchio::bodyRegressor(V + dV, A + dA) - pinocchio::bodyRegressor(V - dV, A - dA)).transpose() *
          U.toVector();
  }
  Eigen::Map<VectorXd>(g + 10 * bodies(), nv()) -= w_change.cwiseProduct(v) + w.cwiseProduct(change.v);
}

}  // namespace qp_control
