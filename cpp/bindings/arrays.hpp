// Python arrays as the batch's pointers: sizes are checked here, types in Python, values in the solver.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "qp_control/dense_batch.hpp"

namespace qp_control {

namespace py = pybind11;

using Array = py::array_t<double, py::array::c_style>;
using IntArray = py::array_t<long long, py::array::c_style>;
using Optional = std::optional<Array>;

struct Shape {
  long rows, cols;
  bool vector = false;
  long size() const { return vector ? rows : rows * cols; }
  int rank() const { return vector ? 1 : 2; }
};

// An array of the batch: rank decides whether it is shared.
inline BatchArray batched(const char* name, const Optional& array, Shape shape, int batch) {
  if (!array) return {};
  const bool shared = array->ndim() == shape.rank();
  const long expected = shape.size() * (shared ? 1 : batch);
  if ((!shared && array->ndim() != shape.rank() + 1) || array->size() != expected)
    throw py::value_error(std::string(name) + " has " + std::to_string(array->size()) + " entries, expected " +
                          std::to_string(expected));
  return {array->data(), shared ? 0 : shape.size()};
}

inline MutableBatchArray output(const Array& array, long size) { return {const_cast<double*>(array.data()), size}; }

struct Problem {
  DenseBatch batch;
  // H, g, A, b, C, l, u, lb, ub, weight_eq, weight_in, weight_box
  static constexpr int fields = 12;
  std::vector<Optional> arrays;

  Problem(std::tuple<int, int, int, int> sizes, std::vector<Optional> data) : arrays(std::move(data)) {
    if (arrays.size() != fields) throw py::value_error("a problem has 12 arrays");
    const auto [size, n, n_eq, n_in] = sizes;
    if (size < 0 || n < 0 || n_eq < 0 || n_in < 0) throw py::value_error("sizes must not be negative");
    batch.size = size;
    batch.dims = {n, n_eq, n_in};
    batch.H = batched("H", arrays[0], {n, n}, size);
    batch.g = batched("g", arrays[1], {n, 1, true}, size);
    batch.A = batched("A", arrays[2], {n_eq, n}, size);
    batch.b = batched("b", arrays[3], {n_eq, 1, true}, size);
    batch.C = batched("C", arrays[4], {n_in, n}, size);
    batch.l = batched("l", arrays[5], {n_in, 1, true}, size);
    batch.u = batched("u", arrays[6], {n_in, 1, true}, size);
    batch.lb = batched("lb", arrays[7], {n, 1, true}, size);
    batch.ub = batched("ub", arrays[8], {n, 1, true}, size);
    batch.weight_eq = batched("weight_eq", arrays[9], {n_eq, 1, true}, size);
    batch.weight_in = batched("weight_in", arrays[10], {n_in, 1, true}, size);
    batch.weight_box = batched("weight_box", arrays[11], {n, 1, true}, size);
    if (n_eq > 0 && (!arrays[2] || !arrays[3])) throw py::value_error("A and b come together");
    if (n_in > 0 && !arrays[4]) throw py::value_error("bounds l, u need C");
  }
};

constexpr int solution_fields = 9;  // x y z w s_eq s_lower s_upper s_lb s_ub

inline std::array<long, solution_fields> field_sizes(DenseDims d) {
  return {d.n, d.n_eq, d.n_in, d.n, d.n_eq, d.n_in, d.n_in, d.n, d.n};
}

inline void set_fields(DenseBatchSolution& s, const std::vector<MutableBatchArray>& arrays) {
  MutableBatchArray DenseBatchSolution::* const fields[] = {
      &DenseBatchSolution::x,       &DenseBatchSolution::y,    &DenseBatchSolution::z,
      &DenseBatchSolution::w,       &DenseBatchSolution::s_eq, &DenseBatchSolution::s_lower,
      &DenseBatchSolution::s_upper, &DenseBatchSolution::s_lb, &DenseBatchSolution::s_ub};
  for (std::size_t k = 0; k < arrays.size(); ++k) s.*fields[k] = arrays[k];
}

// Whether every element has a solution, if only of the closest feasible problem.
inline bool all_answered(const long long* status, long size) {
  return std::all_of(status, status + size,
                     [](long long s) { return s <= static_cast<long long>(Status::CLOSEST_FEASIBLE); });
}

inline MutableBatchArray input_field(const Optional& array, long size, int batch) {
  if (!array) return {};
  if (array->size() != size * batch)
    throw py::value_error("a field of the solution has " + std::to_string(array->size()) + " entries, expected " +
                          std::to_string(size * batch));
  return output(*array, size);
}

}  // namespace qp_control
