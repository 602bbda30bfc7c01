// The QPs in the impulses of a few robots, which are solved together.
//
// Where nothing touches there is nothing to solve. Where no joint is at a limit, and that is most of the time, the rows
// of the limits have no impulse, and the QP without them has the same solution: it is solved first, and the whole one
// only for those whose limits it does not obey.
#pragma once

#include <Eigen/Core>
#include <deque>
#include <memory>
#include <vector>

#include "contact_step.hpp"
#include "qp_control/box_qps.hpp"

namespace qp_control {

struct ImpulseRows {
  int contacts, limits, dry;  // in this order
  int all() const { return contacts + limits + dry; }
};

class Impulses {
 public:
  Impulses(const BoxQpMaker& maker, ImpulseRows rows);

  // `dry` is the largest dry friction of each row that has any, for h seconds.
  void set_bounds(int k, const double* dry, double h);

  // Problems of the first `count` steps, which have been set. A Status each, NaN without a solution.
  void solve(std::deque<ContactStep>& steps, int count);
  const double* impulses(int k) const { return x_.data() + k * n_; }
  const double* multipliers(int k) const { return w_.data() + k * n_; }
  long long status(int k) const { return status_[k]; }

  // With the solution that a step has had: from the gradients by the impulses those by g and `dry`.
  void take_solution(ContactStep& step, int k, const double* impulses, const double* multipliers, long long status);
  double* by_impulses(int k) { return by_x_.data() + k * n_; }
  double adjoint(int count);  // the largest residual
  const double* by_g(int k) const { return by_g_.data() + k * n_; }
  void add_by_dry(int k, double h, double* by_dry) const;

 private:
  // The QPs in some of the rows, and room for their numbers.
  struct Part {
    Part(const BoxQpMaker& maker, std::vector<int> rows);
    std::vector<int> rows;
    std::unique_ptr<BoxQps> qps;
    std::vector<double> H, g, lower, upper, x, w, by_x, by_g, by_lower, by_upper;
    std::vector<long long> status;
    BoxQpData data() const { return {H.data(), g.data(), lower.data(), upper.data()}; }
  };
  bool all_open(int k) const;  // without any impulse
  bool limits_hold(ContactStep& step, int k);
  bool limits_push(int k) const;  // or are about to
  double* H(int k) { return H_.data() + k * n_ * n_; }
  double* g(int k) { return g_.data() + k * n_; }
  void load(Part& part);
  void solve(Part& part);
  double adjoint(Part& part);

  const ImpulseRows rows_;
  const int n_;
  std::vector<double> H_, g_, lower_, upper_, x_, w_, by_x_, by_g_, by_lower_, by_upper_;
  std::vector<long long> status_;
  std::vector<int> which_;  // problems that are being solved
  Eigen::VectorXd lambda_;
  Part whole_;
  std::unique_ptr<Part> without_limits_;
};

}  // namespace qp_control
