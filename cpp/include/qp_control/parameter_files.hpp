// Parameters that Python has exported (qp_control/parameter_files.py): a folder with a description in controller.json,
// and arrays by name in controller.safetensors (https://github.com/huggingface/safetensors).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "qp_control/settings.hpp"

namespace qp_control {

// Row-major.
struct ParameterArray {
  std::vector<long> shape;
  std::vector<double> data;
};

struct ParameterFiles {
  std::string folder;                     // that they were read from
  std::string kind;                       // of controller
  std::string description;                // controller.json as it stands,
  std::map<std::string, double> numbers;  // and its numbers
  std::map<std::string, ParameterArray> arrays;
  std::map<std::string, unsigned> checksums;  // of further files (CRC-32)

  // All throw std::runtime_error where there is none of that name or it is not what is expected: an integer of at least
  // that size, an array of that shape, a file as it was exported.
  double number(const std::string& name) const;
  int integer(const std::string& name, int least) const;
  const ParameterArray& array(const std::string& name) const;
  const ParameterArray& array(const std::string& name, const std::vector<long>& shape) const;
  std::string file(const std::string& name) const;  // its path
  Settings settings() const;                        // of a solver
};

// Throws std::runtime_error for files that are missing, damaged or of another format, or do not belong together. Arrays
// may have infinite numbers (bounds), but none that is NaN.
ParameterFiles read_parameters(const std::string& folder);

}  // namespace qp_control
