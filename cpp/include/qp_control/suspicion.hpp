// Does a problem look infeasible? On rows that contradict each other the multipliers grow by a Farkas vector in every
// outer step.
#pragma once

#include "qp_control/augmented_lagrangian.hpp"
#include "qp_control/equilibration.hpp"

namespace qp_control {

// Room for a back end's unknowns and rows, in packs.
struct FarkasRoom {
  FarkasRoom(int unknowns, int rows) : y(unknowns), force(unknowns), z(rows) {}
  PackArray y, force, z;
};

// The change of the multipliers in the last outer step, of rows and of what the back end eliminates, as a Farkas vector
// z: a feasible x has |x|_1 |R'z|_max >= -support, so it would have to be ten thousand times as large as the iterate,
// and as one. (Without the iterate's size any row whose bound is far from zero would be suspect.)
template <class Kkt>
Mask looks_infeasible(const Kkt& kkt, const Equilibration& scaling, const Iterate& it, FarkasRoom& room) {
  const Pack zero = 0.0, loose = 1e-4;
  auto& [y, force, z] = room;
  Pack size = zero, support = zero, norm = zero, x_size = zero;
  for (int i = 0; i < z.size(); ++i) {
    z[i] = it.z[i] - it.z_center[i];
    size = max(size, abs(z[i]) * scaling.E[i]);
  }
  const Pack negligible = Pack(1e-3) * kkt.max(size);
  for (int i = 0; i < z.size(); ++i) {
    const Pack bound = select(z[i] > zero, kkt.upper()[i], kkt.lower()[i]);
    support += select(abs(z[i]) * scaling.E[i] > negligible, z[i] * bound, zero);
  }
  force.setConstant(zero);
  const int variables = kkt.variables();
  if (variables < y.size()) {
    for (int j = 0; j < y.size(); ++j) {
      y[j] = j < variables ? zero : it.x[j] - it.x_center[j];
      support -= y[j] * kkt.g()[j];
    }
    kkt.apply_hessian(y, force);
  }
  support = kkt.sum(support);
  kkt.add_rows_transposed(z, force);
  for (int j = 0; j < variables; ++j) {
    norm = max(norm, abs(force[j]) / scaling.D[j]);
    x_size += abs(it.x[j]) * scaling.D[j];
  }
  const Pack reach = max(Pack(1.0), kkt.sum(x_size));
  return (support < zero) & (kkt.max(norm) * reach <= -loose * support);
}

}  // namespace qp_control
