#include "contact_step.hpp"

#include <algorithm>
#include <cmath>
#include <pinocchio/multibody.hpp>
#include <pinocchio/spatial/explog.hpp>

namespace qp_control {

using Eigen::Matrix3d;
using Eigen::MatrixXd;
using Eigen::Vector2d;
using Eigen::Vector3d;
using Eigen::VectorXd;

namespace {

enum class Part { impulses, sliding, rows };

constexpr double smallest_slide = 1e-2;  // [m/s], below which the speed of sliding is rounded off

using Matrix6 = Eigen::Matrix<double, 6, 6>;
using Vector6 = Eigen::Matrix<double, 6, 1>;

}  // namespace

Vector3d ContactStep::Floating::linear(const VectorXd& velocity) const {
  return planar ? Vector3d(velocity[v], velocity[v + 1], 0.0) : Vector3d(velocity.segment<3>(v));
}

Vector3d ContactStep::Floating::angular(const VectorXd& velocity) const {
  return planar ? Vector3d(0.0, 0.0, velocity[v + 2]) : Vector3d(velocity.segment<3>(v + 3));
}

void ContactStep::Floating::put(const Matrix6& block, MatrixXd& J) const {
  constexpr int in_plane[] = {0, 1, 5};
  for (int i = 0; i < (planar ? 3 : 6); ++i)
    for (int j = 0; j < (planar ? 3 : 6); ++j) J(v + i, v + j) = planar ? block(in_plane[i], in_plane[j]) : block(i, j);
}

ContactStep::ContactStep(Evaluator& robot, const pinocchio::Model& model, const RigidBodySettings& settings,
                         const ContactSettings& contact)
    : robot_(robot),
      contact_(contact),
      h_(settings.dt / settings.substeps),
      actuated_(settings.actuated),
      nq_(robot.nq()),
      nv_(robot.nv()),
      nu_(static_cast<int>(settings.actuated.size())),
      contacts_(static_cast<int>(contact.balls.size() + contact.pairs.size())),
      limits_(static_cast<int>(contact.limited.size())),
      rows_(contacts_ * contact.directions + limits_ + static_cast<int>(contact.dry.size())),
      touches_(contacts_),
      by_touch_(contacts_),
      before_(robot.velocities_before()),
      factor_(before_) {
  for (int i : contact.limited)
    for (const auto& joint : model.joints)
      if (joint.nv() == 1 && joint.idx_v() == i) {
        limited_q_.push_back(joint.idx_q());
        lower_.push_back(model.lowerPositionLimit[joint.idx_q()]);
        upper_.push_back(model.upperPositionLimit[joint.idx_q()]);
      }
  for (const auto& joint : model.joints)
    if (joint.shortname() == "JointModelFreeFlyer" || joint.shortname() == "JointModelPlanar")
      floating_.push_back({joint.idx_q(), joint.idx_v(), joint.shortname() == "JointModelPlanar"});
  for (int k = 0; k < contact.directions; ++k) {
    const double angle = 2.0 * M_PI * k / contact.directions;
    directions_.emplace_back(std::cos(angle), std::sin(angle));
  }
  for (const ContactBall& ball : contact_.balls) {
    sides_.push_back({1, {ball.frame, -1}});
    grounded_.emplace_back(contact_.ground, ball);
  }
  for (const ContactPair& pair : contact_.pairs) {
    sides_.push_back({2, {pair.first.frame, pair.second.frame}});
    pairs_.emplace_back(pair);
  }
  tau_.setZero(nv_);
  zero_.setZero(nv_);
  for (VectorXd* a : {&b_, &b_slope_}) a->setZero(rows_);
  friction_.setZero(contacts_);
  sliding_.setZero(contacts_);
  sign_.setZero(limits_);
  G_t_.setZero(nv_, rows_);
  for (const Sides& sides : sides_)
    last_velocity_.push_back(
        {robot.last_velocity(sides.frame[0]), sides.count > 1 ? robot.last_velocity(sides.frame[1]) : -1});
  J_q_.setZero(nv_, nv_);
  J_v_.setZero(nv_, nv_);
  turning_.setZero(nv_);
  q_next_.setZero(nq_);
  for (VectorXd* a : {&g_q_, &g_v_, &g_a_}) a->setZero(nv_);
}

double ContactStep::slope(double gap, double stiffness, double damping) const {
  return gap > 0.0 ? 1.0 / h_ : stiffness / (h_ * stiffness + damping);
}

Vector2d ContactStep::across(int contact, const VectorXd& weights) const {
  Vector2d sum = Vector2d::Zero();
  for (int k = 0; k < contact_.directions; ++k) sum += weights[contact * contact_.directions + k] * directions_[k];
  return sum;
}

Vector3d ContactStep::along(int contact, const VectorXd& weights) const {
  const Touch& touch = touches_[contact];
  const Vector2d d = across(contact, weights);
  return weights.segment(contact * contact_.directions, contact_.directions).sum() * touch.normal +
         friction_[contact] * (d.x() * touch.first + d.y() * touch.second);
}

Vector3d ContactStep::touching_velocity(int contact, const FrameState* now) const {
  Vector3d sum = Vector3d::Zero();
  for (int side = 0; side < sides_[contact].count; ++side) {
    const Vector3d turning = now[side].velocity.tail<3>();
    sum += sign(side) * (now[side].velocity.head<3>() + turning.cross(touches_[contact].arm[side]));
  }
  return sum;
}

Vector3d ContactStep::force(int contact, const VectorXd& impulses) const { return along(contact, impulses) / h_; }

void ContactStep::set(const double* x, const double* u, const double* friction) {
  q_ = Eigen::Map<const VectorXd>(x, nq_);
  v_ = Eigen::Map<const VectorXd>(x + nq_, nv_);
  for (int i = 0; i < nu_; ++i) tau_[actuated_[i]] = u[i];
  for (int c = 0; c < contacts_; ++c) friction_[c] = friction[c];
  robot_.inverse_dynamics(q_, v_, zero_, bias_);
  robot_.place_with_mass_matrix(q_, v_, M_);
  factor_.factor(M_);
  // Along the axes that the floating bodies have at the start, in which nothing turns while it moves.
  for (const Floating& f : floating_)
    turning_.segment(f.v, f.planar ? 2 : 3) = f.angular(v_).cross(f.linear(v_)).head(f.planar ? 2 : 3);
  v_free_ = tau_ - bias_;
  factor_.half(v_free_);
  factor_.half_transposed(v_free_);
  v_free_ = v_ + h_ * (v_free_ + turning_);

  G_t_.setZero();
  for (int c = 0; c < contacts_; ++c) {
    const Sides& sides = sides_[c];
    Touch& touch = touches_[c];
    FrameState now[2];
    for (int side = 0; side < sides.count; ++side) now[side] = robot_.frame(sides.frame[side], true);
    touch = sides.count == 1 ? grounded_[c].set(now[0]) : pairs_[c - grounded_.size()].set(now[0], now[1]);
    const double slope = this->slope(touch.gap, contact_.stiffness, contact_.damping);
    const Vector3d v = touching_velocity(c, now);
    sliding_[c] = std::sqrt((v - touch.normal.dot(v) * touch.normal).squaredNorm() + smallest_slide * smallest_slide);
    const double spared = contact_.lift ? 0.0 : friction_[c] * (sliding_[c] - smallest_slide);
    const int row = c * contact_.directions;
    for (int k = 0; k < contact_.directions; ++k) {
      b_slope_[row + k] = slope;
      b_[row + k] = slope * touch.gap + spared;
    }
    for (int side = 0; side < sides.count; ++side) {
      const Vector3d point = now[side].position + touch.arm[side];
      for (int i = last_velocity_[c][side]; i >= 0; i = before_[i]) {
        const auto axis = robot_.axes().col(i);
        const Vector3d moved = sign(side) * (axis.head<3>() + Vector3d(axis.tail<3>()).cross(point));
        const double along = touch.normal.dot(moved);
        const Vector2d across = friction_[c] * Vector2d(touch.first.dot(moved), touch.second.dot(moved));
        for (int k = 0; k < contact_.directions; ++k) G_t_(i, row + k) += along + directions_[k].dot(across);
      }
    }
  }
  for (int i = 0; i < limits_; ++i) {
    const int row = contacts_ * contact_.directions + i;
    const double below = q_[limited_q_[i]] - lower_[i], above = upper_[i] - q_[limited_q_[i]];
    sign_[i] = below < above ? 1.0 : -1.0;
    const double gap = std::min(below, above);
    G_t_(contact_.limited[i], row) = sign_[i];
    b_slope_[row] = slope(gap, contact_.limit_stiffness, contact_.limit_damping);
    b_[row] = b_slope_[row] * gap;
  }
  for (std::size_t i = 0; i < contact_.dry.size(); ++i)
    G_t_(contact_.dry[i], contacts_ * contact_.directions + limits_ + static_cast<int>(i)) = 1.0;
}

void ContactStep::problem(bool with_limits, double* to_H, double* to_g) {
  SG_ = G_t_;
  if (!with_limits) SG_.middleCols(contacts_ * contact_.directions, limits_).setZero();
  factor_.half(SG_);
  factor_.gram(SG_, to_H);
  Eigen::Map<RowMajor> H(to_H, rows_, rows_);
  const double give = 1.0 / (h_ * (h_ * contact_.stiffness + contact_.damping));
  const int n = contact_.directions;
  for (int c = 0; c < contacts_; ++c) {
    H.block(c * n, c * n, n, n).array() += give;
    H.block(c * n, c * n, n, n).diagonal().array() += contact_.slip * give;
  }
  const double limit = 1.0 / (h_ * (h_ * contact_.limit_stiffness + contact_.limit_damping));
  H.diagonal().segment(contacts_ * n, limits_).array() += limit;
  Eigen::Map<VectorXd> g(to_g, rows_);
  g = b_;
  g.noalias() += G_t_.transpose() * v_free_;
}

bool ContactStep::limits_hold(const VectorXd& impulses, double* slacks) {
  accelerate(impulses);
  bool hold = true;
  for (int i = 0; i < limits_; ++i) {
    slacks[i] = sign_[i] * v_next_[contact_.limited[i]] + b_[contacts_ * contact_.directions + i];
    hold = hold && slacks[i] >= 0.0;
  }
  return hold;
}

void ContactStep::accelerate(const VectorXd& impulses) {
  v_next_.noalias() = SG_ * impulses;
  factor_.half_transposed(v_next_);
  v_next_ += v_free_;
}

void ContactStep::move(const VectorXd& impulses) {
  accelerate(impulses);
  w_ = h_ * v_next_;
  robot_.integrate(q_, w_, q_next_);
  for (const Floating& f : floating_) {
    if (f.planar) {
      const double c = q_[f.q + 2], s = q_[f.q + 3];
      q_next_[f.q] = q_[f.q] + h_ * (c * v_next_[f.v] - s * v_next_[f.v + 1]);
      q_next_[f.q + 1] = q_[f.q + 1] + h_ * (s * v_next_[f.v] + c * v_next_[f.v + 1]);
    } else {
      const Eigen::Quaterniond turn(q_[f.q + 6], q_[f.q + 3], q_[f.q + 4], q_[f.q + 5]);
      q_next_.segment<3>(f.q) = q_.segment<3>(f.q) + h_ * (turn * Vector3d(f.linear(v_next_)));
    }
  }
}

void ContactStep::jacobians() {
  J_q_.setIdentity();
  J_v_.setIdentity();
  if (!robot_.vector_space()) robot_.integrate_jacobians(q_, w_, &J_q_, J_v_);
  J_v_ *= h_;
  J_vv_.setIdentity(nv_, nv_);
  for (const Floating& f : floating_) {
    const Vector3d v = f.linear(v_next_), turn = h_ * f.angular(v_next_);
    const Matrix3d back = pinocchio::exp3(turn).transpose();
    Matrix3d J_turn;
    pinocchio::Jexp3(turn, J_turn);
    J_turn *= h_;
    Matrix6 block = Matrix6::Zero();
    block.topLeftCorner<3, 3>() = back;
    block.topRightCorner<3, 3>() = -h_ * back * pinocchio::skew(v);
    block.bottomRightCorner<3, 3>() = back;
    f.put(block, J_q_);
    block.topLeftCorner<3, 3>() = h_ * back;
    block.topRightCorner<3, 3>().setZero();
    block.bottomRightCorner<3, 3>() = J_turn;
    f.put(block, J_v_);
    block.topLeftCorner<3, 3>() = back;
    block.topRightCorner<3, 3>() = pinocchio::skew(Vector3d(back * v)) * J_turn;
    block.bottomRightCorner<3, 3>().setIdentity();
    f.put(block, J_vv_);
  }
}

void ContactStep::step(const VectorXd& impulses, double* x_next) {
  move(impulses);
  Eigen::Map<VectorXd>(x_next, nq_) = q_next_;
  Eigen::Map<VectorXd> velocity(x_next + nq_, nv_);
  velocity = v_next_;
  // Along the axes that the floating bodies have at the end.
  for (const Floating& f : floating_) {
    const Vector3d v = pinocchio::exp3(Vector3d(-h_ * f.angular(v_next_))) * f.linear(v_next_);
    velocity.segment(f.v, f.planar ? 2 : 3) = v.head(f.planar ? 2 : 3);
  }
}

void ContactStep::loss(const VectorXd& impulses, const VectorXd& by_next, VectorXd& loss) {
  move(impulses);
  jacobians();
  by_q_.noalias() = J_q_.transpose() * by_next.head(nv_);
  by_v_.noalias() = J_v_.transpose() * by_next.head(nv_);
  by_v_.noalias() += J_vv_.transpose() * by_next.tail(nv_);
  mu_ = by_v_;
  factor_.half(mu_);
  loss.noalias() = SG_.transpose() * mu_;
}

// With r = h (tau(q, v, (v+ - v) / h - w x v) - S u) - G'lambda = 0 and the rows s = G v+ + b + R lambda, zero where
// lambda is free, the gradient is -m'dr + a'ds, a = by_g and m = M^-1 (by_v + G'a).
void ContactStep::adjoint(const VectorXd& impulses, const VectorXd& by_g, VectorXd& g_z, double* g_p,
                          double* by_friction) {
  mu_.noalias() += SG_ * by_g;
  factor_.half_transposed(mu_);
  a_ = (v_next_ - v_) / h_ - turning_;
  if (g_p != nullptr) {
    w_ = h_ * mu_;
    robot_.parameter_adjoint(q_, v_, a_, w_, g_p);
  }
  robot_.inverse_dynamics_adjoint(q_, v_, a_, mu_, g_q_, g_v_, g_a_);
  VectorXd by_q = by_q_ - h_ * g_q_, ignored = VectorXd::Zero(nv_), unused = ignored;
  // d (lambda' G m + a' (G v+ + b)) / dq; the speeds of sliding in b belong to v.
  VectorXd by_v = g_a_ - h_ * g_v_;
  for (const Floating& f : floating_) {
    const Vector3d g = f.planar ? Vector3d(g_a_[f.v], g_a_[f.v + 1], 0.0) : Vector3d(g_a_.segment<3>(f.v));
    const Vector3d by_linear = h_ * g.cross(f.angular(v_)), by_angular = h_ * f.linear(v_).cross(g);
    if (f.planar) {
      by_v.segment<3>(f.v) += Vector3d(by_linear.x(), by_linear.y(), by_angular.z());
    } else {
      by_v.segment<3>(f.v) += by_linear;
      by_v.segment<3>(f.v + 3) += by_angular;
    }
  }
  std::fill(by_touch_.begin(), by_touch_.end(), TouchGradient());
  for (const Part part : {Part::impulses, Part::sliding, Part::rows}) {
    if (part == Part::sliding && contact_.lift) continue;
    const VectorXd& weights = part == Part::impulses ? impulses : by_g;
    robot_.move(part == Part::impulses ? mu_ : part == Part::rows ? v_next_ : v_);
    for (int c = 0; c < contacts_; ++c) {
      const Touch& touch = touches_[c];
      TouchGradient& by_touch = by_touch_[c];
      const Sides& sides = sides_[c];
      FrameState now[2], g[2];
      for (int side = 0; side < sides.count; ++side) now[side] = robot_.frame(sides.frame[side], true);
      const Vector3d touching = touching_velocity(c, now);
      const double sum = by_g.segment(c * contact_.directions, contact_.directions).sum();
      Vector3d f;
      if (part == Part::sliding) {
        const double off = touch.normal.dot(touching), scale = sum * friction_[c] / sliding_[c];
        f = scale * (touching - off * touch.normal);
        by_touch.normal -= scale * off * touching;
        if (by_friction != nullptr) by_friction[c] += sum * (sliding_[c] - smallest_slide);
      } else {
        const Vector2d d = across(c, weights);
        f = along(c, weights);
        by_touch.normal += weights.segment(c * contact_.directions, contact_.directions).sum() * touching;
        by_touch.first += friction_[c] * d.x() * touching;
        by_touch.second += friction_[c] * d.y() * touching;
        if (by_friction != nullptr) by_friction[c] += (d.x() * touch.first + d.y() * touch.second).dot(touching);
      }
      for (int side = 0; side < sides.count; ++side) {
        const Vector3d on_side = sign(side) * f, turning = now[side].velocity.tail<3>();
        by_touch.arm[side] += on_side.cross(turning);
        g[side] = {Vector3d::Zero(), Matrix3d::Zero(), Vector6::Zero(), Vector6::Zero()};
        g[side].velocity << on_side, touch.arm[side].cross(on_side);
      }
      if (part == Part::rows) {
        by_touch.gap = b_slope_[c * contact_.directions] * sum;
        PoseGradient by_pose[2];
        if (sides.count == 1)
          by_pose[0] = grounded_[c].adjoint(now[0], by_touch);
        else
          pairs_[c - grounded_.size()].adjoint(now[0], now[1], by_touch, by_pose[0], by_pose[1]);
        for (int side = 0; side < sides.count; ++side) {
          g[side].position = by_pose[side].position;
          g[side].rotation = 0.5 * pinocchio::skew(by_pose[side].torque) * now[side].rotation;
        }
      }
      for (int side = 0; side < sides.count; ++side)
        robot_.frame_adjoint(sides.frame[side], true, g[side], by_q, part == Part::sliding ? by_v : ignored, unused);
    }
  }
  for (int i = 0; i < limits_; ++i) {
    const int row = contacts_ * contact_.directions + i;
    by_q[contact_.limited[i]] += by_g[row] * b_slope_[row] * sign_[i];
  }
  g_z.setZero(2 * nv_ + nu_);
  g_z.head(nv_) = by_q;
  g_z.segment(nv_, nv_) = by_v;
  for (int i = 0; i < nu_; ++i) g_z[2 * nv_ + i] = h_ * mu_[actuated_[i]];
}

}  // namespace qp_control
