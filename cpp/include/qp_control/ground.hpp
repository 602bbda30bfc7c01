// What robots stand on: the signed distance of a point from it, with first and second derivatives.
#pragma once

#include <Eigen/Core>
#include <memory>
#include <utility>
#include <variant>
#include <vector>

namespace qp_control {

struct GroundPoint {
  double distance;            // negative in the ground
  Eigen::Vector3d normal;     // its gradient: the normal where the ground is nearest
  Eigen::Matrix3d curvature;  // its second derivative, that of the normal by the point
};

// normal'p = height, the normal of length one
struct Plane {
  Eigen::Vector3d normal = Eigen::Vector3d::UnitZ();
  double height = 0.0;
};

// z = h(x, y) through heights over a grid: heights[i columns + j] over origin + (i, j) o spacing.
//
// In each cell h is the bicubic polynomial with slopes by central differences at its corners (Catmull-Rom), so that
// normals are continuous; planes are met exactly. Outside the grid the edge goes on with its slope.
class HeightField {
 public:
  // Throws std::invalid_argument for fewer than 2 x 2 heights, for those that are not finite and for spacings that are
  // not positive.
  HeightField(int rows, int columns, const double* heights, Eigen::Vector2d spacing, Eigen::Vector2d origin);

  struct Surface {
    double height;
    Eigen::Vector2d slope;
    Eigen::Matrix2d curvature;
  };
  Surface at(const Eigen::Vector2d& xy) const;

  // Of the point of the surface next to p that is found from below it; where p is nearer to it than the radii of
  // curvature of its valleys, this is the nearest one.
  GroundPoint nearest(const Eigen::Vector3d& p) const;

 private:
  struct Node {
    double h, h_s, h_t, h_st;  // with s and t in cells
  };
  int rows_, columns_;
  Eigen::Vector2d spacing_, origin_;
  std::shared_ptr<const std::vector<Node>> nodes_;  // of all copies
};

class Ground {
 public:
  Ground() = default;  // z = 0
  // Throws std::invalid_argument for a normal whose length is not one.
  Ground(Plane plane);
  Ground(HeightField field) : surface_(std::move(field)) {}

  GroundPoint at(const Eigen::Vector3d& p) const;

 private:
  std::variant<Plane, HeightField> surface_;
};

}  // namespace qp_control
