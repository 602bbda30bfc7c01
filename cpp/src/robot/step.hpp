// One control period of a robot: x_next = step(x, u), its tangent and its adjoint.
#pragma once

#include <Eigen/Core>
#include <vector>

#include "configuration_group.hpp"
#include "evaluator.hpp"
#include "qp_control/rigid_body.hpp"

namespace qp_control {

// An explicit integrator on the configuration manifold, as a list of nodes. Node 0 is the state at the start, the last
// node the state at the end, and nodes 0 .. stages-1 have an acceleration a_j = a(q_j, v_j, u):
//   v_n = v_0 + h sum_j acceleration_j a_j
//   q_n = q_from (+) h sum_j velocity_j v_j       (j = n allowed: the new velocity)
struct Scheme {
  struct Node {
    int from;
    std::vector<double> velocity;
    std::vector<double> acceleration;
  };
  int stages;
  std::vector<Node> nodes;  // without node 0
};

// rk4 is the classical method on vector spaces and, on other manifolds, the commutator-free method of order four of
// Celledoni, Marthinsen and Owren (2003), which is the classical one in the flat case.
Scheme make_scheme(Integrator integrator, bool vector_space);

class StepMap {
 public:
  StepMap(Evaluator& robot, const RigidBodySettings& settings);

  // From now on the methods below take and give errors (2 nv) from the references `now` and `next` (nq + nv) instead of
  // states, and derivatives are by errors; null: states again.
  void between(const double* now, const double* next);

  void value(const double* x, const double* u, double* x_next);
  // A (2 nv x 2 nv), B (2 nv x nu), P (2 nv x n_par), row-major; P may be null
  void tangent(const double* x, const double* u, double* x_next, double* A, double* B, double* P);
  // The step for `adjoint`; x_next may be null
  void record(const double* x, const double* u, double* x_next);
  // g_z = [A B]' lambda for lambda (2 nv) in the tangent space at x_next; g_p += P' lambda unless null
  void adjoint(const Eigen::VectorXd& lambda, Eigen::VectorXd& g_z, double* g_p);
  // The same by the references' tangents (2 nv), after `adjoint`
  void reference_adjoint(const double* x, const Eigen::VectorXd& lambda, Eigen::VectorXd& g_now,
                         Eigen::VectorXd& g_next);
  // out = H B (2 nv + nu rows), H the second derivatives of lambda' x_next by (x, u); with the one column of B,
  // g_p += the change of P' lambda along it unless null. again: the last call was at the same x and u.
  void curvature(const double* x, const double* u, const Eigen::VectorXd& lambda, const Eigen::MatrixXd& B,
                 Eigen::MatrixXd& out, double* g_p, bool again);
  // The change of the references' gradients (2 nv) along the one column of B, after `curvature`
  void reference_curvature(const double* x, const Eigen::MatrixXd& B, Eigen::VectorXd& g_now, Eigen::VectorXd& g_next);

 private:
  struct Node {
    Eigen::VectorXd q, v, w, a;          // w: the step that led to q
    Eigen::MatrixXd a_q, a_v, a_tau;     // derivatives of a
    Eigen::MatrixXd J_q, J_w;            // of q_from (+) w
    Eigen::MatrixXd D_q, D_v, D_w, D_a;  // tangent: derivatives of q, v, w, a w.r.t. (x, u, p)
    Eigen::VectorXd l_q, l_v, l_a;       // adjoint: derivatives of the result w.r.t. q, v, a
    Eigen::MatrixXd L_q, L_v, L_a;       // their changes along the directions of the tangent
  };

  struct Moment {
    Eigen::VectorXd q, v, w, a;
  };

  void start(const double* x, const double* u, bool derivatives);
  void evaluate(bool derivatives);      // all nodes of one integrator step from node 0
  void start_tangents(int parameters);  // those of node 0 at the start
  // Of all nodes from node 0; B: along its columns instead of by (x, u, p)
  void tangents(int parameters, const Eigen::MatrixXd* B = nullptr);
  void advance();               // the last node becomes node 0
  void finish(double* x_next);  // node 0 in the coordinates asked for
  void restore(int k);          // all nodes of the recorded integrator step k
  // The adjoint of what was recorded; or, where B is given, from node 0 on, the adjoint and its change H along the
  // columns of B. Neither includes the coordinates of the start. evaluated: the nodes and their derivatives are known,
  // of the one integrator step that there is.
  void pull_back(const Eigen::VectorXd& lambda, Eigen::VectorXd& g_z, double* g_p, const Eigen::MatrixXd* B,
                 Eigen::MatrixXd* H, bool evaluated);
  // The node's part in that change: of l_a' a, and of l_q' (q_from (+) w).
  void change_acceleration(Node& node, double* g_p, Eigen::MatrixXd& H);
  void change_displacement(Node& from, Node& node);

  Evaluator& robot_;
  const Scheme scheme_;
  const double h_;
  const int substeps_;
  const std::vector<int> actuated_;
  const int nq_, nv_, nu_;
  std::vector<Node> nodes_;
  bool charts_ = false;
  Eigen::VectorXd q_now_, v_now_, q_next_, v_next_;  // their references
  Eigen::MatrixXd J_now_, J_next_;                   // of now (+) xi by xi, of x_next (-) next by x_next
  Eigen::VectorXd q_end_, l_end_;                    // at the end of the adjoint's step
  Eigen::MatrixXd D_end_;
  Eigen::MatrixXd J_reference_;
  Eigen::VectorXd tau_, w_, gradient_, by_q_, by_v_;
  Eigen::MatrixXd a_p_;
  std::vector<std::vector<Moment>> tape_;  // the nodes of every integrator step
  Eigen::MatrixXd starts_;                 // state at the start of every integrator step, one per column
  std::vector<Eigen::MatrixXd> D_starts_;  // and its tangents, D_q above D_v
  ConfigurationGroup group_;
  InverseDynamicsHessian second_;
  Eigen::MatrixXd moved_, turned_, torques_, change_, N_;
  Eigen::VectorXd w_change_;
};

}  // namespace qp_control
