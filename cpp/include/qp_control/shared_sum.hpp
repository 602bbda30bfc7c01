#pragma once

#include <algorithm>
#include <vector>

#include "qp_control/blocks.hpp"

namespace qp_control {

// A shared gradient is summed range by range and the ranges' sums in order: the same bits for any number of threads.
class SharedSum {
 public:
  SharedSum(const MutableBatchArray& array, long size, int ranges) : target_(array), size_(size) {
    if (array.data == nullptr || array.stride != 0) return;
    total_ = array.data;
    partial_.assign(size * ranges, 0.0);
  }
  bool active() const { return total_ != nullptr; }
  // What range r adds to.
  MutableBatchArray of_range(int r) { return active() ? MutableBatchArray{partial_.data() + r * size_, 0} : target_; }
  void finish(int ranges) {
    if (active()) std::fill_n(total_, size_, 0.0);
    for (int r = 0; active() && r < ranges; ++r) add(partial_.data() + r * size_, total_, size_);
  }

 private:
  MutableBatchArray target_;
  long size_;
  double* total_ = nullptr;
  std::vector<double> partial_;
};

}  // namespace qp_control
