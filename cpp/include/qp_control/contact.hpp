// Control periods with contact, joint limits and dry joint friction, of a batch.
//
// The velocity at the end of a period h solves
//   minimise    1/2 |v+ - v_free|_M^2 + cost of compliance,   v_free = v + h M^-1 (S u - n - d o v)
//   subject to  (n + mu d_k)' J v+ + b >= 0     for each contact and each of the directions d_k around its normal n;
//                                               J v+ is the velocity of one body against the other or the ground
//               +-v+_i + b >= 0                 for joints near a limit
// and dry friction pushes against v+_i with at most h eta. Its dual is the QP in the impulses lambda along the rows G
//   minimise  1/2 lambda'(G M^-1 G' + R) lambda + (G v_free + b)'lambda,   lambda >= 0, |lambda| <= h eta,
// after which v+ = v_free + M^-1 G'lambda, q+ = q (+) h v+, along the axes that floating bodies have at the start:
// these move straight on while they turn. The QP is solved outside, between `contact_problem` and `contact_step`.
//
// The cone lifts a body that slides by h mu |v_t|, and throws up one that lands sliding. So b has mu |v_t| of the
// velocity at the start added, unless `lift` is set.
//
// A contact gives way like a spring k and a damper d: where the gap phi <= 0, b = k phi / (h k + d), elsewhere phi / h;
// R adds 1 / (h (h k + d)) between all directions of a contact, whose impulses' sum is the normal impulse, and a part
// of it, `slip`, on the diagonal, with which sticking contacts creep.
//
// Source: M. Anitescu, "Optimization-based simulation of nonsmooth rigid multibody dynamics", Math. Program. 105
// (2006).
#pragma once

#include <memory>
#include <vector>

#include "qp_control/ground.hpp"
#include "qp_control/rigid_body.hpp"

namespace qp_control {

// A ball of this radius [m] around a point of a frame; radius 0: a point.
struct ContactBall {
  int frame;
  double radius;
  double offset[3];
};

// A box of these half lengths [m], rounded by a radius [m]: a ball (no lengths), a capsule (along z alone) or a box, at
// a pose (position, rotation by rows) in a frame.
struct RoundedBox {
  int frame;
  double position[3], rotation[9], half[3], radius;
};

// Two bodies that may touch; the first is a ball or a capsule.
struct ContactPair {
  RoundedBox first, second;
};

struct ContactSettings {
  std::vector<ContactBall> balls;
  std::vector<ContactPair> pairs;
  Ground ground;
  int directions = 4;
  double stiffness, damping;  // of a contact [N/m, N s/m]
  double slip;
  bool lift = false;  // let sliding lift
  double limit_stiffness, limit_damping;
  std::vector<int> limited, dry;  // velocities of joints with limits, and of those with dry friction
};

class ContactDynamics {
 public:
  // Throws std::invalid_argument for settings that make no sense. dt is the period, one step of it.
  ContactDynamics(const pinocchio::Model& model, RigidBodySettings settings, ContactSettings contact);
  ~ContactDynamics();

  int rows() const;

  // x (batch, nq + nv), u (batch, nu), friction (batch, contacts: balls, then pairs) or one for all: H (batch, rows,
  // rows), g (batch, rows)
  void problem(int batch, const double* x, const double* u, Parameters p, Parameters friction, double* H,
               double* g) const;
  // x_next (batch, nq + nv) with the impulses
  void step(int batch, const double* x, const double* u, Parameters p, Parameters friction, const double* impulses,
            double* x_next) const;
  // From the gradient g by x_next the one by the impulses, loss (batch, rows), that the QP's adjoint takes in ..
  void loss(int batch, const double* x, const double* u, Parameters p, Parameters friction, const double* impulses,
            const double* g, double* loss) const;
  // .. and what it gives back, `adjoint` (batch, rows), is its gradient by the QP's g. Gradients by x, u, parameters
  // and friction (batch, contacts).
  void adjoint(int batch, const double* x, const double* u, Parameters p, Parameters friction, const double* impulses,
               const double* g, const double* adjoint, Gradients out, double* by_friction) const;
  // Gaps (batch, contacts) [m] and forces (batch, contacts, 3) [N] on balls and first bodies, in the world's axes
  void contacts(int batch, const double* x, Parameters p, Parameters friction, const double* impulses, double* gaps,
                double* forces) const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace qp_control
