// Inverse dynamics, frames and the centroid of a batch.
#include "workers.hpp"

namespace qp_control {

using Eigen::Map;
using Eigen::MatrixXd;
using Eigen::VectorXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Row3 = Eigen::Matrix<double, 3, 3, Eigen::RowMajor>;
using Vector6 = Eigen::Matrix<double, 6, 1>;

namespace {

void read(Worker& w, Motions at, std::size_t i) {
  const std::size_t nq = w.robot.nq(), nv = w.robot.nv();
  w.q = Map<const VectorXd>(at.q + i * nq, nq);
  w.v = Map<const VectorXd>(at.v + i * nv, nv);
  w.a = Map<const VectorXd>(at.a + i * nv, nv);
}

// The gradients by q (tangent), v and a that are in w.tau, w.g_now and w.g_next.
void write(Worker& w, MotionGradients out, std::size_t i) {
  const std::size_t nq = w.robot.nq(), nv = w.robot.nv();
  if (out.q != nullptr) w.write_configuration_gradient(w.q, w.tau, out.q + i * nq);
  if (out.v != nullptr) Map<VectorXd>(out.v + i * nv, nv) = w.g_now;
  if (out.a != nullptr) Map<VectorXd>(out.a + i * nv, nv) = w.g_next;
}

void reset(Worker& w) {
  for (VectorXd* g : {&w.tau, &w.g_now, &w.g_next}) g->setZero(w.robot.nv());
}

template <class Block>
Block block(const double* from, std::size_t i) {
  return from == nullptr ? Block::Zero().eval() : Block(Map<const Block>(from + i * Block::SizeAtCompileTime));
}

}  // namespace

void RigidBody::inverse_dynamics(int batch, Motions at, Parameters p, double* tau) const {
  implementation_->check_configurations(batch, at.q, nq());
  implementation_->for_each(batch, p, nullptr, [&](Worker& w, int i, double*) {
    read(w, at, i);
    w.robot.inverse_dynamics(w.q, w.v, w.a, w.tau);
    Map<VectorXd>(tau + std::size_t(i) * nv(), nv()) = w.tau;
  });
}

void RigidBody::inverse_dynamics_adjoint(int batch, Motions at, Parameters p, const double* g,
                                         MotionGradients out) const {
  implementation_->check_configurations(batch, at.q, nq());
  implementation_->for_each(batch, p, out.parameters, [&](Worker& w, int i, double* g_p) {
    read(w, at, i);
    reset(w);
    w.w = Map<const VectorXd>(g + std::size_t(i) * nv(), nv());
    w.robot.inverse_dynamics_adjoint(w.q, w.v, w.a, w.w, w.tau, w.g_now, w.g_next);
    write(w, out, i);
    if (g_p == nullptr) return;
    w.w = -w.w;
    w.robot.parameter_adjoint(w.q, w.v, w.a, w.w, g_p);
  });
}

void RigidBody::mass_matrix(int batch, const double* q, Parameters p, double* M) const {
  const std::size_t nq = this->nq(), nv = this->nv();
  implementation_->check_configurations(batch, q, static_cast<int>(nq));
  implementation_->for_each(batch, p, nullptr, [&](Worker& w, int i, double*) {
    w.q = Map<const VectorXd>(q + i * nq, nq);
    w.robot.mass_matrix(w.q, w.J);
    Map<RowMajor>(M + i * nv * nv, nv, nv) = w.J;
  });
}

void RigidBody::mass_matrix_adjoint(int batch, const double* q, Parameters p, const double* G,
                                    MotionGradients out) const {
  const std::size_t nq = this->nq(), nv = this->nv();
  implementation_->check_configurations(batch, q, static_cast<int>(nq));
  implementation_->for_each(batch, p, out.parameters, [&](Worker& w, int i, double* g_p) {
    w.q = Map<const VectorXd>(q + i * nq, nq);
    w.J = Map<const RowMajor>(G + i * nv * nv, nv, nv);
    w.robot.mass_matrix_adjoint(w.q, w.J, w.tau, g_p);
    if (out.q != nullptr) w.write_configuration_gradient(w.q, w.tau, out.q + i * nq);
  });
}

void RigidBody::frames(int batch, Motions at, Frames which, FrameNumbers<double> out) const {
  implementation_->check_configurations(batch, at.q, nq());
  implementation_->for_each(batch, {}, nullptr, [&](Worker& w, int i, double*) {
    read(w, at, i);
    w.robot.place(w.q, w.v, w.a);
    for (int f = 0; f < which.count; ++f) {
      const std::size_t k = std::size_t(i) * which.count + f;
      const FrameState state = w.robot.frame(which.index[f], which.aligned);
      Map<Eigen::Vector3d>(out.position + 3 * k) = state.position;
      Map<Row3>(out.rotation + 9 * k) = state.rotation;
      Map<Vector6>(out.velocity + 6 * k) = state.velocity;
      Map<Vector6>(out.acceleration + 6 * k) = state.acceleration;
    }
  });
}

void RigidBody::frames_adjoint(int batch, Motions at, Frames which, FrameNumbers<const double> g,
                               MotionGradients out) const {
  implementation_->check_configurations(batch, at.q, nq());
  implementation_->for_each(batch, {}, nullptr, [&](Worker& w, int i, double*) {
    read(w, at, i);
    reset(w);
    w.robot.place(w.q, w.v, w.a);
    for (int f = 0; f < which.count; ++f) {
      const std::size_t k = std::size_t(i) * which.count + f;
      const FrameState by{block<Eigen::Vector3d>(g.position, k), block<Row3>(g.rotation, k),
                          block<Vector6>(g.velocity, k), block<Vector6>(g.acceleration, k)};
      w.robot.frame_adjoint(which.index[f], which.aligned, by, w.tau, w.g_now, w.g_next);
    }
    write(w, out, i);
  });
}

void RigidBody::frame_jacobians(int batch, const double* q, Frames which, double* J) const {
  const std::size_t nq = this->nq(), nv = this->nv();
  implementation_->check_configurations(batch, q, static_cast<int>(nq));
  implementation_->for_each(batch, {}, nullptr, [&](Worker& w, int i, double*) {
    w.q = Map<const VectorXd>(q + i * nq, nq);
    reset(w);
    w.robot.place(w.q, w.tau, w.tau);
    for (int f = 0; f < which.count; ++f) {
      w.robot.frame_jacobian(which.index[f], which.aligned, w.second);
      Map<RowMajor>(J + (std::size_t(i) * which.count + f) * 6 * nv, 6, nv) = w.second;
    }
  });
}

void RigidBody::frame_jacobians_adjoint(int batch, const double* q, Frames which, const double* G, double* g_q) const {
  const std::size_t nq = this->nq(), nv = this->nv();
  implementation_->check_configurations(batch, q, static_cast<int>(nq));
  implementation_->for_each(batch, {}, nullptr, [&](Worker& w, int i, double*) {
    w.q = Map<const VectorXd>(q + i * nq, nq);
    reset(w);
    w.robot.place(w.q, w.tau, w.tau);
    for (int f = 0; f < which.count; ++f) {
      w.second = Map<const RowMajor>(G + (std::size_t(i) * which.count + f) * 6 * nv, 6, nv);
      w.robot.frame_jacobian_adjoint(which.index[f], which.aligned, w.second, w.tau);
    }
    w.write_configuration_gradient(w.q, w.tau, g_q + i * nq);
  });
}

void RigidBody::centroid(int batch, Motions at, Parameters p, CentroidNumbers<double> out) const {
  implementation_->check_configurations(batch, at.q, nq());
  implementation_->for_each(batch, p, nullptr, [&](Worker& w, int i, double*) {
    read(w, at, i);
    const Centroid found = w.robot.centroid(w.q, w.v, w.a);
    Map<Eigen::Vector3d>(out.position + std::size_t(3) * i) = found.position;
    Map<Vector6>(out.momentum + std::size_t(6) * i) = found.momentum;
    Map<Vector6>(out.rate + std::size_t(6) * i) = found.rate;
  });
}

void RigidBody::centroid_adjoint(int batch, Motions at, Parameters p, CentroidNumbers<const double> g,
                                 MotionGradients out) const {
  implementation_->check_configurations(batch, at.q, nq());
  implementation_->for_each(batch, p, out.parameters, [&](Worker& w, int i, double* g_p) {
    read(w, at, i);
    reset(w);
    const Centroid by{block<Eigen::Vector3d>(g.position, i), block<Vector6>(g.momentum, i), block<Vector6>(g.rate, i)};
    w.robot.centroid_adjoint(w.q, w.v, w.a, by, w.tau, w.g_now, w.g_next, g_p);
    write(w, out, i);
  });
}

}  // namespace qp_control
