#include "qp_control/ocp_slacks.hpp"

#include <limits>

#include "qp_control/stage_io.hpp"

namespace qp_control {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double largest_curvature = 1e16;  // that still has a say in the scale

Mask mask(Mask m) { return m; }
Mask mask(bool b) { return Mask::all(b); }

Pack real(Pack a, const Pack*) { return a; }
double real(Pack a, const double*) { return a[0]; }

template <class Real>
Real* entries(PackArray& a) {
  return reinterpret_cast<Real*>(a.data());
}
template <class Real>
const Real* entries(const PackArray& a) {
  return reinterpret_cast<const Real*>(a.data());
}

}  // namespace

template <class Real>
OcpSlacks<Real>::OcpSlacks(const OcpLayout<Real>& at) : at_(at) {
  const int slacks = at.variables() - at.slack_lower(0);
  const auto make = [&](PackArray& a, int size) { a.setConstant(at.in_packs(size), Pack(0.0)); };
  for (PackArray* a : {&linear_, &quadratic_, &soft_, &curvature_, &coefficient_, &h_, &coupling_, &inverse_})
    make(*a, slacks);
  make(rows_, std::max(at.soft_rows, at.soft_terminal_rows));
}

template <class Real>
template <class Body>
void OcpSlacks<Real>::for_each(const Body& body) const {
  for (int k = 0; k <= at_.N && at_.soft(); ++k)
    for (int i = 0; i < at_.soft_count(k); ++i) {
      body(at_.row(k) + i, at_.slack_lower(k) + i, at_.box_of_slacks_lower(k) + i, 1.0);
      body(at_.row(k) + i, at_.slack_upper(k) + i, at_.box_of_slacks_upper(k) + i, -1.0);
    }
}

template <class Real>
Mask OcpSlacks<Real>::load(const OcpBatch& batch, int first, int last, Real* g, Real* lower, Real* upper) {
  Mask valid = Mask::all(true);
  Real *linear = entries<Real>(linear_), *quadratic = entries<Real>(quadratic_), *soft = entries<Real>(soft_);
  for (int k = 0; k <= at_.N && at_.soft(); ++k) {
    const int count = at_.soft_count(k);
    for (const int slack : {place(at_.slack_lower(k)), place(at_.slack_upper(k))}) {
      read_stage(batch.linear(k).of_stage(k), first, last, count, 0.0, linear + slack);
      read_stage(batch.quadratic(k).of_stage(k), first, last, count, 0.0, quadratic + slack);
    }
  }
  for_each([&](int, int unknown, int box, double) {
    Real &w1 = linear[place(unknown)], &w2 = quadratic[place(unknown)];
    valid = valid & mask((w1 >= Real(0.0)) & (w2 >= Real(0.0)));
    const auto is_soft = finite(w1) & finite(w2);
    soft[place(unknown)] = select(is_soft, 1.0, 0.0);
    g[unknown] = w1 = select(is_soft, w1, 0.0);
    w2 = select(is_soft, w2, 0.0);
    lower[box] = select(is_soft, 0.0, -infinity);
    upper[box] = infinity;
  });
  return valid;
}

template <class Real>
void OcpSlacks<Real>::scale(Equilibration& scaling) {
  Real *D = entries<Real>(scaling.D), *E = entries<Real>(scaling.E);
  const Real *quadratic = entries<Real>(quadratic_), *soft = entries<Real>(soft_);
  Real *curvature = entries<Real>(curvature_), *coefficient = entries<Real>(coefficient_);
  const Real c = real(scaling.c, D);
  // One pass of Ruiz equilibration over the columns of the slacks, whose coefficients are those of their rows.
  for_each([&](int row, int unknown, int box, double) {
    const int j = place(unknown);
    const Real size = max(E[row] * E[row], min(c * quadratic[j], Real(largest_curvature)));
    D[unknown] = inverse_root_power_of_two(size);
    E[box] = Real(1.0) / D[unknown];
    coefficient[j] = soft[j] * E[row] * D[unknown];
    curvature[j] = select(soft[j] > Real(0.0), c * D[unknown] * D[unknown] * quadratic[j], 1.0);
  });
}

template <class Real>
void OcpSlacks<Real>::apply_hessian(const Real* x, Real* out) const {
  const Real* curvature = entries<Real>(curvature_);
  for (int j = at_.slack_lower(0); j < at_.variables(); ++j) out[j] = curvature[place(j)] * x[j];
}

template <class Real>
void OcpSlacks<Real>::add_rows(const Real* x, Real* v) const {
  const Real* a = entries<Real>(coefficient_);
  for_each([&](int row, int unknown, int box, double sign) {
    v[row] += Real(sign) * a[place(unknown)] * x[unknown];
    v[box] = x[unknown];
  });
}

template <class Real>
void OcpSlacks<Real>::add_rows_transposed(const Real* z, Real* out) const {
  const Real* a = entries<Real>(coefficient_);
  for_each([&](int row, int unknown, int box, double sign) {
    out[unknown] += Real(sign) * a[place(unknown)] * z[row] + z[box];
  });
}

template <class Real>
const Real* OcpSlacks<Real>::eliminate(int k, const Real* weight, Real rho) {
  const int count = at_.soft_count(k), low = place(at_.slack_lower(k)), high = place(at_.slack_upper(k));
  if (count == 0) return weight + at_.row(k);
  const Real *curvature = entries<Real>(curvature_), *a = entries<Real>(coefficient_);
  Real *h = entries<Real>(h_), *coupling = entries<Real>(coupling_), *inverse = entries<Real>(inverse_);
  Real* left = entries<Real>(rows_);
  for (int i = 0; i < count; ++i) {
    const Real t = weight[at_.row(k) + i], coupled = a[low + i] * t;
    const Real lower = curvature[low + i] + rho + weight[at_.box_of_slacks_lower(k) + i];
    const Real upper = curvature[high + i] + rho + weight[at_.box_of_slacks_upper(k) + i];
    h[low + i] = lower;
    h[high + i] = upper;
    coupling[low + i] = coupled;
    inverse[low + i] = Real(1.0) / (lower * upper + a[low + i] * coupled * (lower + upper));
    left[i] = t * lower * upper * inverse[low + i];
  }
  return left;
}

template <class Real>
const Real* OcpSlacks<Real>::on_rows(int k, const Real* rhs) const {
  const int count = at_.soft_count(k), low = place(at_.slack_lower(k)), high = place(at_.slack_upper(k));
  const Real *h = entries<Real>(h_), *coupling = entries<Real>(coupling_), *inverse = entries<Real>(inverse_);
  const Real *lower = rhs + at_.slack_lower(k), *upper = rhs + at_.slack_upper(k);
  Real* out = entries<Real>(rows_);
  for (int i = 0; i < count; ++i)
    out[i] = coupling[low + i] * inverse[low + i] * (h[low + i] * upper[i] - h[high + i] * lower[i]);
  return out;
}

template <class Real>
void OcpSlacks<Real>::recover(int k, const Real* rows, Real* rhs) const {
  const int count = at_.soft_count(k), low = place(at_.slack_lower(k)), high = place(at_.slack_upper(k));
  const Real *a = entries<Real>(coefficient_), *h = entries<Real>(h_), *coupling = entries<Real>(coupling_),
             *inverse = entries<Real>(inverse_);
  Real *lower = rhs + at_.slack_lower(k), *upper = rhs + at_.slack_upper(k);
  for (int i = 0; i < count; ++i) {
    const Real t = coupling[low + i], both = a[low + i] * t * (lower[i] + upper[i]);
    const Real r_lower = lower[i] - t * rows[i], r_upper = upper[i] + t * rows[i];
    lower[i] = inverse[low + i] * (h[high + i] * r_lower + both);
    upper[i] = inverse[low + i] * (h[low + i] * r_upper + both);
  }
}

template <class Real>
void OcpSlacks<Real>::complete(const PackArray& point, PackArray& multipliers) const {
  const Real *x = entries<Real>(point), *linear = entries<Real>(linear_), *quadratic = entries<Real>(quadratic_);
  const Real* soft = entries<Real>(soft_);
  Real* z = entries<Real>(multipliers);
  for_each([&](int row, int unknown, int box, double sign) {
    const int j = place(unknown);
    z[box] = -slack_pull<Real>(linear[j], quadratic[j], x[unknown], Real(-sign) * soft[j] * z[row]);
  });
}

template <class Real>
void OcpSlacks<Real>::start(const PackArray& rows, const PackArray& low, const PackArray& high,
                            const PackArray& multipliers, PackArray& point) const {
  const Real *v = entries<Real>(rows), *lower = entries<Real>(low), *upper = entries<Real>(high);
  const Real *z = entries<Real>(multipliers), *a = entries<Real>(coefficient_);
  Real* x = entries<Real>(point);
  for_each([&](int row, int unknown, int box, double sign) {
    const Real excess = sign > 0.0 ? lower[row] - v[row] : v[row] - upper[row];
    const auto held = (z[box] < Real(0.0)) | (a[place(unknown)] == Real(0.0));
    x[unknown] = select(held, 0.0, max(Real(0.0), excess) / a[place(unknown)]);
  });
}

template <class Real>
Pack OcpSlacks<Real>::tidy(PackArray& point, const PackArray& multipliers) const {
  Real* x = entries<Real>(point);
  const Real *z = entries<Real>(multipliers), *linear = entries<Real>(linear_), *quadratic = entries<Real>(quadratic_);
  Real change = 0.0;
  for_each([&](int row, int unknown, int box, double sign) {
    const Real before = x[unknown], pull = Real(-sign) * z[row];
    const auto free = linear[place(unknown)] + quadratic[place(unknown)] == Real(0.0);
    const auto stays = (before > Real(0.0)) & !(z[box] < Real(0.0)) & ((pull > Real(0.0)) | free);
    x[unknown] = select(stays, before, 0.0);
    change = max(change, abs(before - x[unknown]));
  });
  return change;
}

template class OcpSlacks<Pack>;
template class OcpSlacks<double>;

}  // namespace qp_control
