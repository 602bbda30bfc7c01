// First and second changes of what moves in a tree of bodies, in the world's axes.
//
// Twists and accelerations of the body b, from those of the body p before it and the axes S_k of its joint:
//   V_b = V_p + sum S_k v_k,   A_b = A_p + sum S_k a_k + V_p x V_b,   U_b = U_p + sum S_k mu_k,
// U the twist that the joints would give it with the velocities mu, and with forces
//   psi = sum_b U' (I A + V x* h),  h = I V:
// mu' tau(q, v, a) by inverse dynamics where U_0 = 0 and A_0 = -gravity; of the whole robot's momentum h and its rate
// the components along U_0 where mu = 0.
//
// A displacement along S_i moves all that joint i carries. Seen from there, only what stands before has moved, by
//   dU = u,   dV = w,   dA = a + w x V,   (u, w, a) = (-S_i x U_p, -S_i x V_p, -S_i x A_p - w x V_p),
// and a change of v_i or a_i has the same form, with (0, S_i, (V_i + V_p) x S_i) and (0, 0, S_i). So first derivatives
// of psi are (u, w, a)' (F, G, P), and of the momentum U_0' h they are (u, w)' (h, P), summed over all that the joint
// carries, with
//   F = I A + V x* h,   G = I (U x V) - U x* h + V x* P,   P = I U.
// The joints' axes must be fixed in the bodies they move.
#pragma once

#include <pinocchio/multibody.hpp>
#include <vector>

namespace qp_control {

using Vector6 = pinocchio::Motion::Vector6;
using Matrix6 = pinocchio::Motion::Matrix6;

// a x b of twists, a x* f of a twist and a force; (linear, angular).
inline Vector6 cross(const Vector6& a, const Vector6& b) {
  Vector6 c;
  c.tail<3>() = a.tail<3>().cross(b.tail<3>());
  c.head<3>() = a.tail<3>().cross(b.head<3>()) + a.head<3>().cross(b.tail<3>());
  return c;
}

inline Vector6 cross_star(const Vector6& a, const Vector6& f) {
  Vector6 c;
  c.head<3>() = a.tail<3>().cross(f.head<3>());
  c.tail<3>() = a.tail<3>().cross(f.tail<3>()) + a.head<3>().cross(f.head<3>());
  return c;
}

// Of a body, and after `gather` the sums of h, P, F, G over it and all bodies that it carries.
struct Body {
  Vector6 U, V, A, h, P, F, G;
  Matrix6 I, IV, IU;  // inertia; I V x and I U x plus their transposes
};

// What one velocity coordinate changes.
struct Change {
  Vector6 u, w, a, a_of_v;
};

struct Tree {
  explicit Tree(const pinocchio::Model& model) : bodies(model.njoints), changes(model.nv) {}

  // Motions and changes, from placements and axes at q that `data` has from computeJointJacobians.
  template <class Velocities, class Accelerations, class Directions>
  void move(const pinocchio::Model& model, const pinocchio::Data& data, const Velocities& v, const Accelerations& a,
            const Directions& mu, const Vector6& U_0, const Vector6& A_0);
  // Inertias, momenta and forces of each body
  void load(const pinocchio::Model& model, const pinocchio::Data& data);
  void gather(const pinocchio::Model& model);

  std::vector<Body> bodies;  // of each joint; 0 is the world
  std::vector<Change> changes;
};

template <class Velocities, class Accelerations, class Directions>
void Tree::move(const pinocchio::Model& model, const pinocchio::Data& data, const Velocities& v, const Accelerations& a,
                const Directions& mu, const Vector6& U_0, const Vector6& A_0) {
  bodies[0].U = U_0;
  bodies[0].V.setZero();
  bodies[0].A = A_0;
  for (int b = 1; b < model.njoints; ++b) {
    Body& now = bodies[b];
    const Body& before = bodies[model.parents[b]];
    const int first = model.idx_vs[b], count = model.nvs[b];
    const auto S = data.J.middleCols(first, count);
    now.U = before.U + S * mu.segment(first, count);
    now.V = before.V + S * v.segment(first, count);
    now.A = before.A + S * a.segment(first, count) + cross(before.V, now.V);
    for (int i = first; i < first + count; ++i) {
      const Vector6 S_i = data.J.col(i);
      Change& c = changes[i];
      c.u = -cross(S_i, before.U);
      c.w = -cross(S_i, before.V);
      c.a = -cross(S_i, before.A) - cross(c.w, before.V);
      c.a_of_v = cross(now.V + before.V, S_i);
    }
  }
}

inline void Tree::load(const pinocchio::Model& model, const pinocchio::Data& data) {
  for (Vector6* sum : {&bodies[0].h, &bodies[0].P, &bodies[0].F, &bodies[0].G}) sum->setZero();
  for (int b = 1; b < model.njoints; ++b) {
    Body& now = bodies[b];
    now.I = data.oMi[b].act(model.inertias[b]).matrix();
    now.h = now.I * now.V;
    now.P = now.I * now.U;
    now.F = now.I * now.A + cross_star(now.V, now.h);
    now.G = now.I * cross(now.U, now.V) - cross_star(now.U, now.h) + cross_star(now.V, now.P);
  }
}

inline void Tree::gather(const pinocchio::Model& model) {
  for (int b = model.njoints - 1; b > 0; --b) {
    const Body& now = bodies[b];
    Body& before = bodies[model.parents[b]];
    before.h += now.h;
    before.P += now.P;
    before.F += now.F;
    before.G += now.G;
  }
}

}  // namespace qp_control
