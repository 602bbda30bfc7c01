// Batched rigid-body dynamics and their derivatives.
//
//   M(q) a + n(q, v) = S u - d o v          forward dynamics; S selects the actuated joints, d is the viscous damping
//   x = (q, v),  x+ = step(x, u)            one control period: `substeps` steps of an explicit integrator
//
// Parameters p = (p_1 .. p_nb, d): 10 numbers per body (m, m c, I about the joint origin in the order xx xy yy xz yz
// zz, Pinocchio's toDynamicParameters) and the viscous damping of every velocity coordinate [N s/m, N m s/rad]. M a + n
// = Y(q, v, a) p is linear in the inertial part, hence da/dp = -M^-1 Y, and da/dd = -M^-1 diag(v).
//
// All matrices are row-major, all arrays start with the batch index. Derivatives live in the tangent space of the state
// (2 nv numbers: dq, dv). A gradient with respect to configuration coordinates (nq numbers, quaternions) is the one of
// least norm: tangent to the manifold, and only the tangent part of an incoming gradient matters.
#pragma once

#include <memory>
#include <pinocchio/multibody/fwd.hpp>
#include <vector>

namespace qp_control {

enum class Integrator { euler, semi_implicit, rk4 };

struct RigidBodySettings {
  double dt = 0.0;   // control period [s]
  int substeps = 1;  // integrator steps in a control period
  Integrator integrator = Integrator::rk4;
  std::vector<int> actuated;  // velocity indices that u drives, in the order of u
  int threads = 0;            // 0: as many as the process may run on
};

// Parameters of a batch: one vector for all the elements, or one per element; without data: those of the model.
struct Parameters {
  const double* data = nullptr;
  bool shared = true;
};

// Where a gradient goes; null: not asked for. `parameters` holds one vector (the sum over the batch, added up in an
// order that does not depend on the threads) when the parameters are shared, else one per element.
struct Gradients {
  double* x = nullptr;
  double* u = nullptr;
  double* parameters = nullptr;
};

class RigidBody {
 public:
  // Throws std::invalid_argument for settings that make no sense and for joints that mimic others.
  RigidBody(const pinocchio::Model& model, RigidBodySettings settings);
  ~RigidBody();

  int nq() const;
  int nv() const;
  int nu() const;
  int n_par() const;
  int bodies() const;
  // Configurations are vectors (nq = nv); second derivatives exist only here.
  bool vector_space() const;
  const std::vector<double>& nominal_parameters() const;

  // qdd (batch, nv) from q (batch, nq), v, tau (batch, nv). Derivatives where the pointers are not null:
  // dq, dv, dtau (batch, nv, nv), dparameters (batch, nv, n_par).
  void forward_dynamics(int batch, const double* q, const double* v, const double* tau, Parameters p, double* qdd,
                        double* dq, double* dv, double* dtau, double* dparameters) const;

  // Gradients of <g, qdd>; x gets (q, v) side by side (batch, nq + nv), u gets tau (batch, nv).
  void forward_dynamics_adjoint(int batch, const double* q, const double* v, const double* tau, Parameters p,
                                const double* g, Gradients out) const;

  // x_next (batch, nq + nv) from x (batch, nq + nv) and u (batch, nu).
  void step(int batch, const double* x, const double* u, Parameters p, double* x_next) const;

  // step and its derivatives A (batch, 2 nv, 2 nv), B (batch, 2 nv, nu), P (batch, 2 nv, n_par; null: not wanted).
  void linearize(int batch, const double* x, const double* u, Parameters p, double* x_next, double* A, double* B,
                 double* P) const;

  // Gradients of <g_next, x_next> + <g_A, A> + <g_B, B>; null stands for zero. The second derivatives in it are central
  // differences of exact first ones; with g_A or g_B it throws std::invalid_argument unless vector_space().
  void linearize_adjoint(int batch, const double* x, const double* u, Parameters p, const double* g_next,
                         const double* g_A, const double* g_B, Gradients out) const;

  // Hessian (batch, 2 nv + nu, 2 nv + nu) of y'x_next, y (batch, 2 nv), by (x, u); where configurations are no vectors:
  // of y'(step(x (+) d, u) (-) step(x, u)) by the tangent d. Central differences of exact first derivatives.
  void second_order(int batch, const double* x, const double* u, Parameters p, const double* y, double* hessian) const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace qp_control
