// Parameters that Python has exported (qp_control/parameter_files.py): a folder with a description in controller.json,
// and arrays by name in controller.safetensors (https://github.com/huggingface/safetensors).
#pragma once

#include <map>
#include <string>
#include <vector>

namespace qp_control {

// Row-major.
struct ParameterArray {
  std::vector<long> shape;
  std::vector<double> data;
};

struct ParameterFiles {
  std::string kind;                       // of controller
  std::string description;                // controller.json as it stands,
  std::map<std::string, double> numbers;  // and its numbers
  std::map<std::string, ParameterArray> arrays;

  // Both throw std::runtime_error where there is none of that name; `shape` must be that of the array.
  double number(const std::string& name) const;
  const ParameterArray& array(const std::string& name, const std::vector<long>& shape) const;
};

// Throws std::runtime_error for files that are missing, damaged or of another format.
ParameterFiles read_parameters(const std::string& folder);

}  // namespace qp_control
