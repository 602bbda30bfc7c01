// The levels of a strict hierarchy below the first, tick by tick and each from the active set that it had in the tick
// before; in batches qp_control/inverse_dynamics/hierarchy.py does the same. The step of a level has coordinates in a
// basis of what no level above sees, so that its QP is the smaller the lower it stands, and has one solution where its
// tasks see all that is left.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "qp_control/lower_level.hpp"
#include "qp_point.hpp"

namespace qp_control {

class LowerLevels {
 public:
  // count: of levels; n: size of x; rows: of C.
  LowerLevels(int count, int n, int rows, const DenseQpMaker& solver);

  // Forgets the ticks before.
  void reset();
  // Moves x, the solution of the first level, on to that of all. A, H: of the equalities and the first level; rows: C
  // and the bounds as the first level has left them. cost(k, H, g): those of level k below the first.
  Status solve(const RowMajorMatrix& A, const Level& first,
               const std::function<void(int, RowMajorMatrix&, Eigen::VectorXd&)>& cost, Eigen::VectorXd& x,
               int& iterations);

 private:
  struct One {
    LowerLevel level;
    std::unique_ptr<DenseQps> qps;  // for points of this size
    QpPoint point;
    Eigen::VectorXd multipliers, active;  // of the tick before
    RowMajorMatrix H;
    Eigen::VectorXd g;
  };

  Status solve(One& level, int& iterations);

  const int n_, rows_;
  const DenseQpMaker& solver_;
  const Freedom all_;
  std::vector<One> levels_;
  std::vector<Eigen::Ref<const RowMajorMatrix>> above_;
  RowMajorMatrix AA_;
  Eigen::VectorXd change_;
};

}  // namespace qp_control
