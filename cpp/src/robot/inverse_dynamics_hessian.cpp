// Second derivatives of psi = mu' tau(q, v, a) for tau by inverse dynamics; tree.hpp says what the letters are.
//
// Those by the changes (u, w, a), for all that the joint farther from the root carries, are
//   [0 B I; B' K 0; I 0 0],   B = h x* - I V x - (I V x)',   K = P x* + I U x + (I U x)',
// summed over these bodies, f x* being the matrix of w -> w x* f. Displacements turn its S_j as well, which adds
// (F x*, G x*, P x*) S_j. Cost: the number of bodies times the number of joints that carry each. The tensors of second
// derivatives themselves would cost their depth once more: S. Singh, R. P. Russell, P. M. Wensing, "On second-order
// derivatives of rigid-body dynamics", arXiv:2302.06001 (2023).
#include <pinocchio/algorithm/jacobian.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {

// w x* f = star(f) w
Matrix6 star(const Vector6& f) {
  Matrix6 S;
  S.topLeftCorner<3, 3>().setZero();
  S.topRightCorner<3, 3>() = pinocchio::skew(Eigen::Vector3d(-f.head<3>()));
  S.bottomLeftCorner<3, 3>() = S.topRightCorner<3, 3>();
  S.bottomRightCorner<3, 3>() = pinocchio::skew(Eigen::Vector3d(-f.tail<3>()));
  return S;
}

// I V x, made symmetric, times two
Matrix6 symmetric_product(const Matrix6& I, const Vector6& V) {
  const Matrix6 product = I * pinocchio::Motion(V).toActionMatrix();
  return product + product.transpose();
}

}  // namespace

void Evaluator::inverse_dynamics_hessian(const VectorXd& q, const VectorXd& v, const VectorXd& a, const VectorXd& mu,
                                         InverseDynamicsHessian& out) {
  auto& s = *implementation_;
  const auto& model = s.model;
  const int joints = model.njoints, n = nv();
  auto& bodies = s.tree.bodies;
  const auto& changes = s.tree.changes;
  pinocchio::computeJointJacobians(model, s.data, q);
  const auto& J = s.data.J;
  s.tree.move(model, s.data, v, a, mu, Vector6::Zero(), -model.gravity.toVector());
  s.tree.load(model, s.data);
  for (int b = 1; b < joints; ++b) {
    bodies[b].IV = symmetric_product(bodies[b].I, bodies[b].V);
    bodies[b].IU = symmetric_product(bodies[b].I, bodies[b].U);
  }

  for (MatrixXd* block : {&out.qq, &out.qv, &out.qa, &out.vv}) block->setZero(n, n);
  for (int b = joints - 1; b > 0; --b) {
    const Body& now = bodies[b];
    const Matrix6 P_star = star(now.P), B = star(now.h) - now.IV, K = now.IU + P_star;
    const int first = model.idx_vs[b], count = model.nvs[b];
    const Matrix6 F_star = star(now.F), G_star = star(now.G);
    for (int j = first; j < first + count; ++j) {
      const Vector6 S_j = J.col(j);
      const Change& c = changes[j];
      const Vector6 q_u = B * c.w + now.I * c.a + F_star * S_j;
      const Vector6 q_w = B.transpose() * c.u + K * c.w + G_star * S_j;
      const Vector6 q_a = now.I * c.u + P_star * S_j;
      const Vector6 a_u = now.I * S_j, v_u = B * S_j + now.I * c.a_of_v, v_w = K * S_j;
      for (int i = first; i < first + count; ++i) {
        const Change& d = changes[i];
        out.qq(i, j) = q_u.dot(d.u) + q_w.dot(d.w) + q_a.dot(d.a);
        out.qv(i, j) = v_u.dot(d.u) + v_w.dot(d.w);
        out.qa(i, j) = a_u.dot(d.u);
        // Nothing before them has moved, so the joint's own axes count once only.
        out.vv(i, j) = J.col(i).dot(now.IU * S_j);
      }
      for (auto p = model.parents[b]; p > 0; p = model.parents[p])
        for (int i = model.idx_vs[p]; i < model.idx_vs[p] + model.nvs[p]; ++i) {
          const Change& d = changes[i];
          const auto S_i = J.col(i);
          out.qq(i, j) = out.qq(j, i) = q_u.dot(d.u) + q_w.dot(d.w) + q_a.dot(d.a);
          out.qv(i, j) = v_u.dot(d.u) + v_w.dot(d.w);
          out.qv(j, i) = q_w.dot(S_i) + q_a.dot(d.a_of_v);
          out.qa(i, j) = a_u.dot(d.u);
          out.qa(j, i) = q_a.dot(S_i);
          out.vv(i, j) = out.vv(j, i) = v_w.dot(S_i);
        }
    }
    // Displacements within one joint do not commute.
    out.qq.block(first, first, count, count) =
        (0.5 * (out.qq.block(first, first, count, count) + out.qq.block(first, first, count, count).transpose()))
            .eval();
    if (model.parents[b] == 0) continue;
    Body& before = bodies[model.parents[b]];
    before.I += now.I;
    before.IV += now.IV;
    before.IU += now.IU;
    before.h += now.h;
    before.P += now.P;
    before.F += now.F;
    before.G += now.G;
  }
}

}  // namespace qp_control
