// Batches of awkward problems made from bytes: the same bytes are the same problems on every machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "qp_control/dense_batch.hpp"

namespace qp_control {

// Decisions taken from a string of bytes, from its start again when it ends.
class Choices {
 public:
  Choices(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  unsigned byte() { return size_ == 0 ? 0 : data_[at_++ % size_]; }
  int below(int count) { return static_cast<int>((byte() << 8 | byte()) % count); }
  bool one_in(int count) { return below(count) == count - 1; }
  double real() { return (static_cast<int>(byte() << 16 | byte() << 8 | byte()) - (1 << 23)) * std::ldexp(3.0, -23); }
  template <std::size_t count>
  double among(const double (&values)[count]) {
    return values[below(count)];
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
};

struct FuzzBatch {
  // Every element in memory of its own size, so that the address sanitizer sees a read beyond it.
  struct Array {
    std::vector<double> values;
    long size = 0;
    bool absent = true, shared = false;
    BatchArray view() const { return {absent ? nullptr : values.data(), shared ? 0 : size}; }
    double* at(int element) { return values.data() + (shared ? 0 : element * size); }
  };

  explicit FuzzBatch(Choices& choose);

  DenseBatch view() const;
  DenseBatch element(int i) const;  // alone, as a batch of one

  DenseDims dims;
  int size = 1;
  bool ordinary = true;  // no entries beyond 1e4
  bool even = true;      // nor rows of very different sizes
  Array H, g, A, b, C, l, u, lb, ub, weight_eq, weight_in, weight_box;

 private:
  enum Flavour { INTEGER, REAL, WILD, ENORMOUS };

  double entry(Choices& choose) const;
  void make(Choices& choose, Array& array, long count, int absent_one_in);
  void make_hessian(Choices& choose);
  void make_rows(Choices& choose, Array& rows, int count);
  void make_bounds(Choices& choose, Array& low, Array& high, const Array* rows, int count);
  void make_weights(Choices& choose, Array& weights, int count);
  void poison(Choices& choose);

  Flavour flavour_ = REAL;
  std::vector<double> point_;  // that bounds are put around
};

inline double FuzzBatch::entry(Choices& choose) const {
  switch (flavour_) {
    case INTEGER:
      return choose.among({0.0, 0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -3.0});
    case REAL:
      return choose.one_in(6) ? 0.0 : choose.real();
    case WILD:
      return choose.among({0.0, 1.0, -1.0, 1e-12, -1e-12, 1e12, -1e12, 3.0, -0.5});
    default:
      return choose.among({0.0, 1.0, -1.0, 1e300, -1e300, 1e-300, 1e160, -2.0});
  }
}

inline void FuzzBatch::make(Choices& choose, Array& array, long count, int absent_one_in) {
  array.absent = count > 0 && absent_one_in > 0 && choose.one_in(absent_one_in);
  array.shared = choose.one_in(3);
  array.size = count;
  array.values.assign(array.absent ? 0 : count * (array.shared ? 1 : size), 0.0);
  for (double& value : array.values) value = entry(choose);
}

// Sums of squares of a few rows (semidefinite), diagonal, zero, absent, or whatever comes (indefinite).
inline void FuzzBatch::make_hessian(Choices& choose) {
  const int n = dims.n;
  make(choose, H, long(n) * n, 8);
  if (H.absent || n == 0) return;
  const int kind = choose.below(8);
  for (int k = 0; k < (H.shared ? 1 : size); ++k) {
    double* M = H.at(k);
    const std::vector<double> F(M, M + n * n);
    const int rank = kind < 3 ? n : choose.below(n + 1);
    const bool indefinite = kind == 7 && choose.one_in(3);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j <= i; ++j) {
        double sum = 0.0;
        if (kind < 6)
          for (int r = 0; r < rank; ++r) sum += F[r * n + i] * F[r * n + j];
        else if (indefinite)
          sum = F[i * n + j];
        else if (kind == 6 && i == j)
          sum = std::abs(F[i * n + i]);
        M[i * n + j] = M[j * n + i] = sum;
      }
    if (kind < 3)
      for (int i = 0; i < n; ++i) M[i * n + i] += 1.0;
  }
}

// Rows with repetitions, sums of others, zeros, and rows of other sizes.
inline void FuzzBatch::make_rows(Choices& choose, Array& rows, int count) {
  const int n = dims.n;
  make(choose, rows, long(count) * n, 0);
  const bool other_sizes = flavour_ == REAL && choose.one_in(4);
  even = even && !other_sizes;
  for (int k = 0; k < (rows.shared ? 1 : size); ++k)
    for (int i = 0; i < count; ++i) {
      double* row = rows.at(k) + i * n;
      const int kind = choose.below(20);
      const double factor = other_sizes ? std::pow(10.0, choose.below(7) - 3) : 1.0;
      for (int j = 0; j < n; ++j) {
        if (kind == 0) row[j] = 0.0;
        if (kind == 1 && i > 0) row[j] = row[j - n];
        if (kind == 2 && i > 0) row[j] = -2.0 * row[j - n];
        if (kind == 3 && i > 1) row[j] = row[j - n] + row[j - 2 * n];
        row[j] *= factor;
      }
    }
}

// Around the values of the rows at one point, or anywhere; equal, one-sided, crossing, infinite. For equalities low
// and high are the same array.
inline void FuzzBatch::make_bounds(Choices& choose, Array& low, Array& high, const Array* rows, int count) {
  const bool equalities = &low == &high, around = !choose.one_in(4);
  make(choose, low, count, equalities ? 0 : 6);
  if (!equalities) make(choose, high, count, 6);
  if (around) {
    // What is put around the rows of one element is shared only if the rows are.
    for (Array* bounds : {&low, &high}) {
      bounds->shared = rows != nullptr && rows->shared;
      if (!bounds->absent) bounds->values.resize(long(count) * (bounds->shared ? 1 : size), 0.5);
    }
  }
  if (low.absent || high.absent || low.shared != high.shared || flavour_ > REAL) return;
  for (int k = 0; k < (low.shared ? 1 : size); ++k)
    for (int i = 0; i < count; ++i) {
      double value = point_[rows == nullptr ? i : 0];
      if (rows != nullptr) {
        const double* row = const_cast<Array*>(rows)->at(k) + i * dims.n;
        value = 0.0;
        for (int j = 0; j < dims.n; ++j) value += row[j] * point_[j];
      }
      double &l = low.at(k)[i], &u = high.at(k)[i];
      if (equalities) {
        if (around) l = value;
        continue;
      }
      if (around) {
        l = value - std::abs(l);
        u = value + std::abs(u);
      } else if (!choose.one_in(12) && l > u) {
        std::swap(l, u);
      }
      const int kind = choose.below(10);
      if (kind < 2) l = kind == 0 ? -1e30 : -std::numeric_limits<double>::infinity();
      if (kind == 2 || kind == 3) u = kind == 2 ? 1e20 : std::numeric_limits<double>::infinity();
      if (kind == 4) l = u = around ? value : l;
    }
}

inline void FuzzBatch::make_weights(Choices& choose, Array& weights, int count) {
  make(choose, weights, count, 2);
  const bool hard = choose.one_in(3), wrong = choose.one_in(30);
  for (double& weight : weights.values) {
    weight = choose.among({1.0, 0.5, 2.0, 10.0, 0.1});
    if (hard && choose.one_in(3)) weight = std::numeric_limits<double>::infinity();
    if (wrong && choose.one_in(3)) weight = choose.among({0.0, -1.0, std::numeric_limits<double>::quiet_NaN()});
  }
}

// One entry somewhere becomes infinite or NaN.
inline void FuzzBatch::poison(Choices& choose) {
  Array* const arrays[] = {&H, &g, &A, &b, &C, &l, &u, &lb, &ub};
  Array& array = *arrays[choose.below(9)];
  if (array.values.empty()) return;
  const double infinity = std::numeric_limits<double>::infinity();
  array.values[choose.below(static_cast<int>(array.values.size()))] =
      choose.among({infinity, -infinity, std::numeric_limits<double>::quiet_NaN()});
}

inline FuzzBatch::FuzzBatch(Choices& choose) {
  constexpr Flavour flavours[] = {INTEGER, INTEGER, INTEGER, REAL, REAL, REAL, REAL, WILD, WILD, ENORMOUS};
  flavour_ = flavours[choose.below(10)];
  ordinary = even = flavour_ <= REAL;
  const bool large = choose.one_in(12);
  dims.n = choose.below(large ? 31 : 9);
  dims.n_eq = choose.one_in(2) ? choose.below(std::max(2, dims.n)) : 0;
  dims.n_in = choose.below(large ? 40 : 9);
  size = choose.one_in(3) ? 1 + choose.below(large ? 5 : 19) : 1;
  for (int j = 0; j < dims.n; ++j) point_.push_back(flavour_ == INTEGER ? choose.below(5) - 2.0 : choose.real());
  point_.push_back(0.0);
  make_hessian(choose);
  make(choose, g, dims.n, 0);
  make_rows(choose, A, dims.n_eq);
  make_bounds(choose, b, b, &A, dims.n_eq);
  make_rows(choose, C, dims.n_in);
  make_bounds(choose, l, u, &C, dims.n_in);
  make_bounds(choose, lb, ub, nullptr, dims.n);
  make_weights(choose, weight_eq, dims.n_eq);
  make_weights(choose, weight_in, dims.n_in);
  make_weights(choose, weight_box, dims.n);
  if (choose.one_in(10)) poison(choose);
}

inline DenseBatch FuzzBatch::view() const {
  return {dims,     size,     H.view(),  g.view(),  A.view(),         b.view(),         C.view(),
          l.view(), u.view(), lb.view(), ub.view(), weight_eq.view(), weight_in.view(), weight_box.view()};
}

inline DenseBatch FuzzBatch::element(int i) const {
  DenseBatch out = view();
  out.size = 1;
  for (BatchArray* array : {&out.H, &out.g, &out.A, &out.b, &out.C, &out.l, &out.u, &out.lb, &out.ub, &out.weight_eq,
                            &out.weight_in, &out.weight_box})
    array->data = array->at(i);
  return out;
}

}  // namespace qp_control
