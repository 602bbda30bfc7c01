// Inverse dynamics and the mass matrix. Their gradients cost as much as themselves, see tree.hpp.
#include <pinocchio/algorithm/crba.hpp>
#include <pinocchio/algorithm/jacobian.hpp>
#include <pinocchio/algorithm/rnea.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using View = Eigen::Ref<const VectorXd>;

void Evaluator::inverse_dynamics(const VectorXd& q, const VectorXd& v, const VectorXd& a, VectorXd& tau) {
  auto& s = *implementation_;
  tau = pinocchio::rnea(s.model, s.data, View(q), View(v), View(a));
  tau += s.damping.cwiseProduct(v);
}

void Evaluator::inverse_dynamics_adjoint(const VectorXd& q, const VectorXd& v, const VectorXd& a, const VectorXd& g,
                                         VectorXd& g_q, VectorXd& g_v, VectorXd& g_a) {
  auto& s = *implementation_;
  pinocchio::computeJointJacobians(s.model, s.data, q);
  s.tree.move(s.model, s.data, v, a, g, Vector6::Zero(), -s.model.gravity.toVector());
  s.tree.load(s.model, s.data);
  s.tree.gather(s.model);
  for (int b = 1; b < s.model.njoints; ++b) {
    const Body& body = s.tree.bodies[b];
    for (int i = s.model.idx_vs[b]; i < s.model.idx_vs[b] + s.model.nvs[b]; ++i) {
      const Change& c = s.tree.changes[i];
      const auto S_i = s.data.J.col(i);
      g_q[i] = c.u.dot(body.F) + c.w.dot(body.G) + c.a.dot(body.P);
      g_v[i] = S_i.dot(body.G) + c.a_of_v.dot(body.P) + s.damping[i] * g[i];
      g_a[i] = S_i.dot(body.P) + s.model.armature[i] * g[i];
    }
  }
}

void Evaluator::mass_matrix(const VectorXd& q, MatrixXd& M) {
  auto& s = *implementation_;
  pinocchio::crba(s.model, s.data, View(q));
  M = s.data.M.selfadjointView<Eigen::Upper>();
}

void Evaluator::mass_matrix_adjoint(const VectorXd& q, const MatrixXd& G, VectorXd& g_q, double* g_p) {
  auto& s = *implementation_;
  const int n = nv();
  const VectorXd zero = VectorXd::Zero(n);
  g_q.setZero(n);
  pinocchio::computeJointJacobians(s.model, s.data, q);
  for (int j = 0; j < n; ++j) {
    s.tree.move(s.model, s.data, zero, VectorXd::Unit(n, j), G.col(j), Vector6::Zero(), Vector6::Zero());
    s.tree.load(s.model, s.data);
    s.tree.gather(s.model);
    for (int b = 1; b < s.model.njoints; ++b)
      for (int i = s.model.idx_vs[b]; i < s.model.idx_vs[b] + s.model.nvs[b]; ++i)
        g_q[i] += s.tree.changes[i].u.dot(s.tree.bodies[b].F) + s.tree.changes[i].a.dot(s.tree.bodies[b].P);
  }
  if (g_p == nullptr) return;
  // Column j of M is tau at rest with the acceleration e_j, without that of gravity alone.
  for (int j = 0; j < n; ++j) parameter_adjoint(q, zero, VectorXd::Unit(n, j), -G.col(j), g_p);
  parameter_adjoint(q, zero, zero, G.rowwise().sum(), g_p);
}

}  // namespace qp_control
