// The levels of a strict hierarchy below the first, tick by tick: the same as
// qp_control/inverse_dynamics/lower_levels.py.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "qp_control/dense_solver.hpp"
#include "qp_control/lower_level.hpp"

namespace qp_control {

class LowerLevels {
 public:
  // count: of levels; n: size of x; rows: of C.
  LowerLevels(int count, int n, int rows, const Settings& settings);

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
    DenseDims dims{-1, 0, 0};
    std::unique_ptr<DenseSolver> solver;  // for these sizes
    std::unique_ptr<Solution> solution;
    Eigen::VectorXd multipliers, active;  // of the tick before
    RowMajorMatrix H;
    Eigen::VectorXd g;
  };

  Status solve(One& level, int& iterations);

  const int n_, rows_;
  const Settings settings_;
  const Freedom all_;
  std::vector<One> levels_;
  std::vector<Eigen::Ref<const RowMajorMatrix>> above_;
  RowMajorMatrix AA_;
  Eigen::VectorXd change_;
};

}  // namespace qp_control
