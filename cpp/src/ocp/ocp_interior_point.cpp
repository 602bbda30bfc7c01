#include "qp_control/ocp_interior_point.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qp_control {
namespace {

constexpr int most_steps = 150, most_stalled = 12, refinements = 2;
constexpr double most_mean = 1e16;  // on the way to huge multipliers
constexpr double to_boundary = 0.995;
constexpr double least_regularisation = 1e-12, most_regularisation = 1e-10;
constexpr double sign[2] = {1.0, -1.0};

double largest(const PackArray& a) {
  Pack out = 0.0;
  for (const Pack& entry : a) out = max(out, abs(entry));
  return max_of_lanes(out)[0];
}

}  // namespace

OcpInteriorPoint::Side::Side(int rows)
    : present(rows), bound(rows), s(rows), z(rows), ds(rows), dz(rows), weight(rows), residual(rows), target(rows) {}

OcpInteriorPoint::OcpInteriorPoint(const RiccatiKkt<double>& kkt) : sides_{Side(kkt.rows()), Side(kkt.rows())} {
  for (PackArray* a : {&equality_, &y_, &dy_, &equality_residual_, &weight_, &row_, &v_, &best_z_})
    a->setConstant(kkt.rows(), Pack(0.0));
  for (PackArray* a : {&x_, &dx_, &dual_, &r_, &product_, &best_x_}) a->setConstant(kkt.unknowns(), Pack(0.0));
}

void OcpInteriorPoint::load(const RiccatiKkt<double>& kkt) {
  Pack count = 0.0;
  for (int i = 0; i < equality_.size(); ++i) {
    const Mask equal = kkt.lower()[i] == kkt.upper()[i];
    equality_[i] = select(equal, 1.0, 0.0);
    for (int k = 0; k < 2; ++k) {
      const Pack bound = k == 0 ? kkt.upper()[i] : kkt.lower()[i];
      const Mask present = finite(bound) & !equal;
      sides_[k].present[i] = select(present, 1.0, 0.0);
      sides_[k].bound[i] = select(present, bound, 0.0);
      count += sides_[k].present[i];
    }
  }
  count_ = sum_of_lanes(count)[0];
  rho_ = mu_ = 1e-8;
}

// From the least-squares point of all bounds, moved into the interior.
void OcpInteriorPoint::start(RiccatiKkt<double>& kkt) {
  x_.setConstant(Pack(0.0));
  y_.setConstant(Pack(0.0));
  best_x_.setConstant(Pack(0.0));
  best_z_.setConstant(Pack(0.0));
  dual_ = kkt.g();
  for (int k = 0; k < 2; ++k) {
    Side& side = sides_[k];
    for (PackArray* a : {&side.s, &side.z}) a->setConstant(Pack(1.0));
    side.target.setConstant(Pack(0.0));
    for (int i = 0; i < side.s.size(); ++i) side.residual[i] = Pack(sign[k]) * side.bound[i];
  }
  for (int i = 0; i < y_.size(); ++i) equality_residual_[i] = select(equality_[i] > Pack(0.0), kkt.lower()[i], 0.0);
  if (!factor(kkt)) return;
  solve(kkt);
  x_ = dx_;
  y_ = dy_;
  kkt.apply_rows(x_, v_);
  Pack least_s = 0.0, least_z = 0.0;
  for (int k = 0; k < 2; ++k) {
    Side& side = sides_[k];
    for (int i = 0; i < side.s.size(); ++i) {
      side.s[i] = side.present[i] * Pack(sign[k]) * (side.bound[i] - v_[i]);
      least_s = min(least_s, side.s[i]);
      least_z = min(least_z, -side.s[i]);
    }
  }
  const Pack add_s = Pack(1.0) + max_of_lanes(-least_s), add_z = Pack(1.0) + max_of_lanes(-least_z);
  for (Side& side : sides_)
    for (int i = 0; i < side.s.size(); ++i) {
      const Mask present = side.present[i] > Pack(0.0);
      side.z[i] = select(present, add_z - side.s[i], 1.0);
      side.s[i] = select(present, add_s + side.s[i], 1.0);
    }
}

double OcpInteriorPoint::evaluate(const RiccatiKkt<double>& kkt) {
  kkt.apply_rows(x_, v_);
  kkt.apply_hessian(x_, dual_);
  Pack products = 0.0, primal = 0.0, size = 0.0;
  for (int i = 0; i < v_.size(); ++i) {
    const Pack lower = select(equality_[i] > Pack(0.0), kkt.lower()[i], 0.0);
    equality_residual_[i] = equality_[i] * (lower - v_[i]);
    primal = max(primal, abs(equality_residual_[i]));
    size = max(size, abs(lower));
    row_[i] = equality_[i] * y_[i];
    for (int k = 0; k < 2; ++k) {
      Side& side = sides_[k];
      const Pack present = side.present[i];
      side.residual[i] = present * (Pack(sign[k]) * (side.bound[i] - v_[i]) - side.s[i]);
      row_[i] += present * Pack(sign[k]) * side.z[i];
      primal = max(primal, abs(side.residual[i]));
      size = max(size, abs(side.bound[i]));
      products += present * side.s[i] * side.z[i];
    }
  }
  kkt.add_rows_transposed(row_, dual_);
  for (int j = 0; j < dual_.size(); ++j) dual_[j] += kkt.g()[j];
  mean_ = count_ > 0.0 ? sum_of_lanes(products)[0] / count_ : 0.0;
  primal_ = max_of_lanes(primal)[0] / (1.0 + max_of_lanes(size)[0]);
  return std::max({primal_, largest(dual_) / (1.0 + largest(kkt.g())), mean_});
}

bool OcpInteriorPoint::factor(RiccatiKkt<double>& kkt) {
  for (int i = 0; i < weight_.size(); ++i) {
    weight_[i] = equality_[i] / Pack(mu_);
    for (Side& side : sides_) {
      side.weight[i] = side.present[i] / (side.s[i] / side.z[i] + Pack(mu_));
      weight_[i] += side.weight[i];
    }
  }
  return any(kkt.factor(weight_, rho_));
}

// sign R dx + ds - mu dz = residual and z ds + s dz = target, so dz = weight (sign R dx - residual + target / z).
void OcpInteriorPoint::solve(const RiccatiKkt<double>& kkt) {
  const int variables = kkt.variables();
  for (int i = 0; i < row_.size(); ++i) {
    row_[i] = equality_[i] / Pack(mu_) * equality_residual_[i];
    for (int k = 0; k < 2; ++k) {
      const Side& side = sides_[k];
      row_[i] += Pack(sign[k]) * side.weight[i] * (side.residual[i] - side.target[i] / side.z[i]);
    }
  }
  r_.setConstant(Pack(0.0));
  kkt.add_rows_transposed(row_, r_);
  for (int j = 0; j < r_.size(); ++j) dual_[j] = r_[j] - dual_[j];  // the right-hand side; evaluate() makes it anew
  dx_ = dual_;
  kkt.solve(dx_);
  for (int k = 0; k < refinements; ++k) {
    kkt.apply_rows(dx_, v_);
    for (int i = 0; i < v_.size(); ++i) v_[i] *= weight_[i];
    kkt.apply_hessian(dx_, product_);
    kkt.add_rows_transposed(v_, product_);
    for (int j = 0; j < product_.size(); ++j)
      product_[j] = dual_[j] - product_[j] - Pack(j < variables ? rho_ : 0.0) * dx_[j];
    kkt.solve(product_);
    for (int j = 0; j < dx_.size(); ++j) dx_[j] += product_[j];
  }
  for (int j = 0; j < r_.size(); ++j) dual_[j] = r_[j] - dual_[j];
  kkt.apply_rows(dx_, v_);
  for (int i = 0; i < v_.size(); ++i) {
    dy_[i] = equality_[i] / Pack(mu_) * (v_[i] - equality_residual_[i]);
    for (int k = 0; k < 2; ++k) {
      Side& side = sides_[k];
      const Pack free = side.residual[i] - side.target[i] / side.z[i];
      side.dz[i] = side.weight[i] * (Pack(sign[k]) * v_[i] - free);
      side.ds[i] = side.present[i] * (side.target[i] - side.s[i] * side.dz[i]) / side.z[i];
    }
  }
}

double OcpInteriorPoint::step_length(PackArray Side::* value, PackArray Side::* change) const {
  Pack shrink = to_boundary;
  for (const Side& side : sides_)
    for (int i = 0; i < y_.size(); ++i) shrink = max(shrink, -(side.*change)[i] / (side.*value)[i]);
  return to_boundary / max_of_lanes(shrink)[0];
}

void OcpInteriorPoint::keep() {
  best_x_ = x_;
  for (int i = 0; i < best_z_.size(); ++i) {
    best_z_[i] = equality_[i] * y_[i];
    for (int k = 0; k < 2; ++k) {
      const Side& side = sides_[k];
      best_z_[i] += select(side.z[i] > side.s[i], side.present[i] * Pack(sign[k]) * side.z[i], 0.0);
    }
  }
}

void OcpInteriorPoint::run(RiccatiKkt<double>& kkt, int max_steps, const Deadline& deadline, Iterate& it) {
  load(kkt);
  start(kkt);
  double best = std::numeric_limits<double>::infinity(), kept_mean = best, least_primal = best;
  double largest_mean = 0.0;
  for (int step = 0, stalled = 0; step < std::min(max_steps, most_steps); ++step) {
    const double error = evaluate(kkt);
    if (!std::isfinite(error)) break;
    // See interior_point.cpp.
    const bool grows = mean_ > 1.5 * largest_mean && mean_ < most_mean;
    stalled = error < 0.9 * best || primal_ < 0.9 * least_primal || grows ? 0 : stalled + 1;
    least_primal = std::min(least_primal, primal_);
    largest_mean = std::max(largest_mean, mean_);
    if (error < best || (error < 10.0 * best && mean_ < 0.1 * kept_mean)) {
      kept_mean = mean_;
      keep();
    }
    best = std::min(best, error);
    if ((count_ > 0.0 && mean_ < 1e-25) || stalled > most_stalled || deadline.passed()) break;
    mu_ = std::clamp(1e-5 * mean_, least_regularisation, most_regularisation);
    rho_ = 0.1 * mu_;
    ++it.steps;
    if (!factor(kkt)) break;
    for (Side& side : sides_)
      for (int i = 0; i < y_.size(); ++i) side.target[i] = -side.present[i] * side.s[i] * side.z[i];
    solve(kkt);
    if (count_ > 0.0) {
      const Pack primal = step_length(&Side::s, &Side::ds), dual = step_length(&Side::z, &Side::dz);
      Pack products = 0.0;
      for (const Side& side : sides_)
        for (int i = 0; i < y_.size(); ++i)
          products += side.present[i] * (side.s[i] + primal * side.ds[i]) * (side.z[i] + dual * side.dz[i]);
      const double after = sum_of_lanes(products)[0] / count_;
      const Pack centre = std::min(1.0, std::pow(after / mean_, 3.0)) * mean_;
      for (Side& side : sides_)
        for (int i = 0; i < y_.size(); ++i) side.target[i] += side.present[i] * (centre - side.ds[i] * side.dz[i]);
      solve(kkt);
    }
    const Pack along_x = step_length(&Side::s, &Side::ds), along_z = step_length(&Side::z, &Side::dz);
    for (int j = 0; j < x_.size(); ++j) x_[j] += (j < kkt.variables() ? along_x : along_z) * dx_[j];
    for (int i = 0; i < y_.size(); ++i) y_[i] += along_z * dy_[i];
    for (Side& side : sides_)
      for (int i = 0; i < y_.size(); ++i) {
        side.s[i] += along_x * side.ds[i];
        side.z[i] += along_z * side.dz[i];
      }
  }
  it.x = best_x_;
  it.z = best_z_;
}

}  // namespace qp_control
