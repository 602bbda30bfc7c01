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
  // Second derivatives of lambda' x_next by (x, u), symmetric up to rounding
  void hessian(const double* x, const double* u, const Eigen::VectorXd& lambda, Eigen::MatrixXd& H);

 private:
  struct Node {
    Eigen::VectorXd q, v, w, a;          // w: the step that led to q
    Eigen::MatrixXd a_q, a_v, a_tau;     // derivatives of a
    Eigen::MatrixXd J_q, J_w;            // of q_from (+) w
    Eigen::MatrixXd D_q, D_v, D_w, D_a;  // tangent: derivatives of q, v, w, a w.r.t. (x, u, p)
    Eigen::VectorXd l_q, l_v, l_a;       // adjoint: derivatives of the result w.r.t. q, v, a
  };

  struct Moment {
    Eigen::VectorXd q, v, w, a;
  };

  void start(const double* x, const double* u, bool derivatives);
  void evaluate(bool derivatives);        // all nodes of one integrator step from node 0
  void start_tangents(int parameters);    // those of node 0 at the start
  void tangents(int parameters);          // of all nodes from node 0
  void advance();                         // the last node becomes node 0
  void finish(double* x_next);            // node 0 in the coordinates asked for
  void restore(int k, bool derivatives);  // all nodes of the integrator step k
  // The adjoint, and second derivatives where H is given; neither includes the coordinates of the start.
  void pull_back(const Eigen::VectorXd& lambda, Eigen::VectorXd& g_z, double* g_p, Eigen::MatrixXd* H);
  void add_acceleration(const Node& node, Eigen::MatrixXd& H);                    // second derivatives of l_a' a
  void add_displacement(const Node& from, const Node& node, Eigen::MatrixXd& H);  // of l_q' (q_from (+) w)

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
  Eigen::VectorXd q_end_;                            // at the end of the adjoint's step
  Eigen::MatrixXd J_reference_;
  Eigen::VectorXd tau_, w_, gradient_, by_q_, by_v_;
  Eigen::MatrixXd a_p_;
  std::vector<std::vector<Moment>> tape_;  // the nodes of every integrator step
  Eigen::MatrixXd starts_;                 // state at the start of every integrator step, one per column
  std::vector<Eigen::MatrixXd> D_starts_;  // and its tangents, D_q above D_v
  ConfigurationGroup group_;
  InverseDynamicsHessian second_;
  Eigen::MatrixXd moved_, turned_, product_, N_;
};

}  // namespace qp_control
