// Errors of states from references on the configuration manifold, and back.
#include <algorithm>

#include "workers.hpp"

namespace qp_control {

using Eigen::VectorXd;

void RigidBody::difference(int batch, Reference r, const double* x, double* xi) const {
  const std::size_t nq = this->nq(), nv = this->nv(), nx = nq + nv;
  implementation_->check_configurations(batch, x, static_cast<int>(nx));
  implementation_->for_each_reference(batch, r, [&](Worker& w, int i, const double* r_i) {
    const double* x_i = x + i * nx;
    w.q_next = Eigen::Map<const VectorXd>(x_i, nq);
    w.robot.difference(w.q, w.q_next, w.v);
    Eigen::Map<VectorXd>(xi + i * 2 * nv, nv) = w.v;
    for (std::size_t k = 0; k < nv; ++k) xi[i * 2 * nv + nv + k] = x_i[nq + k] - r_i[nq + k];
  });
}

void RigidBody::difference_adjoint(int batch, Reference r, const double* x, const double* g, double* g_x,
                                   double* g_r) const {
  const std::size_t nq = this->nq(), nv = this->nv(), nx = nq + nv;
  implementation_->check_configurations(batch, x, static_cast<int>(nx));
  implementation_->for_each_reference(batch, r, [&](Worker& w, int i, const double* r_i) {
    const Eigen::Map<const VectorXd> g_q(g + i * 2 * nv, nv), g_v(g + i * 2 * nv + nv, nv);
    w.q_next = Eigen::Map<const VectorXd>(x + i * nx, nq);
    w.robot.difference_jacobian(w.q, w.q_next, w.J);
    w.lambda << w.J.transpose() * g_q, g_v;
    if (g_x != nullptr) {
      w.write_configuration_gradient(w.q_next, w.lambda.head(nv), g_x + i * nx);
      Eigen::Map<VectorXd>(g_x + i * nx + nq, nv) = g_v;
    }
    if (g_r == nullptr) return;
    // See StepMap::reference_adjoint.
    w.robot.difference(w.q, w.q_next, w.v);
    w.robot.integrate_jacobians(w.q, w.v, &w.J_q, w.J);
    w.lambda.head(nv) = (-w.J_q.transpose() * w.lambda.head(nv)).eval();
    w.lambda.tail(nv) = -g_v;
    w.write_gradient(r_i, w.lambda, g_r + i * nx);
  });
}

void RigidBody::integrate(int batch, Reference r, const double* xi, double* x) const {
  const std::size_t nq = this->nq(), nv = this->nv(), nx = nq + nv;
  implementation_->for_each_reference(batch, r, [&](Worker& w, int i, const double* r_i) {
    const double* xi_i = xi + i * 2 * nv;
    w.v = Eigen::Map<const VectorXd>(xi_i, nv);
    w.robot.integrate(w.q, w.v, w.q_next);
    Eigen::Map<VectorXd>(x + i * nx, nq) = w.q_next;
    for (std::size_t k = 0; k < nv; ++k) x[i * nx + nq + k] = r_i[nq + k] + xi_i[nv + k];
  });
}

void RigidBody::integrate_tangent(int batch, Reference r, const double* xi, const double* d, double* d_x) const {
  const std::size_t nq = this->nq(), nv = this->nv(), nx = nq + nv;
  implementation_->for_each_reference(batch, r, [&](Worker& w, int i, const double*) {
    const double* d_i = d + i * 2 * nv;
    w.integrate_with_jacobians(xi + i * 2 * nv);
    w.v.noalias() = w.J * Eigen::Map<const VectorXd>(d_i, nv);
    Eigen::Map<VectorXd>(d_x + i * nx, nq).noalias() = w.T * w.v;
    std::copy_n(d_i + nv, nv, d_x + i * nx + nq);
  });
}

void RigidBody::integrate_adjoint(int batch, Reference r, const double* xi, const double* g, double* g_xi,
                                  double* g_r) const {
  const std::size_t nq = this->nq(), nv = this->nv(), nx = nq + nv;
  implementation_->for_each_reference(batch, r, [&](Worker& w, int i, const double* r_i) {
    const Eigen::Map<const VectorXd> g_q(g + i * nx, nq), g_v(g + i * nx + nq, nv);
    w.integrate_with_jacobians(xi + i * 2 * nv);
    w.a.noalias() = w.T.transpose() * g_q;
    if (g_xi != nullptr) {
      Eigen::Map<VectorXd>(g_xi + i * 2 * nv, nv).noalias() = w.J.transpose() * w.a;
      Eigen::Map<VectorXd>(g_xi + i * 2 * nv + nv, nv) = g_v;
    }
    if (g_r == nullptr) return;
    w.robot.integrate_jacobians(w.q, w.v, &w.J_q, w.J);
    w.lambda << w.J_q.transpose() * w.a, g_v;
    w.write_gradient(r_i, w.lambda, g_r + i * nx);
  });
}

void RigidBody::on_manifold(int batch, const double* x, bool* result) const {
  const std::size_t nq = this->nq(), nx = nq + nv();
  implementation_->for_each(batch, {}, nullptr, [&](Worker& w, int i, double*) {
    w.q = Eigen::Map<const VectorXd>(x + i * nx, nq);
    result[i] = Eigen::Map<const VectorXd>(x + i * nx, nx).allFinite() && w.robot.normalized(w.q);
  });
}

}  // namespace qp_control
