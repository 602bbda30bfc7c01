// Second derivatives of psi(q, v, a) = mu' tau(q, v, a) for tau by inverse dynamics, by recursion over the tree.
//
// In the world's axes, for the body b with inertia I, twist V = sum S_k v_k and acceleration A over the joints k that
// carry it, A_0 = -gravity, and the twist U = sum S_k mu_k that the joints would give it with the velocities mu:
//   psi = sum_b U' (I A + V x* h),  h = I V.
// A displacement along S_i moves all that joint i carries. Seen from there, only what stands before has moved, by
//   dU = u,   dV = w,   dA = a + w x V,   (u, w, a) = (-S_i x U_p, -S_i x V_p, -S_i x A_p - w x V_p)   (p: body before)
// and a change of v_i or a_i has the same form, with (0, S_i, (V_i + V_p) x S_i) and (0, 0, S_i). Second derivatives
// are then those of psi by (u, w, a), for all that the joint farther from the root carries,
//   [0 B I; B' K 0; I 0 0],   B = h x* - I V x - (I V x)',   K = P x* + I U x + (I U x)',   P = I U,
// summed over these bodies, f x* being the matrix of w -> w x* f. Displacements turn its S_j as well, which adds
// (F x*, G x*, P x*) S_j, F = I A + V x* h, G = I (U x V) - U x* h + V x* P.
//
// The joints' axes must be fixed in the bodies they move. Cost: the number of bodies times the number of joints that
// carry each. The tensors of second derivatives themselves would cost their depth once more:
// S. Singh, R. P. Russell, P. M. Wensing, "On second-order derivatives of rigid-body dynamics", arXiv:2302.06001
// (2023).
#include <pinocchio/algorithm/jacobian.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {

using pinocchio::Force;
using pinocchio::Motion;
using Matrix6 = Motion::Matrix6;
using Vector6 = Motion::Vector6;

// w x* f = star(f) w
Matrix6 star(const Vector6& f) {
  Matrix6 S;
  S.topLeftCorner<3, 3>().setZero();
  S.topRightCorner<3, 3>() = pinocchio::skew(Eigen::Vector3d(-f.head<3>()));
  S.bottomLeftCorner<3, 3>() = S.topRightCorner<3, 3>();
  S.bottomRightCorner<3, 3>() = pinocchio::skew(Eigen::Vector3d(-f.tail<3>()));
  return S;
}

Vector6 cross(const Vector6& a, const Vector6& b) {
  Vector6 c;
  c.tail<3>() = a.tail<3>().cross(b.tail<3>());
  c.head<3>() = a.tail<3>().cross(b.head<3>()) + a.head<3>().cross(b.tail<3>());
  return c;
}

Vector6 cross_star(const Vector6& a, const Vector6& f) {
  Vector6 c;
  c.head<3>() = a.tail<3>().cross(f.head<3>());
  c.tail<3>() = a.tail<3>().cross(f.tail<3>()) + a.head<3>().cross(f.head<3>());
  return c;
}

// I V x, made symmetric, times two
Matrix6 symmetric_product(const Matrix6& I, const Vector6& V) {
  const Matrix6 product = I * Motion(V).toActionMatrix();
  return product + product.transpose();
}

}  // namespace

void Evaluator::inverse_dynamics_hessian(const VectorXd& q, const VectorXd& v, const VectorXd& a, const VectorXd& mu,
                                         InverseDynamicsHessian& out) {
  auto& s = *implementation_;
  const auto& model = s.model;
  const int joints = model.njoints, n = nv();
  auto& carried = s.carried;
  auto& change = s.change;
  pinocchio::computeJointJacobians(model, s.data, q);
  const auto& J = s.data.J;

  carried[0].U.setZero();
  carried[0].V.setZero();
  carried[0].A = -model.gravity.toVector();
  for (int b = 1; b < joints; ++b) {
    Carried& now = carried[b];
    const Carried& before = carried[model.parents[b]];
    const int first = model.idx_vs[b], count = model.nvs[b];
    const auto S = J.middleCols(first, count);
    now.U = before.U + S * mu.segment(first, count);
    now.V = before.V + S * v.segment(first, count);
    now.A = before.A + S * a.segment(first, count) + cross(before.V, now.V);
    now.I = s.data.oMi[b].act(model.inertias[b]).matrix();
    now.h = now.I * now.V;
    now.P = now.I * now.U;
    now.F = now.I * now.A + cross_star(now.V, now.h);
    now.G = now.I * cross(now.U, now.V) - cross_star(now.U, now.h) + cross_star(now.V, now.P);
    now.IV = symmetric_product(now.I, now.V);
    now.IU = symmetric_product(now.I, now.U);
    for (int i = first; i < first + count; ++i) {
      const Vector6 S_i = J.col(i);
      Change& c = change[i];
      c.u = -cross(S_i, before.U);
      c.w = -cross(S_i, before.V);
      c.a = -cross(S_i, before.A) - cross(c.w, before.V);
      c.a_of_v = cross(now.V + before.V, S_i);
    }
  }

  for (MatrixXd* block : {&out.qq, &out.qv, &out.qa, &out.vv}) block->setZero(n, n);
  for (int b = joints - 1; b > 0; --b) {
    const Carried& now = carried[b];
    Carried& before = carried[model.parents[b]];
    const Matrix6 P_star = star(now.P), B = star(now.h) - now.IV, K = now.IU + P_star;
    const int first = model.idx_vs[b], count = model.nvs[b];
    const Matrix6 F_star = star(now.F), G_star = star(now.G);
    for (int j = first; j < first + count; ++j) {
      const Vector6 S_j = J.col(j);
      const Change& c = change[j];
      const Vector6 q_u = B * c.w + now.I * c.a + F_star * S_j;
      const Vector6 q_w = B.transpose() * c.u + K * c.w + G_star * S_j;
      const Vector6 q_a = now.I * c.u + P_star * S_j;
      const Vector6 a_u = now.I * S_j, v_u = B * S_j + now.I * c.a_of_v, v_w = K * S_j;
      for (int i = first; i < first + count; ++i) {
        const Change& d = change[i];
        out.qq(i, j) = q_u.dot(d.u) + q_w.dot(d.w) + q_a.dot(d.a);
        out.qv(i, j) = v_u.dot(d.u) + v_w.dot(d.w);
        out.qa(i, j) = a_u.dot(d.u);
        // Nothing before them has moved, so the joint's own axes count once only.
        out.vv(i, j) = J.col(i).dot(now.IU * S_j);
      }
      for (auto p = model.parents[b]; p > 0; p = model.parents[p])
        for (int i = model.idx_vs[p]; i < model.idx_vs[p] + model.nvs[p]; ++i) {
          const Change& d = change[i];
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
