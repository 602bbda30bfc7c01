// The system K q = rhs of kkt_system.hpp at solutions of optimal-control QPs, with the dynamics among the equalities,
// in the caller's units and solved by Riccati recursions: what all derivatives are made of. For as many problems as a
// register has lanes (Real = Pack) or for one (Real = double).
#pragma once

#include <type_traits>

#include "qp_control/indefinite_riccati.hpp"
#include "qp_control/lane_kkt_system.hpp"
#include "qp_control/ocp_gradients.hpp"

namespace qp_control {

template <class Real>
class OcpSystem {
 public:
  static constexpr int width() { return std::is_same_v<Real, Pack> ? lanes : 1; }
  // Residuals of accepted solutions.
  static constexpr double accepted = LaneKktSystem<IndefiniteRiccati<Real>>::accepted;

  // (x, y) and z; (eta, pi) and omega s of a shifted solution (kkt_system.hpp), otherwise empty.
  struct Vector {
    PackArray unknowns, rows, level_unknowns, level_rows;
  };
  Vector v, rhs, q;  // the solution, a right-hand side, and what solves it
  // Of rows that are shifted on both sides, otherwise zero: half of what a change makes of lower minus upper, or of the
  // sum of a loss's gradients by their shifts. Empty without a level.
  PackArray gap;
  PackArray block;  // room for an argument of one stage

  virtual ~OcpSystem() = default;
  // Those whose point has been read, and whose system has been factored.
  Mask able() const { return able_; }
  // rhs to q; returns the residual relative to the size of its terms. Entries of rhs outside the system do not count.
  virtual Pack solve() = 0;

  // The slope of the cost by states, inputs and slacks at the solution.
  const PackArray& slope();

  // Points, shifts left out, and back for the elements of `which`.
  void read(const OcpBatchSolution& from, int first, int last, PackArray& unknowns, PackArray& rows) const;
  void write(const PackArray& unknowns, const PackArray& rows, const OcpBatchSolution& to, int first, int last,
             Mask which) const;

  const OcpLayout<Real>& layout() const { return kkt_.layout(); }
  const OcpSlacks<Real>& slacks() const { return kkt_.slacks(); }
  bool shifts() const { return v.level_rows.size() > 0; }
  const PackArray& shifted() const { return shifted_; }   // 1 / omega on shifted rows, 0 on others
  const PackArray& side() const { return system_.side; }  // 1 upper, -1 lower, 0 inactive, or both_sides
  Pack weakly_active() const { return system_.weakly_active; }

  static Real* entries(PackArray& a) { return reinterpret_cast<Real*>(a.data()); }
  static const Real* entries(const PackArray& a) { return reinterpret_cast<const Real*>(a.data()); }

 protected:
  OcpSystem(const OcpBatch& batch, bool shifts);
  // K = [H G'; G 0] on the active rows; what belongs to a level is not looked at.
  Pack solve_active(const PackArray& unknowns, const PackArray& rows);

  IndefiniteRiccati<Real> kkt_;
  LaneKktSystem<IndefiniteRiccati<Real>> system_;
  Equilibration scaling_;
  PackArray shifted_;
  Mask able_;

 private:
  const bool fixed_start_;
  PackArray slope_, product_;
  LaneVector scaled_rhs_, scaled_q_;
};

// Of the ordinary case, a problem that is SOLVED and whose system is regular.
template <class Real>
class SolvedOcpSystem : public OcpSystem<Real> {
 public:
  explicit SolvedOcpSystem(const OcpBatch& batch) : OcpSystem<Real>(batch, false) {}

  // The points of elements first..last-1, at most one per lane.
  void set(const OcpBatch& batch, int first, int last, const OcpBatchSolution& solution);
  void factor();
  Pack solve() override { return this->solve_active(this->rhs.unknowns, this->rhs.rows); }
};

extern template class OcpSystem<Pack>;
extern template class OcpSystem<double>;
extern template class SolvedOcpSystem<Pack>;
extern template class SolvedOcpSystem<double>;

}  // namespace qp_control
