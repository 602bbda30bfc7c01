// Friction and normal forces, distances and bounds of accelerations: rows and their gradients.
#include <Eigen/Geometry>
#include <cmath>
#include <limits>

#include "whole_body_rows.hpp"

namespace qp_control {

using Eigen::Vector3d;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double none = std::numeric_limits<double>::quiet_NaN();
constexpr double no_limit = 1e20;  // joints without limits have the largest numbers there are
constexpr double tiny = 1e-18;     // [m^2]: the distance of points that coincide has a derivative

// [m or m/rad]: a joint that moves a distance by less has no influence on it. Where an arm is stretched, what rounding
// leaves of these slopes would else ask for accelerations without end.
constexpr double out_of_reach = 1e-9;

// The largest acceleration of a joint that has `left` before it and the velocity v, and its derivatives; the rule
// stands at JointPositionLimit in qp_control/inverse_dynamics/limits.py.
struct Slope {
  double value = infinity, left = 0.0, v = 0.0, a = 0.0;
};

Slope upper_position(double left, double v, double a, double dt, double return_time) {
  if (!(left < no_limit)) return {};
  Slope s;
  if (left >= 0.5 * dt * v) {
    const double root = std::sqrt(a * a * dt * dt - 4.0 * a * dt * v + 8.0 * a * left);
    s.value = (root - 2.0 * v - a * dt) / (2.0 * dt);
    s.left = 2.0 * a / (root * dt);
    s.v = -a / root - 1.0 / dt;
    s.a = (a * dt * dt - 2.0 * dt * v + 4.0 * left) / (2.0 * dt * root) - 0.5;
  } else {
    s.value = -v / dt + std::min(left, 0.0) / (return_time * dt);
    s.left = left < 0.0 ? 1.0 / (return_time * dt) : 0.0;
    s.v = -1.0 / dt;
  }
  if (s.value < -a) s = {-a, 0.0, 0.0, -1.0};
  return s;
}

// Both bounds of a joint; derivatives by its `left` before that bound, by +-v and by the numbers they depend on.
struct Bounds {
  Slope lower, upper;
};

}  // namespace

void WholeBodyRows::forces(const Support& support, int row, WholeBodyMatrices& out) const {
  const double mu = numbers_[support.friction] * std::cos(M_PI / double(support.directions.size()));
  int column = support.first;
  const int points = static_cast<int>(support.points.size());
  const int total = row + points * static_cast<int>(support.directions.size());
  for (int p = 0; p < points; ++p, column += 3) {
    for (const Vector3d& d : support.directions) {
      out.C.row(row).segment<3>(column) = (d - mu * support.normal).transpose();
      out.l[row] = -infinity;
      out.u[row++] = 0.0;
    }
    out.C.row(total).segment<3>(column) = support.normal.transpose();
  }
  out.l[total] = numbers_[support.activation] * numbers_[support.min_force];
  out.u[total] = numbers_[support.activation] * numbers_[support.max_force];
}

void WholeBodyRows::forces_adjoint(const Support& support, int row, const WholeBodyMatrices& by) {
  const double share = std::cos(M_PI / double(support.directions.size()));
  int column = support.first;
  for (std::size_t p = 0; p < support.points.size(); ++p, column += 3)
    for (std::size_t k = 0; k < support.directions.size(); ++k, ++row)
      by_numbers_[support.friction] -= share * by.C.row(row).segment<3>(column).dot(support.normal);
  by_numbers_[support.activation] += by.l[row] * numbers_[support.min_force] + by.u[row] * numbers_[support.max_force];
  by_numbers_[support.min_force] += by.l[row] * numbers_[support.activation];
  by_numbers_[support.max_force] += by.u[row] * numbers_[support.activation];
}

void WholeBodyRows::barrier(const Barrier& barrier, int row, WholeBodyMatrices& out) {
  const Frame &a = frame(barrier.other), &b = frame(barrier.frame);
  Vector3d r = b.at.position - a.at.position, along = barrier.normal;
  const Vector3d v = (b.at.velocity - a.at.velocity).head<3>(),
                 acceleration = (b.at.acceleration - a.at.acceleration).head<3>();
  double h = along.dot(r), drift = 0.0;
  if (barrier.kind != BarrierKind::plane) {
    if (barrier.kind == BarrierKind::sphere) r -= numbers(barrier.centre, 3);
    h = std::sqrt(r.squaredNorm() + tiny);
    along = r / h;
    drift = (v.squaredNorm() - std::pow(along.dot(v), 2)) / h;
  }
  drift += along.dot(acceleration);
  for (int i = 0; i < nv_; ++i) {
    const double slope = along.dot(b.J.col(i).head<3>() - a.J.col(i).head<3>());
    out.C(row, i) = std::abs(slope) < out_of_reach ? 0.0 : slope;
  }
  const double least = -drift - numbers_[barrier.damping] * along.dot(v) -
                       numbers_[barrier.stiffness] * (h - numbers_[barrier.distance]);
  out.l[row] = std::isfinite(least) ? least : none;
  out.u[row] = infinity;
}

void WholeBodyRows::barrier_adjoint(const Barrier& barrier, int row, const WholeBodyMatrices& by) {
  Frame &a = frame(barrier.other), &b = frame(barrier.frame);
  Vector3d r = b.at.position - a.at.position, along = barrier.normal;
  const Vector3d v = (b.at.velocity - a.at.velocity).head<3>(),
                 acceleration = (b.at.acceleration - a.at.acceleration).head<3>();
  const bool plane = barrier.kind == BarrierKind::plane;
  double h = along.dot(r);
  if (!plane) {
    if (barrier.kind == BarrierKind::sphere) r -= numbers(barrier.centre, 3);
    h = std::sqrt(r.squaredNorm() + tiny);
    along = r / h;
  }
  const double g = -by.l[row], speed = along.dot(v);
  const double damping = numbers_[barrier.damping], stiffness = numbers_[barrier.stiffness];
  by_numbers_[barrier.damping] += g * speed;
  by_numbers_[barrier.stiffness] += g * (h - numbers_[barrier.distance]);
  by_numbers_[barrier.distance] -= g * stiffness;
  const Eigen::RowVectorXd by_row = by.C.row(row).head(nv_);
  const Eigen::Matrix3Xd J = b.J.topRows<3>() - a.J.topRows<3>();
  Vector3d by_along = J * by_row.transpose() + g * (acceleration + damping * v);
  Vector3d by_v = g * damping * along, by_r = g * stiffness * along;
  if (!plane) {
    // drift has (v'v - (along'v)^2) / h
    by_v += g * 2.0 / h * (v - speed * along);
    by_along -= g * 2.0 * speed / h * v;
    by_r -= g * (v.squaredNorm() - speed * speed) / (h * h) * along;
    by_r += (by_along - by_along.dot(along) * along) / h;
    if (barrier.kind == BarrierKind::sphere) by_numbers(barrier.centre, 3) -= by_r;
  }
  const Eigen::Matrix3Xd by_J = along * by_row;
  for (const bool other : {false, true}) {
    const double sign = other ? -1.0 : 1.0;
    Frame& f = other ? a : b;
    f.by.position += sign * by_r;
    f.by.velocity.head<3>() += sign * by_v;
    f.by.acceleration.head<3>() += sign * g * along;
    f.by_J.topRows<3>() += sign * by_J;
  }
}

namespace {

// NaN where the numbers of the limit make no sense: the QP is then invalid input, and not one without the limit.
Bounds bounds_of(const JointBounds& b, int k, double q, double v, const double* numbers) {
  const double a = numbers[b.acceleration + k];
  const Bounds invalid{{none}, {none}};
  if (!(a >= 0.0)) return invalid;
  if (b.kind == BoundKind::position) {
    const double lower = numbers[b.lower + k], upper = numbers[b.upper + k];
    if (!(a > 0.0 && std::isfinite(a)) || std::isnan(lower) || std::isnan(upper)) return invalid;
    Bounds out{upper_position(q - lower, -v, a, b.dt, b.return_time),
               upper_position(upper - q, v, a, b.dt, b.return_time)};
    out.lower.value = -out.lower.value;
    return out;
  }
  if (b.kind == BoundKind::acceleration) return {{-a, 0.0, 0.0, 1.0}, {a, 0.0, 0.0, 1.0}};
  // `left` is then the largest velocity.
  const double most = numbers[b.velocity + k];
  if (!(most >= 0.0)) return invalid;
  Bounds out;
  out.upper =
      (most - v) / b.dt < -a ? Slope{-a, 0.0, 0.0, -1.0} : Slope{(most - v) / b.dt, 1.0 / b.dt, -1.0 / b.dt, 0.0};
  out.lower =
      (most + v) / b.dt < -a ? Slope{-a, 0.0, 0.0, -1.0} : Slope{(most + v) / b.dt, 1.0 / b.dt, -1.0 / b.dt, 0.0};
  out.lower.value = -out.lower.value;
  return out;
}

}  // namespace

void WholeBodyRows::bounds(const JointBounds& b, WholeBodyMatrices& out) const {
  for (std::size_t k = 0; k < b.v.size(); ++k) {
    const int i = b.v[k];
    const Bounds found = bounds_of(b, static_cast<int>(k), q_[b.q[k]], v_[i], numbers_);
    const double lower = found.lower.value, upper = found.upper.value;
    if (lower > out.lb[i] || std::isnan(lower)) out.lb[i] = lower;
    if (upper < out.ub[i] || std::isnan(upper)) out.ub[i] = upper;
  }
}

// Bounds are the narrowest of several: the gradient belongs to the first that has their value.
void WholeBodyRows::bounds_adjoint(const JointBounds& b, const WholeBodyMatrices& by) {
  for (std::size_t k = 0; k < b.v.size(); ++k) {
    const int i = b.v[k], number = static_cast<int>(k);
    const Bounds found = bounds_of(b, number, q_[b.q[k]], v_[i], numbers_);
    double narrowest_lower = -infinity, narrowest_upper = infinity;
    const JointBounds *owner_lower = nullptr, *owner_upper = nullptr;
    for (const JointBounds& other : settings_.bounds)
      for (std::size_t m = 0; m < other.v.size(); ++m) {
        if (other.v[m] != i) continue;
        const Bounds its = bounds_of(other, static_cast<int>(m), q_[other.q[m]], v_[i], numbers_);
        if (its.lower.value > narrowest_lower) {
          narrowest_lower = its.lower.value;
          owner_lower = &other;
        }
        if (its.upper.value < narrowest_upper) {
          narrowest_upper = its.upper.value;
          owner_upper = &other;
        }
      }
    const double lower = owner_lower == &b ? -by.lb[i] : 0.0, upper = owner_upper == &b ? by.ub[i] : 0.0;
    by_v_[i] += upper * found.upper.v - lower * found.lower.v;
    by_numbers_[b.acceleration + number] += upper * found.upper.a + lower * found.lower.a;
    if (b.kind == BoundKind::position) {
      by_q_[i] += lower * found.lower.left - upper * found.upper.left;
      by_numbers_[b.lower + number] -= lower * found.lower.left;
      by_numbers_[b.upper + number] += upper * found.upper.left;
    } else if (b.kind == BoundKind::velocity) {
      by_numbers_[b.velocity + number] += upper * found.upper.left + lower * found.lower.left;
    }
  }
}

}  // namespace qp_control
