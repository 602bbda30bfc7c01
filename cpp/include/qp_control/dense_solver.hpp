// Solves one dense QP: augmented Lagrangian, polish on the active set, certificates, closest feasible problem.
#pragma once

#include <memory>

#include "qp_control/deadline.hpp"
#include "qp_control/dense_qp.hpp"
#include "qp_control/least_shift.hpp"
#include "qp_control/minimise.hpp"
#include "qp_control/settings.hpp"
#include "qp_control/solution.hpp"

namespace qp_control {

// What a problem has in common with that of the call before.
enum class Same { NOTHING, HESSIAN, MATRICES };

// A workspace for problems of one size: made once per thread, used for many problems. Allocates in its constructor, and
// once more each where a problem first needs the least shift of its constraints, the level above it, or its hard rows
// apart from the others (and see minimise.hpp): what few need, and what takes several times the memory of the rest.
class DenseSolver {
 public:
  explicit DenseSolver(DenseDims dims);

  // solution.x, .z and .active hold the starting point when warm is true. What follows from the matrices that are those
  // of the call before is not done again, and constraints that are known to be infeasible are not tried again; the
  // result is the same to the bit. False: H is not equal to its transpose, and the solution is that of their mean.
  bool solve(const DenseQP& problem, const Settings& settings, const Deadline& deadline, bool warm, Solution& solution,
             Same same = Same::NOTHING);
  // What the last solve leaves for its derivative; nothing unless it has found the solution of a feasible problem.
  void keep(const Solution& solution, KeptFactor to) const;

 private:
  enum class Known { INVALID, STACKED, LOADED };
  enum class Attempt { ANSWERED, SUSPECT, UNANSWERED };

  void find_active(Solution& solution) const;
  void solve_stacked(const Settings& settings, const Deadline& deadline, bool warm, Solution& solution);
  bool solve_known(const Settings& settings, const Deadline& deadline, Solution& solution);
  void take_back_shift(Solution& solution);
  Attempt attempt(const Settings& settings, const Deadline& deadline, bool warm, Solution& solution);
  void certify(const Settings& settings, const Deadline& deadline, Solution& solution);
  void certify_crossed(Solution& solution);
  void drop_suspicion(const Settings& settings, const Deadline& deadline, Solution& solution);
  void solve_closest(const Settings& settings, const Deadline& deadline, bool crossed, Solution& solution);
  bool certify_hard_rows(const Settings& settings, const Deadline& deadline, Solution& solution);
  bool is_proof(const StackedQP& qp, const LeastShiftResult& found);
  bool claim_infeasible(const StackedQP& qp, const LeastShiftResult& found, Solution& solution);
  bool beyond_doubt(const Settings& settings, const LeastShiftResult& found);
  bool is_exact_proof(const LeastShiftResult& found);
  void store_point(const StackedQP& qp, const Vector& x, Solution& solution);

  struct SecondLevel {
    SecondLevel(int n, int stored_rows) : qp(n, n + stored_rows), minimiser(n, n + stored_rows), z(stored_rows + n) {}
    StackedQP qp;
    Minimiser minimiser;
    Vector z;        // of the first level's rows
    int search = 0;  // the one whose level is loaded, with the matrices of the call before; 0: none
  };
  struct HardRows {
    HardRows(int n, int stored_rows) : qp(n, stored_rows) {}
    StackedQP qp;
    LeastShiftMemo least_shift;
  };

  StackedQP qp_;
  Minimiser minimiser_;
  LeastShiftMemo least_shift_;
  std::unique_ptr<SecondLevel> second_level_;
  std::unique_ptr<HardRows> hard_rows_;
  Products products_;
  Vector farkas_;
  Known hessian_ = Known::INVALID, matrices_ = Known::INVALID;  // the Hessian, and all three
  int judged_ = 0;  // the search of which is known whether it is an exact proof
  bool proven_ = false;
  bool suspected_ = false;  // the loop has stopped at what looks like a Farkas vector
  Start start_;
};

}  // namespace qp_control
