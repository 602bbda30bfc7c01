#include "qp_control/ground.hpp"

#include <Eigen/LU>
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace qp_control {

using Eigen::Matrix2d;
using Eigen::Matrix3d;
using Eigen::Vector2d;
using Eigen::Vector3d;

namespace {

constexpr int max_steps = 50;
constexpr double last_step = 1e-10;  // [m] of Newton's method, whose error after it is of the order of its square

// Cubic polynomials of s in [0, 1] for value and slope at 0 and at 1, with two derivatives; linear beyond.
struct Basis {
  double w[4], w_s[4], w_ss[4];
  explicit Basis(double at) {
    const double s = std::clamp(at, 0.0, 1.0), beyond = at - s;
    const double value[] = {(2 * s - 3) * s * s + 1, ((s - 2) * s + 1) * s, (3 - 2 * s) * s * s, (s - 1) * s * s};
    const double slope[] = {6 * (s - 1) * s, (3 * s - 4) * s + 1, 6 * (1 - s) * s, (3 * s - 2) * s};
    const double curvature[] = {12 * s - 6, 6 * s - 4, 6 - 12 * s, 6 * s - 2};
    for (int k = 0; k < 4; ++k) {
      w[k] = value[k] + beyond * slope[k];
      w_s[k] = slope[k];
      w_ss[k] = beyond == 0.0 ? curvature[k] : 0.0;
    }
  }
};

}  // namespace

HeightField::HeightField(int rows, int columns, const double* heights, Vector2d spacing, Vector2d origin)
    : rows_(rows), columns_(columns), spacing_(spacing), origin_(origin) {
  if (rows < 2 || columns < 2)
    throw std::invalid_argument("heights are " + std::to_string(rows) + " x " + std::to_string(columns) +
                                ", expected at least 2 x 2");
  for (double d : {spacing.x(), spacing.y()})
    if (!(d > 0.0) || !std::isfinite(d))
      throw std::invalid_argument("spacing is " + std::to_string(d) + ", expected a positive number [m]");
  if (!origin.allFinite()) throw std::invalid_argument("origin is not finite");
  const auto at = [&](int i, int j) { return heights[std::size_t(i) * columns + j]; };
  std::vector<Node> nodes(std::size_t(rows) * columns);
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) {
      if (!std::isfinite(at(i, j)))
        throw std::invalid_argument("heights has the entry " + std::to_string(at(i, j)) + " at (" + std::to_string(i) +
                                    ", " + std::to_string(j) + "), expected finite numbers");
      const int left = std::max(i - 1, 0), right = std::min(i + 1, rows - 1);
      const int before = std::max(j - 1, 0), after = std::min(j + 1, columns - 1);
      const double wide = right - left, deep = after - before;
      nodes[std::size_t(i) * columns + j] = {
          at(i, j), (at(right, j) - at(left, j)) / wide, (at(i, after) - at(i, before)) / deep,
          (at(right, after) - at(right, before) - at(left, after) + at(left, before)) / (wide * deep)};
    }
  nodes_ = std::make_shared<const std::vector<Node>>(std::move(nodes));
}

HeightField::Surface HeightField::at(const Vector2d& xy) const {
  const Vector2d cell = (xy - origin_).cwiseQuotient(spacing_);
  const double i = std::clamp(std::floor(cell.x()), 0.0, rows_ - 2.0);
  const double j = std::clamp(std::floor(cell.y()), 0.0, columns_ - 2.0);
  const Basis s(cell.x() - i), t(cell.y() - j);
  double h = 0.0, h_s = 0.0, h_t = 0.0, h_ss = 0.0, h_st = 0.0, h_tt = 0.0;
  for (int a = 0; a < 2; ++a)
    for (int b = 0; b < 2; ++b) {
      const Node& n = (*nodes_)[(std::size_t(i) + a) * columns_ + std::size_t(j) + b];
      const double values[2][2] = {{n.h, n.h_t}, {n.h_s, n.h_st}};
      for (int k = 0; k < 2; ++k)
        for (int l = 0; l < 2; ++l) {
          const int p = 2 * a + k, q = 2 * b + l;
          const double value = values[k][l];
          h += value * s.w[p] * t.w[q];
          h_s += value * s.w_s[p] * t.w[q];
          h_t += value * s.w[p] * t.w_s[q];
          h_ss += value * s.w_ss[p] * t.w[q];
          h_st += value * s.w_s[p] * t.w_s[q];
          h_tt += value * s.w[p] * t.w_ss[q];
        }
    }
  Surface out{h, Vector2d(h_s, h_t).cwiseQuotient(spacing_), Matrix2d()};
  const double across = h_st / (spacing_.x() * spacing_.y());
  out.curvature << h_ss / (spacing_.x() * spacing_.x()), across, across, h_tt / (spacing_.y() * spacing_.y());
  return out;
}

// Minimises |p - (s, h(s))|^2 / 2, whose gradient is s - p_xy + (h - p_z) grad h.
GroundPoint HeightField::nearest(const Vector3d& p) const {
  const auto objective = [&](const Vector2d& s, const Surface& at) {
    return 0.5 * ((s - p.head<2>()).squaredNorm() + (at.height - p.z()) * (at.height - p.z()));
  };
  // Its Hessian, without the part that may be negative where that makes it so: beyond centres of curvature.
  const auto hessian = [&](const Surface& at) {
    const Matrix2d safe = Matrix2d::Identity() + at.slope * at.slope.transpose();
    const Matrix2d full = safe + (at.height - p.z()) * at.curvature;
    return full.trace() > 0.0 && full.determinant() > 1e-3 * safe.determinant() ? full : safe;
  };
  Vector2d s = p.head<2>();
  Surface at = this->at(s);
  for (int i = 0; i < max_steps; ++i) {
    const Vector2d g = s - p.head<2>() + (at.height - p.z()) * at.slope;
    Vector2d step = -hessian(at).inverse() * g;
    const bool last = step.norm() <= last_step * (1.0 + p.norm());
    const double now = objective(s, at);
    Surface next = this->at(s + step);
    while (!last && objective(s + step, next) > now * (1.0 + 1e-12) && step.norm() > last_step) {
      step *= 0.5;
      next = this->at(s + step);
    }
    s += step;
    at = next;
    if (last) break;
  }
  const Vector3d m(-at.slope.x(), -at.slope.y(), 1.0);
  GroundPoint out;
  out.normal = m.normalized();
  out.distance = out.normal.dot(p - Vector3d(s.x(), s.y(), at.height));
  Eigen::Matrix<double, 2, 3> moved;  // of s by p
  moved << Matrix2d::Identity(), at.slope;
  Matrix3d turned = Matrix3d::Zero();
  turned.topRows<2>() = -at.curvature * hessian(at).inverse() * moved;
  out.curvature = (Matrix3d::Identity() - out.normal * out.normal.transpose()) * turned / m.norm();
  return out;
}

Ground::Ground(Plane plane) : surface_(plane) {
  const double length = plane.normal.norm();
  if (!(std::abs(length - 1.0) < 1e-9))
    throw std::invalid_argument("the ground's normal has length " + std::to_string(length) + ", expected 1");
  if (!std::isfinite(plane.height)) throw std::invalid_argument("the ground's height is not finite");
}

GroundPoint Ground::at(const Vector3d& p) const {
  if (const auto* field = std::get_if<HeightField>(&surface_)) return field->nearest(p);
  const Plane& plane = std::get<Plane>(surface_);
  return {plane.normal.dot(p) - plane.height, plane.normal, Matrix3d::Zero()};
}

}  // namespace qp_control
