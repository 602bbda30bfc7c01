// The solver's Python module: takes arrays by pointer, checks their sizes, releases the GIL. The Python side has
// checked values and converted types; argument rules are documented there.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "qp_control/batch.hpp"
#include "qp_control/dense_batch.hpp"

namespace py = pybind11;
using namespace qp_control;

namespace {

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
BatchArray batched(const char* name, const Optional& array, Shape shape, int batch) {
  if (!array) return {};
  const bool shared = array->ndim() == shape.rank();
  const long expected = shape.size() * (shared ? 1 : batch);
  if ((!shared && array->ndim() != shape.rank() + 1) || array->size() != expected)
    throw py::value_error(std::string(name) + " has " + std::to_string(array->size()) + " entries, expected " +
                          std::to_string(expected));
  return {array->data(), shared ? 0 : shape.size()};
}

MutableBatchArray output(const Array& array, long size) { return {const_cast<double*>(array.data()), size}; }

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

std::array<long, solution_fields> field_sizes(DenseDims d) {
  return {d.n, d.n_eq, d.n_in, d.n, d.n_eq, d.n_in, d.n_in, d.n, d.n};
}

void set_fields(DenseBatchSolution& s, const std::vector<MutableBatchArray>& arrays) {
  MutableBatchArray DenseBatchSolution::* const fields[] = {
      &DenseBatchSolution::x,       &DenseBatchSolution::y,    &DenseBatchSolution::z,
      &DenseBatchSolution::w,       &DenseBatchSolution::s_eq, &DenseBatchSolution::s_lower,
      &DenseBatchSolution::s_upper, &DenseBatchSolution::s_lb, &DenseBatchSolution::s_ub};
  for (std::size_t k = 0; k < arrays.size(); ++k) s.*fields[k] = arrays[k];
}

MutableBatchArray input_field(const Optional& array, long size, int batch) {
  if (!array) return {};
  if (array->size() != size * batch)
    throw py::value_error("a field of the solution has " + std::to_string(array->size()) + " entries, expected " +
                          std::to_string(size * batch));
  return output(*array, size);
}

// Looks for Ctrl-C a few times per second; true leaves the Python exception set.
class SignalCheck {
 public:
  bool operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_) return false;
    next_ = now + std::chrono::milliseconds(100);
    py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
  }

 private:
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
};

py::tuple solve(std::tuple<int, int, int, int> sizes, std::vector<Optional> data, const Settings& settings,
                std::optional<std::vector<Array>> warm_start) {
  const Problem problem(sizes, std::move(data));
  const DenseDims d = problem.batch.dims;
  const long B = problem.batch.size;
  const auto widths = field_sizes(d);

  std::vector<Array> arrays;
  std::vector<MutableBatchArray> views;
  const auto add = [&](long width) {
    arrays.emplace_back(std::vector<py::ssize_t>{B, width});
    views.push_back(output(arrays.back(), width));
  };
  for (const long width : widths) add(width);
  for (const long width : {long(d.n), long(d.n_eq), long(d.n_in), long(d.n)}) add(width);
  for (int k = 0; k < 4; ++k) {
    arrays.emplace_back(B);
    views.push_back(output(arrays.back(), 1));
  }
  IntArray status(B), iterations(B);

  DenseBatchSolution out;
  set_fields(out, {views.begin(), views.begin() + solution_fields});
  out.certificate_x = views[9];
  out.certificate_y = views[10];
  out.certificate_z = views[11];
  out.certificate_w = views[12];
  out.objective = views[13];
  out.primal_residual = views[14];
  out.dual_residual = views[15];
  out.duality_gap = views[16];
  out.status = status.mutable_data();
  out.iterations = iterations.mutable_data();
  if (warm_start) {
    if (warm_start->size() != 4) throw py::value_error("a warm start is (x, y, z, w)");
    for (int k = 0; k < 4; ++k) {
      const auto from = input_field((*warm_start)[k], widths[k], B);
      std::copy_n(from.data, widths[k] * B, views[k].data);
    }
  }
  {
    py::gil_scoped_release release;
    if (!solve_batch(problem.batch, settings, warm_start.has_value(), out, SignalCheck())) {
      py::gil_scoped_acquire acquire;
      throw py::error_already_set();
    }
  }
  py::tuple result(arrays.size() + 2);
  for (std::size_t k = 0; k < arrays.size(); ++k) result[k] = arrays[k];
  result[arrays.size()] = status;
  result[arrays.size() + 1] = iterations;
  return result;
}

py::tuple adjoint(std::tuple<int, int, int, int> sizes, std::vector<Optional> data, std::vector<Array> solution,
                  const IntArray& status, std::vector<Optional> loss, const Optional& loss_objective,
                  std::vector<bool> needed, int threads) {
  const Problem problem(sizes, std::move(data));
  const DenseDims d = problem.batch.dims;
  const int B = problem.batch.size;
  const auto widths = field_sizes(d);
  if (solution.size() != solution_fields || loss.size() != solution_fields || needed.size() != 9 || status.size() != B)
    throw py::value_error("adjoint takes 9 solution fields, 9 loss fields and 9 flags");

  std::vector<MutableBatchArray> solution_views, loss_views;
  for (int k = 0; k < solution_fields; ++k) {
    solution_views.push_back(input_field(solution[k], widths[k], B));
    loss_views.push_back(input_field(loss[k], widths[k], B));
  }
  DenseBatchSolution at, cotangents;
  set_fields(at, solution_views);
  at.status = const_cast<long long*>(status.data());
  set_fields(cotangents, loss_views);
  cotangents.objective = input_field(loss_objective, 1, B);

  DenseBatchGradients out;
  MutableBatchArray DenseBatchGradients::* const fields[] = {
      &DenseBatchGradients::H, &DenseBatchGradients::g,  &DenseBatchGradients::A,
      &DenseBatchGradients::b, &DenseBatchGradients::C,  &DenseBatchGradients::l,
      &DenseBatchGradients::u, &DenseBatchGradients::lb, &DenseBatchGradients::ub};
  py::tuple gradients(9);
  for (int k = 0; k < 9; ++k) {
    gradients[k] = py::none();
    const Optional& input = problem.arrays[k];
    if (!needed[k] || !input) continue;
    Array gradient(std::vector<py::ssize_t>(input->shape(), input->shape() + input->ndim()));
    std::fill_n(gradient.mutable_data(), gradient.size(), 0.0);
    const bool shared = input->ndim() == (k == 0 || k == 2 || k == 4 ? 2 : 1);
    out.*fields[k] = {gradient.mutable_data(), shared ? 0 : gradient.size() / std::max(1, B)};
    gradients[k] = gradient;
  }
  Array residual(B);
  IntArray weakly_active(B), rank_deficiency(B);
  out.residual = output(residual, 1);
  out.weakly_active = weakly_active.mutable_data();
  out.rank_deficiency = rank_deficiency.mutable_data();
  {
    py::gil_scoped_release release;
    adjoint_batch(problem.batch, at, cotangents, threads, out);
  }
  return py::make_tuple(gradients, residual, weakly_active, rank_deficiency);
}

}  // namespace

PYBIND11_MODULE(QP_CONTROL_MODULE, m) {
  m.doc() = "Batched dense QP solver and its adjoint.";
  m.def("thread_count", &thread_count, py::arg("requested") = 0, "Threads used for `requested` (0: all allowed).");
  py::class_<Settings>(m, "Settings")
      .def(py::init<>())
      .def_readwrite("eps_abs", &Settings::eps_abs)
      .def_readwrite("eps_rel", &Settings::eps_rel)
      .def_readwrite("eps_gap", &Settings::eps_gap)
      .def_readwrite("max_iter", &Settings::max_iter)
      .def_readwrite("time_limit", &Settings::time_limit)
      .def_readwrite("closest", &Settings::closest)
      .def_readwrite("threads", &Settings::threads);
  m.def("solve", &solve, py::arg("sizes"), py::arg("data"), py::arg("settings"), py::arg("warm_start") = py::none());
  m.def("adjoint", &adjoint, py::arg("sizes"), py::arg("data"), py::arg("solution"), py::arg("status"), py::arg("loss"),
        py::arg("loss_objective"), py::arg("needed"), py::arg("threads") = 0);
}
