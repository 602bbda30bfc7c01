#include "qp_control/ocp_system.hpp"

#include <algorithm>

#include "qp_control/stage_io.hpp"

namespace qp_control {

template <class Real>
OcpSystem<Real>::OcpSystem(const OcpBatch& batch, bool shifts)
    : kkt_(batch),
      system_(kkt_, kkt_.unknowns(), kkt_.rows()),
      scaling_(kkt_.unknowns(), kkt_.rows()),
      shifted_(PackArray::Constant(kkt_.rows(), Pack(0.0))),
      able_(Mask::all(false)),
      fixed_start_(batch.fixed_start()),
      slope_(kkt_.unknowns()),
      product_(kkt_.unknowns()),
      scaled_rhs_(kkt_.unknowns(), kkt_.rows()),
      scaled_q_(kkt_.unknowns(), kkt_.rows()) {
  for (Vector* a : {&v, &rhs, &q}) {
    a->unknowns.setConstant(kkt_.unknowns(), Pack(0.0));
    a->rows.setConstant(kkt_.rows(), Pack(0.0));
    if (!shifts) continue;
    a->level_unknowns = a->unknowns;
    a->level_rows = a->rows;
  }
  if (shifts) gap = v.rows;
  const int widest = std::max({batch.dims.nx, batch.dims.nu, batch.dims.rows, batch.dims.terminal_rows});
  block.setConstant(layout().in_packs(widest * widest), Pack(0.0));
}

template <class Real>
void OcpSystem<Real>::read(const OcpBatchSolution& from, int first, int last, PackArray& unknowns,
                           PackArray& rows) const {
  unknowns.setConstant(Pack(0.0));
  rows.setConstant(Pack(0.0));
  const auto into = [first, last](PackArray& to) {
    return [&to, first, last](const MutableBatchArray& array, int position, int size, int place) {
      read_piece(array, position, size, first, last, entries(to) + place);
    };
  };
  for_each_piece(layout(), from, into(unknowns), into(rows));
  for_each_slack(layout(), from, into(unknowns));
}

template <class Real>
void OcpSystem<Real>::write(const PackArray& unknowns, const PackArray& rows, const OcpBatchSolution& to, int first,
                            int last, Mask which) const {
  const auto from = [first, last, which](const PackArray& a) {
    return [&a, first, last, which](const MutableBatchArray& array, int position, int size, int place) {
      write_piece(entries(a) + place, size, array, position, first, last, which);
    };
  };
  for_each_piece(layout(), to, from(unknowns), from(rows));
  for_each_slack(layout(), to, from(unknowns));
}

template <class Real>
const PackArray& OcpSystem<Real>::slope() {
  const int costates = kkt_.variables();
  PackArray& cost_only = product_;  // the cost has no costates
  cost_only = system_.point;
  cost_only.tail(cost_only.size() - costates).setConstant(Pack(0.0));
  kkt_.apply_hessian(cost_only, slope_);
  for (int j = 0; j < slope_.size(); ++j)
    slope_[j] = j < costates ? (slope_[j] + kkt_.g()[j]) / (scaling_.c * scaling_.D[j]) : Pack(0.0);
  return slope_;
}

template <class Real>
Pack OcpSystem<Real>::solve_active(const PackArray& unknowns, const PackArray& rows) {
  const Pack c = scaling_.c;
  for (int j = 0; j < unknowns.size(); ++j) scaled_rhs_.x[j] = c * scaling_.D[j] * unknowns[j];
  if (!fixed_start_) std::fill_n(entries(scaled_rhs_.x) + layout().y(0), layout().nx, Real(0.0));
  for (int i = 0; i < rows.size(); ++i) scaled_rhs_.z[i] = system_.active[i] * scaling_.E[i] * rows[i];
  const Pack residual = system_.solve(scaled_rhs_, scaled_q_);
  for (int j = 0; j < unknowns.size(); ++j) q.unknowns[j] = scaling_.D[j] * scaled_q_.x[j];
  for (int i = 0; i < rows.size(); ++i) q.rows[i] = scaling_.E[i] / c * scaled_q_.z[i];
  return residual;
}

template <class Real>
void SolvedOcpSystem<Real>::set(const OcpBatch& batch, int first, int last, const OcpBatchSolution& solution) {
  this->able_ = this->kkt_.load(batch, first, last, this->scaling_);
  for (int lane = 0; lane < lanes; ++lane) {
    const int i = std::is_same_v<Real, Pack> ? first + lane : first;
    if (i >= last || solution.status[i] != static_cast<int>(Status::SOLVED)) this->able_.set(lane, false);
  }
  this->read(solution, first, last, this->v.unknowns, this->v.rows);
  this->slacks().complete(this->v.unknowns, this->v.rows);
  this->system_.find_active(this->scaling_, this->v.unknowns, this->v.rows);
}

template <class Real>
void SolvedOcpSystem<Real>::factor() {
  if (any(this->able_)) this->able_ = this->able_ & this->system_.factor();
}

template class OcpSystem<Pack>;
template class OcpSystem<double>;
template class SolvedOcpSystem<Pack>;
template class SolvedOcpSystem<double>;

}  // namespace qp_control
