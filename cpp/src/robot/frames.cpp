// Motions of frames and their gradients by the recursion of tree.hpp.
#include <pinocchio/algorithm/crba.hpp>
#include <pinocchio/algorithm/jacobian.hpp>

#include "evaluator_state.hpp"

namespace qp_control {

using Eigen::Matrix3d;
using Eigen::MatrixXd;
using Eigen::Vector3d;
using Eigen::VectorXd;

namespace {

// t with t'w = <G, w x R> for all w
Vector3d torque_of(const Matrix3d& G, const Matrix3d& R) {
  const Matrix3d T = G * R.transpose();
  return {T(2, 1) - T(1, 2), T(0, 2) - T(2, 0), T(1, 0) - T(0, 1)};
}

pinocchio::SE3 placement(const pinocchio::Model& model, const pinocchio::Data& data, int index) {
  return data.oMi[model.frames[index].parentJoint] * model.frames[index].placement;
}

// Calls body(i) for the velocities that move the joint b.
template <class F>
void for_each_mover(const pinocchio::Model& model, pinocchio::JointIndex b, F body) {
  for (; b > 0; b = model.parents[b])
    for (int i = model.idx_vs[b]; i < model.idx_vs[b] + model.nvs[b]; ++i) body(i);
}

void rotate(const Matrix3d& R, Vector6& twist) {
  twist.head<3>() = R * Vector3d(twist.head<3>());
  twist.tail<3>() = R * Vector3d(twist.tail<3>());
}

}  // namespace

void Evaluator::place(const VectorXd& q, const VectorXd& v, const VectorXd& a) {
  auto& s = *implementation_;
  pinocchio::computeJointJacobians(s.model, s.data, q);
  s.tree.move(s.model, s.data, v, a, VectorXd::Zero(nv()), Vector6::Zero(), Vector6::Zero());
}

void Evaluator::place_with_mass_matrix(const VectorXd& q, const VectorXd& v, MatrixXd& M) {
  auto& s = *implementation_;
  M = pinocchio::crba(s.model, s.data, Eigen::Ref<const VectorXd>(q), pinocchio::Convention::WORLD);
  move(v);
}

void Evaluator::move(const VectorXd& v) {
  auto& s = *implementation_;
  const auto none = VectorXd::Zero(nv());
  s.tree.move(s.model, s.data, v, none, none, Vector6::Zero(), Vector6::Zero());
}

const Eigen::Matrix<double, 6, Eigen::Dynamic>& Evaluator::axes() const { return implementation_->data.J; }

int Evaluator::last_velocity(int frame) const {
  const auto& model = implementation_->model;
  const auto joint = model.frames[frame].parentJoint;
  return joint > 0 ? model.idx_vs[joint] + model.nvs[joint] - 1 : -1;
}

FrameState Evaluator::frame(int index, bool aligned) const {
  const auto& s = *implementation_;
  const pinocchio::SE3 M = placement(s.model, s.data, index);
  const Body& body = s.tree.bodies[s.model.frames[index].parentJoint];
  FrameState out{M.translation(), M.rotation(), M.actInv(pinocchio::Motion(body.V)).toVector(),
                 M.actInv(pinocchio::Motion(body.A)).toVector()};
  // What moves with the frame's origin, instead of what passes by it.
  out.acceleration.head<3>() += Vector3d(out.velocity.tail<3>()).cross(Vector3d(out.velocity.head<3>()));
  if (aligned) {
    rotate(M.rotation(), out.velocity);
    rotate(M.rotation(), out.acceleration);
  }
  return out;
}

void Evaluator::frame_adjoint(int index, bool aligned, const FrameState& g, VectorXd& g_q, VectorXd& g_v,
                              VectorXd& g_a) const {
  const auto& s = *implementation_;
  const pinocchio::SE3 M = placement(s.model, s.data, index);
  const Matrix3d& R = M.rotation();
  const auto joint = s.model.frames[index].parentJoint;
  const Body& body = s.tree.bodies[joint];
  const FrameState own = frame(index, false);
  Matrix3d by_rotation = g.rotation;
  Vector6 by_velocity = g.velocity, by_acceleration = g.acceleration;
  if (aligned) {
    for (int k : {0, 3}) {
      by_rotation += g.velocity.segment<3>(k) * own.velocity.segment<3>(k).transpose();
      by_rotation += g.acceleration.segment<3>(k) * own.acceleration.segment<3>(k).transpose();
    }
    rotate(R.transpose(), by_velocity);
    rotate(R.transpose(), by_acceleration);
  }
  const Vector3d v = own.velocity.head<3>(), w = own.velocity.tail<3>(), g_origin = by_acceleration.head<3>();
  by_velocity.head<3>() += g_origin.cross(w);
  by_velocity.tail<3>() += v.cross(g_origin);
  Vector6 displaced;
  displaced << g.position, M.translation().cross(g.position) + torque_of(by_rotation, R);
  const Vector6 f_v = M.act(pinocchio::Force(by_velocity)).toVector();
  const Vector6 f_a = M.act(pinocchio::Force(by_acceleration)).toVector();
  for_each_mover(s.model, joint, [&](int i) {
    const Change& c = s.tree.changes[i];
    const Vector6 S_i = s.data.J.col(i);
    g_q[i] += S_i.dot(displaced) + c.w.dot(f_v) + (c.a + cross(c.w, body.V)).dot(f_a);
    g_v[i] += S_i.dot(f_v) + (c.a_of_v + cross(S_i, body.V)).dot(f_a);
    g_a[i] += S_i.dot(f_a);
  });
}

void Evaluator::frame_jacobian(int index, bool aligned, MatrixXd& J) const {
  const auto& s = *implementation_;
  const pinocchio::SE3 M = placement(s.model, s.data, index);
  J.setZero(6, nv());
  for_each_mover(s.model, s.model.frames[index].parentJoint, [&](int i) {
    Vector6 column = M.actInv(pinocchio::Motion(s.data.J.col(i))).toVector();
    if (aligned) rotate(M.rotation(), column);
    J.col(i) = column;
  });
}

// In the world's axes J_i = (S_linear + S_angular x p, S_angular), and <G, J> = sum G_i'S_i with G moved to the origin.
// A displacement along S_k turns the axes S_i that joint k moves, by S_k x S_i, and carries p along.
void Evaluator::frame_jacobian_adjoint(int index, bool aligned, const MatrixXd& G, VectorXd& g_q) const {
  const auto& s = *implementation_;
  const pinocchio::SE3 M = placement(s.model, s.data, index);
  const Vector3d p = M.translation();
  Matrix3d by_rotation = Matrix3d::Zero();
  Vector6 displaced = Vector6::Zero(), turned = Vector6::Zero();
  const auto at_origin = [&](int i) {
    Vector6 g = G.col(i);
    if (!aligned) rotate(M.rotation(), g);
    g.tail<3>() += p.cross(Vector3d(g.head<3>()));
    return g;
  };
  const auto joint = s.model.frames[index].parentJoint;
  for_each_mover(s.model, joint, [&](int i) {
    const Vector6 S_i = s.data.J.col(i);
    const Vector3d g = at_origin(i).head<3>(), angular = S_i.tail<3>();
    displaced.head<3>() += g.cross(angular);
    if (aligned) return;
    const Vector3d linear = S_i.head<3>() + angular.cross(p);
    by_rotation += linear * G.col(i).head<3>().transpose() + angular * G.col(i).tail<3>().transpose();
  });
  displaced.tail<3>() = p.cross(Vector3d(displaced.head<3>())) + torque_of(by_rotation, M.rotation());
  for (auto b = joint; b > 0; b = s.model.parents[b]) {
    const int first = s.model.idx_vs[b], last = first + s.model.nvs[b];
    for (int i = first; i < last; ++i) turned += cross_star(s.data.J.col(i), at_origin(i));
    for (int k = first; k < last; ++k) g_q[k] += s.data.J.col(k).dot(Vector6(displaced + turned));
  }
}

}  // namespace qp_control
