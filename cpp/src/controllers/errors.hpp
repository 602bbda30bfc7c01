// Errors of what is read from files.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace qp_control {

[[noreturn]] inline void fail(const std::string& what) { throw std::runtime_error(what); }

// In as few digits as tell what it is.
inline std::string number_text(double number) {
  std::ostringstream out;
  out << number;
  return out.str();
}

// As in "has shape (30, 4), expected (4)".
inline std::string shape_text(const std::vector<long>& shape) {
  std::string out;
  for (const long size : shape) out += (out.empty() ? "" : ", ") + std::to_string(size);
  return "(" + out + ")";
}

}  // namespace qp_control
