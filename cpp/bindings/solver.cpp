// The solver's Python module: takes arrays by pointer, checks their sizes, releases the GIL. The Python side has
// converted types; argument rules are documented there.
#include <algorithm>

#include "arrays.hpp"
#include "qp_control/batch.hpp"
#include "qp_control/dense_batch.hpp"
#include "qp_control/dense_qps.hpp"
#include "recycled.hpp"
#include "signal_check.hpp"

using namespace qp_control;

void bind_derivatives(py::module_& m);    // derivatives.cpp
void bind_ocp(py::module_& m);            // ocp.cpp
void bind_convex_stages(py::module_& m);  // convex_stages.cpp

namespace {

py::tuple solve(std::tuple<int, int, int, int> sizes, std::vector<Optional> data, const Settings& settings,
                std::optional<std::vector<Array>> warm_start, bool certificates, bool keep) {
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
  if (certificates)
    for (const long width : {long(d.n), long(d.n_eq), long(d.n_in), long(d.n)}) add(width);
  for (int k = 0; k < 4; ++k) {
    arrays.emplace_back(B);
    views.push_back(output(arrays.back(), 1));
  }
  py::array_t<signed char> active_in({B, long(d.n_in)}), active_box({B, long(d.n)});
  IntArray status(B), iterations(B);

  DenseBatchSolution out;
  set_fields(out, {views.begin(), views.begin() + solution_fields});
  std::size_t next = solution_fields;
  if (certificates)
    for (auto* field : {&out.certificate_x, &out.certificate_y, &out.certificate_z, &out.certificate_w})
      *field = views[next++];
  for (auto* field : {&out.objective, &out.primal_residual, &out.dual_residual, &out.duality_gap})
    *field = views[next++];
  out.active_in = {active_in.mutable_data(), d.n_in};
  out.active_box = {active_box.mutable_data(), d.n};
  out.status = status.mutable_data();
  out.iterations = iterations.mutable_data();
  if (warm_start) {
    if (warm_start->size() != 6) throw py::value_error("a warm start is (x, y, z, w, active_in, active_box)");
    for (int k = 0; k < 4; ++k) {
      const auto from = input_field((*warm_start)[k], widths[k], B);
      std::copy_n(from.data, widths[k] * B, views[k].data);
    }
    out.start_in = {input_field((*warm_start)[4], d.n_in, B).data, d.n_in};
    out.start_box = {input_field((*warm_start)[5], d.n, B).data, d.n};
  }
  std::optional<Array> kept;
  if (keep && keeps_factors(d, settings)) {
    kept = Recycled::array({kept_elements(d, B), kept_size(d)});
    out.kept = output(*kept, kept_size(d));
  }
  BatchEnd end;
  {
    py::gil_scoped_release release;
    end = solve_batch(problem.batch, settings, warm_start.has_value(), out, SignalCheck());
  }
  if (end == BatchEnd::INTERRUPTED) throw py::error_already_set();
  const std::array<py::object, 4> integers = {status, iterations, active_in, active_box};
  py::tuple result(arrays.size() + integers.size());
  for (std::size_t k = 0; k < arrays.size(); ++k) result[k] = arrays[k];
  for (std::size_t k = 0; k < integers.size(); ++k) result[arrays.size() + k] = integers[k];
  return py::make_tuple(result, end == BatchEnd::DONE, all_answered(out.status, B), kept);
}

}  // namespace

PYBIND11_MODULE(QP_CONTROL_MODULE, m) {
  m.doc() = "Batched dense QP solver and its derivatives.";
  m.def("thread_count", &thread_count, py::arg("requested") = 0, "Threads used for `requested` (0: all allowed).");
  py::class_<Settings>(m, "Settings")
      .def(py::init<>())
      .def_readwrite("eps_abs", &Settings::eps_abs)
      .def_readwrite("eps_rel", &Settings::eps_rel)
      .def_readwrite("reduced_eps_rel", &Settings::reduced_eps_rel)
      .def_readwrite("eps_gap", &Settings::eps_gap)
      .def_readwrite("max_iter", &Settings::max_iter)
      .def_readwrite("time_limit", &Settings::time_limit)
      .def_readwrite("closest", &Settings::closest)
      .def_readwrite("threads", &Settings::threads);
  m.def("solve", &solve, py::arg("sizes"), py::arg("data"), py::arg("settings"), py::arg("warm_start") = py::none(),
        py::arg("certificates") = true, py::arg("keep") = false);
  m.def(
      "dense_qps",
      [](const Settings& settings) {
        const auto destroy = [](void* maker) { delete static_cast<DenseQpMaker*>(maker); };
        return py::capsule(dense_qp_maker(settings).release(), "qp_control.dense_qps", destroy);
      },
      py::arg("settings"), "A DenseQpMaker, for the robots' module.");
  bind_derivatives(m);
  bind_ocp(m);
  bind_convex_stages(m);
}
