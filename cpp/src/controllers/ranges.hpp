// Which numbers an array of a file may have.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "errors.hpp"
#include "qp_control/dense_qp.hpp"

namespace qp_control {

enum class Range { FINITE, LOWER, UPPER, NOT_NEGATIVE, POSITIVE };

inline bool within(Range range, double number) {
  switch (range) {
    case Range::FINITE:
      return std::isfinite(number);
    case Range::LOWER:
      return number < infinite_bound;
    case Range::UPPER:
      return number > -infinite_bound;
    case Range::NOT_NEGATIVE:
      return number >= 0.0;
    case Range::POSITIVE:
      return number > 0.0;
  }
  return false;
}

inline void check_range(const std::string& name, const std::vector<double>& numbers, Range range) {
  for (std::size_t i = 0; i < numbers.size(); ++i)
    if (!within(range, numbers[i]))
      fail("the array " + name + " has the number " + number_text(numbers[i]) + " at " + std::to_string(i));
}

}  // namespace qp_control
