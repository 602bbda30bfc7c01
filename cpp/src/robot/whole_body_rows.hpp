// The QP of one robot, and its gradient. Names of gradients begin with by_.
#pragma once

#include <Eigen/Core>
#include <vector>

#include "evaluator.hpp"
#include "qp_control/whole_body.hpp"

namespace qp_control {

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Of one robot; as WholeBodyProblem.
struct WholeBodyMatrices {
  RowMajor H, A, C, T;
  Eigen::VectorXd g, b, l, u, lb, ub, t;

  void resize(WholeBodySizes sizes, int nu);
};

class WholeBodyRows {
 public:
  WholeBodyRows(Evaluator& robot, const WholeBodySettings& settings);

  WholeBodySizes sizes() const { return sizes_; }
  int nu() const { return static_cast<int>(settings_.actuated.size()); }

  // With the costs of one level alone, or of all (0).
  void problem(const double* q, const double* v, const double* numbers, WholeBodyMatrices& out, int level = 0);
  // After `problem`, which has left this T: H and g of another level.
  void cost(int level, const RowMajor& T, RowMajor& H, Eigen::VectorXd& g);
  // After `problem`: J x + c of all rows of terms, one after the other, and the errors of position of what follows one.
  void residuals(const Eigen::VectorXd& x, double* residual, double* error) const;
  int term_rows() const;
  // After `problem` with the same state: gradients by q (tangent), v and the numbers, and by the parameters, which are
  // added (null: not wanted).
  void adjoint(const WholeBodyMatrices& by, double* by_parameters);
  const Eigen::VectorXd& by_q() const { return by_q_; }
  const Eigen::VectorXd& by_v() const { return by_v_; }
  const Eigen::VectorXd& by_numbers() const { return by_numbers_; }

 private:
  // A frame that parts use, with its Jacobian in the world's axes, and the gradients by these.
  struct Frame {
    int index;
    FrameState at, by;
    Eigen::MatrixXd J, by_J;
  };
  struct Residual {
    Eigen::MatrixXd J;                  // by qdd; those of selections, postures and torques are not written out
    Eigen::VectorXd c, error, missing;  // those of position and velocity, of tasks that follow something
  };

  Frame& frame(int index);
  void dynamics();
  void residual(const Term& term, Residual& out);
  void frame_residual(const Term& term, Residual& out);
  void add_cost(const Term& term, const Residual& r, const RowMajor& T, RowMajor& H, Eigen::VectorXd& g);
  void add_constraint(const Term& term, const Residual& r, int row, WholeBodyMatrices& out) const;
  void forces(const Support& support, int row, WholeBodyMatrices& out) const;
  void barrier(const Barrier& barrier, int row, WholeBodyMatrices& out);
  void bounds(const JointBounds& bounds, WholeBodyMatrices& out) const;

  // Leave the gradients by the residual in by_J_ and by_c_.
  void cost_adjoint(const Term& term, const Residual& r, const WholeBodyMatrices& by);
  void constraint_adjoint(const Term& term, int row, const WholeBodyMatrices& by);
  void residual_adjoint(const Term& term, const Residual& r);
  void frame_residual_adjoint(const Term& term, const Residual& r);
  void dynamics_adjoint(double* by_parameters);
  void forces_adjoint(const Support& support, int row, const WholeBodyMatrices& by);
  void barrier_adjoint(const Barrier& barrier, int row, const WholeBodyMatrices& by);
  void bounds_adjoint(const JointBounds& bounds, const WholeBodyMatrices& by);

  double weight(const Term& term, int r) const;
  void add_weight(const Term& term, int r, double by_weight);
  Eigen::Map<const Eigen::VectorXd> numbers(int offset, int size) const { return {numbers_ + offset, size}; }
  Eigen::Map<Eigen::VectorXd> by_numbers(int offset, int size) { return {by_numbers_.data() + offset, size}; }

  Evaluator& robot_;
  const WholeBodySettings& settings_;
  const int nq_, nv_;
  WholeBodySizes sizes_;
  std::vector<int> undriven_;
  bool uses_centroid_ = false;

  const double* numbers_ = nullptr;
  Eigen::VectorXd q_, v_, zero_;
  std::vector<Frame> frames_;
  Centroid centroid_;
  double mass_ = 0.0;
  Eigen::MatrixXd M_, A_G_, D_;  // A_G: momentum about the centre of mass by v
  Eigen::VectorXd h_;
  std::vector<Residual> residuals_;
  // Room for what `problem` works out
  Eigen::VectorXd reference_, difference_;
  Eigen::MatrixXd weighted_;
  Eigen::Matrix<double, 6, Eigen::Dynamic> frame_J_;

  Eigen::VectorXd by_numbers_, by_q_, by_v_, by_a_, by_h_, by_c_;
  Eigen::MatrixXd by_H_, by_D_, by_A_G_, by_J_;  // the first one plus its transpose
  Centroid by_centroid_;
  double by_mass_ = 0.0;
};

}  // namespace qp_control
