// Control periods with contact, joint limits and dry joint friction, of a batch.
//
// The velocity at the end of a step of h seconds solves
//   minimise    1/2 |v+ - v_free|_M^2 + cost of compliance,   v_free = v + h M^-1 (S u - n - d o v)
//   subject to  (n + mu d_k)' J v+ + b >= 0     for each contact and each of the directions d_k around its normal n;
//                                               J v+ is the velocity of one body against the other or the ground
//               +-v+_i + b >= 0                 for joints near a limit
// and dry friction pushes against v+_i with at most h eta. Its dual is the QP in the impulses lambda along the rows G
//   minimise  1/2 lambda'(G M^-1 G' + R) lambda + (G v_free + b)'lambda,   lambda >= 0, |lambda| <= h eta,
// after which v+ = v_free + M^-1 G'lambda, q+ = q (+) h v+, along the axes that floating bodies have at the start:
// these move straight on while they turn.
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

#include <functional>
#include <memory>
#include <vector>

#include "qp_control/box_qps.hpp"
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

// Control periods one after the other, each of `substeps` steps.
struct ContactRun {
  int batch, periods;
  const double *x, *u;  // (batch, nq + nv), (batch, periods, nu)
  Parameters p;
  Parameters friction, dry;  // (batch, contacts: balls, then pairs), (batch, rows with dry friction); one for all
};

// What happens. A Status per step; from the first one without a solution, states are NaN.
struct ContactPath {
  double* states;                           // (batch, periods, nq + nv), at the end of each period
  double *starts, *impulses, *multipliers;  // of each step, for `adjoint` (batch, periods * substeps, .); may be null
  // In the last step of each period, or null: (batch, periods, contacts) [m] and (batch, periods, contacts, 3) [N] on
  // balls and first bodies, in the world's axes
  double *gaps, *forces;
  long long* status;  // (batch, periods * substeps)
};

struct ContactGradients {
  Gradients by;            // x (batch, nq + nv), u (batch, periods, nu), parameters
  double *friction, *dry;  // (batch, .); null: not wanted
};

class ContactDynamics {
 public:
  // Throws std::invalid_argument for settings that make no sense. The solver must live as long.
  ContactDynamics(const pinocchio::Model& model, RigidBodySettings settings, ContactSettings contact,
                  const BoxQpMaker& solver);
  ~ContactDynamics();

  int rows() const;

  // False: `interrupted`, which is asked on the caller's thread, has said so.
  bool run(const ContactRun& run, const ContactPath& path, const std::function<bool()>& interrupted) const;
  // From the gradient by the states (batch, periods, nq + nv), and the path. The largest residual of the QPs' adjoint
  // systems.
  double adjoint(const ContactRun& run, const ContactPath& path, const double* by_states,
                 const ContactGradients& out) const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace qp_control
