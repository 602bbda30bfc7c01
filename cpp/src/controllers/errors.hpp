// Errors of what is read from files.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace qp_control {

[[noreturn]] inline void fail(const std::string& what) { throw std::runtime_error(what); }

// As in "has shape (30, 4), expected (4)".
inline std::string shape_text(const std::vector<long>& shape) {
  std::string out;
  for (const long size : shape) out += (out.empty() ? "" : ", ") + std::to_string(size);
  return "(" + out + ")";
}

}  // namespace qp_control
