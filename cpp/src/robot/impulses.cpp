#include "impulses.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace qp_control {
namespace {

constexpr long long solved = 0;  // Status::SOLVED

std::vector<int> rows_without_limits(const ImpulseRows& rows) {
  std::vector<int> kept;
  for (int i = 0; i < rows.all(); ++i)
    if (i < rows.contacts || i >= rows.contacts + rows.limits) kept.push_back(i);
  return kept;
}

std::vector<int> all_rows(const ImpulseRows& rows) {
  std::vector<int> kept(rows.all());
  std::iota(kept.begin(), kept.end(), 0);
  return kept;
}

void gather(const std::vector<int>& rows, const double* from, double* to) {
  for (std::size_t i = 0; i < rows.size(); ++i) to[i] = from[rows[i]];
}

void scatter(const std::vector<int>& rows, const double* from, double* to) {
  for (std::size_t i = 0; i < rows.size(); ++i) to[rows[i]] = from[i];
}

}  // namespace

Impulses::Part::Part(const BoxQpMaker& maker, std::vector<int> which)
    : rows(std::move(which)), qps(rows.empty() ? nullptr : maker.make(static_cast<int>(rows.size()))) {
  const std::size_t n = rows.size(), room = maker.width();
  H.resize(room * n * n);
  for (auto* v : {&g, &lower, &upper, &x, &w, &by_x, &by_g, &by_lower, &by_upper}) v->resize(room * n);
  status.resize(room);
}

Impulses::Impulses(const BoxQpMaker& maker, ImpulseRows rows)
    : rows_(rows), n_(rows.all()), whole_(maker, all_rows(rows)) {
  if (rows.limits > 0) without_limits_ = std::make_unique<Part>(maker, rows_without_limits(rows));
  const std::size_t room = maker.width(), n = n_;
  H_.resize(room * n * n);
  for (auto* v : {&g_, &lower_, &x_, &w_, &by_x_, &by_g_, &by_lower_, &by_upper_}) v->resize(room * n);
  upper_.resize(room * n, std::numeric_limits<double>::infinity());
  status_.resize(room);
  which_.reserve(room);
}

void Impulses::set_bounds(int k, const double* dry, double h) {
  for (int i = 0; i < rows_.dry; ++i) {
    const int at = k * n_ + n_ - rows_.dry + i;
    upper_[at] = h * dry[i];
    lower_[at] = -upper_[at];
  }
}

// Whether the limits' rows are obeyed without their impulses; writes their multipliers.
bool Impulses::limits_hold(ContactStep& step, int k) {
  lambda_ = Eigen::Map<const Eigen::VectorXd>(impulses(k), n_);
  double* multipliers = w_.data() + k * n_ + rows_.contacts;
  const bool hold = step.limits_hold(lambda_, multipliers);
  for (int i = 0; i < rows_.limits; ++i) multipliers[i] = -multipliers[i];
  return hold && status_[k] == solved;
}

bool Impulses::limits_push(int k) const {
  const auto first = w_.begin() + k * n_ + rows_.contacts;
  return std::any_of(first, first + rows_.limits, [](double w) { return !(w < 0.0); });
}

void Impulses::load(Part& part) {
  const int m = static_cast<int>(part.rows.size());
  for (std::size_t e = 0; e < which_.size(); ++e) {
    const int k = which_[e];
    for (int i = 0; i < m; ++i) gather(part.rows, H(k) + part.rows[i] * n_, part.H.data() + (e * m + i) * m);
    gather(part.rows, g(k), part.g.data() + e * m);
    gather(part.rows, lower_.data() + k * n_, part.lower.data() + e * m);
    gather(part.rows, upper_.data() + k * n_, part.upper.data() + e * m);
  }
}

void Impulses::solve(Part& part) {
  const int m = static_cast<int>(part.rows.size());
  load(part);
  std::fill(part.status.begin(), part.status.end(), solved);
  if (part.qps && !which_.empty())
    part.qps->solve(static_cast<int>(which_.size()), part.data(), part.x.data(), part.w.data(), part.status.data());
  for (std::size_t e = 0; e < which_.size(); ++e) {
    const int k = which_[e];
    std::fill_n(x_.begin() + k * n_, n_, 0.0);
    scatter(part.rows, part.x.data() + e * m, x_.data() + k * n_);
    scatter(part.rows, part.w.data() + e * m, w_.data() + k * n_);
    status_[k] = part.status[e];
    // On its bound to the last bit: a contact that is open has no force.
    for (int i = k * n_; i < (k + 1) * n_ && status_[k] == solved; ++i)
      x_[i] = w_[i] < 0.0 ? lower_[i] : w_[i] > 0.0 ? upper_[i] : x_[i];
  }
}

bool Impulses::all_open(int k) const {
  return rows_.dry == 0 &&
         std::all_of(g_.begin() + k * n_, g_.begin() + (k + 1) * n_, [](double g) { return g > 0.0; });
}

void Impulses::solve(std::deque<ContactStep>& steps, int count) {
  which_.clear();
  for (int k = 0; k < count; ++k) {
    steps[k].problem(false, H(k), g(k));
    if (!all_open(k)) {
      which_.push_back(k);
      continue;
    }
    std::fill_n(x_.begin() + k * n_, n_, 0.0);
    std::transform(g(k), g(k) + n_, w_.begin() + k * n_, [](double g) { return -g; });
    status_[k] = solved;
  }
  if (without_limits_) {
    solve(*without_limits_);
    const auto held = [&](int k) { return limits_hold(steps[k], k); };
    which_.erase(std::remove_if(which_.begin(), which_.end(), held), which_.end());
    for (int k : which_) steps[k].problem(true, H(k), g(k));
  }
  solve(whole_);
}

void Impulses::take_solution(ContactStep& step, int k, const double* impulses, const double* multipliers,
                             long long status) {
  std::copy_n(impulses, n_, x_.begin() + k * n_);
  std::copy_n(multipliers, n_, w_.begin() + k * n_);
  status_[k] = status;
  step.problem(limits_push(k), H(k), g(k));
}

double Impulses::adjoint(Part& part) {
  const int m = static_cast<int>(part.rows.size());
  if (which_.empty()) return 0.0;
  load(part);
  for (std::size_t e = 0; e < which_.size(); ++e) {
    const int k = which_[e];
    gather(part.rows, x_.data() + k * n_, part.x.data() + e * m);
    gather(part.rows, w_.data() + k * n_, part.w.data() + e * m);
    gather(part.rows, by_x_.data() + k * n_, part.by_x.data() + e * m);
    part.status[e] = status_[k];
  }
  double residual = 0.0;
  if (part.qps)
    residual = part.qps->adjoint(static_cast<int>(which_.size()), part.data(), part.x.data(), part.w.data(),
                                 part.status.data(), part.by_x.data(), part.by_g.data(), part.by_lower.data(),
                                 part.by_upper.data());
  for (std::size_t e = 0; e < which_.size(); ++e) {
    const int k = which_[e];
    for (auto* v : {&by_g_, &by_lower_, &by_upper_}) std::fill_n(v->begin() + k * n_, n_, 0.0);
    scatter(part.rows, part.by_g.data() + e * m, by_g_.data() + k * n_);
    scatter(part.rows, part.by_lower.data() + e * m, by_lower_.data() + k * n_);
    scatter(part.rows, part.by_upper.data() + e * m, by_upper_.data() + k * n_);
  }
  return residual;
}

double Impulses::adjoint(int count) {
  const auto select = [&](bool pushing) {
    which_.clear();
    for (int k = 0; k < count; ++k) {
      if (all_open(k))
        for (auto* v : {&by_g_, &by_lower_, &by_upper_}) std::fill_n(v->begin() + k * n_, n_, 0.0);
      else if (!without_limits_ || limits_push(k) == pushing)
        which_.push_back(k);
    }
  };
  double residual = 0.0;
  if (without_limits_) {
    select(false);
    residual = adjoint(*without_limits_);
  }
  select(true);
  return std::max(residual, adjoint(whole_));
}

void Impulses::add_by_dry(int k, double h, double* by_dry) const {
  for (int i = 0; i < rows_.dry; ++i) {
    const int at = k * n_ + n_ - rows_.dry + i;
    by_dry[i] += h * (by_upper_[at] - by_lower_[at]);
  }
}

}  // namespace qp_control
