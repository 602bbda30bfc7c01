// Control periods with contact for Python.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <utility>

#include "qp_control/contact.hpp"
#include "robot_arrays.hpp"
#include "robot_model.hpp"
#include "signal_check.hpp"

namespace qp_control {
namespace {

using Size = py::ssize_t;

std::vector<Size> shape(std::vector<Size> s) { return s; }

const BoxQpMaker& box_qps(const py::capsule& solver) {
  if (std::string(solver.name()) != "qp_control.box_qps") throw py::value_error("solver is not one of bounded QPs");
  return *solver.get_pointer<const BoxQpMaker>();
}

struct Model {
  Model(const RobotModel& robot, RigidBodySettings s, const ContactSettings& contact, py::capsule qps)
      : solver(std::move(qps)),
        nx(robot.nq + robot.nv),
        nu(static_cast<Size>(s.actuated.size())),
        n_par(robot.n_par),
        contacts(static_cast<Size>(contact.balls.size() + contact.pairs.size())),
        dry(static_cast<Size>(contact.dry.size())),
        substeps(s.substeps),
        dynamics(*robot.model, std::move(s), contact, box_qps(solver)),
        rows(dynamics.rows()) {}

  // The arguments of a batch, checked.
  ContactRun run(const Array& x, const Array& u, const MaybeArray& par, const Array& friction,
                 const Array& dry_friction) const {
    const Size batch = batch_of(x, "x"), periods = u.ndim() == 3 ? u.shape(1) : 1;
    const auto each = [&](const Array& a, const char* name, Size size) -> Parameters {
      const bool shared = a.ndim() == 1;
      return {data(a, name, shared ? shape({size}) : shape({batch, size})), shared};
    };
    ContactRun out;
    out.batch = static_cast<int>(batch);
    out.periods = static_cast<int>(periods);
    out.x = data(x, "x", {batch, nx});
    out.u = data(u, "u", {batch, periods, nu});
    if (par) out.p = each(*par, "parameters", n_par);
    out.friction = each(friction, "friction", contacts);
    out.dry = each(dry_friction, "dry_friction", dry);
    return out;
  }

  const py::capsule solver;
  const Size nx, nu, n_par, contacts, dry, substeps;
  ContactDynamics dynamics;
  const Size rows;
};

// states, path (starts, impulses, multipliers), contacts (gaps, forces), status, and the largest status
py::tuple run(const Model& r, const Array& x, const Array& u, const MaybeArray& par, const Array& friction,
              const Array& dry, bool keep, bool contacts) {
  const ContactRun run = r.run(x, u, par, friction, dry);
  const Size B = run.batch, P = run.periods, steps = P * r.substeps;
  py::object states, path[3] = {py::none(), py::none(), py::none()}, shown[2] = {py::none(), py::none()};
  py::array_t<long long> status({B, steps});
  ContactPath to{};
  to.status = status.mutable_data();
  to.states = make(states, {B, P, r.nx});
  if (keep) {
    to.starts = make(path[0], {B, steps, r.nx});
    to.impulses = make(path[1], {B, steps, r.rows});
    to.multipliers = make(path[2], {B, steps, r.rows});
  }
  if (contacts) {
    to.gaps = make(shown[0], {B, P, r.contacts});
    to.forces = make(shown[1], {B, P, r.contacts, 3});
  }
  bool done;
  {
    py::gil_scoped_release release;
    done = r.dynamics.run(run, to, SignalCheck());
  }
  if (!done) throw py::error_already_set();
  const long long worst = B * steps > 0 ? *std::max_element(to.status, to.status + B * steps) : 0;
  return py::make_tuple(states, py::make_tuple(path[0], path[1], path[2]), py::make_tuple(shown[0], shown[1]), status,
                        worst);
}

py::tuple adjoint(const Model& r, const Array& x, const Array& u, const MaybeArray& par, const Array& friction,
                  const Array& dry, const std::array<Array, 3>& path, const py::array_t<long long>& status,
                  const Array& by_states, const std::array<bool, 5>& want) {
  const ContactRun run = r.run(x, u, par, friction, dry);
  const Size B = run.batch, P = run.periods, steps = P * r.substeps;
  ContactPath at{};
  const auto of_path = [&](const Array& a, const char* name, Size size) {
    return const_cast<double*>(gradient(a, name, B * steps * size));
  };
  at.starts = of_path(path[0], "starts", r.nx);
  at.impulses = of_path(path[1], "impulses", r.rows);
  at.multipliers = of_path(path[2], "multipliers", r.rows);
  if (status.size() != B * steps) throw py::value_error("status must have one entry per step");
  at.status = const_cast<long long*>(status.data());
  const double* g = gradient(by_states, "gradient of the states", B * P * r.nx);
  py::object found[5] = {py::none(), py::none(), py::none(), py::none(), py::none()};
  ContactGradients out{};
  if (want[0]) out.by.x = make(found[0], {B, r.nx});
  if (want[1]) out.by.u = make(found[1], {B, P, r.nu});
  if (want[2]) out.by.parameters = make(found[2], run.p.shared ? shape({r.n_par}) : shape({B, r.n_par}));
  if (want[3]) out.friction = make(found[3], {B, r.contacts});
  if (want[4]) out.dry = make(found[4], {B, r.dry});
  double residual;
  {
    py::gil_scoped_release release;
    residual = r.dynamics.adjoint(run, at, g, out);
  }
  return py::make_tuple(py::make_tuple(found[0], found[1], found[2], found[3], found[4]), residual);
}

// frame, position, rotation by rows, half lengths, radius
using Shape = std::tuple<int, std::array<double, 3>, std::array<double, 9>, std::array<double, 3>, double>;

RoundedBox rounded_box(const Shape& shape) {
  RoundedBox out;
  std::array<double, 3> position, half;
  std::array<double, 9> rotation;
  std::tie(out.frame, position, rotation, half, out.radius) = shape;
  std::copy(position.begin(), position.end(), out.position);
  std::copy(rotation.begin(), rotation.end(), out.rotation);
  std::copy(half.begin(), half.end(), out.half);
  return out;
}

}  // namespace

void bind_contact(py::module_& m) {
  py::class_<Ground>(m, "Ground")
      .def_static("plane", [](std::array<double, 3> normal,
                              double height) { return Ground(Plane{{normal[0], normal[1], normal[2]}, height}); })
      .def_static("height_field",
                  [](const Array& heights, std::array<double, 2> spacing, std::array<double, 2> origin) {
                    if (heights.ndim() != 2)
                      throw py::value_error("heights has shape " + shape_of(heights) + ", expected rank 2");
                    return Ground(HeightField(static_cast<int>(heights.shape(0)), static_cast<int>(heights.shape(1)),
                                              heights.data(), {spacing[0], spacing[1]}, {origin[0], origin[1]}));
                  })
      .def("at", [](const Ground& ground, const Array& points) {
        const Size n = batch_of(points, "points");
        const double* p = data(points, "points", {n, 3});
        Array distance(std::vector<Size>{n}), normal(std::vector<Size>{n, 3}), curvature(std::vector<Size>{n, 3, 3});
        for (Size i = 0; i < n; ++i) {
          const GroundPoint at = ground.at(Eigen::Map<const Eigen::Vector3d>(p + 3 * i));
          distance.mutable_data()[i] = at.distance;
          Eigen::Map<Eigen::Vector3d>(normal.mutable_data() + 3 * i) = at.normal;
          Eigen::Map<Eigen::Matrix3d>(curvature.mutable_data() + 9 * i) = at.curvature.transpose();
        }
        return py::make_tuple(distance, normal, curvature);
      });
  py::class_<Model>(m, "ContactDynamics")
      .def(py::init([](const py::object& model, double dt, std::vector<int> actuated, int threads,
                       const std::vector<std::tuple<int, double, std::array<double, 3>>>& balls,
                       const std::vector<std::pair<Shape, Shape>>& pairs, const Ground& ground, int directions,
                       double stiffness, double damping, double slip, bool lift, double limit_stiffness,
                       double limit_damping, std::vector<int> limited, std::vector<int> dry, int substeps,
                       py::capsule solver) {
             ContactSettings c;
             for (const auto& [frame, radius, offset] : balls)
               c.balls.push_back({frame, radius, {offset[0], offset[1], offset[2]}});
             for (const auto& [first, second] : pairs) c.pairs.push_back({rounded_box(first), rounded_box(second)});
             c.ground = ground;
             c.directions = directions;
             c.stiffness = stiffness;
             c.damping = damping;
             c.slip = slip;
             c.lift = lift;
             c.limit_stiffness = limit_stiffness;
             c.limit_damping = limit_damping;
             c.limited = std::move(limited);
             c.dry = std::move(dry);
             RigidBodySettings s{dt, substeps, Integrator::semi_implicit, std::move(actuated), threads};
             return std::make_unique<Model>(robot_model(model), std::move(s), c, std::move(solver));
           }),
           py::kw_only(), py::arg("model"), py::arg("dt"), py::arg("actuated"), py::arg("threads"), py::arg("balls"),
           py::arg("pairs"), py::arg("ground"), py::arg("directions"), py::arg("stiffness"), py::arg("damping"),
           py::arg("slip"), py::arg("lift"), py::arg("limit_stiffness"), py::arg("limit_damping"), py::arg("limited"),
           py::arg("dry"), py::arg("substeps"), py::arg("solver"))
      .def_property_readonly("rows", [](const Model& r) { return r.rows; })
      .def("run", &run)
      .def("adjoint", &adjoint);
}

}  // namespace qp_control
