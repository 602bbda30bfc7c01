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
  auto& s = *implementation_;
  pinocchio::computeJointTorqueRegressor(s.model, s.data, q, v, a);
  a_p.leftCols(10 * bodies()).noalias() = -a_tau * s.data.jointTorqueRegressor;
  a_p.rightCols(nv()).noalias() = -a_tau * v.asDiagonal();
}

void Evaluator::parameter_adjoint(const VectorXd& q, const VectorXd& v, const VectorXd& a, const VectorXd& w,
                                  double* g) {
  // Row block of body i in Y is J_i' bodyRegressor(v_i, a_i): Y' w needs only J_i w, the velocity of body i when the
  // joints move with w. Linear in the number of bodies, where Y itself is quadratic.
  auto& s = *implementation_;
  pinocchio::rnea(s.model, s.data, View(q), View(v), View(a));
  pinocchio::forwardKinematics(s.model, s.moved, View(q), View(w));
  for (int i = 0; i < bodies(); ++i)
    Eigen::Map<Eigen::Matrix<double, 10, 1>>(g + 10 * i).noalias() -=
        pinocchio::bodyRegressor(s.data.v[i + 1], s.data.a_gf[i + 1]).transpose() * s.moved.v[i + 1].toVector();
  Eigen::Map<VectorXd>(g + 10 * bodies(), nv()) -= w.cwiseProduct(v);
}

}  // namespace qp_control
