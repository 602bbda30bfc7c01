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
  g_q.setZero(nv());
  inertia_adjoint(q, G, MatrixXd(), g_q, g_p);
}

// M_ij = S_i' A_j with A_j = I_j S_j, I_j the inertia of all that the joint of j carries, and momenta are M_ij of an
// axis i that stands before all joints and carries the world. A displacement along S_k turns what joint k carries, so
// that for axes i before joint k
//   dM_ij = -S_k' (S_i x* A_j)                           where k carries j
//   dM_ij = -S_k' (S_i x* I_k S_j + S_j x* I_k S_i)      where j is before k as well.
void Evaluator::inertia_adjoint(const VectorXd& q, const MatrixXd& G, const MatrixXd& G_A, VectorXd& g_q, double* g_p) {
  auto& s = *implementation_;
  const auto& model = s.model;
  const bool momenta = G_A.size() > 0;
  const int n = nv(), world = momenta ? 6 : 0;
  pinocchio::computeJointJacobians(model, s.data, q);
  // All axes, those of the world first, and the symmetric gradient.
  MatrixXd S(6, world + n), Gs = MatrixXd::Zero(world + n, world + n);
  S.rightCols(n) = s.data.J;
  Gs.bottomRightCorner(n, n) = 0.5 * (G + G.transpose());
  if (momenta) {
    S.leftCols(6).setIdentity();
    Gs.topRightCorner(6, n) = 0.5 * G_A;
    Gs.bottomLeftCorner(n, 6) = 0.5 * G_A.transpose();
  }
  for (auto& I : s.composite) I.setZero();
  for (int b = model.njoints - 1; b > 0; --b) {
    s.composite[b] += s.data.oMi[b].act(model.inertias[b]).matrix();
    s.composite[model.parents[b]] += s.composite[b];
  }
  // Sums over what each joint carries of A_j Gs_ji
  std::vector<Eigen::Matrix<double, 6, Eigen::Dynamic>> W(model.njoints);
  for (auto& w : W) w.setZero(6, world + n);
  std::vector<int> before, support;
  for (int b = model.njoints - 1; b > 0; --b) {
    const int first = model.idx_vs[b], count = model.nvs[b];
    for (int j = first; j < first + count; ++j)
      W[b].noalias() += (s.composite[b] * s.data.J.col(j)).eval() * Gs.row(world + j);
    W[model.parents[b]] += W[b];

    before.clear();
    for (int i = 0; i < world; ++i) before.push_back(i);
    for (auto p = model.parents[b]; p > 0; p = model.parents[p])
      for (int i = model.idx_vs[p]; i < model.idx_vs[p] + model.nvs[p]; ++i) before.push_back(world + i);
    Vector6 Z = Vector6::Zero();
    for (int i : before) {
      Vector6 along = Vector6::Zero();
      for (int j : before) along += Gs(i, j) * S.col(j);
      Z += cross_star(S.col(i), Vector6(W[b].col(i) + s.composite[b] * along));
    }
    for (int k = first; k < first + count; ++k) g_q[k] -= 2.0 * Z.dot(s.data.J.col(k));

    if (g_p == nullptr) continue;
    support = before;
    for (int i = first; i < first + count; ++i) support.push_back(world + i);
    // <Gs, S' I_b S> = <I_b, Y> with Y = S Gs S' in the body's axes
    Matrix6 Y = Matrix6::Zero();
    for (int i : support) {
      Vector6 along = Vector6::Zero();
      for (int j : support) along += Gs(i, j) * S.col(j);
      Y += s.data.oMi[b].actInv(pinocchio::Motion(Vector6(S.col(i)))).toVector() *
           s.data.oMi[b].actInv(pinocchio::Motion(along)).toVector().transpose();
    }
    const auto vw = Y.topRightCorner<3, 3>();
    const auto ww = Y.bottomRightCorner<3, 3>();
    double* g = g_p + 10 * (b - 1);
    g[0] += Y.topLeftCorner<3, 3>().trace();
    g[1] += 2.0 * (vw(1, 2) - vw(2, 1));
    g[2] += 2.0 * (vw(2, 0) - vw(0, 2));
    g[3] += 2.0 * (vw(0, 1) - vw(1, 0));
    g[4] += ww(0, 0);
    g[5] += 2.0 * ww(0, 1);
    g[6] += ww(1, 1);
    g[7] += 2.0 * ww(0, 2);
    g[8] += 2.0 * ww(1, 2);
    g[9] += ww(2, 2);
  }
}

}  // namespace qp_control
