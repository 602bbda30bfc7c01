// QPs of controllers by inverse dynamics, and their gradients, for batches of states.
//
//   minimise    sum_terms w/2 |J x + c|^2          over x = (qdd, f), f at the points of contacts, in the world's axes
//   subject to  J x + c = 0 of hard terms, friction and normal forces, torques, distances, bounds of qdd
//               (M qdd + h - J_f'f)_i = 0 where nothing drives, T x + t = tau elsewhere
//
// The numbers of a controller, such as weights, gains and references, stand in one vector; parts know where. Their
// meaning is that of the parts in Python: qp_control/inverse_dynamics: tasks.py, contacts.py and limits.py. A loop of
// one robot is in inverse_dynamics_loop.hpp.
#pragma once

#include <Eigen/Core>
#include <memory>
#include <pinocchio/multibody/fwd.hpp>
#include <vector>

#include "qp_control/rigid_body.hpp"

namespace qp_control {

enum class TermKind { frame, centre_of_mass, angular_momentum, posture, torque, selection };

// A task, or what a contact asks of its frame. Offsets among the numbers; -1: there is none.
struct Term {
  TermKind kind;
  std::vector<int> rows;  // of the full task, or velocities of a posture
  bool hard = false;
  int frame = 0, base = 0;  // seen from the latter
  bool position = false, orientation = false, own_axes = false;
  int first = 0, points = 1;  // selection: x[first + row], summed over points that are 3 apart
  int level = 1;              // of a strict hierarchy, which is the loop's matter: WholeBody adds up all costs
  int weight = -1, activation = -1, stiffness = -1, damping = -1, reference = -1, velocity = -1, acceleration = -1;
  double shift_weight = 1.0;  // of a constraint that others contradict, here and below
};

struct Support {
  int frame, first;  // forces begin at x[first]
  std::vector<Eigen::Vector3d> points, directions;
  Eigen::Vector3d normal;
  int activation, friction, min_force, max_force;
  double shift_weight = 1.0;
};

enum class BoundKind { position, velocity, acceleration };

struct JointBounds {
  BoundKind kind;
  std::vector<int> q, v;  // indices of the joints
  double dt = 0.0, return_time = 0.0;
  int lower = -1, upper = -1, velocity = -1, acceleration = -1;
  double shift_weight = 1.0;
};

enum class BarrierKind { plane, sphere, frame };

struct Barrier {
  BarrierKind kind;
  int frame, other;
  Eigen::Vector3d normal;
  int stiffness, damping, distance, centre = -1;
  double shift_weight = 1.0;
};

struct WholeBodySettings {
  std::vector<int> actuated;
  int threads = 0, numbers = 0;
  std::vector<Term> terms;
  std::vector<Support> supports;
  std::vector<JointBounds> bounds;
  std::vector<Barrier> barriers;
  int torque_lower = -1, torque_upper = -1;  // no limits
};

// Sizes of the QPs: x, A and C.
struct WholeBodySizes {
  int n, n_eq, n_in;
};

// (batch, ...) each, row-major, or gradients by them.
template <class Number>
struct WholeBodyProblem {
  Number *H, *g, *A, *b, *C, *l, *u, *lb, *ub, *T, *t;
};

struct WholeBodyGradients {
  double* q = nullptr;        // (batch, nq)
  double* v = nullptr;        // (batch, nv)
  double* numbers = nullptr;  // (batch, numbers)
  double* parameters = nullptr;
};

class WholeBody {
 public:
  WholeBody(const pinocchio::Model& model, WholeBodySettings settings);
  ~WholeBody();

  WholeBodySizes sizes() const;
  int numbers() const;

  // q (batch, nq), v (batch, nv), numbers (numbers) or (batch, numbers), parameters of the model
  void problem(int batch, const double* q, const double* v, Parameters numbers, Parameters p,
               WholeBodyProblem<double> out) const;
  // J x + c of the rows of all terms at x (batch, n), and the errors of position of those that follow one: (batch,
  // term_rows()) each
  int term_rows() const;
  void residuals(int batch, const double* q, const double* v, Parameters numbers, Parameters p, const double* x,
                 double* residual, double* error) const;
  void adjoint(int batch, const double* q, const double* v, Parameters numbers, Parameters p,
               WholeBodyProblem<const double> g, WholeBodyGradients out) const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace qp_control
