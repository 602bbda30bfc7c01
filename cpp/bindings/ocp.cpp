// The part of the solver's Python module that is about optimal-control QPs.
#include "arrays.hpp"
#include "certificate_arrays.hpp"
#include "qp_control/ocp_batch.hpp"
#include "qp_control/ocp_derivatives_batch.hpp"
#include "recycled.hpp"
#include "signal_check.hpp"

using namespace qp_control;

namespace {

using OcpSizes = std::tuple<int, int, int, int, int, int>;  // B, N, nx, nu, rows, terminal rows

// Entries of the solution's arrays per element, in the order of `solution_members`.
MutableBatchArray OcpBatchSolution::* const solution_members[] = {&OcpBatchSolution::x,
                                                                  &OcpBatchSolution::u,
                                                                  &OcpBatchSolution::y,
                                                                  &OcpBatchSolution::z,
                                                                  &OcpBatchSolution::z_N,
                                                                  &OcpBatchSolution::w_x,
                                                                  &OcpBatchSolution::w_u,
                                                                  &OcpBatchSolution::s_lower,
                                                                  &OcpBatchSolution::s_upper,
                                                                  &OcpBatchSolution::s_lower_N,
                                                                  &OcpBatchSolution::s_upper_N,
                                                                  &OcpBatchSolution::s_x_lower,
                                                                  &OcpBatchSolution::s_x_upper,
                                                                  &OcpBatchSolution::s_u_lower,
                                                                  &OcpBatchSolution::s_u_upper,
                                                                  &OcpBatchSolution::slack_lower,
                                                                  &OcpBatchSolution::slack_upper,
                                                                  &OcpBatchSolution::slack_lower_N,
                                                                  &OcpBatchSolution::slack_upper_N};
constexpr int point_fields = 7;

std::vector<std::vector<py::ssize_t>> solution_shapes(const OcpBatch& batch) {
  const py::ssize_t B = batch.size, N = batch.dims.horizon, nx = batch.dims.nx, nu = batch.dims.nu;
  const std::vector<py::ssize_t> x{B, N + 1, nx}, u{B, N, nu}, z{B, N, batch.dims.rows},
      z_N{B, batch.dims.terminal_rows};
  return {x, u, x, z, z_N, x, u, z, z, z_N, z_N, x, x, u, u, z, z, z_N, z_N};
}

long per_element(const std::vector<py::ssize_t>& shape) {
  long out = 1;
  for (std::size_t k = 1; k < shape.size(); ++k) out *= shape[k];
  return out;
}

struct OcpProblem {
  OcpBatch batch;
  std::vector<Optional> arrays;

  // complete: A and B are needed, as they are not of a change of the data.
  OcpProblem(OcpSizes sizes, std::vector<Optional> data, bool complete = true) : arrays(std::move(data)) {
    const auto [B, N, nx, nu, rows, terminal_rows] = sizes;
    if (B < 0 || N < 1 || nx < 1 || nu < 0 || rows < 0 || terminal_rows < 0)
      throw py::value_error("sizes of an optimal-control QP: N and nx are at least 1, the others not negative");
    batch.size = B;
    batch.dims = {N, nx, nu, rows, terminal_rows};
    struct Field {
      const char* name;
      StageArray OcpBatch::* array;
      Shape shape;
      int least, most;  // entries along the axis of the stages, if there is one
    };
    const Shape vx{nx, 1, true}, vu{nu, 1, true}, vr{rows, 1, true}, vt{terminal_rows, 1, true};
    const Field fields[] = {
        {"Q", &OcpBatch::Q, {nx, nx}, N, N + 1},
        {"R", &OcpBatch::R, {nu, nu}, N, N},
        {"S", &OcpBatch::S, {nu, nx}, N, N},
        {"q", &OcpBatch::q, vx, N, N + 1},
        {"r", &OcpBatch::r, vu, N, N},
        {"Q_N", &OcpBatch::Q_N, {nx, nx}, 1, 1},
        {"q_N", &OcpBatch::q_N, vx, 1, 1},
        {"A", &OcpBatch::A, {nx, nx}, N, N},
        {"B", &OcpBatch::B, {nx, nu}, N, N},
        {"c", &OcpBatch::c, vx, N, N},
        {"x0", &OcpBatch::x0, vx, 1, 1},
        {"C", &OcpBatch::C, {rows, nx}, N, N},
        {"D", &OcpBatch::D, {rows, nu}, N, N},
        {"lower", &OcpBatch::lower, vr, N, N},
        {"upper", &OcpBatch::upper, vr, N, N},
        {"C_N", &OcpBatch::C_N, {terminal_rows, nx}, 1, 1},
        {"lower_N", &OcpBatch::lower_N, vt, 1, 1},
        {"upper_N", &OcpBatch::upper_N, vt, 1, 1},
        {"x_lower", &OcpBatch::x_lower, vx, N, N + 1},
        {"x_upper", &OcpBatch::x_upper, vx, N, N + 1},
        {"u_lower", &OcpBatch::u_lower, vu, N, N},
        {"u_upper", &OcpBatch::u_upper, vu, N, N},
        {"slack_linear", &OcpBatch::slack_linear, vr, N, N},
        {"slack_quadratic", &OcpBatch::slack_quadratic, vr, N, N},
        {"slack_linear_N", &OcpBatch::slack_linear_N, vt, 1, 1},
        {"slack_quadratic_N", &OcpBatch::slack_quadratic_N, vt, 1, 1},
    };
    if (arrays.size() != std::size(fields)) throw py::value_error("an optimal-control QP has 26 arrays");
    for (std::size_t k = 0; k < arrays.size(); ++k) {
      if (!arrays[k]) continue;
      const auto& [name, member, shape, least, most] = fields[k];
      batch.*member = stages(name, *arrays[k], shape, least, most);
    }
    // A box of the states with N stages begins at the first that has one.
    for (auto [box, k] : {std::pair{&batch.x_lower, 18}, std::pair{&batch.x_upper, 19}})
      if (box->stage != 0 && arrays[k]->shape(arrays[k]->ndim() - 2) == N) box->first = 1;
    for (StageArray OcpBatch::* needed : {&OcpBatch::A, &OcpBatch::B})
      if (complete && (batch.*needed).data == nullptr) throw py::value_error("A and B are needed");
  }

  // (., .) shared, (stages, ., .), or (B, stages, ., .), where one stage or element stands for all.
  StageArray stages(const char* name, const Array& array, Shape shape, int least, int most) const {
    const int extra = static_cast<int>(array.ndim()) - shape.rank();
    const long stages = extra >= 1 ? array.shape(extra - 1) : 1, elements = extra == 2 ? array.shape(0) : 1;
    const bool fits = extra >= 0 && extra <= 2 && array.size() == shape.size() * stages * elements &&
                      (stages == 1 || (stages >= least && stages <= most)) && (elements == 1 || elements == batch.size);
    if (!fits)
      throw py::value_error(std::string(name) + " has " + std::to_string(array.size()) + " entries, expected " +
                            std::to_string(shape.size()) + " per stage");
    StageArray out;
    out.data = array.data();
    out.stage = stages == 1 ? 0 : shape.size();
    out.batch = elements == 1 ? 0 : stages * shape.size();
    return out;
  }
};

MutableBatchArray OcpBatchSolution::* const certificate_members[point_fields] = {
    &OcpBatchSolution::certificate_x,   &OcpBatchSolution::certificate_u,   &OcpBatchSolution::certificate_y,
    &OcpBatchSolution::certificate_z,   &OcpBatchSolution::certificate_z_N, &OcpBatchSolution::certificate_w_x,
    &OcpBatchSolution::certificate_w_u,
};

// certify: whether there are certificates among the results.
py::tuple solve_ocp(OcpSizes sizes, std::vector<Optional> data, const Settings& settings,
                    std::optional<std::vector<Array>> warm_start, bool certify) {
  const OcpProblem problem(sizes, std::move(data));
  const auto shapes = solution_shapes(problem.batch);
  const long B = problem.batch.size;
  OcpBatchSolution out;
  std::vector<Array> arrays;
  for (std::size_t k = 0; k < shapes.size(); ++k) {
    arrays.emplace_back(shapes[k]);
    out.*solution_members[k] = output(arrays.back(), per_element(shapes[k]));
  }
  for (int k = 0; k < point_fields && certify; ++k) {
    arrays.emplace_back(shapes[k]);
    out.*certificate_members[k] = output(arrays.back(), per_element(shapes[k]));
  }
  for (auto* field : {&out.objective, &out.primal_residual, &out.dual_residual, &out.duality_gap}) {
    arrays.emplace_back(B);
    *field = output(arrays.back(), 1);
  }
  IntArray status(B), iterations(B);
  out.status = status.mutable_data();
  out.iterations = iterations.mutable_data();
  if (warm_start) {
    if (warm_start->size() != point_fields) throw py::value_error("a warm start is (x, u, y, z, z_N, w_x, w_u)");
    for (int k = 0; k < point_fields; ++k) {
      const long size = per_element(shapes[k]);
      const auto from = input_field((*warm_start)[k], size, static_cast<int>(B));
      std::copy_n(from.data, size * B, (out.*solution_members[k]).data);
    }
  }
  BatchEnd end;
  {
    py::gil_scoped_release release;
    end = solve_ocp_batch(problem.batch, settings, warm_start.has_value(), out, SignalCheck());
  }
  if (end == BatchEnd::INTERRUPTED) throw py::error_already_set();
  py::tuple result(arrays.size() + 2);
  for (std::size_t k = 0; k < arrays.size(); ++k) result[k] = arrays[k];
  result[arrays.size()] = status;
  result[arrays.size() + 1] = iterations;
  return py::make_tuple(result, end == BatchEnd::DONE, all_answered(out.status, B));
}

OcpBatchSolution fields_of(const std::vector<Optional>& arrays, const OcpBatch& batch) {
  const auto shapes = solution_shapes(batch);
  if (arrays.size() != shapes.size() && arrays.size() != shapes.size() + 1)
    throw py::value_error("a solution has 19 arrays, the gradient of a loss by it 20");
  OcpBatchSolution out;
  for (std::size_t k = 0; k < shapes.size(); ++k)
    out.*solution_members[k] = input_field(arrays[k], per_element(shapes[k]), batch.size);
  if (arrays.size() > shapes.size()) out.objective = input_field(arrays.back(), 1, batch.size);
  return out;
}

OcpBatchSolution solution_of(const std::vector<Optional>& arrays, const IntArray& status, const OcpBatch& batch) {
  OcpBatchSolution out = fields_of(arrays, batch);
  if (status.size() != batch.size) throw py::value_error("status must have one entry per element");
  out.status = const_cast<long long*>(status.data());
  return out;
}

py::tuple ocp_adjoint(OcpSizes sizes, std::vector<Optional> data, const std::vector<Optional>& solution,
                      const IntArray& status, const std::vector<Optional>& loss, const std::vector<bool>& needed,
                      const DerivativeSettings& settings) {
  const OcpProblem problem(sizes, std::move(data));
  const OcpBatch& batch = problem.batch;
  const OcpBatchSolution at = solution_of(solution, status, batch);
  OcpLoss one;
  one.fields = fields_of(loss, batch);
  if (needed.size() != std::size(ocp_fields)) throw py::value_error("ocp_adjoint takes 26 flags");
  py::tuple gradients(std::size(ocp_fields));
  for (std::size_t k = 0; k < std::size(ocp_fields); ++k) {
    gradients[k] = py::none();
    const Optional& input = problem.arrays[k];
    if (!needed[k] || !input) continue;
    const Array gradient = Recycled::array({input->shape(), input->shape() + input->ndim()});
    std::fill_n(const_cast<double*>(gradient.data()), gradient.size(), 0.0);
    gradients[k] = gradient;
    if (gradient.size() == 0) continue;
    const StageArray& from = batch.*ocp_fields[k].data;
    one.gradients.*ocp_fields[k].gradient = {const_cast<double*>(gradient.data()), from.batch, from.stage, from.first,
                                             from.batch == 0 ? long(gradient.size()) : from.batch};
  }
  CertificateArrays certificate(batch.size);
  one.certificate = certificate.views();
  {
    py::gil_scoped_release release;
    ocp_adjoint_batch(batch, at, settings, {one});
  }
  return certificate.with(gradients);
}

// Derivatives of the first input by the initial state, one loss for each entry of the input; (B, nu, nx).
py::tuple ocp_gain(OcpSizes sizes, std::vector<Optional> data, const std::vector<Optional>& solution,
                   const IntArray& status, const DerivativeSettings& settings) {
  const OcpProblem problem(sizes, std::move(data));
  const OcpBatch& batch = problem.batch;
  if (!batch.fixed_start()) throw py::value_error("without x0 there is no derivative by it");
  const OcpBatchSolution at = solution_of(solution, status, batch);
  const int nx = batch.dims.nx, nu = batch.dims.nu;
  const long inputs = long(batch.dims.horizon) * nu;
  Array gain(std::vector<py::ssize_t>{batch.size, nu, nx}), residual(std::vector<py::ssize_t>{nu, batch.size});
  double *to = gain.mutable_data(), *of_loss = residual.mutable_data();
  std::fill_n(to, gain.size(), 0.0);
  std::vector<double> units(nu * inputs, 0.0);
  std::vector<OcpLoss> losses(nu);
  for (int j = 0; j < nu; ++j) {
    units[j * inputs + j] = 1.0;
    losses[j].fields.u = {units.data() + j * inputs, 0};
    losses[j].gradients.x0 = {to + j * nx, long(nu) * nx, 0, 0, nx};
    losses[j].certificate.residual = of_loss + long(j) * batch.size;
  }
  {
    py::gil_scoped_release release;
    ocp_adjoint_batch(batch, at, settings, losses);
  }
  return py::make_tuple(gain, residual);
}

Array zeros(const std::vector<py::ssize_t>& shape) {
  Array out = Recycled::array(shape);
  std::fill_n(out.mutable_data(), out.size(), 0.0);
  return out;
}

// Changes of the solution's 19 arrays and of the objective.
py::tuple ocp_tangent(OcpSizes sizes, std::vector<Optional> data, const std::vector<Optional>& solution,
                      const IntArray& status, std::vector<Optional> change, const DerivativeSettings& settings) {
  const OcpProblem problem(sizes, std::move(data)), changes(sizes, std::move(change), false);
  const OcpBatch& batch = problem.batch;
  const OcpBatchSolution at = solution_of(solution, status, batch);
  const auto shapes = solution_shapes(batch);
  py::tuple moved(shapes.size() + 1);
  CertificateArrays certificate(batch.size);
  OcpChange one{changes.batch, {}, certificate.views()};
  for (std::size_t k = 0; k < shapes.size(); ++k) {
    const Array array = zeros(shapes[k]);
    one.fields.*solution_members[k] = output(array, per_element(shapes[k]));
    moved[k] = array;
  }
  const Array objective = zeros({batch.size});
  one.fields.objective = output(objective, 1);
  moved[shapes.size()] = objective;
  {
    py::gil_scoped_release release;
    ocp_tangent_batch(batch, at, settings, {one});
  }
  return certificate.with(moved);
}

// A vector of the system is packed: the point (x, u, y, z, z_N, w_x, w_u), the slacks, and in the shapes of the point
// (eta, pi, s) of the level.
constexpr int slack_fields = 4, first_slack = 15;

long packed_size(const OcpBatch& batch) {
  const auto shapes = solution_shapes(batch);
  long out = 0;
  for (int k = 0; k < point_fields; ++k) out += 2 * per_element(shapes[k]);
  for (int k = 0; k < slack_fields; ++k) out += per_element(shapes[first_slack + k]);
  return out;
}

OcpSystemArrays packed(const OcpBatch& batch, const double* data, long stride) {
  const auto shapes = solution_shapes(batch);
  auto* next = const_cast<double*>(data);
  OcpSystemArrays out;
  const auto take = [&](OcpBatchSolution& part, int k) {
    part.*solution_members[k] = {next, stride};
    next += per_element(shapes[k]);
  };
  for (int k = 0; k < point_fields; ++k) take(out.point, k);
  for (int k = 0; k < slack_fields; ++k) take(out.point, first_slack + k);
  for (int k = 0; k < point_fields; ++k) take(out.level, k);
  return out;
}

// (B, size) and (B, 3, rows): the parts of the bounds that are lower and upper ones, and shifted rows, in the order z,
// z_N, w_x, w_u.
py::tuple ocp_point(OcpSizes sizes, std::vector<Optional> data, const std::vector<Optional>& solution,
                    const IntArray& status, const DerivativeSettings& settings) {
  const OcpProblem problem(sizes, std::move(data));
  const OcpBatch& batch = problem.batch;
  const OcpBatchSolution at = solution_of(solution, status, batch);
  const auto shapes = solution_shapes(batch);
  const long size = packed_size(batch);
  constexpr int first_rows = 3, last_rows = 6;
  long rows = 0;
  for (int k = first_rows; k <= last_rows; ++k) rows += per_element(shapes[k]);
  const Array v = zeros({batch.size, size}), role = zeros({batch.size, 3, rows});
  OcpRoles roles;
  auto* next = const_cast<double*>(role.data());
  for (OcpBatchSolution* part : {&roles.lower, &roles.upper, &roles.shifted})
    for (int k = first_rows; k <= last_rows; ++k) {
      part->*solution_members[k] = {next, 3 * rows};
      next += per_element(shapes[k]);
    }
  {
    py::gil_scoped_release release;
    ocp_point_batch(batch, at, settings, packed(batch, v.data(), size), roles);
  }
  return py::make_tuple(v, role);
}

// K^-1 of (B, count, size) right-hand sides.
Array ocp_system(OcpSizes sizes, std::vector<Optional> data, const std::vector<Optional>& solution,
                 const IntArray& status, const Array& rhs, const DerivativeSettings& settings) {
  const OcpProblem problem(sizes, std::move(data));
  const OcpBatch& batch = problem.batch;
  const OcpBatchSolution at = solution_of(solution, status, batch);
  const long size = packed_size(batch);
  if (rhs.ndim() != 3 || rhs.shape(0) != batch.size || rhs.shape(2) != size)
    throw py::value_error("right-hand sides must be (B, count, " + std::to_string(size) + ")");
  const long count = rhs.shape(1);
  const Array out = zeros({batch.size, count, size});
  std::vector<OcpRightHandSide> sides;
  for (long k = 0; k < count; ++k)
    sides.push_back(
        {packed(batch, rhs.data() + k * size, count * size), packed(batch, out.data() + k * size, count * size)});
  {
    py::gil_scoped_release release;
    ocp_system_batch(batch, at, settings, sides);
  }
  return out;
}

}  // namespace

void bind_ocp(py::module_& m) {
  m.def("ocp_adjoint", &ocp_adjoint, py::arg("sizes"), py::arg("data"), py::arg("solution"), py::arg("status"),
        py::arg("loss"), py::arg("needed"), py::arg("settings"));
  m.def("ocp_tangent", &ocp_tangent, py::arg("sizes"), py::arg("data"), py::arg("solution"), py::arg("status"),
        py::arg("change"), py::arg("settings"));
  m.def("ocp_point", &ocp_point, py::arg("sizes"), py::arg("data"), py::arg("solution"), py::arg("status"),
        py::arg("settings"));
  m.def("ocp_system", &ocp_system, py::arg("sizes"), py::arg("data"), py::arg("solution"), py::arg("status"),
        py::arg("rhs"), py::arg("settings"));
  m.def("ocp_gain", &ocp_gain, py::arg("sizes"), py::arg("data"), py::arg("solution"), py::arg("status"),
        py::arg("settings"));
  m.def("solve_ocp", &solve_ocp, py::arg("sizes"), py::arg("data"), py::arg("settings"),
        py::arg("warm_start") = py::none(), py::arg("certify") = false);
}
