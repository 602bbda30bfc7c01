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
  double* now = nullptr;  // by the states that errors are taken from, (batch, nq + nv) each
  double* next = nullptr;
};

// States (nq + nv) that errors are taken from, one per element or one for all.
struct Reference {
  const double* data = nullptr;
  bool shared = true;
};

// Coordinates of a control period: errors xi = x (-) now before it and x_next (-) next after it (2 nv numbers each: the
// tangent at the reference that leads to the configuration, and the difference of the velocities). Errors form a vector
// space, less than half a turn away from the reference. Without data: states x as they are.
struct Charts {
  Reference now, next;
};

// Where gradients by a motion go: q (batch, nq), v and a (batch, nv), parameters as in Gradients; null: not wanted.
struct MotionGradients {
  double* q = nullptr;
  double* v = nullptr;
  double* a = nullptr;
  double* parameters = nullptr;
};

// A motion of the batch: q (batch, nq), v and a (batch, nv).
struct Motions {
  const double* q;
  const double* v;
  const double* a;
};

// Frames of the model by their numbers, with their twists in the world's axes (aligned) or their own.
struct Frames {
  const int* index;
  int count;
  bool aligned;
};

// position (batch, frames, 3), rotation (batch, frames, 3, 3), velocity and acceleration (batch, frames, 6: linear,
// angular; the linear one is that of the frame's origin). Of gradients any may be null.
template <class Number>
struct FrameNumbers {
  Number *position, *rotation, *velocity, *acceleration;
};

// Centre of mass (batch, 3), momentum about it and its rate (batch, 6: linear, angular), in the world's axes.
template <class Number>
struct CentroidNumbers {
  Number *position, *momentum, *rate;
};

class RigidBody {
 public:
  // Throws std::invalid_argument for settings that make no sense, for joints that mimic others, for those whose axes
  // turn in the body that they move and for joints that are not in depth-first order.
  RigidBody(const pinocchio::Model& model, RigidBodySettings settings);
  ~RigidBody();

  int nq() const;
  int nv() const;
  int nu() const;
  int n_par() const;
  int bodies() const;
  // Configurations are vectors (nq = nv).
  bool vector_space() const;
  const std::vector<double>& nominal_parameters() const;

  // qdd (batch, nv) from q (batch, nq), v, tau (batch, nv). Derivatives where the pointers are not null:
  // dq, dv, dtau (batch, nv, nv), dparameters (batch, nv, n_par).
  void forward_dynamics(int batch, const double* q, const double* v, const double* tau, Parameters p, double* qdd,
                        double* dq, double* dv, double* dtau, double* dparameters) const;

  // Gradients of <g, qdd>; x gets (q, v) side by side (batch, nq + nv), u gets tau (batch, nv).
  void forward_dynamics_adjoint(int batch, const double* q, const double* v, const double* tau, Parameters p,
                                const double* g, Gradients out) const;

  // tau (batch, nv) = M a + n + d o v, and the gradients of <g, tau>
  void inverse_dynamics(int batch, Motions at, Parameters p, double* tau) const;
  void inverse_dynamics_adjoint(int batch, Motions at, Parameters p, const double* g, MotionGradients out) const;
  // M (batch, nv, nv), and the gradients of <G, M> by q and the parameters
  void mass_matrix(int batch, const double* q, Parameters p, double* M) const;
  void mass_matrix_adjoint(int batch, const double* q, Parameters p, const double* G, MotionGradients out) const;
  void frames(int batch, Motions at, Frames which, FrameNumbers<double> out) const;
  void frames_adjoint(int batch, Motions at, Frames which, FrameNumbers<const double> g, MotionGradients out) const;
  // d velocity / dv (batch, frames, 6, nv), and the gradient (batch, nq) of <G, J>
  void frame_jacobians(int batch, const double* q, Frames which, double* J) const;
  void frame_jacobians_adjoint(int batch, const double* q, Frames which, const double* G, double* g_q) const;
  void centroid(int batch, Motions at, Parameters p, CentroidNumbers<double> out) const;
  void centroid_adjoint(int batch, Motions at, Parameters p, CentroidNumbers<const double> g,
                        MotionGradients out) const;

  // x_next (batch, nq + nv) from x (batch, nq + nv) and u (batch, nu). Here and below x and x_next are errors (batch,
  // 2 nv) where there are charts, and derivatives are by errors.
  void step(int batch, const double* x, const double* u, Parameters p, double* x_next, Charts charts = {}) const;

  // step and its derivatives A (batch, 2 nv, 2 nv), B (batch, 2 nv, nu), P (batch, 2 nv, n_par; null: not wanted).
  void linearize(int batch, const double* x, const double* u, Parameters p, double* x_next, double* A, double* B,
                 double* P, Charts charts = {}) const;

  // Gradients of <g_next, x_next> + <g_A, A> + <g_B, B>; null stands for zero. With g_A or g_B it throws
  // std::invalid_argument unless the coordinates form a vector space: vector_space() or charts.
  void linearize_adjoint(int batch, const double* x, const double* u, Parameters p, const double* g_next,
                         const double* g_A, const double* g_B, Gradients out, Charts charts = {}) const;

  // Hessian (batch, 2 nv + nu, 2 nv + nu) of y'x_next, y (batch, 2 nv), by (x, u); where configurations are no vectors
  // and there are no charts, those around x and x_next are taken: it is the Hessian of y'(step(x (+) d, u) (-)
  // step(x, u)) by the tangent d.
  void second_order(int batch, const double* x, const double* u, Parameters p, const double* y, double* hessian,
                    Charts charts = {}) const;

  // xi (batch, 2 nv) = x (-) r and x (batch, nq + nv) = r (+) xi; the change of x with a direction d of xi, and the
  // gradients of <g, xi> by x and r, and of <g, x> by xi and r; null: not wanted.
  void difference(int batch, Reference r, const double* x, double* xi) const;
  void difference_adjoint(int batch, Reference r, const double* x, const double* g, double* g_x, double* g_r) const;
  void integrate(int batch, Reference r, const double* xi, double* x) const;
  void integrate_tangent(int batch, Reference r, const double* xi, const double* d, double* d_x) const;
  void integrate_adjoint(int batch, Reference r, const double* xi, const double* g, double* g_xi, double* g_r) const;

  // For each of the states x (batch, nq + nv): are its numbers finite, its quaternions and (cos, sin) pairs of length
  // one? The methods above throw std::invalid_argument where configurations are not.
  void on_manifold(int batch, const double* x, bool* result) const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace qp_control
