// First level of the closest feasible problem: the shift s of the constraints that is least in the weighted Euclidean
// norm of the caller's units,
//
//     minimise 1/2 s'W s  over x, s   subject to   E x - s = e,   hard rows,
//
// where E collects the equalities and every violated row at its violated bound e. With F the hard rows that take part
// (weight infinity; F x = f), its optimality reads E'W s + F'pi = 0. With Q an orthonormal basis of the range of
// W^1/2 E P_F, P_F the projector on the null space of F, the minimisers are the x with Q'W^1/2 (E x - e) = 0, F x = f.
// These rows have full rank: the second level is an ordinary QP with the equalities (Q'W^1/2 E) x = Q'W^1/2 e.
// The limit that the augmented Lagrangian finds: Chiche and Gilbert, "How the augmented Lagrangian algorithm can deal
// with an infeasible convex quadratic optimization problem", J. Convex Analysis 2016.
#pragma once

#include <memory>
#include <vector>

#include "qp_control/deadline.hpp"
#include "qp_control/dense_qp.hpp"
#include "qp_control/pivoted_qr.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

struct ShiftedRow {
  int row;   // in the stacked list
  int side;  // +1: upper bound, -1: lower bound, 0: equality
  friend bool operator==(const ShiftedRow& a, const ShiftedRow& b) { return a.row == b.row && a.side == b.side; }
};

class LeastShift {
 public:
  // Memory for set().
  struct Room {
    void reserve(int n, int rows);
    PseudoInverse inverse;
    Reserved<Vector> of_shifted, of_hard, of_variables;
  };

  LeastShift() = default;
  LeastShift(const StackedQP& qp, std::vector<ShiftedRow> shifted, std::vector<ShiftedRow> hard);

  // Memory for any level of a problem of that size; set() allocates nothing then.
  void reserve(int n, int rows);
  // Becomes the level of `shifted` and `hard`, which the caller has filled in.
  void set(const StackedQP& qp, Room& room);

  // Whether it is the level of just these rows of qp.
  bool is_of(const StackedQP& qp, const std::vector<ShiftedRow>& shifted_rows,
             const std::vector<ShiftedRow>& hard_rows) const;

  int count() const { return static_cast<int>(shifted.size()); }
  int rank() const { return static_cast<int>(Q.cols()); }

  // The second level, in a problem with as many more stored rows than qp as there are variables: the reduced
  // equalities, rows of nothing for those that a larger rank would bring, then the stored rows of qp; shifted rows lose
  // their bounds.
  void reduce(const StackedQP& qp, StackedQP& out) const;
  // Multipliers of qp from those of the second level.
  void multipliers(const Vector& z_reduced, Vector& z) const;

  std::vector<ShiftedRow> shifted, hard;
  Reserved<Vector> root_weight;  // of the shifted rows
  Reserved<RowMatrix> E;         // W^1/2 E
  Reserved<Vector> e;            // W^1/2 e
  Reserved<RowMatrix> F;
  Reserved<Vector> f;
  Reserved<RowMatrix> E_null;  // E P_F
  Reserved<Matrix> Q;
  Reserved<RowMatrix> Q_E;  // Q'E
  Reserved<Vector> Q_e;
  Reserved<Vector> s;           // W^1/2 s: signed, row minus bound
  Reserved<Matrix> F_pinv;      // of F
  Reserved<Vector> multiplier;  // pi of the hard rows
};

struct LeastShiftResult {
  int steps = 0;
  Vector x;            // attains the least shift
  bool found = false;  // not where it did not converge, as when the hard rows contradict each other
  int search = 0;      // its number: the same one has the same answer
  LeastShift level;
};

// Finds the least shift, and remembers the last answer: elements that share their constraints share their least shift.
// Allocates in the first call, for all problems of that size.
class LeastShiftMemo {
 public:
  LeastShiftMemo();
  ~LeastShiftMemo();

  // What find() remembers of just these constraints; nullptr if nothing.
  const LeastShiftResult* known(const StackedQP& qp, int max_steps) const;
  // To those of the last problem.
  void reset_bounds(StackedQP& qp) const;
  // max_steps bounds the Newton steps.
  const LeastShiftResult& find(const StackedQP& qp, int max_steps, const Deadline& deadline);

 private:
  struct Search;

  bool is_of(const StackedQP& qp, int max_steps) const;

  std::unique_ptr<Search> search_;
  RowMatrix R_;
  Vector lower_, upper_, weight_;
  int max_steps_ = -1;
  LeastShiftResult result_;
};

// The first level with what derivatives need of it: the pseudo-inverse of E_null, by a QR factorisation of (Q'E_null)'.
struct DifferentiableLevel {
  explicit DifferentiableLevel(LeastShift level);
  Vector inverse_times(const Vector& u) const;             // E_null^+ u
  Vector inverse_transposed_times(const Vector& x) const;  // E_null^+' x

  LeastShift shift;
  Matrix orthonormal, triangular;
};
using LevelPointer = std::shared_ptr<const DifferentiableLevel>;

// The first level as a solution in closest-feasible mode shows it; `known` if it is that one.
LevelPointer level_of(const StackedQP& qp, const Solution& solution, const LevelPointer& known = nullptr);

}  // namespace qp_control
