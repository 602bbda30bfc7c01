// Between the caller's arrays of a batch and the stacked rows of one element.
#pragma once

#include <algorithm>

#include "qp_control/dense_batch.hpp"

namespace qp_control {

// Where the caller's blocks stand in the stacked rows: equalities, inequalities, box.
struct Blocks {
  explicit Blocks(DenseDims d) : n(d.n), n_eq(d.n_eq), n_in(d.n_in), box(d.n_eq + d.n_in) {}
  int n, n_eq, n_in, box;
};

// Absent arrays read as zero and are not written.
inline void read(const double* from, double* to, long size) {
  if (from != nullptr)
    std::copy_n(from, size, to);
  else
    std::fill_n(to, size, 0.0);
}

inline void write(const double* from, double* to, long size) {
  if (to != nullptr) std::copy_n(from, size, to);
}

inline void write(const double* from, signed char* to, long size) {
  if (to != nullptr) std::transform(from, from + size, to, [](double side) { return static_cast<signed char>(side); });
}

inline void add(const double* from, double* to, long size) {
  if (to != nullptr)
    for (long i = 0; i < size; ++i) to[i] += from[i];
}

inline void read_point(const Blocks& k, const DenseBatchSolution& from, int i, Vector& x, Vector& z) {
  read(from.x.at(i), x.data(), k.n);
  read(from.y.at(i), z.data(), k.n_eq);
  read(from.z.at(i), z.data() + k.n_eq, k.n_in);
  read(from.w.at(i), z.data() + k.box, k.n);
}

inline void read_active(const Blocks& k, const DenseBatchSolution& from, int i, const Vector& z, Vector& active) {
  active = z;
  if (const double* in = from.start_in.at(i)) std::copy_n(in, k.n_in, active.data() + k.n_eq);
  if (const double* box = from.start_box.at(i)) std::copy_n(box, k.n, active.data() + k.box);
}

// Elements that a thread takes at a time: a multiple of `width`, the same for any number of threads.
inline int grain_of(int size, int width = 1) { return std::max(1, ((size + 63) / 64 + width - 1) / width) * width; }

}  // namespace qp_control
