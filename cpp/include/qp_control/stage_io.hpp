// Pieces of a batch's arrays to and from a register's lanes (Pack), or of one element (double).
#pragma once

#include <algorithm>

#include "qp_control/lane_kernels.hpp"
#include "qp_control/lane_kkt.hpp"

namespace qp_control {

inline void read_stage(const BatchArray& array, int first, int last, long size, double missing, Pack* out) {
  load_elements(array, first, last, size, missing, out);
}
inline void read_stage(const BatchArray& array, int first, int, long size, double missing, double* out) {
  if (array.data == nullptr)
    std::fill_n(out, size, missing);
  else
    std::copy_n(array.at(first), size, out);
}

// `size` numbers at `position` of each element's array; absent arrays are zero.
template <class Real>
void read_piece(const MutableBatchArray& array, int position, int size, int first, int last, Real* to) {
  read_stage({array.data == nullptr ? nullptr : array.data + position, array.stride}, first, last, size, 0.0, to);
}

// To the elements of `which`.
inline void write_piece(const Pack* from, int size, const MutableBatchArray& array, int position, int first, int last,
                        Mask which) {
  if (array.data == nullptr) return;
  double* to[lanes];
  for (int lane = 0; lane < lanes; ++lane)
    to[lane] = lane < last - first && which[lane] ? array.at(first + lane) + position : nullptr;
  store_lanes(from, size, to);
}
inline void write_piece(const double* from, int size, const MutableBatchArray& array, int position, int first, int,
                        Mask which) {
  if (array.data != nullptr && which[0]) std::copy_n(from, size, array.at(first) + position);
}

}  // namespace qp_control
