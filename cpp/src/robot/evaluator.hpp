// Pinocchio's algorithms for one robot and one thread: the only place that knows the library.
#pragma once

#include <Eigen/Core>
#include <memory>
#include <pinocchio/multibody/fwd.hpp>
#include <vector>

namespace qp_control {

// Second derivatives of a function of q (tangent, symmetric), v and a: nv x nv, rows by the first letter.
struct InverseDynamicsHessian {
  Eigen::MatrixXd qq, qv, qa, vv;
};

// Of a frame: where it is in the world, its twist (linear, angular) and acceleration (of its origin, angular).
struct FrameState {
  Eigen::Vector3d position;
  Eigen::Matrix3d rotation;
  Eigen::Matrix<double, 6, 1> velocity, acceleration;
};

// Of the robot as a whole: centre of mass, momentum about it (linear, angular) and its rate, in the world's axes.
struct Centroid {
  Eigen::Vector3d position;
  Eigen::Matrix<double, 6, 1> momentum, rate;
};

// A direction in which a state moves, and the acceleration with it.
struct StateChange {
  Eigen::VectorXd q, v, a;
};

class Evaluator {
 public:
  explicit Evaluator(const pinocchio::Model& model);
  ~Evaluator();

  int nq() const;
  int nv() const;
  int bodies() const;
  int n_par() const;
  // Of each velocity the one before it on the way to the root, or -1
  std::vector<int> velocities_before() const;
  bool vector_space() const { return nq() == nv(); }

  Eigen::VectorXd neutral() const;
  Eigen::VectorXd nominal_parameters() const;
  void set_parameters(const double* parameters);
  bool normalized(const Eigen::VectorXd& q) const;

  // a = M^-1 (tau - d o v - n)
  void acceleration(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& tau, Eigen::VectorXd& a);
  // The same with da/dq (tangent), da/dv and da/dtau = M^-1.
  void acceleration(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& tau, Eigen::VectorXd& a,
                    Eigen::MatrixXd& a_q, Eigen::MatrixXd& a_v, Eigen::MatrixXd& a_tau);
  // w = M^-1 g and, from a, the gradients of g'a by q (tangent) and v; that by tau is w.
  void acceleration_adjoint(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& a,
                            const Eigen::VectorXd& g, Eigen::VectorXd& w, Eigen::VectorXd& g_q, Eigen::VectorXd& g_v);
  // da/dp, nv x n_par
  void parameter_jacobian(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& a,
                          const Eigen::MatrixXd& a_tau, Eigen::MatrixXd& a_p);
  // g += (da/dp)' lambda, given w = M^-1 lambda
  void parameter_adjoint(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& a,
                         const Eigen::VectorXd& w, double* g);

  // The change of what that adds along a direction, w_change that of w
  void parameter_adjoint_change(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& a,
                                const Eigen::VectorXd& w, const StateChange& change, const Eigen::VectorXd& w_change,
                                double* g);

  // tau = M a + n + d o v, and the gradients of g' tau
  void inverse_dynamics(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& a,
                        Eigen::VectorXd& tau);
  void inverse_dynamics_adjoint(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& a,
                                const Eigen::VectorXd& g, Eigen::VectorXd& g_q, Eigen::VectorXd& g_v,
                                Eigen::VectorXd& g_a);
  // M, and the gradients of <G, M> by q (tangent) and, added to g_p unless null, by the parameters
  void mass_matrix(const Eigen::VectorXd& q, Eigen::MatrixXd& M);
  void mass_matrix_adjoint(const Eigen::VectorXd& q, const Eigen::MatrixXd& G, Eigen::VectorXd& g_q, double* g_p);
  // The same, added, together with that of the momentum about the world's origin, A v, which has the gradient G_A (6 x
  // nv; empty: none).
  void inertia_adjoint(const Eigen::VectorXd& q, const Eigen::MatrixXd& G, const Eigen::MatrixXd& G_A,
                       Eigen::VectorXd& g_q, double* g_p);

  // Frames, after `place` with the state; in the world's axes (aligned) or their own.
  void place(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& a);
  // The same without accelerations, with the upper triangle of the mass matrix
  void place_with_mass_matrix(const Eigen::VectorXd& q, const Eigen::VectorXd& v, Eigen::MatrixXd& M);
  // At the configuration of the last `place` or `inverse_dynamics_adjoint`, without accelerations
  void move(const Eigen::VectorXd& v);
  FrameState frame(int index, bool aligned) const;
  // The twist per velocity, of the point that passes by the world's origin, and the last velocity that moves a frame
  const Eigen::Matrix<double, 6, Eigen::Dynamic>& axes() const;
  int last_velocity(int frame) const;
  // Adds the gradients of the frame's numbers that have the gradients g.
  void frame_adjoint(int index, bool aligned, const FrameState& g, Eigen::VectorXd& g_q, Eigen::VectorXd& g_v,
                     Eigen::VectorXd& g_a) const;
  // d velocity / dv (6 x nv), and the gradient of <G, J>, added to g_q
  void frame_jacobian(int index, bool aligned, Eigen::MatrixXd& J) const;
  void frame_jacobian_adjoint(int index, bool aligned, const Eigen::MatrixXd& G, Eigen::VectorXd& g_q) const;

  double mass() const;
  // A (6 x nv) with the momentum A v about the centre of mass, after `centroid`
  void momentum_matrix(const Eigen::Vector3d& centre, Eigen::MatrixXd& A) const;
  Centroid centroid(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& a);
  // Gradients of what has the gradients g; g_p, unless null, has those by the parameters added.
  void centroid_adjoint(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& a, Centroid g,
                        Eigen::VectorXd& g_q, Eigen::VectorXd& g_v, Eigen::VectorXd& g_a, double* g_p);

  // Of mu' tau(q, v, a), tau by inverse dynamics; those by va and aa vanish.
  void inverse_dynamics_hessian(const Eigen::VectorXd& q, const Eigen::VectorXd& v, const Eigen::VectorXd& a,
                                const Eigen::VectorXd& mu, InverseDynamicsHessian& out);

  // result = q (+) w on the configuration manifold, and its Jacobians in the tangent spaces (J_q null: not wanted)
  void integrate(const Eigen::VectorXd& q, const Eigen::VectorXd& w, Eigen::VectorXd& result) const;
  void integrate_jacobians(const Eigen::VectorXd& q, const Eigen::VectorXd& w, Eigen::MatrixXd* J_q,
                           Eigen::MatrixXd& J_w) const;
  // by_q = J_q' l and by_w = J_w' l of the same
  void integrate_adjoint(const Eigen::VectorXd& q, const Eigen::VectorXd& w, const Eigen::VectorXd& l,
                         Eigen::VectorXd& by_q, Eigen::VectorXd& by_w);
  // result = to (-) from, and its Jacobian by the tangent of `to`
  void difference(const Eigen::VectorXd& from, const Eigen::VectorXd& to, Eigen::VectorXd& result) const;
  void difference_jacobian(const Eigen::VectorXd& from, const Eigen::VectorXd& to, Eigen::MatrixXd& J_to) const;
  // d(q (+) w)/dw at w = 0 in coordinates, nq x nv
  void tangent_map(const Eigen::VectorXd& q, Eigen::MatrixXd& T) const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace qp_control
