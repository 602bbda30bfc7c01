#include "qp_control/ocp_shifted_adjoint.hpp"

#include <algorithm>

#include "qp_control/stage_io.hpp"

namespace qp_control {

ShiftedOcpAdjoint::Vector::Vector(const IndefiniteRiccati<double>& kkt)
    : unknowns(PackArray::Constant(kkt.unknowns(), Pack(0.0))), rows(PackArray::Constant(kkt.rows(), Pack(0.0))) {}

ShiftedOcpAdjoint::ShiftedOcpAdjoint(const OcpBatch& batch)
    : kkt_(batch),
      system_(kkt_, kkt_.unknowns(), kkt_.rows()),
      scaling_(kkt_.unknowns(), kkt_.rows()),
      level_(batch),
      shifted_(kkt_.rows()),
      v_(kkt_),
      level_v_(kkt_),
      r_(kkt_),
      q_(kkt_),
      level_q_(kkt_),
      r_s_(kkt_.rows()),
      slope_(kkt_.unknowns()),
      first_(kkt_),
      lower_(kkt_),
      upper_(kkt_),
      work_(kkt_),
      scaled_r_(kkt_.unknowns(), kkt_.rows()),
      scaled_q_(kkt_.unknowns(), kkt_.rows()) {}

void ShiftedOcpAdjoint::read(const OcpBatchSolution& from, int i, Vector& to) const {
  const auto into = [i](PackArray& target) {
    return [&target, i](const MutableBatchArray& array, int position, int size, int place) {
      read_piece(array, position, size, i, i + 1, numbers(target) + place);
    };
  };
  for_each_piece(kkt_.layout(), from, into(to.unknowns), into(to.rows));
}

bool ShiftedOcpAdjoint::read_shifts(const OcpBatchSolution& from, int i, PackArray& upper_minus_lower) {
  read(lower_shifts(from), i, lower_);
  read(upper_shifts(from), i, upper_);
  Mask both = Mask::all(false);
  for (int k = 0; k < upper_minus_lower.size(); ++k) {
    both = both | ((lower_.rows[k] > Pack(0.0)) & (upper_.rows[k] > Pack(0.0)));
    upper_minus_lower[k] = upper_.rows[k] - lower_.rows[k];
  }
  return !any(both);
}

// Sets v_ and level_v_, E and the active rows.
bool ShiftedOcpAdjoint::prepare(const OcpBatch& batch, int i, const OcpBatchSolution& solution) {
  kkt_.load(batch, i, i + 1, scaling_);
  if (!any(kkt_.valid())) return false;
  read(solution, i, v_);
  PackArray& s = level_v_.rows;
  if (!read_shifts(solution, i, s)) return false;
  for (int k = 0; k < shifted_.size(); ++k)
    shifted_[k] = select((s[k] != Pack(0.0)) | (kkt_.lower()[k] == kkt_.upper()[k]), 1.0, 0.0);
  const LaneLevel level{&shifted_, &s};
  system_.find_active(scaling_, v_.unknowns, v_.rows, &level);
  if (!level_.set(batch, i, shifted_) || !any(system_.factor(&shifted_))) return false;
  // The multipliers of the first level, E's + F'pi = 0, and the least eta.
  if (!(level_.solve(s, nullptr, first_.unknowns) <= OcpLevel::accepted)) return false;
  if (!(level_.solve(v_.rows, nullptr, level_v_.unknowns) <= OcpLevel::accepted)) return false;
  const int count = kkt_.unknowns() - kkt_.variables();
  level_v_.unknowns.tail(count) = -first_.unknowns.tail(count);
  return true;
}

void ShiftedOcpAdjoint::read_loss(const OcpBatchSolution& loss, int i) {
  read(loss, i, r_);
  read(lower_shifts(loss), i, lower_);
  read(upper_shifts(loss), i, upper_);
  for (int k = 0; k < r_s_.size(); ++k)
    r_s_[k] = shifted_[k] * select(system_.side[k] > Pack(0.0), upper_.rows[k], -lower_.rows[k]);
  objective_ = loss.objective.data == nullptr ? 0.0 : *loss.objective.at(i);
}

// Returns the residual.
double ShiftedOcpAdjoint::solve() {
  const int unknowns = kkt_.unknowns(), costates = kkt_.variables(), rows = kkt_.rows();
  PackArray &rhs = work_.unknowns, &product = work_.rows;
  // The first level.
  double residual = level_.solve(r_.rows, &r_.unknowns, first_.unknowns);
  level_.apply(first_.unknowns, product);
  for (int k = 0; k < rows; ++k) level_q_.rows[k] = product[k] - shifted_[k] * r_.rows[k];

  // The second level.
  rhs = r_.unknowns;
  level_.add_transposed(r_s_, rhs);
  const Pack c = scaling_.c;
  for (int j = 0; j < unknowns; ++j) scaled_r_.x[j] = c * scaling_.D[j] * rhs[j];
  if (objective_ != 0.0) {
    system_.point.tail(unknowns - costates).setConstant(Pack(0.0));  // the cost has no costates
    kkt_.apply_hessian(system_.point, slope_);
    for (int j = 0; j < costates; ++j) scaled_r_.x[j] += Pack(objective_) * (slope_[j] + kkt_.g()[j]);
  }
  for (int k = 0; k < rows; ++k)
    scaled_r_.z[k] = scaling_.E[k] * system_.active[k] * select(shifted_[k] > Pack(0.0), product[k], r_.rows[k]);
  residual = std::max(residual, system_.solve(scaled_r_, scaled_q_)[0]);
  for (int j = 0; j < unknowns; ++j) q_.unknowns[j] = scaling_.D[j] * scaled_q_.x[j];
  for (int k = 0; k < rows; ++k) q_.rows[k] = scaling_.E[k] / c * scaled_q_.z[k];

  // The least eta.
  residual = std::max(residual, level_.solve(q_.rows, nullptr, level_q_.unknowns));
  level_.apply(level_q_.unknowns, product);
  for (int k = 0; k < rows; ++k) q_.rows[k] = select(shifted_[k] > Pack(0.0), product[k] - r_s_[k], q_.rows[k]);
  q_.unknowns.tail(unknowns - costates) += level_q_.unknowns.tail(unknowns - costates);
  level_q_.unknowns.tail(unknowns - costates) = first_.unknowns.tail(unknowns - costates);
  return residual;
}

bool ShiftedOcpAdjoint::put(const OcpBatch& batch, int i, const OcpBatchSolution& loss, const OcpGradients& out,
                            const CertificateBatch& certificate) {
  read_loss(loss, i);
  const double residual = solve();
  if (!(residual <= system_.accepted)) return false;
  write_certificate({residual, static_cast<int>(system_.weakly_active[0]), 0}, certificate, i);
  const bool done = true;
  const OcpAdjointPair<double> pair{v_.view(),  q_.view(),     level_v_.view(), level_q_.view(), numbers(system_.side),
                                    objective_, &kkt_.slacks()};
  add_gradients(kkt_.layout(), batch, pair, i, i + 1, &done, out);
  return true;
}

}  // namespace qp_control
