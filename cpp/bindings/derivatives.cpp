// The derivatives' part of the solver's Python module.
#include "arrays.hpp"
#include "certificate_arrays.hpp"
#include "qp_control/dense_box_qps.hpp"
#include "qp_control/derivatives_batch.hpp"
#include "recycled.hpp"

using namespace qp_control;

namespace {

using Sizes = std::tuple<int, int, int, int>;
using OptionalArrays = std::vector<Optional>;
constexpr int data_fields = 9;  // H g A b C l u lb ub

MutableBatchArray DataBatch::* const data_members[data_fields] = {&DataBatch::H, &DataBatch::g,  &DataBatch::A,
                                                                  &DataBatch::b, &DataBatch::C,  &DataBatch::l,
                                                                  &DataBatch::u, &DataBatch::lb, &DataBatch::ub};

// x ... s_ub of a solution or of its derivative, and the objective where there is a tenth array.
DenseBatchSolution fields_of(const OptionalArrays& arrays, const DenseDims& d, int batch) {
  if (arrays.size() != solution_fields && arrays.size() != solution_fields + 1)
    throw py::value_error("a solution has 9 arrays, its derivative 10");
  const auto widths = field_sizes(d);
  std::vector<MutableBatchArray> views;
  for (int k = 0; k < solution_fields; ++k) views.push_back(input_field(arrays[k], widths[k], batch));
  DenseBatchSolution out;
  set_fields(out, views);
  if (arrays.size() > solution_fields) out.objective = input_field(arrays[solution_fields], 1, batch);
  return out;
}

DenseBatchSolution solution_of(const OptionalArrays& arrays, const IntArray& status, const Problem& problem) {
  if (status.size() != problem.batch.size) throw py::value_error("status must have one entry per element");
  DenseBatchSolution out = fields_of(arrays, problem.batch.dims, problem.batch.size);
  out.status = const_cast<long long*>(status.data());
  return out;
}

py::tuple adjoint_arrays(Sizes sizes, OptionalArrays data, const OptionalArrays& solution, const IntArray& status,
                         const OptionalArrays& loss, const std::vector<bool>& needed,
                         const DerivativeSettings& settings, const Optional& kept) {
  const Problem problem(sizes, std::move(data));
  const int B = problem.batch.size;
  DenseBatchSolution at = solution_of(solution, status, problem);
  at.kept = input_field(kept, kept_size(problem.batch.dims), kept_elements(problem.batch.dims, B));
  const DenseBatchSolution cotangents = fields_of(loss, problem.batch.dims, B);
  if (needed.size() != data_fields) throw py::value_error("adjoint takes 9 flags");
  DataBatch out;
  py::tuple gradients(data_fields);
  for (int k = 0; k < data_fields; ++k) {
    gradients[k] = py::none();
    const Optional& input = problem.arrays[k];
    if (!needed[k] || !input) continue;
    const Array gradient = Recycled::array({input->shape(), input->shape() + input->ndim()});
    const bool shared = input->ndim() == (k == 0 || k == 2 || k == 4 ? 2 : 1);
    gradients[k] = gradient;
    if (gradient.size() == 0) continue;  // of an empty batch: its stride would make it look shared
    out.*data_members[k] = {const_cast<double*>(gradient.data()), shared ? 0 : gradient.size() / B};
  }
  CertificateArrays certificate(B);
  {
    const CertificateBatch views = certificate.views();
    py::gil_scoped_release release;
    adjoint_batch(problem.batch, at, cotangents, settings, out, views);
  }
  return certificate.with(gradients);
}

py::tuple tangent_arrays(Sizes sizes, OptionalArrays data, const OptionalArrays& solution, const IntArray& status,
                         OptionalArrays change, const DerivativeSettings& settings) {
  const Problem problem(sizes, std::move(data));
  const int B = problem.batch.size;
  const DenseDims d = problem.batch.dims;
  const DenseBatchSolution at = solution_of(solution, status, problem);
  if (change.size() != data_fields) throw py::value_error("a change of the data has 9 arrays");
  DataBatch changes;
  const Shape shapes[data_fields] = {{d.n, d.n},        {d.n, 1, true}, {d.n_eq, d.n},
                                     {d.n_eq, 1, true}, {d.n_in, d.n},  {d.n_in, 1, true},
                                     {d.n_in, 1, true}, {d.n, 1, true}, {d.n, 1, true}};
  for (int k = 0; k < data_fields; ++k) {
    const BatchArray array = batched("a change of the data", change[k], shapes[k], B);
    changes.*data_members[k] = {const_cast<double*>(array.data), array.stride};
  }
  const auto widths = field_sizes(d);
  py::tuple outputs(solution_fields + 1);
  std::vector<MutableBatchArray> views;
  for (int k = 0; k <= solution_fields; ++k) {
    const long width = k < solution_fields ? widths[k] : 1;
    Array array(k < solution_fields ? std::vector<py::ssize_t>{B, width} : std::vector<py::ssize_t>{B});
    views.push_back(output(array, width));
    outputs[k] = array;
  }
  DenseBatchSolution out;
  out.objective = views.back();
  views.pop_back();
  set_fields(out, views);
  CertificateArrays certificate(B);
  {
    const CertificateBatch certificates = certificate.views();
    py::gil_scoped_release release;
    tangent_batch(problem.batch, at, changes, settings, out, certificates);
  }
  return certificate.with(outputs);
}

py::tuple solution_point_arrays(Sizes sizes, OptionalArrays data, const OptionalArrays& solution,
                                const IntArray& status, const DerivativeSettings& settings) {
  const Problem problem(sizes, std::move(data));
  const long B = problem.batch.size, n = problem.batch.dims.n, rows = problem.batch.dims.rows();
  const DenseBatchSolution at = solution_of(solution, status, problem);
  Array pattern(std::vector<py::ssize_t>{B, 5, rows}), v(std::vector<py::ssize_t>{B, 2 * (n + rows)});
  const MutableBatchArray patterns = output(pattern, 5 * rows), vectors = output(v, 2 * (n + rows));
  {
    py::gil_scoped_release release;
    solution_point_batch(problem.batch, at, settings, patterns, vectors);
  }
  return py::make_tuple(v, pattern);
}

Array kkt_solve_arrays(Sizes sizes, OptionalArrays matrices, const IntArray& status, const Array& pattern,
                       const Array& rhs, const DerivativeSettings& settings) {
  if (matrices.size() != 3) throw py::value_error("kkt_solve takes H, A and C");
  const auto [B, n, n_eq, n_in] = sizes;
  DenseBatch batch;
  batch.size = B;
  batch.dims = {n, n_eq, n_in};
  batch.H = batched("H", matrices[0], {n, n}, B);
  batch.A = batched("A", matrices[1], {n_eq, n}, B);
  batch.C = batched("C", matrices[2], {n_in, n}, B);
  const long rows = batch.dims.rows(), width = 2 * (n + rows);
  if (pattern.size() != 5 * rows * B || status.size() != B || rhs.ndim() != 3 || rhs.shape(0) != B ||
      rhs.shape(2) != width || (n_eq > 0 && !matrices[1]) || (n_in > 0 && !matrices[2]))
    throw py::value_error("kkt_solve: sizes do not fit");
  const int count = static_cast<int>(rhs.shape(1));
  Array out(std::vector<py::ssize_t>{B, count, width});
  const BatchArray patterns{pattern.data(), 5 * rows}, right{rhs.data(), count * width};
  const MutableBatchArray result = output(out, count * width);
  const long long* statuses = status.data();
  {
    py::gil_scoped_release release;
    kkt_solve_batch(batch, statuses, patterns, count, right, settings, result);
  }
  return out;
}

}  // namespace

void bind_derivatives(py::module_& m) {
  py::enum_<WeaklyActive>(m, "WeaklyActive")
      .value("least_squares", WeaklyActive::LEAST_SQUARES)
      .value("one_sided", WeaklyActive::ONE_SIDED)
      .value("smoothed", WeaklyActive::SMOOTHED);
  py::class_<DerivativeSettings>(m, "DerivativeSettings")
      .def(py::init<>())
      .def_readwrite("weakly_active", &DerivativeSettings::weakly_active)
      .def_readwrite("smoothing", &DerivativeSettings::smoothing)
      .def_readwrite("nan_without_solution", &DerivativeSettings::nan_without_solution)
      .def_readwrite("threads", &DerivativeSettings::threads);
  m.def(
      "box_qps",
      [](const Settings& settings, const DerivativeSettings& derivatives) {
        const auto destroy = [](void* maker) { delete static_cast<BoxQpMaker*>(maker); };
        return py::capsule(box_qp_maker(settings, derivatives).release(), "qp_control.box_qps", destroy);
      },
      py::arg("settings"), py::arg("derivatives"), "A BoxQpMaker, for the robots' module.");
  m.def("adjoint", &adjoint_arrays, py::arg("sizes"), py::arg("data"), py::arg("solution"), py::arg("status"),
        py::arg("loss"), py::arg("needed"), py::arg("settings"), py::arg("kept") = py::none());
  m.def("tangent", &tangent_arrays, py::arg("sizes"), py::arg("data"), py::arg("solution"), py::arg("status"),
        py::arg("change"), py::arg("settings"));
  m.def("solution_point", &solution_point_arrays, py::arg("sizes"), py::arg("data"), py::arg("solution"),
        py::arg("status"), py::arg("settings"));
  m.def("kkt_solve", &kkt_solve_arrays, py::arg("sizes"), py::arg("matrices"), py::arg("status"), py::arg("pattern"),
        py::arg("rhs"), py::arg("settings"));
}
